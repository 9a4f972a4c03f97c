"""`./run bench garage`: a week of a real garage, shared by the core and by others, against what was possible.

    ./run bench garage [--days N] [--silent | --knowing] [--policies] [--plot]

--days N     only the first N of the five days
--silent     drivers state no demands
--knowing    drivers state what they will take and when they will leave, to see what better demands are worth
--policies   instead: ways to share that the core might use, in a simulator without lag
--plot       instead: the busiest day through the core, drawn to docs/garage-day.png
"""

import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tests.benchmarks.garage_bound import bound_wh
from tests.benchmarks.garage_core import Replay
from tests.benchmarks.garage_rules import BASELINES, POLICIES, simulate
from tests.benchmarks.garage_world import RATIOS, WEEK, Floats, Garage, Outcome, garage, jain, limited

SITES = {"three-phase tree": True, "single-phase sockets": False}

RECLAIM_A = 2.0
"""`Sharing.reclaim_headroom_ma`: how close the policies learn what a car can take."""


class Score(NamedTuple):
    """How good it was."""

    energy: float  # of the most that was possible
    fairness: float  # Jain's index of what part of its wish each car took
    worst: float  # that part for the worst-served 5 %
    pauses: float  # per session
    changes: float  # per charging hour


def score(place: Garage, outcome: Outcome, most_wh: float) -> Score:
    """Judge an outcome by the cars' true wishes and the perfect-foresight bound."""
    wishes = np.array([car.wish_wh for car in place.cars])
    parts: Floats = outcome.wh / wishes
    return Score(
        energy=float(outcome.wh.sum()) / most_wh,
        fairness=jain(parts),
        worst=float(np.quantile(parts, 0.05)),
        pauses=outcome.pauses / len(wishes),
        changes=outcome.changes / outcome.charging_h,
    )


def main(options: list[str]) -> int:
    """Print the tables of the whole week, or what the options ask for."""
    days = int(options[options.index("--days") + 1]) if "--days" in options else WEEK[1]
    if "--plot" in options:
        from tests.benchmarks.garage_plot import draw

        print(f"written: {draw()}")
        return 0
    for name, three_phase in SITES.items():
        place = garage(WEEK[0], days, three_phase=three_phase)
        if "--knowing" in options:
            knowing = (car._replace(asked_wh=car.wish_wh, says_leaves_s=car.leaves_s) for car in place.cars)
            place = place._replace(cars=tuple(knowing))
        said = sum(car.asked_wh is not None for car in place.cars)
        wish_kwh = sum(car.wish_wh for car in place.cars) / 1000
        print(
            f"\n## {name}: {len(place.site.outlets)} connectors, {len(place.cars)} sessions in {days} days "
            f"from {WEEK[0]}, {wish_kwh:.0f} kWh\n\n{said} "
            f"drivers stated a demand, {place.clipped} wishes were cut to what is possible in the stay; "
            f"uncontrolled peak {place.peak_ma / 1000:.0f} A per phase\n"
        )
        if "--policies" in options:
            _policies(place)
        else:
            _against_baselines(place, demands="--silent" not in options)
    return 0


def _against_baselines(place: Garage, *, demands: bool) -> None:
    print(
        "| root | shared by | energy / bound | Jain | worst 5 % | pauses / session | changes / h | excess A |"
        " tick us, median / 99 % |\n|---|---|---|---|---|---|---|---|---|"
    )
    for percent in RATIOS:
        here = limited(place, percent)
        most_wh = bound_wh(here)
        root_a = here.site.circuits[0].limit_ma[0] // 1000
        possible = most_wh / sum(car.wish_wh for car in here.cars)
        print(f"| **{root_a} A** ({percent} %) | *foresight* | {possible:.1%} of wishes | | | | | | |")
        progress(f"{percent} %: the core")
        replayed = Replay(here, demands=demands).run()
        median_us, late_us = np.quantile(replayed.tick_us, [0.5, 0.99])
        cost = f"{median_us:.0f} / {late_us:.0f}"
        _row("**edge**", score(here, replayed.outcome, most_wh), replayed.outcome, cost)
        for name, rule in BASELINES.items():
            progress(f"{percent} %: {name}")
            outcome = simulate(here, rule)
            _row(name, score(here, outcome, most_wh), outcome, "")
    progress("")


def _row(name: str, s: Score, outcome: Outcome, cost: str) -> None:
    print(
        f"| | {name} | {s.energy:.1%} | {s.fairness:.3f} | {s.worst:.2f} | {s.pauses:.2f} | {s.changes:.1f} |"
        f" {max(0.0, outcome.over_a):.3f} | {cost} |",
        flush=True,
    )


def _policies(place: Garage) -> None:
    print("energy / bound, Jain, worst 5 %, pauses per session, changes per charging hour\n")
    print(
        "| | " + " | ".join(f"{percent} %" for percent in RATIOS) + " |\n" + "|---" * (len(RATIOS) + 1) + "|"
    )
    sites = [limited(place, percent) for percent in RATIOS]
    bounds = [bound_wh(here) for here in sites]
    for name, rule in POLICIES.items():
        progress(name)
        scores = [
            score(here, simulate(here, rule, headroom_a=RECLAIM_A), most_wh)
            for here, most_wh in zip(sites, bounds, strict=True)
        ]
        cells = [
            f"{s.energy:.1%} {s.fairness:.2f} {s.worst:.2f} {s.pauses:.1f} {s.changes:.1f}" for s in scores
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    progress("")


def progress(what: str) -> None:
    """Show on a terminal what is going on; the next line takes its place."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def report() -> Iterator[tuple[str, str, str]]:
    """Rows for `./run bench`: two days on the tree, as (what, result, target)."""
    place = garage(WEEK[0], 2)
    for percent in RATIOS:
        here = limited(place, percent)
        began = time.perf_counter()
        replayed = Replay(here).run()
        seconds = time.perf_counter() - began
        s = score(here, replayed.outcome, bound_wh(here))
        yield (
            f"garage, 2 days ({seconds:.0f} s), root at {percent} % of the peak: energy / bound, "
            "worst-served 5 %, pauses per session, excess",
            f"{s.energy:.1%}, {s.worst:.2f}, {s.pauses:.1f}, {max(0.0, replayed.outcome.over_a):.3f} A",
            "95 %" + (", 0.2" if percent == RATIOS[0] else "") + ", 1.5, 0 A",
        )
