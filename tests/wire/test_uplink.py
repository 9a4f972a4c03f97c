"""The uplink against a real mosquitto, the backend peer and independent clients."""

import asyncio
import gc
import json
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edge.errors import ConfigError, JournalError
from edge.events import ClaimAnswered, Event, UplinkChanged
from edge.records import Claim, ClaimState, ClockQuality, Cost, StopReason, Tariff
from edge.uplink import schema
from edge.uplink.connection import Access, TlsFiles
from edge.uplink.mqtt import MqttUplink, UplinkSettings
from hal_mocks.backend import Backend, Manners
from hal_mocks.broker import HOST, Broker, Tls
from tests.wire.broker import backend, broker, line_to, publish, subscriber

__all__ = ["backend", "broker"]  # fixtures
pytestmark = pytest.mark.wire

STATION = "de-0001"
ROOT = f"edge/v1/{STATION}"
PATIENCE_S = 20.0


@dataclass
class MemoryOutbox:
    """The promise of `ports.Outbox`, kept in memory; refuses the first `refusals` commits."""

    claims: dict[str, Claim] = field(default_factory=dict)
    answers: list[tuple[str, ClaimState, str]] = field(default_factory=list)
    refusals: int = 0
    refused: int = 0
    connections: int = 0
    looks: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def pending(self, after_seq: int, limit: int) -> list[Claim]:
        self.looks += 1
        self._news.set()
        waiting = [c for c in self.claims.values() if c.state is ClaimState.CLOSED and c.seq > after_seq]
        return sorted(waiting, key=lambda c: c.seq)[:limit]

    async def settle(self, claim_id: str, state: ClaimState, detail: str) -> bool:
        self._news.set()
        if self.refused < self.refusals:
            self.refused += 1
            raise JournalError("the disk is full", full=True)
        claim = self.claims.get(claim_id)
        if claim is None or claim.state is not ClaimState.CLOSED:
            return False
        self.claims[claim_id] = replace(claim, state=state)
        self.answers.append((claim_id, state, detail))
        return True

    async def next_connection(self) -> int:
        self.connections += 1
        self._news.set()
        return self.connections

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await self._news.wait()
                self._news.clear()


def closed_claim(seq: int) -> Claim:
    return Claim(
        id=f"{STATION}-0a1b2c3d4e5f-{seq}",
        seq=seq,
        state=ClaimState.CLOSED,
        connector=1,
        contract="Zoë",
        credential="04A2****",
        tariff=Tariff("EUR", Decimal("0.49"), Decimal("0.50"), Decimal(19)),
        meter="m1",
        start_wh=1000,
        last_wh=8340,
        opened_unix_ms=1_750_000_000_000,
        clock=ClockQuality.SYNCED,
        closed_unix_ms=1_750_000_600_000,
        end_wh=8340,
        energy_wh=7340,
        reason=StopReason.CARD,
        cost=Cost("EUR", Decimal("4.10"), Decimal("4.88"), Decimal("4.874954")),
    )


def outbox_of(*seqs: int) -> MemoryOutbox:
    return MemoryOutbox({claim.id: claim for claim in map(closed_claim, seqs)})


def ack_for(claim: Claim) -> bytes:
    right = {"claim_id": claim.id, "hash": schema.claim_message(claim).hash, "verdict": "accepted"}
    return json.dumps(right).encode()


BIRTH = schema.Birth(
    station=STATION,
    software="0.1.0",
    name="Yard",
    location="1 Main Street",
    support="+49 30 0000",
    connectors=(schema.ConnectorRating(number=1, phases=3, min_ma=6000, max_ma=16000),),
    tariff=schema.TariffNotice(
        currency="EUR", per_kwh="0.49", per_session="0.50", vat_percent="19", text="0.5831 EUR per kWh"
    ),
)


def state(connector: int, since: int = 0) -> schema.ConnectorState:
    return schema.ConnectorState(
        connector=connector,
        state=schema.ConnectorStatus.CHARGING,
        offered_ma=10_000,
        reason="shares 32 A",
        faults=(),
        since_unix_ms=since,
    )


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Station:
    """A running uplink and what it put into the inbox."""

    def __init__(self, uplink: MqttUplink) -> None:
        self.uplink = uplink
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def put(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def online(self, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while sum(isinstance(e, UplinkChanged) and e.online for e in self.events) < times:
                await self._news.wait()
                self._news.clear()

    @property
    def answered(self) -> list[tuple[str, ClaimState]]:
        return [(e.claim_id, e.state) for e in self.events if isinstance(e, ClaimAnswered)]


def quick(port: int, **changes: object) -> UplinkSettings:
    hurried = UplinkSettings(
        Access(HOST, port, client_id="station"),
        STATION,
        reconnect_first_s=0.02,
        reconnect_longest_s=0.2,
        resend_first_s=0.2,
        resend_longest_s=1.0,
        meter_interval_s=0.2,
        complaint_interval_s=0.0,
    )
    return replace(hurried, **changes)


@asynccontextmanager
async def running(uplink_settings: UplinkSettings, outbox: MemoryOutbox) -> AsyncIterator[Station]:
    station = Station(MqttUplink(uplink_settings, BIRTH, outbox, now_ms, wall_ms))
    task = asyncio.create_task(station.uplink.run(station.put))
    try:
        yield station
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def run(story: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a story, then see that no thread and no socket is left over."""
    asyncio.run(story())
    assert "uplink" not in [thread.name for thread in threading.enumerate()]
    gc.collect()  # pytest turns the warning about a forgotten socket into a failure


def told(backend: Backend, topic: str) -> list[str]:
    """The announcements of that topic that reached the backend."""
    view = backend.stations.get(STATION)
    return [event["text"] for event in list(view.events) if event["topic"] == topic] if view else []


def test_a_closed_claim_is_delivered_and_settled_once(broker: Broker, backend: Backend) -> None:
    async def story() -> None:
        outbox = outbox_of(1)
        (claim,) = outbox.claims.values()
        async with running(quick(broker.port, resend_first_s=30.0), outbox) as station:
            await outbox.until(lambda: bool(outbox.answers))
            assert outbox.answers == [(claim.id, ClaimState.SETTLED, "accepted")]
            assert station.answered == [(claim.id, ClaimState.SETTLED)]
        assert backend.settled_once([claim.id])
        assert backend.tally[claim.id].copies == 1
        booked = backend.ledger[claim.id].claim
        assert (booked["cost"]["incl_tax"], booked["contract"]) == ("4.88", "Zoë")

    run(story)


def test_a_claim_that_opened_earlier_but_closed_later_is_sent_too(broker: Broker, backend: Backend) -> None:
    async def story() -> None:
        outbox = outbox_of(7)
        async with running(quick(broker.port), outbox) as station:
            await outbox.until(lambda: len(outbox.answers) == 1)
            late = closed_claim(3)
            outbox.claims[late.id] = late
            station.uplink.claim_waiting()
            await outbox.until(lambda: len(outbox.answers) == 2)
            assert outbox.answers[1][0] == late.id

    run(story)


def test_a_rejected_claim_is_kept_as_rejected(broker: Broker, backend: Backend) -> None:
    async def story() -> None:
        backend.manners = Manners(reject=True)
        outbox = outbox_of(1)
        async with running(quick(broker.port), outbox) as station:
            await outbox.until(lambda: bool(outbox.answers))
            assert [state for _, state, _ in outbox.answers] == [ClaimState.REJECTED]
            assert outbox.answers[0][2] == "rejected: refused by rule"
            assert [state for _, state in station.answered] == [ClaimState.REJECTED]

    run(story)


def test_nothing_is_lost_or_booked_twice_when_the_broker_is_killed_and_forgets(
    broker: Broker, backend: Backend
) -> None:
    async def story() -> None:
        backend.manners = Manners(delay_s=0.05, acks=2)
        outbox = outbox_of(*range(1, 61))
        async with running(quick(broker.port, claim_window=5), outbox) as station:
            await outbox.until(lambda: len(outbox.answers) >= 10)
            broker.kill()
            broker.start()
            await outbox.until(lambda: len(outbox.answers) >= 25)
            broker.kill()
            broker.start()
            await outbox.until(lambda: len(outbox.answers) == 60)
            assert len(station.answered) == 60
            assert outbox.connections >= 3
        assert backend.settled_once(list(outbox.claims))

    run(story)


def test_a_claim_is_booked_once_when_the_backend_crashes_between_booking_and_answer(
    broker: Broker, backend: Backend
) -> None:
    async def story() -> None:
        backend.manners = Manners(crash_before_ack=True)
        outbox = outbox_of(1, 2)
        async with running(quick(broker.port), outbox):
            await outbox.until(lambda: len(outbox.answers) == 2)
        assert backend.settled_once(list(outbox.claims))

    run(story)


@pytest.mark.parametrize("forgetting", [False, True])
def test_a_restarted_backend_answers_again_and_its_books_show_what_it_forgot(
    broker: Broker, backend: Backend, forgetting: bool
) -> None:
    async def story() -> None:
        backend.manners = Manners(delay_s=600.0)
        outbox = outbox_of(1)
        (claim,) = outbox.claims.values()
        async with running(quick(broker.port), outbox):
            await backend.until(lambda: claim.id in backend.ledger, PATIENCE_S)
            backend.restart(forgetting=forgetting)
            backend.manners = Manners()
            await outbox.until(lambda: bool(outbox.answers))
        assert backend.tally[claim.id].booked == (2 if forgetting else 1)
        assert backend.settled_once([claim.id]) is not forgetting

    run(story)


def test_a_silent_backend_gets_the_claim_again_and_again_until_it_answers(
    broker: Broker, backend: Backend
) -> None:
    async def story() -> None:
        backend.manners = Manners(silent=True)
        outbox = outbox_of(1)
        (claim,) = outbox.claims.values()
        async with running(quick(broker.port), outbox):
            await backend.until(
                lambda: claim.id in backend.tally and backend.tally[claim.id].copies >= 3, PATIENCE_S
            )
            assert outbox.claims[claim.id].state is ClaimState.CLOSED
            backend.manners = Manners()
            await outbox.until(lambda: bool(outbox.answers))
        assert backend.settled_once([claim.id])
        assert backend.tally[claim.id].conflicts == 0

    run(story)


def test_claims_the_backend_never_answers_do_not_block_the_others(broker: Broker, backend: Backend) -> None:
    async def story() -> None:
        backend.manners = Manners(silent=True)
        outbox = outbox_of(1, 2, 3, 4)
        async with running(quick(broker.port, claim_window=2, resend_first_s=0.05), outbox):
            await backend.until(lambda: len(backend.tally) == 4, PATIENCE_S)

    run(story)


def test_an_answer_makes_room_for_the_next_claim_at_once(broker: Broker, backend: Backend) -> None:
    async def story() -> None:
        outbox = outbox_of(1, 2, 3)
        async with running(quick(broker.port, claim_window=1, resend_first_s=900.0), outbox):
            await outbox.until(lambda: len(outbox.answers) == 3)

    run(story)


def test_of_one_claim_only_one_copy_waits_to_be_taken_by_the_broker(broker: Broker) -> None:
    async def story() -> None:
        outbox = MemoryOutbox()
        async with subscriber(broker, f"{ROOT}/#") as seen, line_to(broker.port) as line:
            hasty = quick(line.port, resend_first_s=0.01, resend_longest_s=0.01)
            async with running(hasty, outbox) as station:
                await station.online()
                line.answers.clear()
                outbox.claims = outbox_of(1).claims
                station.uplink.claim_waiting()
                await seen.line_with("/claim")
                looks = outbox.looks
                await outbox.until(lambda: outbox.looks > looks + 10)  # the next copy has been due for long
                station.uplink.announce("end", "of story")
                assert '"end"' in await seen.line_with(STATION)  # the very next message
                line.answers.set()
                await seen.line_with("/claim")

    run(story)


def test_an_ack_with_the_hash_of_another_content_changes_nothing_and_is_told(
    broker: Broker, backend: Backend
) -> None:
    async def story() -> None:
        backend.manners = Manners(wrong_hash=True)
        outbox = outbox_of(1)
        async with running(quick(broker.port), outbox):
            await backend.until(lambda: bool(told(backend, "invalid_message")), PATIENCE_S)
            assert "hash" in told(backend, "invalid_message")[0]
            assert outbox.answers == []
            backend.manners = Manners()
            await outbox.until(lambda: bool(outbox.answers))
        assert backend.settled_once(list(outbox.claims))

    run(story)


@pytest.mark.parametrize("already_there", [True, False])
def test_a_retained_ack_is_ignored_and_told(broker: Broker, backend: Backend, already_there: bool) -> None:
    async def story() -> None:
        backend.manners = Manners(silent=True)
        outbox = outbox_of(1)
        (claim,) = outbox.claims.values()
        if already_there:
            await publish(broker, f"{ROOT}/ack", ack_for(claim), "-r")
        async with running(quick(broker.port), outbox) as station:
            await station.online()
            if not already_there:
                await publish(broker, f"{ROOT}/ack", ack_for(claim), "-r")
            await backend.until(lambda: bool(told(backend, "invalid_message")), PATIENCE_S)
            assert "retained" in told(backend, "invalid_message")[0]
            assert outbox.answers == []
            await publish(broker, f"{ROOT}/ack", ack_for(claim))  # the very same, as it should come
            await outbox.until(lambda: bool(outbox.answers))

    run(story)


def test_an_answer_that_cannot_be_committed_comes_again_on_the_next_connection(
    broker: Broker, backend: Backend
) -> None:
    async def story() -> None:
        backend.manners = Manners(first_copy_only=True)  # one ack only: it must be the same one again
        outbox = outbox_of(1)
        outbox.refusals = 2
        (claim,) = outbox.claims.values()
        async with subscriber(broker, f"{ROOT}/status") as seen, running(quick(broker.port), outbox):
            for connection in (1, 2):
                assert f'"connection":{connection}' in await seen.line_with('"lost"')
            await outbox.until(lambda: bool(outbox.answers))
            assert outbox.connections == 3
            await backend.until(lambda: bool(told(backend, "uplink_lost")), PATIENCE_S)
            assert "the disk is full" in told(backend, "uplink_lost")[0]
        assert backend.tally[claim.id].acked == 1

    run(story)


def test_an_answer_given_while_the_station_was_off_settles_the_claim_at_its_next_start(
    broker: Broker, backend: Backend
) -> None:
    async def story() -> None:
        backend.manners = Manners(silent=True)
        outbox = outbox_of(1)
        (claim,) = outbox.claims.values()
        async with running(quick(broker.port), outbox) as station:
            await station.online()
        await publish(broker, f"{ROOT}/ack", ack_for(claim))
        async with running(quick(broker.port), outbox):
            await outbox.until(lambda: bool(outbox.answers))
        assert claim.id not in backend.ledger

    run(story)


def test_the_will_is_seen_when_the_line_is_cut_and_offline_on_a_clean_stop(broker: Broker) -> None:
    async def story() -> None:
        async with line_to(broker.port) as line, subscriber(broker, f"{ROOT}/status") as seen:
            async with running(quick(line.port), MemoryOutbox()) as station:
                assert '"connection":1' in await seen.line_with('"online"')
                await station.online()
                line.cut()
                assert '"connection":1' in await seen.line_with('"lost"')
                assert '"connection":2' in await seen.line_with('"online"')
                await station.online(times=2)
                assert [e.online for e in station.events if isinstance(e, UplinkChanged)] == [
                    True,
                    False,
                    True,
                ]
            assert '"connection":2' in await seen.line_with('"offline"')
        async with subscriber(broker, f"{ROOT}/status") as seen:
            assert (await seen.line_with("status")).startswith("1 ")  # retained
            await publish(broker, f"{ROOT}/status", b"no will came after offline")
            assert "no will" in await seen.line_with("status")

    run(story)


def test_everything_retained_is_fresh_before_online_is_said(broker: Broker) -> None:
    async def story() -> None:
        async with (
            subscriber(broker, "edge/#") as seen,
            line_to(broker.port) as line,
            running(quick(line.port), MemoryOutbox()) as station,
        ):
            station.uplink.show_connector(state(1))
            station.uplink.show_connector(state(2))
            for _ in range(2):
                for text in ("/birth", "/connector/1/state", "/connector/2/state", '"online"'):
                    await seen.line_with(text)
                line.cut()

    run(story)


def test_an_announcement_whose_delivery_is_in_doubt_is_sent_again(broker: Broker) -> None:
    async def story() -> None:
        async with (
            subscriber(broker, f"{ROOT}/event") as seen,
            line_to(broker.port) as line,
            running(quick(line.port), MemoryOutbox()) as station,
        ):
            await station.online()
            line.answers.clear()
            station.uplink.announce("session_closed", "in doubt", 1)
            first = await seen.line_with("in doubt")
            line.cut()
            line.answers.set()
            assert await seen.line_with("in doubt") == first

    run(story)


def test_only_changes_of_a_connector_are_published_and_the_newest_wins(broker: Broker) -> None:
    async def story() -> None:
        async with (
            subscriber(broker, f"{ROOT}/connector/+/state") as seen,
            running(quick(broker.port), MemoryOutbox()) as station,
        ):
            await station.online()
            station.uplink.show_connector(state(1, since=1))
            await seen.line_with('"since_unix_ms":1,')
            for _ in range(3):
                station.uplink.show_connector(state(1, since=1))
            for since in (2, 3, 4):  # without an await between them: only the last one is worth sending
                station.uplink.show_connector(state(1, since=since))
            assert '"since_unix_ms":4,' in await seen.line_with("state")

    run(story)


def test_meters_are_thinned_to_one_message_per_interval_with_their_true_age(broker: Broker) -> None:
    async def story() -> None:
        async with (
            subscriber(broker, f"{ROOT}/connector/1/meter") as seen,
            running(quick(broker.port, meter_interval_s=0.5), MemoryOutbox()) as station,
        ):
            reading = schema.ConnectorMeter(
                connector=1, current_ma=(1, 2, 3), power_w=4, energy_wh=0, age_ms=100
            )
            station.uplink.show_meter(reading)
            await seen.line_with('"energy_wh":0')
            started = time.monotonic()
            for energy_wh in range(1, 51):
                station.uplink.show_meter(replace(reading, energy_wh=energy_wh))
                await asyncio.sleep(0.002)
            line = await seen.line_with("energy_wh")  # the very next message
            waited_ms = 1000 * (time.monotonic() - started)

        message = json.loads(line.split(" ", 2)[2])
        assert message["energy_wh"] == 50
        assert 100 < message["age_ms"] <= 100 + waited_ms

    run(story)


def test_what_was_announced_offline_is_sent_later_and_an_outage_is_told_once(
    broker: Broker, backend: Backend
) -> None:
    async def story() -> None:
        broker.stop()
        outbox = MemoryOutbox()
        async with running(quick(broker.port), outbox) as station:
            station.uplink.announce("card_refused", "card 04A2**** is not known", 1)
            await outbox.until(lambda: outbox.connections >= 5)
            assert station.events == []
            broker.start()
            await station.online()
            await backend.until(backend.ready.is_set, PATIENCE_S)
            station.uplink.announce("end", "of story")
            await backend.until(lambda: bool(told(backend, "end")), PATIENCE_S)
        assert told(backend, "card_refused") == ["card 04A2**** is not known"]
        assert len(told(backend, "uplink_lost")) == 1
        assert "Connection refused" in told(backend, "uplink_lost")[0]

    run(story)


def test_tries_to_connect_are_spread_over_a_time_that_doubles_up_to_its_bound() -> None:
    asked: list[tuple[float, float]] = []

    def at_once(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.0

    async def story() -> None:
        outbox = MemoryOutbox()
        unreachable = quick(1, reconnect_first_s=1.0, reconnect_longest_s=10.0)
        uplink = MqttUplink(unreachable, BIRTH, outbox, now_ms, wall_ms, uniform=at_once)
        task = asyncio.create_task(uplink.run(lambda _event: None))
        await outbox.until(lambda: outbox.connections == 7)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    run(story)
    assert asked == [(0.0, 1.0), (0.0, 2.0), (0.0, 4.0), (0.0, 8.0), (0.0, 10.0), (0.0, 10.0)]


GARBAGE = [
    b"",
    b"\xff\xfe",
    b"null",
    b"[" * 60_000,
    b'{"v":2}',
    b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b"9" * 70_000,
    json.dumps({"claim_id": f"{STATION}-x-{'9' * 200}", "hash": "0" * 64, "verdict": "accepted"}).encode(),
    json.dumps({"claim_id": f"{STATION}-x-\u00b2", "hash": "0" * 64, "verdict": "accepted"}).encode(),
    json.dumps({"claim_id": "\udcff", "hash": "0" * 64, "verdict": "accepted"}).encode(),
    b"x" * 10_000_000,  # the broker keeps this one for itself: it is above the packet size we take
]


def test_garbage_is_refused_told_and_survived(broker: Broker, backend: Backend) -> None:
    async def story() -> None:
        backend.manners = Manners(silent=True)
        outbox = outbox_of(1)
        (claim,) = outbox.claims.values()
        async with running(quick(broker.port), outbox) as station:
            await station.online()
            for payload in GARBAGE:
                await publish(broker, f"{ROOT}/ack", payload)
            await publish(broker, f"{ROOT}/ack", ack_for(claim))
            await outbox.until(lambda: bool(outbox.answers))
            assert outbox.connections == 1
            station.uplink.announce("end", "of story")
            await backend.until(lambda: bool(told(backend, "end")), PATIENCE_S)
        # Two of them are well formed: acks for claims that do not wait.
        assert len(told(backend, "invalid_message")) == len(GARBAGE) - 3

    run(story)


def test_a_flood_of_garbage_is_told_once(broker: Broker, backend: Backend) -> None:
    async def story() -> None:
        outbox = MemoryOutbox()
        async with running(quick(broker.port, complaint_interval_s=60.0), outbox) as station:
            await station.online()
            for _ in range(5):
                await publish(broker, f"{ROOT}/ack", b"garbage")
            outbox.claims = outbox_of(1).claims
            (claim,) = outbox.claims.values()
            await publish(broker, f"{ROOT}/ack", ack_for(claim))
            await outbox.until(lambda: bool(outbox.answers))  # all the garbage before it was read
            station.uplink.announce("end", "of story")
            await backend.until(lambda: bool(told(backend, "end")), PATIENCE_S)
        assert len(told(backend, "invalid_message")) == 1

    run(story)


def test_what_the_broker_does_not_allow_is_told_and_the_rest_goes_on(tmp_path: Path, broker: Broker) -> None:
    broker.kill()
    allowed = ("readwrite edge/v1/+/status", "readwrite edge/v1/+/event", "read edge/v1/+/ack", "read $SYS/#")
    acl = "".join(f"topic {rule}\n" for rule in allowed)
    strict = Broker(tmp_path / "strict", acl=acl)
    strict.start()

    async def story() -> None:
        async with (
            subscriber(strict, "edge/#") as seen,
            running(quick(strict.port), MemoryOutbox()) as station,
        ):
            await station.online()
            assert "birth" in await seen.line_with("publish_refused")

    try:
        run(story)
    finally:
        strict.kill()


# What a broker says, MQTT 5: CONNACK that accepts us, SUBACK for our first packet id (1), DISCONNECT 0x8E.
_CONNACK = b"\x20\x03\x00\x00\x00"
_SUBACK = b"\x90\x04\x00\x01\x00\x01"
_TAKEN_OVER = b"\xe0\x02\x8e\x00"


@asynccontextmanager
async def saying(words: bytes, *, hang_up: bool = True) -> AsyncIterator[int]:
    """The port of a server that answers whatever comes with these words, and hangs up or falls silent."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(10)
            writer.write(words)
            if hang_up:
                writer.write_eof()
            await reader.read()  # closing before the other side has spoken would take our words back
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]


def test_the_reason_a_broker_gives_for_hanging_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        outbox = MemoryOutbox()
        async with saying(_CONNACK + _SUBACK + _TAKEN_OVER) as port, running(quick(port), outbox):
            await outbox.until(lambda: outbox.connections == 2)

    run(story)
    assert "Session taken over" in caplog.text


@pytest.mark.parametrize("words", [b"", _CONNACK])
def test_a_broker_that_takes_the_connection_and_says_no_more_is_given_up(
    words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        outbox = MemoryOutbox()
        async with (
            saying(words, hang_up=False) as port,
            running(quick(port, answer_timeout_s=0.1), outbox),
        ):
            await outbox.until(lambda: outbox.connections == 2)

    run(story)
    assert "does not answer within 0.1 s" in caplog.text


class BrokenOutbox(MemoryOutbox):
    async def pending(self, after_seq: int, limit: int) -> list[Claim]:
        raise ZeroDivisionError(f"a bug when asked for {limit} claims after {after_seq}")


def test_a_bug_is_not_swallowed_but_ends_the_uplink(broker: Broker) -> None:
    async def story() -> None:
        uplink = MqttUplink(quick(broker.port), BIRTH, BrokenOutbox(), now_ms, wall_ms)
        with pytest.raises(ExceptionGroup) as caught:
            await uplink.run(lambda _event: None)
        assert caught.value.subgroup(ZeroDivisionError) is not None

    run(story)


_packets = st.builds(
    lambda kind, body: bytes([kind, len(body)]) + body, st.integers(0, 255), st.binary(max_size=30)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([b"", _CONNACK, _CONNACK + _SUBACK]),
    st.lists(_packets, max_size=4).map(b"".join) | st.binary(),
)
def test_a_broker_that_answers_anything_at_all_is_only_a_lost_connection(polite: bytes, rest: bytes) -> None:
    async def story() -> None:
        outbox = outbox_of(1)
        async with saying(polite + rest) as port, running(quick(port, reconnect_longest_s=0.01), outbox):
            await outbox.until(lambda: outbox.connections == 3)

    run(story)


def make_certificates(directory: Path) -> Tls:
    """A CA and one certificate for 127.0.0.1, made by openssl."""
    directory.mkdir()
    tls = Tls(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for words in (
        ("req", "-x509", *key, "-keyout", "ca.key", "-out", tls.ca, "-subj", "/CN=test CA",
         # Python 3.13 holds certificates to RFC 5280 (VERIFY_X509_STRICT)
         "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        ("req", "-x509", *key, "-keyout", tls.key, "-out", tls.cert, "-subj", "/CN=edge",
         "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
         "-CA", "ca.pem", "-CAkey", "ca.key"),
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, words)], cwd=directory, check=True, capture_output=True)
    return tls


# After a failed handshake paho leaves the socket to the reference count, which closes it.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_with_tls_only_a_broker_of_the_pinned_ca_is_talked_to(tmp_path: Path, broker: Broker) -> None:
    broker.kill()
    ours, theirs = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "theirs")
    secured = Broker(tmp_path / "secured", tls=ours)
    secured.start()

    def access(ca: Path) -> Access:
        files = TlsFiles(str(ca), str(ours.cert), str(ours.key))
        return Access(HOST, secured.port, client_id="station", tls=files)

    async def story() -> None:
        stranger = MemoryOutbox()
        async with running(quick(0, access=access(theirs.ca)), stranger) as wrong:
            await stranger.until(lambda: stranger.connections == 3)
            assert wrong.events == []
        async with running(quick(0, access=access(ours.ca)), MemoryOutbox()) as right:
            await right.online()

    try:
        run(story)
    finally:
        secured.kill()


def test_secrets_that_cannot_be_read_are_a_configuration_error_that_names_them(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    access = Access(HOST, 1, "station", password_file=missing, tls=TlsFiles(missing))
    with pytest.raises(ConfigError) as caught:
        MqttUplink(UplinkSettings(access, STATION), BIRTH, MemoryOutbox(), now_ms, wall_ms)
    assert len(caught.value.problems) == 2
    assert all(missing in problem for problem in caught.value.problems)
