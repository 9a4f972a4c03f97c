"""An asyncio event loop whose time jumps to the next thing that happens, so that a day takes seconds.

    loop = VirtualTimeLoop(agenda)        # what happens in the agenda happens while the loop waits
    loop.run_until_complete(main())       # an agenda's call may raise: that ends the run, as a kill would

For code that waits on this loop and this agenda alone: a thread or a process lives in real time. Sockets
within this process do work. A negative file descriptor is a line of `memory_serial`.
"""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from hal_mocks.agenda import Agenda

T = TypeVar("T")


LOOK_EVERY = 20
"""Turns of a loop that has work, after which it asks the kernel about descriptors nevertheless; before time
moves it always asks."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of sleeping until the next timer, lets the world go on until then."""

    def __init__(self, agenda: Agenda, given: Callable[[], int]) -> None:
        """`given` counts what the loop was given to do, or to wait for."""
        super().__init__()
        self.agenda = agenda
        self._given = given
        self._turns = 0  # since descriptors were looked at

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0 and self._turns < LOOK_EVERY:
            self._turns += 1
            return []
        self._turns = 0
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        agenda = self.agenda
        due_us = None if timeout is None else agenda.now_us + max(0, round(timeout * 1e6))
        given = self._given()
        while not ready and self._given() == given:
            next_us = agenda.next_us()
            if next_us is not None and (due_us is None or next_us <= due_us):
                agenda.run_next()
            elif due_us is not None:
                agenda.now_us = due_us
            else:
                msg = "nothing will ever happen: no timer is set and nothing is ready"
                raise RuntimeError(msg)
            if agenda.now_us == due_us:
                break
            ready = super().select(0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`loop.time()` is the agenda's and moves only when everything waits."""

    _ready: deque[asyncio.Handle]  # asyncio's own
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, agenda: Agenda | None = None) -> None:
        self._jumping = _JumpingSelector(Agenda() if agenda is None else agenda, self._handles)
        super().__init__(self._jumping)
        self._clock_resolution = 1e-6  # a timer due in the present microsecond is due
        self._readers: dict[int, Callable[[], object]] = {}

    @property
    def agenda(self) -> Agenda:
        """What happens while the loop waits; another one may take its place."""
        return self._jumping.agenda

    @agenda.setter
    def agenda(self, agenda: Agenda) -> None:
        self._jumping.agenda = agenda

    def _handles(self) -> int:
        return len(self._ready) + len(self._scheduled)

    def time(self) -> float:
        """Return virtual seconds since the beginning of the world."""
        return self._jumping.agenda.now_us / 1e6

    def now_ms(self) -> int:
        """Return virtual milliseconds, for whatever takes a clock."""
        return self._jumping.agenda.now_ms

    def call_soon_threadsafe(  # type: ignore[override]  # typeshed uses its own type variables
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call soon; there are no threads here, so nobody has to be woken."""
        return self.call_soon(callback, *args, context=context)

    # Lines in memory: a port has bytes to read whenever it says so, and can always be written to.

    def add_reader(  # type: ignore[override]  # typeshed uses its own type variables
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Watch a file descriptor, or a line in memory."""
        if isinstance(fd, int) and fd < 0:
            self._readers[fd] = lambda: callback(*args)
        else:
            super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        """Watch it no longer."""
        if isinstance(fd, int) and fd < 0:
            return self._readers.pop(fd, None) is not None
        return super().remove_reader(fd)

    def add_writer(  # type: ignore[override]  # typeshed uses its own type variables
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call when it can be written to, which a line in memory always can."""
        if isinstance(fd, int) and fd < 0:
            callback(*args)
        else:
            super().add_writer(fd, callback, *args)

    def remove_writer(self, fd: Any) -> bool:
        """Call no longer."""
        return False if isinstance(fd, int) and fd < 0 else super().remove_writer(fd)

    def readable(self, fd: int) -> None:
        """Bytes, or the end, have come on a line in memory."""
        if fd in self._readers:
            self._readers[fd]()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run like `asyncio.run`, on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def now_ms() -> int:
    """Return the virtual milliseconds of the running loop."""
    return round(asyncio.get_running_loop().time() * 1000)
