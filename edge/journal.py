"""The journal: what must survive a power cut. A named thread owns the file; the event loop asks and awaits.

Requests are served one by one, in the order they were made. A request whose caller was cancelled is still
served; one that was not begun within the deadline never is. The file itself is `edge.journal_file`.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from msgspec import Struct

from edge.errors import JournalError
from edge.journal_file import JournalFile, Stamp
from edge.ports import NowMs
from edge.records import Claim, ClaimState, ClockQuality

T = TypeVar("T")

Wall = Callable[[], tuple[int, ClockQuality]]
"""Unix milliseconds, and what they are worth."""

DEADLINE_S = 10.0
"""A commit takes milliseconds, on a tired SD card a second; a disk that needs longer is a lost device."""


class Worker(Protocol):
    """Serves calls one by one beside the event loop, in the order they came."""

    def start(self) -> None:
        """Begin to serve."""

    def put(self, call: Callable[[], None] | None) -> None:
        """Serve this call when all before it are done; None is the last, and so is a call that raises."""

    def is_alive(self) -> bool:
        """Whether it serves."""

    def join(self, timeout: float) -> None:
        """Wait that long for its end."""


class WorkerThread:
    """A named thread as `Worker`."""

    def __init__(self, name: str) -> None:
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue()
        # A daemon thread: one that hangs on a dead disk shall not keep the process from ending.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self.start, self.is_alive, self.join = self._thread.start, self._thread.is_alive, self._thread.join
        self.put = self._calls.put

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


class Opened(Struct, frozen=True):
    """What `open` found: where a damaged journal was set aside, if it was, and what was wrong with it."""

    epoch: str  # 128 random bits in hex, made with the file
    life: str  # as many, drawn at this opening: what new claims are named by
    quarantined: Path | None
    damage: str


class Journal:
    """Claims made durable, and the outbox where they wait (`ports.Outbox`). May raise `JournalError`."""

    def __init__(
        self,
        path: Path,
        *,
        station: str,
        wall: Wall,
        now_ms: NowMs,
        deadline_s: float = DEADLINE_S,
        worker: Worker | None = None,
    ) -> None:
        self._path = path
        self._station = station
        self._wall = wall
        self._now_ms = now_ms
        self._deadline_s = deadline_s
        self._file: Future[JournalFile] = Future()
        self._ended: Future[None] = Future()
        self._worker = WorkerThread("journal") if worker is None else worker

    async def open(self) -> Opened:
        """Lock the file, check it, bring it up to date. Once in the life of this object."""
        self._worker.start()
        self._worker.put(lambda: _fulfil(self._file, self._open_file))
        try:
            await self._answer(self._file)
        except (JournalError, asyncio.CancelledError):
            self._last_request()  # where it opens all the same, it shall close again
            raise
        return self.opened

    async def close(self) -> None:
        """Serve what was asked before, tidy the file, let go of the lock and end the thread."""
        if self._worker.is_alive():
            self._last_request()
            await self._answer(self._ended)
            self._worker.join(self._deadline_s)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def opened(self) -> Opened:
        """What `open` found."""
        file = self._opened_file()
        return Opened(file.epoch, file.life, file.quarantined, file.damage)

    def _opened_file(self) -> JournalFile:
        if not self._file.done():
            raise JournalError(f"the journal {self._path} is not open")
        return self._file.result()

    @property
    def epoch(self) -> str:
        """The random name of this file, the same for as long as it exists."""
        return self.opened.epoch

    async def record(self, claim: Claim) -> None:
        """Return when this state of a claim is on disk.

        The first state must be OPEN, with a `seq` above all others; the same state twice is no change.
        `JournalError.full` tells a full disk from a broken one.
        """
        at = self._stamp()
        await self._ask(lambda file: file.record(claim, at))

    async def settle(self, claim_id: str, state: ClaimState, detail: str) -> bool:
        """See `ports.Outbox.settle`."""
        at = self._stamp()
        return await self._ask(lambda file: file.settle(claim_id, state, detail, at))

    async def pending(self, after_seq: int, limit: int) -> list[Claim]:
        """See `ports.Outbox.pending`."""
        return await self._ask(lambda file: file.pending(after_seq, limit))

    async def next_connection(self) -> int:
        """See `ports.Outbox.next_connection`."""
        return await self._ask(lambda file: file.next_connection())

    async def open_claims(self) -> list[Claim]:
        """Claims of sessions that ran when the journal was last in use, oldest first."""
        return await self._ask(lambda file: file.open_claims())

    async def next_seq(self) -> int:
        """The `seq` of the next new claim, from 1."""
        return await self._ask(lambda file: file.next_seq())

    def counts(self) -> dict[ClaimState, int]:
        """How many claims are in each state, as the last change left it; it waits for no disk."""
        return self._opened_file().counts

    def _stamp(self) -> Stamp:
        unix_ms, clock = self._wall()
        return Stamp(unix_ms, clock, self._now_ms())

    async def _ask(self, work: Callable[[JournalFile], T]) -> T:
        if not self._worker.is_alive():
            raise JournalError(f"the journal {self._path} is not open")
        answer: Future[T] = Future()
        self._worker.put(lambda: self._serve(answer, work))
        return await self._answer(answer)

    async def _answer(self, answer: Future[T]) -> T:
        """Await the thread's answer; `asyncio.wait` leaves the request alone when the caller is cancelled."""
        waiting = asyncio.wrap_future(answer)
        await asyncio.wait({waiting}, timeout=self._deadline_s)
        if not waiting.done():
            answer.cancel()  # has an effect only if the thread has not begun with it
            raise JournalError(
                f"the disk of the journal {self._path} did not answer within {self._deadline_s:g} s"
            )
        return waiting.result()

    # In the worker.

    def _serve(self, answer: Future[T], work: Callable[[JournalFile], T]) -> None:
        try:
            _fulfil(answer, lambda: work(self._file.result()))
        except BaseException:  # a bug: let go of the file before the worker ends by it
            self._end()
            raise

    def _last_request(self) -> None:
        self._worker.put(self._end)
        self._worker.put(None)

    def _end(self) -> None:
        if self._file.done() and not self._file.cancelled() and self._file.exception() is None:
            self._file.result().close()
        _fulfil(self._ended, lambda: None)

    def _open_file(self) -> JournalFile:
        unix_ms, _ = self._wall()
        return JournalFile(self._path, station=self._station, unix_ms=unix_ms)


def _fulfil(answer: Future[T], work: Callable[[], T]) -> None:
    """Answer with a result or a `JournalError`. Anything else is a bug: it ends the thread and the caller."""
    if not answer.set_running_or_notify_cancel():
        return  # nobody waits for it any more
    try:
        answer.set_result(work())
    except JournalError as error:
        answer.set_exception(error)
    finally:
        if not answer.done():
            answer.set_exception(
                RuntimeError("the journal's thread ended by a bug; its traceback was printed")
            )
