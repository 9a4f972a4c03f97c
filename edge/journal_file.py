"""The journal's file: claims and all their changes, in SQLite. Synchronous; `edge.journal` gives it a thread.

The rules of a claim's life stand in `_SCHEMA` and are kept by the database itself. A claim and the entry
that tells of its change are written in one transaction; the outbox is the claims in state "closed".

Files beside PATH: PATH-wal and PATH-shm (SQLite's), PATH.lock (one process at a time), PATH.reserve
(room kept for closing sessions on a full disk), PATH.corrupt-<unix> (damaged, kept for a person).

A `JournalError` means "not known to be durable": a commit that failed half-way may still be found after a
power cut. Recording the same state again is always right.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from edge.disk import (
    MIB,
    MIN_FREE_BYTES,
    RESERVE_BYTES,
    Reserve,
    beside,
    exclusive,
    free_bytes,
    sync_directory,
)
from edge.errors import JournalError
from edge.records import Claim, ClaimState, ClockQuality

T = TypeVar("T")

WAL_PAGES = 128
"""Pages of 4 KiB that the write-ahead log grows to before SQLite moves them: half of `RESERVE_BYTES`, so that
log and file can both grow on a full disk."""

BUSY_TIMEOUT_S = 5.0
"""How long a tool that reads the file may hold us up; half of what `edge.journal` waits for an answer."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random, the same until the next boot; random(4)

# Body is the JSON of `records.Claim`; quick_check evaluates the CHECKs, so they find bit rot as well.
# `claim_by_state` serves the outbox, the open claims and the counts without reading a body.
# claim_seq is NULL for entries that tell of something else than a claim.
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', lower(hex(randomblob(16)))), ('connections', 0);

CREATE TABLE claim (
    seq INTEGER PRIMARY KEY CHECK (seq > 0),
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    body TEXT NOT NULL CHECK (
        json_valid(body) AND json_extract(body, '$.seq') = seq
        AND json_extract(body, '$.id') = id AND json_extract(body, '$.state') = state
    )
) STRICT;
CREATE INDEX claim_by_state ON claim (state);

CREATE TABLE entry (
    n INTEGER PRIMARY KEY,
    unix_ms INTEGER NOT NULL,
    clock TEXT NOT NULL,
    mono_ms INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    claim_seq INTEGER REFERENCES claim (seq),
    detail TEXT NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body))
) STRICT;

CREATE TRIGGER claim_starts_open BEFORE INSERT ON claim
WHEN NEW.state <> 'open' OR NEW.seq <= (SELECT coalesce(max(seq), 0) FROM claim)
BEGIN SELECT RAISE(ABORT, 'a new claim is open and has the highest seq'); END;

CREATE TRIGGER claim_moves_forward BEFORE UPDATE ON claim
WHEN NEW.seq <> OLD.seq OR NEW.id <> OLD.id OR (OLD.state, NEW.state) NOT IN (VALUES
    ('open', 'open'), ('open', 'closed'), ('open', 'voided'), ('closed', 'settled'), ('closed', 'rejected'))
BEGIN SELECT RAISE(ABORT, 'a claim goes open -> closed -> settled or rejected, or open -> voided'); END;

CREATE TRIGGER claim_stays BEFORE DELETE ON claim
BEGIN SELECT RAISE(ABORT, 'claims are never deleted'); END;

CREATE TRIGGER entry_is_final BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END;

CREATE TRIGGER entry_stays BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'entries are never deleted'); END;
"""

MIGRATIONS = (_SCHEMA,)
"""The script at index v takes a file from user_version v to v + 1. Released scripts are never edited."""

# The file first: when it is missing, the next start knows that its log belongs to no new file.
_SQLITE_FILES = ("", "-wal", "-shm")

# What a session is from its start; the rest is filled in while it runs.
_FIXED = ("id", "seq", "connector", "contract", "credential", "tariff", "meter", "start_wh", "opened_unix_ms")

_ANSWERED = (ClaimState.SETTLED, ClaimState.REJECTED)

# Primary result codes, the low byte of an extended code (sqlite.org/rescode.html).
_DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Stamp(Struct, frozen=True):
    """When somebody asked for a change: Unix time and its quality, and milliseconds since boot."""

    unix_ms: int
    clock: ClockQuality
    mono_ms: int


class _DamagedError(Exception):
    """The file is not what was written; the text is SQLite's finding."""


class JournalFile:
    """The open file and its lock, for one thread. Every method may raise `JournalError`.

    A damaged file is set aside (`quarantined`, with SQLite's finding in `damage`); a new one with a new
    `epoch` takes its place.

    `life` are 128 random bits in hex, drawn each time the file is opened. They make the ids of new claims
    unique: the file itself cannot, as an old copy of it (an image put back) counts the same `seq` again,
    knows nothing of the claims the backend has had since, and cannot notice.
    """

    def __init__(self, path: Path, *, station: str, unix_ms: int) -> None:
        self._path = path
        self._reserve = Reserve(beside(path, ".reserve"))
        self.counts: dict[ClaimState, int] = {}  # how many claims are in each state; never changed, replaced
        self._counted = True  # whether that is so
        self.quarantined: Path | None = None
        self.damage = ""
        with ExitStack() as opened, _named(f"the journal {path} cannot be opened"):
            if not path.parent.is_dir():
                raise JournalError(
                    f"the directory {path.parent} does not exist; make it or set paths.journal"
                )
            opened.enter_context(exclusive(beside(path, ".lock")))
            if not path.exists() and beside(path, "-wal").exists():
                # A power cut in the middle of a quarantine: the log belongs to the file that was set aside.
                self._quarantine("its main file is missing", unix_ms)
            try:
                self._connection = self._retry_while_reserve_lasts(lambda: _connect(path))
            except _DamagedError as damage:
                self._quarantine(str(damage), unix_ms)
                self._connection = _connect(path)
            opened.callback(self._connection.close)
            self.epoch = self._claim_for(station)
            (self.life,) = self._connection.execute("SELECT lower(hex(randomblob(16)))").fetchone()
            self._count()
            self._boot_id = BOOT_ID.read_text(encoding="ascii").strip()
            self._reserve.fill()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Move the write-ahead log into the file, or leave it valid where that fails; let go of the lock."""
        with self._opened, suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def record(self, claim: Claim, at: Stamp) -> None:
        """Make this state of a claim durable, with the entry that tells of it."""
        with _named(f"claim {claim.id} is not recorded as {claim.state}"):
            known = self._claims("SELECT seq, body FROM claim WHERE seq = ?", claim.seq)
            same_id = self._claims("SELECT seq, body FROM claim WHERE id = ?", claim.id)
            if not known and not same_id and claim.state is ClaimState.VOIDED:
                return  # its start was never recorded, so there is nothing to take back
            if not known:
                self._require_room()
                self._write(claim, at, kind="opened")
            elif _is_answered_since(known[0], claim):
                return
            elif known != [claim]:  # the same state twice is one
                _refuse_edits(known[0], claim)
                kind = "checkpoint" if claim.state is known[0].state else str(claim.state)
                self._retry_while_reserve_lasts(lambda: self._write(claim, at, kind=kind))

    def settle(self, claim_id: str, state: ClaimState, detail: str, at: Stamp) -> bool:
        """Commit the backend's answer to a closed claim; False: no closed claim of that id waits."""
        with _named(f"claim {claim_id} is not recorded as {state}"):
            closed = self._claims("SELECT seq, body FROM claim WHERE id = ? AND state = 'closed'", claim_id)
            if not closed:
                return False
            answered = replace(closed[0], state=state)
            self._retry_while_reserve_lasts(lambda: self._write(answered, at, kind=str(state), detail=detail))
            return True

    def pending(self, after_seq: int, limit: int) -> list[Claim]:
        """Closed claims with `seq` > `after_seq`, oldest first, at most `limit`."""
        return self._claims(
            "SELECT seq, body FROM claim WHERE state = 'closed' AND seq > ? ORDER BY seq LIMIT ?",
            after_seq,
            limit,
        )

    def open_claims(self) -> list[Claim]:
        """Claims of sessions that were running, oldest first."""
        return self._claims("SELECT seq, body FROM claim WHERE state = 'open' ORDER BY seq")

    def next_seq(self) -> int:
        """One above the highest `seq` ever recorded in this epoch; 1 in a new one."""
        with _named("the journal cannot be read"):
            row = self._connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM claim").fetchone()
            return int(row[0])

    def next_connection(self) -> int:
        """Count a connection attempt durably: 1, 2, 3 ... within an epoch."""
        with _named("the connection is not counted"):
            return self._retry_while_reserve_lasts(self._count_connection)

    def _count(self) -> None:
        rows = self._connection.execute("SELECT state, count(*) FROM claim GROUP BY state").fetchall()
        self.counts = dict.fromkeys(ClaimState, 0) | {ClaimState(state): count for state, count in rows}

    def _claims(self, query: str, *values: int | str) -> list[Claim]:
        with _named("the journal cannot be read"):
            return [_decoded(seq, body) for seq, body in self._connection.execute(query, values)]

    def _write(self, claim: Claim, at: Stamp, *, kind: str, detail: str = "") -> None:
        was_counted, self._counted = self._counted, False  # a commit that fails may still have been made
        self._commit(claim, at, kind, detail)
        if was_counted and kind != "checkpoint":
            moved = {claim.state: self.counts[claim.state] + 1}
            if kind != "opened":
                before = ClaimState.CLOSED if claim.state in _ANSWERED else ClaimState.OPEN
                moved[before] = self.counts[before] - 1
            self.counts = {**self.counts, **moved}  # a new one: other threads read it
        elif not was_counted:
            self._count()
        self._counted = True

    def _commit(self, claim: Claim, at: Stamp, kind: str, detail: str) -> None:
        body = msgspec.json.encode(claim).decode()
        with self._transaction() as write:
            if kind == "opened":
                write("INSERT INTO claim VALUES (?, ?, ?, ?)", (claim.seq, claim.id, claim.state, body))
            elif kind == "checkpoint":  # the most frequent change: leave the indexes alone
                write("UPDATE claim SET body = ? WHERE seq = ?", (body, claim.seq))
            else:
                write("UPDATE claim SET state = ?, body = ? WHERE seq = ?", (claim.state, body, claim.seq))
            write(
                "INSERT INTO entry (unix_ms, clock, mono_ms, boot_id, kind, claim_seq, detail, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (at.unix_ms, at.clock, at.mono_ms, self._boot_id, kind, claim.seq, detail, body),
            )

    def _count_connection(self) -> int:
        with self._transaction() as write:
            row = write(
                "UPDATE meta SET value = value + 1 WHERE key = 'connections' RETURNING value", ()
            ).fetchone()
        return int(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[Callable[[str, tuple[object, ...]], sqlite3.Cursor]]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection.execute
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:  # SQLite has rolled back by itself after some errors
                self._connection.execute("ROLLBACK")

    def _claim_for(self, station: str) -> str:
        """Write the station's name into a new file, refuse another station's, and return the epoch."""
        meta = dict(self._connection.execute("SELECT key, value FROM meta").fetchall())
        if "station" not in meta:
            with self._transaction() as write:
                write("INSERT INTO meta VALUES ('station', ?)", (station,))
        elif meta["station"] != station:
            raise JournalError(
                f"it belongs to station {meta['station']!r}, not {station!r}: give the station its old name,"
                " or move the journal away (then nobody sends the unpaid sessions in it)"
            )
        return str(meta["epoch"])

    def _require_room(self) -> None:
        if not self._reserve.fill():
            free = free_bytes(self._path.parent) / MIB
            raise JournalError(
                f"its disk is full: {free:.1f} MiB are free, a new session needs {MIN_FREE_BYTES // MIB} MiB"
                f" besides a reserve of {RESERVE_BYTES // MIB} MiB; remove other files",
                full=True,
            )

    def _retry_while_reserve_lasts(self, attempt: Callable[[], T]) -> T:
        while True:
            try:
                return attempt()
            except (sqlite3.Error, OSError) as error:
                if not _is_full(error) or not self._reserve.give_up_a_step():
                    raise

    def _quarantine(self, damage: str, unix_ms: int) -> None:
        """Set the file aside under a free name; its log follows, so that SQLite finds both."""
        number = unix_ms // 1000
        while any(beside(self._path, f".corrupt-{number}{suffix}").exists() for suffix in _SQLITE_FILES):
            number += 1  # the clock of a station without network may start at the same moment twice
        aside = beside(self._path, f".corrupt-{number}")
        for suffix in _SQLITE_FILES:
            with suppress(FileNotFoundError):
                beside(self._path, suffix).rename(beside(aside, suffix))
        sync_directory(self._path.parent)
        self.quarantined, self.damage = aside, damage


def migrate(connection: sqlite3.Connection, scripts: Sequence[str] = MIGRATIONS) -> None:
    """Bring the schema up to date, each step in one transaction; after a failure the step before is valid."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise JournalError(
            f"a newer release wrote it (schema {version}, known are {len(scripts)}): install that release"
        )
    for number, script in enumerate(scripts[version:], start=version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _connect(path: Path) -> sqlite3.Connection:
    """Open, check and migrate. Raises `_DamagedError` for a file that is not whole."""
    if not path.exists():  # SQLite would let all read it; its other files get the mode of this one
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with ExitStack() as undo:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        undo.callback(connection.close)
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            if _code(error) & 0xFF in _DAMAGE_CODES:
                raise _DamagedError(str(error)) from error
            raise
        if finding != "ok":
            raise _DamagedError(finding)
        if mode != "wal":
            raise JournalError(f"its file system allows no write-ahead log (SQLite offers {mode!r})")
        connection.execute("PRAGMA synchronous = FULL")  # NORMAL may lose the last commits in a power cut
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        migrate(connection)
        sync_directory(path.parent)
        undo.pop_all()
        return connection


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn what SQLite and the system raise into a `JournalError` that starts with `what`."""
    try:
        yield
    except JournalError as error:
        raise JournalError(f"{what}: {error}", full=error.full) from error
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"{what}: {error}", full=_is_full(error)) from error


def _is_answered_since(known: Claim, claim: Claim) -> bool:
    """Whether this closed claim was recorded before, and the backend has answered it meanwhile."""
    late = claim.state is ClaimState.CLOSED and known.state in _ANSWERED
    return late and replace(known, state=claim.state) == claim


def _refuse_edits(known: Claim, claim: Claim) -> None:
    """What a session is never changes while it runs, and a closed claim changes in its state only."""
    fixed = _FIXED if known.state is ClaimState.OPEN else set(Claim.__struct_fields__) - {"state"}
    edited = [field for field in fixed if getattr(known, field) != getattr(claim, field)]
    if edited:
        raise JournalError(f"seq {known.seq} is claim {known.id}, whose {', '.join(edited)} cannot change")


def _decoded(seq: int, body: str) -> Claim:
    try:
        return msgspec.json.decode(body, type=Claim)
    except msgspec.DecodeError as error:  # the root of ValidationError as well
        raise JournalError(f"the claim with seq {seq} is not readable: {error}") from error


def _is_full(error: sqlite3.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    # IOERR_SHMSIZE: no room for the index of the write-ahead log.
    return _code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}


def _code(error: sqlite3.Error) -> int:
    """SQLite's extended result code; errors of the Python module itself have none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
