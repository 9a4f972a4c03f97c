"""The last word, swept around every boundary: whatever is asked, the answer is 0 or below every limit."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.control.limits import add_load, loads_ma, permit, room_ma
from edge.control.site import NO_PARENT, Circuit, Outlet

OUTLET = Outlet(1, 1, (1, 2, 0), 6_000, 16_000, "m1", ventilated=False)
CIRCUITS = (
    Circuit("main", NO_PARENT, (32_000, 32_000, 32_000), None, None),
    Circuit("garage", 0, (20_000, 20_000, 20_000), None, None),
)


def around(*bounds_ma: int) -> list[int]:
    return sorted({b + d for b in bounds_ma for d in (-1, 0, 1)} | {-1, 0, 100_000})


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("healthy", [True, False])
def test_no_offer_passes_above_a_limit_or_below_the_minimum(recorded: bool, healthy: bool) -> None:
    values = around(6_000, 13_000, 16_000)
    for wanted, room, cable in itertools.product(values, values, [None, *values]):
        got = permit(wanted, outlet=OUTLET, cable_ma=cable, room_ma=room, recorded=recorded, healthy=healthy)
        ceiling = min(wanted, room, 16_000, 16_000 if cable is None else cable)
        expected = ceiling if recorded and healthy and ceiling >= 6_000 else 0
        assert got == expected, (wanted, room, cable)


loads = st.lists(st.integers(0, 40_000), min_size=3, max_size=3)


@given(
    st.lists(loads, min_size=2, max_size=2), st.lists(loads, min_size=2, max_size=2), st.integers(0, 40_000)
)
def test_room_is_what_the_tightest_phase_of_any_circuit_above_leaves(
    headroom: list[list[int]], load: list[list[int]], own_ma: int
) -> None:
    rows = [(r[0], r[1], r[2]) for r in headroom]
    ma, bound_by = room_ma(CIRCUITS, rows, load, OUTLET, own_ma)
    free = [headroom[c][p] - load[c][p] + own_ma for c in (0, 1) for p in range(3)]
    assert ma == max(0, min(OUTLET.max_ma, *free))
    if ma < OUTLET.max_ma:
        assert bound_by.startswith("circuit ")


def test_loads_follow_the_tree_and_the_phase_rotation() -> None:
    single = Outlet(2, 0, (2,), 6_000, 32_000, "m2", ventilated=False)
    sums = loads_ma(CIRCUITS, (OUTLET, single), [10_000, 7_000])
    assert sums == [[10_000, 10_000, 17_000], [10_000, 10_000, 10_000]]
    add_load(CIRCUITS, sums, OUTLET, -10_000)
    assert sums == [[0, 0, 7_000], [0, 0, 0]]
