"""Believing devices: how old is it, can it be true, does it fit what was told.

What is found wrong becomes a fault of the connector or circuit concerned; nothing else happens here.
"""

from msgspec.structs import replace

from edge.control.faults import CATALOGUE, raised
from edge.control.session import State
from edge.control.site import Outlet
from edge.control.state import ASKING, EVSE_STALE_MS, METER_STALE_MS, is_fresh
from edge.control.turn import Turn
from edge.control.usage import excess_ma
from edge.events import EvseRead, Pilot
from edge.payments import claim as claims

WELD_AFTER_MS = 10_000
"""IEC 61851-1 Table A.6: the contactor is forced open 6 s after the offer is gone; plus reading time. Counted
from when the controller was seen to hold none: what it was told may have reached it late."""

OVERDRAW_MS = 10_000
"""How long a car may exceed its offer: twice what it is given to follow a new one."""

UNBILLED_MA = 1_000
"""Current that no idle meter shows by itself."""

READBACK_GRACE_MS = 1_000
READBACK_TRIES = 3
"""A limit read back higher than told, this often and this long after telling, is not a late write."""

MAX_VOLTAGE_V = 253
"""EN 50160: 230 V + 10 %. Bounds how fast an energy register may rise."""

REGISTER_SLACK_WH = 50
"""Resolution of a float32 register at 100 MWh (8 Wh), rounded generously."""

_EVSE_TROUBLES = tuple(name for name in CATALOGUE if name.startswith("evse_") and name != "evse_readback")


def judge_ages(turn: Turn) -> None:
    """Raise what has been silent for too long."""
    since_start = turn.now - turn.station.started_ms
    for i in range(len(turn.station.connectors)):
        connector = turn.at(i)
        if since_start > METER_STALE_MS and not is_fresh(connector.meter, turn.now, METER_STALE_MS):
            turn.raise_fault(i, "meter_silent", f"no reading for over {METER_STALE_MS // 1000} s")
        if since_start > EVSE_STALE_MS and not is_fresh(connector.evse, turn.now, EVSE_STALE_MS):
            turn.raise_fault(i, "evse_silent", f"no answer for over {EVSE_STALE_MS // 1000} s")
    for c, circuit in enumerate(turn.station.site.circuits):
        state = turn.station.circuits[c]
        if (
            circuit.meter is not None
            and since_start > METER_STALE_MS
            and not is_fresh(state.meter, turn.now, METER_STALE_MS)
        ):
            detail = f"circuit {circuit.id}: no reading for over {METER_STALE_MS // 1000} s"
            turn.put_circuit(c, replace(state, faults=raised(
                state.faults, "circuit_meter_silent", turn.now, detail)))  # fmt: skip


def judge_draw(turn: Turn, i: int) -> None:
    """Compare what the car was told with what the meter shows."""
    connector = turn.at(i)
    known = connector.overdraw_since_ms is not None or is_fresh(connector.meter, turn.now, METER_STALE_MS)
    if connector.meter is None or not known:
        return
    drawn_ma = max(connector.meter.current_ma)
    if connector.offer_ma == 0:
        live_ms = turn.now - connector.live_since_ms if connector.live_since_ms is not None else 0
        told = live_ms > OVERDRAW_MS and is_fresh(connector.evse, turn.now, EVSE_STALE_MS)
        if told and drawn_ma > UNBILLED_MA and connector.state is not State.STOPPING:
            turn.raise_fault(i, "unbilled_current", f"{drawn_ma} mA flow although nothing is offered")
    elif excess_ma(connector, turn.now):
        since = connector.overdraw_since_ms if connector.overdraw_since_ms is not None else turn.now
        if since != connector.overdraw_since_ms:
            turn.put(i, replace(connector, overdraw_since_ms=since))
        if turn.now - since >= OVERDRAW_MS:
            turn.raise_fault(i, "overdraw", f"car draws {drawn_ma} mA of {connector.offer_ma} mA offered")
    elif connector.overdraw_since_ms is not None:
        turn.put(i, replace(connector, overdraw_since_ms=None))


def possible_wh(outlet: Outlet, passed_ms: int) -> int:
    """What may flow through a connector in that time at most."""
    watts = outlet.max_ma * len(outlet.lines) * MAX_VOLTAGE_V // 1000
    # 1.1: a meter may differ by its accuracy class, and a car by its overshoot.
    return watts * max(0, passed_ms) * 11 // (3_600_000 * 10) + REGISTER_SLACK_WH


def judge_register(turn: Turn, i: int, last_wh: int, now_wh: int, passed_ms: int) -> None:
    """A register is believed or it is not; a bill never rests on one that is not."""
    if now_wh < last_wh:
        name, detail = "meter_backwards", f"register went from {last_wh} Wh back to {now_wh} Wh"
    elif now_wh - last_wh > possible_wh(turn.outlet(i), passed_ms) and passed_ms > 0:
        name, detail = "meter_jump", f"register rose {now_wh - last_wh} Wh in {passed_ms} ms"
    else:
        return
    if any(fault.kind.name == name for fault in turn.at(i).faults):
        return
    turn.raise_fault(i, name, detail)
    session = turn.at(i).session
    if session is not None and turn.at(i).state is not State.CLOSING:
        flagged = replace(session, claim=claims.flag(session.claim, detail))
        turn.put(i, replace(turn.at(i), session=flagged))


def register_trusted(turn: Turn, i: int) -> bool:
    """Whether this connector's energy register may be billed from."""
    return not any(f.kind.name in ("meter_backwards", "meter_jump") for f in turn.at(i).faults)


def judge_look(turn: Turn, i: int, event: EvseRead) -> None:
    """Turn what the controller reports about itself into faults."""
    turn.clear_fault(i, "evse_silent")
    troubles = set(event.troubles)
    if event.pilot in (Pilot.E, Pilot.F):
        troubles.add("evse_failure")
    if event.pilot is Pilot.D and not turn.outlet(i).ventilated:
        troubles.add("evse_ventilation")
    for name in _EVSE_TROUBLES:
        if name in troubles:
            turn.raise_fault(i, name, f"reported by the controller in pilot state {event.pilot}")
        elif name != "evse_silent":
            turn.clear_fault(i, name)
    if turn.at(i).mismatches >= READBACK_TRIES:
        turn.raise_fault(i, "evse_readback",
            f"holds {event.offer_ma} mA, was told {turn.at(i).offer_ma} mA")  # fmt: skip
    connector = turn.at(i)
    live_ms = event.asked_ms - connector.live_since_ms if connector.live_since_ms is not None else 0
    if event.contactor_closed and live_ms > WELD_AFTER_MS:
        turn.raise_fault(i, "contactor_welded", "contactor reported closed with nothing offered")


def store_look(turn: Turn, i: int, event: EvseRead) -> None:
    """Keep the look; count read-backs above the offer and note when the contactor opened."""
    asking = event.pilot in ASKING
    connector = turn.at(i)
    silent = any(fault.kind.name == "evse_silent" for fault in connector.faults)
    if silent or (connector.evse is not None and connector.evse.phases != event.phases):
        connector = replace(connector, used=None)  # perhaps another car, or other phases
    connector = replace(connector, evse=event, asked_ms=event.asked_ms if asking else connector.asked_ms)
    if asking != (connector.asking_since_ms is not None):
        connector = replace(connector, asking_since_ms=turn.now if asking else None)
    told_long_ago = connector.sent_ms and event.asked_ms - connector.offered_ms > READBACK_GRACE_MS
    wrong = told_long_ago and event.offer_ma > connector.offer_ma
    mismatches = connector.mismatches + 1 if wrong else 0
    if mismatches != connector.mismatches:
        connector = replace(connector, mismatches=mismatches)
    idle = connector.sent_ms > 0 and connector.offer_ma == 0 and event.offer_ma == 0
    flows = connector.meter is not None and max(connector.meter.current_ma) > UNBILLED_MA
    live = idle and (event.contactor_closed or flows)
    if live != (connector.live_since_ms is not None):
        connector = replace(connector, live_since_ms=event.asked_ms if live else None)
    session = connector.session
    if (
        session is not None
        and connector.state is State.STOPPING
        and session.opened_ms is None
        and not event.contactor_closed
        and event.asked_ms > session.stopped_ms
    ):
        connector = replace(connector, session=replace(session, opened_ms=event.asked_ms))
    turn.put(i, connector)
