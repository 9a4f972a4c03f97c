"""What a scenario is played on, and what its actions do where every stage is the same.

A stage is a site with a daemon: on real wires (`stage_real`) or on virtual time. `play.play` walks a scenario
over it:

    stage.can(action)                     # None, or a sentence why this stage cannot do that
    await stage.act(action)               # do it; raises StageError with a sentence when it does not work
    await stage.until(condition, 10_000)  # let time pass until the condition holds of a View

A stage does what concerns only copper, devices and lines with `do_on_site`, asks the daemon what `request_of`
says, gives the backend the `manners_of` an action, and adds what is its own: people with cards, the broker,
clock, disk, power and the daemon's process.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from hal_mocks import steps
from hal_mocks.books import Books, Json, Manners, Tally
from hal_mocks.meter import Phases, Sdm630
from hal_mocks.modbus_rtu import Faults
from hal_mocks.steps import Action
from hal_mocks.vehicle import Vehicle
from hal_mocks.wires import Noise
from hal_mocks.world import Circuit, Connector, World

SPLIT_BYTES = 7
"""Into pieces of so many bytes an answer comes when it is split: no part of an RTU frame is that long."""

DEVICE_FAILURE = 4
"""Modbus exception "server device failure", MODBUS Application Protocol V1.1b3, clause 7."""


class StageError(Exception):
    """An action cannot be done now; the text is a sentence for whoever wrote the scenario."""


@dataclass(frozen=True)
class LogLine:
    """A line the daemon logged."""

    at_ms: int  # on the stage's clock, when it was seen
    topic: str
    text: str
    connector: int | None = None


@dataclass(frozen=True)
class View:
    """All that can be seen at a moment. It is looked at once; the world in it goes on."""

    at_ms: int
    status: Mapping[str, Any] | None  # what the daemon answers to `status`; None: it does not answer
    world: World  # what is really so
    circuits: Mapping[str, str]  # id in the configuration -> id in the world
    tally: Mapping[str, Tally]  # what the backend did with each claim
    bills: Mapping[str, Json]  # each claim the backend ever took into its books, by id
    log: Sequence[LogLine]  # since the beginning

    def connector(self, number: int) -> Mapping[str, Any] | None:
        """What the daemon says of a connector."""
        return _entry(self.status, "connectors", "number", number)

    def circuit(self, name: str) -> Mapping[str, Any] | None:
        """What the daemon says of a circuit."""
        return _entry(self.status, "circuits", "id", name)


def _entry(status: Mapping[str, Any] | None, table: str, key: str, value: object) -> Mapping[str, Any] | None:
    rows: Sequence[Mapping[str, Any]] = status[table] if status is not None else ()
    return next((row for row in rows if row[key] == value), None)


class Stage(Protocol):
    """Where a scenario is played. When `play` begins, the daemon is ready and it is 0 ms."""

    @property
    def name(self) -> str:
        """For reports: "real wires", "virtual time"."""

    @property
    def now_ms(self) -> int:
        """Time since the beginning, on this stage's own clock."""

    def can(self, action: Action) -> str | None:
        """Why this stage cannot do this kind of thing, in a sentence; None if it can."""

    async def act(self, action: Action) -> None:
        """Do it now. May take time (a card has to be read). Raises `StageError`."""

    async def look(self) -> View:
        """Look at everything."""

    async def until(self, condition: Callable[[View], bool], timeout_ms: int) -> bool:
        """Let time pass until the condition holds, at most so long; return whether it does.

        The condition is asked at once, then at least every 250 ms and a last time at the end of the timeout.
        """


class Till:
    """Every claim a backend ever took into its books, also when it forgets them."""

    def __init__(self) -> None:
        self.bills: dict[str, Json] = {}

    def note(self, books: Books) -> None:
        """Take over what is new. Call it at every look, and before the backend is made to forget."""
        for claim_id, booking in list(books.ledger.items()):
            self.bills.setdefault(claim_id, booking.claim)


_LOG = re.compile(r'topic=(\S+)(?:.*? text=(?:"((?:[^"\\]|\\.)*)"|(\S+)))?')
_LOG_CONNECTOR = re.compile(r" connector=([0-9]+)")


def log_line(line: str, at_ms: int) -> LogLine | None:
    """Read a line of the daemon's log; None if it is none, as a traceback."""
    found = _LOG.search(line)
    if found is None:
        return None
    connector = _LOG_CONNECTOR.search(line, found.end())
    text = re.sub(r'\\(["\\])', r"\1", found[2] or found[3] or "")
    return LogLine(at_ms, found[1], text, int(connector[1]) if connector else None)


# -- the site of a scenario --------------------------------------------------------------------------


def circuits_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The circuits of a configuration -> their ids in the world, where one goes by its meter's name."""
    return {row["id"]: row.get("meter", row["id"]) for row in config.get("circuits", [])}


def world_of(base: World, config: Mapping[str, Any]) -> World:
    """The rig's world as a configuration has it: its circuits, and where and how each connector hangs.

    Devices stay those of `base`; a meter that only the configuration knows is made.
    """
    names = circuits_of(config)
    units = {row["id"]: row["unit"] for row in config["meters"]}
    circuits = []
    for row in config["circuits"]:
        meter = base.meters.get(row.get("meter", ""))
        if meter is None and "meter" in row:
            meter = Sdm630(units[row["meter"]])
        l1, l2, l3 = (round(amps * 1000) for amps in row["limit_a"])
        parent = row.get("parent")
        circuits.append(
            Circuit(names[row["id"]], (l1, l2, l3), None if parent is None else names[parent], meter)
        )
    outlets = []
    for row in config["connectors"]:
        outlet = base.connectors[row["number"]]
        lines = tuple(int(digit) - 1 for digit in row["phases"].replace("L", ""))
        outlets.append(
            Connector(row["number"], names[row["circuit"]], outlet.evse, outlet.meter, lines=lines)
        )
    return World(circuits, outlets)


# -- what is the same on every stage -----------------------------------------------------------------


class Wire(Protocol):
    """A serial line with its devices, on a pty or in memory."""

    noise: Noise | None

    @property
    def faults(self) -> Faults:
        """What goes wrong for all its devices."""

    def unplug(self) -> None:
        """Pull the adapter."""

    def replug(self) -> None:
        """Plug it in again."""


@dataclass
class Site:
    """The parts that actions are done to."""

    world: World
    wires: Mapping[str, Wire]  # "meters" and "evse"
    circuits: Mapping[str, str]  # as in `View`
    cut: set[str] = field(default_factory=set)  # wires whose adapter is pulled
    units: dict[str, int] = field(default_factory=dict)  # the address each meter was installed with

    def __post_init__(self) -> None:
        self.units = {name: meter.unit for name, meter in self.world.meters.items()}


def do_on_site(site: Site, action: Action) -> bool:
    """Do what concerns copper, devices and lines; False for anything else. Raises `StageError`."""
    world = site.world
    match action:
        case steps.Plug(connector=number):
            if number in world.vehicles:
                raise StageError(f"a car is plugged into connector {number} already")
            world.plug(number, car_of(action))
        case steps.Unplug(connector=number):
            _car_at(world, number)
            world.unplug(number)
        case steps.Drive(connector=number, does=does):
            car = _car_at(world, number)
            if does in ("asks", "stops"):
                car.asks = does == "asks"
            else:
                car.obeys = does == "obeys"
        case steps.Load(name=name, circuit=circuit):
            current: Phases = (action.l1_ma, action.l2_ma, action.l3_ma)
            world.switch_load(name, current, circuit=None if circuit is None else site.circuits[circuit])
        case steps.MeterFault():
            _spoil_meter(site, action)
        case steps.EvseFault():
            _spoil_evse(site, action)
        case steps.LineFault():
            _spoil_line(site, action)
        case _:
            return False
    return True


def _car_at(world: World, number: int) -> Vehicle:
    if number not in world.vehicles:
        raise StageError(f"there is no car at connector {number}")
    return world.vehicles[number]


def car_of(plug: steps.Plug) -> Vehicle:
    """The car that is plugged in."""
    return Vehicle(
        phases=plug.phases,
        max_ma=plug.max_ma,
        wants_wh=plug.wants_wh,
        lag_ms=plug.lag_ms,
        obeys=not plug.disobedient,
        sleepy=plug.sleepy,
        ventilation=plug.ventilation,
        diode_ok=not plug.no_diode,
        cable_ma=plug.cable_ma,
    )


def spoilt(old: Faults, fault: str, delay_ms: int | None) -> Faults:
    """The faults of a device with one more."""
    match fault:
        case "silent" | "frozen" | "garbled":
            return replace(old, **{fault: True})
        case "split":
            return replace(old, split_bytes=SPLIT_BYTES)
        case "exception":
            return replace(old, exception=DEVICE_FAILURE)
        case "slow":
            return replace(old, delay_ms=delay_ms or 0)
        case _:
            raise StageError(f"no device can be {fault}")


def _spoil_meter(site: Site, action: steps.MeterFault) -> None:
    meters = site.world.meters
    meter = meters[action.meter]
    match action.fault:
        case "well":
            meter.faults, meter.powered = Faults(), True
            # Whoever has its address has lost it; it gets back its own.
            for name, other in meters.items():
                if other is not meter and other.unit == site.units[action.meter]:
                    other.unit = site.units[name]
            meter.unit = site.units[action.meter]
        case "backwards":
            meter.jump_wh(-(action.wh or 0))
        case "jumps":
            meter.jump_wh(action.wh or 0)
        case "restarted":
            meter.restart_at_zero()
        case "dark":
            meter.powered = False
        case "swapped-with":
            other = meters[str(action.other)]
            meter.unit, other.unit = other.unit, meter.unit
        case fault:
            meter.faults = spoilt(meter.faults, fault, action.delay_ms)


def _spoil_evse(site: Site, action: steps.EvseFault) -> None:
    board = site.world.evses[action.connector]
    match action.fault:
        case "well":
            board.mend()
        case "welded" | "pilot-fault" | "ignores-writes" | "bounces" | "no-feedback":
            setattr(board, action.fault.replace("-", "_"), True)
        case "rcd":
            board.trip_rcd()
        case "reboots":
            board.reboot()
        case "dark":
            board.powered = False
        case fault:
            board.faults = spoilt(board.faults, fault, action.delay_ms)


def _spoil_line(site: Site, action: steps.LineFault) -> None:
    wire = site.wires[action.line]
    part = (action.permille or 0) / 1000
    seed = 1  # the same noise in each run
    match action.fault:
        case "cut":
            site.cut.add(action.line)
            wire.unplug()
        case "joined":
            if action.line in site.cut:
                site.cut.remove(action.line)
                wire.replug()
        case "loses":
            wire.noise = Noise(seed, loss=part)
        case "flips":
            wire.noise = Noise(seed, flip=part)
        case "garbage":
            wire.noise = Noise(seed, garbage=part)
        case "splits":
            wire.faults.split_bytes = SPLIT_BYTES
        case "delays":
            wire.faults.delay_ms = action.delay_ms or 0
        case _:
            wire.noise = None
            for one in fields(Faults):
                setattr(wire.faults, one.name, one.default)


def request_of(action: Action) -> dict[str, object] | None:
    """What the daemon is asked on its local socket, if the action is to ask it something."""
    match action:
        case steps.ClearFault(connector=number):
            return {"ask": "clear_fault", "connector": number}
        case steps.Demand():
            return {
                "ask": "demand",
                "connector": action.connector,
                "energy_wh": action.energy_wh,
                "departs_in_ms": action.in_ms,
                "min_ma": action.min_ma,
            }
        case steps.Limit():
            said = {
                "circuit": action.circuit,
                "connector": action.connector,
                "source": action.source,
                "current_ma": None if action.ma is None else [action.ma] * 3,
                "power_mw": action.power_mw,
            }
            request: dict[str, object] = {"ask": "limit", "for_ms": action.for_ms or 0}
            return request | {key: value for key, value in said.items() if value is not None}
        case _:
            return None


_MANNERS = {
    "silent": Manners(silent=True),
    "wrong-hash": Manners(wrong_hash=True),
    "contradictory": Manners(contradiction="after"),
    "crashes-before-ack": Manners(crash_before_ack=True),
    "refuses": Manners(reject=True),
    "twice": Manners(acks=2),
    "well": Manners(),
}


def manners_of(action: steps.BackendFault) -> Manners | None:
    """How the backend behaves from now on; None for what happens once (it has to forget)."""
    if action.fault == "late":
        return Manners(delay_s=(action.delay_ms or 0) / 1000)
    return _MANNERS.get(action.fault)
