"""Schedules: what holds at a moment against a walk through the minutes, and the hand on virtual time."""

import asyncio
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.events import Event, LimitSignalled, Phases
from edge.schedule import AGAIN_MS, LOOK_MS, SLACK_MS, Limit, Schedule, ScheduleHand, Window, limit_at
from edge.schedule import next_change_s as change_after
from hal_mocks import virtual_time
from hal_mocks.virtual_time import now_ms

DAY_MIN, WEEK_MIN = 24 * 60, 7 * 24 * 60
EVERY_DAY = tuple(range(7))
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # its clocks change by half an hour
    "America/St_Johns",
    "Africa/Casablanca",  # changes around Ramadan
    "Asia/Kathmandu",
    "Pacific/Apia",  # had no 30 December 2011
    "UTC",
)


def unix_s(text: str) -> int:
    """Seconds of "2026-03-29 00:59" in UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def clock_changes(zone: str) -> list[int]:
    """The hours of 2011 and 2024 to 2027 in which the offset from UTC changes."""
    found = []
    for year, years in ((2011, 1), (2024, 4)):
        first = unix_s(f"{year}-01-01")
        for at in range(first, first + years * 366 * 86_400, 3_600):
            one, other = (datetime.fromtimestamp(t, ZoneInfo(zone)).utcoffset() for t in (at, at + 3_600))
            if one != other:
                found.append(at)
    return found


CHANGES = {zone: clock_changes(zone) or [unix_s("2026-06-01")] for zone in ZONES}
CURRENTS = st.none() | st.tuples(*[st.sampled_from([0, 6_000, 16_000])] * 3)
MINUTES = st.integers(0, 23).map(lambda hour: hour * 60) | st.integers(0, DAY_MIN - 1)
WINDOWS = st.builds(
    Window,
    days=st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
    start_min=MINUTES,
    end_min=MINUTES | st.just(DAY_MIN),
    current_ma=CURRENTS,
    power_mw=st.none() | st.sampled_from([0, 4_200_000]),
).filter(lambda window: window.start_min != window.end_min)


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, int]:
    """Draw a zone and a second, mostly within days of a change of its clocks."""
    zone = draw(st.sampled_from(ZONES))
    return zone, draw(st.sampled_from(CHANGES[zone])) + draw(st.integers(-9 * 86_400, 2 * 86_400))


def schedule(zone: str, *windows: Window) -> Schedule:
    return Schedule("evening", "house", None, zone, windows)


class Walk:
    """The same by another way: a set of minutes of the week for each window, looked up minute by minute."""

    def __init__(self, plan: Schedule) -> None:
        self.zone = ZoneInfo(plan.time_zone)
        self.windows = [(self.minutes(window), window) for window in plan.windows]

    @staticmethod
    def minutes(window: Window) -> set[int]:
        length = (window.end_min - window.start_min) % DAY_MIN or DAY_MIN
        return {
            (day * DAY_MIN + window.start_min + k) % WEEK_MIN for day in window.days for k in range(length)
        }

    def at(self, second: int) -> Limit:
        local = datetime.fromtimestamp(second, self.zone)
        minute = local.weekday() * DAY_MIN + local.hour * 60 + local.minute
        held = [window for minutes, window in self.windows if minute in minutes]
        currents = [window.current_ma for window in held if window.current_ma]
        powers = [window.power_mw for window in held if window.power_mw is not None]
        each = [min(values) for values in zip(*currents, strict=True)]
        return Limit((each[0], each[1], each[2]) if each else None, min(powers) if powers else None)

    def change_after(self, second: int) -> int | None:
        before, first = self.at(second), second // 60 * 60 + 60
        walk = range(first, first + 8 * 86_400, 60)
        return next((at for at in walk if self.at(at) != before), None)


@settings(max_examples=150)
@given(moments(), st.lists(WINDOWS, min_size=1, max_size=3))
@example(("Pacific/Apia", unix_s("2011-12-30 09:00")), [Window((4,), 0, DAY_MIN, None, 0)])
def test_what_holds_and_until_when_is_what_a_walk_through_the_minutes_finds(
    moment: tuple[str, int], windows: list[Window]
) -> None:
    zone, second = moment
    plan = schedule(zone, *windows)
    walk = Walk(plan)
    assert limit_at(plan, second) == walk.at(second)
    found, expected = change_after(plan, second), walk.change_after(second)
    assert found == expected or (expected is None and found is not None and found > second + 8 * 86_400)


NIGHT = Window((4,), 22 * 60, 6 * 60, (10_000, 10_000, 10_000), None)
SPRING = Window(EVERY_DAY, 2 * 60 + 15, 3 * 60 + 15, None, 0)


@pytest.mark.parametrize(
    ("window", "moment", "holds", "change"),
    [
        (NIGHT, "2026-06-05 19:59", False, "2026-06-05 20:00"),  # Friday, two hours before local midnight
        (NIGHT, "2026-06-06 03:59", True, "2026-06-06 04:00"),  # Saturday morning belongs to Friday
        (NIGHT, "2026-06-04 22:00", False, "2026-06-05 20:00"),  # Friday morning does not
        (SPRING, "2026-03-29 00:59", False, "2026-03-29 01:00"),  # 02:15 is skipped; 03:00 is in the window
        (SPRING, "2026-03-29 01:14", True, "2026-03-29 01:15"),
        (SPRING, "2026-10-25 00:15", True, "2026-10-25 01:00"),  # 02:15 for the first time; then 02:00 again
        (SPRING, "2026-10-25 01:15", True, "2026-10-25 02:15"),  # and for the second time
        (Window(EVERY_DAY, 0, DAY_MIN, None, 0), "2026-06-05 19:59", True, None),
    ],
)
def test_a_window_is_read_off_the_clock_on_the_wall(
    window: Window, moment: str, holds: bool, change: str | None
) -> None:
    plan, second = schedule("Europe/Berlin", window), unix_s(moment)
    assert (limit_at(plan, second) != Limit(None, None)) == holds
    assert change_after(plan, second) == (None if change is None else unix_s(change))


def test_of_windows_that_overlap_the_lowest_of_each_holds() -> None:
    def window(current: Phases | None, power: int | None) -> Window:
        return Window(EVERY_DAY, 0, DAY_MIN, current, power)

    plan = schedule("UTC", window((16_000, 0, 10_000), None), window((10_000,) * 3, 5), window(None, 4))
    assert limit_at(plan, unix_s("2026-06-05")) == Limit((10_000, 0, 10_000), 4)


EVENING = Window(EVERY_DAY, 17 * 60, 20 * 60, (10_000, 10_000, 10_000), None)


def said(plan: Schedule, start: str, seconds: int, step: tuple[int, int] = (0, 0)) -> list[LimitSignalled]:
    """Run the hand from a moment on; after `step[0]` seconds the wall clock jumps by `step[1]` seconds."""
    begin_ms = unix_s(start) * 1000

    def wall_ms() -> int:
        return begin_ms + now_ms() + (step[1] * 1000 if now_ms() >= step[0] * 1000 else 0)

    async def main() -> list[Event]:
        events = list[Event]()
        task = asyncio.create_task(ScheduleHand(plan, now_ms, wall_ms).run(events.append))
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return events

    return [event for event in virtual_time.run(main()) if isinstance(event, LimitSignalled)]


def changes(events: list[LimitSignalled]) -> list[tuple[int, bool]]:
    """When, in seconds, a limit came or was lifted."""
    found: list[tuple[int, bool]] = []
    for event in events:
        if not found or found[-1][1] != (event.current_ma is not None):
            found.append((event.at_ms // 1000, event.current_ma is not None))
    return found


def test_the_hand_speaks_at_once_at_each_boundary_and_every_half_hour() -> None:
    events = said(schedule("UTC", EVENING), "2026-06-05 16:50", 4 * 3600)
    assert changes(events) == [(0, False), (600, True), (600 + 3 * 3600, False)]
    pauses = [later.at_ms - event.at_ms for event, later in pairwise(events)]
    assert max(pauses) <= AGAIN_MS + LOOK_MS
    assert min(pauses) >= LOOK_MS
    limit = events[1]
    assert (limit.source, limit.circuit, limit.connector) == ("evening", "house", None)
    assert (limit.current_ma, limit.power_mw) == ((10_000, 10_000, 10_000), None)


def each_is_in_force_until_the_next(events: list[LimitSignalled]) -> None:
    for event, later in pairwise(events):
        assert event.at_ms + event.valid_ms > later.at_ms


def test_every_word_holds_until_the_next_and_hardly_longer_than_its_window() -> None:
    events = said(schedule("UTC", EVENING), "2026-06-05 17:00", 3 * 3600)
    each_is_in_force_until_the_next(events)
    assert {event.at_ms + event.valid_ms for event in events} == {3 * 3600_000 + SLACK_MS}


def test_a_limit_without_an_end_is_said_again_before_it_expires() -> None:
    events = said(schedule("UTC", Window(EVERY_DAY, 0, DAY_MIN, None, 0)), "2026-06-05 16:50", 5 * 3600)
    each_is_in_force_until_the_next(events)
    assert 9 <= len(events) <= 11


@pytest.mark.parametrize("step_s", [3 * 3600, -3 * 3600, 90, -90])
def test_a_wall_clock_that_is_set_counts_within_a_minute(step_s: int) -> None:
    plan = schedule("UTC", EVENING)
    events = said(plan, "2026-06-05 18:00", 6 * 3600, step=(1000, step_s))
    each_is_in_force_until_the_next(events)
    # From a minute after the step on, the newest word is what the schedule says by the new clock.
    for second in range(1000 + LOOK_MS // 1000, 6 * 3600, 60):
        newest = [event for event in events if event.at_ms <= second * 1000][-1]
        wall = unix_s("2026-06-05 18:00") + second + step_s
        assert Limit(newest.current_ma, newest.power_mw) == limit_at(plan, wall)
