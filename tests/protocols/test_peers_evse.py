"""The EVSE board, the car and the site of the rig: physics and the times of IEC 61851-1."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hal_mocks.evse import BOOT_MS, BOUNCE_MS, BOUNCE_STEP_MS, CLOSE_MS, OPEN_MS, SimpleEvse
from hal_mocks.meter import NJ_PER_WH, Phases, Sdm630
from hal_mocks.modbus_rtu import Line, RefusedError, Table
from hal_mocks.vehicle import S2_MS, SLEEP_AFTER_MS, Vehicle
from hal_mocks.world import Circuit, Connector, Overload, World

LIMIT: Phases = (32_000, 32_000, 32_000)
CHARGING_MS = 10_000  # by then a car is closed in and has followed its offer
RELAY, DIODE, VENTILATION, WAITS, TESTING, RCD = (1 << place for place in range(6))


def make_world(connectors: int = 1, lines: tuple[int, ...] = (0, 1, 2)) -> World:
    return World(
        [Circuit("site", LIMIT, meter=Sdm630(unit=1))],
        [
            Connector(
                number, "site", evse=SimpleEvse(unit=10 + number), meter=Sdm630(unit=20 + number), lines=lines
            )
            for number in range(1, connectors + 1)
        ],
    )


def charging(vehicle: Vehicle, amps: int = 16) -> tuple[World, SimpleEvse]:
    """Return a world in which this car charges."""
    world = make_world()
    world.evses[1].write(1000, [amps])
    world.plug(1, vehicle)
    world.advance(CHARGING_MS)
    assert vehicle.current_ma > 0
    return world, world.evses[1]


def register(evse: SimpleEvse, address: int) -> int:
    return evse.read(Table.HOLDING, address, 1)[0]


def pass_until(world: World, condition: Callable[[], bool], at_most_ms: int = 60_000) -> int:
    """Advance in steps of 10 ms; return how long it took."""
    start_ms = world.now_ms
    while not condition():
        assert world.now_ms < start_ms + at_most_ms
        world.advance(world.now_ms + 10)
    return world.now_ms - start_ms


# --- the board ------------------------------------------------------------------------------------------


def test_a_car_is_offered_closed_in_and_charges_at_the_offer() -> None:
    world = make_world()
    evse, car = world.evses[1], Vehicle(max_ma=20_000)
    evse.write(1000, [13])
    assert [register(evse, address) for address in (1001, 1002, 1003, 1006)] == [0, 1, 0, 1]
    world.plug(1, car)
    assert [register(evse, address) for address in (1001, 1002, 1003, 1006)] == [13, 2, 32, 2]
    assert pass_until(world, lambda: register(evse, 1002) == 3) == S2_MS
    assert pass_until(world, lambda: bool(register(evse, 1007) & RELAY)) == CLOSE_MS <= 3_000
    assert pass_until(world, lambda: car.current_ma == 13_000) == car.lag_ms <= 5_000
    assert world.meters["site"].current_ma == (13_000, 13_000, 13_000)


def test_an_offer_withdrawn_lets_the_car_stop_before_the_contactor_opens() -> None:
    car = Vehicle()
    world, evse = charging(car)
    evse.write(1000, [0])
    world.advance(world.now_ms + 10)
    assert register(evse, 1001) == 0
    assert register(evse, 1007) == RELAY | WAITS
    opened = pass_until(world, lambda: not evse.relay_closed)
    assert car.current_ma == 0
    assert opened < 6_000
    assert register(evse, 1002) == 2


def test_a_car_that_does_not_let_go_is_cut_off_after_six_seconds() -> None:
    car = Vehicle(obeys=False)
    world, evse = charging(car)
    evse.write(1000, [0])
    world.advance(world.now_ms + 5_999)
    assert (evse.relay_closed, car.current_ma) == (True, car.max_ma)
    world.advance(world.now_ms + 1)
    assert not evse.relay_closed
    assert world.meters["site"].current_ma == (0, 0, 0)
    assert register(evse, 1002) == 2


def test_a_plug_pulled_under_load_opens_the_contactor_within_100_ms() -> None:
    world, evse = charging(Vehicle())
    assert world.unplug(1).current_ma == 0
    assert world.meters["site"].current_ma == (0, 0, 0)
    assert pass_until(world, lambda: not evse.relay_closed) == OPEN_MS <= 100


@given(st.integers(0, 5))
def test_less_than_the_least_current_is_no_offer(amps: int) -> None:
    world = make_world()
    world.evses[1].write(1000, [amps])
    world.plug(1, Vehicle())
    world.advance(CHARGING_MS)
    assert (world.evses[1].offer_ma, world.evses[1].relay_closed) == (0, False)


@given(st.integers(6, 80), st.sampled_from([13_000, 20_000, 32_000, 63_000]), st.integers(6, 80))
def test_the_offer_is_never_more_than_board_cable_or_master_allow(
    set_a: int, cable_ma: int, max_a: int
) -> None:
    world = make_world()
    evse = world.evses[1]
    evse.write(2007, [max_a])
    evse.write(1000, [set_a])
    world.plug(1, Vehicle(max_ma=100_000, cable_ma=cable_ma))
    assert register(evse, 1001) * 1000 == min(set_a * 1000, max_a * 1000, cable_ma)
    world.advance(CHARGING_MS)
    assert max(world.connector_current_ma(1)) == evse.offer_ma


def test_hundredths_of_an_ampere_need_the_option_and_a_new_firmware() -> None:
    old, new = SimpleEvse(unit=1, firmware=16), SimpleEvse(unit=1, firmware=17)
    for board in (old, new):
        board.write(1000, [12])
        board.write(2005, [1 << 7])
    assert (register(old, 1000), register(new, 1000)) == (12, 1200)
    new.write(1000, [1234])
    assert new.set_current_ma == 12_340
    with pytest.raises(RefusedError):
        old.write(1000, [1234])


def test_the_offer_stays_for_ever_when_the_master_dies() -> None:
    world, evse = charging(Vehicle())
    world.advance(7 * 24 * 3_600_000)
    assert (evse.offer_ma, evse.relay_closed) == (16_000, True)


def test_off_now_opens_at_once_and_holds_while_it_is_set() -> None:
    world, evse = charging(Vehicle())
    evse.write(1004, [1])
    assert pass_until(world, lambda: not evse.relay_closed) <= 100
    world.advance(world.now_ms + CHARGING_MS)
    assert (evse.relay_closed, register(evse, 1006)) == (False, 3)
    evse.write(1004, [0])
    world.advance(world.now_ms + CHARGING_MS)
    assert evse.relay_closed


def test_a_residual_current_opens_and_stays_until_it_is_cleared() -> None:
    world, evse = charging(Vehicle())
    evse.trip_rcd()
    assert pass_until(world, lambda: not evse.relay_closed) <= 100
    assert (register(evse, 1002), register(evse, 1007)) == (5, RCD)
    world.advance(world.now_ms + CHARGING_MS)
    assert not evse.relay_closed
    evse.write(1004, [1 << 2])
    world.advance(world.now_ms + CHARGING_MS)
    assert (evse.relay_closed, register(evse, 1007), register(evse, 1004)) == (True, RELAY, 0)


def test_a_residual_current_test_takes_half_a_minute_without_power() -> None:
    world, evse = charging(Vehicle())
    evse.write(1004, [1 << 1])
    world.advance(world.now_ms + 29_999)
    assert register(evse, 1007) == TESTING
    world.advance(world.now_ms + CHARGING_MS)
    assert register(evse, 1007) == RELAY


def test_a_car_without_its_diode_is_not_offered_anything_until_it_leaves() -> None:
    world = make_world()
    evse = world.evses[1]
    evse.write(1000, [16])
    world.plug(1, Vehicle(diode_ok=False))
    world.advance(CHARGING_MS)
    assert (register(evse, 1002), register(evse, 1007), evse.relay_closed) == (5, DIODE, False)
    world.unplug(1)
    assert (register(evse, 1002), register(evse, 1007)) == (1, 0)


def test_a_car_that_needs_ventilation_is_served_only_where_it_is_allowed() -> None:
    world = make_world()
    evse = world.evses[1]
    evse.write(1000, [16])
    world.plug(1, Vehicle(ventilation=True))
    world.advance(CHARGING_MS)
    assert (register(evse, 1002), register(evse, 1007)) == (4, VENTILATION)
    evse.write(2005, [1 << 3])
    world.advance(2 * CHARGING_MS)
    assert (register(evse, 1002), register(evse, 1007)) == (4, RELAY)


def test_a_fault_of_the_pilot_is_state_5_and_cuts_power() -> None:
    world, evse = charging(Vehicle())
    evse.pilot_fault = True
    assert pass_until(world, lambda: not evse.relay_closed) <= 100
    assert register(evse, 1002) == 5


def test_a_contactor_that_bounces_flutters_for_a_moment_after_it_closed_and_then_stays() -> None:
    world = make_world()
    evse = world.evses[1]
    evse.bounces = True
    evse.write(1000, [16])
    world.plug(1, Vehicle())
    pass_until(world, lambda: evse.relay_closed)
    began_ms, positions = world.now_ms, []
    while world.now_ms < began_ms + 2 * BOUNCE_MS:
        positions.append(evse.relay_closed)
        world.advance(world.now_ms + 10)
    changes = sum(before != after for before, after in pairwise(positions))
    assert changes == BOUNCE_MS // BOUNCE_STEP_MS
    assert all(positions[BOUNCE_MS // 10 :])
    world.advance(world.now_ms + CHARGING_MS)
    assert world.meters["connector-1"].current_ma == (16_000, 16_000, 16_000)


def test_a_relay_without_feedback_is_never_shown_closed_and_a_mended_board_shows_it() -> None:
    world, evse = charging(Vehicle())
    evse.no_feedback = True
    assert (register(evse, 1007), evse.contact_closed) == (0, True)
    evse.welded = evse.ignores_writes = True
    evse.trip_rcd()
    evse.mend()
    assert register(evse, 1007) == RELAY
    evse.write(1000, [0])
    world.advance(world.now_ms + CHARGING_MS)
    assert (register(evse, 1007), evse.contact_closed) == (0, False)


def test_a_welded_contact_goes_on_feeding_a_car_that_draws_while_the_relay_says_open() -> None:
    car = Vehicle(obeys=False)
    world, evse = charging(car)
    evse.welded = True
    evse.write(1000, [0])
    world.advance(world.now_ms + 60_000)
    assert register(evse, 1007) & RELAY == 0
    assert world.meters["connector-1"].current_ma == (16_000, 16_000, 16_000)


@pytest.mark.parametrize("boot_a", [0, 10])
def test_a_reboot_falls_silent_drops_the_load_and_comes_back_with_its_own_idea_of_the_current(
    boot_a: int,
) -> None:
    world, evse = charging(Vehicle())
    evse.write(2000, [boot_a])
    evse.reboot()
    assert not evse.relay_closed
    line = Line([evse])
    world.advance(world.now_ms + BOOT_MS - 1)
    assert line.answer(11, bytes.fromhex("0303E80001"), 0) is None
    world.advance(world.now_ms + 1)
    answer = line.answer(11, bytes.fromhex("0303E80001"), 0)
    assert answer is not None
    assert answer.pdu == bytes((3, 2, 0, boot_a))
    world.advance(world.now_ms + CHARGING_MS)
    assert evse.relay_closed == (boot_a > 0)


def test_a_board_that_ignores_writes_acknowledges_them() -> None:
    evse = SimpleEvse(unit=1)
    evse.ignores_writes = True
    answer = Line([evse]).answer(1, bytes.fromhex("0603E80010"), 0)
    assert answer is not None
    assert answer.pdu == bytes.fromhex("0603E80010")
    assert register(evse, 1000) == 0


def test_what_is_read_only_or_impossible_is_refused_and_nothing_of_it_is_written() -> None:
    evse = SimpleEvse(unit=1)
    for start, values in ((1001, [6]), (1000, [10, 10]), (1000, [81]), (2001, [0]), (1999, [1]), (2016, [1])):
        with pytest.raises(RefusedError):
            evse.write(start, values)
    assert (register(evse, 1000), register(evse, 2001), evse.writes) == (0, 1, 0)
    for table, start, count in ((Table.INPUT, 1000, 1), (Table.HOLDING, 1000, 10), (Table.HOLDING, 2017, 2)):
        with pytest.raises(RefusedError):
            evse.read(table, start, count)


def test_a_broadcast_is_obeyed_by_all_and_answered_by_nobody() -> None:
    boards = [SimpleEvse(unit=1), SimpleEvse(unit=2)]
    assert Line(boards).answer(0, bytes.fromhex("0603E80008"), 0) is None
    assert [register(board, 1000) for board in boards] == [8, 8]


@given(st.integers(0, 0xFFFF), st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=20))
def test_any_write_is_refused_or_kept_and_the_site_goes_on(start: int, values: list[int]) -> None:
    world, evse = charging(Vehicle())
    line = Line([evse])
    count = len(values)
    data = b"".join(value.to_bytes(2, "big") for value in values)
    pdu = b"\x10" + start.to_bytes(2, "big") + count.to_bytes(2, "big") + bytes((2 * count,)) + data
    assert line.answer(11, pdu, 0) is not None
    world.advance(world.now_ms + CHARGING_MS)


# --- the car --------------------------------------------------------------------------------------------


def test_a_car_follows_a_new_offer_in_a_ramp() -> None:
    car = Vehicle(max_ma=32_000, lag_ms=2_000)
    world, evse = charging(car, amps=32)
    evse.write(1000, [6])
    seen = []
    for _ in range(5):
        seen.append(car.current_ma)
        world.advance(world.now_ms + 500)
    assert seen == [32_000, 25_500, 19_000, 12_500, 6_000]


def test_a_car_takes_what_it_wants_and_stops_asking() -> None:
    car = Vehicle(wants_wh=1_000)
    world, evse = charging(car)
    world.advance(3_600_000)
    assert car.pilot == "B"
    assert car.taken_wh == 1_000
    assert not evse.relay_closed
    # The battery is full within the millisecond: a car of 11 kW takes at most 3 mWh too much.
    assert 0 <= car.taken_nj - 1_000 * NJ_PER_WH <= 11_040 * 10**6


def test_a_driver_who_stops_and_starts_in_the_car_is_obeyed() -> None:
    car = Vehicle()
    world, evse = charging(car)
    car.asks = False
    world.advance(world.now_ms + CHARGING_MS)
    assert (car.current_ma, car.pilot, evse.relay_closed) == (0, "B", False)
    car.asks = True
    world.advance(world.now_ms + CHARGING_MS)
    assert (car.current_ma, car.pilot, evse.relay_closed) == (16_000, "C", True)


def test_a_car_that_ignores_limits_draws_what_it_can() -> None:
    car = Vehicle(obeys=False, max_ma=25_000)
    world, _ = charging(car, amps=6)
    assert world.connector_current_ma(1) == (25_000, 25_000, 25_000)


def test_a_sleepy_car_needs_a_second_offer_after_a_long_pause() -> None:
    car = Vehicle(sleepy=True)
    world, evse = charging(car)
    evse.write(1000, [0])
    world.advance(world.now_ms + SLEEP_AFTER_MS + CHARGING_MS)
    evse.write(1000, [16])
    world.advance(world.now_ms + CHARGING_MS)
    assert register(evse, 1002) == 2
    evse.write(1000, [0])
    world.advance(world.now_ms + 3_000)
    evse.write(1000, [16])
    world.advance(world.now_ms + CHARGING_MS)
    assert register(evse, 1002) == 3


@pytest.mark.parametrize(
    ("phases", "lines", "supply"),
    [
        (3, (0, 1, 2), (16_000, 16_000, 16_000)),
        (1, (0, 1, 2), (16_000, 0, 0)),
        (1, (1, 2, 0), (0, 16_000, 0)),
        (2, (1, 2, 0), (0, 16_000, 16_000)),
        (3, (2,), (0, 0, 16_000)),
    ],
)
def test_a_car_loads_the_supply_phases_its_connector_is_wired_to(
    phases: int, lines: tuple[int, ...], supply: Phases
) -> None:
    world = make_world(lines=lines)
    world.evses[1].write(1000, [16])
    world.plug(1, Vehicle(phases=phases))
    world.advance(CHARGING_MS)
    assert world.meters["site"].current_ma == supply
    in_outlet_order = [16_000] * min(phases, len(lines)) + [0] * 3
    assert world.meters["connector-1"].current_ma == tuple(in_outlet_order[:3])


# --- the site -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    """Something done to the world, `after_ms` the act before."""

    after_ms: int
    what: str
    number: int
    value: int

    def do(self, world: World) -> None:
        match self.what:
            case "offer":
                world.evses[self.number].write(1000, [self.value])
            case "plug" if self.number not in world.vehicles:
                world.plug(self.number, make_car(self.value))
            case "unplug" if self.number in world.vehicles:
                world.unplug(self.number)
            case "load":
                world.switch_load("kettle", (1000 * self.value, 0, 500 * self.value), circuit="garage")
            case "weld":
                world.evses[self.number].welded = bool(self.value % 2)
            case "reboot":
                world.evses[self.number].reboot()
            case "asks" if self.number in world.vehicles:
                world.vehicles[self.number].asks = bool(self.value % 2)


def make_car(kind: int) -> Vehicle:
    return Vehicle(
        phases=1 + kind % 3,
        max_ma=6_000 + 1_000 * kind,
        wants_wh=None if kind % 2 else 20 * kind,
        obeys=kind % 5 != 0,
        sleepy=kind % 7 == 0,
        lag_ms=333 * (kind % 4),
    )


numbers = st.integers(1, 2)
values = st.integers(0, 32)
soon = st.integers(0, 20_000)
whats = st.sampled_from(["offer", "offer", "plug", "plug", "unplug", "load", "weld", "reboot", "asks"])
later_acts = st.lists(st.builds(Act, soon, whats, numbers, values), max_size=15)


@st.composite
def scripts(draw: st.DrawFn) -> list[Act]:
    """Draw a day of a site that begins with two cars, so that energy flows in most of them."""
    opening = [Act(0, "offer", number, draw(st.integers(6, 32))) for number in (1, 2)]
    opening += [Act(draw(soon), "plug", number, draw(values)) for number in (1, 2)]
    return [*opening, *draw(later_acts), Act(draw(soon), "load", 1, 0)]


def make_site() -> World:
    return World(
        [
            Circuit("garage", (20_000, 20_000, 20_000), parent="house", meter=Sdm630(unit=2)),
            Circuit("house", LIMIT, meter=Sdm630(unit=1)),
        ],
        [
            Connector(1, "garage", evse=SimpleEvse(unit=11), meter=Sdm630(unit=21)),
            Connector(2, "house", evse=SimpleEvse(unit=12), meter=Sdm630(unit=22), lines=(1, 2, 0)),
        ],
    )


def added(*flows: Phases) -> Phases:
    return sum(f[0] for f in flows), sum(f[1] for f in flows), sum(f[2] for f in flows)


@given(scripts())
def test_every_meter_shows_the_sum_of_what_hangs_below_it_and_nothing_flows_through_an_open_contact(
    script: list[Act],
) -> None:
    world = make_site()
    kettle: Phases = (0, 0, 0)
    for act in script:
        world.advance(world.now_ms + act.after_ms)
        first, second = world.connector_current_ma(1), world.connector_current_ma(2)
        assert world.meters["garage"].current_ma == added(first, kettle)
        assert world.meters["house"].current_ma == added(first, second, kettle)
        for number, evse in world.evses.items():
            car = world.vehicles.get(number)
            current = world.connector_current_ma(number)
            if car is None or not evse.contact_closed:
                assert current == (0, 0, 0)
            else:
                assert max(current) <= car.max_ma
        act.do(world)
        if act.what == "load":
            kettle = (1000 * act.value, 0, 500 * act.value)


@given(scripts())
def test_energy_is_conserved_to_the_last_nanojoule(script: list[Act]) -> None:
    world = make_site()
    kettle_nj, kettle_ma = 0, 0
    cars: list[Vehicle] = []
    for act in script:
        kettle_nj += 230_000 * kettle_ma * act.after_ms
        world.advance(world.now_ms + act.after_ms)
        act.do(world)
        cars += [car for car in world.vehicles.values() if not any(car is known for known in cars)]
        if act.what == "load":
            kettle_ma = 1500 * act.value
    first, second = (sum(world.meters[f"connector-{number}"].flow_nj) for number in (1, 2))
    assert sum(car.taken_nj for car in cars) == first + second
    assert sum(world.meters["garage"].flow_nj) == first + kettle_nj
    assert sum(world.meters["house"].flow_nj) == first + second + kettle_nj


def snapshot(world: World) -> tuple[object, ...]:
    return (
        world.now_ms,
        [(meter.current_ma, meter.flow_nj) for meter in world.meters.values()],
        [evse.read(Table.HOLDING, 1000, 9) for evse in world.evses.values()],
        world.vehicles,
        world.overloads,
    )


@given(scripts(), st.integers(50, 3_000))
def test_the_world_is_the_same_however_its_time_is_cut(script: list[Act], step_ms: int) -> None:
    coarse, fine = make_site(), make_site()
    for act in script:
        then_ms = coarse.now_ms + act.after_ms
        coarse.advance(then_ms)
        for time_ms in (*range(fine.now_ms, then_ms, step_ms), then_ms):
            fine.advance(time_ms)
        assert snapshot(coarse) == snapshot(fine)
        act.do(coarse)
        act.do(fine)


loads = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 40_000), st.integers(0, 40_000), st.integers(0, 40_000)),
        st.integers(1, 9_999),
    ),
    max_size=12,
)


@given(loads)
def test_the_worst_overload_of_a_circuit_is_remembered(script: list[tuple[Phases, int]]) -> None:
    world = make_world(connectors=0)
    worst_ma = longest_ms = 0
    running_ms = [0, 0, 0]
    for current_ma, duration_ms in script:
        world.switch_load("oven", current_ma)
        world.advance(world.now_ms + duration_ms // 2)
        world.advance(world.now_ms + duration_ms - duration_ms // 2)
        for phase in range(3):
            excess = current_ma[phase] - LIMIT[phase]
            running_ms[phase] = running_ms[phase] + duration_ms if excess > 0 else 0
            worst_ma = max(worst_ma, excess)
        longest_ms = max(longest_ms, *running_ms)
    overload = world.overloads["site"]
    assert (overload.worst_ma, overload.longest_ms) == (worst_ma, longest_ms)
    assert (overload == Overload()) == (worst_ma == 0)


def test_a_world_wired_wrongly_is_refused() -> None:
    evse, site = SimpleEvse(unit=1), Circuit("site", LIMIT)
    with pytest.raises(ValueError, match="hangs on no circuit"):
        World([site], [Connector(1, "shed", evse=evse)])
    with pytest.raises(ValueError, match="phases"):
        World([site], [Connector(1, "site", evse=evse, lines=(0, 0))])
    with pytest.raises(ValueError, match="root"):
        World([Circuit("a", LIMIT, parent="b"), Circuit("b", LIMIT, parent="a")], [])
    with pytest.raises(ValueError, match="same name"):
        World([site, site], [])
    world = make_world()
    world.plug(1, Vehicle())
    with pytest.raises(ValueError, match="already"):
        world.plug(1, Vehicle())
    with pytest.raises(ValueError, match="no connector"):
        world.plug(2, Vehicle())
    with pytest.raises(ValueError, match="no circuit"):
        world.switch_load("kettle", (1, 1, 1), circuit="shed")
    with pytest.raises(ValueError, match="go back"):
        world.advance(-1)
