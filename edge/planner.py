"""Sharing without a station: what `edge share` answers, as a Python call for planners and simulators.

    >>> from edge.planner import share
    >>> garage = {
    ...     "circuits": [{"id": "main", "parent": -1, "limit": [25, 25, 25], "background": [4.5, 0, 0]}],
    ...     "connectors": [
    ...         {"id": 1, "circuit": "main", "phases": [1, 1, 1], "min": 6, "max": 16},
    ...         {"id": 2, "circuit": "main", "phases": [1, 0, 0], "min": 6, "max": 32},
    ...         {"id": 3, "circuit": "main", "phases": [1, 1, 1], "min": 10, "max": 16, "rank": 1},
    ...     ],
    ... }
    >>> for allocation in share(garage):
    ...     print(allocation.id, allocation.current, allocation.bound_by)
    1 10.25 circuit main L1
    2 10.25 circuit main L1
    3 0.0 minimum does not fit circuit main L1

An instance has two lists; keys that are not named here are ignored. Currents are amps as decimals, counted in
whole milliamps: limits and maximums are rounded down, backgrounds and minimums up.

    circuits    id, parent (-1: none), limit [L1, L2, L3], background [L1, L2, L3] = [0, 0, 0], the load at
                that circuit that is not ours. A parent stands before its children.
    connectors  id, circuit, phases [L1, L2, L3] of 0 or 1 (as rotated, and as the car uses them), min, max,
                weight = 1, priority = 0 (a higher one is admitted first), rank = 0 (a lower one is admitted
                first), active = true (wants current)

An id is a whole number or a text. Among connectors of one priority and rank the lower id is admitted first,
so the order of the lists changes nothing. Weights count as ratios: exact where whole numbers up to 2^18 can
express them, else to the nearest.

Who asks for one site again and again keeps a `Planner`, which prepares the site only once:

    planner = Planner()
    for instance in day:
        planner.share(instance, strict=True)

`edge.control.sharing` says what the answer is, and how it is found.
"""

from collections.abc import Iterator
from fractions import Fraction
from math import gcd, lcm
from typing import NamedTuple

from edge.control.sharing import INACTIVE, MOST_MA, MOST_WEIGHT, OWN_MAXIMUM, UNFIT, Tree
from edge.planner_format import MOST_A, Circuit, Connector, Id, InstanceError, read


class Allocation(NamedTuple):
    """What one connector gets on each phase it loads, and what kept it from more."""

    id: Id
    current_ma: int
    bound_by: str

    @property
    def current(self) -> float:
        """In A."""
        return self.current_ma / 1000


class Plan(NamedTuple):
    """An instance with its answer. Circuits and connectors stand in an order of their own, not the input's.

    Row 3c + p of `room_ma` is phase p of circuit c; `x_ma` and `bound` are per connector, as the kernel gave
    them; `order` is the order of admission. `circuit_places` and `connector_places` say where each stood in
    the input.
    """

    circuits: list[Circuit]
    connectors: list[Connector]
    circuit_places: list[int]
    connector_places: list[int]
    order: list[int]
    room_ma: list[int]
    x_ma: list[int]
    bound: list[int]

    def allocations(self) -> list[Allocation]:
        """Per connector, in the order of the input."""
        listed = [Allocation("", 0, "")] * len(self.connectors)
        for i, place in enumerate(self.connector_places):
            listed[place] = Allocation(self.connectors[i].id, self.x_ma[i], self._bound_by(i))
        return listed

    def is_on(self, i: int) -> bool:
        """Whether connector i was admitted."""
        return self.x_ma[i] > 0 or (self.bound[i] >= OWN_MAXIMUM and self.connectors[i].min_ma == 0)

    def row_name(self, row: int) -> str:
        """A row as people call it."""
        return f"circuit {self.circuits[row // 3].id} L{row % 3 + 1}"

    def rows_of(self, i: int) -> Iterator[int]:
        """All rows connector i loads."""
        c, lines = self.connectors[i].circuit, self.connectors[i].lines
        while c >= 0:
            yield from (3 * c + p for p in range(3) if lines >> p & 1)
            c = self.circuits[c].parent

    def _bound_by(self, i: int) -> str:
        row = self.bound[i]
        if row < 0:
            return _ENDS[row]
        return self.row_name(row) if self.is_on(i) else f"minimum does not fit {self.row_name(row)}"


_ENDS = {OWN_MAXIMUM: "own maximum", UNFIT: "maximum below minimum", INACTIVE: "inactive"}


class Planner:
    """Shares instance after instance; while the site stays the same, its tree is built only once."""

    def __init__(self) -> None:
        self._shape: tuple[list[int], list[int], list[int]] = ([], [], [])
        self._tree = Tree(*self._shape)

    def share(self, instance: object, *, strict: bool = False) -> list[Allocation]:
        """Share once; the allocations come in the order of the connectors.

        With `strict` a higher priority is not only admitted, but also filled first. Raises `InstanceError`.
        """
        return self.plan(instance, strict=strict).allocations()

    def plan(self, instance: object, *, strict: bool = False) -> Plan:
        """Share once and keep what an explanation needs. Raises `InstanceError`."""
        listed_circuits, listed_connectors = read(instance)
        circuit_places = _by_depth_and_id(listed_circuits)
        moved = {place: c for c, place in enumerate(circuit_places)} | {-1: -1}
        circuits = [
            listed_circuits[k]._replace(parent=moved[listed_circuits[k].parent]) for k in circuit_places
        ]
        connector_places = sorted(
            range(len(listed_connectors)), key=lambda k: _numbers_first(listed_connectors[k].id)
        )
        connectors = [
            listed_connectors[k]._replace(circuit=moved[listed_connectors[k].circuit])
            for k in connector_places
        ]
        priority = _classes(connectors)
        asking = [i for i, connector in enumerate(connectors) if connector.active]
        order = sorted(asking, key=lambda i: (-priority[i], connectors[i].rank))
        room_ma = _headroom_ma(circuits)
        if max(room_ma, default=0) > MOST_MA < sum(connectors[i].max_ma for i in asking):
            raise InstanceError([f"connectors: together more than {MOST_A} A; so much cannot be shared out"])
        shape = ([c.parent for c in circuits], [c.circuit for c in connectors], [c.lines for c in connectors])
        if shape != self._shape:
            self._tree, self._shape = Tree(*shape), shape
        x_ma, bound = self._tree.solve(
            [min(ma, MOST_MA) for ma in room_ma],
            [connector.min_ma for connector in connectors],
            [connector.max_ma for connector in connectors],
            order,
            _whole_weights(connectors),
            priority,
            strict=strict,
        )
        return Plan(circuits, connectors, circuit_places, connector_places, order, room_ma, x_ma, bound)


def share(instance: object, *, strict: bool = False) -> list[Allocation]:
    """Share one instance, as `Planner.share` does. Raises `InstanceError`."""
    return Planner().share(instance, strict=strict)


def _numbers_first(name: Id) -> tuple[bool, int, str]:
    return (True, 0, name) if isinstance(name, str) else (False, name, "")


def _by_depth_and_id(circuits: list[Circuit]) -> list[int]:
    """Another order with parents before children, which does not depend on the given one."""
    depth: list[int] = []
    for circuit in circuits:
        depth.append(depth[circuit.parent] + 1 if circuit.parent >= 0 else 0)
    return sorted(range(len(circuits)), key=lambda c: (depth[c], _numbers_first(circuits[c].id)))


def _headroom_ma(circuits: list[Circuit]) -> list[int]:
    """Limit minus all background below, per row; never negative."""
    load = [ma for circuit in circuits for ma in circuit.background_ma]
    for c in range(len(circuits) - 1, -1, -1):
        parent = circuits[c].parent
        if parent >= 0:
            for p in range(3):
                load[3 * parent + p] += load[3 * c + p]
    limits = (ma for circuit in circuits for ma in circuit.limit_ma)
    return [max(0, limit - ma) for limit, ma in zip(limits, load, strict=True)]


def _whole_weights(connectors: list[Connector]) -> list[int]:
    """Whole numbers in the ratio of the weights, those of connectors that do not ask left out."""
    ratios = [Fraction(connector.weight) if connector.active else Fraction(0) for connector in connectors]
    common = lcm(*(ratio.denominator for ratio in ratios))
    whole = [ratio.numerator * (common // ratio.denominator) for ratio in ratios]
    unit = gcd(*whole) or 1
    top = max(whole, default=0) // unit
    if top <= MOST_WEIGHT:
        return [max(1, weight // unit) for weight in whole]
    return [max(1, (2 * MOST_WEIGHT * (weight // unit) + top) // (2 * top)) for weight in whole]


def _classes(connectors: list[Connector]) -> list[int]:
    """Priorities as small numbers in the same order."""
    number = {priority: k for k, priority in enumerate(sorted({c.priority for c in connectors}))}
    return [number[connector.priority] for connector in connectors]
