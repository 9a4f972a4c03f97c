"""`step(station, event) -> (station, commands)`: the whole brain.

Rules of this file: an event is handled to its end before the next; a record leaves before the power it
pays for (`Record` ... `Recorded` ... `SetOffer`); whatever is true only for a while is judged on `Tick`.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from edge.commands import Announce, Command, Record
from edge.control import authorize
from edge.control.allocation import allocate
from edge.control.faults import CATALOGUE, Fault, cleared, raised, stopping
from edge.control.session import OCCUPIED, State, Trigger, after
from edge.control.site import Card, Outlet, Site
from edge.control.state import (
    EVSE_STALE_MS,
    METER_STALE_MS,
    CircuitState,
    Connector,
    Session,
    Station,
    WaitingCard,
    is_fresh,
    unix_ms,
)
from edge.events import (
    CardSeen,
    CardUnreadable,
    ClaimAnswered,
    Credential,
    DeviceFound,
    DeviceLost,
    Event,
    EvseRead,
    FaultClearRequested,
    MeterRead,
    Pilot,
    Recorded,
    RecordFailed,
    StopRequested,
    Tick,
    UplinkChanged,
)
from edge.payments import claim as claims
from edge.payments.tariff import price_text
from edge.records import Claim, ClaimState, StopReason

CARD_WAIT_MS = 60_000
"""How long a card shown before the plug stays good; long enough to fetch a cable from the boot."""

RESUME_WITHIN_MS = 60_000
"""After a longer absence of the daemon nobody knows whether it is still the same car."""

CHECKPOINT_MS = 5 * 60_000
"""How much of a session may rest on the meter's own memory; shorter would wear the SD card."""

RETRY_RECORD_MS = 5_000
"""A closed claim that could not be recorded is tried again at this pace until it is."""

JOURNAL_FAULT_MS = 30_000
"""A start refused for the journal's sake forbids others this long; then one may try."""

FINAL_REGISTER_MS = 15 * 60_000
"""How long a stopped session waits for a silent meter. No new session can start meanwhile, so nothing is
mixed up; after it the claim closes at the last good register, on hold."""

WELD_AFTER_MS = 10_000
"""IEC 61851-1 Table A.6: the contactor is forced open 6 s after the offer is gone; plus reading time."""

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


def start(
    site: Site, epoch: str, next_seq: int, open_claims: Iterable[Claim], now_ms: int, absent_ms: int | None
) -> tuple[Station, tuple[Command, ...]]:
    """The station at the start of the daemon, adopting the claims the journal holds open.

    `absent_ms` is how long no daemon ran, if it ran since the same boot; None after a power cut.
    """
    resumable = absent_ms is not None and absent_ms <= RESUME_WITHIN_MS
    connectors = [Connector(since_ms=now_ms) for _ in site.outlets]
    numbers = {outlet.number: i for i, outlet in enumerate(site.outlets)}
    commands: list[Command] = []
    for claim in sorted(open_claims, key=lambda each: -each.seq):
        i = numbers.get(claim.connector)
        if i is None or connectors[i].session is not None or site.outlets[i].meter != claim.meter:
            orphan = claims.flag(claim, "the connector or its meter left the configuration")
            unix = orphan.opened_unix_ms
            commands.append(Record(claims.close(orphan, orphan.last_wh, StopReason.POWER_LOSS, unix)))
            continue
        session = Session(claim=claim, card="", resumable=resumable)
        connectors[i] = replace(connectors[i], state=State.ADOPTING, session=session)
    station = Station(
        site=site,
        epoch=epoch,
        next_seq=next_seq,
        connectors=tuple(connectors),
        circuits=tuple(CircuitState() for _ in site.circuits),
        started_ms=now_ms,
        now_ms=now_ms,
    )
    return station, tuple(commands)


def step(  # noqa: C901, PLR0912 - one arm per event, nothing else
    station: Station, event: Event
) -> tuple[Station, tuple[Command, ...]]:
    """Take one event. The only function by which a station changes."""
    turn = _Turn(replace(station, now_ms=event.at_ms))
    match event:
        case Tick():
            turn.tick(event)
        case MeterRead():
            turn.meter_read(event)
        case EvseRead():
            turn.evse_read(event)
        case CardSeen(reader=reader, credential=credential):
            turn.card_seen(reader, credential)
        case CardUnreadable(reason=reason):
            turn.announce("card_unreadable", f"card could not be read: {reason}")
        case Recorded(claim_id=claim_id, state=state):
            turn.recorded(claim_id, state)
        case RecordFailed(claim_id=claim_id, state=state, reason=reason):
            turn.record_failed(claim_id, state, reason)
        case ClaimAnswered(claim_id=claim_id, state=state):
            turn.announce(f"claim_{state}", f"claim {claim_id}: the backend answered {state}")
        case UplinkChanged(online=online):
            turn.station = replace(turn.station, online=online)
            turn.announce(
                "uplink", "the operator can be reached" if online else "the operator cannot be reached"
            )
        case DeviceFound(device=device):
            turn.device_found(device)
        case DeviceLost(device=device, reason=reason):
            turn.device_lost(device, reason)
        case FaultClearRequested(connector=number):
            turn.clear_latched(number)
        case StopRequested():
            turn.shut_down()
        case _:
            assert_never(event)
    turn.announce_faults(station)
    return turn.station, tuple(turn.commands)


class _Turn:
    """One step under way: the station so far and the commands so far."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.commands: list[Command] = []

    # -- words ---------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        return self.station.now_ms

    def at(self, i: int) -> Connector:
        return self.station.connectors[i]

    def outlet(self, i: int) -> Outlet:
        return self.station.site.outlets[i]

    def put(self, i: int, connector: Connector) -> None:
        if connector is self.at(i):
            return
        rest = self.station.connectors
        self.station = replace(self.station, connectors=(*rest[:i], connector, *rest[i + 1 :]))

    def trigger(self, i: int, trigger: Trigger) -> None:
        connector = self.at(i)
        state = after(connector.state, trigger)
        if state is not connector.state:
            self.put(i, replace(connector, state=state, since_ms=self.now))

    def announce(self, topic: str, text: str, i: int | None = None) -> None:
        number = None if i is None else self.outlet(i).number
        self.commands.append(Announce(self.now, topic, text, number))

    def raise_fault(self, i: int, name: str, detail: str) -> None:
        connector = self.at(i)
        faults = raised(connector.faults, name, self.now, detail)
        if faults is not connector.faults:
            self.put(i, replace(connector, faults=faults))

    def clear_fault(self, i: int, *names: str) -> None:
        for name in names:
            connector = self.at(i)
            faults = cleared(connector.faults, name)
            if faults is not connector.faults:
                self.put(i, replace(connector, faults=faults))

    def raise_station_fault(self, name: str, detail: str) -> None:
        self.station = replace(self.station, faults=raised(self.station.faults, name, self.now, detail))

    def clear_station_fault(self, name: str) -> None:
        self.station = replace(self.station, faults=cleared(self.station.faults, name))

    def allocate(self) -> None:
        self.station, offers = allocate(self.station)
        self.commands += offers

    # -- time ----------------------------------------------------------------------------------------

    def tick(self, event: Tick) -> None:
        self.station = replace(
            self.station, wall_unix_ms=event.wall_unix_ms, wall_at_ms=event.at_ms, clock=event.clock
        )
        waiting = self.station.waiting
        if waiting is not None and self.now >= waiting.until_ms:
            self.station = replace(self.station, waiting=None)
            self.announce("card_timeout", "no car was plugged in within a minute; please show the card again")
        for fault in self.station.faults:
            if fault.kind.name == "journal_failed" and self.now - fault.since_ms >= JOURNAL_FAULT_MS:
                self.clear_station_fault("journal_failed")
        self._judge_ages()
        for i in range(len(self.station.connectors)):
            self._judge(i)
        self.allocate()

    def _judge_ages(self) -> None:
        since_start = self.now - self.station.started_ms
        for i in range(len(self.station.connectors)):
            connector = self.at(i)
            if since_start > METER_STALE_MS and not is_fresh(connector.meter, self.now, METER_STALE_MS):
                self.raise_fault(i, "meter_silent", f"no reading for over {METER_STALE_MS // 1000} s")
            if since_start > EVSE_STALE_MS and not is_fresh(connector.evse, self.now, EVSE_STALE_MS):
                self.raise_fault(i, "evse_silent", f"no answer for over {EVSE_STALE_MS // 1000} s")
        for c, circuit in enumerate(self.station.site.circuits):
            state = self.station.circuits[c]
            if (
                circuit.meter is not None
                and since_start > METER_STALE_MS
                and not is_fresh(state.meter, self.now, METER_STALE_MS)
            ):
                detail = f"circuit {circuit.id}: no reading for over {METER_STALE_MS // 1000} s"
                self._put_circuit(c, replace(state, faults=raised(
                    state.faults, "circuit_meter_silent", self.now, detail)))  # fmt: skip

    def _put_circuit(self, c: int, state: CircuitState) -> None:
        rest = self.station.circuits
        self.station = replace(self.station, circuits=(*rest[:c], state, *rest[c + 1 :]))

    def _judge(self, i: int) -> None:
        """What is due at this connector because time passed."""
        self._watch_draw(i)
        connector = self.at(i)
        session = connector.session
        if session is None:
            return
        fault = stopping(connector.faults)
        if connector.state is State.CHARGING and fault is not None:
            self.announce("session_stopped", fault.kind.driver, i)
            self.stop(i, StopReason.FAULT)
        elif connector.state is State.CHARGING and self.now - session.checkpoint_ms >= CHECKPOINT_MS:
            self.put(i, replace(connector, session=replace(session, checkpoint_ms=self.now)))
            self.commands.append(Record(session.claim))
        elif connector.state is State.ADOPTING:
            self._adopt(i)
        elif connector.state is State.STOPPING:
            self._finish(i)
        elif (
            connector.state is State.CLOSING and session.retry_ms is not None and self.now >= session.retry_ms
        ):
            self.put(i, replace(connector, session=replace(session, retry_ms=None)))
            self.commands.append(Record(session.claim))

    def _watch_draw(self, i: int) -> None:
        """Compare what the car was told with what the meter shows."""
        connector = self.at(i)
        if connector.meter is None or not is_fresh(connector.meter, self.now, METER_STALE_MS):
            return
        drawn_ma = max(connector.meter.current_ma)
        settled = self.now - connector.lowered_ms > OVERDRAW_MS and connector.sent_ms > 0
        # A car can only obey what its controller has passed on, which is what was read back.
        told_ma = max(connector.offer_ma, connector.evse.offer_ma if connector.evse else 0)
        tolerated_ma = told_ma + max(1_000, told_ma // 10)
        if connector.offer_ma == 0 and settled and drawn_ma > UNBILLED_MA:
            if connector.state is not State.STOPPING:
                self.raise_fault(i, "unbilled_current", f"{drawn_ma} mA flow although nothing is offered")
        elif connector.offer_ma and drawn_ma > tolerated_ma:
            since = connector.overdraw_since_ms if connector.overdraw_since_ms is not None else self.now
            if since != connector.overdraw_since_ms:
                self.put(i, replace(connector, overdraw_since_ms=since))
            if self.now - since >= OVERDRAW_MS and settled:
                self.raise_fault(i, "overdraw", f"car draws {drawn_ma} mA of {connector.offer_ma} mA offered")
        elif connector.overdraw_since_ms is not None:
            self.put(i, replace(connector, overdraw_since_ms=None))

    # -- devices -------------------------------------------------------------------------------------

    def device_found(self, device: str) -> None:
        kind, _, name = device.partition("/")
        if kind == "reader":
            self.clear_station_fault("reader_lost")
            self.announce("reader_found", f"card reader {name} is ready")

    def device_lost(self, device: str, reason: str) -> None:
        """A hand knows sooner than the age of its readings tells."""
        kind, _, name = device.partition("/")
        if kind == "reader":
            self.raise_station_fault("reader_lost", f"{name}: {reason}")
        for i, outlet in enumerate(self.station.site.outlets):
            if kind == "meter" and outlet.meter == name:
                self.raise_fault(i, "meter_silent", reason)
            if kind == "evse" and str(outlet.number) == name:
                self.raise_fault(i, "evse_silent", reason)
        for c, circuit in enumerate(self.station.site.circuits):
            if kind == "meter" and circuit.meter == name:
                state = self.station.circuits[c]
                self._put_circuit(c, replace(state, faults=raised(
                    state.faults, "circuit_meter_silent", self.now, reason)))  # fmt: skip

    def meter_read(self, event: MeterRead) -> None:
        for c, circuit in enumerate(self.station.site.circuits):
            if circuit.meter == event.meter:
                faults = cleared(self.station.circuits[c].faults, "circuit_meter_silent")
                self._put_circuit(c, CircuitState(meter=event, faults=faults))
        for i, outlet in enumerate(self.station.site.outlets):
            if outlet.meter == event.meter:
                self._connector_metered(i, event)

    def _connector_metered(self, i: int, event: MeterRead) -> None:
        before = self.at(i)
        self.put(i, replace(before, meter=event))
        self.clear_fault(i, "meter_silent")
        session = before.session
        if before.meter is not None:
            last_wh, last_ms = before.meter.energy_wh, before.meter.asked_ms
            self._judge_register(i, last_wh, event.energy_wh, event.asked_ms - last_ms)
        elif session is not None and event.energy_wh < session.claim.last_wh:
            self._judge_register(i, session.claim.last_wh, event.energy_wh, 0)
        session = self.at(i).session
        if session is not None and self.at(i).state in OCCUPIED and self._register_trusted(i):
            claim = claims.checkpoint(session.claim, event.energy_wh)
            if claim.last_wh != session.claim.last_wh and self.at(i).state is not State.CLOSING:
                self.put(i, replace(self.at(i), session=replace(session, claim=claim)))
        if self.at(i).state is State.STOPPING:
            self._finish(i)

    def _judge_register(self, i: int, last_wh: int, now_wh: int, passed_ms: int) -> None:
        """A register is believed or it is not; a bill never rests on one that is not."""
        outlet = self.outlet(i)
        watts = outlet.max_ma * len(outlet.lines) * MAX_VOLTAGE_V // 1000
        # 1.1: meters may differ from the rating by their class and the car by its overshoot (PAY-13).
        possible_wh = watts * max(0, passed_ms) * 11 // (3_600_000 * 10) + REGISTER_SLACK_WH
        if now_wh < last_wh:
            name, detail = "meter_backwards", f"register went from {last_wh} Wh back to {now_wh} Wh"
        elif now_wh - last_wh > possible_wh and passed_ms > 0:
            name, detail = "meter_jump", f"register rose {now_wh - last_wh} Wh in {passed_ms} ms"
        else:
            return
        self.raise_fault(i, name, detail)
        session = self.at(i).session
        if session is not None and self.at(i).state is not State.CLOSING:
            flagged = replace(session, claim=claims.flag(session.claim, detail))
            self.put(i, replace(self.at(i), session=flagged))

    def _register_trusted(self, i: int) -> bool:
        return not any(f.kind.name in ("meter_backwards", "meter_jump") for f in self.at(i).faults)

    def evse_read(self, event: EvseRead) -> None:
        i = next((k for k, o in enumerate(self.station.site.outlets) if o.number == event.connector), None)
        if i is None:
            return
        first = self.at(i).sent_ms == 0
        self._store_look(i, event)
        self._judge_look(i, event)
        if event.pilot is Pilot.A:
            if self.at(i).state is State.CHARGING:
                self.stop(i, StopReason.UNPLUGGED)
            was = self.at(i).state
            self.trigger(i, Trigger.SEEN_EMPTY)
            if was in (State.PLUGGED, State.FINISHED):
                self.announce("unplugged", "the car is gone; the connector is free", i)
        elif event.pilot in (Pilot.B, Pilot.C, Pilot.D):
            was = self.at(i).state
            self.trigger(i, Trigger.SEEN_CAR)
            if was is not State.PLUGGED and self.at(i).state is State.PLUGGED:
                self.announce("plugged", "a car is plugged in", i)
                self._use_waiting_card(i)
        if self.at(i).state is State.STOPPING:
            self._finish(i)
        if first and self.at(i).state is not State.ADOPTING:
            self.allocate()  # tell a controller we never spoke to what holds, not at the next tick

    def _store_look(self, i: int, event: EvseRead) -> None:
        connector = replace(self.at(i), evse=event)
        told_long_ago = connector.sent_ms and event.asked_ms - connector.offered_ms > READBACK_GRACE_MS
        wrong = told_long_ago and event.offer_ma > connector.offer_ma
        mismatches = connector.mismatches + 1 if wrong else 0
        if mismatches != connector.mismatches:
            connector = replace(connector, mismatches=mismatches)
        session = connector.session
        if (
            session is not None
            and connector.state is State.STOPPING
            and session.opened_ms is None
            and not event.contactor_closed
            and event.asked_ms > session.stopped_ms
        ):
            connector = replace(connector, session=replace(session, opened_ms=event.asked_ms))
        self.put(i, connector)

    def _judge_look(self, i: int, event: EvseRead) -> None:
        self.clear_fault(i, "evse_silent")
        troubles = set(event.troubles)
        if event.pilot in (Pilot.E, Pilot.F):
            troubles.add("evse_failure")
        if event.pilot is Pilot.D and not self.outlet(i).ventilated:
            troubles.add("evse_ventilation")
        for name in _EVSE_TROUBLES:
            if name in troubles:
                self.raise_fault(i, name, f"reported by the controller in pilot state {event.pilot}")
            elif name != "evse_silent":
                self.clear_fault(i, name)
        if self.at(i).mismatches >= READBACK_TRIES:
            self.raise_fault(i, "evse_readback",
                f"holds {event.offer_ma} mA, was told {self.at(i).offer_ma} mA")  # fmt: skip
        connector = self.at(i)
        if (
            connector.sent_ms
            and connector.offer_ma == 0
            and event.contactor_closed
            and event.asked_ms - max(connector.lowered_ms, connector.offered_ms) > WELD_AFTER_MS
        ):
            self.raise_fault(i, "contactor_welded", "contactor reported closed with nothing offered")

    # -- cards ---------------------------------------------------------------------------------------

    def card_seen(self, reader: str, credential: Credential) -> None:
        decision = authorize.decide(self.station, reader, credential)
        match decision:
            case authorize.Start(index=i, card=card):
                self.station = replace(self.station, waiting=None)
                self.begin(i, card, credential)
            case authorize.Stop(index=i):
                self.announce("card_accepted", f"card {credential.masked} ends the session", i)
                self.stop(i, StopReason.CARD)
                self.allocate()
            case authorize.Wait(card=card):
                until = self.now + CARD_WAIT_MS
                self.station = replace(self.station, waiting=WaitingCard(reader, credential, card, until))
                self.announce("card_accepted", f"card {credential.masked}: please plug in within a minute")
            case authorize.Refuse(text=text):
                self.announce("card_refused", f"card {credential.masked}: {text}")
            case _:
                assert_never(decision)

    def _use_waiting_card(self, i: int) -> None:
        waiting = self.station.waiting
        if waiting is None:
            return
        served = next((r.connectors for r in self.station.site.readers if r.id == waiting.reader), ())
        if self.outlet(i).number not in served:
            return
        self.station = replace(self.station, waiting=None)
        problem = authorize.why_no_start(self.station, i)
        if problem is None:
            self.begin(i, waiting.card, waiting.credential)
        else:
            self.announce("card_refused", f"card {waiting.credential.masked}: {problem}", i)

    # -- the session ---------------------------------------------------------------------------------

    def begin(self, i: int, card: Card, credential: Credential) -> None:
        """Record before power: the claim goes to the disk, nothing else happens yet."""
        meter = self.at(i).meter
        if meter is None:  # authorize asked for a fresh reading
            return
        seq = self.station.next_seq
        claim = Claim(
            id=claims.claim_id(self.station.site.station, self.station.epoch, seq),
            seq=seq,
            state=ClaimState.OPEN,
            connector=self.outlet(i).number,
            contract=card.contract,
            credential=credential.masked,
            tariff=self.station.site.tariff,
            meter=meter.meter,
            start_wh=meter.energy_wh,
            last_wh=meter.energy_wh,
            opened_unix_ms=unix_ms(self.station),
            clock=self.station.clock,
        )
        self.station = replace(self.station, next_seq=seq + 1)
        self.put(i, replace(self.at(i), session=Session(claim, credential.id, checkpoint_ms=self.now)))
        self.trigger(i, Trigger.AUTHORISED)
        self.announce("card_accepted", f"card {credential.masked} accepted: {price_text(claim.tariff)}", i)
        self.commands.append(Record(claim))

    def recorded(self, claim_id: str, state: ClaimState) -> None:
        self.clear_station_fault("journal_failed")
        i = self._with_claim(claim_id)
        if i is None:
            return
        connector = self.at(i)
        if state is ClaimState.OPEN and connector.state is State.STARTING:
            self.trigger(i, Trigger.RECORDED)
            self.announce("session_started", f"claim {claim_id} is on record", i)
            self.allocate()
        elif state in (ClaimState.CLOSED, ClaimState.VOIDED) and connector.state is State.CLOSING:
            self.put(i, replace(connector, session=None))
            self.trigger(i, Trigger.RECORDED)
            if connector.evse is not None and connector.evse.pilot is Pilot.A:
                self.trigger(i, Trigger.SEEN_EMPTY)
            self._announce_closed(i, connector.session)

    def _announce_closed(self, i: int, session: Session | None) -> None:
        if session is None:
            return
        claim = session.claim
        if claim.cost is None:
            self.announce("session_voided", f"claim {claim.id}: no energy, nothing to pay", i)
            return
        wh = claim.energy_wh or 0
        text = (
            f"claim {claim.id}: {wh // 1000}.{wh % 1000:03d} kWh, {claim.cost.incl_tax} {claim.cost.currency}"
        )
        self.announce("session_closed", text + (", held for the operator" if claim.hold else ""), i)

    def record_failed(self, claim_id: str, state: ClaimState, reason: str) -> None:
        self.raise_station_fault("journal_failed", reason)
        i = self._with_claim(claim_id)
        if i is None:
            return
        connector = self.at(i)
        session = connector.session
        if state is ClaimState.OPEN and connector.state is State.STARTING:
            self.put(i, replace(connector, session=None))
            self.trigger(i, Trigger.RECORD_FAILED)
            self.announce(
                "card_refused", f"the session could not be recorded and was not started: {reason}", i
            )
        elif connector.state is State.CLOSING and session is not None:
            retry = replace(session, retry_ms=self.now + RETRY_RECORD_MS)
            self.put(i, replace(connector, session=retry))

    def _with_claim(self, claim_id: str) -> int | None:
        for i, connector in enumerate(self.station.connectors):
            if connector.session is not None and connector.session.claim.id == claim_id:
                return i
        return None

    def stop(self, i: int, reason: StopReason) -> None:
        """Withdraw the offer; the claim closes once the contactor is open and the register is read."""
        connector = self.at(i)
        if connector.session is None:
            return
        session = replace(connector.session, reason=reason, stopped_ms=self.now, opened_ms=None)
        self.put(i, replace(connector, session=session))
        self.trigger(i, Trigger.STOP)
        self.allocate()

    def _adopt(self, i: int) -> None:
        """An open claim was found at the start: look first, then go on or bill what flowed."""
        connector = self.at(i)
        session, look, meter = connector.session, connector.evse, connector.meter
        if session is None or look is None or meter is None:
            return
        same_car = look.pilot in (Pilot.B, Pilot.C, Pilot.D) and session.resumable
        if same_car and self._register_trusted(i):
            self.put(i, replace(connector, session=replace(session, checkpoint_ms=self.now)))
            self.trigger(i, Trigger.RESUMED)
            self.announce("session_resumed", f"claim {session.claim.id} goes on after a restart", i)
        else:
            gone = look.pilot is Pilot.A and session.resumable
            self.announce("session_recovered", f"claim {session.claim.id} ends: the daemon was away", i)
            self.stop(i, StopReason.UNPLUGGED if gone else StopReason.POWER_LOSS)

    def _finish(self, i: int) -> None:
        """Close the claim as soon as its final register is known, or will not be known any more."""
        connector = self.at(i)
        session, meter = connector.session, connector.meter
        if session is None or session.reason is None:
            return
        waited_ms = self.now - session.stopped_ms
        welded = any(fault.kind.name == "contactor_welded" for fault in connector.faults)
        claim = session.claim
        if session.opened_ms is None and not welded and waited_ms < FINAL_REGISTER_MS:
            return
        if welded:
            claim = claims.flag(claim, "the contactor did not open")
        after_open = meter is not None and meter.asked_ms >= (session.opened_ms or session.stopped_ms)
        if not self._register_trusted(i):
            end_wh = claim.last_wh
        elif after_open and meter is not None:
            end_wh = meter.energy_wh
        elif waited_ms >= FINAL_REGISTER_MS:
            claim = claims.flag(claim, "the meter did not answer at the end; billed to its last reading")
            end_wh = claim.last_wh
        else:
            return
        closed = claims.close(claim, end_wh, session.reason, unix_ms(self.station))
        self.put(i, replace(connector, session=replace(session, claim=closed)))
        self.trigger(i, Trigger.METERED)
        self.commands.append(Record(closed))

    # -- people --------------------------------------------------------------------------------------

    def clear_latched(self, number: int) -> None:
        """A person looked: latched faults of a connector end; what still holds is raised again."""
        for i, outlet in enumerate(self.station.site.outlets):
            if outlet.number == number:
                kept = tuple(f for f in self.at(i).faults if f.kind.ends != "latched")
                self.put(i, replace(self.at(i), faults=kept, mismatches=0, overdraw_since_ms=None))

    def shut_down(self) -> None:
        """Withdraw every offer and put the registers on record; the sessions wait for the next start."""
        self.station = replace(self.station, stopping=True)
        self.allocate()
        for connector in self.station.connectors:
            if connector.state is State.CHARGING and connector.session is not None:
                self.commands.append(Record(connector.session.claim))

    def announce_faults(self, before: Station) -> None:
        """One line for each fault that came or went in this step."""
        self._announce_difference(before.faults, self.station.faults, None)
        for c, state in enumerate(self.station.circuits):
            self._announce_difference(before.circuits[c].faults, state.faults, None)
        for i, connector in enumerate(self.station.connectors):
            self._announce_difference(before.connectors[i].faults, connector.faults, i)

    def _announce_difference(self, before: tuple[Fault, ...], now: tuple[Fault, ...], i: int | None) -> None:
        if before is now:
            return
        names_before = {fault.kind.name for fault in before}
        names_now = {fault.kind.name for fault in now}
        for fault in now:
            if fault.kind.name not in names_before:
                self.announce("fault_raised", f"{fault.kind.name}: {fault.detail}", i)
        for fault in before:
            if fault.kind.name not in names_now:
                self.announce("fault_cleared", fault.kind.name, i)
