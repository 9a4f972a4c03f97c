"""The load on a circuit that is not ours: what its meter shows, minus what our own meters show.

Meters are read one after the other, and a car changes its current faster than a bus is polled. A difference
of two moments would take a car that stopped for a kettle that started, and pause the others for nothing. So a
circuit's reading is matched with the connectors' readings on both sides of it, the higher of the two for each
phase: a load of a third party lasts and is seen at the next reading; a difference of moments does not. Only a
circuit above its limit is acted on at once, with what is known.
"""

from msgspec.structs import replace

from edge.control.state import METER_STALE_MS, CircuitState, Connector, Station, is_fresh
from edge.events import MeterRead, Phases

MATCH_WITHIN_MS = 1_500
"""A reading that could not be matched for so long makes room for a newer one; three polls at 500 ms."""


def circuit_read(station: Station, c: int, event: MeterRead) -> CircuitState:
    """The state of circuit `c` after a reading of its meter."""
    before = station.circuits[c]
    limit_ma = station.site.circuits[c].limit_ma
    state = replace(before, meter=event)
    if any(ma > limit for ma, limit in zip(event.current_ma, limit_ma, strict=True)):
        return replace(state, unmatched=None, background_ma=_not_ours(station, c, event))
    waiting = before.unmatched
    if waiting is None or event.asked_ms - waiting.asked_ms > MATCH_WITHIN_MS:
        state = replace(state, unmatched=event)
    return matched(station, c, state)


def matched(station: Station, c: int, state: CircuitState) -> CircuitState:
    """The state after a reading of a connector: with a new background if that was the last to wait for."""
    waiting = state.unmatched
    if waiting is None:
        return state
    for i, connector in enumerate(station.connectors):
        meter = connector.meter
        due = station.site.is_below(i, c) and is_fresh(meter, station.now_ms, METER_STALE_MS)
        if due and meter is not None and meter.asked_ms < waiting.asked_ms:
            return state
    return replace(state, unmatched=None, background_ma=_not_ours(station, c, waiting))


def _not_ours(station: Station, c: int, total: MeterRead) -> Phases:
    ours = [0, 0, 0]
    for i, connector in enumerate(station.connectors):
        if station.site.is_below(i, c):
            for k, line in enumerate(station.site.outlets[i].lines):
                ours[line] += _measured_ma(connector, k, total.asked_ms, station.now_ms)
    left = [max(0, ma - our) for ma, our in zip(total.current_ma, ours, strict=True)]
    return left[0], left[1], left[2]


def _measured_ma(connector: Connector, k: int, at_ms: int, now_ms: int) -> int:
    """What a connector drew on its phase k around `at_ms`.

    A stale reading counts with its last value, at most the offer: if the car takes more since, the circuit's
    meter shows that as background.
    """
    meter, earlier = connector.meter, connector.earlier
    if meter is None:
        return 0
    if not is_fresh(meter, now_ms, METER_STALE_MS):
        return min(meter.current_ma[k], connector.offer_ma)
    if meter.asked_ms < at_ms or earlier is None:
        return meter.current_ma[k]
    return max(meter.current_ma[k], earlier.current_ma[k])
