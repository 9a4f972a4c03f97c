"""What the journal asks of its disk besides SQLite: a lock against a second process, room when it is full."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.errors import JournalError

MIB = 1 << 20

MIN_FREE_BYTES = 4 * MIB
"""Below this no session starts. It holds about a thousand more sessions: whoever eats the disk is somebody
else, and what runs shall still find room beside him."""

RESERVE_BYTES = 1 * MIB
"""Held back for what must be written when all else is full: the closing of running sessions, the backend's
answers. A closing takes some 20 KiB, a station has a handful of connectors."""

RESERVE_STEP_BYTES = 64 << 10
"""Given up at a time, so that a greedy neighbour cannot take it all: more than one transaction writes."""


class Reserve:
    """A file of real blocks, made smaller when the disk is full and whole again when space returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> bool:
        """Make it whole if that leaves the minimum free; False if there is not that much room."""
        held = self._held_bytes()
        if free_bytes(self._path.parent) < MIN_FREE_BYTES + RESERVE_BYTES - held:
            return False
        if held < RESERVE_BYTES:
            with suppress(OSError), self._opened() as fd:  # somebody may be quicker: what is held decides
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
        return self._held_bytes() >= RESERVE_BYTES

    def give_up_a_step(self) -> bool:
        """Return some of its blocks to the disk; False when nothing is left."""
        held = self._held_bytes()
        if held == 0:
            return False
        with self._opened() as fd:
            os.ftruncate(fd, max(0, held - RESERVE_STEP_BYTES))
        return True

    def _held_bytes(self) -> int:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return 0
        return min(status.st_size, status.st_blocks * 512)  # st_blocks counts 512 bytes each, stat(2)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file. Raises `JournalError` with the holder's number; the kernel unlocks when he dies."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise JournalError(f"process {holder} has it open: end that one first") from None
        with suppress(OSError):  # on a full disk the number is missing, the lock is not
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def free_bytes(directory: Path) -> int:
    """How much an ordinary user may still write."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def beside(path: Path, suffix: str) -> Path:
    """The file that belongs to `path`, under its name with a suffix."""
    return path.with_name(path.name + suffix)


def sync_directory(directory: Path) -> None:
    """Make the names of new and renamed files durable; syncing a file does not do that, fsync(2)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
