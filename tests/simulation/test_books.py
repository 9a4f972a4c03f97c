"""The backend's books, well and ill-mannered, and the production uplink settling claims with them."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.records import ClaimState
from edge.uplink.connection import Access
from edge.uplink.mqtt import MqttUplink, UplinkSettings
from hal_mocks.agenda import Agenda
from hal_mocks.books import Ack, Books, Crashed, Json, Manners, claim_hash
from hal_mocks.in_process_link import link_maker
from hal_mocks.memory_backend import MemoryBackend
from hal_mocks.memory_broker import MemoryBroker
from hal_mocks.virtual_time import VirtualTimeLoop
from tests.wire.test_uplink import BIRTH, STATION, MemoryOutbox, outbox_of

NOON_MS = 1000


def claim(number: int = 1, **changes: object) -> bytes:
    body: Json = {"id": f"de-1-{number}", "energy_wh": 7340, **changes}
    return json.dumps({**body, "hash": claim_hash(body)}).encode()


def taken(books: Books, payload: bytes) -> list[Ack]:
    return books.take("de-1", "claim", payload, NOON_MS)


def words(acks: list[Ack]) -> list[str]:
    return [json.loads(ack.payload)["verdict"] for ack in acks]


def test_a_claim_is_booked_once_and_each_copy_is_acknowledged() -> None:
    books = Books()
    first, second = taken(books, claim()), taken(books, claim())
    assert (words(first), words(second)) == (["accepted"], ["duplicate"])
    assert first[0].due_ms == NOON_MS
    assert json.loads(first[0].payload)["hash"] == json.loads(claim())["hash"]
    books.said(first[0])
    tally = books.tally["de-1-1"]
    assert (tally.copies, tally.booked, tally.acked) == (2, 1, 1)
    assert books.settled_once(["de-1-1"])
    assert not books.settled_once([])


def test_the_same_number_with_other_content_is_rejected_and_counted() -> None:
    books = Books()
    taken(books, claim())
    assert words(taken(books, claim(energy_wh=1))) == ["rejected"]
    assert books.tally["de-1-1"].conflicts == 1
    assert books.ledger["de-1-1"].claim["energy_wh"] == 7340


@pytest.mark.parametrize(
    ("manners", "first", "second", "booked"),
    [
        (Manners(silent=True), [], [], 0),
        (Manners(acks=3), ["accepted"] * 3, ["duplicate"] * 3, 1),
        (Manners(reject=True), ["rejected"], ["rejected"], 0),
        (Manners(first_copy_only=True), ["accepted"], [], 1),
        (Manners(forgetful=True), ["accepted"], ["accepted"], 2),
        (Manners(contradiction="after"), ["accepted", "rejected"], ["duplicate", "rejected"], 1),
        (Manners(contradiction="before"), ["rejected", "accepted"], ["rejected", "duplicate"], 1),
        (Manners(contradiction="after", reject=True), ["rejected", "accepted"], ["rejected", "accepted"], 0),
    ],
)
def test_bad_manners_show_in_the_answers_and_the_tally_knows_what_was_booked(
    manners: Manners, first: list[str], second: list[str], booked: int
) -> None:
    books = Books()
    books.manners = manners
    assert (words(taken(books, claim())), words(taken(books, claim()))) == (first, second)
    assert books.tally["de-1-1"].booked == booked


def test_a_late_or_confused_backend_answers_later_or_of_something_else() -> None:
    books = Books()
    books.manners = Manners(delay_s=2.5, wrong_hash=True)
    (ack,) = taken(books, claim())
    assert ack.due_ms == NOON_MS + 2500
    assert json.loads(ack.payload)["hash"] != json.loads(claim())["hash"]


def test_a_crash_comes_once_and_after_the_booking() -> None:
    books = Books()
    books.manners = Manners(crash_before_ack=True)
    with pytest.raises(Crashed):
        taken(books, claim())
    assert books.settled_once(["de-1-1"])
    assert words(taken(books, claim())) == ["duplicate"]


def test_a_lost_ledger_books_again_and_the_tally_shows_it() -> None:
    books = Books()
    taken(books, claim())
    books.forget()
    assert words(taken(books, claim())) == ["accepted"]
    assert not books.settled_once(["de-1-1"])


def test_a_view_shows_the_newest_of_each_topic_and_no_stale_will() -> None:
    books = Books()
    for topic, body in (
        ("birth", {"software": "1"}),
        ("status", {"state": "online", "connection": 2}),
        ("status", {"state": "lost", "connection": 1}),
        ("event", {"text": "hello"}),
        ("connector/3/state", {"state": "charging"}),
        ("connector/3/meter", {"energy_wh": 5}),
    ):
        assert books.take("de-1", topic, json.dumps(body).encode(), NOON_MS) == []
    view = books.stations["de-1"]
    assert view.status == {"state": "online", "connection": 2}
    assert (view.birth, list(view.events)) == ({"software": "1"}, [{"text": "hello"}])
    assert (view.connectors, view.meters) == ({3: {"state": "charging"}}, {3: {"energy_wh": 5}})


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("claim", b"\xff"),
        ("claim", b"[]"),
        ("claim", b"{}"),
        ("claim", json.dumps({"id": "x", "hash": "0" * 64}).encode()),
        ("connector/x/state", b"{}"),
        ("gossip", b"{}"),
    ],
)
def test_what_cannot_be_read_is_noted_and_answered_by_nothing(topic: str, payload: bytes) -> None:
    books = Books()
    assert books.take("de-1", topic, payload, NOON_MS) == []
    assert len(books.invalid) == 1
    assert books.ledger == {}


# The uplink of production, its broker and its backend, all on one agenda.

_SETTINGS = UplinkSettings(Access("broker.example", 1883, client_id="station"), STATION)


class World:
    """A station's uplink with claims to send, a broker and a backend."""

    def __init__(self, seed: int, claims: int, manners: Manners | None = None) -> None:
        self.agenda = Agenda()
        self.dice = random.Random(seed)
        self.broker = MemoryBroker(self.agenda, self.dice)
        self.books = Books()
        self.books.manners = manners or Manners()
        self.backend = MemoryBackend(self.agenda, self.broker, self.books)
        self.heard: list[tuple[int, str, bytes]] = []
        self.broker.observer = lambda topic, payload: self.heard.append((self.agenda.now_us, topic, payload))
        self._claims = claims

    def run(self, limit_s: float) -> MemoryOutbox:
        """Until all claims are answered or the time is over."""

        async def main() -> MemoryOutbox:
            outbox = outbox_of(*range(1, self._claims + 1))
            uplink = MqttUplink(
                _SETTINGS,
                BIRTH,
                outbox,
                lambda: self.agenda.now_ms,
                lambda: 1_750_000_000_000 + self.agenda.now_ms,
                self.dice.uniform,
                link_maker(self.broker, self.agenda),
            )
            self.backend.start()
            task = asyncio.create_task(uplink.run(lambda _event: None))
            ends_s = asyncio.get_running_loop().time() + limit_s
            while len(outbox.answers) < self._claims and asyncio.get_running_loop().time() < ends_s:
                await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait((task,))
            await asyncio.sleep(1)
            return outbox

        with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(self.agenda)) as runner:
            return runner.run(main())


def test_a_claim_is_settled_by_the_production_uplink_over_the_broker_in_memory() -> None:
    world = World(seed=1, claims=60)
    outbox = world.run(limit_s=60)
    assert {claim.state for claim in outbox.claims.values()} == {ClaimState.SETTLED}
    assert world.books.settled_once(list(outbox.claims))
    status = world.books.stations[STATION].status
    assert status is not None
    assert (status["state"], status["connection"]) == ("offline", 1)
    assert world.books.stations[STATION].birth is not None
    assert world.books.invalid == []


@pytest.mark.parametrize(
    "manners",
    [Manners(delay_s=120.0), Manners(crash_before_ack=True), Manners(acks=2), Manners(contradiction="after")],
)
def test_a_backend_without_manners_settles_each_claim_once_in_the_end(manners: Manners) -> None:
    world = World(seed=2, claims=5, manners=manners)
    outbox = world.run(limit_s=3600)
    assert {claim.state for claim in outbox.claims.values()} == {ClaimState.SETTLED}
    assert world.books.settled_once(list(outbox.claims))


_TROUBLES: dict[str, Callable[[World], None]] = {
    "cut": lambda world: world.broker.cut("station"),
    "vanish": lambda world: world.broker.vanish("station"),
    "kill": lambda world: world.broker.kill(),
    "stop": lambda world: world.broker.stop(),
    "start": lambda world: world.broker.start(),
    "silent": lambda world: setattr(world.broker, "silent", True),
    "slow": lambda world: setattr(world.broker, "latency_ms", 3000),
    "lossy": lambda world: setattr(world.broker, "loses_acknowledged", 0.3),
    "doubling": lambda world: setattr(world.broker, "duplicates", 0.3),
    "disorderly": lambda world: setattr(world.broker, "reorders", 0.3),
    "refusing": lambda world: setattr(world.broker, "refuses", "Server busy"),
    "backend restarts": lambda world: world.backend.restart(),
    "backend stops": lambda world: world.backend.stop(),
    "backend crashes": lambda world: setattr(
        world.books, "manners", replace(world.books.manners, crash_before_ack=True)
    ),
}


def _mend(world: World) -> None:
    world.broker.start()
    world.backend.start()
    world.broker.silent = False
    world.broker.refuses = ""
    world.broker.latency_ms = 1
    world.broker.loses_acknowledged = world.broker.duplicates = world.broker.reorders = 0.0


# Within the first seconds, while the claims are on their way; mended after five minutes.
_trouble = st.tuples(st.integers(0, 4_000), st.sampled_from(sorted(_TROUBLES)))


def _troubled(seed: int, troubles: list[tuple[int, str]]) -> tuple[World, MemoryOutbox]:
    world = World(seed, claims=8, manners=Manners(delay_s=1.0))
    for at_ms, name in troubles:
        world.agenda.at_ms(at_ms, partial(_TROUBLES[name], world))
    world.agenda.at_ms(300_000, lambda: _mend(world))
    return world, world.run(limit_s=4 * 3600)


@given(st.integers(0, 2**32), st.lists(_trouble, max_size=12))
def test_whatever_happens_to_broker_and_backend_each_claim_is_settled_once(
    seed: int, troubles: list[tuple[int, str]]
) -> None:
    world, outbox = _troubled(seed, troubles)
    assert {claim.state for claim in outbox.claims.values()} == {ClaimState.SETTLED}
    assert world.books.settled_once(list(outbox.claims))


def test_the_same_seed_gives_the_same_messages_at_the_same_microseconds() -> None:
    troubles = [
        (0, "disorderly"),
        (10, "doubling"),
        (200, "lossy"),
        (900, "kill"),
        (2000, "start"),
        (9000, "cut"),
    ]
    (one, _), (two, _) = _troubled(7, troubles), _troubled(7, troubles)
    assert one.heard == two.heard
    assert len(one.heard) > 20
