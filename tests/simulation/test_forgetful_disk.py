"""The disk of the simulation: what SQLite and the journal find on it after a crash at any moment."""

import os
import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edge.disk import RESERVE_BYTES
from edge.errors import JournalError
from edge.journal_file import JournalFile, Stamp
from edge.records import Claim, ClaimState, ClockQuality, Tariff
from hal_mocks.forgetful_disk import SECTOR_BYTES, CannotForget, Disk, seed_sqlite

MEMORY = Path("/dev/shm")

STAMP = Stamp(unix_ms=1_700_000_000_000, clock=ClockQuality.SYNCED, mono_ms=5_000)
OPEN, CLOSED, SETTLED = ClaimState.OPEN, ClaimState.CLOSED, ClaimState.SETTLED

JOURNAL_MODES = ("wal", "delete", "truncate", "persist")

NEVER = 1_000_000
"""More writes than any story here has."""

Rows = dict[int, int]
Work = Sequence[tuple[str, int]]

works_of_any_kind = st.lists(
    st.lists(
        st.tuples(st.sampled_from(("insert", "insert", "insert", "delete", "vacuum")), st.integers(1, 12)),
        max_size=6,
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture
def parent() -> Iterator[Path]:
    with memory() as made:
        yield made


@contextmanager
def memory() -> Iterator[Path]:
    """An empty folder, in memory where there is one."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


def folder_in(parent: Path, name: str = "life") -> Path:
    made = parent / name
    made.mkdir()
    return made


def connected(
    path: Path, *, mode: str = "wal", synchronous: str = "full", pages: int = 0
) -> sqlite3.Connection:
    """A connection as the journal's; `pages` makes the write-ahead log go into the file often."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with ExitStack() as undo:
        undo.callback(connection.close)
        connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        undo.pop_all()
    return connection


def content_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


class Life:
    """Transactions until the machine stops, and what may be found of them: the last, or one more."""

    def __init__(self, folder: Path, *, mode: str = "wal", synchronous: str = "full", pages: int = 3) -> None:
        self.disk = Disk(folder)
        self._path = folder / "db"
        self._pragmas = {"mode": mode, "synchronous": synchronous}
        self._pages = pages
        self._states: list[Rows] = [{}]
        self._committed = 0

    def may_leave(self) -> list[Rows]:
        return self._states[self._committed :]

    def live(self, works: Sequence[Work]) -> None:
        """Each transaction writes its number into the rows; some rows take pages of their own."""
        with suppress(sqlite3.OperationalError), self._connected() as connection:
            connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, tx INTEGER, content BLOB)")
            for tx, work in enumerate(works, start=1):
                if any(verb == "vacuum" for verb, _ in work):
                    connection.execute("VACUUM")
                rows = dict(self._states[-1])
                connection.execute("BEGIN IMMEDIATE")
                for verb, n in work:
                    if verb == "insert":
                        connection.execute(
                            "INSERT OR REPLACE INTO t VALUES (?, ?, zeroblob(?))",
                            (n, tx, 40 + 3000 * (n % 3)),
                        )
                        rows[n] = tx
                    else:
                        connection.execute("DELETE FROM t WHERE n = ?", (n,))
                        rows.pop(n, None)
                self._states.append(rows)
                connection.execute("COMMIT")
                self._committed = len(self._states) - 1

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(connected(self._path, **self._pragmas, pages=self._pages)) as connection:
            yield connection

    def found_after(self, folder: Path, *, power_cut: bool, seed: int) -> Rows:
        """What the next life finds in its new folder; the file is whole."""
        self.disk.survivors(folder, power_cut=power_cut, dice=random.Random(seed))
        with closing(connected(folder / "db", mode=self._pragmas["mode"])) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 't'").fetchall():
                return {}
            return dict(connection.execute("SELECT n, tx FROM t").fetchall())


SOME_WORKS: Sequence[Work] = [
    [("insert", 1), ("insert", 2)],
    [("insert", 2), ("insert", 3), ("insert", 5)],
    [("delete", 2)],
    [("insert", n) for n in range(4, 9)],
    [("vacuum", 0), ("delete", 7), ("delete", 8), ("insert", 1)],
    [("insert", 1)],
]


# ---- what SQLite promises ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", JOURNAL_MODES)
def test_a_crash_at_every_write_and_sync_leaves_all_that_was_committed_and_nothing_half(mode: str) -> None:
    for k in count(1):
        with memory() as parent:
            life = Life(folder_in(parent), mode=mode)
            with life.disk as disk:
                disk.stop_after(writes=k)
                life.live(SOME_WORKS)
                assert life.found_after(parent / "killed", power_cut=False, seed=k) in life.may_leave()
                for seed in range(3):
                    found = life.found_after(parent / f"cut-{seed}", power_cut=True, seed=seed)
                    assert found in life.may_leave(), f"the machine stopped at write {k}"
                if not disk.stopped:
                    assert k == disk.writes + disk.syncs + 1
                    break


@pytest.mark.parametrize("mode", JOURNAL_MODES)
@given(works=works_of_any_kind, pages=st.integers(0, 5), k=st.integers(1, 150), seed=st.integers(0, 2**32))
def test_any_transactions_survive_a_crash_at_any_write(
    mode: str, works: Sequence[Work], pages: int, k: int, seed: int
) -> None:
    with memory() as parent:
        life = Life(folder_in(parent), mode=mode, pages=pages)
        with life.disk as disk:
            disk.stop_after(writes=k)
            life.live(works)
            assert life.found_after(parent / "cut", power_cut=True, seed=seed) in life.may_leave()
            assert life.found_after(parent / "killed", power_cut=False, seed=seed) in life.may_leave()


def test_without_syncs_a_killed_process_loses_nothing_and_a_power_cut_much(parent: Path) -> None:
    life = Life(folder_in(parent), synchronous="off", pages=0)
    with life.disk as disk:
        disk.stop_after(writes=50)
        life.live([[("insert", n)] for n in range(1, 40)])
        assert disk.stopped
        assert life.found_after(parent / "killed", power_cut=False, seed=0) in life.may_leave()
        lost = 0
        for seed in range(20):
            try:
                found = life.found_after(parent / f"cut-{seed}", power_cut=True, seed=seed)
            except sqlite3.DatabaseError:  # without syncs the file itself may be no database any more
                found = {}
            lost += found not in life.may_leave()
        assert lost >= 10


@pytest.mark.parametrize("synchronous", ["off", "full"])
@pytest.mark.parametrize("mode", [*JOURNAL_MODES, "off"])
def test_a_killed_process_leaves_the_files_as_they_stand(mode: str, synchronous: str) -> None:
    for k in count(1, 3):
        with memory() as parent:
            folder = folder_in(parent)
            life = Life(folder, mode=mode, synchronous=synchronous)
            with life.disk as disk:
                disk.stop_after(writes=k)
                life.live(SOME_WORKS)
                disk.survivors(parent / "killed", power_cut=False, dice=random.Random(0))
                was_whole = not disk.stopped
            standing = content_of(folder)
            standing.pop("db-shm", None)
            assert content_of(parent / "killed") == standing
        if was_whole:
            break


def test_a_write_is_cut_where_the_file_is(parent: Path) -> None:
    folder = folder_in(parent)
    with (
        Disk(folder) as disk,
        closing(connected(folder / "db", mode="persist", synchronous="off")) as connection,
    ):
        connection.execute("PRAGMA journal_size_limit = 1000")  # in the middle of a page
        connection.execute("CREATE TABLE t AS SELECT zeroblob(9000)")
        connection.execute("DELETE FROM t")
        disk.survivors(parent / "killed", power_cut=False, dice=random.Random(0))
        assert (folder / "db-journal").stat().st_size == 1000
        assert content_of(parent / "killed") == content_of(folder)


# ---- what a power cut does to bytes ------------------------------------------------------------------------


def rewritten(folder: Path) -> tuple[bytes, bytes]:
    """A file that was synced and then written anew without a sync; returns both contents."""
    with closing(connected(folder / "db", mode="off", synchronous="full")) as connection:
        connection.execute("CREATE TABLE t (content BLOB)")
        connection.execute("INSERT INTO t VALUES (randomblob(100000))")
        synced = (folder / "db").read_bytes()
        connection.execute("PRAGMA synchronous = off")
        connection.execute("UPDATE t SET content = randomblob(120000)")
        return synced, (folder / "db").read_bytes()


def test_each_sector_after_a_power_cut_is_the_old_one_or_the_new_one_or_empty(parent: Path) -> None:
    folder = folder_in(parent)
    with Disk(folder) as disk:
        old, new = rewritten(folder)
        kinds = set()
        for seed in range(10):
            disk.survivors(parent / f"{seed}", power_cut=True, dice=random.Random(seed))
            found = (parent / f"{seed}" / "db").read_bytes()
            assert len(old) <= len(found) <= len(new)
            for at in range(0, len(found), SECTOR_BYTES):
                sector = slice(at, at + SECTOR_BYTES)
                is_old, is_new = found[sector] == old[sector], found[sector] == new[sector]
                is_empty = at >= len(old) and not any(found[sector])
                assert is_old or is_new or is_empty
                kinds.add((is_old, is_new, is_empty, at % 4096 != 0 and found[at - 1] != new[at - 1]))
        assert len(kinds) >= 6  # each kind, and pages that are partly new


def test_the_same_dice_leave_the_same_bytes_and_other_dice_others(parent: Path) -> None:
    folder = folder_in(parent)
    with Disk(folder) as disk:
        rewritten(folder)
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            disk.survivors(parent / name, power_cut=True, dice=random.Random(seed))
    assert content_of(parent / "a") == content_of(parent / "b") != content_of(parent / "c")


def test_a_whole_life_leaves_the_same_bytes_when_sqlite_is_seeded(parent: Path) -> None:
    found = []
    for name in ("a", "b", "c"):
        seed_sqlite(random.Random(name if name == "c" else "the same"))
        life = Life(folder_in(parent, name), pages=0)
        with life.disk as disk:
            disk.stop_after(writes=20)
            life.live(SOME_WORKS)
            disk.survivors(parent / f"{name}-next", power_cut=True, dice=random.Random(7))
            found.append(content_of(parent / f"{name}-next"))
    seed_sqlite(None)
    assert found[0] == found[1] != found[2]  # the salts of the log differ


def test_unseeded_sqlite_draws_other_numbers_each_time() -> None:
    def drawn() -> bytes:
        with closing(sqlite3.connect(":memory:")) as connection:
            return bytes(connection.execute("SELECT randomblob(16)").fetchone()[0])

    seed_sqlite(random.Random(1))
    first = drawn()
    seed_sqlite(random.Random(1))
    assert drawn() == first
    seed_sqlite(None)
    assert first != drawn() != drawn()


# ---- when the machine stops --------------------------------------------------------------------------------


def test_what_the_dead_do_changes_nothing(parent: Path) -> None:
    folder = folder_in(parent)
    (folder / "db.reserve").write_bytes(b"room")
    with Disk(folder) as disk, closing(connected(folder / "db")) as dead:
        dead.execute("CREATE TABLE t (n)")
        dead.execute("BEGIN IMMEDIATE")  # dies with the lock held
        dead.execute("INSERT INTO t VALUES (1)")
        disk.stop()
        writes = disk.writes
        for statement in ("COMMIT", "SELECT * FROM t", "CREATE TABLE u (n)"):
            with pytest.raises(sqlite3.OperationalError):
                dead.execute(statement).fetchall()
        with pytest.raises(sqlite3.OperationalError):
            sqlite3.connect(folder / "another").execute("CREATE TABLE t (n)")
        (folder / "db.reserve").write_bytes(b"")
        (folder / "db").rename(folder / "db.corrupt-1")
        disk.survivors(parent / "next", power_cut=False, dice=random.Random(0))
        assert disk.writes == writes
        assert sorted(content_of(parent / "next")) == ["db", "db-wal", "db.reserve"]
        assert (parent / "next" / "db.reserve").read_bytes() == b"room"
        with Disk(parent / "next"), closing(connected(parent / "next" / "db")) as alive:
            alive.execute("INSERT INTO t VALUES (2)")
            dead.close()
            alive.execute("INSERT INTO t VALUES (3)")
            assert alive.execute("SELECT n FROM t").fetchall() == [(2,), (3,)]


def test_the_dead_may_be_buried_after_their_disk_and_their_folder(parent: Path) -> None:
    folder = folder_in(parent)
    disk = Disk(folder)
    dead = connected(folder / "db")
    dead.execute("CREATE TABLE t (n)")
    disk.close()
    disk.close()
    with pytest.raises(sqlite3.OperationalError):
        dead.execute("INSERT INTO t VALUES (1)")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with Disk(folder_in(parent)), closing(connected(folder / "db")) as alive:
        alive.execute("CREATE TABLE t (n)")
        dead.close()
        alive.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(ValueError, match="closed"):
        disk.stop()


def test_an_old_copy_can_be_kept_and_lived_on(parent: Path) -> None:
    folder = folder_in(parent)
    with Disk(folder) as disk, closing(connected(folder / "db")) as connection:
        connection.execute("CREATE TABLE t (n)")
        connection.execute("INSERT INTO t VALUES (1)")
        disk.survivors(parent / "kept", power_cut=False, dice=random.Random(0))
        connection.execute("INSERT INTO t VALUES (2)")
        assert connection.execute("SELECT n FROM t").fetchall() == [(1,), (2,)]
    with Disk(parent / "kept"), closing(connected(parent / "kept" / "db")) as restored:
        assert restored.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_stop_after_counts_every_write_and_sync_from_then_on(parent: Path) -> None:
    folder = folder_in(parent)
    with Disk(folder) as disk, closing(connected(folder / "db")) as connection:
        connection.execute("CREATE TABLE t (n)")
        before = disk.writes + disk.syncs
        disk.stop_after(writes=1)
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("INSERT INTO t VALUES (1)")
        assert caught.value.sqlite_errorcode == sqlite3.SQLITE_IOERR_WRITE
        assert disk.stopped
        assert disk.writes + disk.syncs == before + 1
        with pytest.raises(ValueError, match="first"):
            disk.stop_after(writes=0)


# ---- which files -------------------------------------------------------------------------------------------


def test_other_files_of_the_folder_are_copied_but_no_locks(parent: Path) -> None:
    folder = folder_in(parent)
    (folder / "j.reserve").write_bytes(bytes(RESERVE_BYTES))
    (folder / "j.lock").write_bytes(b"1234\n")
    (folder / "deeper").mkdir()
    (folder / "j").touch(mode=0o600)
    with Disk(folder) as disk, closing(connected(folder / "j")) as connection:
        connection.execute("CREATE TABLE t (n)")
        disk.survivors(parent / "next", power_cut=True, dice=random.Random(0))
    assert sorted(content_of(parent / "next")) == ["j", "j-wal", "j.reserve"]
    assert stat.S_IMODE((parent / "next" / "j-wal").stat().st_mode) == 0o600
    reserve = (parent / "next" / "j.reserve").stat()
    assert reserve.st_blocks * 512 >= reserve.st_size == RESERVE_BYTES


def test_a_renamed_file_is_still_known_and_a_new_one_of_its_name_is_another(parent: Path) -> None:
    folder = folder_in(parent)
    with Disk(folder) as disk:
        with closing(connected(folder / "db", mode="off", synchronous="off")) as connection:
            connection.execute("CREATE TABLE t (n)")
        (folder / "db").rename(folder / "aside")
        with closing(connected(folder / "db", mode="delete")) as connection:
            connection.execute("CREATE TABLE u (n)")
        found = set()
        for seed in range(10):
            disk.survivors(parent / f"{seed}", power_cut=True, dice=random.Random(seed))
            found.add((parent / f"{seed}" / "aside").read_bytes())
            with closing(sqlite3.connect(parent / f"{seed}" / "db")) as connection:
                assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("u",)]
        assert len(found) > 2  # nothing of it was ever synced


def test_files_elsewhere_are_not_touched_and_two_disks_do_not_know_each_other(parent: Path) -> None:
    first, second, deeper = folder_in(parent, "a"), folder_in(parent, "ab"), folder_in(parent / "a", "deeper")
    with Disk(first) as one, Disk(second) as other, ExitStack() as opened:
        connections = [
            opened.enter_context(closing(connected(place / "db")))
            for place in (first, second, deeper, parent)
        ]
        before = one.writes
        other.failing = True
        for connection in (*connections[:1], *connections[2:]):
            connection.execute("CREATE TABLE t (n)")
        with pytest.raises(sqlite3.OperationalError):
            connections[1].execute("CREATE TABLE t (n)")
        assert one.writes > before
        before = one.writes
        for connection in connections[2:]:
            connection.execute("INSERT INTO t VALUES (1)")
        assert one.writes == before
        one.stop()
        for connection in connections[2:]:
            assert connection.execute("SELECT n FROM t").fetchall() == [(1,)]
        with pytest.raises(CannotForget, match="another disk"):
            Disk(first)


def test_a_folder_may_be_named_by_a_link(parent: Path) -> None:
    folder = folder_in(parent)
    (parent / "link").symlink_to(folder)
    with Disk(parent / "link") as disk, closing(connected(parent / "link" / "db")) as connection:
        connection.execute("CREATE TABLE t (n)")
        assert disk.syncs > 0


def test_connections_in_several_threads_keep_their_promises(parent: Path) -> None:
    folder = folder_in(parent)
    committed: list[int] = []

    def write(first: int) -> None:
        with closing(connected(folder / "db", pages=3)) as connection:
            for n in range(first, first + 100):
                connection.execute("INSERT INTO t VALUES (?)", (n,))
                committed.append(n)

    with Disk(folder) as disk:
        with closing(connected(folder / "db")) as connection:
            connection.execute("CREATE TABLE t (n)")
        threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1000)]
        with ExitStack() as started:
            for thread in threads:
                thread.start()
                started.callback(thread.join)
            for cut in count():
                known = set(committed)
                disk.survivors(parent / f"{cut}", power_cut=True, dice=random.Random(cut))
                with closing(connected(parent / f"{cut}" / "db")) as connection:
                    assert known <= {n for (n,) in connection.execute("SELECT n FROM t")}
                if not any(thread.is_alive() for thread in threads):
                    break
        assert len(committed) == 200


# ---- full and broken disks ---------------------------------------------------------------------------------


def test_a_full_disk_refuses_to_grow_until_it_has_room_again(parent: Path) -> None:
    folder = folder_in(parent)
    (folder / "big").write_bytes(bytes(100_000))
    with Disk(folder) as disk, closing(connected(folder / "db")) as connection:
        connection.execute("CREATE TABLE t (content)")
        disk.full = True
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("INSERT INTO t VALUES (zeroblob(50000))")
        assert caught.value.sqlite_errorcode == sqlite3.SQLITE_FULL
        (folder / "big").write_bytes(bytes(30_000))  # somebody gives up some
        connection.execute("INSERT INTO t VALUES (zeroblob(50000))")
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("INSERT INTO t VALUES (zeroblob(50000))")
        assert disk.full
        disk.full = False
        connection.execute("INSERT INTO t VALUES (zeroblob(50000))")
        assert connection.execute("SELECT count(*) FROM t").fetchall() == [(2,)]


@pytest.mark.parametrize("mode", JOURNAL_MODES)
def test_a_failing_disk_can_be_read_and_works_again(parent: Path, mode: str) -> None:
    folder = folder_in(parent)
    with Disk(folder) as disk, closing(connected(folder / "db", mode=mode)) as connection:
        connection.execute("CREATE TABLE t (n)")
        disk.failing = True
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("INSERT INTO t VALUES (1)")
        assert caught.value.sqlite_errorcode == sqlite3.SQLITE_IOERR_WRITE
        assert disk.failing
        assert connection.execute("SELECT n FROM t").fetchall() == []
        disk.failing = False
        connection.execute("INSERT INTO t VALUES (2)")
        assert connection.execute("SELECT n FROM t").fetchall() == [(2,)]


# ---- the journal on it -------------------------------------------------------------------------------------


def opened(seq: int, epoch: str) -> Claim:
    return Claim(
        id=f"CP-1-{epoch[:12]}-{seq}",
        seq=seq,
        state=OPEN,
        connector=1,
        contract="NL-ABC-C00000001",
        credential="04****C4",
        tariff=Tariff("EUR", Decimal("0.30"), Decimal("1.00"), Decimal(21)),
        meter="main",
        start_wh=1000,
        last_wh=1000,
        opened_unix_ms=STAMP.unix_ms,
        clock=ClockQuality.SYNCED,
    )


class Promises:
    """What the journal has said is durable, over several lives of one story."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.connections = 0
        # By seq: the last state (None: not there), and a second one if it was asked for and not confirmed.
        self.recorded: dict[int, list[Claim | None]] = {}

    def live(self, folder: Path) -> bool:
        """Look, then write what is missing of three sessions. Returns whether the end was reached."""
        try:
            journal = JournalFile(folder / "journal", station="CP-1", unix_ms=STAMP.unix_ms)
        except JournalError:
            return False
        with closing(journal), suppress(JournalError):
            self._check(journal)
            for seq in (1, 2, 3):
                claim = opened(seq, journal.epoch)
                for step in (claim, replace(claim, last_wh=3000), replace(claim, state=CLOSED, last_wh=4000)):
                    self._record(journal, step)
                connections = journal.next_connection()
                assert connections > self.connections
                self.connections = connections
            return True
        return False

    def _check(self, journal: JournalFile) -> None:
        assert journal.quarantined is None, journal.damage
        assert self.epoch in {None, journal.epoch}
        self.epoch = journal.epoch
        found = {claim.seq: claim for claim in (*journal.open_claims(), *journal.pending(0, 100))}
        for seq, states in self.recorded.items():
            assert found.get(seq) in states
            states[:] = [found.get(seq)]
        assert found.keys() <= self.recorded.keys()

    def _record(self, journal: JournalFile, claim: Claim) -> None:
        states = self.recorded.setdefault(claim.seq, [None])
        if states[0] is not None and _rank(states[0]) >= _rank(claim):
            return  # an earlier life did
        states[1:] = [claim]
        journal.record(claim, STAMP)
        states[:] = [claim]


def _rank(claim: Claim) -> tuple[bool, int]:
    return claim.state is CLOSED, claim.last_wh


@pytest.mark.parametrize("power_cut", [False, True])
def test_the_journal_keeps_its_promises_when_killed_at_any_write(power_cut: bool) -> None:
    for k in count(1):
        with memory() as parent:
            promises = Promises()
            with Disk(folder_in(parent)) as disk:
                disk.stop_after(writes=k)
                was_whole = promises.live(parent / "life")
                disk.survivors(parent / "next", power_cut=power_cut, dice=random.Random(k))
            with Disk(parent / "next"):
                assert promises.live(parent / "next")
        if was_whole:
            assert k > 50
            break


@given(ends=st.lists(st.tuples(st.integers(1, 160), st.booleans(), st.integers(0, 2**32)), max_size=6))
@settings(max_examples=50)
def test_the_journal_keeps_its_promises_through_several_lives(ends: list[tuple[int, bool, int]]) -> None:
    with memory() as parent:
        promises = Promises()
        folder = folder_in(parent)
        for life, (writes, power_cut, seed) in enumerate(ends):
            with Disk(folder) as disk:
                disk.stop_after(writes=writes)
                promises.live(folder)
                folder = parent / f"{life}"
                disk.survivors(folder, power_cut=power_cut, dice=random.Random(seed))
        with Disk(folder):
            assert promises.live(folder)


def test_on_a_full_disk_the_journal_closes_sessions_out_of_its_reserve_and_begins_none(parent: Path) -> None:
    folder = folder_in(parent)
    with (
        Disk(folder) as disk,
        closing(JournalFile(folder / "journal", station="CP-1", unix_ms=STAMP.unix_ms)) as journal,
    ):
        first, second = opened(1, journal.epoch), opened(2, journal.epoch)
        journal.record(first, STAMP)
        disk.full = True
        journal.record(replace(first, state=CLOSED), STAMP)
        assert (folder / "journal.reserve").stat().st_size < RESERVE_BYTES
        with pytest.raises(JournalError) as caught:
            journal.record(second, STAMP)
        assert caught.value.full
        assert journal.settle(first.id, SETTLED, "", STAMP)
        disk.full = False
        journal.record(second, STAMP)
        assert journal.counts[OPEN] == journal.counts[SETTLED] == 1


def test_on_a_failing_disk_the_journal_says_so(parent: Path) -> None:
    folder = folder_in(parent)
    with (
        Disk(folder) as disk,
        closing(JournalFile(folder / "journal", station="CP-1", unix_ms=STAMP.unix_ms)) as journal,
    ):
        claim = opened(1, journal.epoch)
        disk.failing = True
        with pytest.raises(JournalError) as caught:
            journal.record(claim, STAMP)
        assert not caught.value.full
        disk.failing = False
        journal.record(claim, STAMP)
        assert journal.open_claims() == [claim]


# ---- how it is made ----------------------------------------------------------------------------------------

TRIAL = """
import sys
from hal_mocks.forgetful_disk import CannotForget, seed_sqlite
try:
    seed_sqlite(None)
except CannotForget as error:
    sys.exit(str(error))
"""


def in_another_process(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRIAL],
        env={"PATH": os.environ["PATH"], **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def said_by(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, error = process.communicate()
    return process.returncode, error


def test_two_processes_may_compile_it_at_once_and_a_third_finds_it(parent: Path) -> None:
    kept = str(parent / "cache")
    both = [in_another_process(XDG_CACHE_HOME=kept) for _ in range(2)]
    assert [said_by(process) for process in both] == [(0, ""), (0, "")]
    (made,) = parent.glob("cache/*/*.so")
    assert said_by(in_another_process(XDG_CACHE_HOME=kept, PATH="/nowhere")) == (0, "")
    assert [file.suffix for file in sorted(made.parent.iterdir())] == [".lock", ".so"]


def test_without_a_compiler_it_says_what_is_missing(parent: Path) -> None:
    code, error = said_by(in_another_process(XDG_CACHE_HOME=str(parent), PATH="/nowhere"))
    assert code == 1
    assert "apt install gcc" in error
