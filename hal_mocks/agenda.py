"""What will happen in a simulated world, in order of time and then of being asked for.

    agenda = Agenda()
    agenda.after_ms(500, car.plug_in)
    while agenda.next_us() is not None:
        agenda.run_next()

Time is an integer of microseconds and moves only when something happens: the same calls give the same world
on every machine and every version of Python.
"""

import heapq
from collections.abc import Callable


class Entry:
    """Something that will happen, unless it is cancelled."""

    __slots__ = ("at_us", "call", "cancelled")

    def __init__(self, at_us: int, call: Callable[[], object]) -> None:
        self.at_us = at_us
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        """Let it not happen."""
        self.cancelled = True


class Agenda:
    """The clock of a simulated world and everything that waits for it."""

    def __init__(self) -> None:
        self.now_us = 0
        self._entries: list[tuple[int, int, Entry]] = []
        self._asked = 0

    @property
    def now_ms(self) -> int:
        """Whole milliseconds since the beginning of the world."""
        return self.now_us // 1000

    def at_us(self, at_us: int, call: Callable[[], object]) -> Entry:
        """Call at that time; now, if that is over."""
        self._asked += 1
        entry = Entry(max(at_us, self.now_us), call)
        heapq.heappush(self._entries, (entry.at_us, self._asked, entry))
        return entry

    def at_ms(self, at_ms: int, call: Callable[[], object]) -> Entry:
        """Call at that time; now, if that is over."""
        return self.at_us(at_ms * 1000, call)

    def after_ms(self, ms: int, call: Callable[[], object]) -> Entry:
        """Call when so much time has passed."""
        return self.at_us(self.now_us + ms * 1000, call)

    def next_us(self) -> int | None:
        """When the next thing happens; None if nothing will."""
        while self._entries and self._entries[0][2].cancelled:
            heapq.heappop(self._entries)
        return self._entries[0][0] if self._entries else None

    def run_next(self) -> None:
        """Move to the next thing and let it happen; there must be one."""
        if self.next_us() is None:
            raise ValueError("nothing will ever happen")
        self.now_us, _, entry = heapq.heappop(self._entries)
        entry.call()

    def pass_to(self, at_us: int) -> None:
        """Let everything up to then happen, and make it then."""
        while (next_us := self.next_us()) is not None and next_us <= at_us:
            self.run_next()
        self.now_us = max(self.now_us, at_us)
