"""The promise on money: SIGKILL at any moment of a session, and afterwards there is one bill for it."""

import asyncio
import random
from pathlib import Path

import pytest

from hal_mocks.rig import Rig
from tests.wire.people import arrive, leave, until

pytestmark = pytest.mark.wire

STATIONS = 5
SESSIONS = 4  # per station: 20 kills in all
SESSION_S = 7.0
"""From the plug to the free connector without a kill, so that the moments fall on all of it."""


async def one_station(folder: Path, seed: int) -> tuple[Rig, list[str]]:
    """Play sessions, each with one kill at a moment from the seed; return what went wrong."""
    dice = random.Random(seed)  # noqa: S311 - moments, not secrets
    problems: list[str] = []
    async with Rig(folder) as rig:
        await rig.start_daemon()
        start_nj = rig.world.meters["connector-1"].register_nj

        async def killer(after_s: float) -> None:
            await asyncio.sleep(after_s)
            await rig.kill_daemon()
            await rig.start_daemon()

        for _ in range(SESSIONS):
            killing = asyncio.create_task(killer(dice.uniform(0, SESSION_S)))
            await arrive(rig, 1, "alice")
            await asyncio.sleep(2.0)  # the car charges for a while
            await leave(rig, 1, "alice")
            await killing
        status = await until(
            rig,
            "the backend has booked every claim",
            lambda s: s["claims"]["closed"] == 0 and s["claims"]["open"] == 0,
        )
        claims = [booking.claim for booking in rig.backend.ledger.values()]
        flowed_wh = (rig.world.meters["connector-1"].register_nj - start_nj) / 3.6e12
        if len(claims) != SESSIONS or status["claims"]["settled"] != SESSIONS:
            problems.append(f"seed {seed}: {len(claims)} bills for {SESSIONS} sessions: {claims}")
        problems += [
            f"{key} booked {t.booked} times" for key, t in rig.backend.tally.items() if t.booked != 1
        ]
        problems += [f"{claim['id']}: {claim['anomalies']}" for claim in claims if claim["anomalies"]]
        billed_wh = sum(claim["energy_wh"] for claim in claims)
        if abs(billed_wh - flowed_wh) > 1 + SESSIONS:  # each register is read in whole watt-hours
            problems.append(f"seed {seed}: {billed_wh} Wh billed, {flowed_wh:.1f} Wh flowed")
        await rig.stop_daemon()
        return rig, problems


@pytest.mark.timeout(300)
def test_a_daemon_killed_at_20_random_moments_bills_every_session_exactly_once(tmp_path: Path) -> None:
    async def all_stations() -> list[str]:
        results = await asyncio.gather(*(one_station(tmp_path / str(seed), seed) for seed in range(STATIONS)))
        return [problem for _, problems in results for problem in problems]

    assert asyncio.run(all_stations()) == []
