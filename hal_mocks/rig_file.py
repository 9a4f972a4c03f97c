"""RIG.toml: which peers a rig has and where each of them is. docs/rig.md explains it, `rigs/` has examples.

    file = read(Path("garage.toml"))           # raises RigFileError with every problem, one line each
    config = fill(template, names, "edge.toml")   # {lines.meters}, {broker.port} ... in a daemon's file

A problem is one line: `file: path.to.key = value: what is wrong; what to do`. Tables of a list are counted
from 1, as people count. Nothing is started or looked for here; that is done by `rig_custom`.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

from hal_mocks.meter import Phases
from hal_mocks.toml_text import FileError

ROTATIONS: Final = {
    "L1L2L3": (0, 1, 2),
    "L2L3L1": (1, 2, 0),
    "L3L1L2": (2, 0, 1),
    "L1": (0,),
    "L2": (1,),
    "L3": (2,),
}
"""How an outlet can be wired: the supply phase behind its L1, L2 and L3."""

NO_GPIO = (
    "the controller has no GPIO driver yet, so there is nothing that could use these pins; take this out and "
    "let a board answer on a line"
)

_MOST_A = 6_300  # the largest frame of low-voltage circuit-breakers
_BAUDS = (1200, 2400, 4800, 9600, 19_200, 38_400, 57_600, 115_200)
_SHOWN = 40  # so much of a wrong value is repeated
_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_][A-Za-z0-9_.-]*)\}")


class RigFileError(FileError):
    """A file describes no rig."""


@dataclass(frozen=True)
class NoiseTable:
    """What a bad cable does, as `wires.Noise`."""

    seed: int
    loss: float
    flip: float
    garbage: float


@dataclass(frozen=True)
class LineTable:
    """A serial line: a pty the rig makes at `path`, or a real port `device`.

    On a real port the rig's devices answer, unless `real` says that real ones do.
    """

    id: str
    path: str | None
    device: str | None
    real: bool
    baud: int | None  # a pty's pace; None: at once
    parity: Literal["N", "E", "O"] | None
    stop_bits: int | None
    noise: NoiseTable | None


@dataclass(frozen=True)
class PortTable:
    """A TCP port of the loopback on which devices answer (0: a free one), or a real gateway's address."""

    id: str
    host: str | None
    port: int
    real: bool
    noise: NoiseTable | None


@dataclass(frozen=True)
class MeterTable:
    """An SDM630."""

    id: str
    on: str  # a line or port
    unit: int
    start_wh: int
    serial_number: int


@dataclass(frozen=True)
class BoardTable:
    """A SimpleEVSE board."""

    id: str
    on: str
    unit: int
    boot_a: int
    min_a: int
    max_a: int
    firmware: int


@dataclass(frozen=True)
class CircuitTable:
    """A fuse and, where it has one, the meter behind it."""

    id: str
    limit_ma: Phases
    parent: str | None
    meter: str | None


@dataclass(frozen=True)
class ConnectorTable:
    """An outlet with its board and meter."""

    number: int
    circuit: str
    board: str
    meter: str | None
    phases: str


@dataclass(frozen=True)
class ReaderTable:
    """The card reader: virtual under a pcscd of the rig's own, in the daemon's memory, or a real one."""

    kind: Literal["virtual", "memory", "real"]
    name: str | None  # of a real one


@dataclass(frozen=True)
class BrokerTable:
    """A mosquitto of the rig's own, or the address of somebody else's."""

    host: str | None
    port: int | None


@dataclass(frozen=True)
class BackendTable:
    """The operator behind the broker."""

    prefix: str


@dataclass(frozen=True)
class RigFile:
    """All of it. What is None is not there."""

    name: str  # of the file
    lines: tuple[LineTable, ...]
    ports: tuple[PortTable, ...]
    meters: tuple[MeterTable, ...]
    boards: tuple[BoardTable, ...]
    circuits: tuple[CircuitTable, ...]
    connectors: tuple[ConnectorTable, ...]
    reader: ReaderTable | None
    broker: BrokerTable | None
    backend: BackendTable | None
    cards: dict[str, str]


def read(path: Path) -> RigFile:
    """Read and check a file. Raises `RigFileError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RigFileError([f"{path}: {error.strerror}; give the path of a readable RIG.toml"]) from error
    except UnicodeDecodeError as error:
        raise RigFileError([f"{path}: this is not UTF-8 text; save the file as UTF-8"]) from error
    return parse(text, str(path))


def parse(text: str, name: str) -> RigFile:
    """Parse and check the text of a file called `name`. Raises `RigFileError`."""
    try:
        raw = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError, ArithmeticError) as error:
        raise RigFileError(
            [f"{name}: {error}; this is not TOML, look for quotes, brackets and = there"]
        ) from error
    reading = _Reading(name)
    file = reading.file(raw)
    if reading.problems:
        raise RigFileError(reading.problems)
    return file


def fill(template: str, names: Mapping[str, str], name: str) -> str:
    """Put what the rig knows in the place of each {NAME} of a configuration. Raises `RigFileError`."""
    problems: list[str] = []
    lines: list[str] = []
    for number, line in enumerate(template.splitlines(keepends=True), start=1):
        if line.lstrip().startswith("#"):
            lines.append(line)
            continue
        problems += [
            f"{name}: line {number}: {{{word}}}: no placeholder; {_nearest(word, names)}"
            for word in _PLACEHOLDER.findall(line)
            if word not in names
        ]
        lines.append(_PLACEHOLDER.sub(lambda found: names.get(found[1], found[0]), line))
    if problems:
        raise RigFileError(problems)
    return "".join(lines)


# -- one value ---------------------------------------------------------------------------------------


class _Wrong(Exception):
    """A value cannot be taken; the text says what is wrong with it."""


class _NoValue:
    """Stands where the file has no usable value, so that the rest can still be checked."""


_NO_VALUE: Final[Any] = _NoValue()
_REQUIRED: Final[Any] = object()


@dataclass(frozen=True)
class _Key:
    """What a key may hold: `take` returns the value or raises `_Wrong`."""

    take: Callable[[object], object]
    remedy: str
    default: Any = _REQUIRED


def _text(pattern: str = r".{1,200}") -> Callable[[object], object]:
    def take(raw: object) -> object:
        if not isinstance(raw, str):
            raise _Wrong("not a text in quotes")
        if not raw.isprintable() or not re.fullmatch(pattern, raw):
            raise _Wrong("not in the form that is needed" if raw else "empty")
        return raw

    return take


def _whole(least: int, most: int) -> Callable[[object], object]:
    def take(raw: object) -> object:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise _Wrong("not a whole number")
        if not least <= raw <= most:
            raise _Wrong(f"less than {least}" if raw < least else f"more than {most}")
        return raw

    return take


def _one_of(*words: object) -> Callable[[object], object]:
    def take(raw: object) -> object:
        if not any(type(raw) is type(word) and raw == word for word in words):
            raise _Wrong(f"not one of {', '.join(_shown(word) for word in words)}")
        return raw

    return take


def _chance(raw: object) -> object:
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal) or not 0 <= raw <= 1:
        raise _Wrong("not a number from 0 to 1")
    return float(raw)


def _milliamps(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal) or not 0 < raw <= _MOST_A:
        raise _Wrong(f"not an ampere rating up to {_MOST_A} A")
    return int(raw * 1000)


def _limit(raw: object) -> object:
    if not isinstance(raw, list):
        return (_milliamps(raw),) * 3
    if len(raw) != len("123"):
        raise _Wrong("not one rating or three")
    return tuple(_milliamps(one) for one in raw)


_ID = _Key(_text(r"[A-Za-z0-9_-]{1,40}"), "give it a name of letters, digits, - and _")
_UNIT = _Key(_whole(1, 247), "give its Modbus address, 1 to 247")
_ON = _Key(_text(), "name the [[lines]] or [[ports]] it hangs on")
_REAL = _Key(_one_of(True, False), "write true where real devices answer", default=False)  # noqa: FBT003 - values
_NOISE = _Key(
    lambda raw: raw, "write a table, e.g. noise = { seed = 1, loss = 0.01 }", default=None
)  # its own keys are looked at in `_Reading.noise`

_LINE = {
    "id": _ID,
    "path": _Key(_text(), 'say where the pty shall stand, e.g. "{folder}/ttyMeters"', default=None),
    "device": _Key(_text(), 'name the real port, e.g. "/dev/ttyUSB0"', default=None),
    "real": _REAL,
    "baud": _Key(_one_of(*_BAUDS), "give the rate of the line", default=None),
    "parity": _Key(_one_of("N", "E", "O"), "none, even or odd", default=None),
    "stop_bits": _Key(_one_of(1, 2), "give 1 or 2", default=None),
    "noise": _NOISE,
}
_PORT = {
    "id": _ID,
    "host": _Key(_text(), "give the address of the real gateway", default=None),
    "port": _Key(_whole(0, 65_535), "give a TCP port, or 0 for a free one", default=0),
    "real": _REAL,
    "noise": _NOISE,
}
_NOISE_KEYS = {
    "seed": _Key(_whole(0, 2**31), "give any whole number", default=0),
    "loss": _Key(_chance, "the chance that a byte vanishes", default=0.0),
    "flip": _Key(_chance, "the chance that a bit of a byte turns over", default=0.0),
    "garbage": _Key(_chance, "the chance of garbage before a transmission", default=0.0),
}
_METER = {
    "id": _ID,
    "on": _ON,
    "unit": _UNIT,
    "start_wh": _Key(_whole(0, 10**9), "say what its register begins with", default=1_000_000),
    "serial_number": _Key(_whole(0, 2**32 - 1), "give its serial number", default=None),
}
_BOARD = {
    "id": _ID,
    "on": _ON,
    "unit": _UNIT,
    "boot_a": _Key(_whole(0, 80), "say what it offers after its start", default=0),
    "min_a": _Key(_whole(0, 80), "give the least current it offers", default=6),
    "max_a": _Key(_whole(0, 80), "give the most current it offers", default=32),
    "firmware": _Key(_whole(1, 255), "give the version of its firmware", default=17),
}
_CIRCUIT = {
    "id": _ID,
    "limit_a": _Key(_limit, "give the fuse's rating, or [L1, L2, L3]"),
    "parent": _Key(_text(), "name the circuit above; the root has none", default=None),
    "meter": _Key(_text(), "name one of [[meters]]", default=None),
}
_CONNECTOR = {
    "number": _Key(_whole(1, 999), "give the number painted on it"),
    "circuit": _Key(_text(), "name one of [[circuits]]"),
    "board": _Key(_text(), "name one of [[boards]]"),
    "meter": _Key(_text(), "name one of [[meters]]", default=None),
    "phases": _Key(_one_of(*ROTATIONS), "say which supply phase is behind its L1, L2, L3", default="L1L2L3"),
}
_READER = {
    "kind": _Key(
        _one_of("virtual", "memory", "real"),
        '"virtual" is under a pcscd of the rig\'s own, "memory" needs no pcscd',
        default=None,
    ),
    "name": _Key(_text(), "give a part of the name that pcsc_scan shows", default=None),
}
_BROKER = {
    "host": _Key(_text(), "give the address of somebody else's broker", default=None),
    "port": _Key(_whole(1, 65_535), "give a TCP port, or leave it out for a free one", default=None),
}
_BACKEND = {"prefix": _Key(_text(r"[^+#]{1,100}"), "give the first levels of the topics", default="edge")}
_CARD = _Key(
    _text(r"(?:[0-9A-Fa-f]{2}){4}|(?:[0-9A-Fa-f]{2}){7}|(?:[0-9A-Fa-f]{2}){10}"),
    "give 4, 7 or 10 bytes in hex",
)

_LISTS = {
    "lines": _LINE, "ports": _PORT, "meters": _METER, "boards": _BOARD, "circuits": _CIRCUIT,
    "connectors": _CONNECTOR,
}  # fmt: skip
_SINGLE = {"reader": _READER, "broker": _BROKER, "backend": _BACKEND}

_Row = dict[str, Any]


# -- the whole file ----------------------------------------------------------------------------------


class _Reading:
    """One reading of one file."""

    def __init__(self, name: str) -> None:
        self.problems: list[str] = []
        self._name = name

    def file(self, raw: _Row) -> RigFile:
        """Take everything, noting every problem."""
        for key in raw:
            if key == "gpio":
                self._note(key, NO_GPIO)
            elif key not in (*_LISTS, *_SINGLE, "cards"):
                self._note(key, f"unknown table; {_nearest(key, (*_LISTS, *_SINGLE, 'cards'))}")
        rows = {key: self._rows(key, raw.get(key, []), keys) for key, keys in _LISTS.items()}
        single = {
            key: self._row(key, raw[key], keys) if key in raw else None for key, keys in _SINGLE.items()
        }
        cards = self._cards(raw.get("cards", {}))
        _Fit(rows, single, self._note).check()
        if self.problems:
            raise RigFileError(self.problems)
        reader = single["reader"]
        if reader is not None:
            reader["kind"] = reader["kind"] or ("real" if reader["name"] else "virtual")
        for number, meter in enumerate(rows["meters"]):
            meter["serial_number"] = meter["serial_number"] or 17_400_001 + number
        for circuit in rows["circuits"]:
            circuit["limit_ma"] = circuit.pop("limit_a")
        return RigFile(
            self._name,
            lines=tuple(LineTable(**row) for row in rows["lines"]),
            ports=tuple(PortTable(**row) for row in rows["ports"]),
            meters=tuple(MeterTable(**row) for row in rows["meters"]),
            boards=tuple(BoardTable(**row) for row in rows["boards"]),
            circuits=tuple(CircuitTable(**row) for row in rows["circuits"]),
            connectors=tuple(ConnectorTable(**row) for row in rows["connectors"]),
            reader=None if reader is None else ReaderTable(**reader),
            broker=None if single["broker"] is None else BrokerTable(**single["broker"]),
            backend=None if single["backend"] is None else BackendTable(**single["backend"]),
            cards=cards,
        )

    def _note(self, where: str, sentence: str) -> None:
        self.problems.append(f"{self._name}: {where}: {sentence}")

    def _rows(self, key: str, raw: object, keys: dict[str, _Key]) -> list[_Row]:
        if not isinstance(raw, list):
            self._note(key, f"not a list of tables; write a table [[{key}]] for each")
            return []
        rows = []
        for number, one in enumerate(raw, start=1):
            row = self._row(f"{key}[{number}]", one, keys)
            if "noise" in row and row["noise"] is not None:
                noise = self._row(f"{key}[{number}].noise", row["noise"], _NOISE_KEYS)
                row["noise"] = _NO_VALUE if _NO_VALUE in noise.values() else NoiseTable(**noise)
            rows.append(row)
        return rows

    def _row(self, where: str, raw: object, keys: dict[str, _Key]) -> _Row:
        if not isinstance(raw, dict):
            self._note(where, f"not a table; write [{where.partition('[')[0]}] with keys below it")
            return dict.fromkeys(keys, _NO_VALUE)
        for key in raw:
            if key == "gpio":
                self._note(f"{where}.{key}", NO_GPIO)
            elif key not in keys:
                self._note(f"{where}.{key}", f"unknown key; {_nearest(key, keys)}")
        return {name: self._value(f"{where}.{name}", raw, name, key) for name, key in keys.items()}

    def _value(self, where: str, raw: _Row, name: str, key: _Key) -> object:
        if name not in raw:
            if key.default is _REQUIRED:
                self._note(where, f"missing; {key.remedy}")
                return _NO_VALUE
            return key.default
        try:
            return key.take(raw[name])
        except _Wrong as wrong:
            self._note(f"{where} = {_shown(raw[name])}", f"{wrong}; {key.remedy}")
            return _NO_VALUE

    def _cards(self, raw: object) -> dict[str, str]:
        if not isinstance(raw, dict):
            self._note("cards", 'not a table; write [cards] and below it e.g. alice = "04A1A2A3A4A5A6"')
            return {}
        return {name: str(self._value(f"cards.{name}", raw, name, _CARD)) for name in raw}


class _Fit:
    """What must fit together between tables. What has no value has been complained about already."""

    def __init__(
        self, rows: dict[str, list[_Row]], single: dict[str, _Row | None], note: Callable[[str, str], None]
    ) -> None:
        self._rows = rows
        self._single = single
        self._note = note

    def check(self) -> None:
        """Note every problem."""
        for number, line in enumerate(self._rows["lines"], start=1):
            self._line(f"lines[{number}]", line)
        for number, port in enumerate(self._rows["ports"], start=1):
            self._port(f"ports[{number}]", port)
        self._twice("id", ("lines", "ports"), "choose another")
        for table in ("meters", "boards", "circuits"):
            self._twice("id", (table,), "choose another")
        self._twice("number", ("connectors",), "each connector has a number of its own")
        self._twice("path", ("lines",), "each line has a place of its own")
        self._twice("device", ("lines",), "each line has a port of its own")
        self._devices()
        self._circuits()
        self._connectors()
        self._operator()

    def _line(self, where: str, line: _Row) -> None:
        path, device, real, baud = line["path"], line["device"], line["real"], line["baud"]
        if _NO_VALUE in (path, device, real):
            return
        if path is None and device is None:
            self._note(where, "it is nowhere; give it `path` for a pty, or `device` for a real port")
        if path is not None and device is not None:
            self._note(where, "both `path` and `device`; a pty has the first, a real port the second")
        if path is not None and real:
            self._note(f"{where}.real", "a pty is not real; give `device` instead of `path`")
        if device is not None and not real and baud is None:
            self._note(f"{where}.baud", "missing; a real port needs the rate its master speaks, e.g. 9600")
        if device is None:
            for key in ("parity", "stop_bits"):
                if line[key] is not None:
                    self._note(f"{where}.{key}", "means nothing on a pty; take it out")
        if real and line["noise"] is not None:
            self._note(f"{where}.noise", "the rig cannot spoil a real line; take it out")

    def _port(self, where: str, port: _Row) -> None:
        if _NO_VALUE in (port["host"], port["real"], port["port"]):
            return
        if port["real"] and (port["host"] is None or port["port"] == 0):
            self._note(where, "a real gateway needs `host` and `port`; give both")
        if port["host"] is not None and not port["real"]:
            self._note(
                f"{where}.host",
                "the rig serves on the loopback only; take it out, or write real = true for a gateway",
            )
        if port["real"] and port["noise"] is not None:
            self._note(f"{where}.noise", "the rig cannot spoil a real line; take it out")

    def _twice(self, key: str, tables: tuple[str, ...], remedy: str) -> None:
        seen: dict[object, str] = {}
        for table in tables:
            for number, row in enumerate(self._rows[table], start=1):
                value, where = row[key], f"{table}[{number}]"
                if value is None or value is _NO_VALUE:
                    continue
                if value in seen:
                    self._note(f"{where}.{key} = {_shown(value)}", f"{seen[value]} has it already; {remedy}")
                seen.setdefault(value, where)

    def _devices(self) -> None:
        real = {row["id"]: row["real"] is True for table in ("lines", "ports") for row in self._rows[table]}
        seen: dict[tuple[object, object], str] = {}
        for table in ("meters", "boards"):
            for number, row in enumerate(self._rows[table], start=1):
                where, on, unit = f"{table}[{number}]", row["on"], row["unit"]
                if on is _NO_VALUE:
                    continue
                if on not in real:
                    self._note(f"{where}.on = {_shown(on)}", f"no such line or port; {_nearest(on, real)}")
                elif real[on]:
                    self._note(
                        f"{where}.on = {_shown(on)}",
                        "real devices answer there; take this one out, or `real` out of the line",
                    )
                elif unit is not _NO_VALUE:
                    other = seen.setdefault((on, unit), where)
                    if other != where:
                        self._note(
                            f"{where}.unit = {unit}",
                            f"{other} on {_shown(on)} has it already and both would answer; choose another",
                        )

    def _circuits(self) -> None:
        parents = {row["id"]: row["parent"] for row in self._rows["circuits"]}
        for number, row in enumerate(self._rows["circuits"], start=1):
            where = f"circuits[{number}]"
            self._known(where, "parent", row["parent"], list(parents))
            self._known(where, "meter", row["meter"], self._ids("meters"))
            if _circles(row["id"], parents):
                self._note(f"{where}.parent", "the circuit is above itself; the root has no parent")
        self._taken("meter", ("circuits", "connectors"), "a meter measures one place")

    def _connectors(self) -> None:
        if not self._rows["connectors"]:
            self._note("connectors", "missing; write a table [[connectors]] with number, circuit and board")
        for number, row in enumerate(self._rows["connectors"], start=1):
            where = f"connectors[{number}]"
            self._known(where, "circuit", row["circuit"], self._ids("circuits"))
            self._known(where, "board", row["board"], self._ids("boards"))
            self._known(where, "meter", row["meter"], self._ids("meters"))
        self._taken("board", ("connectors",), "a board has one connector")

    def _operator(self) -> None:
        reader, broker, backend = (self._single[key] for key in ("reader", "broker", "backend"))
        if backend is not None and broker is None:
            self._note("backend", "there is no broker it could be reached through; write a table [broker]")
        if reader is not None and _NO_VALUE not in reader.values():
            if reader["name"] is not None and reader["kind"] not in (None, "real"):
                self._note("reader.name", "only a real reader has a name of its own; take it or `kind` out")
            if reader["name"] is None and reader["kind"] == "real":
                self._note("reader.name", "missing; give a part of the name that pcsc_scan shows")

    def _ids(self, table: str) -> list[Any]:
        return [row["id"] for row in self._rows[table]]

    def _known(self, where: str, key: str, value: object, known: list[Any]) -> None:
        if value is not None and value is not _NO_VALUE and value not in known:
            words = [word for word in known if word is not _NO_VALUE]
            self._note(f"{where}.{key} = {_shown(value)}", f"not in this file; {_nearest(value, words)}")

    def _taken(self, key: str, tables: tuple[str, ...], rule: str) -> None:
        self._twice(key, tables, rule)


def _circles(start: object, parents: Mapping[object, object]) -> bool:
    """Whether the way up from a circuit comes back to it."""
    here, steps = parents.get(start), 0
    while here in parents and here != start and steps <= len(parents):
        here, steps = parents[here], steps + 1
    return here == start and here is not _NO_VALUE


def _nearest(word: object, known: Iterable[object]) -> str:
    """Say which known word was meant, or which there are."""
    words = [str(one) for one in known if one is not _NO_VALUE]
    close = difflib.get_close_matches(str(word)[:_SHOWN], words, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(words)}" if words else "none is known here"


def _shown(value: object) -> str:
    match value:
        case bool():
            text = str(value).lower()
        case str():
            text = f'"{value}"' if value.isprintable() else ascii(value)
        case dict():
            text = "{...}"
        case list():
            text = f"[{', '.join(str(one) for one in value[:5])}]"
        case _:
            text = str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
