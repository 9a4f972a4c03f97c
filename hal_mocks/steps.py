"""What can happen in a scenario and what can be expected of it: the table of its language.

One class for each thing that is done (`Action`) or expected (`Expectation`); its notations are how it is
written, its docstring is what docs/scenarios.md says of it. `Step` is one of them with its time.

    step = read_step("within 10s connector 1 offers 16 A")
    step.when, step.what           # When("within", 10_000), Offers(connector=1, ma=16_000)
    str(step)                      # "within 10s connector 1 offers 16A"

Currents are in mA, times in ms, energies in Wh, powers in mW.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from hal_mocks.grammar import (
    KINDS,
    NotUnderstood,
    Phrase,
    read,
    read_time,
    shown,
    words_of,
    write_time,
)
from hal_mocks.rig_site import CARDS

STATES = (
    *("unknown", "available", "preparing", "charging", "suspended_ev", "suspended_evse"),
    *("finishing", "unavailable", "faulted"),
    *("free", "plugged", "starting", "stopping", "closing", "finished", "adopting"),
)
"""What `edge status` calls the state of a connector, then that of its session."""

FAULTS = (
    *("meter_silent", "meter_backwards", "meter_jump", "evse_silent", "evse_failure", "evse_rcd"),
    *("evse_diode", "evse_ventilation", "evse_readback", "contactor_welded", "overdraw"),
    *("unbilled_current", "circuit_meter_silent", "sharing_failed", "reader_lost", "journal_failed"),
)
"""The catalogue of the station, see edge/control/faults.py; a test compares."""

CIRCUIT_FAULTS = ("circuit_meter_silent",)
STATION_FAULTS = ("sharing_failed", "reader_lost", "journal_failed")


class Action(Phrase):
    """Something that is done to the site."""

    subject: ClassVar[str]  # heading in the documentation


class Expectation(Phrase):
    """Something that can be seen to hold or not."""


# -- cars and people ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plug(Action):
    """A car is plugged in. It draws what it is offered, up to 16 A on three phases if nothing else is said.

    `wants`: full after so much; `lag`: follows an offer that slowly (2 s); `sleepy`: does not notice an
    offer after a minute without one; `disobedient`: draws its current whatever it is offered;
    `ventilation`: asks for it; `no-diode`: fails the check of the pilot; `cable`: what the cable can
    carry (32 A).
    """

    subject = "Cars and people"
    NOTATIONS = (
        (
            "plug {connector:N} [car [{max_ma:AMPS}] [{phases:PHASES}] [wants {wants_wh:ENERGY}]"
            " [lag {lag_ms:TIME}] [{sleepy!sleepy}] [{disobedient!disobedient}] [{ventilation!ventilation}]"
            " [{no_diode!no-diode}] [cable {cable_ma:AMPS}]]"
        ),
    )
    connector: int
    max_ma: int = 16_000
    phases: int = 3
    wants_wh: int | None = None
    lag_ms: int = 2_000
    sleepy: bool = False
    disobedient: bool = False
    ventilation: bool = False
    no_diode: bool = False
    cable_ma: int = 32_000


@dataclass(frozen=True)
class Unplug(Action):
    """The plug is pulled, under load if need be."""

    subject = "Cars and people"
    NOTATIONS = ("unplug {connector:N}",)
    connector: int


@dataclass(frozen=True)
class Drive(Action):
    """The driver presses start or stop in the car; the car begins or ceases to keep to its offer."""

    subject = "Cars and people"
    NOTATIONS = ("car {connector:N} {does:asks|stops|obeys|disobeys}",)
    connector: int
    does: str


@dataclass(frozen=True)
class Swipe(Action):
    """A card is held to the reader until it is read; a card is named or given by its number in hex.

    Every station knows alice and bob; the stranger is not known to it.
    """

    subject = "Cars and people"
    NOTATIONS = ("swipe {card:CARD} [at {reader:NAME}]",)
    card: str
    reader: str | None = None


@dataclass(frozen=True)
class Load(Action):
    """Something that is no car draws so much: one figure is L1, three are L1, L2, L3.

    It hangs on the main supply, or on the circuit that is said.
    """

    subject = "Cars and people"
    NOTATIONS = (
        "load {name:NAME} {l1_ma:AMPS} [{l2_ma:AMPS} {l3_ma:AMPS}] [on {circuit:CIRCUIT}]",
        "load {name:NAME} {off!off}",
    )
    name: str
    l1_ma: int = 0
    l2_ma: int = 0
    l3_ma: int = 0
    circuit: str | None = None
    off: bool = False


@dataclass(frozen=True)
class Limit(Action):
    """Somebody limits a place for a while or lifts that again: the technician, or the source that is said."""

    subject = "Cars and people"
    NOTATIONS = (
        "limit circuit {circuit:CIRCUIT} {ma:AMPS} for {for_ms:TIME} [from {source:NAME}]",
        "limit circuit {circuit:CIRCUIT} {power_mw:POWER} for {for_ms:TIME} [from {source:NAME}]",
        "limit circuit {circuit:CIRCUIT} {lift!lift} [from {source:NAME}]",
        "limit connector {connector:N} {ma:AMPS} for {for_ms:TIME} [from {source:NAME}]",
        "limit connector {connector:N} {power_mw:POWER} for {for_ms:TIME} [from {source:NAME}]",
        "limit connector {connector:N} {lift!lift} [from {source:NAME}]",
    )
    circuit: str | None = None
    connector: int | None = None
    ma: int | None = None
    power_mw: int | None = None
    for_ms: int | None = None
    lift: bool = False
    source: str | None = None


@dataclass(frozen=True)
class Demand(Action):
    """A driver says what he needs and when he leaves."""

    subject = "Cars and people"
    NOTATIONS = ("demand {connector:N} {energy_wh:ENERGY} in {in_ms:TIME} [at least {min_ma:AMPS}]",)
    connector: int
    energy_wh: int
    in_ms: int
    min_ma: int = 0


@dataclass(frozen=True)
class ClearFault(Action):
    """The technician clears the faults of a connector that stand until a person has looked."""

    subject = "Cars and people"
    NOTATIONS = ("clear-fault {connector:N}",)
    connector: int


# -- devices and wires -------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeterFault(Action):
    """Something happens to a meter; `well` ends it.

    `silent`: does not answer; `frozen`: says the same for ever; `garbled`: wrong bytes; `split`: answers
    in pieces; `exception`: refuses every question; `slow`: answers that late; `dark`: without supply.
    `backwards` and `jumps`: its register; `restarted`: a new meter that begins at zero; `swapped-with`:
    two meters have each other's address. What a register lost stays lost when the meter is well again.
    """

    subject = "Devices and wires"
    NOTATIONS = (
        "meter {meter:METER} {fault:silent|frozen|garbled|split|exception|restarted|dark|well}",
        "meter {meter:METER} {fault:slow} {delay_ms:TIME}",
        "meter {meter:METER} {fault:backwards|jumps} {wh:ENERGY}",
        "meter {meter:METER} {fault:swapped-with} {other:METER}",
    )
    meter: str
    fault: str
    delay_ms: int | None = None
    wh: int | None = None
    other: str | None = None


@dataclass(frozen=True)
class EvseFault(Action):
    """Something happens to the EVSE controller of a connector; `well` ends it.

    `welded`: its contactor stays closed; `bounces`: the relay flutters for a moment after it closed;
    `no-feedback`: its status never shows the relay closed; `rcd`: the residual-current device tripped;
    `pilot-fault`: reports a failure of the pilot; `ignores-writes`: acknowledges and does nothing; `reboots`:
    restarts and forgets its offer; the others as with meters.
    """

    subject = "Devices and wires"
    NOTATIONS = (
        (
            "evse {connector:N} {fault:silent|frozen|garbled|split|exception|welded|bounces|no-feedback|rcd"
            "|pilot-fault|ignores-writes|reboots|dark|well}"
        ),
        "evse {connector:N} {fault:slow} {delay_ms:TIME}",
    )
    connector: int
    fault: str
    delay_ms: int | None = None


@dataclass(frozen=True)
class LineFault(Action):
    """Something happens to a serial line: `cut` ends with `joined`, the rest with `clean`.

    `loses` and `flips`: of all bytes; `garbage`: before so many of the messages; `splits`: answers come
    in pieces; `delays`: every answer.
    """

    subject = "Devices and wires"
    NOTATIONS = (
        "line {line:meters|evse} {fault:cut|joined|splits|clean}",
        "line {line:meters|evse} {fault:loses|flips|garbage} {permille:PART}",
        "line {line:meters|evse} {fault:delays} {delay_ms:TIME}",
    )
    line: str
    fault: str
    permille: int | None = None
    delay_ms: int | None = None


@dataclass(frozen=True)
class ReaderFault(Action):
    """The cable of the card reader is pulled, or put back."""

    subject = "Devices and wires"
    NOTATIONS = ("reader {does:unplugged|plugged}",)
    does: str


@dataclass(frozen=True)
class PcscdFault(Action):
    """The service that the reader is reached through dies, or comes back."""

    subject = "Devices and wires"
    NOTATIONS = ("pcscd {does:killed|started}",)
    does: str


@dataclass(frozen=True)
class NextCard(Action):
    """The next card swiped leaves the field too soon, is unreadable, or is a phone with a random number."""

    subject = "Devices and wires"
    NOTATIONS = ("next-card {flaw:torn|unreadable|random}",)
    flaw: str


# -- the operator ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BrokerFault(Action):
    """Something happens to the operator's MQTT broker.

    `killed`: loses what it had not saved; `stopped`: saves it; both end with `started`. `silent`: takes
    everything and says nothing; `duplicates`, `reorders`, `slow`: what it passes on;
    `loses-acknowledged`: forgets messages that it has acknowledged. These end with `well`.
    """

    subject = "The operator"
    NOTATIONS = (
        "broker {fault:killed|stopped|started|silent|duplicates|reorders|loses-acknowledged|well}",
        "broker {fault:slow} {delay_ms:TIME}",
    )
    fault: str
    delay_ms: int | None = None


@dataclass(frozen=True)
class BackendFault(Action):
    """How the operator's backend behaves from now on, until `well`.

    `silent`: books nothing, says nothing; `late`: acknowledges that late; `wrong-hash`: acknowledges
    something else; `contradictory`: accepts and refuses the same claim; `forgetful`: has lost its ledger,
    once; `crashes-before-ack`: books one claim and dies; `refuses`: rejects new claims; `twice`: says
    everything twice.
    """

    subject = "The operator"
    NOTATIONS = (
        "backend {fault:silent|wrong-hash|contradictory|forgetful|crashes-before-ack|refuses|twice|well}",
        "backend {fault:late} {delay_ms:TIME}",
    )
    fault: str
    delay_ms: int | None = None


# -- the machine -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clock(Action):
    """The wall clock leaps, or is known to be right or not."""

    subject = "The machine"
    NOTATIONS = ("clock jumps {jump_ms:JUMP}", "clock {quality:unset|synced}")
    jump_ms: int | None = None
    quality: str | None = None


@dataclass(frozen=True)
class Disk(Action):
    """Something happens to the disk under the journal, until `well`.

    `full`, `failing`, `slow`: writing; `remembers`: a copy is kept now; `restored`: at its next start the
    daemon finds that old copy, as after a technician put back an image.
    """

    subject = "The machine"
    NOTATIONS = (
        "disk {fault:full|failing|remembers|restored|well}",
        "disk {fault:slow} {delay_ms:TIME}",
    )
    fault: str
    delay_ms: int | None = None


@dataclass(frozen=True)
class Power(Action):
    """The supply of the whole station fails, the daemon's too, or comes back."""

    subject = "The machine"
    NOTATIONS = ("power {does:cut} [for {for_ms:TIME}]", "power {does:back}")
    does: str
    for_ms: int | None = None


@dataclass(frozen=True)
class DaemonFault(Action):
    """The daemon is killed (at the K-th write to its journal from now on), stopped properly, or started.

    As under systemd, a killed one is started again after 2 s, or after the time that is said; a stopped one
    stays down until then, or until `started`.
    """

    subject = "The machine"
    NOTATIONS = (
        "daemon {does:killed} [in write {write:COUNT}] [for {for_ms:TIME}]",
        "daemon {does:stopped} [for {for_ms:TIME}]",
        "daemon {does:started}",
    )
    does: str
    write: int | None = None
    for_ms: int | None = None


# -- what is expected --------------------------------------------------------------------------------

Bound = Literal["or less", "or more"]


@dataclass(frozen=True)
class Offers(Expectation):
    """What the station offers a car, within 0.5 A."""

    NOTATIONS = ("connector {connector:N} offers {ma:AMPS} [{bound:or less|or more}]",)
    connector: int
    ma: int
    bound: Bound | None = None


@dataclass(frozen=True)
class Draws(Expectation):
    """What really flows through a connector, on its highest phase, within 0.5 A."""

    NOTATIONS = ("connector {connector:N} draws {ma:AMPS} [{bound:or less|or more}]",)
    connector: int
    ma: int
    bound: Bound | None = None


@dataclass(frozen=True)
class Is(Expectation):
    """The state of a connector or of its session, as `edge status` names it."""

    NOTATIONS = ("connector {connector:N} is {state:STATE}",)
    connector: int
    state: str


@dataclass(frozen=True)
class HasFault(Expectation):
    """A fault stands by its name, or none at all."""

    NOTATIONS = (
        "connector {connector:N} has {none:no fault}",
        "connector {connector:N} has fault {fault:FAULT}",
        "circuit {circuit:CIRCUIT} has {none:no fault}",
        "circuit {circuit:CIRCUIT} has fault {fault:FAULT}",
        "station has {none:no fault}",
        "station has fault {fault:FAULT}",
    )
    connector: int | None = None
    circuit: str | None = None
    fault: str | None = None
    none: str | None = None


@dataclass(frozen=True)
class Contactor(Expectation):
    """Whether the car really has voltage."""

    NOTATIONS = ("contactor {connector:N} {position:open|closed}",)
    connector: int
    position: str


@dataclass(frozen=True)
class AtMost(Expectation):
    """What really flows through a circuit, on its highest phase."""

    NOTATIONS = ("circuit {circuit:CIRCUIT} at most {ma:AMPS}",)
    circuit: str
    ma: int


@dataclass(frozen=True)
class OverLimit(Expectation):
    """For how long a circuit really was above its limit without a break, at worst, since the beginning."""

    NOTATIONS = ("circuit {circuit:CIRCUIT} over its limit for at most {longest_ms:TIME}",)
    circuit: str
    longest_ms: int


@dataclass(frozen=True)
class Claims(Expectation):
    """How many payments the journal holds that the backend accepted, did not answer yet, or refused."""

    NOTATIONS = (
        "{count:COUNT} claims {state:settled|waiting|rejected}",
        "{count:COUNT} claim {state:settled|waiting|rejected}",
    )
    count: int
    state: str

    def __str__(self) -> str:
        return f"{self.count} claim{'' if self.count == 1 else 's'} {self.state}"


@dataclass(frozen=True)
class Money(Expectation):
    """The money is right.

    `every claim settled once`: nothing waits and each claim was booked exactly once. `no claim booked
    twice`: whatever else. `bills equal meters`: for each connector, all its bills together are what
    really went through its meter, within 1.5 Wh a bill; no session may be running.
    """

    NOTATIONS = ("{promise:every claim settled once|no claim booked twice|bills equal meters}",)
    promise: str


@dataclass(frozen=True)
class Why(Expectation):
    """The station's reason for not offering more contains this text."""

    NOTATIONS = ("connector {connector:N} why {text:TEXT}",)
    connector: int
    text: str


@dataclass(frozen=True)
class Log(Expectation):
    """A line of this topic stands (or never stood) in the log since the beginning, with this in its text."""

    NOTATIONS = ("log {has:has|never has} {topic:TOPIC} [{text:TEXT}]",)
    has: str
    topic: str
    text: str | None = None


@dataclass(frozen=True)
class Uplink(Expectation):
    """Whether the station has its connection to the operator."""

    NOTATIONS = ("{is_:online|offline}",)
    is_: str


@dataclass(frozen=True)
class Daemon(Expectation):
    """Whether the daemon runs and answers."""

    NOTATIONS = ("daemon is {is_:running|down}",)
    is_: str


ACTIONS: tuple[type[Action], ...] = (
    *(Plug, Unplug, Drive, Swipe, Load, Limit, Demand, ClearFault),
    *(MeterFault, EvseFault, LineFault, ReaderFault, PcscdFault, NextCard),
    *(BrokerFault, BackendFault, Clock, Disk, Power, DaemonFault),
)
EXPECTATIONS: tuple[type[Expectation], ...] = (
    *(Offers, Draws, Is, HasFault, Contactor, AtMost, OverLimit),
    *(Claims, Money, Why, Log, Uplink, Daemon),
)

# -- a step ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class When:
    """When a step is: at once, `after` the one before, `at` a time, `within` a span or `for` all of one."""

    how: Literal["now", "after", "at", "within", "for"] = "now"
    ms: int = 0

    def __str__(self) -> str:
        return "" if self.how == "now" else f"{self.how} {write_time(self.ms)} "


NOW = When()

_HOWS: dict[str, Literal["after", "at", "within", "for"]] = {
    "after": "after",
    "at": "at",
    "within": "within",
    "for": "for",
}


@dataclass(frozen=True)
class Step:
    """A line of the story."""

    what: Action | Expectation
    when: When = NOW
    line: int = field(default=0, compare=False)  # in its file

    def __post_init__(self) -> None:
        if self.when.how in ("within", "for") and not isinstance(self.what, Expectation):
            raise ValueError(f"only what is expected can be {self.when.how} a time")

    def __str__(self) -> str:
        return f"{self.when}{self.what}"


def read_step(text: str, line: int = 0) -> Step | None:
    """The step of a line, None for one without words. Raises `NotUnderstood`."""
    words = words_of(text)
    when = NOW
    how = _HOWS.get(words[0]) if words else None
    if how is not None:
        when, words = _read_when(how, words[1:])
    expected = words[:1] == ["expect"]
    words = words[expected:]
    if not words and not expected and how is None:
        return None
    kinds: tuple[type[Action | Expectation], ...] = EXPECTATIONS
    if not expected and how not in ("within", "for"):
        kinds = (*ACTIONS, *EXPECTATIONS)
    what = read(kinds, words)
    _check_words(what)
    return Step(what, when, line)


def _read_when(how: Literal["after", "at", "within", "for"], words: list[str]) -> tuple[When, list[str]]:
    for count in (2, 1):
        ms = read_time("".join(words[:count])) if len(words) >= count else None
        if ms is not None:
            return When(how, ms), words[count:]
    raise NotUnderstood(words[0] if words else "", [KINDS["TIME"].expected])


def _check_words(what: Phrase) -> None:
    """Raise `NotUnderstood` for a name that no station has: a typing error must not pass for a promise."""
    match what:
        case Swipe(card=card) if card not in CARDS and not _is_uid(card):
            raise NotUnderstood(card, [*CARDS, "4, 7 or 10 bytes in hex"])
        case Is(state=state) if state not in STATES:
            raise NotUnderstood(state, STATES)
        case HasFault(fault=str(fault), connector=connector, circuit=circuit):
            elsewhere = (*CIRCUIT_FAULTS, *STATION_FAULTS)
            known: tuple[str, ...] = STATION_FAULTS if circuit is None else CIRCUIT_FAULTS
            if connector is not None:
                known = tuple(name for name in FAULTS if name not in elsewhere)
            if fault not in known:
                raise NotUnderstood(fault, known)
        case Log(topic=topic) if "." not in topic and topic not in TOPICS:
            raise NotUnderstood(topic, [*TOPICS, "the dotted name of a library's log"])
        case _:
            pass


def _is_uid(text: str) -> bool:
    return len(text) in (8, 14, 20) and all(digit in "0123456789ABCDEFabcdef" for digit in text)


TOPICS = (
    *("card_accepted", "card_ignored", "card_refused", "card_timeout", "card_unreadable"),
    *("demand_answered", "demand_refused", "fault_cleared", "fault_raised", "journal_quarantined"),
    *("limit_changed", "limit_ended", "limit_refused", "local_api_refused", "phases_refused"),
    *("phases_switched", "plugged", "reader_found", "ready", "ring_not_written", "ring_written"),
    *("session_closed", "session_recovered", "session_resumed", "session_started", "session_stopped"),
    *("session_voided", "stopped_late", "stopping", "unplugged", "uplink"),
)
"""What the daemon writes into its log; a test compares."""


def names_of(what: Phrase, kind: str) -> Iterator[str | int]:
    """The connectors ("N"), circuits ("CIRCUIT") or meters ("METER") that a phrase names."""
    named = {"N": ("connector",), "CIRCUIT": ("circuit",), "METER": ("meter", "other")}[kind]
    for one in fields(what):  # type: ignore[arg-type]  # every phrase is a dataclass
        if one.name in named and getattr(what, one.name) is not None:
            yield getattr(what, one.name)


# -- the documentation -------------------------------------------------------------------------------


_PAGE_WIDTH = 116


def reference() -> str:
    """The table in Markdown, for docs/scenarios.md."""
    lines: list[str] = []
    subjects = dict.fromkeys(action.subject for action in ACTIONS)
    for subject in subjects:
        lines += [f"### {subject}", ""]
        for action in ACTIONS:
            if action.subject == subject:
                lines += _entry(action)
    lines += ["### What is expected", ""]
    for expectation in EXPECTATIONS:
        lines += _entry(expectation)
    return "\n".join(lines)


def _entry(phrase: type[Phrase]) -> list[str]:
    notations = [shown(notation) for notation in phrase.NOTATIONS]
    meaning = textwrap.wrap(" ".join((phrase.__doc__ or "").split()), _PAGE_WIDTH, break_on_hyphens=False)
    return ["```", *notations, "```", "", *meaning, ""]
