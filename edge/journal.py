"""The journal: what must survive a power cut. A named thread owns the file; the event loop asks and awaits.

Requests are served one by one, in the order they were made. A request whose caller was cancelled is still
served; one that was not begun within the deadline never is. The file itself is `edge.journal_file`.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

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


class Opened(Struct, frozen=True):
    """What `open` found: where a damaged journal was set aside, if it was, and what was wrong with it."""

    epoch: str  # 128 random bits in hex, made with the file
    quarantined: Path | None
    damage: str


class Journal:
    """Claims made durable, and the outbox where they wait (`ports.Outbox`). May raise `JournalError`."""

    def __init__(
        self, path: Path, *, station: str, wall: Wall, now_ms: NowMs, deadline_s: float = DEADLINE_S
    ) -> None:
        self._path = path
        self._station = station
        self._wall = wall
        self._now_ms = now_ms
        self._deadline_s = deadline_s
        self._requests: queue.Queue[Callable[[JournalFile], None] | None] = queue.Queue()
        self._file: Future[JournalFile] = Future()
        self._ended: Future[None] = Future()
        # A daemon thread: one that hangs on a dead disk shall not keep the process from ending.
        self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)

    async def open(self) -> Opened:
        """Lock the file, check it, bring it up to date. Once in the life of this object."""
        self._thread.start()
        try:
            await self._answer(self._file)
        except (JournalError, asyncio.CancelledError):
            self._requests.put(None)  # where it opens all the same, it shall close again
            raise
        return self.opened

    async def close(self) -> None:
        """Serve what was asked before, tidy the file, let go of the lock and end the thread."""
        if self._thread.is_alive():
            self._requests.put(None)
            await self._answer(self._ended)
            self._thread.join(self._deadline_s)

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
        if not self._file.done():
            raise JournalError(f"the journal {self._path} is not open")
        file = self._file.result()
        return Opened(file.epoch, file.quarantined, file.damage)

    @property
    def epoch(self) -> str:
        """The random name of this file's life; with station and `seq` it makes a claim unique for ever."""
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

    async def counts(self) -> dict[ClaimState, int]:
        """How many claims are in each state."""
        return await self._ask(lambda file: file.counts())

    def _stamp(self) -> Stamp:
        unix_ms, clock = self._wall()
        return Stamp(unix_ms, clock, self._now_ms())

    async def _ask(self, work: Callable[[JournalFile], T]) -> T:
        if not self._thread.is_alive():
            raise JournalError(f"the journal {self._path} is not open")
        answer: Future[T] = Future()
        self._requests.put(lambda file: _fulfil(answer, lambda: work(file)))
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

    def _serve(self) -> None:
        """Be the thread."""
        try:
            _fulfil(self._file, self._open_file)
            if not self._file.cancelled() and self._file.exception() is None:
                with closing(self._file.result()) as file:
                    while (serve := self._requests.get()) is not None:
                        serve(file)
        finally:
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
