"""An asyncio event loop whose time jumps to the next timer, so that a day of waiting takes no time.

Only for code that waits on this loop alone: a thread, a socket or a process lives in real time.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Instead of sleeping until the next timer, moves the clock there."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                msg = "nothing will ever happen: no timer is set and nothing is ready"
                raise RuntimeError(msg)
            self.now_s += max(0.0, timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`loop.time()` starts at 0 and moves only when everything waits."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._jumping.now_s

    def now_ms(self) -> int:
        """Return virtual milliseconds, for whatever takes a clock."""
        return round(self._jumping.now_s * 1000)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run like `asyncio.run`, on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def now_ms() -> int:
    """Return the virtual milliseconds of the running loop."""
    return round(asyncio.get_running_loop().time() * 1000)
