"""The journal on real files: a property test against a model, killed processes, full and broken disks."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from edge.disk import MIN_FREE_BYTES, RESERVE_BYTES, RESERVE_STEP_BYTES, free_bytes
from edge.errors import JournalError
from edge.journal import Journal
from edge.journal_file import migrate
from edge.ports import Outbox
from edge.records import Claim, ClaimState, ClockQuality, Cost, StopReason, Tariff

pytestmark = pytest.mark.wire

OPEN, CLOSED = ClaimState.OPEN, ClaimState.CLOSED
SETTLED, REJECTED, VOIDED = ClaimState.SETTLED, ClaimState.REJECTED, ClaimState.VOIDED

WRITER = Path(__file__).with_name("journal_writer.py")
UNIX_MS = 1_700_000_000_000
TARIFF = Tariff("EUR", Decimal("0.30"), Decimal("1.00"), Decimal(21))


def journal_at(path: Path, *, station: str = "CP-1", deadline_s: float = 10.0) -> Journal:
    return Journal(
        path,
        station=station,
        wall=lambda: (UNIX_MS, ClockQuality.SYNCED),
        now_ms=lambda: 5_000,
        deadline_s=deadline_s,
    )


def opened(seq: int, *, epoch: str = "0123456789ab", start_wh: int = 1000) -> Claim:
    return Claim(
        id=f"CP-1-{epoch[:12]}-{seq}",
        seq=seq,
        state=OPEN,
        connector=1,
        contract="NL-ABC-C00000001",
        credential="04****C4",
        tariff=TARIFF,
        meter="main",
        start_wh=start_wh,
        last_wh=start_wh,
        opened_unix_ms=UNIX_MS,
        clock=ClockQuality.SYNCED,
    )


def ended(claim: Claim, state: ClaimState = CLOSED, energy_wh: int = 7000) -> Claim:
    return replace(
        claim,
        state=state,
        last_wh=claim.start_wh + energy_wh,
        closed_unix_ms=UNIX_MS + 3_600_000,
        end_wh=claim.start_wh + energy_wh,
        energy_wh=energy_wh,
        reason=StopReason.UNPLUGGED,
        cost=Cost("EUR", Decimal("3.10"), Decimal("3.75"), Decimal("3.751")),
    )


def rows(path: Path, query: str) -> list[Any]:
    """Ask the file with a connection of our own."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def entries(path: Path) -> list[tuple[int, str]]:
    return rows(path, "SELECT claim_seq, kind FROM entry ORDER BY n")


@contextmanager
def writer(path: Path, *wrapper: str) -> Iterator[subprocess.Popen[str]]:
    """A process that writes sessions until it is killed, at the latest here."""
    command = [*wrapper, sys.executable, str(WRITER), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: subprocess.Popen[str], at_most: int | None = None) -> list[str]:
    """Read that many lines, fewer when the process ends before."""
    assert process.stdout is not None
    return [line.strip() for line in islice(process.stdout, at_most)]


# --- what a claim may become -------------------------------------------------------------------------


class JournalAndModel(RuleBasedStateMachine):
    """Any sequence of calls, restarts and power cuts leaves the journal equal to two dictionaries."""

    claims: Bundle[int] = Bundle("claims")
    finished: Bundle[int] = Bundle("finished")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="journal"))
        self.model: dict[int, Claim] = {}
        self.told: list[tuple[int, str]] = []
        self.connections = 0
        self.starts = 0

    @initialize()
    def start(self) -> None:
        self.path = self.folder / "journal.db"
        self.journal = journal_at(self.path)
        self.epoch = self.loop.run(self.journal.open()).epoch

    def try_record(self, claim: Claim, *, legal: bool, kind: str) -> None:
        if legal:
            self.loop.run(self.journal.record(claim))
            self.model[claim.seq] = claim
            self.told.append((claim.seq, kind))
        else:
            with pytest.raises(JournalError) as refusal:
                self.loop.run(self.journal.record(claim))
            assert not refusal.value.full

    @rule(target=claims, skip=st.integers(0, 2), start_wh=st.integers(0, 2**40))
    def open_session(self, skip: int, start_wh: int) -> int:
        seq = max(self.model, default=0) + 1 + skip
        self.try_record(opened(seq, epoch=self.epoch, start_wh=start_wh), legal=True, kind="opened")
        return seq

    @rule(state=st.sampled_from([CLOSED, SETTLED, REJECTED]))
    def begin_with_another_state(self, state: ClaimState) -> None:
        self.try_record(ended(opened(max(self.model, default=0) + 1), state), legal=False, kind="")

    @rule(seq=claims, more_wh=st.integers(1, 50_000))
    def checkpoint(self, seq: int, more_wh: int) -> None:
        claim = self.model[seq]
        later = replace(claim, last_wh=claim.last_wh + more_wh)
        self.try_record(later, legal=claim.state is OPEN, kind="checkpoint")

    @rule(target=finished, seq=claims, state=st.sampled_from([CLOSED, VOIDED]))
    def end_session(self, seq: int, state: ClaimState) -> int:
        claim = self.model[seq]
        if claim.state is not state and (claim.state, state) not in KNOWN_ALREADY:
            self.try_record(ended(claim, state), legal=claim.state is OPEN, kind=str(state))
        return seq

    @rule(seq=claims, state=st.sampled_from(list(ClaimState)))
    def change_nothing_but_the_state(self, seq: int, state: ClaimState) -> None:
        claim = self.model[seq]
        moves = {OPEN: {CLOSED, VOIDED}, CLOSED: {SETTLED, REJECTED}}
        if claim.state is not state and (claim.state, state) not in KNOWN_ALREADY:
            legal = state in moves.get(claim.state, set())
            self.try_record(replace(claim, state=state), legal=legal, kind=str(state))

    @rule(seq=claims)
    def record_the_same_again(self, seq: int) -> None:
        self.loop.run(self.journal.record(self.model[seq]))

    @rule(seq=claims, seqs=st.integers(1, 20))
    def take_the_id_of_another(self, seq: int, seqs: int) -> None:
        self.try_record(replace(self.model[seq], seq=seq + seqs), legal=False, kind="")

    @rule(
        seq=claims,
        edit=st.sampled_from(
            [
                {"id": "CP-1-x-1"},
                {"connector": 9},
                {"contract": "x"},
                {"credential": "x"},
                {"tariff": replace(TARIFF, per_kwh=Decimal("9.99"))},
                {"meter": "x"},
                {"start_wh": -1},
                {"opened_unix_ms": 1},
            ]
        ),
    )
    def edit_what_is_fixed(self, seq: int, edit: dict[str, Any]) -> None:
        self.try_record(replace(self.model[seq], **edit), legal=False, kind="")

    @rule(
        seq=finished,
        state=st.sampled_from([CLOSED, SETTLED, REJECTED]),
        edit=st.sampled_from([{"hold": True}, {"reason": StopReason.FAULT}, {"end_wh": -1}, {"last_wh": -1}]),
    )
    def edit_what_is_closed(self, seq: int, state: ClaimState, edit: dict[str, Any]) -> None:
        self.try_record(replace(self.model[seq], state=state, **edit), legal=False, kind="")

    @rule(seq=claims, back=st.integers(1, 3))
    def fill_a_gap(self, seq: int, back: int) -> None:
        if seq - back not in self.model:
            self.try_record(opened(seq - back, epoch=self.epoch), legal=False, kind="")

    @rule(seq=finished, state=st.sampled_from([SETTLED, REJECTED]))
    def answer(self, seq: int, state: ClaimState) -> None:
        claim = self.model[seq]
        waited = self.loop.run(self.journal.settle(claim.id, state, "the backend says so"))
        assert waited == (claim.state is CLOSED)
        if waited:
            self.model[seq] = replace(claim, state=state)
            self.told.append((seq, str(state)))

    @rule()
    def answer_a_stranger(self) -> None:
        assert not self.loop.run(self.journal.settle("CP-1-unknown-1", SETTLED, ""))

    @rule()
    def connect(self) -> None:
        self.connections += 1
        assert self.loop.run(self.journal.next_connection()) == self.connections

    @rule()
    def restart(self) -> None:
        self.loop.run(self.journal.close())
        self.journal = journal_at(self.path)
        assert self.loop.run(self.journal.open()).epoch == self.epoch

    @rule()
    def power_cut(self) -> None:
        """The next start finds what is on the disk at this moment, without SQLite's shared memory."""
        self.starts += 1
        disk = self.folder / str(self.starts)
        disk.mkdir()
        for name in ("journal.db", "journal.db-wal"):
            if (self.path.parent / name).exists():
                shutil.copy(self.path.parent / name, disk / name)
        self.loop.run(self.journal.close())
        self.path = disk / "journal.db"
        self.journal = journal_at(self.path)
        assert self.loop.run(self.journal.open()).epoch == self.epoch

    @invariant()
    def the_journal_is_the_model(self) -> None:
        def of(state: ClaimState) -> list[Claim]:
            return [claim for _, claim in sorted(self.model.items()) if claim.state is state]

        run, journal = self.loop.run, self.journal
        assert run(journal.open_claims()) == of(OPEN)
        assert run(journal.pending(0, 1000)) == of(CLOSED)
        assert journal.counts() == {state: len(of(state)) for state in ClaimState}
        assert run(journal.next_seq()) == max(self.model, default=0) + 1

    def teardown(self) -> None:
        self.loop.run(self.journal.close())
        self.loop.close()
        assert entries(self.path) == self.told
        latest = dict(rows(self.path, "SELECT claim_seq, body FROM entry ORDER BY n"))
        assert latest == dict(rows(self.path, "SELECT seq, body FROM claim"))
        shutil.rmtree(self.folder)


TestJournalAndModel = JournalAndModel.TestCase
TestJournalAndModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


LEGAL = {(OPEN, CLOSED), (OPEN, VOIDED), (CLOSED, SETTLED), (CLOSED, REJECTED)}
KNOWN_ALREADY = {(SETTLED, CLOSED), (REJECTED, CLOSED)}
"""A late try of what the backend has answered since: accepted, and without effect."""

WAY_TO = {
    OPEN: (),
    CLOSED: (CLOSED,),
    VOIDED: (VOIDED,),
    SETTLED: (CLOSED, SETTLED),
    REJECTED: (CLOSED, REJECTED),
}


def test_every_change_of_state_outside_the_life_of_a_claim_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with journal_at(tmp_path / "journal.db") as journal:
            pairs = [pair for pair in product(ClaimState, ClaimState) if pair[0] is not pair[1]]
            for seq, (old, new) in enumerate(pairs, start=1):
                claim = ended(opened(seq))
                for state in (OPEN, *WAY_TO[old]):
                    await journal.record(replace(claim, state=state))
                if (old, new) in LEGAL | KNOWN_ALREADY:
                    before = journal.counts()
                    await journal.record(replace(claim, state=new))
                    assert (journal.counts() == before) == ((old, new) in KNOWN_ALREADY)
                else:
                    with pytest.raises(JournalError, match=f"not recorded as {new}: "):
                        await journal.record(replace(claim, state=new))

    asyncio.run(run())


def test_voiding_a_claim_whose_start_was_never_recorded_leaves_no_trace(tmp_path: Path) -> None:
    async def run() -> None:
        async with journal_at(tmp_path / "journal.db") as journal:
            await journal.record(ended(opened(1), VOIDED))
            assert sum((journal.counts()).values()) == 0
            assert await journal.next_seq() == 1

    asyncio.run(run())


@pytest.mark.parametrize("edit", [{"hold": True}, {"end_wh": 9}, {"cost": None}, {"anomalies": ("x",)}])
def test_a_bill_is_not_edited_once_it_is_closed(tmp_path: Path, edit: dict[str, Any]) -> None:
    async def run() -> None:
        async with journal_at(tmp_path / "journal.db") as journal:
            bill = ended(opened(1))
            await journal.record(opened(1))
            await journal.record(bill)
            for state in (CLOSED, SETTLED):
                with pytest.raises(JournalError, match=f"{next(iter(edit))} cannot change"):
                    await journal.record(replace(bill, state=state, **edit))
            assert await journal.pending(0, 9) == [bill]

    asyncio.run(run())


def test_pending_claims_come_oldest_first_in_pages(tmp_path: Path) -> None:
    async def scenario(outbox: Outbox) -> None:
        for seq in range(1, 6):
            await journal.record(opened(seq))
            await journal.record(ended(opened(seq)))
        assert [claim.seq for claim in await outbox.pending(0, 2)] == [1, 2]
        assert [claim.seq for claim in await outbox.pending(2, 9)] == [3, 4, 5]
        assert await outbox.settle(opened(3).id, REJECTED, "unknown tariff")
        assert [claim.seq for claim in await outbox.pending(2, 9)] == [4, 5]

    async def run() -> None:
        async with journal:
            await scenario(journal)

    journal = journal_at(tmp_path / "journal.db")
    asyncio.run(run())
    told = rows(
        tmp_path / "journal.db", "SELECT claim_seq, unix_ms, mono_ms, detail FROM entry WHERE kind='rejected'"
    )
    assert told == [(3, UNIX_MS, 5_000, "unknown tariff")]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET kind = 'voided'",
        "DELETE FROM entry",
        "DELETE FROM claim",
        "UPDATE claim SET state = 'settled', body = json_set(body, '$.state', 'settled') WHERE seq = 1",
        "UPDATE claim SET seq = 7, body = json_set(body, '$.seq', 7) WHERE seq = 1",
        "UPDATE claim SET body = json_set(body, '$.state', 'closed') WHERE seq = 1",
        "UPDATE claim SET body = 'x' WHERE seq = 1",
        'INSERT INTO claim VALUES (7, \'x\', \'closed\', \'{"seq":7,"id":"x","state":"closed"}\')',
        'INSERT INTO claim VALUES (0, \'x\', \'open\', \'{"seq":0,"id":"x","state":"open"}\')',
    ],
)
def test_the_file_itself_refuses_what_would_rewrite_history(tmp_path: Path, statement: str) -> None:
    async def run() -> None:
        async with journal_at(tmp_path / "journal.db") as journal:
            await journal.record(opened(1))

    asyncio.run(run())
    with (
        closing(sqlite3.connect(tmp_path / "journal.db")) as connection,
        pytest.raises(sqlite3.IntegrityError),
    ):
        connection.execute(statement)


# --- the thread ---------------------------------------------------------------------------------------


def journal_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "journal"]


def test_one_named_thread_lives_as_long_as_the_journal_is_open(tmp_path: Path) -> None:
    async def run() -> None:
        async with journal_at(tmp_path / "journal.db") as journal:
            await journal.record(opened(1))
            assert len(journal_threads()) == 1
        assert journal_threads() == []
        with pytest.raises(JournalError, match="not open"):
            await journal.next_seq()
        await journal.close()

    asyncio.run(run())


def test_a_commit_is_synced_before_it_is_promised(tmp_path: Path) -> None:
    async def run() -> None:
        async with journal_at(tmp_path / "journal.db") as journal:
            ask = "SELECT synchronous, journal_mode FROM pragma_synchronous, pragma_journal_mode"
            full = await journal._ask(lambda file: file._connection.execute(ask).fetchone())
            assert full == (2, "wal")  # FULL: sqlite.org/pragma.html#pragma_synchronous

    asyncio.run(run())


def test_a_disk_that_does_not_answer_in_time_is_an_error_and_a_request_not_begun_is_dropped(
    tmp_path: Path,
) -> None:
    async def next_seq(journal: Journal) -> int:
        async with asyncio.timeout(10):
            while True:
                try:
                    return await journal.next_seq()
                except JournalError:
                    continue

    async def run() -> None:
        path = tmp_path / "journal.db"
        async with journal_at(path, deadline_s=0.2) as journal:
            with closing(sqlite3.connect(path, isolation_level=None)) as neighbour:
                neighbour.execute("BEGIN IMMEDIATE")
                with pytest.raises(JournalError, match=r"did not answer within 0\.2 s"):
                    await journal.record(opened(1))
                with pytest.raises(JournalError, match="did not answer"):
                    await journal.record(opened(2))
                neighbour.execute("ROLLBACK")
            assert await next_seq(journal) == 2  # the first was under way; the second never happens
            await journal.record(opened(1))
        assert entries(path) == [(1, "opened")]

    asyncio.run(run())


def test_a_record_is_written_though_its_caller_was_cancelled(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "journal.db"
        async with journal_at(path) as journal:
            with closing(sqlite3.connect(path, isolation_level=None)) as neighbour:
                neighbour.execute("BEGIN IMMEDIATE")
                callers = [asyncio.create_task(journal.record(opened(seq))) for seq in (1, 2)]
                await asyncio.sleep(0)
                for caller in callers:
                    caller.cancel()
                await asyncio.wait(callers)
                assert all(caller.cancelled() for caller in callers)
                neighbour.execute("ROLLBACK")
            assert await journal.open_claims() == [opened(1), opened(2)]

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_reaches_the_caller_and_lets_go_of_the_file(tmp_path: Path) -> None:
    async def run() -> None:
        async with journal_at(tmp_path / "journal.db") as journal:
            with pytest.raises(RuntimeError, match="bug"):
                await journal._ask(lambda _: 1 // 0)
            journal._worker.join(10)
            with pytest.raises(JournalError, match="not open"):
                await journal.next_seq()
        async with journal_at(tmp_path / "journal.db") as journal:
            assert await journal.next_seq() == 1

    asyncio.run(run())


def test_the_log_is_emptied_on_close_though_a_tool_still_looks_into_the_file(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "journal.db"
        async with journal_at(path) as journal:
            await journal.record(opened(1))
            tool = sqlite3.connect(path)
            assert tool.execute("SELECT seq FROM claim").fetchall() == [(1,)]
        with closing(tool):
            assert (tmp_path / "journal.db-wal").stat().st_size == 0

    asyncio.run(run())


# --- opening ------------------------------------------------------------------------------------------


async def refusal_to_open(journal: Journal) -> JournalError:
    with pytest.raises(JournalError) as refusal:
        await journal.open()
    journal._worker.join(10)
    assert not journal._worker.is_alive()
    return refusal.value


def test_only_the_owner_may_read_the_files_whatever_the_umask(tmp_path: Path) -> None:
    def modes() -> dict[str, int]:
        return {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}

    async def run() -> None:
        async with journal_at(tmp_path / "journal.db") as journal:
            await journal.record(opened(1))
            assert set(modes()) >= {"journal.db", "journal.db-wal", "journal.db.lock", "journal.db.reserve"}
            assert set(modes().values()) == {0o600}

    before = os.umask(0)
    try:
        asyncio.run(run())
    finally:
        os.umask(before)


def test_a_second_process_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with writer(path) as first:
        assert lines_of(first, 1)
        error = asyncio.run(refusal_to_open(journal_at(path)))
    assert f"process {first.pid} has it open" in str(error)
    assert not error.full


def test_a_file_that_opens_too_late_is_closed_again(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "journal.db"
        journal = journal_at(path, deadline_s=0.2)
        with closing(sqlite3.connect(path, isolation_level=None)) as neighbour:
            neighbour.execute("BEGIN EXCLUSIVE")
            with pytest.raises(JournalError, match="did not answer"):
                await journal.open()
            assert journal._worker.is_alive()
            neighbour.execute("ROLLBACK")
        journal._worker.join(10)
        assert not journal._worker.is_alive()
        await open_and_close(path)

    asyncio.run(run())


def test_a_journal_of_another_station_is_refused(tmp_path: Path) -> None:
    async def run() -> JournalError:
        async with journal_at(tmp_path / "journal.db", station="CP-1"):
            pass
        return await refusal_to_open(journal_at(tmp_path / "journal.db", station="CP-2"))

    assert "belongs to station 'CP-1', not 'CP-2'" in str(asyncio.run(run()))


def test_a_journal_of_a_newer_release_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")
    assert "newer release" in str(asyncio.run(refusal_to_open(journal_at(path))))
    assert rows(path, "PRAGMA user_version") == [(1000,)]
    assert list(tmp_path.glob("*.corrupt-*")) == []


def test_a_migration_that_fails_leaves_the_schema_before_it(tmp_path: Path) -> None:
    good = "CREATE TABLE first (x);"
    bad = "CREATE TABLE second (x); INSERT INTO nowhere VALUES (1);"
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            migrate(connection, (good, bad))
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        migrate(connection, (good, "CREATE TABLE second (x);"))
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    error = asyncio.run(refusal_to_open(journal_at(small_disk / "journal.db")))
    assert f"the journal {small_disk / 'journal.db'} cannot be opened" in str(error)
    assert "Read-only file system" in str(error)
    missing = asyncio.run(refusal_to_open(journal_at(tmp_path / "nowhere" / "journal.db")))
    assert "does not exist; make it or set paths.journal" in str(missing)


# --- damage -------------------------------------------------------------------------------------------


def damage_header(path: Path) -> None:
    path.write_bytes(b"not a database, but longer than a header. " * 100)


def damage_claims(path: Path) -> None:
    """Overwrite the page that holds the claims, as a worn SD card does."""
    [(page,)] = rows(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'claim'")
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


def damage_one_digit(path: Path) -> None:
    """Flip bits inside a claim without breaking the page: its seq is no longer the row's."""
    data = path.read_bytes()
    assert b'"seq":1,' in data
    path.write_bytes(data.replace(b'"seq":1,', b'"seq":5,'))


@pytest.mark.parametrize("damage", [damage_header, damage_claims, damage_one_digit])
def test_a_damaged_journal_is_set_aside_and_a_new_epoch_begins(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "journal.db"

    async def run() -> None:
        async with journal_at(path) as journal:
            await journal.record(opened(1))
            assert journal.opened.quarantined is None
            first_epoch = journal.epoch
        damage(path)
        damaged = path.read_bytes()
        async with journal_at(path) as journal:
            aside = tmp_path / f"journal.db.corrupt-{UNIX_MS // 1000}"
            assert journal.opened.quarantined == aside
            assert journal.opened.damage
            assert aside.read_bytes() == damaged
            assert journal.epoch != first_epoch
            assert await journal.next_seq() == 1
            await journal.record(opened(1, epoch=journal.epoch))
        async with journal_at(path) as journal:
            assert journal.opened.quarantined is None

    asyncio.run(run())


def test_new_claims_are_named_by_another_life_at_every_opening(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    async def run() -> list[str]:
        lives = []
        for _ in range(3):
            async with journal_at(path) as journal:
                lives.append(journal.opened.life)
        return lives

    assert len(set(asyncio.run(run()))) == 3


def test_two_damaged_journals_of_the_same_second_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for junk in (b"first " * 1000, b"second " * 1000):
        path.write_bytes(junk)
        asyncio.run(open_and_close(path))
    kept = {file.read_bytes()[:6] for file in tmp_path.glob("*.corrupt-*")}
    assert kept == {b"first ", b"second"}


def test_the_log_of_a_file_that_was_set_aside_never_flows_into_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    async def run() -> None:
        async with journal_at(path) as journal:
            await journal.record(opened(1))
            shutil.copy(tmp_path / "journal.db-wal", tmp_path / "log")
        path.rename(tmp_path / "journal.db.corrupt-1")  # the power cut came before the log was renamed
        (tmp_path / "log").rename(tmp_path / "journal.db-wal")
        log = (tmp_path / "journal.db-wal").read_bytes()
        async with journal_at(path) as journal:
            assert journal.opened.quarantined == tmp_path / f"journal.db.corrupt-{UNIX_MS // 1000}"
            assert await journal.open_claims() == []
        assert (tmp_path / f"journal.db.corrupt-{UNIX_MS // 1000}-wal").read_bytes() == log

    asyncio.run(run())


async def open_and_close(path: Path) -> None:
    async with journal_at(path):
        pass


# --- a full disk --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode != 0:
        pytest.skip(f"needs to mount a tmpfs: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Take every free block."""
    fd = os.open(disk / "somebody_else.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except OSError:
        assert free_bytes(disk) == 0
    finally:
        os.close(fd)


def reserve_bytes(disk: Path) -> int:
    return (disk / "journal.db.reserve").stat().st_blocks * 512


def test_on_a_full_disk_no_session_starts_but_the_running_one_closes_and_nothing_is_lost(
    small_disk: Path,
) -> None:
    async def run() -> None:
        async with journal_at(small_disk / "journal.db") as journal:
            assert reserve_bytes(small_disk) == RESERVE_BYTES
            await journal.record(opened(1))
            fill(small_disk)

            with pytest.raises(JournalError, match="disk is full") as refusal:
                await journal.record(opened(2))
            assert refusal.value.full
            assert reserve_bytes(small_disk) == RESERVE_BYTES

            await journal.record(replace(opened(1), last_wh=2000))
            assert 0 < reserve_bytes(small_disk) < RESERVE_BYTES
            await journal.record(ended(opened(1)))
            assert await journal.pending(0, 9) == [ended(opened(1))]
            fill(small_disk)
            assert await journal.next_connection() == 1
            fill(small_disk)
            assert await journal.settle(opened(1).id, SETTLED, "")

            (small_disk / "somebody_else.log").unlink()
            await journal.record(opened(2))
            assert reserve_bytes(small_disk) == RESERVE_BYTES
            assert await journal.open_claims() == [opened(2)]

        told = [(1, "opened"), (1, "checkpoint"), (1, "closed"), (1, "settled"), (2, "opened")]
        assert entries(small_disk / "journal.db") == told
        assert rows(small_disk / "journal.db", "PRAGMA integrity_check") == [("ok",)]

    asyncio.run(run())


def test_the_reserve_closes_every_connector_though_a_neighbour_takes_each_block_we_free(
    small_disk: Path,
) -> None:
    async def run() -> None:
        async with journal_at(small_disk / "journal.db") as journal:
            running = [opened(seq) for seq in range(1, 9)]
            for claim in running:
                await journal.record(claim)
            for claim in running:
                fill(small_disk)
                await journal.record(ended(claim))
            assert await journal.pending(0, 99) == [ended(claim) for claim in running]

    asyncio.run(run())


def test_when_even_the_reserve_is_used_up_the_error_says_full_and_the_claim_stays_open(
    small_disk: Path,
) -> None:
    async def run() -> None:
        async with journal_at(small_disk / "journal.db") as journal:
            await journal.record(opened(1))
            (small_disk / "journal.db.reserve").unlink()
            fill(small_disk)
            with pytest.raises(JournalError, match="full") as refusal:
                await journal.record(ended(opened(1)))
            assert refusal.value.full
            assert await journal.open_claims() == [opened(1)]
            (small_disk / "somebody_else.log").unlink()
            await journal.record(ended(opened(1)))
            assert await journal.pending(0, 9) == [ended(opened(1))]

    asyncio.run(run())


def test_a_disk_below_the_minimum_refuses_new_sessions_before_it_is_full(small_disk: Path) -> None:
    async def run() -> None:
        async with journal_at(small_disk / "journal.db") as journal:
            await journal.record(opened(1))
            ballast = free_bytes(small_disk) - MIN_FREE_BYTES
            (small_disk / "ballast").write_bytes(b"x" * (ballast + 4096))
            with pytest.raises(JournalError) as refusal:
                await journal.record(opened(2))
            assert refusal.value.full
            (small_disk / "ballast").write_bytes(b"x" * (ballast - 16 * 4096))
            await journal.record(opened(2))

    asyncio.run(run())


def test_a_journal_opens_on_a_full_disk_and_closes_what_was_running(small_disk: Path) -> None:
    async def run() -> None:
        path = small_disk / "journal.db"
        async with journal_at(path) as journal:
            await journal.record(opened(1))
        fill(small_disk)
        async with journal_at(path) as journal:
            assert await journal.open_claims() == [opened(1)]
            await journal.record(ended(opened(1)))
        async with journal_at(path) as journal:
            assert await journal.pending(0, 9) == [ended(opened(1))]

    asyncio.run(run())


def test_a_first_start_on_a_full_disk_says_so(small_disk: Path) -> None:
    fill(small_disk)
    error = asyncio.run(refusal_to_open(journal_at(small_disk / "journal.db")))
    assert error.full
    (small_disk / "somebody_else.log").unlink()
    asyncio.run(open_and_close(small_disk / "journal.db"))


def test_a_disk_without_room_for_the_reserve_keeps_what_it_has_and_starts_nothing(small_disk: Path) -> None:
    async def run() -> None:
        (small_disk / "ballast").write_bytes(b"x" * (free_bytes(small_disk) - RESERVE_BYTES))
        async with journal_at(small_disk / "journal.db") as journal:
            with pytest.raises(JournalError) as refusal:
                await journal.record(opened(1))
            assert refusal.value.full
            assert await journal.next_seq() == 1
            assert await journal.next_connection() == 1

    asyncio.run(run())


def test_one_transaction_fits_into_one_step_of_the_reserve(tmp_path: Path) -> None:
    """Measured on the write-ahead log, which takes whole pages."""

    async def run() -> None:
        log = tmp_path / "journal.db-wal"
        async with journal_at(tmp_path / "journal.db") as journal:
            await journal.record(opened(1))
            before = log.stat().st_size
            await journal.record(replace(ended(opened(1)), anomalies=("a sentence of some length ",) * 50))
            assert 0 < log.stat().st_size - before <= RESERVE_STEP_BYTES

    asyncio.run(run())


# --- killed and broken --------------------------------------------------------------------------------


KILLS = 20
RANKS = {"open": 0, "closed": 1, "settled": 2}


def promises(lines: list[str]) -> tuple[dict[int, int], list[int]]:
    """The highest rank printed for each claim, and the connection numbers in the order they were printed."""
    ranks: dict[int, int] = {}
    connections: list[int] = []
    for line in lines:
        match line.split():
            case ["claim", seq, state]:
                ranks[int(seq)] = max(RANKS[state], ranks.get(int(seq), 0))
            case ["connection", number]:
                connections.append(int(number))
            case other:
                assert other == ["failed"]
    return ranks, connections


def assert_kept(path: Path, lines: list[str]) -> None:
    """All that was promised is in the file, once, and the file is sound."""
    ranks, connections = promises(lines)
    assert len(ranks) > 1
    kept = {seq: RANKS[state] for seq, state in rows(path, "SELECT seq, state FROM claim")}
    assert [seq for seq, rank in ranks.items() if kept.get(seq, -1) < rank] == []
    assert sorted(kept) == list(range(1, len(kept) + 1))
    assert connections == sorted(set(connections))
    told = [entry for entry in entries(path) if entry[1] != "checkpoint"]
    assert len(told) == len(set(told)) == sum(rank + 1 for rank in kept.values())
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "PRAGMA foreign_key_check") == []


def test_what_was_promised_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    path, lines, moment = tmp_path / "journal.db", list[str](), random.Random(22)  # noqa: S311 - no secret
    for _ in range(KILLS):
        with writer(path) as victim:
            lines += lines_of(victim, moment.randrange(1, 30))
            time.sleep(moment.uniform(0.0, 0.012))  # anywhere inside the next commits
            victim.kill()
            lines += lines_of(victim)
        assert victim.returncode == -signal.SIGKILL
    assert_kept(path, lines)


def test_a_disk_that_fails_to_sync_now_and_then_loses_nothing_it_promised(tmp_path: Path) -> None:
    fiu_run = shutil.which("fiu-run")
    if fiu_run is None:
        pytest.skip("needs libfiu's fiu-run to break system calls")
    broken = [
        word
        for call in ("posix/io/sync/fsync", "posix/io/sync/fdatasync", "posix/io/rw/pwrite")
        for word in ("-c", f"enable_random name={call},probability=0.01")
    ]
    path, lines = tmp_path / "journal.db", list[str]()
    for _ in range(8):
        with writer(path, fiu_run, "-x", *broken) as victim:  # may already fail to open, and then ends
            lines += lines_of(victim, 200)
            victim.kill()
            lines += lines_of(victim)
    assert "failed" in lines
    assert_kept(path, lines)
