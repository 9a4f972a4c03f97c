"""The ring: the last minutes whatever happens, in a file without names, which any bytes may pretend to be."""

import asyncio
import stat
from contextlib import suppress
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge import commands, ring
from edge.commands import Command
from edge.control.session import State
from edge.control.site import Card
from edge.control.state import Connector, Session, Station, WaitingCard
from edge.control.station import start, step
from edge.events import CardSeen, CardUnreadable, Credential, DeviceLost, Event, RecordFailed, Tick
from edge.records import Claim, ClaimState, ClockQuality, Cost, Tariff
from edge.ring import Head, Pseudonyms, Recording, Ring, RingError, decoded, dump, dump_at_once, lines_of
from tests.control.story import ALICE, BOB, STRANGER, TARIFF, UNIX_MS, Story, site

HEAD = Head(ring.FORMAT, "0.1.0", "st", UNIX_MS)
SECRETS = ("04A1A2A3", "04B1B2B3", "04C1C2C3", "alice", "bob")
TICK = Tick(1_000, UNIX_MS, ClockQuality.SYNCED)
CLAIM = Claim(
    "st-ep-1", 1, ClaimState.OPEN, 1, "alice", "…A2A3", TARIFF, "m1", 0, 0, UNIX_MS, ClockQuality.SYNCED
)


def station() -> Station:
    """A station in which every field that may hold a card or a name does."""
    fresh, _ = start(site(), "ep0c" * 8, 1, [], 0, None)
    session = Session(CLAIM, ALICE.id)
    connectors = (
        replace(fresh.connectors[0], session=session, state=State.CHARGING),
        replace(fresh.connectors[1], last_card=BOB.id),
    )
    return replace(
        fresh,
        connectors=connectors,
        waiting=WaitingCard("front", BOB, Card(BOB.id, "bob"), 5_000),
        orphans=(CLAIM,),
    )


def ring_of(*happened: tuple[Event, tuple[Command, ...] | None]) -> Ring:
    noted, before = Ring(), station()
    for event, decided in happened:
        noted.note(before, event, decided)
    return noted


def written(noted: Ring) -> bytes:
    return b"".join(noted.lines(UNIX_MS, "asked for"))


# -- what comes back ---------------------------------------------------------------------------------

money = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=0, max_value=10**6)
claims = st.builds(
    Claim,
    tariff=st.builds(Tariff, st.text(), money, money, money),
    cost=st.none() | st.builds(Cost, st.text(), money, money, money),
)
any_command = st.one_of(
    st.builds(commands.SetOffer),
    st.builds(commands.SetPhases),
    st.builds(commands.Announce),
    st.builds(commands.Record, claims),
)


@pytest.mark.parametrize("kind", get_args(Event))
@given(data=st.data())
def test_every_event_is_read_as_it_was_written(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(st.from_type(kind))
    (back,) = decoded(b"".join(lines_of(Recording(HEAD, station(), (ring.Happened(event, ()),))))).happened
    assert back == ring.Happened(event, ())


@given(st.lists(any_command, max_size=5).map(tuple) | st.none())
def test_every_command_is_read_as_it_was_written(decided: tuple[Command, ...] | None) -> None:
    happened = ring.Happened(TICK, decided)
    (back,) = decoded(b"".join(lines_of(Recording(HEAD, station(), (happened,))))).happened
    assert back == happened


def test_the_station_is_read_as_it_was_written_but_for_names() -> None:
    assert decoded(written(ring_of((TICK, ())))).station == Pseudonyms().of(station())


def test_the_file_of_a_file_is_the_same() -> None:
    noted = ring_of((CardSeen(1, "front", ALICE), (commands.Record(CLAIM),)), (TICK, ()), (TICK, None))
    once = written(noted)
    assert b"".join(lines_of(decoded(once))) == once


# -- what stays at the station -----------------------------------------------------------------------


def test_no_card_number_and_no_customer_gets_into_a_file_and_the_same_one_is_the_same_everywhere() -> None:
    noted = ring_of(
        (
            CardSeen(1, "front", STRANGER),
            (commands.Announce(1, "card_refused", f"{STRANGER.id} is unknown"),),
        ),
        (CardSeen(2, "front", ALICE), (commands.Record(CLAIM),)),
        (CardUnreadable(3, "front", f"torn while reading {BOB.id}"), ()),
        (RecordFailed(4, CLAIM.id, ClaimState.OPEN, "disk full"), None),
    )
    data = written(noted)
    for secret in SECRETS:
        assert secret.encode() not in data
    recording = decoded(data)
    before, cards = recording.station, recording.station.site.cards
    session = before.connectors[0].session
    assert session is not None
    assert cards[session.card].contract == session.claim.contract
    assert before.waiting is not None
    assert before.connectors[1].last_card == before.waiting.credential.id == before.waiting.card.id
    first, second, third, _ = recording.happened
    assert isinstance(first.event, CardSeen)
    assert first.event.credential.id not in cards
    assert first.event.credential.masked == STRANGER.masked
    assert first.commands == (
        commands.Announce(1, "card_refused", f"{first.event.credential.id} is unknown"),
    )
    assert isinstance(second.event, CardSeen)
    assert second.event.credential.id == session.card
    assert third.event == CardUnreadable(3, "front", f"torn while reading {before.waiting.card.id}")


@given(st.lists(st.sampled_from([f"card-{n}" for n in range(4)] + ["a", "b", ""]), unique=True, min_size=2))
def test_different_cards_stay_different_whatever_they_are_called(ids: list[str]) -> None:
    names = Pseudonyms()
    replaced = [names.of(Credential(each, "…")).id for each in ids]
    assert len(set(replaced)) == len(ids)
    assert [names.of(Credential(each, "…")).id for each in ids] == replaced
    assert [names.of(Connector(last_card=each)).last_card for each in ids] == replaced


# -- what is kept ------------------------------------------------------------------------------------


def test_two_segments_are_kept_and_the_file_begins_with_the_station_before_the_older() -> None:
    noted, now = Ring(), station()
    segment = ring.EVENTS_PER_DEVICE * 3
    for number in range(segment * 5 // 2):
        event = Tick(number, UNIX_MS + number, ClockQuality.SYNCED)
        noted.note(now, event, ())
        now, _ = step(now, event)
    recording = decoded(written(noted))
    assert len(recording.happened) == segment * 3 // 2
    assert recording.happened[0].event.at_ms == segment
    assert recording.station.now_ms == segment - 1


def test_a_large_station_keeps_no_more_than_the_most() -> None:
    many, _ = start(site(connectors=64), "ep0c" * 8, 1, [], 0, None)
    noted = Ring()
    for _ in range(ring.MOST_EVENTS * 2 + 1):
        noted.note(many, TICK, ())
    assert len(decoded(written(noted)).happened) == ring.MOST_EVENTS + 1


def test_a_sentence_with_the_name_of_an_odd_file_does_not_cost_the_ring() -> None:
    (odd,) = decoded(written(ring_of((DeviceLost(1, "meter/m1", "no /dev/tty\udcff"), ())))).happened
    assert odd.event == DeviceLost(1, "meter/m1", "no /dev/tty?")


def test_an_empty_ring_says_so() -> None:
    with pytest.raises(RingError, match="nothing has happened yet"):
        Ring().lines(UNIX_MS, "asked for")


# -- files -------------------------------------------------------------------------------------------


def test_four_files_are_kept_the_newest_for_their_owner_alone(tmp_path: Path) -> None:
    noted = ring_of((TICK, ()))
    (tmp_path / "journal.sqlite").write_text("payments")
    (tmp_path / "ring-7.jsonl.part").write_text("half, of a daemon that was killed")
    paths = [asyncio.run(dump(noted, tmp_path, UNIX_MS + n * 1_000)) for n in range(5)]
    paths.append(dump_at_once(noted, tmp_path, UNIX_MS + 5_000, "ended by KeyError"))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "journal.sqlite", *paths[2:]]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths[2:]} == {0o600}
    assert ring.read(paths[-1]).head.why == "ended by KeyError"


def test_a_clock_that_went_back_does_not_cost_the_file_just_written(tmp_path: Path) -> None:
    noted = ring_of((TICK, ()))
    for unix_ms in (UNIX_MS, UNIX_MS + 1_000, UNIX_MS + 2_000, UNIX_MS + 3_000, 12_000):
        path = dump_at_once(noted, tmp_path, unix_ms, "")
    assert path.name == "ring-12.jsonl"
    assert path in tmp_path.iterdir()


def test_the_loop_goes_on_while_a_long_ring_is_written_and_a_second_one_waits(tmp_path: Path) -> None:
    noted = ring_of(*[(TICK, ())] * 5_000)

    async def main() -> None:
        turns = 0
        writing = asyncio.create_task(dump(noted, tmp_path, UNIX_MS))
        while not writing.done():
            await asyncio.sleep(0)
            turns += 1
            if turns == 2:
                with pytest.raises(RingError, match="being written already"):
                    await dump(noted, tmp_path, UNIX_MS + 1_000)
        assert turns > writing.result().stat().st_size // ring.SLICE_BYTES > 5

    asyncio.run(main())
    assert len(ring.read(tmp_path / f"ring-{UNIX_MS // 1000}.jsonl").happened) == 5_000


def test_a_dump_that_is_given_up_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    noted = ring_of(*[(TICK, ())] * 5_000)

    async def main() -> None:
        writing = asyncio.create_task(dump(noted, tmp_path, UNIX_MS))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert list(tmp_path.iterdir()) == []
        await dump(noted, tmp_path, UNIX_MS)

    asyncio.run(main())


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RingError, match="cannot be written: No such file or directory"):
        dump_at_once(ring_of((TICK, ())), tmp_path / "none", UNIX_MS, "")


# -- any bytes ---------------------------------------------------------------------------------------


def session_file() -> bytes:
    story, noted = Story(), Ring()

    def put(event: Event) -> None:
        before = story.station
        story.station, decided = step(before, event)
        noted.note(before, event, decided)
        story._carry_out(decided)

    story.put = put  # type: ignore[method-assign] # the story as the daemon: it notes what happens
    story.pass_time(500)
    story.plug(1)
    story.swipe(ALICE)
    story.pass_time(1_000)
    return written(noted)


FILE = session_file()


@given(st.binary())
@example(b"")
@example(b"\n\n\n")
@example(b"[" * 100_000 + b"\n{}\n")
def test_any_bytes_are_a_recording_or_an_error_with_a_name(data: bytes) -> None:
    with suppress(RingError):
        decoded(data)


@given(st.integers(0, len(FILE) - 1), st.integers(0, 20), st.binary(max_size=20))
def test_a_damaged_file_is_a_recording_or_an_error_with_a_name(at: int, cut: int, put_in: bytes) -> None:
    with suppress(RingError):
        decoded(FILE[:at] + put_in + FILE[at + cut :])


def first_lines(**changes: object) -> bytes:
    """The head and a station with some fields as given, in JSON."""
    fields = msgspec.to_builtins(station()) | changes
    return msgspec.json.encode(HEAD) + b"\n" + msgspec.json.encode(fields) + b"\n"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (FILE[:-1], "cut off, a line ends with a line feed"),
        (b"{}\n", "no ring: it begins with a head and a station"),
        (b'{"ring":1}\n{}\n', "line 1: Object missing required field `edge`"),
        (FILE.replace(b'"ring":1', b'"ring":2', 1), "line 1: a ring of format 2; edge 0.1.0 reads it"),
        (FILE + b"{}\n", "Object missing required field `event`"),
        (FILE + b'{"event":"Rain","of":{}}\n', "'Rain' is not known here; there are Tick, DeviceFound"),
        (FILE + b'{"event":"Tick","of":{"at_ms":"1"}}\n', "Expected `int`, got `str`"),
        (FILE + b'{"event":"StopRequested","of":{"at_ms":1},"commands":[{"command":"Tick","of":{}}]}\n',
         "'Tick' is not known here; there are SetOffer"),
        (FILE + b'{"event":"StopRequested","of":{"at_ms":' + b"9" * 5_000 + b"}}\n", "line "),
        (first_lines(connectors=[]), "line 2: connectors and circuits are not those of the site"),
        (first_lines(heard=[{"source": "x", "circuit": 9, "connector": None, "cap": {}, "until_ms": 1}]),
         "line 2: a limit is for a place that is not there"),
    ],
)  # fmt: skip
def test_what_is_no_ring_is_said_in_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(RingError) as wrong:
        decoded(data)
    assert sentence in str(wrong.value)
