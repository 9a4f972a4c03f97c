"""A disk that forgets at a power cut what was not synced, for SQLite in this process.

    with Disk(folder) as disk:
        disk.stop_after(writes=40)
        ...                                  # a life: sqlite3.connect(folder / "journal") and so on
        disk.survivors(next_folder, power_cut=True, dice=Random(1))

The folder is a real one, best in memory (`/dev/shm`). SQLite reads and writes its files there and never waits
for a sync; `forgetful_vfs.c`, compiled at first use, keeps beside each what would be left of it. A file that
SQLite had open before its folder was watched is not known.

Connections that lived when the machine stopped may be closed whenever it suits, also after the disk. The next
life has a folder of its own, because SQLite keeps the locks of the whole process in one place.

What the disk forgets is bytes. Creating, deleting, renaming and truncating a file last at once.
"""

import atexit
import ctypes
import fcntl
import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""

DRAWN_BYTES = 256
"""What SQLite takes at most to seed its random numbers; also in forgetful_vfs.c."""

_SOURCE = Path(__file__).with_name("forgetful_vfs.c")
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread")

_COMPILE_S = 120
"""Far more than gcc takes on a small board."""


class CannotForget(RuntimeError):  # as `Crashed`: it says what is so
    """The forgetful disk is not to be had here; the text says what to do."""


class Disk:
    """The files directly in one folder, and what a crash would leave of them.

    The sum of its writes and syncs orders everything that SQLite does to the disk. Truncations and deletions
    count as writes.
    """

    def __init__(self, folder: Path) -> None:
        self._library = _library()
        name = os.fsencode(folder.resolve(strict=True)) + b"/"
        self._disk: int | None = self._library.forgetful_watch(name)
        if self._disk is None:
            raise CannotForget(f"{folder} is watched by another disk, or there is no memory")
        self._full = False
        self._failing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the folder; whoever still has a file open in it gets errors. Twice is once."""
        if self._disk is not None:
            self._library.forgetful_close(self._disk)
            self._disk = None

    @property
    def writes(self) -> int:
        """Writes, truncations and deletions that were done."""
        return int(self._library.forgetful_writes(self._open))

    @property
    def syncs(self) -> int:
        """Syncs that were asked for and did not fail."""
        return int(self._library.forgetful_syncs(self._open))

    @property
    def stopped(self) -> bool:
        """Whether the machine stands still: everything asked of the disk fails, and nothing changes on it."""
        return bool(self._library.forgetful_stopped(self._open))

    @property
    def full(self) -> bool:
        """Full means: the files together may not take more than they did when it became so (SQLITE_FULL).

        So who makes one smaller, as the journal does with its reserve, may write as much into another.
        """
        return self._full

    @full.setter
    def full(self, full: bool) -> None:
        if not self._library.forgetful_set_full(self._open, int(full)):
            raise CannotForget("the folder cannot be read")
        self._full = full

    @property
    def failing(self) -> bool:
        """Failing means: writes, syncs, truncations and deletions are errors (SQLITE_IOERR_WRITE ...)."""
        return self._failing

    @failing.setter
    def failing(self, failing: bool) -> None:
        self._library.forgetful_set_failing(self._open, int(failing))
        self._failing = failing

    def stop_after(self, *, writes: int) -> None:
        """Stop the machine at that write or sync from now: the write is still done, the sync is not.

        Either way SQLite is told that it failed, as the one who asked is dead.
        """
        if writes < 1:
            raise ValueError("the first write from now has number 1; `stop` stops at once")
        self._library.forgetful_stop_after(self._open, writes)

    def stop(self) -> None:
        """Stop the machine now."""
        self._library.forgetful_stop(self._open)

    def survivors(self, to: Path, *, power_cut: bool, dice: random.Random) -> None:
        """Make the folder `to` and copy into it what the next life would find; the disk stays as it is.

        A killed process leaves all that was written. A power cut leaves what was synced, and of each later
        write all, nothing, some sectors, or only the room it took, filled with zeros. Locks and the shared
        memory of SQLite (*.lock, *-shm) are left behind.
        """
        to.mkdir()
        for image in self._images():
            content = image.after_power_cut(dice) if power_cut else image.as_written()
            copy = to / image.name
            copy.write_bytes(content)
            copy.chmod(image.mode)

    @property
    def _open(self) -> int:
        if self._disk is None:
            raise ValueError("the disk is closed")
        return self._disk

    def _images(self) -> "list[_Image]":
        snapshot = self._library.forgetful_snapshot(self._open)
        if not snapshot:
            raise CannotForget("the files could not be copied when the machine stopped, or now")
        try:
            found = snapshot.contents
            images = [_image(found.images[i]) for i in range(found.count)]
        finally:
            self._library.forgetful_give_back(self._open, snapshot)
        return sorted(images, key=lambda image: image.name)  # the system lists them as it likes


def seed_sqlite(dice: random.Random | None) -> None:
    """Let SQLite's random numbers in this process follow from the dice; None: be unforeseeable again.

    They make the salts of its write-ahead log and all that SQL's random() and randomblob() give.
    """
    _library().forgetful_draw(None if dice is None else dice.randbytes(DRAWN_BYTES))


@dataclass(frozen=True)
class _Write:
    offset: int
    content: bytes


@dataclass(frozen=True)
class _Image:
    """A file: what is durable, and what was written since."""

    name: str
    mode: int
    durable: bytes
    writes: tuple[_Write, ...]

    def as_written(self) -> bytes:
        content = bytearray(self.durable)
        for write in self.writes:
            _put(content, write.offset, write.content)
        return bytes(content)

    def after_power_cut(self, dice: random.Random) -> bytes:
        """Throw the dice for every write; how much the disk had done by itself is thrown for once."""
        content = bytearray(self.durable)
        done = dice.random()
        for write in self.writes:
            if dice.random() < done:
                _put(content, write.offset, write.content)
                continue
            match dice.randrange(3):
                case 0:  # nothing
                    pass
                case 1:  # its room
                    _grow(content, write.offset + len(write.content))
                case _:
                    for piece in _sectors(write):
                        if dice.random() < 0.5:
                            _put(content, piece.offset, piece.content)
        return bytes(content)


def _sectors(write: _Write) -> Iterator[_Write]:
    """Cut a write where the sectors of the disk end."""
    at, end = write.offset, write.offset + len(write.content)
    while at < end:
        until = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield _Write(at, write.content[at - write.offset : until - write.offset])
        at = until


def _grow(content: bytearray, size: int) -> None:
    content.extend(bytes(max(0, size - len(content))))


def _put(content: bytearray, offset: int, piece: bytes) -> None:
    _grow(content, offset)
    content[offset : offset + len(piece)] = piece


class _CWrite(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_int64), ("length", ctypes.c_int64), ("at", ctypes.c_int64))


class _CImage(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("mode", ctypes.c_uint32),
        ("size", ctypes.c_int64),
        ("write_count", ctypes.c_int64),
        ("durable", ctypes.c_void_p),
        ("writes", ctypes.POINTER(_CWrite)),
        ("log", ctypes.c_void_p),
    )


class _CSnapshot(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int64), ("images", ctypes.POINTER(_CImage)))


def _image(found: _CImage) -> _Image:
    cut = [found.writes[i] for i in range(found.write_count)]
    return _Image(
        name=os.fsdecode(found.name),
        mode=found.mode,
        durable=ctypes.string_at(found.durable, found.size),
        writes=tuple(_Write(w.offset, ctypes.string_at(found.log + w.at, w.length)) for w in cut),
    )


@cache
def _library() -> ctypes.CDLL:
    """The compiled VFS, SQLite's default from now on; it stays so until the process ends."""
    try:
        library = ctypes.CDLL(str(_compiled()))
    except OSError as error:
        raise CannotForget(f"the compiled disk cannot be loaded: {error}") from error
    disk, snapshot = ctypes.c_void_p, ctypes.POINTER(_CSnapshot)
    for name, result, arguments in (
        ("sqlite_version", ctypes.c_char_p, ()),
        ("register", ctypes.c_int, ()),
        ("draw", None, (ctypes.c_char_p,)),
        ("watch", disk, (ctypes.c_char_p,)),
        ("close", None, (disk,)),
        ("stop_after", None, (disk, ctypes.c_int64)),
        ("stop", None, (disk,)),
        ("set_failing", None, (disk, ctypes.c_int)),
        ("set_full", ctypes.c_int, (disk, ctypes.c_int)),
        ("writes", ctypes.c_int64, (disk,)),
        ("syncs", ctypes.c_int64, (disk,)),
        ("stopped", ctypes.c_int, (disk,)),
        ("snapshot", snapshot, (disk,)),
        ("give_back", None, (disk, snapshot)),
    ):
        function = getattr(library, f"forgetful_{name}")
        function.restype, function.argtypes = result, arguments
    _register(library)
    return library


def _register(library: ctypes.CDLL) -> None:
    """Make it the VFS of Python's SQLite, and see that it is."""
    version = library.forgetful_sqlite_version().decode()
    if version != sqlite3.sqlite_version:
        raise CannotForget(f"Python's SQLite is {sqlite3.sqlite_version}, the system's is {version}")
    if not library.forgetful_register():
        raise CannotForget("SQLite's default VFS is not its own for Unix; nothing can stand before it")
    try:  # the same version may still be there twice
        sqlite3.connect("file::memory:?vfs=forgetful", uri=True).close()
    except sqlite3.OperationalError as error:
        raise CannotForget(
            f"Python has an SQLite of its own inside ({error}); take one that is linked with the system's"
            " libsqlite3, as Debian's is"
        ) from error


def _compiled() -> Path:
    """The shared library made of this source with these flags, from the user's cache if it is there."""
    words = (os.uname().machine, os.confstr("CS_GNU_LIBC_VERSION") or "", *_FLAGS)
    what = hashlib.sha256("\0".join(words).encode() + _SOURCE.read_bytes())
    made = _cache() / f"forgetful_vfs-{what.hexdigest()[:16]}.so"
    with _alone(made.with_suffix(".lock")):  # two at once would both be right, but slow
        if not made.exists():
            unfinished = made.with_suffix(f".{os.getpid()}")
            _compile(unfinished)
            unfinished.replace(made)
    return made


def _compile(to: Path) -> None:
    command = ["gcc", *_FLAGS, "-o", str(to), str(_SOURCE), "-lsqlite3"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_S, check=False)
    except FileNotFoundError:
        raise CannotForget("the forgetful disk needs gcc (apt install gcc libc6-dev)") from None
    if done.returncode:
        raise CannotForget(
            f"the forgetful disk does not compile (apt install libsqlite3-dev libc6-dev?):\n{done.stderr}"
        )


def _cache() -> Path:
    """A folder of this user, kept if possible. Never a shared one: what lies there is loaded as code."""
    try:
        kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-controller"
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(kept, os.W_OK):
            return kept
    except (OSError, RuntimeError):  # RuntimeError: no home
        pass
    passing = tempfile.mkdtemp(prefix="forgetful-")
    atexit.register(shutil.rmtree, passing)
    return Path(passing)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
