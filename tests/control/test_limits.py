"""The last word, swept around every boundary: whatever is asked, the answer is 0 or below every limit."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.control.allocation import allocate
from edge.control.limits import add_load, permit, room_for
from edge.control.rows import row_name, rows_of
from edge.control.site import NO_PARENT, Circuit, Outlet, Site
from tests.control.story import TARIFF, Story
from tests.plain_sharing import plain_build

OUTLET = Outlet(1, 1, (1, 2, 0), 6_000, 16_000, "m1", ventilated=False)
SINGLE = Outlet(2, 0, (2,), 6_000, 32_000, "m2", ventilated=False)
CIRCUITS = (
    Circuit("main", NO_PARENT, (32_000, 32_000, 32_000), None, None, unbalance_ma=20_000),
    Circuit("garage", 0, (20_000, 20_000, 20_000), None, None),
)
SITE = Site("st", CIRCUITS, (OUTLET, SINGLE), (), {}, TARIFF)
ROWS = rows_of(SITE, (OUTLET.lines, SINGLE.lines), sums=(0,))
"""Rows 0 to 5: L1 to L3 of main, then of garage; 6: the total of main; 7 to 9: the unbalance of main."""


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


amps = st.lists(st.integers(0, 60_000), min_size=10, max_size=10)


@given(amps, amps, st.integers(0, 40_000))
def test_room_is_what_the_tightest_row_of_any_circuit_above_leaves(
    room: list[int], load: list[int], own_ma: int
) -> None:
    ma, row = room_for(ROWS, room, load, 0, own_ma)
    free = {r: room[r] - load[r] for r in range(6)}
    free[6] = (room[6] - load[6]) // 3  # a total counts each of the three phases
    assert ma == max(0, min(free.values()) + own_ma)
    assert free[row] == min(free.values())


def test_loads_follow_the_tree_the_phase_rotation_and_the_totals() -> None:
    load = [0] * 10
    add_load(ROWS, load, 0, 10_000)
    add_load(ROWS, load, 1, 7_000)
    # A car on three phases does not count where unbalance is watched.
    assert load == [10_000, 10_000, 17_000, 10_000, 10_000, 10_000, 37_000, 0, 0, 7_000]
    add_load(ROWS, load, 0, -10_000)
    assert load == [0, 0, 7_000, 0, 0, 0, 7_000, 0, 0, 7_000]


def test_the_last_word_and_the_kernel_mean_the_same_rows() -> None:
    tree = plain_build().Tree([-1, 0], [1, 0], [7, 4], (0,), (0,))
    for i in range(2):
        span = range(tree._start[i], tree._start[i + 1])
        assert sorted((tree._rows_of[k], tree._times_of[k]) for k in span) == sorted(ROWS.of[i])


def test_rows_have_names_a_technician_knows() -> None:
    assert row_name(SITE, ROWS, 4) == "circuit garage L2"
    assert row_name(SITE, ROWS, 6) == "total of circuit main"
    assert row_name(SITE, ROWS, 9) == "unbalance of circuit main L3"


def test_an_answer_without_its_certificate_changes_no_offer_and_is_a_fault() -> None:
    story = Story()
    story.pass_time(1_000)
    for number in (1, 2):
        story.arrive(number)
    story.pass_time(30_000)
    offers = [plug.offer_ma for plug in story.plugs.values()]
    station, sent = allocate(story.station, share=lambda *_args, **_strict: None)
    assert [fault.kind.name for fault in station.faults] == ["sharing_failed"]
    assert [connector.offer_ma for connector in station.connectors] == offers
    assert [command.offer_ma for command in sent if command.offer_ma not in offers] == []
    # The last word still lowers what no longer fits.
    story.background_ma = (20_000, 0, 0)
    story.measure_site()
    station, _ = allocate(story.station, share=lambda *_args, **_strict: None)
    assert sum(connector.offer_ma for connector in station.connectors) <= 12_000
    station, _ = allocate(station)
    assert station.faults == ()
