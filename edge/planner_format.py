"""Reading an instance for `edge.planner`: either a whole one, or every problem in it, one clear line each.

A line is `place: what is wrong; remedy`. Items are counted from 0, as in JSON paths: `connectors[2].min`.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation
from numbers import Integral, Rational, Real
from typing import NamedTuple

from edge.control.sharing import MOST_CONNECTORS, MOST_MA
from edge.errors import EdgeError
from edge.toml_strict import Problems, nearest, shown

Id = int | str
Lines = tuple[int, int, int]

MOST_CIRCUITS = 8192
MOST_DEPTH = 64
"""Circuits one above the other; real sites have five. Bounds keep a wrong file from filling the memory."""

MOST_A = Decimal(MOST_MA).scaleb(-3)
_MOST_LIMIT_A = 1_000_000_000
"""Limits may be larger than what can be shared out, as people write 99999 for none."""

_LEAST_WEIGHT, _MOST_WEIGHT = Decimal("1e-9"), Decimal("1e9")
_MILLI = Decimal("0.001")
_EXACT = Context(prec=40)
_INT64 = 2**63
_MOST_TEXT = 64
_MOST_NAMED = 20
_NO_PARENT = -1
_MISSING = object()

_REMEDIES = {
    "parent": "write the id of the circuit that feeds it, or -1 when none does",
    "limit": "write what the fuse carries, in A for L1, L2, L3, e.g. [32, 32, 32]",
    "background": "write the load that is not ours, in A for L1, L2, L3, 0 or more",
    "circuit": "write the id of the circuit it hangs on",
    "phases": "write 1 for each of L1, L2, L3 that it loads, else 0, e.g. [1, 1, 1]",
    "min": "write the least current it charges with, in A, e.g. 6",
    "max": "write the most current it can take, in A, e.g. 32",
    "weight": "write a number from 1e-9 to 1e9; 1 is an equal share",
    "priority": "write a number; a higher one is admitted first",
    "rank": "write a number; a lower one is admitted first",
    "active": "write true or false",
    "id": f"write a whole number or a text of 1 to {_MOST_TEXT} characters",
}


class InstanceError(EdgeError):
    """What was given is no instance. `problems` holds one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Circuit(NamedTuple):
    """A circuit as read; `parent` is an index, -1 at a root."""

    id: Id
    parent: int
    limit_ma: Lines
    background_ma: Lines


class Connector(NamedTuple):
    """A connector as read; `circuit` is an index, `lines` a bit mask (1 = L1, 2 = L2, 4 = L3)."""

    id: Id
    circuit: int
    lines: int
    min_ma: int
    max_ma: int
    weight: int | Decimal
    priority: int | Decimal
    rank: int | Decimal
    active: bool


def parse(text: bytes) -> object:
    """Parse JSON; decimals come exact. Raises `InstanceError` with one line."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=Decimal)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if b"\n" in text.strip() else ""
        problem = f"{line}column {error.colno}: {error.msg}; this is not JSON, look for quotes and brackets"
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1}: not UTF-8; save it as UTF-8 text"
    except (ValueError, InvalidOperation):  # more digits, or a larger exponent, than Python reads
        problem = "a number is far too large or too small; correct it"
    except RecursionError:
        problem = "brackets are nested too deeply; an instance needs three levels"
    raise InstanceError([problem])


def read(raw: object) -> tuple[list[Circuit], list[Connector]]:
    """Check a whole instance. Raises `InstanceError` with every problem."""
    if not isinstance(raw, Mapping):
        raise InstanceError([f"{_shown(raw)} is no instance; write an object with circuits and connectors"])
    problems = Problems()
    circuit_items = _items(raw, "circuits", MOST_CIRCUITS, problems)
    connector_items = _items(raw, "connectors", MOST_CONNECTORS, problems)
    ids, circuit_of = _ids(circuit_items)
    circuits = [
        Circuit(
            name,
            parent,
            item.lines_ma("limit", ROUND_FLOOR),
            item.lines_ma("background", ROUND_CEILING) if "background" in item.fields else (0, 0, 0),
        )
        for item, name, parent in zip(circuit_items, ids, _parents(circuit_items, circuit_of), strict=True)
    ]
    ids, _ = _ids(connector_items)
    connectors = [
        Connector(
            name,
            item.reference("circuit", circuit_of),
            item.mask("phases"),
            item.ma("min", ROUND_CEILING),
            item.ma("max", ROUND_FLOOR),
            item.weight("weight"),
            item.number("priority", 0),
            item.number("rank", 0),
            item.flag("active"),
        )
        for item, name in zip(connector_items, ids, strict=True)
    ]
    if problems.lines:
        raise InstanceError(problems.lines)
    return circuits, connectors


class _Item(NamedTuple):
    """One object of a list. What is wrong is noted with its place, and reads as anything."""

    fields: Mapping[object, object]
    place: str
    problems: Problems

    def wrong(self, key: str, what: str, remedy: str = "") -> None:
        self.problems.note(f"{self.place}.{key}", what, remedy or _REMEDIES[key.partition("[")[0]])

    def required(self, key: str) -> object:
        raw = self.fields.get(key, _MISSING)
        if raw is _MISSING:
            self.wrong(key, "missing")
        return raw

    def id(self, key: str) -> Id | None:
        raw = self.required(key)
        if isinstance(raw, str) and 0 < len(raw) <= _MOST_TEXT and raw.isprintable():
            return str(raw)
        number = _number(raw)
        if isinstance(number, int) and -_INT64 <= number < _INT64:
            return number
        if raw is not _MISSING:
            self.wrong(key, f"{_shown(raw)} is no id", _REMEDIES["id"])
        return None

    def reference(self, key: str, known: Mapping[Id, int]) -> int:
        name = self.id(key)
        if name is not None and name not in known:
            remedy = nearest(name, known) if len(known) <= _MOST_NAMED else ""
            self.wrong(key, f"there is no circuit {_shown(name)}", remedy)
        return -1 if name is None else known.get(name, -1)

    def ma(self, key: str, rounding: str) -> int:
        raw = self.required(key)
        return 0 if raw is _MISSING else self._ma(key, raw, rounding, MOST_A)

    def lines_ma(self, key: str, rounding: str) -> Lines:
        three = self._three(key)
        if three is None:
            return (0, 0, 0)
        a, b, c = (self._ma(f"{key}[{p}]", raw, rounding, _MOST_LIMIT_A) for p, raw in enumerate(three))
        return a, b, c

    def mask(self, key: str) -> int:
        mask = 0
        flags = self._three(key)
        for p, raw in enumerate(flags or ()):
            bit = _flag(raw)
            if bit is None:
                self.wrong(f"{key}[{p}]", f"{_shown(raw)} is neither 0 nor 1")
            mask |= (bit is not False) << p
        if flags is not None and not mask:
            self.wrong(key, "it loads no phase")
        return mask

    def number(self, key: str, default: int) -> int | Decimal:
        raw = self.fields.get(key, default)
        number = _number(raw)
        if number is None:
            self.wrong(key, f"{_shown(raw)} is not a number")
        return default if number is None else number

    def weight(self, key: str) -> int | Decimal:
        weight = self.number(key, 1)
        if not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
            how = "not above 0" if weight <= 0 else "too small" if weight < 1 else "too large"
            self.wrong(key, f"{_shown(self.fields[key])} is {how}")
        return weight

    def flag(self, key: str) -> bool:
        raw = self.fields.get(key, True)
        flag = _flag(raw)
        if flag is None:
            self.wrong(key, f"{_shown(raw)} is neither true nor false")
        return flag is not False

    def _three(self, key: str) -> Sequence[object] | None:
        raw = self.required(key)
        if isinstance(raw, list | tuple) and len(raw) == 3:
            return raw
        if raw is not _MISSING:
            self.wrong(key, f"{_shown(raw)} is not a list of three")
        return None

    def _ma(self, key: str, raw: object, rounding: str, most: int | Decimal) -> int:
        number = _number(raw)
        if number is None:
            self.wrong(key, f"{_shown(raw)} is not a number of amps")
        elif number < 0:
            self.wrong(key, f"{_shown(raw)} is negative")
        elif number > most:
            self.wrong(key, f"{_shown(raw)} is more than {most} A")
        elif isinstance(number, int):
            return number * 1000
        else:
            return int(number.quantize(_MILLI, rounding, _EXACT).scaleb(3, _EXACT))
        return 0


def _items(raw: Mapping[object, object], name: str, most: int, problems: Problems) -> list[_Item]:
    found = raw.get(name, _MISSING)
    if not isinstance(found, list | tuple):
        what = "missing" if found is _MISSING else f"{_shown(found)} is not a list"
        problems.note(name, what, "write a list of objects")
        return []
    if len(found) > most:
        problems.note(name, f"{len(found)} are too many", f"write up to {most}")
        return []
    items = []
    for k, fields in enumerate(found):
        if isinstance(fields, Mapping):
            items.append(_Item(fields, f"{name}[{k}]", problems))
        else:
            problems.note(f"{name}[{k}]", f"{_shown(fields)} is not an object", 'write {"id": ...}')
    return items


def _ids(items: list[_Item]) -> tuple[list[Id], dict[Id, int]]:
    """The ids, and where each stands; "" for a wrong one.

    Ids that read the same are refused, as an answer would not say which is meant.
    """
    ids: list[Id] = []
    known: dict[Id, int] = {}
    first: dict[str, str] = {}
    for item in items:
        name = item.id("id")
        if name is not None:
            place = first.setdefault(str(name), item.place)
            if place != item.place:
                item.wrong("id", f"{_shown(name)} is the id of {place} too", "write another one")
            known.setdefault(name, len(ids))
        ids.append("" if name is None else name)
    return ids, known


def _parents(items: list[_Item], known: dict[Id, int]) -> list[int]:
    """The parent of each circuit as an index; every one that cannot be is noted."""
    if _NO_PARENT in known:
        items[known[_NO_PARENT]].wrong("id", "-1 stands for no circuit", "write another one")
    parents = [
        -1 if _number(item.fields.get("parent")) == _NO_PARENT else item.reference("parent", known)
        for item in items
    ]
    for circle in _circles(parents):
        names = " -> ".join(_shown(items[c].fields["id"]) for c in [*circle[:9], circle[0]])
        items[circle[0]].wrong("parent", f"a circle of {len(circle)}, {names}")
        for c in circle:
            parents[c] = -1
    depth: list[int] = []
    for c, parent in enumerate(parents):
        if parent >= c:
            name = _shown(items[parent].fields["id"])
            items[c].wrong("parent", f"{name} stands after it", "write parents before their children")
        depth.append(depth[parent] + 1 if 0 <= parent < c else 1)
        if depth[c] == MOST_DEPTH + 1:
            items[c].wrong("parent", f"more than {MOST_DEPTH} circuits one above the other", "leave some out")
    return parents


def _circles(parents: list[int]) -> list[list[int]]:
    circles = []
    seen: dict[int, int] = {}  # circuit -> where the walk upwards began that came by
    for c in range(len(parents)):
        at = c
        while at >= 0 and at not in seen:
            seen[at] = c
            at = parents[at]
        if at >= 0 and seen[at] == c:
            circle = [at]
            while parents[circle[-1]] != at:
                circle.append(parents[circle[-1]])
            circles.append(circle)
    return circles


def _number(raw: object) -> int | Decimal | None:
    """A finite number, as it reads in decimals; None for anything else."""
    if isinstance(raw, bool):
        return None
    if isinstance(raw, int | Integral):
        return int(raw)
    if isinstance(raw, Real) and not isinstance(raw, Rational):
        raw = Decimal(float.__repr__(float(raw)))  # 6.1 is meant, not the binary fraction next to it
    return raw if isinstance(raw, Decimal) and raw.is_finite() else None


def _flag(raw: object) -> bool | None:
    if isinstance(raw, bool):
        return raw
    number = _number(raw)
    return bool(number) if number in (0, 1) else None


def _shown(raw: object) -> str:
    return "null" if raw is None else " ".join(shown(raw).split())
