"""The core takes whatever comes, in any order: no event ends it, and no offer escapes the last word."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edge import events
from edge.commands import SetOffer
from edge.control.session import ENERGISED
from edge.control.site import Cap, Signal, SignalKind, Solar
from edge.control.station import start, step
from edge.control.view import view
from edge.records import ClaimState, ClockQuality
from tests.control.story import ALICE, BOB, PHONE, STRANGER, site

SIGNALS = (
    Signal("grid", SignalKind.GRID, None, 0, Cap(power_mw=0)),
    Signal("sun", SignalKind.SOLAR, 0, None, None, Solar()),
)
times = st.integers(0, 4_000_000)
amps = st.integers(-100_000, 2_000_000)
devices = st.sampled_from(
    ["meter/m1", "meter/site", "meter/none", "evse/1", "evse/9", "evse/x", "reader/front", ""]
)
claim_ids = st.sampled_from(["st-ep0cep0cep0c-1", "st-ep0cep0cep0c-2", "nobody"])
states = st.sampled_from(list(ClaimState))
any_event = st.one_of(
    st.builds(events.Tick, times, st.integers(-1, 2**45), st.sampled_from(list(ClockQuality))),
    st.builds(events.DeviceFound, times, devices),
    st.builds(events.DeviceLost, times, devices, st.just("gone")),
    st.builds(
        events.MeterRead,
        times,
        times,
        st.sampled_from(["m1", "m2", "site", "none"]),
        st.tuples(amps, amps, amps),
        amps,
        st.integers(0, 10**10),
    ),
    st.builds(
        events.EvseRead,
        times,
        times,
        st.sampled_from([1, 2, 9]),
        st.sampled_from(list(events.Pilot)),
        st.integers(0, 80_000),
        st.booleans(),
        st.none() | st.integers(0, 80_000),
        st.lists(st.sampled_from(["evse_rcd", "evse_diode", "evse_failure", "evse_ventilation"])).map(tuple),
        st.sampled_from([None, 1, 3]),
    ),
    st.builds(
        events.CardSeen,
        times,
        st.sampled_from(["front", "back"]),
        st.sampled_from([ALICE, BOB, PHONE, STRANGER]),
    ),
    st.builds(events.CardUnreadable, times, st.just("front"), st.just("torn")),
    st.builds(events.Recorded, times, claim_ids, states),
    st.builds(events.RecordFailed, times, claim_ids, states, st.just("disk full")),
    st.builds(events.ClaimAnswered, times, claim_ids, states),
    st.builds(events.UplinkChanged, times, st.booleans()),
    st.builds(events.FaultClearRequested, times, st.integers(0, 3)),
    st.builds(events.DemandStated, times, st.integers(0, 3), amps, amps, amps),
    st.builds(
        events.LimitSignalled,
        times,
        st.sampled_from(["grid", "sun", "technician"]),
        st.sampled_from([None, "main", "none"]),
        st.sampled_from([None, 1, 9]),
        st.none() | st.tuples(amps, amps, amps),
        st.none() | st.integers(-1, 2**40),
        st.integers(-1, 2**40),
    ),
    st.builds(events.PhasesRequested, times, st.integers(0, 3), st.integers(0, 4)),
    st.builds(events.StopRequested, times),
)


@settings(max_examples=300)
@given(st.lists(any_event, max_size=60))
def test_any_events_in_any_order_leave_a_station_that_can_be_shown_and_is_safe(
    happened: list[events.Event],
) -> None:
    station, _ = start(site(signals=SIGNALS, unbalance_ma=20_000), "ep0c" * 8, 1, [], 0, None)
    outlets = {outlet.number: outlet for outlet in station.site.outlets}
    for event in happened:
        before = station
        station, commands = step(station, event)
        assert station.now_ms >= before.now_ms
        for command in commands:
            if isinstance(command, SetOffer) and command.offer_ma:
                outlet = outlets[command.connector]
                connector = station.connectors[command.connector - 1]
                assert outlet.min_ma <= command.offer_ma <= outlet.max_ma
                assert connector.state in ENERGISED
                assert not station.stopping
        view(station)
