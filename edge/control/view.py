"""The station as people and programs outside see it: what `edge status`, the uplink and the page show."""

from typing import Literal

from msgspec import Struct

from edge.control.faults import Fault, FaultClass, stopping
from edge.control.session import State
from edge.control.signals import Holding, holding
from edge.control.state import ASKING, EVSE_STALE_MS, METER_STALE_MS, Connector, Station, is_fresh
from edge.payments.tariff import price, price_text

Availability = Literal[
    "unknown",
    "available",
    "preparing",
    "charging",
    "suspended_ev",
    "suspended_evse",
    "finishing",
    "unavailable",
    "faulted",
]
"""OCPP 1.6 ChargePointStatus, in lower case, and `unknown`, which is never shown as available."""


class FaultView(Struct, frozen=True):
    """A fault that stands, with a sentence for each kind of reader."""

    name: str
    since_ms: int
    detail: str
    latched: bool  # stands until a person clears it
    driver: str
    technician: str
    mrec: str | None


class ConnectorView(Struct, frozen=True):
    """One connector, worked out for showing. Ages are in ms at the time of the view; None = never seen."""

    number: int
    state: Availability
    session_state: str
    since_ms: int
    pilot: str | None
    offered_ma: int
    why: str  # what keeps the offer from being higher
    why_kind: str  # the same as a stable word, see control.state.Reason
    why_since_ms: int
    why_until_ms: int | None  # when its turn comes or the limit ends, if that is known
    demand: str | None  # what the driver was answered to his wish
    weight_percent: int | None  # what his subscription counts
    used_phases: int | None  # on how many phases the car charges, once it has shown that
    current_ma: tuple[int, int, int] | None
    power_w: int | None
    register_wh: int | None
    meter_age_ms: int | None
    meter_stale: bool
    evse_age_ms: int | None
    claim: str | None
    contract: str | None
    credential: str | None
    energy_wh: int | None
    cost: str | None
    faults: tuple[FaultView, ...]


class CircuitView(Struct, frozen=True):
    """One circuit: its limit, what its own meter shows, and what remains for us."""

    id: str
    limit_ma: tuple[int, int, int]
    measured_ma: tuple[int, int, int] | None
    meter_age_ms: int | None
    faults: tuple[FaultView, ...]


class LimitView(Struct, frozen=True):
    """A limit that holds because somebody signalled it, or because its source is silent."""

    text: str
    current_ma: tuple[int, int, int] | None
    power_mw: int | None
    until_ms: int | None


class StationView(Struct, frozen=True):
    """The whole answer to `status`."""

    station: str
    uptime_ms: int
    online: bool
    clock: str
    price: str
    connectors: tuple[ConnectorView, ...]
    circuits: tuple[CircuitView, ...]
    limits: tuple[LimitView, ...]
    faults: tuple[FaultView, ...]


def view(station: Station) -> StationView:
    """The station as it stands."""
    now = station.now_ms
    circuits = tuple(
        CircuitView(
            id=circuit.id,
            limit_ma=circuit.limit_ma,
            measured_ma=state.meter.current_ma if state.meter else None,
            meter_age_ms=now - state.meter.asked_ms if state.meter else None,
            faults=_faults(state.faults),
        )
        for circuit, state in zip(station.site.circuits, station.circuits, strict=True)
    )
    return StationView(
        station=station.site.station,
        uptime_ms=now - station.started_ms,
        online=station.online,
        clock=station.clock,
        price=price_text(station.site.tariff),
        connectors=tuple(connector_view(station, i) for i in range(len(station.connectors))),
        circuits=circuits,
        limits=tuple(_limit(station, limit) for limit in holding(station)),
        faults=_faults(station.faults),
    )


def _limit(station: Station, limit: Holding) -> LimitView:
    text = limit.text(station.site)
    if limit.connector is not None:
        text = text.replace("this connector", f"connector {station.site.outlets[limit.connector].number}")
    return LimitView(text, limit.cap.current_ma, limit.cap.power_mw, limit.until_ms)


def connector_view(station: Station, i: int) -> ConnectorView:
    """One connector as it stands."""
    connector, outlet, now = station.connectors[i], station.site.outlets[i], station.now_ms
    meter, look, session = connector.meter, connector.evse, connector.session
    claim = session.claim if session else None
    energy_wh = claim.last_wh - claim.start_wh if claim else None
    cost = price(claim.tariff, energy_wh) if claim and energy_wh is not None else None
    return ConnectorView(
        number=outlet.number,
        state=availability(connector, now),
        session_state=connector.state,
        since_ms=connector.since_ms,
        pilot=look.pilot if look else None,
        offered_ma=connector.offer_ma,
        why=connector.why.text,
        why_kind=connector.why.kind,
        why_since_ms=connector.why.since_ms,
        why_until_ms=connector.why.until_ms,
        demand=session.demand.answer if session and session.demand else None,
        weight_percent=session.tier.weight_percent if session else None,
        used_phases=len(connector.used) if connector.used is not None else None,
        current_ma=meter.current_ma if meter else None,
        power_w=meter.power_mw // 1000 if meter else None,
        register_wh=meter.energy_wh if meter else None,
        meter_age_ms=now - meter.asked_ms if meter else None,
        meter_stale=not is_fresh(meter, now, METER_STALE_MS),
        evse_age_ms=now - look.asked_ms if look else None,
        claim=claim.id if claim else None,
        contract=claim.contract if claim else None,
        credential=claim.credential if claim else None,
        energy_wh=energy_wh,
        cost=f"{cost.incl_tax} {cost.currency}" if cost else None,
        faults=_faults(connector.faults),
    )


def availability(  # noqa: PLR0911 - one word per case
    connector: Connector, now_ms: int
) -> Availability:
    """The one word for the connector. What is not known is said to be unknown, never free."""
    if stopping(connector.faults) is not None:
        return "faulted"
    if not is_fresh(connector.evse, now_ms, EVSE_STALE_MS):
        return "unknown"
    match connector.state:
        case State.UNKNOWN:
            return "unknown"
        case State.FREE:
            return "available" if is_fresh(connector.meter, now_ms, METER_STALE_MS) else "unavailable"
        case State.PLUGGED | State.STARTING | State.ADOPTING:
            return "preparing"
        case State.CHARGING:
            if connector.offer_ma == 0:
                return "suspended_evse"
            asking = connector.evse is not None and connector.evse.pilot in ASKING
            return "charging" if asking else "suspended_ev"
        case State.STOPPING | State.CLOSING | State.FINISHED:
            return "finishing"


def _faults(faults: tuple[Fault, ...]) -> tuple[FaultView, ...]:
    return tuple(
        FaultView(
            name=fault.kind.name,
            since_ms=fault.since_ms,
            detail=fault.detail,
            latched=fault.kind.ends is FaultClass.LATCHED,
            driver=fault.kind.driver,
            technician=fault.kind.technician,
            mrec=fault.kind.mrec,
        )
        for fault in faults
    )
