"""One step under way: the station so far, the commands so far, and the words in which rules are written."""

from msgspec.structs import replace

from edge.commands import Announce, Command
from edge.control.allocation import allocate
from edge.control.faults import Fault, cleared, raised
from edge.control.session import Trigger, after
from edge.control.site import Outlet
from edge.control.state import CircuitState, Connector, Station


class Turn:
    """What the rules of `watch`, `lifecycle` and `station` work on; lives for one event."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.commands: list[Command] = []

    @property
    def now(self) -> int:
        """Monotonic ms of the event being handled."""
        return self.station.now_ms

    def at(self, i: int) -> Connector:
        """The connector at index `i`."""
        return self.station.connectors[i]

    def outlet(self, i: int) -> Outlet:
        """How connector `i` is built."""
        return self.station.site.outlets[i]

    def put(self, i: int, connector: Connector) -> None:
        """Replace the connector at index `i`."""
        if connector is self.at(i):
            return
        rest = self.station.connectors
        self.station = replace(self.station, connectors=(*rest[:i], connector, *rest[i + 1 :]))

    def trigger(self, i: int, trigger: Trigger) -> None:
        """Move the session of connector `i` by its table."""
        connector = self.at(i)
        state = after(connector.state, trigger)
        if state is not connector.state:
            self.put(i, replace(connector, state=state, since_ms=self.now))

    def announce(self, topic: str, text: str, i: int | None = None) -> None:
        """Tell people."""
        number = None if i is None else self.outlet(i).number
        self.commands.append(Announce(self.now, topic, text, number))

    def raise_fault(self, i: int, name: str, detail: str) -> None:
        """Let a fault stand at connector `i`; it is announced when the turn ends."""
        connector = self.at(i)
        faults = raised(connector.faults, name, self.now, detail)
        if faults is not connector.faults:
            self.put(i, replace(connector, faults=faults))

    def clear_fault(self, i: int, *names: str) -> None:
        """End faults of connector `i`."""
        for name in names:
            connector = self.at(i)
            faults = cleared(connector.faults, name)
            if faults is not connector.faults:
                self.put(i, replace(connector, faults=faults))

    def raise_station_fault(self, name: str, detail: str, subject: str = "") -> None:
        """Let a fault of the whole station stand."""
        self.station = replace(
            self.station, faults=raised(self.station.faults, name, self.now, detail, subject)
        )

    def clear_station_fault(self, name: str, subject: str = "") -> None:
        """End a fault of the whole station."""
        self.station = replace(self.station, faults=cleared(self.station.faults, name, subject))

    def allocate(self) -> None:
        """Work out all offers anew and send what changed."""
        self.station, offers = allocate(self.station)
        self.commands += offers

    def put_circuit(self, c: int, state: CircuitState) -> None:
        """Replace the state of circuit `c`."""
        if state is self.station.circuits[c]:
            return
        rest = self.station.circuits
        self.station = replace(self.station, circuits=(*rest[:c], state, *rest[c + 1 :]))

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
        names_before = {(fault.kind.name, fault.subject) for fault in before}
        names_now = {(fault.kind.name, fault.subject) for fault in now}
        for fault in now:
            if (fault.kind.name, fault.subject) not in names_before:
                self.announce("fault_raised", f"{fault.kind.name}: {fault.detail}", i)
        for fault in before:
            if (fault.kind.name, fault.subject) not in names_now:
                self.announce("fault_cleared", f"{fault.kind.name} {fault.subject}".rstrip(), i)
