"""What the operator is shown changes only when something does: each change is a message."""

from edge.control.state import Station
from edge.control.station import start, step
from edge.events import EvseRead, Pilot, Tick
from edge.records import ClockQuality
from edge.uplink.schema import ConnectorMeter, ConnectorState
from edge.wiring import WALL_STEP_MS, Report
from tests.control.story import site

UNIX_MS = 1_800_000_000_000


class Board:
    """Where the one connector is shown: each other time since when it is in its state."""

    def __init__(self) -> None:
        self.since: list[int] = []

    def show_connector(self, state: ConnectorState) -> None:
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
