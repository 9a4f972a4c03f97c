"""A site in copper: a supply with three phases, circuits, connectors, cars and kettles, on virtual time.

    site_meter, board = Sdm630(unit=1), SimpleEvse(unit=11)
    world = World(
        circuits=[Circuit("site", limit_ma=(32_000, 32_000, 32_000), meter=site_meter)],
        connectors=[Connector(1, "site", evse=board, meter=Sdm630(unit=21), lines=(1, 2, 0))],
    )
    world.plug(1, Vehicle(phases=3, max_ma=16_000))
    world.switch_load("kettle", (10_000, 0, 0))
    world.advance(to_ms=60_000)
    world.meters["site"].power_mw, world.meters["connector-1"].energy_mwh
    world.overloads["site"].worst_ma
    world.unplug(1)

`meters` has each circuit's meter by the circuit's id and each connector's as "connector-<number>"; `evses`
and `vehicles` go by connector number. A connector's meter counts in the order of the outlet: its L1 is supply
phase `lines[0]`. What is done to the world happens at `now_ms`; registers written by a master and fields set
on a car or board take effect when time next advances. Cars and boards change only at times they name, between
which all currents are constant: energy is exact, and the same however `advance` is called. There is no I/O
here; `wires.run_world` moves the world in real time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hal_mocks.evse import SimpleEvse
from hal_mocks.meter import Phases, Sdm630
from hal_mocks.vehicle import Vehicle

_SETTLES_IN = 10  # exchanges between car and board at one instant; three happen (see, switch, draw)


@dataclass(frozen=True)
class Circuit:
    """A node of the supply tree; without `parent` it is a root. Order does not matter."""

    id: str
    limit_ma: Phases
    parent: str | None = None
    meter: Sdm630 | None = None


@dataclass(frozen=True)
class Connector:
    """An outlet on a circuit: the car's phase k hangs on supply phase `lines[k]` (0 is L1)."""

    number: int
    circuit: str
    evse: SimpleEvse
    meter: Sdm630 | None = None
    lines: tuple[int, ...] = (0, 1, 2)


@dataclass
class Overload:
    """The worst a circuit has seen, over its phases."""

    worst_ma: int = 0  # above its limit
    longest_ms: int = 0  # without a break, the present one included
    _running_ms: list[int] = field(default_factory=lambda: [0, 0, 0])

    @property
    def running_ms(self) -> int:
        """For how long it has been above its limit now, on the phase that is longest."""
        return max(self._running_ms)

    def note(self, current_ma: Phases, limit_ma: Phases, duration_ms: int) -> None:
        """Take note of a constant current that lasted."""
        for phase in range(3):
            over_ma = current_ma[phase] - limit_ma[phase]
            if over_ma <= 0:
                self._running_ms[phase] = 0
                continue
            self._running_ms[phase] += duration_ms
            self.worst_ma = max(self.worst_ma, over_ma)
            self.longest_ms = max(self.longest_ms, self._running_ms[phase])


class _Pair:
    """A board with the car at it, and what is known of them as long as nobody touches either.

    Between the times they name nothing changes but the clock. That anything was done to them shows in their
    fields, of which a copy is kept; what a board keeps in a dict of its own changes with its `writes`.
    """

    def __init__(self, evse: SimpleEvse) -> None:
        self.evse = evse
        self.vehicle: Vehicle | None = None
        self.power_uw = 0
        self.next_ms: int | None = None
        self._board_before: dict[str, object] = {}
        self._car_before: dict[str, object] = {}

    def touched(self, vehicle: Vehicle | None) -> bool:
        """Whether a field of them was set since `left`, or another car is there."""
        return (
            self.vehicle is not vehicle
            or vars(self.evse) != self._board_before
            or (vehicle is not None and vars(vehicle) != self._car_before)
        )

    def left(self) -> None:
        """Take them as they are for untouched."""
        self._board_before = vars(self.evse).copy()
        if self.vehicle is not None:
            self._car_before = vars(self.vehicle).copy()

    def named(self) -> None:
        """Ask when they will change by themselves."""
        board_ms = self.evse.next_ms()
        car_ms = self.vehicle.next_ms(self.power_uw) if self.vehicle is not None else None
        times = [time for time in (board_ms, car_ms) if time is not None]
        self.next_ms = min(times, default=None)

    def flow(self, duration_ms: int) -> None:
        """Let time pass in which nothing changes."""
        self.evse.pass_time(duration_ms)
        if self.vehicle is not None:
            self.vehicle.accumulate(self.power_uw, duration_ms)


class World:
    """The site. Deterministic: the same calls give the same world."""

    def __init__(
        self,
        circuits: Sequence[Circuit],
        connectors: Sequence[Connector],
        *,
        voltage_mv: Phases = (230_000, 230_000, 230_000),
    ) -> None:
        self.now_ms = 0
        self.circuits = {circuit.id: circuit for circuit in circuits}
        self.connectors = {connector.number: connector for connector in connectors}
        self.evses = {connector.number: connector.evse for connector in connectors}
        self.meters = _meters(circuits, connectors)
        self.vehicles: dict[int, Vehicle] = {}
        self.overloads = {circuit.id: Overload() for circuit in circuits}
        self._voltage_mv = voltage_mv
        self._loads: dict[str, tuple[str, Phases]] = {}
        self._above = {circuit.id: self._path(circuit.id) for circuit in circuits}
        self._pairs = {connector.number: _Pair(connector.evse) for connector in connectors}
        self._circuit_ma: dict[str, Phases] = {}
        self._check(len(circuits), len(connectors))
        for circuit in circuits:
            if circuit.meter is not None:
                circuit.meter.feel(voltage_mv=voltage_mv)
        for connector in connectors:
            if connector.meter is not None:
                connector.meter.feel(voltage_mv=_in_outlet_order(connector, voltage_mv))
        self._settle()

    def plug(self, number: int, vehicle: Vehicle) -> None:
        """Plug a car into a connector. Raises ValueError when it is taken."""
        if number in self.vehicles:
            raise ValueError(f"a car is plugged into connector {number} already")
        if number not in self.connectors:
            raise ValueError(f"there is no connector {number}")
        vehicle.plug_in(self.now_ms)
        self.vehicles[number] = vehicle
        self._settle()

    def unplug(self, number: int) -> Vehicle:
        """Pull the plug, under load if need be, and return the car. Raises KeyError without one."""
        vehicle = self.vehicles.pop(number)
        vehicle.step(0, powered=False, at_ms=self.now_ms)
        self._settle()
        return vehicle

    def switch_load(self, name: str, current_ma: Phases, *, circuit: str | None = None) -> None:
        """Let something else draw so much per supply phase, at a root by default; zeros switch it off."""
        if min(current_ma) < 0:
            raise ValueError(f"a load must not be negative: {current_ma}")
        if circuit is None:
            circuit = next(one.id for one in self.circuits.values() if one.parent is None)
        if circuit not in self.circuits:
            raise ValueError(f"there is no circuit {circuit!r}")
        self._loads[name] = (circuit, current_ma)
        self._settle()

    def advance(self, to_ms: int) -> None:
        """Let time pass until `to_ms`. Raises ValueError for the past."""
        if to_ms < self.now_ms:
            raise ValueError(f"time does not go back from {self.now_ms} to {to_ms} ms")
        if any(pair.touched(self.vehicles.get(number)) for number, pair in self._pairs.items()):
            self._settle()
        while self.now_ms < to_ms:
            change_ms = self._next_change_ms()
            then_ms = to_ms if change_ms is None else min(to_ms, change_ms)
            self._flow(then_ms - self.now_ms)
            self.now_ms = then_ms
            if then_ms == change_ms:
                self._settle()
        for pair in self._pairs.values():
            pair.left()

    def connector_current_ma(self, number: int) -> Phases:
        """Return what flows through a connector now, per supply phase."""
        flowing = [0, 0, 0]
        connector, vehicle = self.connectors[number], self.vehicles.get(number)
        if vehicle is not None and connector.evse.contact_closed:
            for line in connector.lines[: vehicle.phases]:
                flowing[line] = vehicle.current_ma
        return flowing[0], flowing[1], flowing[2]

    def circuit_current_ma(self, circuit: str) -> Phases:
        """Return what flows through a circuit now, per supply phase."""
        flows = [
            self.connector_current_ma(number)
            for number, connector in self.connectors.items()
            if circuit in self._above[connector.circuit]
        ]
        flows += [current for below, current in self._loads.values() if circuit in self._above[below]]
        return sum(flow[0] for flow in flows), sum(flow[1] for flow in flows), sum(flow[2] for flow in flows)

    def _path(self, circuit: str) -> tuple[str, ...]:
        """Return the circuit and all above it."""
        path: list[str] = []
        here: str | None = circuit
        while here is not None:
            if here not in self.circuits or here in path:
                raise ValueError(f"circuit {circuit!r} does not hang on a root: {here!r}")
            path.append(here)
            here = self.circuits[here].parent
        return tuple(path)

    def _check(self, circuits: int, connectors: int) -> None:
        if len(self.circuits) != circuits or len(self.connectors) != connectors:
            raise ValueError("two circuits or two connectors have the same name")
        for connector in self.connectors.values():
            if connector.circuit not in self.circuits:
                raise ValueError(f"connector {connector.number} hangs on no circuit: {connector.circuit!r}")
            lines = connector.lines
            if not lines or len(set(lines)) != len(lines) or not set(lines) <= {0, 1, 2}:
                raise ValueError(f"connector {connector.number} cannot be wired to phases {lines}")

    def _settle(self) -> None:
        """Let boards and cars see each other until nothing changes at this instant, then show the meters."""
        for number, connector in self.connectors.items():
            pair = self._pairs[number]
            pair.vehicle = self.vehicles.get(number)
            _meet(connector.evse, pair.vehicle, self.now_ms)
            current_ma = self.connector_current_ma(number)
            pair.power_uw = sum(mv * ma for mv, ma in zip(self._voltage_mv, current_ma, strict=True))
            pair.named()
            if connector.meter is not None:
                connector.meter.feel(current_ma=_in_outlet_order(connector, current_ma))
        for circuit in self.circuits.values():
            self._circuit_ma[circuit.id] = current_ma = self.circuit_current_ma(circuit.id)
            if circuit.meter is not None:
                circuit.meter.feel(current_ma=current_ma)

    def _next_change_ms(self) -> int | None:
        times = [pair.next_ms for pair in self._pairs.values() if pair.next_ms is not None]
        return min(times, default=None)

    def _flow(self, duration_ms: int) -> None:
        """Let the present currents flow."""
        for meter in self.meters.values():
            meter.accumulate(duration_ms)
        for pair in self._pairs.values():
            pair.flow(duration_ms)
        for name, circuit in self.circuits.items():
            self.overloads[name].note(self._circuit_ma[name], circuit.limit_ma, duration_ms)


def _meters(circuits: Sequence[Circuit], connectors: Sequence[Connector]) -> dict[str, Sdm630]:
    meters = {circuit.id: circuit.meter for circuit in circuits}
    meters |= {f"connector-{connector.number}": connector.meter for connector in connectors}
    return {name: meter for name, meter in meters.items() if meter is not None}


def _in_outlet_order(connector: Connector, supply: Phases) -> Phases:
    wired = [supply[line] for line in connector.lines] + [0, 0]
    return wired[0], wired[1], wired[2]


def _meet(evse: SimpleEvse, vehicle: Vehicle | None, at_ms: int) -> None:
    for _ in range(_SETTLES_IN):
        before = (evse.offer_ma, evse.contact_closed, vehicle and vehicle.pilot)
        if vehicle is None:
            evse.step("A", cable_ma=0, diode_ok=True, at_ms=at_ms)
        else:
            evse.step(vehicle.pilot, cable_ma=vehicle.cable_ma, diode_ok=vehicle.diode_ok, at_ms=at_ms)
            vehicle.step(evse.offer_ma, powered=evse.contact_closed, at_ms=at_ms)
        if before == (evse.offer_ma, evse.contact_closed, vehicle and vehicle.pilot):
            return
    raise RuntimeError(f"car and board do not come to rest at {at_ms} ms")
