"""Limits by the time of day: what a schedule says at a moment, when that changes, and the hand that says so.

A window is meant as people read the clock on the wall: it holds while the local time is in it. So an hour
that is skipped when clocks go forward is in no window, and one that comes twice is in its windows twice.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import reduce
from itertools import pairwise
from zoneinfo import ZoneInfo

from msgspec import Struct

from edge.events import LimitSignalled, Phases
from edge.ports import NowMs, Put

UnixMs = Callable[[], int]
"""Milliseconds of Unix time by the clock there is, synchronised or not."""

LOOK_MS = 60_000
"""How often the wall clock is looked at: a clock that is set counts within a minute."""

AGAIN_MS = 30 * 60_000
"""How often the same is said again; half of what a word without an end is good for."""

LASTING_MS = 2 * AGAIN_MS
"""How long a word is good for that no window ends."""

SLACK_MS = 5_000
"""A word is good for this much longer than its window, so that the next one finds it in force."""

STEP_MS = 1_000
"""A smaller difference between wall clock and monotonic clock than `SLACK_MS` need not be told."""

HORIZON_DAYS = 8
"""Windows repeat every week: what has not changed by then never does."""


class Window(Struct, frozen=True):
    """When a limit holds, in minutes of the local day; an end not after the start is on the next day."""

    days: tuple[int, ...]  # on which it starts, 0 = Monday
    start_min: int  # 0 to 1439
    end_min: int  # 0 to 1440, not held any more
    current_ma: Phases | None
    power_mw: int | None


class Schedule(Struct, frozen=True):
    """The windows of one source for one place: `circuit` by id or `connector` by number, the other None."""

    source: str
    circuit: str | None
    connector: int | None
    time_zone: str  # IANA name
    windows: tuple[Window, ...]


class Limit(Struct, frozen=True):
    """What holds at a moment; both None outside of every window."""

    current_ma: Phases | None
    power_mw: int | None


def limit_at(schedule: Schedule, unix_s: int) -> Limit:
    """The limit at a moment: of all windows that hold, the lowest value of each kind and phase."""
    local = datetime.fromtimestamp(unix_s, ZoneInfo(schedule.time_zone))
    minute, today = local.hour * 60 + local.minute, local.weekday()
    held = [window for window in schedule.windows if _holds(window, today, minute)]
    currents = [window.current_ma for window in held if window.current_ma is not None]
    powers = [window.power_mw for window in held if window.power_mw is not None]
    return Limit(
        reduce(_lower, currents) if currents else None,
        min(powers, default=None),
    )


def next_change_s(schedule: Schedule, unix_s: int) -> int | None:
    """The first Unix second after `unix_s` at which another limit holds; None if there is none in a week."""
    now = limit_at(schedule, unix_s)
    return next((at for at in _marks(schedule, unix_s) if limit_at(schedule, at) != now), None)


def _lower(one: Phases, other: Phases) -> Phases:
    return min(one[0], other[0]), min(one[1], other[1]), min(one[2], other[2])


def _holds(window: Window, today: int, minute: int) -> bool:
    if window.start_min < window.end_min:
        return today in window.days and window.start_min <= minute < window.end_min
    since_yesterday = (today - 1) % 7 in window.days and minute < window.end_min
    return since_yesterday or (today in window.days and minute >= window.start_min)


def _marks(schedule: Schedule, unix_s: int) -> list[int]:
    """Every second after `unix_s` at which the limit may change: edges of windows, changes of the clocks."""
    zone = ZoneInfo(schedule.time_zone)
    midnight = datetime.fromtimestamp(unix_s, zone).replace(hour=0, minute=0, second=0, tzinfo=None)
    edges = {minute for window in schedule.windows for minute in (window.start_min, window.end_min)}
    marks = {unix_s}
    for day in range(-1, HORIZON_DAYS + 1):
        for edge in edges:
            local = midnight + timedelta(days=day, minutes=edge)
            # A time that comes twice has a `fold` of 0 and of 1; one that is skipped is only near the skip.
            marks |= {int(local.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1)}
    ahead = sorted(at for at in marks if at >= unix_s)
    return sorted({*ahead[1:], *_clock_changes(zone, ahead)})


def _clock_changes(zone: ZoneInfo, marks: list[int]) -> Iterator[int]:
    """The first second of another offset from UTC, for each pair of neighbours between which it changes."""

    def offset(at: int) -> timedelta | None:
        return datetime.fromtimestamp(at, zone).utcoffset()

    for before, after in pairwise(marks):
        low, high = before, after
        if offset(low) == offset(high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offset(before) else (low, middle)
        yield high


class _Word(Struct, frozen=True):
    """What holds, and until when by the monotonic clock; None: no window ends it."""

    limit: Limit
    at_ms: int
    change_ms: int | None

    def is_news_after(self, said: "_Word") -> bool:
        """Whether it has to be said, since `said` was."""
        if self.limit != said.limit or self.at_ms - said.at_ms >= AGAIN_MS:
            return True
        if self.change_ms is None or said.change_ms is None:
            return self.change_ms is not said.change_ms
        return abs(self.change_ms - said.change_ms) > STEP_MS


class ScheduleHand:
    """Says what a schedule says: at once, at every change, and again and again."""

    def __init__(self, schedule: Schedule, now_ms: NowMs, unix_ms: UnixMs) -> None:
        self._schedule = schedule
        self._now_ms = now_ms
        self._unix_ms = unix_ms

    async def run(self, put: Put) -> None:
        """Feed `LimitSignalled` until cancelled."""
        said: _Word | None = None
        while True:
            word = self._word()
            if said is None or word.is_news_after(said):
                put(self._signal(word))
                said = word
            pause_ms = LOOK_MS if word.change_ms is None else min(LOOK_MS, word.change_ms - word.at_ms)
            await asyncio.sleep(pause_ms / 1000)

    def _word(self) -> _Word:
        at_ms, unix_ms = self._now_ms(), self._unix_ms()
        change_s = next_change_s(self._schedule, unix_ms // 1000)
        change_ms = None if change_s is None else at_ms + change_s * 1000 - unix_ms
        return _Word(limit_at(self._schedule, unix_ms // 1000), at_ms, change_ms)

    def _signal(self, word: _Word) -> LimitSignalled:
        lasts_ms = LASTING_MS if word.change_ms is None else word.change_ms - word.at_ms
        return LimitSignalled(
            at_ms=word.at_ms,
            source=self._schedule.source,
            circuit=self._schedule.circuit,
            connector=self._schedule.connector,
            current_ma=word.limit.current_ma,
            power_mw=word.limit.power_mw,
            valid_ms=lasts_ms + SLACK_MS,
        )
