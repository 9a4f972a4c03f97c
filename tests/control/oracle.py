"""Sharing worked out again and again, by other methods than the kernel's, and instances to try it on.

`exact` raises everybody step by step in fractions; `by_linear_programs` asks a solver; `best_set` looks at
every set of connectors there is. `FAMILIES` makes instances from a seed: `FAMILIES["starved"](7)`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog


class Instance(NamedTuple):
    """What a `Tree` is made of, and one question to it; currents in mA."""

    parents: list[int]
    circuit_of: list[int]
    lines: list[int]
    room: list[int]
    least: list[int]
    most: list[int]
    order: list[int]
    weight: list[int]
    priority: list[int]
    sums: tuple[int, ...] = ()
    unbalanced: tuple[int, ...] = ()

    def site(self) -> tuple[list[int], list[int], list[int], tuple[int, ...], tuple[int, ...]]:
        """Arguments of `Tree`."""
        return self.parents, self.circuit_of, self.lines, self.sums, self.unbalanced

    def question(self) -> tuple[list[int], list[int], list[int], list[int], list[int], list[int]]:
        """Arguments of `Tree.solve`."""
        return self.room, self.least, self.most, self.order, self.weight, self.priority


Row = Mapping[int, int]
"""How often each connector counts in a row; those that do not are left out."""


def rows_of(
    parents: Sequence[int],
    circuit_of: Sequence[int],
    lines: Sequence[int],
    sums: Sequence[int] = (),
    unbalanced: Sequence[int] = (),
) -> list[Row]:
    """Every row of a tree, in the kernel's numbering."""
    below: list[list[int]] = [[] for _ in parents]
    for i, leaf in enumerate(circuit_of):
        c = leaf
        while c >= 0:
            below[c].append(i)
            c = parents[c]
    rows: list[Row] = [
        {i: 1 for i in below[c] if lines[i] >> p & 1} for c in range(len(parents)) for p in range(3)
    ]
    rows += [{i: lines[i].bit_count() for i in below[c]} for c in sums]
    rows += [
        {i: 1 for i in below[c] if lines[i] != 7 and lines[i] >> p & 1} for c in unbalanced for p in range(3)
    ]
    return rows


def admitted(case: Instance) -> list[int]:
    """Who is on, in the order of admission."""
    rows = rows_of(*case.site())
    left = [max(0, ma) for ma in case.room]
    on: list[int] = []
    for i in case.order:
        if case.most[i] < case.least[i]:
            continue
        loaded = [r for r, row in enumerate(rows) if i in row]
        if all(rows[r][i] * case.least[i] <= left[r] for r in loaded):
            on.append(i)
            for r in loaded:
                left[r] -= rows[r][i] * case.least[i]
    return on


def best_set(case: Instance) -> list[int]:
    """The set that is best for the first in order, then for the second, and so on: by looking at all."""
    rows = rows_of(*case.site())
    able = [i for i in case.order if case.most[i] >= case.least[i]]
    sets = (
        {i for i, on in zip(able, choice, strict=True) if on}
        for choice in product((True, False), repeat=len(able))  # the best first
    )
    return next(
        [i for i in able if i in on]
        for on in sets
        if all(
            sum(times * case.least[i] for i, times in row.items() if i in on) <= max(0, ma)
            for row, ma in zip(rows, case.room, strict=True)
        )
    )


def exact(case: Instance, *, strict: bool = False) -> list[Fraction]:
    """Raise all that are on from event to event until each is stopped: no search, no rounding."""
    rows = rows_of(*case.site())
    on = admitted(case)
    x = {i: Fraction(case.least[i]) for i in on}
    left = [
        Fraction(max(0, ma) - sum(times * case.least[i] for i, times in row.items() if i in x))
        for row, ma in zip(rows, case.room, strict=True)
    ]
    for members in _classes(case, on, strict=strict):
        _raise(case, rows, left, x, members)
    return [x.get(i, Fraction(0)) for i in range(len(case.circuit_of))]


def _classes(case: Instance, on: list[int], *, strict: bool) -> list[list[int]]:
    if not strict:
        return [on]
    return [
        [i for i in on if case.priority[i] == priority]
        for priority in sorted({case.priority[i] for i in on}, reverse=True)
    ]


def _raise(
    case: Instance, rows: list[Row], left: list[Fraction], x: dict[int, Fraction], members: list[int]
) -> None:
    """Let `members` rise, each by its weight once the level has come up to its minimum."""
    level = Fraction(0)
    waiting = set(members)
    moving: set[int] = set()
    while waiting or moving:
        moving |= {i for i in waiting if x[i] <= case.weight[i] * level}
        waiting -= moving
        full = {r for r in range(len(rows)) if left[r] == 0}
        stopped = {i for i in moving | waiting if x[i] == case.most[i] or any(i in rows[r] for r in full)}
        moving -= stopped
        waiting -= stopped
        speeds = [sum(times * case.weight[i] for i, times in row.items() if i in moving) for row in rows]
        steps = [x[i] / case.weight[i] - level for i in waiting]
        steps += [(case.most[i] - x[i]) / case.weight[i] for i in moving]
        steps += [ma / speed for ma, speed in zip(left, speeds, strict=True) if speed]
        step = min(steps, default=Fraction(0))
        level += step
        for i in moving:
            x[i] += case.weight[i] * step
        for r, speed in enumerate(speeds):
            left[r] -= speed * step


def by_linear_programs(case: Instance, *, strict: bool = False) -> list[float]:
    """The leximin allocation of x / weight: the lowest as high as can be, then the next lowest, and so on."""
    rows = rows_of(*case.site())
    on = admitted(case)
    at = {i: k for k, i in enumerate(on)}
    loads = np.zeros((len(rows), len(on) + 1))
    for r, row in enumerate(rows):
        for i, times in row.items():
            if i in at:
                loads[r, at[i]] = times
    room = [max(0, ma) for ma in case.room]
    bounds: list[tuple[float, float | None]] = [(case.least[i], case.most[i]) for i in on]
    for members in _classes(case, on, strict=strict):
        later = [i for i in on if case.priority[i] < case.priority[members[0]]] if strict else []
        free = set(members)
        while free:
            rising = sorted(free)
            floor = np.zeros((len(rising), len(on) + 1))  # weight * level - x <= 0
            for k, i in enumerate(rising):
                floor[k, at[i]], floor[k, -1] = -1, case.weight[i]
            found: Any = linprog(
                c=[0.0] * len(on) + [-1.0],
                A_ub=np.vstack([loads, floor]),
                b_ub=[*room, *[0] * len(rising)],
                bounds=[
                    *(
                        (low, low) if i in later else (low, high)
                        for i, (low, high) in zip(on, bounds, strict=True)
                    ),
                    (0, None),
                ],
                method="highs",
            )
            assert found.status == 0, found.message
            held = found.ineqlin.marginals[len(rows) :]
            for k, i in enumerate(rising):
                if held[k] < -1e-12:  # in every best answer it is exactly at the level
                    value = min(max(case.weight[i] * found.x[-1], case.least[i]), case.most[i])
                    bounds[at[i]] = (value, value)
                    free.discard(i)
    return [bounds[at[i]][0] if i in at else 0.0 for i in range(len(case.circuit_of))]


# -- instances -----------------------------------------------------------------------------------------------

THREE_PHASE, L1, L1_L2 = 7, 1, 3
SINGLE = (1, 2, 4)


class _Site:
    """Draws one instance; every trait has a usual value that a family changes."""

    def __init__(
        self, seed: int, *, circuits: tuple[int, int] = (1, 5), connectors: tuple[int, int] = (1, 10)
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - instances, no secrets
        n, count = self.rng.randint(*connectors), self.rng.randint(*circuits)
        self.parents = [-1] + [self.rng.randrange(c) for c in range(1, count)]
        self.circuit_of = [self.rng.randrange(count) for _ in range(n)]
        self.lines = self.rng.choices((*SINGLE, THREE_PHASE, THREE_PHASE, L1_L2), k=n)
        self.least = [6_000] * n
        self.most = [self.rng.randint(6_000, 32_000) for _ in range(n)]
        self.weight = [1] * n
        self.priority = [0] * n
        self.sums: tuple[int, ...] = ()
        self.unbalanced: tuple[int, ...] = ()

    def pick(self, *values: int) -> list[int]:
        return self.rng.choices(values, k=len(self.circuit_of))

    def between(self, low: int, high: int) -> list[int]:
        return [self.rng.randint(low, high) for _ in self.circuit_of]

    def rows(self) -> list[Row]:
        return rows_of(self.parents, self.circuit_of, self.lines, self.sums, self.unbalanced)

    def room(self, low_percent: int, high_percent: int) -> list[int]:
        """A part of what all could take together, another one for each row."""
        return [
            sum(times * self.most[i] for i, times in row.items())
            * self.rng.randint(low_percent, high_percent)
            // 100
            for row in self.rows()
        ]

    def instance(self, room: list[int]) -> Instance:
        """Most connectors ask, in any order but by class."""
        asking = [i for i in range(len(self.circuit_of)) if self.rng.random() < 0.9]
        self.rng.shuffle(asking)
        asking.sort(key=lambda i: -self.priority[i])
        return Instance(
            self.parents, self.circuit_of, self.lines, room, self.least, self.most, asking,
            self.weight, self.priority, self.sums, self.unbalanced,
        )  # fmt: skip


def _single_phase(seed: int) -> Instance:
    site = _Site(seed)
    site.lines = site.pick(*SINGLE)
    return site.instance(site.room(20, 110))


def _three_phase_mixed(seed: int) -> Instance:
    site = _Site(seed)
    return site.instance(site.room(20, 110))


def _no_rotation(seed: int) -> Instance:
    """Every car begins at L1, so that phase is full long before the others."""
    site = _Site(seed)
    site.lines = site.pick(L1, L1, L1_L2, THREE_PHASE)
    return site.instance(site.room(20, 90))


def _unbalanced_background(seed: int) -> Instance:
    site = _Site(seed)
    limits = site.room(60, 120)
    return site.instance(
        [ma - (site.rng.randrange(ma + 1) if r % 3 == 0 else 0) for r, ma in enumerate(limits)]
    )


def _starved(seed: int) -> Instance:
    site = _Site(seed, connectors=(4, 10))
    site.least = site.pick(6_000, 6_000, 8_000)
    site.most = [least + site.rng.randint(0, 10_000) for least in site.least]
    return site.instance(site.room(5, 50))


def _zero_capacity(seed: int) -> Instance:
    site = _Site(seed)
    site.least = site.pick(0, 6_000, 6_000)
    return site.instance([ma if site.rng.random() < 0.6 else 0 for ma in site.room(30, 110)])


def _background_over_limit(seed: int) -> Instance:
    site = _Site(seed)
    return site.instance([ma - site.rng.randrange(2 * ma + 1) for ma in site.room(40, 120)])


def _weights(seed: int) -> Instance:
    site = _Site(seed)
    site.weight = site.between(1, 400)
    site.least = site.pick(0, 1_000, 6_000)
    site.most = [least + site.rng.randint(0, 30_000) for least in site.least]
    return site.instance(site.room(20, 100))


def _far_apart_weights(seed: int) -> Instance:
    site = _Site(seed)
    site.weight = [1 << site.rng.randrange(19) for _ in site.circuit_of]
    site.least = site.pick(0, 6_000)
    return site.instance(site.room(20, 100))


def _classes_of_drivers(seed: int) -> Instance:
    site = _Site(seed)
    site.priority, site.weight = site.pick(-1, 0, 2), site.pick(1, 1, 3)
    return site.instance(site.room(25, 110))


def _ties(seed: int) -> Instance:
    """Equal cars, and rows that become full at the same level."""
    site = _Site(seed)
    site.least, site.most = site.pick(6_000), site.pick(12_000, 18_000)
    site.weight = site.pick(1, 1, 2)
    return site.instance([6_000 * site.rng.randint(1, 9) for _ in site.rows()])


def _deep_trees(seed: int) -> Instance:
    site = _Site(seed, circuits=(8, 12))
    site.parents = [
        c - 1 - (site.rng.randrange(c) if site.rng.random() < 0.15 and c else 0)
        for c in range(len(site.parents))
    ]
    return site.instance(site.room(30, 130))


def _ample(seed: int) -> Instance:
    site = _Site(seed)
    return site.instance(site.room(98, 160))


def _minimum_at_the_bound(seed: int) -> Instance:
    """Rows carry exactly the minimums of some of those on them, or a milliamp more or less."""
    site = _Site(seed)
    site.least = site.pick(6_000, 6_000, 7_500)
    site.most = [least + site.rng.choice((0, 1, 9_000)) for least in site.least]
    return site.instance(
        [
            sum(times * site.least[i] for i, times in row.items() if site.rng.random() < 0.8)
            + site.rng.randint(-1, 1)
            for row in site.rows()
        ]
    )


def _mixed_minimums(seed: int) -> Instance:
    """Also with minimums of 0, and with maximums below the minimum."""
    site = _Site(seed)
    site.least = site.pick(0, 1, 6_000, 8_000, 10_000, 13_800)
    site.most = [max(0, least + site.rng.randint(-300, 20_000)) for least in site.least]
    return site.instance(site.room(20, 110))


def _sum_rows(seed: int) -> Instance:
    """Limits of total power."""
    site = _Site(seed)
    site.weight = site.pick(1, 2, 5)
    site.sums = tuple(site.rng.sample(range(len(site.parents)), site.rng.randint(1, len(site.parents))))
    return site.instance(site.room(20, 110))


def _unbalance_rows(seed: int) -> Instance:
    """Limits of what one- and two-phase cars may add to a phase."""
    site = _Site(seed)
    site.lines = site.pick(*SINGLE, L1_L2, 5, THREE_PHASE)
    circuits = range(len(site.parents))
    site.unbalanced = tuple(site.rng.sample(circuits, site.rng.randint(1, len(circuits))))
    site.sums = tuple(site.rng.sample(circuits, site.rng.randint(0, len(circuits))))
    return site.instance(site.room(20, 110))


def _everything(seed: int) -> Instance:
    site = _Site(seed, circuits=(1, 8), connectors=(1, 16))
    site.least = site.pick(0, 6_000, 6_000, 6_000, 8_000)
    site.most = [least + site.rng.randint(-100, 26_000) for least in site.least]
    site.most = [max(0, most) for most in site.most]
    site.weight, site.priority = site.between(1, 9), site.pick(0, 0, 1)
    circuits = range(len(site.parents))
    site.sums = tuple(site.rng.sample(circuits, site.rng.randint(0, len(circuits))))
    site.unbalanced = tuple(site.rng.sample(circuits, site.rng.randint(0, len(circuits))))
    return site.instance(site.room(-10, 120))


FAMILIES: dict[str, Callable[[int], Instance]] = {
    "single-phase": _single_phase,
    "three-phase mixed": _three_phase_mixed,
    "no rotation": _no_rotation,
    "unbalanced background": _unbalanced_background,
    "starved": _starved,
    "zero capacity": _zero_capacity,
    "background over limit": _background_over_limit,
    "weights": _weights,
    "weights far apart": _far_apart_weights,
    "classes": _classes_of_drivers,
    "ties": _ties,
    "deep trees": _deep_trees,
    "ample": _ample,
    "minimum at the bound": _minimum_at_the_bound,
    "mixed minimums": _mixed_minimums,
    "sum rows": _sum_rows,
    "unbalance rows": _unbalance_rows,
    "everything": _everything,
}
