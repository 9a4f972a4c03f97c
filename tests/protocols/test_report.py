"""What the operator is shown changes only when something does: each change is a message."""

from msgspec.structs import replace

from edge.control.state import Station, unix_ms
from edge.control.station import start, step
from edge.events import DemandStated, EvseRead, LimitSignalled, Pilot, Tick
from edge.records import ClockQuality
from edge.uplink.schema import ConnectorMeter, ConnectorState
from edge.wiring import WALL_STEP_MS, Report
from tests.control.story import ALICE, Story, site

UNIX_MS = 1_800_000_000_000


class Board:
    """Where the one connector is shown: each other time since when it is in its state."""

    def __init__(self) -> None:
        self.since: list[int] = []
        self.newest: ConnectorState | None = None

    def show_connector(self, state: ConnectorState) -> None:
        self.newest = state
        if state.since_unix_ms not in self.since[-1:]:
            self.since.append(state.since_unix_ms)

    def show_meter(self, meter: ConnectorMeter) -> None:
        """Readings change at any time."""


def ticks(station: Station, report: Report, ahead_ms: list[int]) -> Station:
    """Tick every 250 ms; `ahead_ms` is by how much the wall clock is off each time."""
    for ms in ahead_ms:
        now = station.now_ms + 250
        station, _ = step(station, EvseRead(now, now, 1, Pilot.A, 0, contactor_closed=False, cable_ma=None))
        station, _ = step(station, Tick(now, UNIX_MS + now + ms, ClockQuality.SYNCED))
        report.show(station)
    return station


def test_two_clocks_that_are_read_one_after_the_other_are_no_news() -> None:
    board = Board()
    station, _ = start(site(connectors=1), "e", 1, (), 0, None)
    ticks(station, Report(board), [0, 1, 0, 1, 2, -1, 0, 300] * 10)
    assert board.since == [UNIX_MS + 250]


def test_a_wall_clock_that_is_set_is_told_once() -> None:
    board = Board()
    station, _ = start(site(connectors=1), "e", 1, (), 0, None)
    step_ms = 10 * WALL_STEP_MS
    ticks(station, Report(board), [0, 1, 0, *[step_ms, step_ms + 1] * 10])
    assert board.since == [UNIX_MS + 250, UNIX_MS + 250 + step_ms]


def test_the_reason_is_shown_with_its_kind_and_its_times() -> None:
    story = Story()
    board = Board()
    report = Report(board)
    story.plug(1)
    story.pass_time(3_000)
    story.swipe(ALICE)
    story.pass_time(10_000)
    story.put(LimitSignalled(story.now_ms, "technician", None, 1, (8_000,) * 3, None, 60_000))
    story.put(DemandStated(story.now_ms, 1, 1_000, 3_600_000))
    story.pass_time(5_000)
    report.show(replace(story.station, connectors=story.station.connectors[:1]))
    shown, ahead_ms = board.newest, unix_ms(story.station) - story.now_ms
    assert shown is not None
    assert (shown.reason_kind, shown.demand != "") == ("signal", True)
    assert "technician" in shown.reason
    assert shown.reason_since_unix_ms == ahead_ms + story.now_ms - 5_000
    assert shown.reason_until_unix_ms == ahead_ms + story.now_ms + 55_000
