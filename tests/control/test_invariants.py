"""What holds on any day, whatever drivers, kettles and wires do: checked at each 250 ms of random ones."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.control.headroom import headroom
from edge.control.limits import add_load
from edge.control.session import ENERGISED, State
from edge.control.site import Cap, Signal, SignalKind
from edge.control.state import EVSE_STALE_MS, METER_STALE_MS, drawable_ma, is_fresh
from edge.control.view import view
from edge.events import DemandStated, LimitSignalled, PhasesRequested
from edge.records import ClaimState
from tests.control.story import ALICE, BOB, START_WH, STRANGER, Car, Sloppy, Story, site

REACTION_MS = 8_000
"""Site meter poll and tick (0.5 s), the car's time to follow (2 s here), settling; generously."""

numbers = st.sampled_from([1, 2, 3])
actions = st.one_of(
    st.tuples(st.just("plug"), numbers, st.sampled_from([1, 2, 3]), st.sampled_from([8_000, 16_000, 32_000])),
    st.tuples(st.just("sloppy"), numbers),
    st.tuples(st.just("unplug"), numbers),
    st.tuples(st.just("swipe"), st.sampled_from([ALICE, BOB, STRANGER])),
    st.tuples(st.just("ask"), numbers, st.booleans()),
    st.tuples(st.just("kettle"), st.integers(0, 30_000), st.integers(0, 30_000)),
    st.tuples(st.just("meter"), numbers, st.booleans()),
    st.tuples(st.just("controller"), numbers, st.booleans()),
    st.tuples(st.just("site meter"), st.booleans()),
    st.tuples(st.just("restart"), st.sampled_from([None, 3_000, 90_000])),
    st.tuples(st.just("limit"), st.sampled_from([None, 0, 5_000, 7_000, 20_000]), st.integers(1, 20)),
    st.tuples(st.just("power"), st.sampled_from([0, 3_000_000, 9_000_000]), st.integers(1, 20)),
    st.tuples(st.just("demand"), numbers, st.integers(0, 60_000), st.integers(1, 10), st.integers(0, 20_000)),
    st.tuples(st.just("phases"), numbers, st.sampled_from([1, 3])),
    st.tuples(st.just("disobey"), numbers, st.booleans()),
)
days = st.lists(st.tuples(actions, st.integers(1, 60)), max_size=14)


def act(  # noqa: C901, PLR0912 - one arm per action, nothing else
    story: Story,
    action: tuple,  # type: ignore[type-arg] # drawn from `actions`
) -> None:
    match action:
        case ("plug", n, phases, max_ma) if story.plugs[n].car is None:
            story.plug(n, Car(max_ma=max_ma, phases=phases))
        case ("sloppy", n) if story.plugs[n].car is None:
            story.plug(n, Sloppy())
        case ("unplug", n):
            story.unplug(n)
        case ("swipe", card):
            story.swipe(card)
        case ("ask", n, asks) if (car := story.plugs[n].car) is not None:
            car.asks = asks
        case ("kettle", l1, l2):
            story.background_ma = (l1, l2, 0)
        case ("meter", n, silent):
            story.plugs[n].meter_silent = silent
        case ("controller", n, silent):
            story.plugs[n].silent = silent
        case ("site meter", silent):
            story.site_meter_silent = silent
        case ("limit", ma, seconds):
            cap = None if ma is None else (ma, ma, ma)
            story.put(LimitSignalled(story.now_ms, "technician", "main", None, cap, None, seconds * 1_000))
        case ("power", mw, seconds):
            story.put(LimitSignalled(story.now_ms, "grid", "main", None, None, mw, seconds * 1_000))
        case ("demand", n, wh, hours, min_ma):
            story.put(DemandStated(story.now_ms, n, wh, hours * 3_600_000, min_ma))
        case ("phases", n, phases):
            story.put(PhasesRequested(story.now_ms, n, phases))
        case ("disobey", n, disobeys) if (car := story.plugs[n].car) is not None:
            car.obeys = not disobeys
        case ("restart", absent_ms):
            story.now_ms += absent_ms or 0
            story.boot(absent_ms)
        case _:  # plugging in where a car is, asking of no car: nothing happens
            pass


class Watch:
    """The invariants, asked after every tick."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.over_since: int | None = None
        self.offers: dict[int, int] = {}

    def __call__(self) -> None:
        story = self.story
        self._raises()
        assert not any(fault.kind.name == "sharing_failed" for fault in story.station.faults)
        for outlet, connector in zip(story.site.outlets, story.station.connectors, strict=True):
            offer = connector.offer_ma
            assert offer == 0 or outlet.min_ma <= offer <= outlet.max_ma
            if offer:
                assert connector.state in ENERGISED
                assert connector.session is not None
                assert story.journal[connector.session.claim.id].state is ClaimState.OPEN
        self._limits()
        view(story.station)

    def _raises(self) -> None:
        """Nothing is raised on stale data, and only into room that all others leave at their worst."""
        station = self.story.station
        space = headroom(station)
        load = [0] * len(space.room)
        for i, connector in enumerate(station.connectors):
            add_load(space.rows, load, i, drawable_ma(connector, station.now_ms, 32_000))
        for i, connector in enumerate(station.connectors):
            if connector.offer_ma > self.offers.get(i, 0):
                assert is_fresh(connector.meter, station.now_ms, METER_STALE_MS)
                assert is_fresh(connector.evse, station.now_ms, EVSE_STALE_MS)
                assert all(load[row] <= space.room[row] for row, _ in space.rows.of[i])
        self.offers = {i: connector.offer_ma for i, connector in enumerate(station.connectors)}

    def _limits(self) -> None:
        story = self.story
        blind = story.site_meter_silent or any(p.silent or p.meter_silent for p in story.plugs.values())
        # A car that takes what it likes is stopped after ten seconds; until then the others give way.
        blind = blind or any(p.car and not p.car.obeys for p in story.plugs.values())
        ours = [0, 0, 0]
        for plug in story.plugs.values():
            for line in range(plug.used()):
                ours[line] += plug.draw_ma(story.now_ms)
        over = any(total > 32_000 and mine for total, mine in zip(story.supply_ma(), ours, strict=True))
        if not over or blind:
            self.over_since = None
        elif self.over_since is None:
            self.over_since = story.now_ms
        else:
            assert story.now_ms - self.over_since <= REACTION_MS, (story.supply_ma(), ours)


@settings(max_examples=60)
@given(days)
def test_limits_money_and_records_hold_on_any_day(day: list) -> None:  # type: ignore[type-arg] # drawn
    grid = Signal("grid", SignalKind.GRID, 0, None, Cap(power_mw=15_000_000))
    story = Story(site(connectors=3, signals=(grid,), unbalance_ma=20_000))
    story.plugs[2].phases = 3  # its controller can switch
    watch = Watch(story)
    story.pass_time(1_000)
    for action, quarters in day:
        act(story, action)
        story.pass_time(quarters * 250, watch)

    # The evening: everything works again, everybody goes home, the books are closed.
    story.site_meter_silent = False
    for number, plug in story.plugs.items():
        plug.silent = plug.meter_silent = False
        if plug.car is not None:
            plug.car.obeys = True
        story.pass_time(10_000, watch)
        story.unplug(number)
    story.pass_time(30_000, watch)
    assert {c.state for c in story.station.connectors} == {State.FREE}
    assert story.claims(ClaimState.OPEN) == []
    for number, plug in story.plugs.items():
        claims = [c for c in story.journal.values() if c.connector == number]
        trusted = not any(c.hold for c in claims)
        billed = sum(c.energy_wh or 0 for c in claims)
        flowed = plug.register_mwh // 1000 - START_WH
        # What a controller kept delivering while nobody could reach it belongs to no claim.
        assert billed <= flowed
        if trusted and not any(a[0] == "controller" or a[0] == "restart" for a, _ in day):
            assert billed == flowed
