"""A real garage: who came, for how long, what the cars took and what their drivers said; and how it is wired.

The sessions are those of `data/` (see its README). What the data does not tell is drawn from a seed: on how
many phases a car charges and up to which current.
"""

import csv
import gzip
import random
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.control.site import NO_PARENT, Circuit, Outlet, Site
from edge.records import Tariff

SESSIONS = Path(__file__).parent / "data" / "caltech_2019-05-01_2019-08-31.csv.gz"
WEEK = (date(2019, 5, 13), 5)
"""First day and number of days: the five working days with the most energy."""

VOLTS = 230  # line to neutral
MIN_MA = 6_000
MAX_MA = 32_000
GROUP = 8
"""Connectors on one sub-circuit."""

FUSE_MA = 63_000
"""Of a sub-circuit: a quarter of what its connectors could take."""

RATIOS = (14, 19, 28, 38, 57)
"""Root limits in percent of the uncontrolled peak."""

KINDS = ((1, 16_000, 20), (1, 32_000, 20), (3, 16_000, 45), (3, 32_000, 15))
"""Phases, maximum in mA and share in percent of the cars: 3.7, 7.4, 11 and 22 kW."""

Floats = NDArray[np.float64]


class Car(NamedTuple):
    """One session. Times in seconds from midnight of the first day, energies in Wh."""

    outlet: int  # index into Site.outlets
    arrives_s: int
    leaves_s: int
    wish_wh: float  # what it takes if it can
    max_ma: int  # its own; nobody tells the station
    phases: int  # on which it charges
    asked_wh: float | None  # what the driver asked for, if he said anything
    says_leaves_s: int | None

    @property
    def most_w(self) -> float:
        """What it draws unhindered."""
        return self.max_ma * self.phases * VOLTS / 1000


class Garage(NamedTuple):
    """A site with the cars that come to it."""

    site: Site
    cars: tuple[Car, ...]
    peak_ma: int  # per phase, balanced, if every car took what it can on arrival
    clipped: int  # cars whose wish was cut to what they could take in their stay


class Outcome(NamedTuple):
    """What became of the cars."""

    wh: Floats  # taken, per car
    pauses: int  # offers to cars that asked, taken to nothing
    changes: int  # of offers to cars that asked, by 0.1 A or more
    charging_h: float  # in which cars asked and were offered something
    over_a: float  # largest excess of a circuit's phase over its limit; below 0 where none was full


def _sessions(first: date, days: int) -> list[dict[str, str]]:
    """Rows of sessions that begin within these days."""
    with gzip.open(SESSIONS, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = {(first + timedelta(days=d)).isoformat() for d in range(days)}
    return [row for row in rows if row["arrival"][:10] in wanted]


def stations() -> list[str]:
    """Names of all stations of the garage, in the order of their sub-circuits."""
    with gzip.open(SESSIONS, "rt", encoding="utf-8") as file:
        return sorted({row["station_id"] for row in csv.DictReader(file)})


def garage(first: date = WEEK[0], days: int = WEEK[1], *, three_phase: bool = True, seed: int = 7) -> Garage:
    """The garage on a three-phase tree, or with single-phase sockets spread over the phases."""
    names = stations()
    chance = random.Random(seed)  # noqa: S311 - no secret, a repeatable draw
    midnight = datetime.fromisoformat(f"{first}T00:00:00-07:00")

    def seconds(text: str) -> int:
        return round((datetime.fromisoformat(text) - midnight).total_seconds())

    cars, clipped = [], 0
    for row in _sessions(first, days):
        arrives, leaves = seconds(row["arrival"]), seconds(row["departure"])
        wish_wh = float(row["delivered_energy (kWh)"]) * 1000
        stated = row["claimed"] == "True"
        # A car that took more than its kind can is of the smallest kind that can.
        able = sorted(KINDS, key=lambda kind: kind[0] * kind[1])
        phases, max_ma, _ = chance.choices(KINDS, [kind[2] for kind in KINDS])[0]
        needs_w = wish_wh * 3600 / (leaves - arrives)
        if phases * max_ma * VOLTS / 1000 < needs_w:
            phases, max_ma, _ = next(
                (kind for kind in able if kind[0] * kind[1] * VOLTS / 1000 >= needs_w), able[-1]
            )
        if not three_phase:
            max_ma = 32_000 if needs_w > 16 * VOLTS else max_ma
            phases = 1
        car = Car(
            outlet=names.index(row["station_id"]),
            arrives_s=arrives,
            leaves_s=leaves,
            wish_wh=wish_wh,
            max_ma=max_ma,
            phases=phases,
            asked_wh=float(row["requested_energy (kWh)"]) * 1000 if stated else None,
            says_leaves_s=seconds(row["estimated_departure"]) if stated else None,
        )
        possible_wh = car.most_w * (leaves - arrives) / 3600
        clipped += possible_wh < wish_wh
        cars.append(car._replace(wish_wh=min(wish_wh, possible_wh)))
    cars.sort(key=lambda each: each.arrives_s)
    peak_ma = _peak_ma(cars)
    return Garage(_site(len(names), peak_ma, three_phase=three_phase), tuple(cars), peak_ma, clipped)


def _peak_ma(cars: Iterable[Car]) -> int:
    """The highest sum of currents when every car takes its maximum from its arrival, per phase."""
    edges: list[tuple[float, int]] = []
    for car in cars:
        edges.append((car.arrives_s, car.max_ma * car.phases))
        edges.append((car.arrives_s + car.wish_wh * 3600 / car.most_w, -car.max_ma * car.phases))
    total = highest = 0
    for _, ma in sorted(edges):
        total += ma
        highest = max(highest, total)
    return highest // 3


def _site(connectors: int, root_ma: int, *, three_phase: bool) -> Site:
    """A measured root and sub-circuits; the car's L1 goes round the phases from connector to connector."""
    main = Circuit("main", NO_PARENT, (root_ma,) * 3, "main", (root_ma // 4,) * 3)
    groups = [Circuit(f"row{g + 1}", 0, (FUSE_MA,) * 3, None, None) for g in range(-(-connectors // GROUP))]
    outlets = []
    for i in range(connectors):
        lines = tuple((i + k) % 3 for k in range(3 if three_phase else 1))
        outlets.append(Outlet(i + 1, 1 + i // GROUP, lines, MIN_MA, MAX_MA, f"m{i + 1}", ventilated=False))
    tariff = Tariff("EUR", Decimal("0.40"), Decimal(0), Decimal(19))
    return Site("garage", (main, *groups), tuple(outlets), (), {}, tariff)


def limited(place: Garage, percent: int) -> Garage:
    """The same garage with a root limit of this many percent of its uncontrolled peak."""
    root_ma = place.peak_ma * percent // 100 // 1000 * 1000
    main = Circuit("main", NO_PARENT, (root_ma,) * 3, "main", (root_ma // 4,) * 3)
    site = place.site
    return place._replace(
        site=Site(
            site.station, (main, *site.circuits[1:]), site.outlets, site.readers, site.cards, site.tariff
        )
    )


def rows(place: Garage) -> tuple[Floats, Floats]:
    """Which car loads which row, and the limit of each row in A; row 3c + p is phase p of circuit c."""
    site = place.site
    loads = np.zeros((3 * len(site.circuits), len(place.cars)))
    for k, car in enumerate(place.cars):
        outlet = site.outlets[car.outlet]
        circuit = outlet.circuit
        while circuit != NO_PARENT:
            for line in outlet.lines[: car.phases]:
                loads[3 * circuit + line, k] = 1
            circuit = site.circuits[circuit].parent
    limits = np.array([ma / 1000 for circuit in site.circuits for ma in circuit.limit_ma])
    return loads, limits


def jain(values: Floats) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything."""
    return float(values.sum() ** 2 / (len(values) * (values**2).sum())) if values.any() else 0.0
