"""What stations recorded in the field, run again: each file in `rings` is a bug report that became a test.

To add one: `edge dump` at the station, `edge replay RING` at the desk, cut what matters with `--first`,
`--until` and `--write`, repair the core, and have `--write` record what is right.
"""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge.commands import SetOffer
from edge.control.session import State
from edge.control.site import Signal, SignalKind, Solar
from edge.control.state import Sun
from edge.control.station import start, step
from edge.events import Event, FaultClearRequested, Tick
from edge.records import ClaimState, ClockQuality
from edge.replay import Wishes, replay, steps
from edge.ring import FORMAT, Happened, Head, Recording, Ring, RingError, dump_at_once, lines_of, read
from tests.control.story import ALICE, UNIX_MS, Story, site

RINGS = sorted((Path(__file__).parent / "rings").glob("*.jsonl"))
MOST_BYTES = 60_000
"""Of a committed ring; a longer one is not cut to what matters."""

SUN = Signal("sun", SignalKind.SOLAR, 0, None, None, Solar())


class Recorded(Story):
    """A story that notes what happens, as the daemon does."""

    def __init__(self) -> None:
        self.ring = Ring()
        super().__init__()

    def put(self, event: Event) -> None:
        before = self.station
        self.station, commands = step(before, event)
        self.ring.note(before, event, commands)
        self._carry_out(commands)


def paid() -> Recorded:
    """A session from the plug to the closed claim and the empty connector."""
    story = Recorded()
    story.pass_time(1_000)
    story.plug(1)
    story.pass_time(500)
    story.swipe(ALICE)
    story.pass_time(20_000)
    story.swipe(ALICE)
    story.pass_time(3_000)
    story.unplug(1)
    story.pass_time(500)
    assert len(story.claims(ClaimState.CLOSED)) == 1
    assert story.connector(1).state is State.FREE
    return story


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ring of a paid session."""
    return dump_at_once(paid().ring, tmp_path_factory.mktemp("ring"), UNIX_MS, "asked for")


def told(path: Path, wishes: Wishes | None = None) -> tuple[bool, str]:
    """Replay and return whether it is the same, and what was said."""
    said: list[str] = []
    same = replay(path, wishes or Wishes(), said.append)
    return same, "\n".join(said)


@pytest.mark.parametrize("path", RINGS, ids=lambda path: path.stem)
def test_the_core_decides_as_is_right(path: Path) -> None:
    assert path.stat().st_size <= MOST_BYTES
    same, said = told(path)
    assert same, said


def test_there_are_rings() -> None:
    assert RINGS


def test_a_session_from_plug_to_paid_is_decided_the_same_and_told_in_words(session: Path) -> None:
    same, said = told(session)
    assert same
    count = len(read(session).happened)
    lines = said.splitlines()
    assert lines[0] == "station st, edge 0.1.0, 2027-01-15 08:00:00 UTC, asked for"
    assert lines[-1] == f"{count} events replayed, the core decides the same"
    for words in (
        "-> plugged: connector 1: a car is plugged in",
        "card-1 (…A2A3) at reader front",
        "-> offer 32.0 A at connector 1",
        "-> session_closed: connector 1:",
        "-> unplugged: connector 1: the car is gone",
    ):
        assert words in said
    assert len(lines) < count // 3  # no readings in which nothing happened
    assert len(told(session, Wishes(verbose=True))[1].splitlines()) > count


def test_the_replayed_station_ends_as_the_real_one_did(session: Path) -> None:
    recording = read(session)
    *_, last = steps(recording.station, recording.happened)
    real = paid().station
    assert [c.state for c in last.after.connectors] == [c.state for c in real.connectors]
    assert [c.meter for c in last.after.connectors] == [c.meter for c in real.connectors]
    assert last.after.next_seq == real.next_seq


def doctored(session: Path, folder: Path) -> tuple[Path, int]:
    """The same with one offer that was 1 A lower, and the number of its event."""
    recording = read(session)
    happened = list(recording.happened)
    at = next(
        i
        for i, each in enumerate(happened)
        if any(isinstance(c, SetOffer) and c.offer_ma > 6_000 for c in each.commands or ())
    )
    commands = tuple(
        replace(c, offer_ma=c.offer_ma - 1_000) if isinstance(c, SetOffer) else c
        for c in happened[at].commands or ()
    )
    happened[at] = Happened(happened[at].event, commands)
    path = folder / "doctored.jsonl"
    path.write_bytes(b"".join(lines_of(replace(recording, happened=tuple(happened)))))
    return path, at + 1


def test_a_ring_that_was_decided_otherwise_says_where_and_shows_both(session: Path, tmp_path: Path) -> None:
    path, number = doctored(session, tmp_path)
    same, said = told(path)
    assert not same
    verdict = said.partition(f"\nevent {number}: the core decides otherwise: ")[2]
    recorded, _, now = verdict.partition("\n  now:\n")
    assert "\n  * SetOffer(connector=1, offer_ma=9000" in recorded
    assert "\n  * SetOffer(connector=1, offer_ma=10000" in now
    assert "\n    Announce(" in recorded  # what both decided is not marked
    assert told(path, Wishes(until=number - 1))[0]
    difference = json.loads(told(path, Wishes(as_json=True))[1].splitlines()[-1])["difference"]
    assert difference["number"] == number
    assert difference["recorded"][-1]["SetOffer"]["offer_ma"] == 9_000


def test_what_is_cut_and_written_is_right_from_then_on_and_begins_at_its_first_event(
    session: Path, tmp_path: Path
) -> None:
    path, number = doctored(session, tmp_path)
    cut = tmp_path / "cut.jsonl"
    assert told(path, Wishes(first=number - 5, until=number + 5, write=cut))[0]
    assert len(read(cut).happened) == 11
    assert read(cut).happened[5].event == read(path).happened[number - 1].event
    assert told(cut)[0]


def test_an_event_the_core_failed_on_is_the_same_once_it_does_not(session: Path, tmp_path: Path) -> None:
    recording = read(session)
    failed = Happened(Tick(recording.happened[0].event.at_ms, UNIX_MS, ClockQuality.SYNCED), None)
    path = tmp_path / "failed.jsonl"
    path.write_bytes(b"".join(lines_of(replace(recording, happened=(failed,)))))
    assert told(path)[0]


def test_what_the_core_raises_names_the_event_and_is_kept_in_what_is_cut(tmp_path: Path) -> None:
    """A station that the core cannot work on at the third event: it has more suns than solar signals."""
    sunny, _ = start(site(signals=(SUN,)), "ep0c" * 8, 1, [], 0, None)
    broken = replace(sunny, suns=(Sun(), Sun()))
    quiet = Happened(FaultClearRequested(1, 1), ())
    fatal = Happened(Tick(250, UNIX_MS, ClockQuality.SYNCED), None)
    path, cut = tmp_path / "broken.jsonl", tmp_path / "cut.jsonl"
    head = Head(FORMAT, "0.1.0", "st", UNIX_MS)
    path.write_bytes(b"".join(lines_of(Recording(head, broken, (quiet, quiet, fatal, quiet)))))
    with pytest.raises(ValueError, match="zip") as bug:
        told(path, Wishes(first=2, write=cut))
    assert bug.value.__notes__ == [f"event 3 of the ring, at 00:00:00.001 UTC: {fatal.event}"]
    assert read(cut).happened == (quiet, fatal)


@pytest.mark.parametrize("wishes", [Wishes(first=0), Wishes(first=9, until=8), Wishes(until=10**6)])
def test_events_that_are_not_there_are_said_to_be_none(session: Path, wishes: Wishes) -> None:
    with pytest.raises(RingError, match="events, numbered from 1; choose from these"):
        told(session, wishes)
