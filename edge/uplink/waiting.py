"""What waits in memory while the operator is away or slow: announcements, and the next copy of each claim."""

from collections import deque
from collections.abc import Callable

from msgspec.structs import replace

from edge.uplink.schema import Announcement

# Enough for a night of trouble, small enough to forget about: about 300 kB.
MAX_ANNOUNCEMENTS = 1000


Uniform = Callable[[float, float], float]
"""A random number between two bounds; random.Random.uniform."""


class Announcements:
    """A ring of the newest announcements. The oldest give way, and the next one that is sent counts them."""

    def __init__(self, room: int = MAX_ANNOUNCEMENTS) -> None:
        self._ring: deque[Announcement] = deque()
        self._room = room
        self._dropped = 0

    def add(self, announcement: Announcement) -> None:
        """Take one in; never fails and never waits."""
        if len(self._ring) == self._room:
            self._ring.popleft()
            self._dropped += 1
        self._ring.append(announcement)

    def take(self) -> Announcement | None:
        """Take the oldest out, None if there is none. Give it back with `put_back` if it cannot be sent."""
        if not self._ring:
            return None
        oldest = replace(self._ring.popleft(), dropped=self._dropped)
        self._dropped = 0
        return oldest

    def put_back(self, announcement: Announcement) -> None:
        """Make it the oldest again, or count it as dropped when its place is gone."""
        self._dropped += announcement.dropped
        if len(self._ring) == self._room:
            self._dropped += 1
        else:
            self._ring.appendleft(announcement)


class _Try:
    """A copy was sent; the next is due at `due_ms`, and the one after that `wait_ms` later."""

    __slots__ = ("due_ms", "wait_ms")

    def __init__(self, due_ms: int, wait_ms: int) -> None:
        self.due_ms = due_ms
        self.wait_ms = wait_ms


class Tries:
    """Which claims, by seq, were sent on this connection and wait for the backend's answer.

    The wait doubles from `first_ms` to `longest_ms` and lasts between half and all of that at random: spread
    out, but never so short that the answer could not have come. A claim whose wait is over has left the
    window, so claims the backend never answers cannot block the others.
    """

    def __init__(self, first_ms: int, longest_ms: int, uniform: Uniform) -> None:
        self._first_ms = first_ms
        self._longest_ms = longest_ms
        self._uniform = uniform
        self._tries: dict[int, _Try] = {}

    def __contains__(self, seq: int) -> bool:
        return seq in self._tries

    def sent(self, seq: int, now_ms: int) -> None:
        """A copy was sent now."""
        attempt = self._tries.setdefault(seq, _Try(0, self._first_ms))
        attempt.due_ms = now_ms + round(attempt.wait_ms * self._uniform(0.5, 1.0))
        attempt.wait_ms = min(self._longest_ms, 2 * attempt.wait_ms)

    def answered(self, seq: int) -> None:
        """The backend answered; nothing to do if it was not waited for."""
        self._tries.pop(seq, None)

    def in_flight(self, now_ms: int) -> int:
        """How many were sent and may still be answered in time."""
        return sum(attempt.due_ms > now_ms for attempt in self._tries.values())

    def due(self, now_ms: int) -> int | None:
        """The claim that waited longest for its next copy, if any is due."""
        seq = min(self._tries, key=lambda seq: self._tries[seq].due_ms, default=None)
        return seq if seq is not None and self._tries[seq].due_ms <= now_ms else None

    def next_due_ms(self, now_ms: int) -> int | None:
        """When the next wait after `now_ms` ends, None if none is running."""
        return min((a.due_ms for a in self._tries.values() if a.due_ms > now_ms), default=None)
