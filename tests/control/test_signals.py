"""Limits that others set: each with its source, its end and its fallback, and the smallest one counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge.control.signals import GRID_LEAST_MW, connector_cap_ma, current_of
from edge.control.site import Cap, Signal, SignalKind, Solar
from edge.events import LimitSignalled
from tests.control.story import Car, Story, site

HOUR_MS = 3_600_000


def charging(story: Story, *cars: Car) -> Story:
    story.pass_time(1_000)
    for number, car in enumerate(cars, start=1):
        story.arrive(number, car)
    story.pass_time(30_000)
    return story


def say(
    story: Story,
    source: str = "technician",
    *,
    amps: float | None = None,
    kw: float | None = None,
    connector: int | None = None,
    valid_ms: int = HOUR_MS,
) -> None:
    current = None if amps is None else (round(amps * 1000),) * 3
    power = None if kw is None else round(kw * 1_000_000)
    place = None if connector is not None else "main"
    story.put(LimitSignalled(story.now_ms, source, place, connector, current, power, valid_ms))


def offers(story: Story) -> list[int]:
    return [plug.offer_ma for plug in story.plugs.values()]


def test_a_limit_by_hand_holds_at_once_names_its_source_and_ends_by_itself() -> None:
    story = charging(Story(), Car())
    assert offers(story) == [32_000, 0]
    say(story, amps=10, valid_ms=60_000)
    assert offers(story) == [10_000, 0]
    why = story.connector(1).why
    assert (why.kind, why.text) == ("signal", "limit of technician for circuit main")
    assert why.until_ms == story.now_ms + 60_000
    story.pass_time(59_000)
    assert offers(story) == [10_000, 0]
    story.pass_time(20_000)
    assert offers(story) == [32_000, 0]


def test_the_smallest_limit_counts_whoever_set_it() -> None:
    story = charging(Story(), Car())
    say(story, "uplink", amps=12)
    say(story, "technician", amps=20)
    say(story, "uplink", amps=9, connector=1)
    assert offers(story) == [9_000, 0]
    assert story.connector(1).why.text == "limit of uplink for this connector"
    say(story, "uplink", connector=1)  # lifted
    story.pass_time(10_000)
    assert offers(story) == [12_000, 0]


def test_a_power_limit_counts_every_phase_that_is_used() -> None:
    story = charging(Story(site(connectors=3, limit_ma=63_000)), Car(), Car(phases=1))
    story.pass_time(20_000)  # their phases are known by now
    say(story, kw=11.04)  # 48 A over all phases
    story.pass_time(20_000)
    assert offers(story) == [12_000, 12_000, 0]
    assert story.connector(1).why.text == "limit of technician for circuit main"


def test_a_source_that_falls_silent_leaves_its_fallback() -> None:
    grid = Signal("grid", SignalKind.LIMIT, 0, None, Cap(current_ma=(8_000, 8_000, 8_000)))
    story = charging(Story(site(signals=(grid,))), Car())
    assert offers(story) == [8_000, 0]  # nothing was heard yet
    assert "whose source is silent" in story.connector(1).why.text
    say(story, "grid", amps=20, valid_ms=60_000)
    story.pass_time(20_000)
    assert offers(story) == [20_000, 0]
    story.pass_time(45_000)
    assert offers(story) == [8_000, 0]
    say(story, "grid")  # no limit: a word, too
    story.pass_time(20_000)
    assert offers(story) == [32_000, 0]


@pytest.mark.parametrize(("phases", "least_ma"), [(3, 6_000), (1, 18_200)])
def test_the_grid_operator_alone_never_pushes_a_connector_below_4_2_kw(phases: int, least_ma: int) -> None:
    grid = Signal("grid", SignalKind.GRID, None, 0, None)
    lines = (0, 1, 2)[:phases]
    story = charging(Story(site(signals=(grid,), lines=lines)), Car(phases=phases))
    say(story, "grid", kw=0, connector=1)
    story.pass_time(1_000)
    assert offers(story) == [least_ma, 0]
    say(story, "technician", amps=0, connector=1)  # somebody else may
    story.pass_time(1_000)
    assert offers(story) == [0, 0]


def test_the_grid_operators_limit_for_a_circuit_leaves_4_2_kw_for_each_car_that_charges() -> None:
    grid = Signal("grid", SignalKind.GRID, 0, None, None)
    story = charging(Story(site(connectors=3, limit_ma=63_000, signals=(grid,))), Car(), Car())
    say(story, "grid", kw=5, amps=4)
    story.pass_time(20_000)
    # An empty connector does not raise the floor for the others.
    assert offers(story) == [6_000, 6_000, 0]


def test_the_floor_of_the_grid_limit_is_4_2_kw_on_the_phases_a_car_uses() -> None:
    grid = Signal("grid", SignalKind.GRID, 0, None, None)
    story = charging(Story(site(signals=(grid,))), Car(phases=1))
    story.pass_time(10_000)
    say(story, "grid", kw=0, amps=0)
    story.pass_time(20_000)
    assert offers(story) == [18_200, 0]


def test_every_limit_that_comes_changes_or_ends_is_announced() -> None:
    story = charging(Story(), Car())
    say(story, amps=10, connector=1, valid_ms=10_000)
    say(story, amps=10, connector=2, valid_ms=20_000)
    assert story.topics()[-2:] == ["limit_changed", "limit_changed"]
    story.pass_time(30_000)
    assert story.topics().count("limit_ended") == 2


def test_charging_follows_the_sun_with_patience_at_both_ends() -> None:
    patience = Solar(start_after_ms=60_000, stop_after_ms=120_000)
    sun = Signal("sun", SignalKind.SOLAR, 0, None, Cap(power_mw=0), patience)
    story = charging(Story(site(signals=(sun,))), Car(lag_ms=0))
    assert offers(story) == [0, 0]
    story.sun_mw = 7_000_000
    story.pass_time(50_000)
    assert offers(story) == [0, 0]  # a gap in the clouds
    story.pass_time(30_000)
    assert offers(story) == [10_000, 0]  # 7 kW on three phases, nothing from the grid
    story.sun_mw = 3_000_000
    story.pass_time(60_000)
    assert offers(story) == [6_000, 0]  # a cloud
    story.pass_time(90_000)
    assert offers(story) == [0, 0]  # the evening


def test_without_its_meter_the_sun_is_not_trusted() -> None:
    sun = Signal("sun", SignalKind.SOLAR, 0, None, Cap(power_mw=0), Solar(start_after_ms=1_000))
    story = charging(Story(site(signals=(sun,))), Car(lag_ms=0))
    story.sun_mw = 9_000_000
    story.pass_time(30_000)
    assert offers(story)[0] > 0
    story.site_meter_silent = True
    story.pass_time(20_000)
    assert offers(story) == [0, 0]


def test_one_silent_meter_of_an_empty_connector_does_not_darken_the_sun() -> None:
    sun = Signal("sun", SignalKind.SOLAR, 0, None, None, Solar(start_after_ms=1_000, stop_after_ms=60_000))
    story = charging(Story(site(connectors=3, signals=(sun,))), Car(lag_ms=0))
    assert offers(story)[0] == 0  # nothing is known of the sun yet, so it does not shine
    story.sun_mw = 5_000_000
    story.pass_time(30_000)
    lit = offers(story)[0]
    assert lit >= 6_000
    story.plugs[3].meter_silent = True
    story.pass_time(60_000)
    assert offers(story)[0] == lit
    story.plugs[1].meter_silent = True  # its own meter: the least for a while, then nothing
    story.pass_time(30_000)
    assert offers(story)[0] == 6_000
    story.pass_time(60_000)
    assert offers(story)[0] == 0


def test_nonsense_is_refused_by_name_and_changes_nothing() -> None:
    story = charging(Story(), Car())
    before = story.station.heard
    story.put(LimitSignalled(story.now_ms, "uplink", "nowhere", None, (0, 0, 0), None, HOUR_MS))
    story.put(LimitSignalled(story.now_ms, "uplink", "main", 1, (0, 0, 0), None, HOUR_MS))
    story.put(LimitSignalled(story.now_ms, "uplink", "main", None, (-1, 0, 0), None, HOUR_MS))
    story.put(LimitSignalled(story.now_ms, "uplink", "main", None, (0, 0, 0), None, 0))
    assert story.topics()[-4:] == ["limit_refused"] * 4
    assert story.station.heard == before
    assert offers(story) == [32_000, 0]


def test_single_phase_cars_leave_no_more_unbalance_than_the_site_allows() -> None:
    story = Story(site(connectors=3, limit_ma=63_000, unbalance_ma=20_000))
    charging(story, Car(phases=1), Car(phases=1), Car())
    story.pass_time(40_000)
    assert offers(story) == [10_000, 10_000, 32_000]
    assert "unbalance of circuit main L1" in story.connector(1).why.text
    story.background_ma = (0, 6_000, 6_000)
    story.pass_time(20_000)
    assert offers(story)[:2] == [10_000, 10_000]  # the house may change its mind; cars are not set against it
    story.background_ma = (4_000, 0, 0)
    story.pass_time(20_000)
    assert offers(story)[:2] == [8_000, 8_000]


@given(st.integers(0, 50_000_000), st.integers(1, 3))
def test_the_current_of_a_power_never_makes_more_power(power_mw: int, phases: int) -> None:
    ma = current_of(power_mw, phases)
    assert ma * 230 * phases <= power_mw < (ma + 1) * 230 * phases


def test_a_cap_looks_only_at_the_phases_a_connector_has() -> None:
    cap = Cap(current_ma=(5_000, 7_000, 9_000), power_mw=GRID_LEAST_MW)
    assert connector_cap_ma(cap, (1, 2)) == 7_000
    assert connector_cap_ma(replace(cap, current_ma=None), (0,)) == 18_260
    assert connector_cap_ma(Cap(), (0,)) is None
