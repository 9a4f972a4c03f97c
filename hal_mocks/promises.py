"""What a station promises, held against what really happens in a simulated world.

    promises = Promises(station)      # looks from now on, after every exchange on a wire and every log line
    promises.sessions_are_over()      # at the end: every fault healed, every car gone, claims had their time

Each promise is judged from outside: the copper, the boards, the disk, the broker, the backend's books. What
the controller believes of itself proves nothing. A promise is excused only while what breaks it is not its
doing (a board that does not obey, a line that carries nothing), and for `GRACE_MS` afterwards.

Not judged, as the product has none yet: a bound on what may be unpaid or unsent at a time. The claims that
wait for the backend may become any number.
"""

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from hal_mocks import steps
from hal_mocks.evse import SimpleEvse
from hal_mocks.in_process_station import SimulatedStation
from hal_mocks.memory_serial import MemoryLine
from hal_mocks.meter import NJ_PER_WH, Sdm630
from hal_mocks.modbus_rtu import Faults
from hal_mocks.rig_site import CARDS
from hal_mocks.steps import Action

REACTION_MS = 7_500
"""Stated reaction to an overload: a poll of at most 1.5 s and a tick, a write on the bus, and the 5 s a car
may take to follow (IEC 61851-1 Annex A)."""

GRACE_MS = 15_000
"""After trouble that is not the controller's: its back-off (5 s), ages (5 s), a round of reads and writes."""

FALLBACK_AFTER_MS = 5_000 + REACTION_MS
"""A reading is stale after 5 s; from then the fallback of the circuit holds."""

RISES_EVERY_MS = 4_000
"""A car may be asked for more every 5 s (it has that long to follow); less what a write may be delayed."""

UNCLAIMED_MS = 9_000
"""How long a contactor may stay closed once its claim was ended: a write, and it is forced open after 6 s."""

TOLD_OFF_MS, FORCED_OPEN_MS = 1_000, 8_000
"""Without a daemon: systemd notices at once, `safe-off` tells 0 A, the board opens after 6 s."""

LOOK_EVERY_MS = 500
"""Something is looked at whenever a wire or the daemon says anything, and this often while all are quiet."""

OWN_MAKING_MA, OWN_MAKING_MS = 2_500, 300
"""A circuit is never further above its limit for longer while nobody but us changes what flows. What is not
ours is known to about an ampere: meters are polled once a second, and a car moves by 2 A in that time."""

HOUSE_CALM_MS = 15_000
"""After a change in the house: seen, answered and followed, and the meters were matched once more."""

UNMETERED_MS = 5_000 + 1_500
"""A reading is stale after 5 s; it was asked for up to a poll before its meter fell silent."""

WH_PER_CLAIM = 2.5
"""Registers are read in whole Wh at both ends, from a float32 of kWh."""


@dataclass(frozen=True)
class Broken:
    """A promise that did not hold."""

    promise: str
    at_ms: int
    text: str

    def __str__(self) -> str:
        return f"{self.promise} at {self.at_ms / 1000:.3f} s: {self.text}"


class PromiseBroken(Exception):
    """Ends a simulation."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(str(broken))
        self.broken = broken


@dataclass
class _Outlet:
    """What was seen of a connector last."""

    told_ma: int = 0
    closed: bool = False
    changed_ms: int = -(10**9)
    charged: bool = False  # when its offer was last changed
    unclaimed_since_ms: int | None = None
    ill_ms: int = -(10**9)  # trouble with its board or its car
    spoiled: bool = False  # its meter's register lied, so no bill can be held against it


@dataclass
class _Seen:
    """What was last found on the disk."""

    life: int = 0
    changes: int = 0
    claims: dict[str, str] = field(default_factory=dict)  # state by id
    claimed: frozenset[int] = field(default_factory=frozenset)  # connectors that may have power


@dataclass(frozen=True)
class _Limit:
    """A limit that was signalled: from when it is judged, until when, in which life of the daemon."""

    from_ms: int
    until_ms: int
    ma: int
    life: int


class Promises:
    """Looks at everything; raises `PromiseBroken` from within the world's next step."""

    def __init__(self, station: SimulatedStation) -> None:
        self._station = station
        self._outlets = {number: _Outlet() for number in station.world.connectors}
        self._seen = _Seen()
        self._broken: Broken | None = None
        self._excused_ms = -(10**9)  # any trouble that is not the controller's
        self._obeying_ms = -(10**9)  # trouble with boards, their line, the cars or the daemon's life
        self._reach_ms = -(10**9)  # trouble with the boards' line or the daemon's life
        self._boards_ms = -(10**9)  # trouble with the boards or their line
        self._house_ma: tuple[int, ...] = (0, 0, 0)
        self._house_ms = -(10**9)  # when that changed
        self._limits: dict[int | None, _Limit] = {}  # by connector; None: all of them together
        self._silent_ms: dict[str, int] = {}
        self._dead_ms: int | None = None
        self._lives = station.lives
        self.trace: list[str] = []
        self._flow_nj = {n: sum(self._meter(n).flow_nj) for n in self._outlets}
        self.restored = (
            False  # the disk was put back to an old copy: money may be missing, none may be doubled
        )
        self.forgetful = False  # the backend lost its books: it charges again what it is told again
        self._secret = re.compile("|".join(CARDS.values()), re.IGNORECASE)
        station.look = self.look
        station.hear_line = self._hear_line
        station.broker.observer = self._hear_message
        self._look_again()

    # -- what is looked at all the time --------------------------------------------------------------

    def look(self) -> None:
        """Judge the present."""
        now_ms = self._station.agenda.now_ms
        self._note_trouble(now_ms)
        self._claimed()
        for number, outlet in self._outlets.items():
            self._judge_outlet(number, outlet, now_ms)
        self._judge_load(now_ms)
        if self._broken is not None:
            raise PromiseBroken(self._broken)

    def _look_again(self) -> None:
        self._station.agenda.after_ms(LOOK_EVERY_MS, self._look_again)
        self._station.catch_up()
        self.look()

    def _break(self, promise: str, text: str) -> None:
        if self._broken is None:
            self._broken = Broken(promise, self._station.agenda.now_ms, text)

    def _note_trouble(self, now_ms: int) -> None:
        station = self._station
        line = station.lines["evse"]
        if station.alive:
            self._dead_ms = None
        elif self._dead_ms is None:
            self._dead_ms = now_ms
        line_ill = _is_line_ill(line)
        reach = line_ill or not station.alive or self._lives != station.lives
        self._lives = station.lives
        if reach:
            self._reach_ms = now_ms
        hands, boards_ill = reach, line_ill
        for number, outlet in self._outlets.items():
            car = station.world.vehicles.get(number)
            board_ill = _is_ill(station.world.evses[number])
            boards_ill = boards_ill or board_ill
            if board_ill or (car is not None and not car.obeys):
                outlet.ill_ms = now_ms
                hands = True
        if boards_ill:
            self._boards_ms = now_ms
        if hands:
            self._obeying_ms = now_ms
        meters = station.lines["meters"]
        meters_ill = _is_line_ill(meters)
        for name, meter in station.world.meters.items():
            mute = meter.faults.silent or not meter.powered or not meters.plugged
            if not mute:
                self._silent_ms.pop(name, None)
            else:
                self._silent_ms.setdefault(name, now_ms)
            meters_ill = meters_ill or not _is_well(meter.faults) or not meter.powered
        world = station.world
        house_ma = _less(world.circuit_current_ma("site"), self._taken_ma())
        if house_ma != self._house_ma:
            self._house_ma, self._house_ms = house_ma, now_ms
        limit_ma = world.circuits["site"].limit_ma
        house_alone_over = any(ma > most for ma, most in zip(house_ma, limit_ma, strict=True))
        if hands or meters_ill or house_alone_over:
            self._excused_ms = now_ms

    def _taken_ma(self) -> tuple[int, ...]:
        """What cars take together, on each phase of the supply."""
        world = self._station.world
        flows = [world.connector_current_ma(number) for number in world.connectors]
        return tuple(map(sum, zip(*flows, strict=True)))

    def _judge_outlet(self, number: int, outlet: _Outlet, now_ms: int) -> None:
        board = self._station.world.evses[number]
        told_ma, closed = board.set_current_ma, board.relay_closed
        calm = now_ms - max(self._reach_ms, outlet.ill_ms) > GRACE_MS
        if told_ma != outlet.told_ma:
            self.trace.append(f"{now_ms} connector {number} told {told_ma}")
            if told_ma > 0 and outlet.told_ma == 0 and number not in self._claimed():
                self._break(
                    "record before power", f"connector {number} is offered {told_ma} mA without a claim"
                )
            # The first rise may follow at once: the car had not begun to draw its minimum.
            rises = told_ma > outlet.told_ma > 0 and outlet.charged
            if rises and calm and now_ms - outlet.changed_ms < RISES_EVERY_MS:
                self._break(
                    "offers do not flap",
                    f"{number}: {told_ma} mA {now_ms - outlet.changed_ms} ms after {outlet.told_ma} mA",
                )
            car = self._station.world.vehicles.get(number)
            # A register that has less than whole amps rounds the cable's rating down to them.
            if told_ma > min(32_000, car.cable_ma if car is not None else 32_000):
                self._break("no more than the connector can carry", f"connector {number}: {told_ma} mA")
            outlet.told_ma, outlet.changed_ms, outlet.charged = told_ma, now_ms, closed
        if closed != outlet.closed:
            self.trace.append(f"{now_ms} connector {number} {'closed' if closed else 'open'}")
            outlet.closed = closed
        if not (closed or told_ma) or number in self._claimed() or not calm:
            outlet.unclaimed_since_ms = None
        elif outlet.unclaimed_since_ms is None:
            outlet.unclaimed_since_ms = now_ms
        elif now_ms - outlet.unclaimed_since_ms > UNCLAIMED_MS:
            self._break(
                "no power without a claim", f"connector {number} is on, {told_ma} mA, without a claim"
            )
        dead_ms = self._dead_ms
        if dead_ms is not None and self._boards_ms < dead_ms:
            if told_ma and now_ms - dead_ms > TOLD_OFF_MS:
                self._break("no power without a daemon", f"connector {number} holds {told_ma} mA")
            if closed and now_ms - dead_ms > FORCED_OPEN_MS:
                text = f"connector {number} is closed {now_ms - dead_ms} ms later"
                self._break("no power without a daemon", text)

    def _judge_load(self, now_ms: int) -> None:
        world = self._station.world
        over_ms = world.overloads["site"].running_ms
        if over_ms and now_ms - self._excused_ms > over_ms + GRACE_MS:
            flows_ma = world.circuit_current_ma("site")
            over_ma = max(_less(flows_ma, world.circuits["site"].limit_ma))
            house_rose = now_ms - over_ms - self._house_ms < HOUSE_CALM_MS
            far = over_ma > OWN_MAKING_MA and not house_rose
            if over_ms > (OWN_MAKING_MS if far else REACTION_MS):
                self._break("no circuit above its limit because of us", f"{flows_ma} mA for {over_ms} ms")
        if now_ms - self._obeying_ms < GRACE_MS:
            return
        silent_ms = self._silent_ms.get("site")
        if silent_ms is not None and now_ms - silent_ms > FALLBACK_AFTER_MS:
            most_ma = max(self._taken_ma())
            if most_ma > world.circuits["site"].limit_ma[0] // 2 + 100:
                self._break(
                    "a stale meter is not trusted",
                    f"cars take {most_ma} mA {now_ms - silent_ms} ms after the supply's meter fell silent",
                )
        for number, limit in self._limits.items():
            if limit.from_ms < now_ms < limit.until_ms and limit.life == self._lives:
                flow = self._taken_ma() if number is None else world.connector_current_ma(number)
                if max(flow) > limit.ma:
                    self._break("a signalled limit holds", f"{flow} mA flow, {limit.ma} mA were allowed")

    # -- what is said --------------------------------------------------------------------------------

    def _hear_line(self, line: str) -> None:
        self.trace.append(f"{self._station.agenda.now_ms} log {line}")
        if self._secret.search(line):
            self._break("no card number in a log", line)

    def _hear_message(self, topic: str, payload: bytes) -> None:
        text = payload.decode(errors="replace")
        if self._secret.search(text):
            self._break("no card number in a message", f"{topic} {text}")
        if topic.endswith("/meter"):
            self._judge_age(int(topic.split("/")[-2]), json.loads(payload))

    def _judge_age(self, number: int, reading: dict[str, Any]) -> None:
        silent_ms = self._silent_ms.get(f"connector-{number}")
        now_ms = self._station.agenda.now_ms
        # A message is on its way for a moment, and the meter was seen to be silent a little late.
        if silent_ms is not None and reading["age_ms"] < now_ms - silent_ms - 1_500:
            self._break(
                "an old reading keeps its age",
                f"connector {number}: {reading['age_ms']} ms, its meter is silent for {now_ms - silent_ms}",
            )

    # -- the disk ------------------------------------------------------------------------------------

    def _claimed(self) -> frozenset[int]:
        """Connectors with an open claim on the disk that nobody has stopped; read anew when it may differ."""
        journal, life, changes = self._station.journal, self._station.lives, self._station.journal_changes
        if life != self._seen.life:  # its journal is there when the disk has served something
            self._seen = _Seen(life, changes, self._seen.claims, self._seen.claimed)
        if journal is not None and changes != self._seen.changes:
            rows = _query(journal, _CLAIMS)
            claims = {row[0]: row[1] for row in rows}
            for row in rows:
                if row[0] not in self._seen.claims:
                    self._judge_opening(row[0], int(row[2]))
            if not self.restored:
                self._judge_disk(claims)
            claimed = frozenset(int(row[2]) for row in rows if row[1] == "open" and row[3] is None)
            self._seen = _Seen(life, changes, claims, claimed)
        return self._seen.claimed

    def _judge_opening(self, claim_id: str, number: int) -> None:
        silent_ms = self._silent_ms.get(f"connector-{number}")
        now_ms = self._station.agenda.now_ms
        # A slow disk serves one call after the other.
        latest_ms = UNMETERED_MS + 4 * self._station.disk_slow_ms
        if silent_ms is not None and now_ms - silent_ms > latest_ms:
            self._break(
                "no session without its meter",
                f"{claim_id} begins, the meter of connector {number} is silent for {now_ms - silent_ms} ms",
            )

    def _judge_disk(self, claims: dict[str, str]) -> None:
        for claim_id, state in self._seen.claims.items():
            if claim_id not in claims:
                self._break("what is on record stays", f"{claim_id} was {state} and is gone")
            elif _RANKS[claims[claim_id]] < _RANKS[state]:
                text = f"{claim_id} was {state} and is {claims[claim_id]} again"
                self._break("what is on record stays", text)

    # -- the end -------------------------------------------------------------------------------------

    def hear_of(self, action: Action) -> None:
        """Something is about to be done that changes what can be held against the station."""
        match action:
            case steps.MeterFault(meter=meter, fault=fault, other=other):
                if fault in _REGISTER_LIES:
                    for name in (meter, other):
                        self._spoil(name)
            case steps.Disk(fault="restored"):
                self.restored = True
            case steps.BackendFault(fault="forgetful"):
                self.forgetful = True
            case steps.Limit(connector=number, lift=True):
                self._limits.pop(number, None)
            case steps.Limit(circuit=circuit, connector=number, ma=ma, for_ms=for_ms) if ma is not None and (
                circuit == "main" or number is not None
            ):
                now_ms = self._station.agenda.now_ms
                until_ms = now_ms + (for_ms or 0)
                life = self._station.lives if self._station.alive else -1  # nobody hears it
                self._limits[number] = _Limit(now_ms + REACTION_MS, until_ms, ma, life)
            case steps.EvseFault(connector=number, fault="welded"):
                self._spoil(f"connector-{number}")  # what flows through a weld is nobody's session
            case _:
                pass

    def _spoil(self, meter: str | None) -> None:
        """The register of this connector's meter lies from now on: its bills cannot be held against it."""
        if meter is not None and meter.startswith("connector-"):
            self._outlets[int(meter.removeprefix("connector-"))].spoiled = True

    def serves(self, number: int) -> bool:
        """Whether the car at this connector is charging under a claim."""
        return number in self._claimed() and max(self._station.world.connector_current_ma(number)) > 0

    def last_contract(self, number: int) -> str | None:
        """Who charged here last."""
        journal = self._station.journal
        rows = [] if journal is None else _query(journal, "SELECT body FROM claim ORDER BY seq DESC")
        bodies = [json.loads(row[0]) for row in rows]
        return next((str(body["contract"]) for body in bodies if body["connector"] == number), None)

    def must(self, promise: str, *, hold: bool, text: str) -> None:
        """Raise `PromiseBroken` unless it holds."""
        if not hold:
            self._break(promise, text)
            self.look()

    def unsettled(self) -> list[str]:
        """Claims that are not over yet."""
        journal = self._station.journal
        if journal is None:
            return ["the daemon is down"]
        rows = _query(journal, "SELECT id, state FROM claim WHERE state IN ('open', 'closed')")
        return [f"{row[0]} is {row[1]}" for row in rows]

    def sessions_are_over(self) -> None:
        """Judge the money. Raises `PromiseBroken`."""
        for text in self.unsettled():
            self._break("every claim is settled in time", text)
        books = self._station.books
        for claim_id, tally in books.tally.items():
            if tally.booked > 1 and not self.forgetful:
                self._break("no claim is booked twice", f"{claim_id}: {tally.booked} times")
        for problem in books.invalid:
            self._break("every message keeps to the contract", problem)
        journal = self._station.journal
        if journal is not None:
            self._judge_bills(journal)
        if self._broken is not None:
            raise PromiseBroken(self._broken)

    def _judge_bills(self, journal: Path) -> None:
        bodies = [json.loads(row[0]) for row in _query(journal, "SELECT body FROM claim ORDER BY seq")]
        tally = self._station.books.tally
        ids = {claim["id"] for claim in bodies}
        for claim_id in tally:
            if claim_id not in ids and not self.restored:
                self._break("nothing is billed that is not on record", claim_id)
        for claim in bodies:
            known = tally.get(claim["id"])
            answered = known is not None and known.acked and (known.booked or known.rejected)
            if claim["state"] in ("settled", "rejected") and not answered:
                self._break("settled means that the backend answered", claim["id"])
        for number, outlet in self._outlets.items():
            if outlet.spoiled or self.restored:
                continue
            claims = [claim for claim in bodies if claim["connector"] == number]
            billed_wh = sum(claim["energy_wh"] or 0 for claim in claims)
            flowed_wh = (sum(self._meter(number).flow_nj) - self._flow_nj[number]) / NJ_PER_WH
            if abs(billed_wh - flowed_wh) > WH_PER_CLAIM * max(1, len(claims)):
                self._break(
                    "bills equal the meter",
                    f"connector {number}: {flowed_wh:.1f} Wh flowed, {billed_wh} Wh in {len(claims)} claims",
                )
            for before, after in pairwise(claims):
                if after["start_wh"] < (before["end_wh"] or before["start_wh"]):
                    self._break("no energy is in two claims", f"{before['id']} and {after['id']}")

    def _meter(self, number: int) -> Sdm630:
        return self._station.world.meters[f"connector-{number}"]


_WELL = vars(Faults())

_CLAIMS = "SELECT id, state, json_extract(body, '$.connector'), json_extract(body, '$.reason') FROM claim"

_RANKS = {"open": 0, "closed": 1, "voided": 1, "settled": 2, "rejected": 2}
"""A claim only goes forward."""

_REGISTER_LIES = ("backwards", "jumps", "restarted", "swapped-with", "frozen")
"""A frozen meter answers with an old register, and nothing in its answer shows it."""


def _is_well(faults: Faults) -> bool:
    return vars(faults) == _WELL  # asked at each step: comparing structs takes three times as long


def _is_line_ill(line: MemoryLine) -> bool:
    return not line.plugged or line.noise is not None or not _is_well(line.faults)


def _is_ill(board: SimpleEvse) -> bool:
    return (
        not _is_well(board.faults)
        or board.welded
        or board.pilot_fault
        or board.ignores_writes
        or board.bounces
        or board.no_feedback
        or not board.powered
    )


def _less(total: tuple[int, ...], part: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(all_ma - ma for all_ma, ma in zip(total, part, strict=True))


def _query(journal: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as reader:
        return reader.execute(query).fetchall()
