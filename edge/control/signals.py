"""Limits that others set: grid operator, schedule, the sun, technician, uplink; combined by minimum.

A limit has a source, a place (a circuit or one connector), an expiry, and, where it is configured, a
fallback: what holds before the first word and after the last has expired. It is about what cars take, not
about the house's load; headroom under the fuse is worked out apart from it and the smaller of the two counts.
"""

from msgspec import Struct
from msgspec.structs import replace

from edge.control.rows import used_lines
from edge.control.session import ENERGISED, State
from edge.control.site import NOMINAL_V, Cap, Signal, SignalKind, Site, Solar
from edge.control.state import EVSE_STALE_MS, METER_STALE_MS, Heard, Station, Sun, is_fresh
from edge.events import LimitSignalled, Phases, Pilot

GRID_LEAST_MW = 4_200_000
"""Bundesnetzagentur BK6-22-300 on section 14a EnWG: the grid operator may not dim a device below 4.2 kW."""

SUN_EVERY_MS = 5_000
"""A car follows within 5 s (IEC 61851-1 Annex A); clouds are not passed on faster than that."""


class Holding(Struct, frozen=True):
    """A limit that holds now. `fallback`: its source is silent."""

    source: str
    circuit: int | None
    connector: int | None
    cap: Cap
    until_ms: int | None
    fallback: bool = False

    def text(self, site: Site) -> str:
        """Its source in words."""
        place = f"circuit {site.circuits[self.circuit].id}" if self.circuit is not None else "this connector"
        silent = ", whose source is silent" if self.fallback else ""
        return f"limit of {self.source} for {place}{silent}"


def hear(station: Station, event: LimitSignalled) -> Station | str:
    """Take a limit; a text says why it cannot be one."""
    site = station.site
    circuit = next((c for c, each in enumerate(site.circuits) if each.id == event.circuit), None)
    connector = site.index(event.connector)
    if (event.circuit is None) == (event.connector is None) or (circuit is None) == (connector is None):
        return f"{event.source} limits what is not there: {event.circuit} {event.connector}"
    given = [*(event.current_ma or ()), *([event.power_mw] if event.power_mw is not None else [])]
    if any(value < 0 for value in given) or event.valid_ms <= 0:
        return f"{event.source} gave a limit below zero, or for no time"
    if any(
        s.kind is SignalKind.SOLAR
        and (s.source, s.circuit, s.connector) == (event.source, circuit, connector)
        for s in site.signals
    ):
        return f"{event.source} follows the sun; nobody else sets it"
    kept = [
        h for h in station.heard if (h.source, h.circuit, h.connector) != (event.source, circuit, connector)
    ]
    cap = Cap(event.current_ma, event.power_mw)
    # What lifts a limit is kept as well: it is a word, after which no fallback holds.
    kept.append(Heard(event.source, circuit, connector, cap, event.at_ms + event.valid_ms))
    return replace(station, heard=tuple(kept))


def expired(station: Station) -> Station:
    """The station without limits whose time is over; asked on every tick."""
    if all(heard.until_ms > station.now_ms for heard in station.heard):
        return station
    return replace(station, heard=tuple(h for h in station.heard if h.until_ms > station.now_ms))


def holding(station: Station) -> list[Holding]:
    """All limits that hold now, the grid operator's never below 4.2 kW for each connector it concerns."""
    found = []
    heard = {(h.source, h.circuit, h.connector): h for h in station.heard}
    suns = iter(station.suns)
    for signal in station.site.signals:
        word = heard.pop((signal.source, signal.circuit, signal.connector), None)
        cap = word.cap if word is not None else signal.fallback
        until_ms = word.until_ms if word is not None else None
        silent = word is None
        if signal.kind is SignalKind.SOLAR:
            sun = next(suns, Sun())
            if sun.power_mw is not None:
                cap, silent = Cap(power_mw=sun.power_mw), False
            elif cap is None:
                cap = Cap(power_mw=0)  # nothing is known of the sun yet
        if cap is not None and signal.kind is SignalKind.GRID:
            cap = _floored(station, signal, cap)
        if cap is not None:
            found.append(Holding(signal.source, signal.circuit, signal.connector, cap, until_ms, silent))
    found += [Holding(h.source, h.circuit, h.connector, h.cap, h.until_ms) for h in heard.values()]
    return found


def current_of(power_mw: int, phases: int) -> int:
    """The current per phase that makes this power, in mA, rounded down."""
    return max(0, power_mw) // (NOMINAL_V * phases)


def connector_cap_ma(cap: Cap, lines: tuple[int, ...]) -> int | None:
    """What a limit leaves one connector on the supply phases `lines`, per phase; None: anything."""
    found = [cap.current_ma[line] for line in lines] if cap.current_ma is not None else []
    if cap.power_mw is not None:
        found.append(current_of(cap.power_mw, len(lines)))
    return min(found, default=None)


def _floored(station: Station, signal: Signal, cap: Cap) -> Cap:
    """The grid operator's limit, no lower than 4.2 kW for each connector in a session that it concerns.

    Connectors without a car do not raise the floor for the others. A car whose minimum is more than 4.2 kW
    keeps its minimum. On how many phases a car charges is learned.
    """
    site = station.site
    current_ma, power_mw = [0, 0, 0], 0
    for i, (connector, outlet) in enumerate(zip(station.connectors, site.outlets, strict=True)):
        here = i == signal.connector or (signal.circuit is not None and site.is_below(i, signal.circuit))
        if not here or connector.state not in ENERGISED:
            continue
        lines = used_lines(connector, outlet)
        least_ma = max(outlet.min_ma, current_of(GRID_LEAST_MW, len(lines)))
        power_mw += max(GRID_LEAST_MW, outlet.min_ma * NOMINAL_V * len(lines))
        for line in lines:
            current_ma[line] += least_ma
    floored: Phases | None = None
    if cap.current_ma is not None:
        raised = [max(ma, least) for ma, least in zip(cap.current_ma, current_ma, strict=True)]
        floored = raised[0], raised[1], raised[2]
    return Cap(floored, None if cap.power_mw is None else max(cap.power_mw, power_mw))


def follow_sun(station: Station) -> Station:
    """Work out anew what the sun allows, at most every SUN_EVERY_MS."""
    solar = [signal for signal in station.site.signals if signal.kind is SignalKind.SOLAR]
    if not solar:
        return station
    suns = station.suns or tuple(Sun() for _ in solar)
    after = tuple(_sun(station, signal, sun) for signal, sun in zip(solar, suns, strict=True))
    return station if after == station.suns else replace(station, suns=after)


def _sun(station: Station, signal: Signal, sun: Sun) -> Sun:
    now, circuit, solar = station.now_ms, signal.circuit, signal.solar or Solar()
    if circuit is None or (sun.worked_out_ms is not None and now - sun.worked_out_ms < SUN_EVERY_MS):
        return sun
    surplus_mw = _surplus_mw(station, circuit)
    if surplus_mw is None and signal.fallback is not None:
        return Sun(worked_out_ms=now)
    # What cannot be measured is taken for no sun: running cars get their least for a while, then nothing.
    surplus_mw = 0 if surplus_mw is None else surplus_mw + solar.import_mw
    least_mw = min(
        (
            outlet.min_ma * NOMINAL_V * len(used_lines(connector, outlet))
            for i, (connector, outlet) in enumerate(
                zip(station.connectors, station.site.outlets, strict=True)
            )
            if station.site.is_below(i, circuit)
        ),
        default=0,
    )
    running, since_ms = sun.running, sun.changed_since_ms
    if (surplus_mw >= least_mw) is not running:
        since_ms = now if since_ms is None else since_ms
        if now - since_ms >= (solar.stop_after_ms if running else solar.start_after_ms):
            running, since_ms = not running, None
    else:
        since_ms = None
    # A car that runs may draw its least through a passing cloud.
    return Sun(max(surplus_mw, least_mw) if running else 0, running, since_ms, now)


def _surplus_mw(station: Station, circuit: int) -> int | None:
    """What the cars below could take without taking from the grid; None while a meter is silent."""
    meter, now = station.circuits[circuit].meter, station.now_ms
    if meter is None or not is_fresh(meter, now, METER_STALE_MS):
        return None
    ours_mw = 0
    for i, connector in enumerate(station.connectors):
        look, own = connector.evse, connector.meter
        empty = connector.state is State.FREE and look is not None and look.pilot is Pilot.A
        if not station.site.is_below(i, circuit) or (empty and is_fresh(look, now, EVSE_STALE_MS)):
            continue
        if own is None or not is_fresh(own, now, METER_STALE_MS):
            return None
        ours_mw += max(0, own.power_mw)
    return ours_mw - meter.power_mw
