"""From readings to offers: headroom, sharing, then fall at once and rise slowly, past the last word.

Called on every tick and whenever a session starts or ends. Decreases stand before increases, and what a
car may still draw after a decrease is not given away (`state.drawable_ma`).
"""

from functools import lru_cache

from msgspec.structs import replace

from edge.commands import SetOffer
from edge.control.faults import stopping
from edge.control.limits import add_load, loads_ma, permit, room_ma
from edge.control.session import ENERGISED, State
from edge.control.sharing import NOT_ADMITTED, OWN_MAXIMUM, Tree
from edge.control.site import NO_PARENT, Outlet, Site
from edge.control.state import (
    EVSE_STALE_MS,
    METER_STALE_MS,
    SETTLE_MS,
    Connector,
    Station,
    drawable_ma,
    is_fresh,
)
from edge.events import Phases, Pilot

LEASE_MS = 3_000
"""How long a controller may hold an offer without hearing from the core: twelve ticks."""

RENEW_MS = 1_000
"""Leases are renewed three times in their life, so that one lost message costs nothing."""

RAISE_EVERY_MS = SETTLE_MS
"""A car is not asked to follow a higher value before it had its time to follow the last one."""

RAISE_STEP_MA = 1_000
"""Raises below 1 A are not worth a message to the car, unless they reach its maximum."""

OFFER_STEP_MA = 100
"""Offers are rounded down to 0.1 A, the finest step of OCPP charging profiles."""

PAUSE_MS = 60_000
"""A car that was paused is not resumed sooner: contactors wear, and some cars fall asleep when toggled."""

SLOT_MS = 15 * 60_000
"""When minimums do not fit, the order of admission moves on by one in this time, so nobody waits for ever."""

ASKING = (Pilot.C, Pilot.D)


def allocate(station: Station) -> tuple[Station, list[SetOffer]]:
    """New offers for all connectors and the commands that carry them, decreases first."""
    site, now = station.site, station.now_ms
    headroom = headroom_ma(station)
    drawn = [
        drawable_ma(connector, now, outlet.max_ma)
        for connector, outlet in zip(station.connectors, site.outlets, strict=True)
    ]
    load = loads_ma(site.circuits, site.outlets, drawn)
    wanted, bounds = _wishes(station, headroom, drawn)
    connectors = list(station.connectors)
    sent: list[SetOffer] = []

    def settle(i: int, offer_ma: int, bound_by: str) -> None:
        connectors[i], send = _offered(connectors[i], offer_ma, bound_by, drawn[i], now)
        if send:
            sent.append(SetOffer(site.outlets[i].number, offer_ma, now, LEASE_MS))
        drawn_now = drawable_ma(connectors[i], now, site.outlets[i].max_ma)
        add_load(site.circuits, load, site.outlets[i], drawn_now - drawn[i])
        drawn[i] = drawn_now

    for i, connector in enumerate(station.connectors):
        if connector.state is not State.ADOPTING and wanted[i] <= connector.offer_ma:
            settle(i, wanted[i], bounds[i])
    for i, connector in enumerate(station.connectors):
        if connector.state is State.ADOPTING or wanted[i] <= connector.offer_ma:
            continue
        room, room_bound = room_ma(site.circuits, headroom, load, site.outlets[i], drawn[i])
        allowed = _permitted(station, i, min(wanted[i], room), room)
        if allowed < wanted[i] and room < wanted[i]:
            bounds[i] = f"{room_bound}, until others have let go"
        if allowed <= connector.offer_ma:
            settle(i, connector.offer_ma, bounds[i])
        elif why := _not_yet(connector, allowed, site.outlets[i], now):
            settle(i, connector.offer_ma, why)
        else:
            settle(i, allowed, bounds[i])
    for i in _excess(site, headroom, connectors, drawn):
        settle(i, 0, "internal check: offers did not fit the circuit")
    return replace(station, connectors=tuple(connectors)), sent


def _excess(site: Site, headroom: list[Phases], connectors: list[Connector], drawn: list[int]) -> list[int]:
    """Connectors to switch off because the offers as they stand do not fit: empty unless sharing erred."""
    told = [c.offer_ma if c.state in ENERGISED else d for c, d in zip(connectors, drawn, strict=True)]
    load = loads_ma(site.circuits, site.outlets, told)
    off: list[int] = []
    for i, connector in enumerate(connectors):
        if connector.state not in ENERGISED or not connector.offer_ma:
            continue
        room, _ = room_ma(site.circuits, headroom, load, site.outlets[i], told[i])
        if room < connector.offer_ma and room < site.outlets[i].max_ma:
            off.append(i)
            add_load(site.circuits, load, site.outlets[i], -told[i])
    return off


def headroom_ma(station: Station) -> list[Phases]:
    """What our connectors may draw together below each circuit, per phase; never negative.

    A measured circuit gives its limit minus the load that is not ours. While its meter is stale the
    configured fallback holds. A circuit without a meter passes on what is measured below it.
    """
    site, now = station.site, station.now_ms
    background = [[0, 0, 0] for _ in site.circuits]
    headroom: list[Phases] = [(0, 0, 0)] * len(site.circuits)
    for c in range(len(site.circuits) - 1, -1, -1):  # children before parents
        circuit, state = site.circuits[c], station.circuits[c]
        limit = circuit.limit_ma
        if circuit.meter is not None:
            if state.background_ma is not None and is_fresh(state.meter, now, METER_STALE_MS):
                background[c] = list(state.background_ma)
            elif circuit.fallback_ma is not None:
                # To those above, everything but the fallback is taken: what is not seen is not free.
                background[c] = [max(0, circuit.limit_ma[p] - circuit.fallback_ma[p]) for p in range(3)]
        free = [max(0, limit[p] - background[c][p]) for p in range(3)]
        headroom[c] = (free[0], free[1], free[2])
        if circuit.parent != NO_PARENT:
            for p in range(3):
                background[circuit.parent][p] += background[c][p]
    return headroom


def _wishes(station: Station, headroom: list[Phases], drawn: list[int]) -> tuple[list[int], list[str]]:
    """What each connector should be offered if cars followed at once, and why not more."""
    site = station.site
    tree = _tree(site)
    rows = [ma for circuit in headroom for ma in circuit]
    least = [outlet.min_ma for outlet in site.outlets]
    most = [0] * len(site.outlets)
    wanting: list[int] = []
    for i, (connector, outlet) in enumerate(zip(station.connectors, site.outlets, strict=True)):
        if connector.state in ENERGISED and _healthy(station, i) and _reachable(station, i):
            most[i] = _most_ma(connector, outlet)
            wanting.append(i)
        else:  # not ours to command, or on its way out: it counts with the worst it may draw
            circuit = outlet.circuit
            while circuit != NO_PARENT:
                for line in outlet.lines:
                    rows[3 * circuit + line] -= drawn[i]
                circuit = site.circuits[circuit].parent
    shares, bound = tree.share(rows, least, most, _turns(station, wanting))
    wanted = [0] * len(site.outlets)
    bounds = [""] * len(site.outlets)
    for i, connector in enumerate(station.connectors):
        if connector.state in ENERGISED and not _reachable(station, i):
            # It holds what it was told last, whatever we say now; the offer stands until it is heard again.
            wanted[i] = _permitted(station, i, connector.offer_ma, connector.offer_ma)
            bounds[i] = "the controller does not answer"
    for i in wanting:
        wanted[i] = _permitted(station, i, _rounded(shares[i], site.outlets[i]), shares[i])
        bounds[i] = _bound_text(station, i, bound[i])
    return wanted, bounds


def _turns(station: Station, wanting: list[int]) -> list[int]:
    """The order of admission: oldest session first, moved on by one place per slot."""

    def age(i: int) -> int:
        session = station.connectors[i].session
        return session.claim.seq if session else 0

    order = sorted(wanting, key=age)
    if not order:
        return order
    shift = (station.now_ms - station.started_ms) // SLOT_MS % len(order)
    return order[shift:] + order[:shift]


def _most_ma(connector: Connector, outlet: Outlet) -> int:
    """The most this car can use; one that does not ask keeps its minimum, so that it may ask at any time."""
    most = outlet.max_ma
    if connector.evse is not None:
        if connector.evse.cable_ma is not None:
            most = min(most, connector.evse.cable_ma)
        if connector.evse.pilot not in ASKING:
            most = min(most, outlet.min_ma)
    return most


def _permitted(station: Station, i: int, wanted_ma: int, room: int) -> int:
    connector = station.connectors[i]
    return permit(
        wanted_ma,
        outlet=station.site.outlets[i],
        cable_ma=connector.evse.cable_ma if connector.evse else None,
        room_ma=room,
        recorded=connector.state in ENERGISED,
        healthy=_healthy(station, i),
    )


def _healthy(station: Station, i: int) -> bool:
    connector = station.connectors[i]
    return not station.stopping and stopping(connector.faults) is None


def _reachable(station: Station, i: int) -> bool:
    return is_fresh(station.connectors[i].evse, station.now_ms, EVSE_STALE_MS)


def _not_yet(connector: Connector, allowed_ma: int, outlet: Outlet, now: int) -> str | None:
    """Why a raise has to wait, in words."""
    if not is_fresh(connector.meter, now, METER_STALE_MS):
        return "nothing is raised while the meter is silent"
    paused = connector.offer_ma == 0 and connector.lowered_ms > connector.since_ms
    if paused:
        return (
            f"paused until {PAUSE_MS // 1000} s have passed"
            if now - connector.lowered_ms < PAUSE_MS
            else None
        )
    if connector.offer_ma == 0:
        return None
    if connector.asking_since_ms is not None and connector.offered_ms < connector.asking_since_ms:
        return None  # it was offered the minimum until it asked; there is nothing to settle
    if now - connector.offered_ms < RAISE_EVERY_MS:
        return "rising slowly"
    small = allowed_ma - connector.offer_ma < RAISE_STEP_MA and allowed_ma < outlet.max_ma
    return "steps below 1 A are not passed on" if small else None


def _offered(
    connector: Connector, offer_ma: int, bound_by: str, drawn_ma: int, now: int
) -> tuple[Connector, bool]:
    """The connector after this offer, and whether a command has to leave."""
    first = connector.sent_ms == 0 and connector.evse is not None
    if offer_ma != connector.offer_ma or first:
        held = connector.offer_ma if connector.sent_ms else _unknown_ma(connector)
        lowered = offer_ma < held
        # What it may draw at this moment, it may go on drawing for a while; no more than that.
        hold = max(held, drawn_ma) if lowered else offer_ma
        after = replace(
            connector,
            offer_ma=offer_ma,
            bound_by=bound_by,
            offered_ms=now,
            sent_ms=now,
            hold_ma=hold,
            lowered_ms=now if lowered else connector.lowered_ms,
        )
        return after, True
    if offer_ma and now - connector.sent_ms >= RENEW_MS:
        return replace(connector, bound_by=bound_by, sent_ms=now), True
    if bound_by != connector.bound_by:
        return replace(connector, bound_by=bound_by), False
    return connector, False


def _unknown_ma(connector: Connector) -> int:
    """What a controller held before we ever spoke to it."""
    return connector.evse.offer_ma if connector.evse is not None else 0


def _rounded(share_ma: int, outlet: Outlet) -> int:
    if share_ma == 0:
        return 0
    return max(outlet.min_ma, share_ma // OFFER_STEP_MA * OFFER_STEP_MA)


def _bound_text(station: Station, i: int, bound: int) -> str:
    if bound == NOT_ADMITTED:
        return "waiting for its turn: the minimum does not fit"
    if bound == OWN_MAXIMUM:
        connector, outlet = station.connectors[i], station.site.outlets[i]
        if connector.evse is not None and connector.evse.pilot not in ASKING:
            return "the car does not ask"
        if _most_ma(connector, outlet) < outlet.max_ma:
            return "cable"
        return "own maximum"
    return f"circuit {station.site.circuits[bound // 3].id} L{bound % 3 + 1}"


@lru_cache(maxsize=8)
def _built(parents: tuple[int, ...], circuit_of: tuple[int, ...], lines: tuple[int, ...]) -> Tree:
    return Tree(parents, circuit_of, lines)


def _tree(site: Site) -> Tree:
    return _built(
        tuple(circuit.parent for circuit in site.circuits),
        tuple(outlet.circuit for outlet in site.outlets),
        tuple(sum(1 << line for line in outlet.lines) for outlet in site.outlets),
    )
