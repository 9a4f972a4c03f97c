"""The verb `sim`: random days of the production daemon, each from one seed, judged by what was promised.

python -m hal_mocks sim --seed 7            one day, with its trace; a broken promise is made small
python -m hal_mocks sim --seeds 200         the days 1 to 200 on all cores
python -m hal_mocks sim --nightly           for an hour, from a seed that is today's date
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from hal_mocks import scenario
from hal_mocks.arguments import between
from hal_mocks.plans import Plan, make_plan
from hal_mocks.simulation import Outcome, as_plan, as_scenario, shrink, simulate

NIGHT_S = 3_600

SEED = between(0, scenario.LARGEST_SEED)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=SEED, metavar="N", help="play one seed and show what happens")
    what.add_argument("--seeds", type=between(1, 10**9), metavar="N", help="play the seeds from 1 to N")
    what.add_argument("--scenario", type=Path, metavar="FILE", help="play what a failing seed left again")
    what.add_argument("--nightly", action="store_true", help="play new seeds for an hour")
    parser.add_argument("--first", type=SEED, default=1, metavar="N", help="begin with that seed (default 1)")
    parser.add_argument(
        "--days", type=between(0, 366), default=0, metavar="D", help="ordinary days instead of 5 minutes"
    )
    parser.add_argument(
        "--jobs", type=between(1, 1_000), default=os.cpu_count() or 1, metavar="N", help="processes"
    )
    parser.add_argument("--quiet", action="store_true", help="no trace, only the verdict")
    parser.add_argument("--no-shrink", action="store_true", help="do not make a failing plan small")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="where the scenario of a failing seed goes (default: shown)",
    )


def run(chosen: argparse.Namespace) -> int:
    """Play; 0 when every promise held, 1 with the first that did not."""
    if chosen.seed is not None:
        return _one(make_plan(chosen.seed, days=chosen.days), chosen)
    if chosen.scenario is not None:
        try:
            return _one(as_plan(scenario.read(chosen.scenario)), chosen)
        except scenario.ScenarioError as error:
            print(error, file=sys.stderr)
            return 2
    began_s = time.monotonic()
    played, simulated_ms = 0, 0
    for outcome in _many(chosen, began_s):
        played, simulated_ms = played + 1, simulated_ms + outcome.simulated_ms
        if outcome.broken is not None:
            _line(f"seed {outcome.plan.seed}: {outcome.broken}")
            return _tell(outcome, chosen)
        if sys.stdout.isatty():
            print(f"\r{played} seeds held", end="", flush=True)
    passed_s = time.monotonic() - began_s
    _line(
        f"{played} seeds held: {simulated_ms / 3_600_000:.1f} h of a station in {passed_s:.0f} s"
        f" with {chosen.jobs} processes"
    )
    return 0


def _one(plan: Plan, chosen: argparse.Namespace) -> int:
    began_s = time.process_time()
    outcome = simulate(plan, see=None if chosen.quiet else _line)
    used_s = time.process_time() - began_s
    simulated_s = outcome.simulated_ms / 1000
    _line(
        f"seed {plan.seed}: {simulated_s:.0f} s of {outcome.plan.connectors} connectors in {used_s:.1f} s"
        f" of processor time, {simulated_s / used_s:.0f} times real time"
    )
    _line(f"fingerprint {outcome.fingerprint}")
    return _tell(outcome, chosen) if outcome.broken is not None else 0


def _tell(outcome: Outcome, chosen: argparse.Namespace) -> int:
    """Say what broke, as small as it can be made."""
    if outcome.broken is None:
        return 0
    _line(f"BROKEN {outcome.broken}")
    plan = outcome.plan
    if not chosen.no_shrink:
        plan = shrink(plan, outcome.broken, tell=lambda text: _line(f"  made smaller: {text}"))
    small = as_scenario(plan, simulate(plan).broken)
    if chosen.write is None:
        _line(str(small))
    else:
        chosen.write.write_text(str(small))
        _line(f"written to {chosen.write}")
    return 1


def _many(chosen: argparse.Namespace, began_s: float) -> Iterator[Outcome]:
    if chosen.nightly:
        today = datetime.now(UTC)
        seeds = iter(range(int(today.strftime("%Y%m%d")) * 100_000, 10**15))
    else:
        seeds = iter(range(chosen.first, chosen.first + chosen.seeds))
    with ProcessPoolExecutor(chosen.jobs) as pool:
        while batch := list(islice(seeds, 4 * chosen.jobs)):
            yield from pool.map(_play, batch, [chosen.days] * len(batch))
            if chosen.nightly and time.monotonic() - began_s > NIGHT_S:
                return


def _play(seed: int, days: int) -> Outcome:
    return simulate(make_plan(seed, days=days))


def _line(text: str) -> None:
    print(text, flush=True)
