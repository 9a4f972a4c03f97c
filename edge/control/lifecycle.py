"""The life of a session and its claim: begun on disk before power, stopped, metered, closed on disk.

Rule of this file: `Record` leaves first and only `Recorded` moves a session on.
"""

from msgspec.structs import replace

from edge.commands import Record
from edge.control.faults import stopping
from edge.control.phases import switch
from edge.control.session import State, Trigger
from edge.control.site import Card
from edge.control.state import EVSE_STALE_MS, METER_STALE_MS, Session, Turning, Use, is_fresh, unix_ms
from edge.control.turn import Turn
from edge.control.usage import with_use
from edge.control.watch import judge_draw, register_trusted
from edge.events import Credential, Pilot
from edge.payments import claim as claims
from edge.payments.tariff import price_text
from edge.records import Claim, ClaimState, StopReason

CHECKPOINT_MS = 5 * 60_000
"""How much of a session may rest on the meter's own memory; shorter would wear the SD card."""

RETRY_RECORD_MS = 5_000
"""A closed claim that could not be recorded is tried again at this pace until it is."""

ADOPT_WITHIN_MS = 10_000
"""How long controller and meter of an adopted session may take to answer; then it is told to stop."""

FINAL_REGISTER_MS = 15 * 60_000
"""How long a stopped session waits for a silent meter. No new session can start meanwhile, so nothing is
mixed up; after it the claim closes at the last good register, on hold."""


def begin(turn: Turn, i: int, card: Card, credential: Credential) -> None:
    """Record before power: the claim goes to the disk, nothing else happens yet."""
    meter = turn.at(i).meter
    if meter is None:  # authorize asked for a fresh reading
        return
    seq = turn.station.next_seq
    claim = Claim(
        id=claims.claim_id(turn.station.site.station, turn.station.epoch, seq),
        seq=seq,
        state=ClaimState.OPEN,
        connector=turn.outlet(i).number,
        contract=card.contract,
        credential=credential.masked,
        tariff=turn.station.site.tariff,
        meter=meter.meter,
        start_wh=meter.energy_wh,
        last_wh=meter.energy_wh,
        opened_unix_ms=unix_ms(turn.station),
        clock=turn.station.clock,
    )
    turn.station = replace(turn.station, next_seq=seq + 1)
    session = Session(claim, credential.id, card.tier, checkpoint_ms=turn.now)
    turn.put(i, replace(turn.at(i), session=session, turn=Turning(), use=Use(), used=None))
    turn.trigger(i, Trigger.AUTHORISED)
    turn.announce("card_accepted", f"card {credential.masked} accepted: {price_text(claim.tariff)}", i)
    turn.commands.append(Record(claim))


def stop(turn: Turn, i: int, reason: StopReason) -> None:
    """Withdraw the offer; the claim closes once the contactor is open and the register is read."""
    connector = turn.at(i)
    if connector.session is None:
        return
    claim = replace(connector.session.claim, reason=reason)
    session = replace(connector.session, claim=claim, reason=reason, stopped_ms=turn.now, opened_ms=None)
    turn.put(i, replace(connector, session=session))
    turn.trigger(i, Trigger.STOP)
    turn.commands.append(Record(claim))  # after a restart nobody may go on where somebody has stopped
    turn.allocate()


def recorded(turn: Turn, claim_id: str, state: ClaimState) -> None:
    """A state of a claim is on disk: power may flow, or the session is over."""
    turn.clear_station_fault("journal_failed")
    left = tuple(orphan for orphan in turn.station.orphans if orphan.id != claim_id)
    turn.station = replace(turn.station, orphans=left)
    i = _with_claim(turn, claim_id)
    if i is None:
        return
    connector = turn.at(i)
    if state is ClaimState.OPEN and connector.state is State.STARTING:
        turn.trigger(i, Trigger.RECORDED)
        turn.announce("session_started", f"claim {claim_id} is on record", i)
        if connector.evse is not None and connector.evse.pilot is Pilot.A:
            stop(turn, i, StopReason.UNPLUGGED)
        else:
            turn.allocate()
    elif state in (ClaimState.CLOSED, ClaimState.VOIDED) and connector.state is State.CLOSING:
        session = connector.session
        card, contract = (session.card, session.claim.contract) if session else ("", "")
        turn.put(i, replace(connector, session=None, last_card=card, last_contract=contract))
        turn.trigger(i, Trigger.RECORDED)
        if connector.evse is not None and connector.evse.pilot is Pilot.A:
            turn.trigger(i, Trigger.SEEN_EMPTY)
        _announce_closed(turn, i, connector.session)


def _announce_closed(turn: Turn, i: int, session: Session | None) -> None:
    if session is None:
        return
    claim = session.claim
    if claim.cost is None:
        turn.announce("session_voided", f"claim {claim.id}: no energy, nothing to pay", i)
        return
    wh = claim.energy_wh or 0
    text = f"claim {claim.id}: {wh // 1000}.{wh % 1000:03d} kWh, {claim.cost.incl_tax} {claim.cost.currency}"
    turn.announce("session_closed", text + (", held for the operator" if claim.hold else ""), i)


def record_failed(turn: Turn, claim_id: str, state: ClaimState, reason: str) -> None:
    """A state of a claim is not on disk: refuse the start, or try the end again."""
    turn.raise_station_fault("journal_failed", reason)
    i = _with_claim(turn, claim_id)
    if i is None:
        return
    connector = turn.at(i)
    session = connector.session
    if state is ClaimState.OPEN and connector.state is State.STARTING and session is not None:
        # It may have landed late all the same: void it there, or it would be found open at the next start.
        voided = claims.close(session.claim, session.claim.start_wh, StopReason.FAULT, unix_ms(turn.station))
        retry_ms = turn.now + RETRY_RECORD_MS
        turn.put(i, replace(connector, session=replace(session, claim=voided, retry_ms=retry_ms)))
        turn.trigger(i, Trigger.RECORD_FAILED)
        turn.announce("card_refused", f"the session could not be recorded and was not started: {reason}", i)
    elif connector.state is State.CLOSING and session is not None:
        retry = replace(session, retry_ms=turn.now + RETRY_RECORD_MS)
        turn.put(i, replace(connector, session=retry))


def _with_claim(turn: Turn, claim_id: str) -> int | None:
    for i, connector in enumerate(turn.station.connectors):
        if connector.session is not None and connector.session.claim.id == claim_id:
            return i
    return None


def _adopt(turn: Turn, i: int) -> None:
    """An open claim was found at the start: look first, then go on or bill what flowed."""
    connector = turn.at(i)
    session, look, meter = connector.session, connector.evse, connector.meter
    if session is None:
        return
    seen = is_fresh(look, turn.now, EVSE_STALE_MS) and is_fresh(meter, turn.now, METER_STALE_MS)
    if look is None or meter is None or not seen:
        if turn.now - turn.station.started_ms > ADOPT_WITHIN_MS:
            turn.announce("session_recovered", f"claim {session.claim.id} ends: its devices do not answer", i)
            stop(turn, i, session.claim.reason or StopReason.POWER_LOSS)
        return
    same_car = look.pilot in (Pilot.B, Pilot.C, Pilot.D) and session.resumable
    if same_car and register_trusted(turn, i):
        turn.put(i, replace(connector, session=replace(session, checkpoint_ms=turn.now)))
        turn.trigger(i, Trigger.RESUMED)
        turn.announce("session_resumed", f"claim {session.claim.id} goes on after a restart", i)
    else:
        gone = look.pilot is Pilot.A and session.resumable
        turn.announce("session_recovered", f"claim {session.claim.id} ends: the daemon was away", i)
        fallback = StopReason.UNPLUGGED if gone else StopReason.POWER_LOSS
        stop(turn, i, session.claim.reason or fallback)


def finish(turn: Turn, i: int) -> None:
    """Close the claim as soon as its final register is known, or will not be known any more."""
    connector = turn.at(i)
    session, meter = connector.session, connector.meter
    if session is None or session.reason is None:
        return
    waited_ms = turn.now - session.stopped_ms
    welded = any(fault.kind.name == "contactor_welded" for fault in connector.faults)
    claim = session.claim
    if session.opened_ms is None and not welded and waited_ms < FINAL_REGISTER_MS:
        return
    if welded:
        claim = claims.flag(claim, "the contactor did not open")
    elif session.opened_ms is None:
        claim = claims.flag(claim, "the contactor was not seen open")
    after_open = meter is not None and meter.asked_ms >= (session.opened_ms or session.stopped_ms)
    if not register_trusted(turn, i):
        end_wh = claim.last_wh
    elif after_open and meter is not None:
        end_wh = meter.energy_wh
    elif waited_ms >= FINAL_REGISTER_MS:
        claim = claims.flag(claim, "the meter did not answer at the end; billed to its last reading")
        end_wh = claim.last_wh
    else:
        return
    closed = claims.close(claim, end_wh, session.reason, unix_ms(turn.station))
    turn.put(i, replace(connector, session=replace(session, claim=closed)))
    turn.trigger(i, Trigger.METERED)
    turn.commands.append(Record(closed))


def pass_time(turn: Turn, i: int) -> None:
    """What is due at this connector because time passed."""
    judge_draw(turn, i)
    turn.put(i, with_use(turn.at(i), turn.outlet(i), turn.station.site.sharing, turn.now))
    if turn.at(i).phases_wanted is not None:
        switch(turn, i)
    connector = turn.at(i)
    session = connector.session
    if session is None:
        return
    fault = stopping(connector.faults)
    if connector.state is State.CHARGING and fault is not None:
        turn.announce("session_stopped", fault.kind.driver, i)
        stop(turn, i, StopReason.FAULT)
    elif connector.state is State.CHARGING and turn.now - session.checkpoint_ms >= CHECKPOINT_MS:
        turn.put(i, replace(connector, session=replace(session, checkpoint_ms=turn.now)))
        turn.commands.append(Record(session.claim))
    elif connector.state is State.ADOPTING:
        _adopt(turn, i)
    elif connector.state is State.STOPPING:
        finish(turn, i)
    elif connector.state is State.CLOSING and session.retry_ms is not None and turn.now >= session.retry_ms:
        turn.put(i, replace(connector, session=replace(session, retry_ms=None)))
        turn.commands.append(Record(session.claim))
