"""The sharing kernel against an oracle of another kind, and as plain Python against its compiled self."""

import importlib.util
import itertools
import random
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.control import sharing


class Instance(NamedTuple):
    parents: list[int]
    circuit_of: list[int]
    lines: list[int]
    headroom_ma: list[int]
    min_ma: list[int]
    max_ma: list[int]
    order: list[int]


@st.composite
def instances(draw: st.DrawFn, most_connectors: int = 6) -> Instance:
    """Draw trees up to four circuits, starved and ample, with ties and mixed minimums."""
    circuits = draw(st.integers(1, 4))
    parents = [-1] + [draw(st.integers(0, c - 1)) for c in range(1, circuits)]
    n = draw(st.integers(0, most_connectors))
    min_ma = draw(st.lists(st.sampled_from([6_000, 6_000, 8_000, 10_000]), min_size=n, max_size=n))
    return Instance(
        parents,
        draw(st.lists(st.integers(0, circuits - 1), min_size=n, max_size=n)),
        draw(st.lists(st.sampled_from([1, 2, 4, 7, 7, 3]), min_size=n, max_size=n)),
        draw(st.lists(st.integers(-5_000, 60_000), min_size=3 * circuits, max_size=3 * circuits)),
        min_ma,
        [low + draw(st.integers(-500, 26_000)) for low in min_ma],
        draw(st.permutations(range(n))),
    )


def rows_of(case: Instance, i: int) -> list[int]:
    rows, c = [], case.circuit_of[i]
    while c != -1:
        rows += [3 * c + p for p in range(3) if case.lines[i] >> p & 1]
        c = case.parents[c]
    return rows


def oracle(case: Instance) -> list[Fraction]:
    """Raise all by exact fractions from event to event until each is stopped: no search, no rounding."""
    room = {r: Fraction(max(0, ma)) for r, ma in enumerate(case.headroom_ma)}
    on: list[int] = []
    for i in case.order:
        if case.max_ma[i] < case.min_ma[i]:
            continue
        trial = [*on, i]
        if all(sum(case.min_ma[j] for j in trial if r in rows_of(case, j)) <= room[r] for r in room):
            on = trial
    x = {i: Fraction(case.min_ma[i]) for i in on}
    frozen = {i for i in on if case.max_ma[i] == case.min_ma[i]}
    level = Fraction(0)
    while len(frozen) < len(on):
        rising = [i for i in on if i not in frozen]
        moving = [i for i in rising if x[i] <= level]
        steps = [x[i] - level for i in rising if x[i] > level] + [case.max_ma[i] - level for i in moving]
        for r, ma in room.items():
            members = [i for i in moving if r in rows_of(case, i)]
            if members:
                used = sum(x[i] for i in on if r in rows_of(case, i))
                steps.append((ma - used) / len(members))
        step = min(steps)
        level += step
        for i in moving:
            x[i] += step
        full = [r for r, ma in room.items() if sum(x[i] for i in on if r in rows_of(case, i)) >= ma]
        frozen |= {i for i in moving if x[i] >= case.max_ma[i]}
        frozen |= {i for i in rising if any(r in full for r in rows_of(case, i))}
    return [x.get(i, Fraction(0)) for i in range(len(case.circuit_of))]


def solve(module: ModuleType, case: Instance) -> tuple[list[int], list[int]]:
    tree = module.Tree(case.parents, case.circuit_of, case.lines)
    result: tuple[list[int], list[int]] = tree.share(case.headroom_ma, case.min_ma, case.max_ma, case.order)
    return result


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """The same file, interpreted."""
    path = Path(sharing.__file__).parent / "sharing.py"
    spec = importlib.util.spec_from_file_location("plain_sharing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plain_sharing"] = module
    spec.loader.exec_module(module)
    return module


def test_the_product_runs_the_compiled_build(plain: ModuleType) -> None:
    assert sharing.__file__.endswith(".so")
    assert plain.__file__ is not None
    assert plain.__file__.endswith(".py")


@given(instances())
def test_shares_are_the_oracles_to_the_milliamp(case: Instance) -> None:
    exact = oracle(case)
    x, _ = solve(sharing, case)
    # Each settled neighbour may have been rounded down by less than 1 mA, which the next may then get.
    slack = len(case.circuit_of) + 1
    for got, want in zip(x, exact, strict=True):
        assert (got == 0) == (want == 0)
        assert abs(got - want) < slack


@given(instances(most_connectors=12))
def test_no_circuit_is_ever_overfilled_and_nobody_gets_less_than_its_minimum(case: Instance) -> None:
    x, bound = solve(sharing, case)
    for r, ma in enumerate(case.headroom_ma):
        used = sum(x[i] for i in range(len(x)) if r in rows_of(case, i))
        assert used <= max(0, ma)
    for i, ma in enumerate(x):
        assert ma == 0 or case.min_ma[i] <= ma <= case.max_ma[i]
        assert (ma == 0) == (bound[i] == sharing.NOT_ADMITTED)
        assert (bound[i] == sharing.OWN_MAXIMUM) == (ma == case.max_ma[i] > 0 and ma >= case.min_ma[i])


@given(instances())
def test_the_plain_and_the_compiled_build_agree(plain: ModuleType, case: Instance) -> None:
    assert solve(plain, case) == solve(sharing, case)


@given(instances(), st.randoms(use_true_random=False))
def test_the_numbering_of_connectors_changes_nothing(case: Instance, rng: random.Random) -> None:
    n = len(case.circuit_of)
    new = list(range(n))
    rng.shuffle(new)

    def moved(values: Sequence[int]) -> list[int]:
        return [values[i] for i in new]

    other = case._replace(
        circuit_of=moved(case.circuit_of),
        lines=moved(case.lines),
        min_ma=moved(case.min_ma),
        max_ma=moved(case.max_ma),
        order=[new.index(i) for i in case.order],
    )
    assert solve(sharing, other)[0] == moved(solve(sharing, case)[0])


@given(instances())
def test_who_stands_later_in_the_order_never_takes_the_place_of_one_before(case: Instance) -> None:
    x, _ = solve(sharing, case)
    for length in range(len(case.order)):
        alone, _ = solve(sharing, case._replace(order=case.order[:length]))
        assert [alone[i] > 0 for i in case.order[:length]] == [x[i] > 0 for i in case.order[:length]]


@pytest.mark.parametrize("free_ma", [11_999, 12_000, 12_001])
def test_a_minimum_that_fits_exactly_fits(free_ma: int) -> None:
    tree = sharing.Tree([-1], [0, 0], [7, 7])
    x, _ = tree.share([free_ma] * 3, [6_000] * 2, [32_000] * 2, [0, 1])
    assert (x[1] > 0) == (free_ma >= 12_000)


def test_impossible_trees_are_refused() -> None:
    for parents, circuit_of, lines in (
        ([0], [], []),
        ([-1, 2, 0], [], []),
        ([-1], [1], [7]),
        ([-1], [0], [0]),
    ):
        with pytest.raises(ValueError, match=r"circuit|connector"):
            sharing.Tree(parents, circuit_of, lines)
    with pytest.raises(ValueError, match="size"):
        sharing.Tree([-1], [0], [7]).share([1, 2], [1], [1], [0])


@pytest.mark.parametrize("n", range(1, 5))
def test_equal_cars_on_one_circuit_get_equal_shares(n: int) -> None:
    tree = sharing.Tree([-1], [0] * n, [7] * n)
    for order in itertools.permutations(range(n)):
        x, _ = tree.share([32_000] * 3, [6_000] * n, [32_000] * n, order)
        assert set(x) == {32_000 // n}
