"""Runs sessions against a journal, one after the other, until it is killed: the victim of test_journal.

`python journal_writer.py PATH` prints a line only after the journal promised to remember what the line says:
"claim SEQ STATE" or "connection N"; "failed" for each refusal, which is then tried again.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from edge.errors import JournalError
from edge.journal import Journal
from edge.records import Claim, ClaimState, ClockQuality, StopReason, Tariff

T = TypeVar("T")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await ask()
        except JournalError:
            say("failed")


async def record(journal: Journal, claim: Claim) -> Claim:
    await insist(lambda: journal.record(claim))
    say(f"claim {claim.seq} {claim.state}")
    return claim


async def finish(journal: Journal, claim: Claim) -> None:
    end_wh = claim.last_wh + 500
    await record(
        journal,
        replace(
            claim,
            state=ClaimState.CLOSED,
            last_wh=end_wh,
            end_wh=end_wh,
            energy_wh=end_wh - claim.start_wh,
            reason=StopReason.CARD,
        ),
    )
    await settle(journal, claim)


async def settle(journal: Journal, claim: Claim) -> None:
    await insist(lambda: journal.settle(claim.id, ClaimState.SETTLED, "accepted"))
    say(f"claim {claim.seq} settled")


async def run(path: Path) -> None:
    journal = Journal(
        path,
        station="CP-1",
        wall=lambda: (time.time_ns() // 1_000_000, ClockQuality.UNSYNCED),
        now_ms=lambda: time.monotonic_ns() // 1_000_000,
    )
    async with journal:
        for claim in await insist(journal.open_claims):
            await finish(journal, claim)
        for claim in await insist(lambda: journal.pending(0, 1000)):
            await settle(journal, claim)
        while True:
            say(f"connection {await insist(journal.next_connection)}")
            seq = await insist(journal.next_seq)
            claim = Claim(
                id=f"CP-1-{journal.epoch[:12]}-{seq}",
                seq=seq,
                state=ClaimState.OPEN,
                connector=1,
                contract="NL-ABC-C1",
                credential="04****C4",
                tariff=Tariff("EUR", Decimal("0.30"), Decimal(0), Decimal(21)),
                meter="main",
                start_wh=seq * 1000,
                last_wh=seq * 1000,
                opened_unix_ms=1_700_000_000_000,
                clock=ClockQuality.UNSYNCED,
            )
            await record(journal, claim)
            await finish(journal, await record(journal, replace(claim, last_wh=claim.last_wh + 100)))


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
