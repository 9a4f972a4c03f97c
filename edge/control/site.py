"""What never changes while the daemon runs: circuits, connectors, cards, prices. `edge.config` makes it.

Circuits stand parents first; indices point into `Site.circuits`. Phases are the supply's L1, L2, L3.
"""

from msgspec import Struct

from edge.events import Phases
from edge.records import Tariff

NO_PARENT = -1


class Circuit(Struct, frozen=True):
    """A node of the supply tree. Its meter, if any, measures all that flows through it, ours included."""

    id: str
    parent: int  # index into Site.circuits, NO_PARENT at the root
    limit_ma: Phases
    meter: str | None
    fallback_ma: Phases | None  # what all our connectors below may take while the meter is stale


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


class Card(Struct, frozen=True):
    """A locally known card: may start offline, billed to `contract`."""

    id: str  # canonical, as in events.Credential.id
    contract: str


class ReaderSite(Struct, frozen=True):
    """A reader and the numbers of the connectors it serves."""

    id: str
    connectors: tuple[int, ...]


class Site(Struct, frozen=True):
    """The whole resolved station as the core sees it."""

    station: str
    circuits: tuple[Circuit, ...]
    outlets: tuple[Outlet, ...]
    readers: tuple[ReaderSite, ...]
    cards: dict[str, Card]  # by canonical id
    tariff: Tariff
