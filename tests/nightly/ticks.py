"""Random ticks through the sharing kernel, judged by somebody who knows the rules but not the kernel.

A site is drawn with its habits (how short current is, how far weights differ, ...), then asked some hundred
times in a row through one tree, as a station does: cars come and go, rooms and maximums change. The judge
works on all ticks of a site at once. `numpy` holds one tick a row; currents are in mA.
"""

from collections.abc import Callable
from math import floor
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.control.sharing import INACTIVE, MOST_MA, MOST_WEIGHT, OWN_MAXIMUM, UNFIT, Tree
from tests.control.oracle import Instance, exact, rows_of

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Drawn = TypeVar("Drawn", bound=np.generic)

UP = 1 << 13
"""What is less than 1 / UP mA below a whole milliamp may count as one."""


class Site(NamedTuple):
    """Arguments of a `Tree`."""

    parents: list[int]
    circuit_of: list[int]
    lines: list[int]
    sums: tuple[int, ...]
    unbalanced: tuple[int, ...]


class Ticks(NamedTuple):
    """Questions to one site, a row each. `order[k, :asking[k]]` ask in tick k."""

    strict: bool
    room: Numbers
    least: Numbers
    most: Numbers
    weight: Numbers
    priority: Numbers
    order: Numbers
    asking: Numbers

    def instance(self, site: Site, k: int) -> Instance:
        """Tick k by itself, as a test can use it."""
        room, least, most, weight, priority = (
            [int(number) for number in column[k]]
            for column in (self.room, self.least, self.most, self.weight, self.priority)
        )
        order = [int(i) for i in self.order[k, : self.asking[k]]]
        return Instance(
            site.parents, site.circuit_of, site.lines, room, least, most, order, weight, priority,
            site.sums, site.unbalanced,
        )  # fmt: skip


class Answers(NamedTuple):
    """What the kernel made of them."""

    certified: Flags
    x: Numbers
    bound: Numbers


class Verdict(NamedTuple):
    """What is wrong with one tick: enough to make a test of it."""

    sentence: str
    strict: bool
    instance: Instance
    x: list[int]


# -- drawing -------------------------------------------------------------------------------------------------


def draw_site(dice: np.random.Generator) -> Site:
    """One to some hundred connectors on trees from flat to deep."""
    n = int(dice.integers(1, dice.choice([9, 33, 129, 385], p=[0.45, 0.38, 0.15, 0.02])))
    count = 1 + int(dice.integers(0, 1 + max(4, n // 4)))
    reach = int(dice.choice([2, 5, count + 1]))  # 2: a chain
    parents = [-1] + [int(dice.integers(max(0, c - reach + 1), c)) for c in range(1, count)]
    kinds: list[list[int]] = [[7], [1, 2, 4], [1, 2, 4, 7, 7, 7], [1, 1, 3, 7], [1, 2, 3, 4, 5, 6, 7]]
    lines = dice.choice(kinds[dice.integers(len(kinds))], n)

    def some() -> tuple[int, ...]:
        return tuple(c for c in range(count) if dice.random() < 0.3) if dice.random() < 0.3 else ()

    return Site(parents, dice.integers(0, count, n).tolist(), lines.tolist(), some(), some())


def draw_ticks(dice: np.random.Generator, site: Site, ticks: int) -> Ticks:
    """Questions to a site, each a little or altogether different from the one before."""
    n = len(site.circuit_of)
    shape = (ticks, n)
    loads = _loads(site)
    minimums = ((6_000,), (0,), (6_000, 6_000, 8_000, 13_800), (0, 1, 6_000, 6_001))
    least = _lasting(dice, dice.choice(minimums[dice.integers(len(minimums))], shape))
    span = int(dice.choice([1, 2_000, 26_000, 26_000, 200_000]))
    most = least + _lasting(dice, dice.integers(-1 if span > 1 else 0, span, shape))
    most = np.maximum(most, 0)
    top = int(dice.choice([1, 1, 3, 1_000, MOST_WEIGHT]))
    weight = _lasting(dice, np.exp(dice.uniform(0, np.log(top + 1), shape)).astype(np.int64).clip(1, top))
    priority = dice.integers(0, dice.choice([1, 1, 3]), shape)
    low, high = ((0.0, 0.3), (0.1, 0.6), (0.4, 1.1), (0.9, 1.6))[dice.integers(4)]
    if dice.random() < 0.2:  # equal cars, and rows that are full at the same level
        least, most = np.full(shape, 6_000), np.full(shape, 18_000)
        room = 6_000 * dice.integers(0, 2 + n, (ticks, len(loads)))
    elif dice.random() < 0.2:  # exactly the minimums of some, or a milliamp beside them
        room = _sums(least * (dice.random(shape) < 0.7), loads) + dice.integers(-1, 2, (ticks, len(loads)))
    else:
        room = (_sums(most, loads) * _lasting(dice, dice.uniform(low, high, (ticks, len(loads))))).astype(
            np.int64
        )
    room = np.minimum(room, MOST_MA)
    room[dice.random(room.shape) < 0.02] = dice.choice([0, -5_000, MOST_MA])
    order = np.lexsort((dice.random(shape), -priority), axis=1).astype(np.int64)
    asking = dice.binomial(n, dice.choice([1.0, 0.9, 0.4]), ticks)
    return Ticks(bool(dice.random() < 0.4), room, least, most, weight, priority, order, asking)


def _lasting(dice: np.random.Generator, drawn: NDArray[Drawn]) -> NDArray[Drawn]:
    """Let most numbers stay what they were a tick before."""
    news = dice.random(drawn.shape) < 0.2
    news[0] = True
    rows = np.where(news, np.arange(len(drawn))[:, None], 0)
    return np.take_along_axis(drawn, np.maximum.accumulate(rows, axis=0), axis=0)


def _loads(site: Site) -> NDArray[np.float64]:
    """How often each connector (column) counts in each row; floats multiply fast, and all sums are exact."""
    loads = np.zeros(
        (3 * len(site.parents) + len(site.sums) + 3 * len(site.unbalanced), len(site.circuit_of))
    )
    for r, row in enumerate(rows_of(*site)):
        for i, times in row.items():
            loads[r, i] = times
    return loads


def _sums(x: Numbers, loads: NDArray[np.float64]) -> Numbers:
    return (x.astype(np.float64) @ loads.T).astype(np.int64)


def answer(site: Site, ticks: Ticks) -> Answers:
    """Ask the kernel, tick after tick through the same tree and its arrays."""
    tree = Tree(*site)
    room, least, most, weight, priority, order, x, bound = (
        np.frombuffer(numbers, np.int64)
        for numbers in (
            tree.room, tree.least, tree.most, tree.weight, tree.priority, tree.order, tree.x, tree.bound,
        )
    )  # fmt: skip
    count = len(ticks.asking)
    given = Answers(
        np.zeros(count, np.bool_), np.zeros((count, len(x)), np.int64), np.zeros((count, len(x)), np.int64)
    )
    for k in range(count):
        room[:], least[:], most[:] = ticks.room[k], ticks.least[k], ticks.most[k]
        weight[:], priority[:], order[:] = ticks.weight[k], ticks.priority[k], ticks.order[k]
        given.certified[k] = tree.share(int(ticks.asking[k]), ticks.strict)
        given.x[k], given.bound[k] = x, bound
    return given


# -- judging -------------------------------------------------------------------------------------------------


def judge(site: Site, ticks: Ticks, given: Answers) -> Verdict | None:
    """The first tick that breaks a rule, or None."""
    court = _Court(site, ticks, given)
    rules: list[tuple[str, Callable[[], Flags]]] = [
        ("the kernel refuses its own answer", lambda: given.certified),
        ("somebody who cannot charge gets current, or is not told why", court.others_get_nothing),
        ("somebody is outside his range", court.all_are_in_range),
        ("a row is overfilled", court.no_row_is_overfilled),
        ("the wrong ones are on", court.the_first_in_order_are_on),
        ("somebody could have more, or has too much beside another", court.all_are_rightly_stopped),
        ("somebody is told a wrong reason", court.reasons_are_true),
    ]
    for sentence, rule in rules:
        kept = rule()
        if not kept.all():
            k = int(np.argmin(kept))
            return Verdict(sentence, ticks.strict, ticks.instance(site, k), given.x[k].tolist())
    return None


def compare(site: Site, ticks: Ticks, given: Answers, k: int) -> Verdict | None:
    """Work tick k out in fractions, too."""
    case = ticks.instance(site, k)
    x = given.x[k].tolist()
    for got, want in zip(x, exact(case, strict=ticks.strict), strict=True):
        if got != floor(want) and not 0 < (got - want) * UP <= 1:
            return Verdict("not what fractions give", ticks.strict, case, x)
    return None


def shrunk(verdict: Verdict) -> Verdict:
    """The same with as few as can be who ask; as it was if it takes the ticks before it."""
    for i in verdict.instance.order:
        case = verdict.instance
        fewer = case._replace(order=[k for k in case.order if k != i])
        site = Site(*case.site())
        ticks = _one_tick(fewer, strict=verdict.strict)
        given = answer(site, ticks)
        verdict = judge(site, ticks, given) or compare(site, ticks, given, 0) or verdict
    return verdict


def _one_tick(case: Instance, *, strict: bool) -> Ticks:
    rest = [i for i in range(len(case.circuit_of)) if i not in case.order]
    order = np.array([case.order + rest])
    room, least, most, weight, priority = (
        np.array([numbers]) for numbers in (case.room, case.least, case.most, case.weight, case.priority)
    )
    return Ticks(strict, room, least, most, weight, priority, order, np.array([len(case.order)]))


class _Court:
    """The rules, each for all ticks at once."""

    def __init__(self, site: Site, ticks: Ticks, given: Answers) -> None:
        self.ticks, self.x, self.bound = ticks, given.x, given.bound
        self.loads = _loads(site)
        self.rows_of = [np.flatnonzero(self.loads[:, i]) for i in range(len(site.circuit_of))]
        self.room = ticks.room.clip(0, MOST_MA)
        self.left = self.room - _sums(self.x, self.loads)
        n = len(site.circuit_of)
        self.asks = np.zeros(self.x.shape, np.bool_)
        np.put_along_axis(self.asks, ticks.order, np.arange(n) < ticks.asking[:, None], axis=1)
        self.able = self.asks & (ticks.most >= ticks.least)
        self.on = self.able & ((self.x > 0) | (ticks.least == 0))
        rounded = _sums(self.on & (self.x < ticks.most), self.loads)
        self.full = self.left <= np.maximum(rounded - 1, 0)  # each of them may have lost less than a milliamp

    def others_get_nothing(self) -> Flags:
        told = np.where(self.asks, UNFIT, INACTIVE)
        rightly = (self.x == 0) & (self.bound == told)
        return _all(self.able | rightly)

    def all_are_in_range(self) -> Flags:
        inside = (self.x >= self.ticks.least) & (self.x <= self.ticks.most)
        return _all(inside | (self.x == 0))

    def no_row_is_overfilled(self) -> Flags:
        return _all(self.left >= 0)

    def the_first_in_order_are_on(self) -> Flags:
        """Walk the order; who does not fit beside those before is off, and the row he names is why."""
        kept = np.zeros(self.room.shape, np.int64)
        every = np.arange(len(kept))
        right = np.ones(len(kept), np.bool_)
        columns = self.loads.T.astype(np.int64)
        for i in self.ticks.order.T:
            least = self.ticks.least[every, i]
            more = kept + columns[i] * least[:, None]
            able = self.able[every, i]
            fits = (more <= self.room).all(axis=1)
            right &= ~able | (fits == self.on[every, i])
            named = self.bound[every, i]
            row = np.maximum(named, 0)
            right &= ~able | fits | ((named >= 0) & (more[every, row] > self.room[every, row]))
            kept = np.where((able & fits)[:, None], more, kept)
        return right

    def all_are_rightly_stopped(self) -> Flags:
        right = np.ones(len(self.x), np.bool_)
        above = self.on & (self.x > self.ticks.least)
        below_maximum = self.on & (self.x < self.ticks.most)
        for own in np.unique(self.ticks.priority) if self.ticks.strict else (None,):
            same = above if own is None else above & (self.ticks.priority == own)
            stops = self.full
            if own is not None:
                stops = stops & (_sums(above & (self.ticks.priority < own), self.loads) == 0)
            most_x, its_weight = self._best_of_rows(same)
            for i, rows in enumerate(self.rows_of):
                mine = (
                    below_maximum[:, i]
                    if own is None
                    else below_maximum[:, i] & (self.ticks.priority[:, i] == own)
                )
                weight, x = self.ticks.weight[:, i, None], self.x[:, i, None]
                nobody_has_more = (most_x[:, rows] * UP - 1) * weight <= (x + 1) * UP * its_weight[:, rows]
                right &= ~mine | (stops[:, rows] & nobody_has_more).any(axis=1)
        return right

    def _best_of_rows(self, counted: Flags) -> tuple[Numbers, Numbers]:
        """Per row x and weight of the one with the most for his weight; 0 and 1 where none is counted."""
        ratio = np.where(counted, self.x / self.ticks.weight, -1.0)
        most_x, its_weight = np.zeros(self.room.shape, np.int64), np.ones(self.room.shape, np.int64)
        every = np.arange(len(ratio))
        for r, row in enumerate(self.loads):
            members = np.flatnonzero(row)
            if len(members):
                best = members[np.argmax(ratio[:, members], axis=1)]
                some = counted[every, best]
                most_x[:, r] = np.where(some, self.x[every, best], 0)
                its_weight[:, r] = np.where(some, self.ticks.weight[every, best], 1)
        return most_x, its_weight

    def reasons_are_true(self) -> Flags:
        """Of those that are on: at his maximum, or in the row he names, which is full."""
        row = np.maximum(self.bound, 0)
        full = np.take_along_axis(self.full, row, axis=1)
        member = self.loads[row, np.arange(self.x.shape[1])] > 0
        stopped = (self.bound >= 0) & (self.x < self.ticks.most) & full & member
        satisfied = (self.bound == OWN_MAXIMUM) & (self.x == self.ticks.most)
        return _all(~self.on | stopped | satisfied)


def _all(kept: Flags) -> Flags:
    """Whether a rule is kept by everybody, per tick."""
    return np.asarray(kept.all(axis=1))
