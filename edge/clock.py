"""The two clocks: monotonic for deciding, wall time with its quality for records."""

import ctypes
import time

from edge.records import ClockQuality

_TIME_ERROR = 5
"""adjtimex(2): the kernel clock is not synchronised. Every NTP daemon clears it, whichever runs."""

_TIMEX_BYTES = 208
"""sizeof(struct timex) on 64-bit Linux; smaller on 32-bit. Zeroed `modes` asks without changing."""


def now_ms() -> int:
    """CLOCK_MONOTONIC in ms: since boot, the clock of asyncio's loop, comparable between two processes."""
    return time.monotonic_ns() // 1_000_000


def wall() -> tuple[int, ClockQuality]:
    """Unix time in ms and what it is worth."""
    return time.time_ns() // 1_000_000, quality()


def quality() -> ClockQuality:
    """Whether the kernel says the wall clock is disciplined."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    return ClockQuality.UNSYNCED if state in (-1, _TIME_ERROR) else ClockQuality.SYNCED
