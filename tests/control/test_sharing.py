"""The sharing kernel against oracles of other kinds, and as plain Python against its compiled self."""

import itertools
import random
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import floor
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.control import sharing
from edge.control.sharing import INACTIVE, MOST_CONNECTORS, MOST_MA, MOST_WEIGHT, OWN_MAXIMUM, UNFIT, Tree
from tests.control.oracle import FAMILIES, Instance, admitted, best_set, by_linear_programs, exact, rows_of
from tests.plain_sharing import plain_build

SEEDS = 300
"""Instances of each family; each is shared twice, strictly by class and not."""

ROUNDED_UP = Fraction(1, 1 << 13)
"""In mA: what is so little below a whole milliamp may count as one."""

AMP = 1_000

families = pytest.mark.parametrize("family", FAMILIES)


@st.composite
def small_instances(draw: st.DrawFn) -> Instance:
    """Numbers so small that ties, zeros and exact fits are the rule."""
    circuits = draw(st.integers(1, 4))
    n = draw(st.integers(0, 6))

    def each(numbers: st.SearchStrategy[int], count: int = n) -> list[int]:
        return draw(st.lists(numbers, min_size=count, max_size=count))

    priority = each(st.integers(0, 1))
    asking = draw(st.permutations(range(n)))[: draw(st.integers(0, n))]
    some = st.lists(st.integers(0, circuits - 1), unique=True).map(tuple)
    sums, unbalanced = draw(some), draw(some)
    return Instance(
        [-1] + [draw(st.integers(-1, c - 1)) for c in range(1, circuits)],
        each(st.integers(0, circuits - 1)),
        each(st.integers(1, 7)),
        each(st.integers(-2, 20), 3 * circuits + len(sums) + 3 * len(unbalanced)),
        each(st.integers(0, 4)),
        each(st.integers(0, 9)),
        sorted(asking, key=lambda i: -priority[i]),
        each(st.integers(1, 3)),
        priority,
        sums,
        unbalanced,
    )


def instances(family: str, seeds: int = SEEDS) -> Iterator[tuple[Instance, bool]]:
    for seed, strict in itertools.product(range(seeds), (False, True)):
        yield FAMILIES[family](seed), strict


def solve(module: ModuleType, case: Instance, *, strict: bool) -> tuple[list[int], list[int]]:
    result: tuple[list[int], list[int]] = module.Tree(*case.site()).solve(*case.question(), strict=strict)
    return result


def solved(case: Instance, *, strict: bool) -> Tree:
    """A tree with the answer in its arrays, ready to be judged."""
    tree = Tree(*case.site())
    tree.solve(*case.question(), strict=strict)
    return tree


def left_in(case: Instance, x: Sequence[int]) -> list[int]:
    rows = rows_of(*case.site())
    return [
        max(0, ma) - sum(times * x[i] for i, times in row.items())
        for row, ma in zip(rows, case.room, strict=True)
    ]


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """The same file, interpreted."""
    return plain_build()


def test_the_product_runs_the_compiled_build(plain: ModuleType) -> None:
    assert sharing.__file__.endswith(".so")
    assert plain.__file__ is not None
    assert plain.__file__.endswith(".py")


# -- the answer is right -------------------------------------------------------------------------------------


@families
def test_everybody_gets_the_exact_share_rounded_down(family: str) -> None:
    for case, strict in instances(family):
        x, _ = solve(sharing, case, strict=strict)
        for got, want in zip(x, exact(case, strict=strict), strict=True):
            assert got == floor(want) or 0 < got - want <= ROUNDED_UP, (case, strict)


@settings(max_examples=1000)
@given(small_instances(), st.booleans())
def test_ties_zeros_and_exact_fits_are_shared_exactly(case: Instance, strict: bool) -> None:
    x, _ = solve(sharing, case, strict=strict)
    assert x == [floor(ma) for ma in exact(case, strict=strict)]


@families
def test_linear_programs_find_the_same(family: str) -> None:
    for case, strict in instances(family, seeds=10):
        x, _ = solve(sharing, case, strict=strict)
        for got, want in zip(x, by_linear_programs(case, strict=strict), strict=True):
            assert got - 0.01 <= want < got + 1.01, (case, strict)


@families
def test_no_set_of_connectors_is_better_than_the_one_admitted(family: str) -> None:
    for case, strict in instances(family, seeds=40):
        if len(case.order) <= 8:
            x, bound = solve(sharing, case, strict=strict)
            on = [i for i in case.order if x[i] > 0 or (bound[i] >= OWN_MAXIMUM and case.least[i] == 0)]
            assert on == best_set(case) == admitted(case)


@families
def test_no_row_is_overfilled_by_a_milliamp_and_everybody_is_within_his_range(family: str) -> None:
    for case, strict in instances(family):
        x, _ = solve(sharing, case, strict=strict)
        assert min(left_in(case, x)) >= 0
        assert all(ma == 0 or case.least[i] <= ma <= case.most[i] for i, ma in enumerate(x))


@families
def test_everybody_is_told_what_stopped_him(family: str) -> None:
    for case, strict in instances(family):
        x, bound = solve(sharing, case, strict=strict)
        rows, left = rows_of(*case.site()), left_in(case, x)
        for i, row in enumerate(bound):
            if i not in case.order:
                assert (x[i], row) == (0, INACTIVE)
            elif case.most[i] < case.least[i]:
                assert (x[i], row) == (0, UNFIT)
            elif row == OWN_MAXIMUM:
                assert x[i] == case.most[i]
            elif x[i] > 0 or case.least[i] == 0:
                assert x[i] < case.most[i]
                assert i in rows[row]
                assert left[row] < sum(rows[row].values())  # full, but for what rounding down has left
            else:
                before = [k for k in case.order[: case.order.index(i)] if x[k] > 0]
                kept = sum(rows[row].get(k, 0) * case.least[k] for k in before)
                assert kept + rows[row][i] * case.least[i] > max(0, case.room[row])


@families
def test_the_plain_and_the_compiled_build_agree(plain: ModuleType, family: str) -> None:
    for case, strict in instances(family, seeds=50):
        assert solve(plain, case, strict=strict) == solve(sharing, case, strict=strict)


@families
def test_the_numbering_of_connectors_and_circuits_changes_nothing(family: str) -> None:
    for case, strict in instances(family, seeds=50):
        dice = random.Random(len(case.order))  # noqa: S311 - a permutation
        other, new = renumbered(case, dice)
        x, _ = solve(sharing, case, strict=strict)
        assert solve(sharing, other, strict=strict)[0] == [x[i] for i in new]


def renumbered(case: Instance, dice: random.Random) -> tuple[Instance, list[int]]:
    """The same instance with connectors and circuits in another order; connector k was `new[k]` before."""
    new = list(range(len(case.circuit_of)))
    dice.shuffle(new)
    circuits: list[int] = []  # circuits[k] was the number of circuit k
    while len(circuits) < len(case.parents):
        ready = [c for c, up in enumerate(case.parents) if c not in circuits and (up < 0 or up in circuits)]
        circuits.append(dice.choice(ready))
    sums, unbalanced = (
        dice.sample(case.sums, len(case.sums)),
        dice.sample(case.unbalanced, len(case.unbalanced)),
    )
    room = [case.room[3 * c + p] for c in circuits for p in range(3)]
    at = 3 * len(circuits)
    room += [case.room[at + case.sums.index(c)] for c in sums]
    at += len(sums)
    room += [case.room[at + 3 * case.unbalanced.index(c) + p] for c in unbalanced for p in range(3)]
    other = Instance(
        [circuits.index(case.parents[c]) if case.parents[c] >= 0 else -1 for c in circuits],
        [circuits.index(case.circuit_of[i]) for i in new],
        [case.lines[i] for i in new],
        room,
        [case.least[i] for i in new],
        [case.most[i] for i in new],
        [new.index(i) for i in case.order],
        [case.weight[i] for i in new],
        [case.priority[i] for i in new],
        tuple(circuits.index(c) for c in sums),
        tuple(circuits.index(c) for c in unbalanced),
    )
    return other, new


@families
def test_who_stands_later_in_the_order_never_takes_the_place_of_one_before(family: str) -> None:
    for case, strict in instances(family, seeds=20):
        x, _ = solve(sharing, case, strict=strict)
        for length in range(len(case.order)):
            fewer = case._replace(order=case.order[:length])
            alone, _ = solve(sharing, fewer, strict=strict)
            assert all((alone[i] > 0) == (x[i] > 0) for i in fewer.order if case.least[i] > 0)


def test_one_tree_answers_question_after_question_as_a_new_one_would() -> None:
    for seed in range(100):
        first = FAMILIES["everything"](seed)
        tree = Tree(*first.site())
        for turn in range(5):
            dice = random.Random(turn)  # noqa: S311 - rooms, no secrets
            case = first._replace(room=[dice.randint(0, 2 * max(1, ma)) for ma in first.room])
            case = case._replace(order=case.order[turn:])
            assert tree.solve(*case.question()) == Tree(*case.site()).solve(*case.question())


# -- the certificate -----------------------------------------------------------------------------------------


@families
def test_the_certificate_accepts_the_answer_and_no_other(family: str) -> None:
    for case, strict in instances(family, seeds=60):
        tree = solved(case, strict=strict)
        asking = len(case.order)
        assert tree.certified(asking, strict)
        right = list(tree.x)
        for wrong in perturbed(case, right):
            tree.x[:] = type(tree.x)("q", wrong)
            assert not tree.certified(asking, strict), (case, strict, right, wrong)


def perturbed(case: Instance, x: list[int]) -> Iterator[list[int]]:
    """Answers that are wrong by an amp or by somebody."""
    rows, left = rows_of(*case.site()), left_in(case, x)
    full = [{i for i in row if x[i] > 0} for row, ma in zip(rows, left, strict=True) if ma < len(row) * 3]
    on = [i for i in case.order if x[i] > 0]

    def but(changes: dict[int, int]) -> list[int]:
        return [changes.get(i, ma) for i, ma in enumerate(x)]

    for i in on:
        if any(i in row for row in full):
            yield but({i: x[i] + AMP})  # more than the row carries
        if x[i] - AMP >= max(1, case.least[i]):
            yield but({i: x[i] - AMP})  # less than he could have
        yield but({i: case.most[i] + 1})
        if case.least[i] > 1:
            yield but({i: case.least[i] - 1})
            yield but({i: 0})
    refused = [i for i in case.order if x[i] == 0 and case.most[i] >= case.least[i] > 0]
    for i, j in itertools.product(refused, on):
        if case.least[j] > 0:
            yield but({i: case.least[i], j: 0})  # the wrong one is on
    for row in full:
        for i, j in itertools.permutations(sorted(row), 2):
            given, taken = x[i] + AMP, x[j] - AMP
            if (
                given <= case.most[i]
                and taken >= max(1, case.least[j])
                and min(left_in(case, but({i: given, j: taken}))) >= 0
            ):
                yield but({i: given, j: taken})  # an amp from one to another, with room for it


def test_nobody_may_draw_who_does_not_ask() -> None:
    tree = Tree([-1], [0, 0], [7, 1])
    tree.solve([60_000] * 3, [6_000] * 2, [16_000] * 2, [0])
    assert tree.certified(1)
    tree.x[1] = 6_000
    assert not tree.certified(1)


# -- single cases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free_ma", [11_999, 12_000, 12_001])
def test_a_minimum_that_fits_exactly_fits(free_ma: int) -> None:
    tree = Tree([-1], [0, 0], [7, 7])
    x, _ = tree.solve([free_ma] * 3, [6_000] * 2, [32_000] * 2, [0, 1])
    assert (x[1] > 0) == (free_ma >= 12_000)


@pytest.mark.parametrize("n", range(1, 5))
def test_equal_cars_on_one_circuit_get_equal_shares(n: int) -> None:
    tree = Tree([-1], [0] * n, [7] * n)
    for order in itertools.permutations(range(n)):
        x, _ = tree.solve([32_000] * 3, [6_000] * n, [32_000] * n, order)
        assert set(x) == {32_000 // n}


def test_a_strict_higher_class_is_filled_first_but_the_lower_one_keeps_its_minimum() -> None:
    tree = Tree([-1], [0, 0], [7, 7])
    question = ([40_000] * 3, [6_000] * 2, [32_000] * 2, [1, 0], [1, 1], [0, 5])
    assert tree.solve(*question, strict=True)[0] == [8_000, 32_000]
    assert tree.solve(*question)[0] == [20_000, 20_000]


def test_a_three_phase_car_counts_three_times_in_a_limit_of_total_power() -> None:
    tree = Tree([-1], [0, 0], [7, 1], sums=[0])
    assert tree.solve([99_000] * 3 + [40_000], [6_000] * 2, [32_000] * 2, [0, 1])[0] == [10_000, 10_000]


def test_three_phase_cars_do_not_count_where_phases_must_be_even() -> None:
    tree = Tree([-1], [0, 0, 0], [7, 1, 1], unbalanced=[0])
    x, bound = tree.solve([99_000] * 3 + [20_000] * 3, [6_000] * 3, [32_000] * 3, [0, 1, 2])
    assert x == [32_000, 10_000, 10_000]
    assert bound == [OWN_MAXIMUM, 3, 3]


def test_the_largest_site_and_the_largest_numbers_are_shared_exactly() -> None:
    n = MOST_CONNECTORS
    tree = Tree([-1], [0] * n, [7] * n, sums=[0])
    for room, weight in ((MOST_MA, [1] * n), (MOST_MA, [MOST_WEIGHT - i for i in range(n)])):
        x, _ = tree.solve([room] * 4, [0] * n, [MOST_MA] * n, range(n), weight)
        level = Fraction(room, 3 * sum(weight))
        assert all(0 <= ma - floor(level * w) <= 1 for ma, w in zip(x, weight, strict=True))
        assert 3 * sum(x) <= room


@pytest.mark.parametrize(
    "case",
    [
        # What the higher class left by rounding is less than the lower one's weight can be told from nothing.
        Instance([-1], [0] * 3, [1] * 3, [10_000, 0, 0], [0] * 3, [20_000] * 3, [0, 1, 2],
                 [1, 2, MOST_WEIGHT - 1], [1, 1, 0]),
        # The first is rounded up to a milliamp, which makes the others look as if they had too little.
        Instance([-1], [0] * 3, [1] * 3, [3 * (1 << 17) - 4, 0, 0], [0] * 3, [1 << 20] * 3, [0, 1, 2],
                 [1, 1 << 18, 1 << 17], [0] * 3),
        # Two rows with less than a millionth of a milliamp left fill up at levels that look the same.
        Instance([-1], [0] * 7, [3, 3, 2, 3, 2, 3, 1], [1, 2, 0], [0] * 7, [32_000] * 7, list(range(7)),
                 [1, 7, 11, 5, 2, 207_471, 1], [1, 1, 1, 1, 1, 0, 0]),
    ],
    ids=["less than a weight", "rounded up", "level rows"],
)  # fmt: skip
def test_what_rounding_leaves_is_nobodys(case: Instance) -> None:
    x, _ = solve(sharing, case, strict=True)
    assert all(
        got == floor(want) or 0 < got - want <= ROUNDED_UP
        for got, want in zip(x, exact(case, strict=True), strict=True)
    )


def test_impossible_trees_are_refused() -> None:
    for parents, circuit_of, lines, sums in (
        ([0], [], [], []),
        ([-1, 2, 0], [], [], []),
        ([-1], [1], [7], []),
        ([-1], [0], [0], []),
        ([-1], [0], [8], []),
        ([-1], [], [], [1]),
        ([-1], [0] * (MOST_CONNECTORS + 1), [7] * (MOST_CONNECTORS + 1), []),
    ):
        with pytest.raises(ValueError, match=r"circuit|connector"):
            Tree(parents, circuit_of, lines, sums)


def test_questions_that_do_not_fit_the_tree_are_refused() -> None:
    tree = Tree([-1], [0], [7])
    for room, least, most, order, weight in (
        ([1, 2], [1], [1], [0], None),
        ([1, 2, 3], [1, 1], [1], [0], None),
        ([1, 2, 3], [1], [1], [0, 0], None),
        ([1, 2, 3], [1], [1], [1], None),
        ([1, 2, 3], [1], [1], [-1], None),
        ([1, 2, 3], [-1], [1], [0], None),
        ([1, 2, 3], [1], [MOST_MA + 1], [0], None),
        ([1, 2, 3], [1], [1], [0], [0]),
        ([1, 2, 3], [1], [1], [0], [MOST_WEIGHT + 1]),
        ([1, 2, 3], [1], [1], [0], [1, 1]),
    ):
        with pytest.raises(ValueError, match=r"size|order|bounds"):
            tree.solve(room, least, most, order, weight)
    with pytest.raises(ValueError, match="more connectors"):
        tree.share(2)


@families
def test_a_tick_allocates_nothing(family: str) -> None:
    for case, strict in instances(family, 5):
        tree = solved(case, strict=strict)
        # The count is of the whole process, and the thread of a test runner may just hear something.
        assert min(blocks_kept(tree, len(case.order), strict=strict) for _ in range(3)) < 10  # the loop's own


def blocks_kept(tree: Tree, asking: int, *, strict: bool) -> int:
    """Blocks of memory that are left of 500 ticks."""
    before = sys.getallocatedblocks()
    for _ in range(500):
        tree.share(asking, strict)
    return sys.getallocatedblocks() - before
