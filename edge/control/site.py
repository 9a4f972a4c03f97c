"""What never changes while the daemon runs: circuits, connectors, cards, prices. `edge.config` makes it.

Circuits stand parents first; indices point into `Site.circuits`. Phases are the supply's L1, L2, L3.
"""

from enum import StrEnum

from msgspec import Struct

from edge.events import Phases
from edge.records import Tariff

NO_PARENT = -1

NOMINAL_V = 230
"""EN 60038: turns power and energy into current where a plan is made; nothing is billed by it."""


class Circuit(Struct, frozen=True):
    """A node of the supply tree. Its meter, if any, measures all that flows through it, ours included."""

    id: str
    parent: int  # index into Site.circuits, NO_PARENT at the root
    limit_ma: Phases
    meter: str | None
    fallback_ma: Phases | None  # what all our connectors below may take while the meter is stale
    unbalance_ma: int | None = None  # most difference between two phases; None: not watched


class Outlet(Struct, frozen=True):
    """A connector as it is built and wired.

    `lines` maps the car's phase k to the supply phase lines[k]; its length is how many phases are wired.
    """

    number: int
    circuit: int  # index into Site.circuits
    lines: tuple[int, ...]  # e.g. (0, 1, 2), rotated (1, 2, 0), single-phase (2,)
    min_ma: int
    max_ma: int
    meter: str
    ventilated: bool  # may serve cars that ask for ventilation (pilot state D)
    failsafe_ma: int = 0  # what its controller offers by itself when nobody talks to it


class Tier(Struct, frozen=True):
    """What a subscription is worth when current is short."""

    weight_percent: int = 100  # of an equal share
    priority: int = 0  # a higher class is admitted first, and filled first where `Sharing.strict`


class Card(Struct, frozen=True):
    """A locally known card: may start offline, billed to `contract`."""

    id: str  # canonical, as in events.Credential.id
    contract: str
    tier: Tier = Tier()


class ReaderSite(Struct, frozen=True):
    """A reader and the numbers of the connectors it serves."""

    id: str
    connectors: tuple[int, ...]


class Cap(Struct, frozen=True):
    """A limit: per phase, in total, or both. None: not limited in this way."""

    current_ma: Phases | None = None
    power_mw: int | None = None

    def text(self) -> str:
        """The limit in words, as a technician says it."""
        said = []
        if self.current_ma is not None:
            said.append("/".join(f"{ma // 1000}.{ma % 1000 // 100}" for ma in self.current_ma) + " A")
        if self.power_mw is not None:
            said.append(f"{self.power_mw // 1_000_000}.{self.power_mw % 1_000_000 // 100_000} kW")
        return " and ".join(said) or "no limit"


class SignalKind(StrEnum):
    """What a signal means beyond its numbers."""

    LIMIT = "limit"  # nothing more
    GRID = "grid"  # the grid operator's (EnWG section 14a): never below 4.2 kW for each connector
    SOLAR = "solar"  # follows the surplus that the circuit's own meter shows; nobody sends it


class Solar(Struct, frozen=True):
    """When charging by surplus starts and stops. Powers in mW."""

    import_mw: int = 0  # what may be taken from the grid on top of the surplus
    start_after_ms: int = 60_000  # the surplus must last so long for a first car to start
    stop_after_ms: int = 600_000  # and be missing so long for the last one to be paused


class Signal(Struct, frozen=True):
    """A source of limits that is configured, so that its silence means something.

    Of `circuit` (an index) and `connector` (an index of `Site.outlets`) one is None.
    """

    source: str
    kind: SignalKind
    circuit: int | None
    connector: int | None
    fallback: Cap | None  # holds before the first word and after the last has expired; None: no limit
    solar: Solar | None = None


class Sharing(Struct, frozen=True):
    """How current is shared when it is short; [sharing]."""

    slot_ms: int = 15 * 60_000
    min_on_ms: int = 10 * 60_000
    min_off_ms: int = 5 * 60_000
    strict: bool = False
    reclaim_after_ms: int = 10_000
    reclaim_headroom_ma: int = 2_000


class Site(Struct, frozen=True):
    """The whole resolved station as the core sees it."""

    station: str
    circuits: tuple[Circuit, ...]
    outlets: tuple[Outlet, ...]
    readers: tuple[ReaderSite, ...]
    cards: dict[str, Card]  # by canonical id
    tariff: Tariff
    sharing: Sharing = Sharing()
    signals: tuple[Signal, ...] = ()

    def index(self, number: int | None) -> int | None:
        """The index of the connector with this number; None if there is none."""
        return next((i for i, outlet in enumerate(self.outlets) if outlet.number == number), None)

    def is_below(self, i: int, circuit: int) -> bool:
        """Whether connector `i` (an index) hangs on this circuit or one below it."""
        c = self.outlets[i].circuit
        while c not in (circuit, NO_PARENT):
            c = self.circuits[c].parent
        return c == circuit
