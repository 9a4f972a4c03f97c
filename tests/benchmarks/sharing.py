"""`./run bench sharing [--write]`: the kernel alone, per call, and its ratios against the committed ones.

Times differ between machines, ratios hardly do: how much the compiled build is faster than the same file as
plain Python, how time grows from 64 to 1024 connectors, what depth costs. A ratio more than 25 % worse than
the one in `sharing_baseline.json` fails the run; `--write` records new ones, to be committed with their
reason.
"""

import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from edge.control import sharing
from tests.plain_sharing import plain_build

BASELINE = Path(__file__).with_name("sharing_baseline.json")
WORSE = 1.25

SIZES = (64, 256, 1024)
TARGETS_US = {("contended", 64): 10, ("contended", 256): 45, ("contended", 1024): 200, ("ample", 64): 1}

PANEL = 8
"""Connectors on one fuse, as garages are built."""

BLOCKS, CALLS = 9, 60
"""The least of so many medians: what else the machine does only ever adds."""


class Case(NamedTuple):
    """A question put to a tree, ready to be asked again and again."""

    ask: Callable[[], object]
    tree: sharing.Tree


def garage(n: int, depth: int) -> tuple[list[int], list[int]]:
    """Build a tree of circuits, panels of eight at its leaves: parents, and the circuit of each connector."""
    parents, level = [-1], [0]
    panels = 1 if depth == 1 else -(-n // PANEL)
    for _ in range(depth - 2):
        fuses = max(2, panels // PANEL)
        begin = len(parents)
        parents += [level[k % len(level)] for k in range(fuses)]
        level = list(range(begin, len(parents)))
    if depth == 1:
        return parents, [0] * n
    begin = len(parents)
    parents += [level[k % len(level)] for k in range(panels)]
    return parents, [begin + i // PANEL for i in range(n)]


def case(module: ModuleType, n: int, depth: int = 3, ratio: float = 0.5) -> Case:
    """Half of the connectors on three phases, maxima and weights distinct, rows at `ratio` of their wish."""
    rng = random.Random(n)  # noqa: S311 - the same numbers on every run
    parents, circuit_of = garage(n, depth)
    lines = [7 if i % 2 else 1 << i // 2 % 3 for i in range(n)]
    tree = module.Tree(parents, circuit_of, lines)
    most = [16_000 + (i * 7_919) % 16_000 for i in range(n)]
    wish = [0] * tree.rows
    for i in range(n):
        c = circuit_of[i]
        while c != -1:
            for p in range(3):
                wish[3 * c + p] += most[i] * (lines[i] >> p & 1)
            c = parents[c]
    for r in range(tree.rows):
        tree.room[r] = wish[r] if ratio >= 1 else int(wish[r] * ratio * rng.uniform(0.8, 1.2))
    for i in range(n):
        tree.least[i], tree.most[i], tree.weight[i] = 6_000, most[i], 500 + (i * 7_907) % 1_000
    return Case(lambda: tree.share(n), tree)


def least_median_us(ask: Callable[[], object], blocks: int = BLOCKS, calls: int = CALLS) -> float:
    """Return the time of one call in microseconds."""
    medians = []
    for _ in range(blocks):
        times = []
        for _ in range(calls):
            began = time.perf_counter_ns()
            ask()
            times.append(time.perf_counter_ns() - began)
        medians.append(sorted(times)[calls // 2])
    return min(medians) / 1000


KINDS = {"contended": 0.5, "starved": 0.25, "ample": 1.0}


def measure() -> tuple[list[tuple[str, str, str]], dict[str, float]]:
    """Return rows of (what, result, target), and the ratios; a larger ratio is worse."""
    rows: list[tuple[str, str, str]] = []
    ratios: dict[str, float] = {}
    plain = plain_build()
    times: dict[tuple[str, int], float] = {}
    for kind, ratio in KINDS.items():
        for n in SIZES:
            found = case(sharing, n, ratio=ratio)
            if not found.ask():
                raise ArithmeticError("the certificate refused an answer")
            times[kind, n] = us = least_median_us(found.ask)
            slow_us = least_median_us(case(plain, n, ratio=ratio).ask, blocks=3, calls=5)
            target = f"{TARGETS_US[kind, n]} us" if (kind, n) in TARGETS_US else ""
            rows.append(
                (f"share, {n} connectors, {kind}", f"{us:.2f} us (plain Python {slow_us / us:.0f} x)", target)
            )
            ratios[f"compiled / plain, {n}, {kind}"] = us / slow_us
    growth = times["contended", 1024] / times["contended", 64]
    rows.append(("time(1024) / time(64), contended", f"{growth:.1f}", "28"))
    rows.append(("growth exponent, contended", f"{math.log(growth) / math.log(16):.2f}", ""))
    ratios["time(1024) / time(64), contended"] = growth
    deep = [least_median_us(case(sharing, 64, depth=d, ratio=0.6).ask) for d in range(1, 7)]
    rows.append(("64 connectors, depth 1 to 6", " / ".join(f"{us:.1f}" for us in deep) + " us", "linear"))
    ratios["time at depth 6 / depth 3, 64"] = deep[5] / deep[2]
    tree = case(sharing, 64).tree
    tree.share(64)
    rows.append(
        ("its certificate alone, 64 connectors", f"{least_median_us(lambda: tree.certified(64)):.2f} us", "")
    )
    return rows, ratios


def report() -> list[tuple[str, str, str]]:
    """Measure; for the run of all benchmarks."""
    return measure()[0]


def worse(ratios: dict[str, float], baseline: dict[str, float]) -> Iterator[str]:
    """Say of each ratio that is more than 25 % worse than the committed one what it was and what it is."""
    for name, now in ratios.items():
        then = baseline.get(name)
        if then is None:
            yield f"{name}: no committed ratio; ./run bench sharing --write"
        elif now > then * WORSE:
            yield f"{name}: {now:.4g}, committed {then:.4g}, {now / then - 1:.0%} worse"


def main(arguments: list[str]) -> int:
    """Print the table and judge the ratios; exit code 1 if one is worse."""
    if arguments not in ([], ["--write"]):
        print("usage: ./run bench sharing [--write]", file=sys.stderr)
        return 2
    rows, ratios = measure()
    print("\n| what | measured | target |\n|---|---|---|")
    for what, result, target in rows:
        print(f"| {what} | {result} | {target} |")
    if arguments:
        BASELINE.write_text(
            json.dumps({name: round(ratio, 5) for name, ratio in ratios.items()}, indent=2) + "\n"
        )
        print(f"\nwritten to {BASELINE.name}")
        return 0
    complaints = list(worse(ratios, json.loads(BASELINE.read_text())))
    print("\n" + ("\n".join(complaints) or "no ratio is more than 25 % worse than the committed one"))
    return 1 if complaints else 0
