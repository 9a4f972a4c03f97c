"""`step(station, event) -> (station, commands)`: the whole brain.

Rules of this file: an event is handled to its end before the next; a record leaves before the power it
pays for (`Record` ... `Recorded` ... `SetOffer`); whatever is true only for a while is judged on `Tick`.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from edge.commands import Command, Record
from edge.control import authorize
from edge.control.allocation import prospect_ma
from edge.control.background import circuit_read, matched
from edge.control.demand import answered
from edge.control.faults import cleared, raised
from edge.control.headroom import headroom
from edge.control.lifecycle import (
    CHECKPOINT_MS,
    RETRY_RECORD_MS,
    begin,
    finish,
    pass_time,
    record_failed,
    recorded,
    stop,
)
from edge.control.phases import request
from edge.control.session import OCCUPIED, State, Trigger
from edge.control.signals import Holding, expired, follow_sun, hear, holding
from edge.control.site import SignalKind, Site, Tier
from edge.control.state import (
    CircuitState,
    Connector,
    Demand,
    Session,
    Station,
    WaitingCard,
    unix_ms,
)
from edge.control.turn import Turn
from edge.control.watch import (
    judge_ages,
    judge_look,
    judge_register,
    possible_wh,
    register_trusted,
    store_look,
)
from edge.events import (
    CardSeen,
    CardUnreadable,
    ClaimAnswered,
    Credential,
    DemandStated,
    DeviceFound,
    DeviceLost,
    Event,
    EvseRead,
    FaultClearRequested,
    LimitSignalled,
    MeterRead,
    PhasesRequested,
    Pilot,
    Recorded,
    RecordFailed,
    StopRequested,
    Tick,
    UplinkChanged,
)
from edge.payments import claim as claims
from edge.records import Claim, ClockQuality, StopReason

CARD_WAIT_MS = 60_000
"""How long a card shown before the plug stays good; long enough to fetch a cable from the boot."""

CARD_QUIET_MS = 2_000
"""A card that lies on the reader when the daemon starts was not shown to it, and must stop no session."""

UNKNOWN_AGE_MS = 24 * 3_600_000
"""What an adopted claim is taken to have lasted where the clock cannot tell: longer than cars charge, and
short enough to notice that the meter was exchanged while the station was without power."""

RESUME_WITHIN_MS = 60_000
"""After a longer absence of the daemon nobody knows whether it is still the same car."""

JOURNAL_FAULT_MS = 30_000
"""A start refused for the journal's sake forbids others this long; then one may try."""


def start(
    site: Site, epoch: str, next_seq: int, open_claims: Iterable[Claim], now_ms: int, absent_ms: int | None
) -> tuple[Station, tuple[Command, ...]]:
    """The station at the start of the daemon, adopting the claims the journal holds open.

    `absent_ms` is how long no daemon ran, if it ran since the same boot; None after a power cut.
    """
    resumable = absent_ms is not None and absent_ms <= RESUME_WITHIN_MS
    connectors = [Connector(since_ms=now_ms) for _ in site.outlets]
    numbers = {outlet.number: i for i, outlet in enumerate(site.outlets)}
    orphans: list[Claim] = []
    for claim in sorted(open_claims, key=lambda each: -each.seq):
        i = numbers.get(claim.connector)
        if i is None or connectors[i].session is not None or site.outlets[i].meter != claim.meter:
            orphan = claims.flag(claim, "the connector or its meter left the configuration")
            unix = orphan.opened_unix_ms
            orphans.append(claims.close(orphan, orphan.last_wh, StopReason.POWER_LOSS, unix))
            continue
        tier = next((card.tier for card in site.cards.values() if card.contract == claim.contract), Tier())
        session = Session(claim=claim, card="", tier=tier, resumable=resumable and claim.reason is None)
        connectors[i] = replace(connectors[i], state=State.ADOPTING, session=session)
    station = Station(
        site=site,
        epoch=epoch,
        next_seq=next_seq,
        connectors=tuple(connectors),
        circuits=tuple(CircuitState() for _ in site.circuits),
        started_ms=now_ms,
        now_ms=now_ms,
        orphans=tuple(orphans),
        orphans_sent_ms=now_ms,
    )
    return station, tuple(Record(orphan) for orphan in orphans)


def step(  # noqa: C901, PLR0912 - one arm per event, nothing else
    station: Station, event: Event
) -> tuple[Station, tuple[Command, ...]]:
    """Take one event. The only function by which a station changes."""
    # A thread may hand over an event a little after younger ones; the core's time never goes back.
    turn = Turn(replace(station, now_ms=max(station.now_ms, event.at_ms)))
    match event:
        case Tick():
            _tick(turn, event)
        case MeterRead():
            _meter_read(turn, event)
        case EvseRead():
            _evse_read(turn, event)
        case CardSeen(reader=reader, credential=credential):
            _card_seen(turn, reader, credential)
        case CardUnreadable(reason=reason):
            turn.announce("card_unreadable", f"card could not be read: {reason}")
        case Recorded(claim_id=claim_id, state=state):
            recorded(turn, claim_id, state)
        case RecordFailed(claim_id=claim_id, state=state, reason=reason):
            record_failed(turn, claim_id, state, reason)
        case ClaimAnswered(claim_id=claim_id, state=state):
            turn.announce(f"claim_{state}", f"claim {claim_id}: the backend answered {state}")
        case UplinkChanged(online=online):
            turn.station = replace(turn.station, online=online)
            turn.announce(
                "uplink", "the operator can be reached" if online else "the operator cannot be reached"
            )
        case DeviceFound(device=device):
            _device_found(turn, device)
        case DeviceLost(device=device, reason=reason):
            _device_lost(turn, device, reason)
        case FaultClearRequested(connector=number):
            _clear_latched(turn, number)
        case DemandStated():
            _demand_stated(turn, event)
        case LimitSignalled():
            _limit_signalled(turn, event)
        case PhasesRequested():
            request(turn, event)
        case StopRequested():
            _shut_down(turn)
        case _:
            assert_never(event)
    turn.announce_faults(station)
    return turn.station, tuple(turn.commands)


def _tick(turn: Turn, event: Tick) -> None:
    turn.station = replace(
        turn.station, wall_unix_ms=event.wall_unix_ms, wall_at_ms=event.at_ms, clock=event.clock
    )
    waiting = turn.station.waiting
    if waiting is not None and turn.now >= waiting.until_ms:
        turn.station = replace(turn.station, waiting=None)
        turn.announce("card_timeout", "no car was plugged in within a minute; please show the card again")
    for fault in turn.station.faults:
        if fault.kind.name == "journal_failed" and turn.now - fault.since_ms >= JOURNAL_FAULT_MS:
            turn.clear_station_fault("journal_failed")
    if turn.station.orphans and turn.now - turn.station.orphans_sent_ms >= RETRY_RECORD_MS:
        turn.station = replace(turn.station, orphans_sent_ms=turn.now)
        turn.commands += [Record(orphan) for orphan in turn.station.orphans]
    if turn.station.heard:
        before = _limits(turn.station)
        turn.station = expired(turn.station)
        _announce_limits(turn, before)
    turn.station = follow_sun(turn.station)
    judge_ages(turn)
    for i in range(len(turn.station.connectors)):
        pass_time(turn, i)
    turn.allocate()


def _device_found(turn: Turn, device: str) -> None:
    kind, _, name = device.partition("/")
    if kind == "reader":
        turn.clear_station_fault("reader_lost", name)
        turn.announce("reader_found", f"card reader {name} is ready")


def _device_lost(turn: Turn, device: str, reason: str) -> None:
    """A hand knows sooner than the age of its readings tells."""
    kind, _, name = device.partition("/")
    if kind == "reader":
        turn.raise_station_fault("reader_lost", f"{name}: {reason}", name)
    for i, outlet in enumerate(turn.station.site.outlets):
        if kind == "meter" and outlet.meter == name:
            turn.raise_fault(i, "meter_silent", reason)
        if kind == "evse" and str(outlet.number) == name:
            turn.raise_fault(i, "evse_silent", reason)
    for c, circuit in enumerate(turn.station.site.circuits):
        if kind == "meter" and circuit.meter == name:
            state = turn.station.circuits[c]
            turn.put_circuit(c, replace(state, faults=raised(
                state.faults, "circuit_meter_silent", turn.now, reason)))  # fmt: skip


def _meter_read(turn: Turn, event: MeterRead) -> None:
    for c, circuit in enumerate(turn.station.site.circuits):
        if circuit.meter == event.meter:
            state = circuit_read(turn.station, c, event)
            faults = cleared(state.faults, "circuit_meter_silent")
            turn.put_circuit(c, replace(state, faults=faults))
    for i, outlet in enumerate(turn.station.site.outlets):
        if outlet.meter == event.meter:
            _connector_metered(turn, i, event)
            for c, state in enumerate(turn.station.circuits):
                turn.put_circuit(c, matched(turn.station, c, state))


def _connector_metered(turn: Turn, i: int, event: MeterRead) -> None:
    before = turn.at(i)
    turn.put(i, replace(before, meter=event, earlier=before.meter))
    turn.clear_fault(i, "meter_silent")
    session = before.session
    if before.meter is not None:
        last_wh, last_ms = before.meter.energy_wh, before.meter.asked_ms
        judge_register(turn, i, last_wh, event.energy_wh, event.asked_ms - last_ms)
    elif session is not None:
        judge_register(turn, i, session.claim.last_wh, event.energy_wh, _age_ms(turn, session.claim))
        _judge_gap(turn, i, event.energy_wh)
    session = turn.at(i).session
    if session is not None and turn.at(i).state in OCCUPIED and register_trusted(turn, i):
        claim = claims.checkpoint(session.claim, event.energy_wh)
        if claim.last_wh != session.claim.last_wh and turn.at(i).state is not State.CLOSING:
            turn.put(i, replace(turn.at(i), session=replace(session, claim=claim)))
    if turn.at(i).state is State.STOPPING:
        finish(turn, i)


def _judge_gap(turn: Turn, i: int, now_wh: int) -> None:
    """Hold an adopted claim into which energy of others may have come since it was recorded last.

    While a session runs it is recorded every `CHECKPOINT_MS`. If more flowed since, this journal is not the
    last one (an image was put back, and others have charged meanwhile), or power flowed without a daemon.
    """
    session = turn.at(i).session
    if session is None:
        return
    rose_wh = now_wh - session.claim.last_wh
    if rose_wh > possible_wh(turn.outlet(i), CHECKPOINT_MS + RESUME_WITHIN_MS):
        text = f"register rose {rose_wh} Wh since the last record: others may have charged meanwhile"
        turn.put(i, replace(turn.at(i), session=replace(session, claim=claims.flag(session.claim, text))))


def session_reason(turn: Turn, i: int) -> StopReason:
    """Why a session ends whose car is gone: what was recorded before, if anything."""
    session = turn.at(i).session
    return (session.claim.reason if session else None) or StopReason.UNPLUGGED


def _age_ms(turn: Turn, claim: Claim) -> int:
    """How long an adopted claim may have drawn energy at most: since it was opened, if the clock can tell."""
    age_ms = unix_ms(turn.station) - claim.opened_unix_ms
    known = ClockQuality.SYNCED is claim.clock is turn.station.clock and age_ms > 0
    return age_ms if known else UNKNOWN_AGE_MS


def _evse_read(turn: Turn, event: EvseRead) -> None:
    i = turn.station.site.index(event.connector)
    if i is None:
        return
    first = turn.at(i).sent_ms == 0
    before = turn.at(i).evse
    unseen_ms = event.asked_ms - before.asked_ms if before is not None else 0
    if turn.at(i).state is State.CHARGING and unseen_ms > RESUME_WITHIN_MS:
        turn.announce("session_stopped", "the controller was not heard for too long; is it the same car?", i)
        stop(turn, i, StopReason.FAULT)
    store_look(turn, i, event)
    judge_look(turn, i, event)
    if event.pilot is Pilot.A:
        if turn.at(i).state in (State.CHARGING, State.ADOPTING):
            stop(turn, i, session_reason(turn, i))
        was = turn.at(i).state
        turn.trigger(i, Trigger.SEEN_EMPTY)
        if turn.at(i).used is not None or turn.at(i).phases_wanted is not None:
            turn.put(i, replace(turn.at(i), used=None, phases_wanted=None))  # the next car is another one
        if was in (State.PLUGGED, State.FINISHED):
            turn.announce("unplugged", "the car is gone; the connector is free", i)
    elif event.pilot in (Pilot.B, Pilot.C, Pilot.D):
        was = turn.at(i).state
        turn.trigger(i, Trigger.SEEN_CAR)
        if was is not State.PLUGGED and turn.at(i).state is State.PLUGGED:
            turn.announce("plugged", "a car is plugged in", i)
            _use_waiting_card(turn, i)
    if turn.at(i).state is State.STOPPING:
        finish(turn, i)
    if first and turn.at(i).state is not State.ADOPTING:
        turn.allocate()  # tell a controller we never spoke to what holds, not at the next tick


def _card_seen(turn: Turn, reader: str, credential: Credential) -> None:
    if turn.now - turn.station.started_ms < CARD_QUIET_MS:
        turn.announce(
            "card_ignored", f"card {credential.masked}: the station just started, please show it again"
        )
        return
    decision = authorize.decide(turn.station, reader, credential)
    match decision:
        case authorize.Start(index=i, card=card):
            turn.station = replace(turn.station, waiting=None)
            begin(turn, i, card, credential)
        case authorize.Stop(index=i):
            turn.announce("card_accepted", f"card {credential.masked} ends the session", i)
            stop(turn, i, StopReason.CARD)
            turn.allocate()
        case authorize.Wait(card=card):
            until = turn.now + CARD_WAIT_MS
            turn.station = replace(turn.station, waiting=WaitingCard(reader, credential, card, until))
            turn.announce("card_accepted", f"card {credential.masked}: please plug in within a minute")
        case authorize.Refuse(text=text):
            turn.announce("card_refused", f"card {credential.masked}: {text}")
        case _:
            assert_never(decision)


def _use_waiting_card(turn: Turn, i: int) -> None:
    waiting = turn.station.waiting
    if waiting is None:
        return
    served = next((r.connectors for r in turn.station.site.readers if r.id == waiting.reader), ())
    if turn.outlet(i).number not in served:
        return
    turn.station = replace(turn.station, waiting=None)
    problem = authorize.why_no_start(turn.station, i)
    if problem is None:
        begin(turn, i, waiting.card, waiting.credential)
    else:
        turn.announce("card_refused", f"card {waiting.credential.masked}: {problem}", i)


def _demand_stated(turn: Turn, event: DemandStated) -> None:
    """Take a wish and answer it as things stand; it changes weights, never a limit."""
    i = turn.station.site.index(event.connector)
    session = turn.at(i).session if i is not None else None
    if i is None or session is None or turn.at(i).state not in (State.STARTING, State.CHARGING):
        turn.announce("demand_refused", f"there is no session at connector {event.connector} to ask for", i)
        return
    if event.energy_wh < 0 or event.departs_in_ms <= 0 or event.min_ma < 0:
        turn.announce("demand_refused", "a wish below zero, or for a time that is over", i)
        return
    if event.min_ma > (most_ma := _most_ma(turn.station.site, i)):
        amps = f"{most_ma // 1000}.{most_ma % 1000 // 100} A"
        turn.announce(
            "demand_refused", f"this connector never has more than {amps}; ask for less as a minimum", i
        )
        return
    departs_ms = turn.now + event.departs_in_ms
    wish = Demand(event.energy_wh, departs_ms, event.min_ma, session.claim.last_wh)
    space = headroom(turn.station)
    turn.put(i, replace(turn.at(i), session=replace(session, demand=wish)))
    answer = answered(turn.station, space.rows, space.room, i, wish, prospect_ma(turn.station, i))
    turn.put(i, replace(turn.at(i), session=replace(session, demand=answer)))
    turn.announce("demand_answered", answer.answer, i)
    turn.allocate()


def _most_ma(site: Site, i: int) -> int:
    """The most that connector `i` could ever be offered."""
    outlet = site.outlets[i]
    limits = [
        circuit.limit_ma[line]
        for c, circuit in enumerate(site.circuits)
        if site.is_below(i, c)
        for line in outlet.lines
    ]
    return min(outlet.max_ma, *limits)


def _limit_signalled(turn: Turn, event: LimitSignalled) -> None:
    """A decrease takes effect now, not at the next tick."""
    heard = hear(turn.station, event)
    if isinstance(heard, str):
        turn.announce("limit_refused", heard)
        return
    before = _limits(turn.station)
    turn.station = heard
    _announce_limits(turn, before)
    turn.allocate()


_Limits = dict[tuple[str, int | None, int | None], Holding]


def _limits(station: Station) -> _Limits:
    """All limits that somebody set; the sun's change all day and are not news."""
    suns = {signal.source for signal in station.site.signals if signal.kind is SignalKind.SOLAR}
    return {(h.source, h.circuit, h.connector): h for h in holding(station) if h.source not in suns}


def _announce_limits(turn: Turn, before: _Limits) -> None:
    """Tell people, and the operator's records, which limits came, changed and went (EnWG section 14a)."""
    now = _limits(turn.station)
    for key, limit in now.items():
        if key not in before or before[key].cap != limit.cap:
            text = f"{limit.text(turn.station.site)}: {limit.cap.text()}"
            turn.announce("limit_changed", text, limit.connector)
    for key, limit in before.items():
        if key not in now:
            turn.announce("limit_ended", f"{limit.text(turn.station.site)} is over", limit.connector)


def _clear_latched(turn: Turn, number: int) -> None:
    """A person looked: latched faults of a connector end; what still holds is raised again."""
    for i, outlet in enumerate(turn.station.site.outlets):
        if outlet.number == number:
            kept = tuple(f for f in turn.at(i).faults if f.kind.ends != "latched")
            turn.put(i, replace(turn.at(i), faults=kept, mismatches=0, overdraw_since_ms=None))


def _shut_down(turn: Turn) -> None:
    """Withdraw every offer and put the registers on record; the sessions wait for the next start."""
    turn.station = replace(turn.station, stopping=True)
    turn.allocate()
    for connector in turn.station.connectors:
        if connector.state is State.CHARGING and connector.session is not None:
            turn.commands.append(Record(connector.session.claim))
