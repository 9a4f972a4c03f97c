"""The last minutes of the core, kept so that what went wrong in the field can be run again at a desk.

A ring file has lines of JSON: a head, the station as it was before the first event, then each event with what
the core decided; the fields are those of the structs in `edge.events`, `edge.commands` and `control.state`.

    {"ring":1,"edge":"0.1.0","station":"st-7","unix_ms":1800000000000,"why":"asked for"}
    {"site":{"station":"st-7","circuits":[...
    {"event":"MeterRead","of":{"at_ms":1000,...},"commands":[{"command":"SetOffer","of":{"connector":1,...}}]}

`commands` is missing where there are none, and null where the core failed. No card number and no name of a
customer gets into a file: each is replaced by "card-1", "contract-2", the same one everywhere. The core asks
only whether they are equal, so it decides the same.
"""

import asyncio
import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgspec
from msgspec import Struct

from edge import __version__
from edge.commands import Command, SetOffer, SetPhases
from edge.control.site import NO_PARENT, Card, Signal, Site
from edge.control.state import Connector, Heard, Session, Station
from edge.disk import beside, free_bytes
from edge.errors import EdgeError
from edge.events import Credential, Event, EvseRead, MeterRead, Tick
from edge.records import Claim

FORMAT = 1
"""Counts up when a file of before cannot be read any more. Fields that came later have defaults."""

EVENTS_PER_DEVICE = 2_000
"""Per segment, for each connector and the supply. Polled twice a second, a connector makes 4 events a second
with its meter, tick and supply 6: a segment lasts 7 min, and both together tell of the last 7 to 15."""

MOST_EVENTS = 40_000
"""Per segment; from 20 connectors on the last minutes get fewer. An event takes 215 bytes, both segments
take 4.3 MB at 4 connectors and 17 MB at most."""

SLICE_BYTES = 64 * 1024
"""Written at once; between two slices the loop does its other work."""

KEPT = 4
"""Ring files in the folder, the newest."""

LEAVE_FREE_BYTES = 32 << 20
"""No ring is written below that: records of payments need the disk more, see `edge.disk`."""

MOST_FILE_BYTES = 256 << 20
"""What is longer is no ring: the longest has 30 MB and its cards."""

_ROUTINE = frozenset({Tick, MeterRead, EvseRead, SetOffer, SetPhases})
"""They hold neither names nor sentences, so they are kept as they will be written."""

_CARD_ID = re.compile(r"(?:ISO[0-9]{1,9}[AB]?|FELICA):[0-9A-F]+", re.IGNORECASE)
"""A canonical card number, wherever it may have got into a sentence."""

_CARDS = frozenset({(Credential, "id"), (Card, "id"), (Session, "card"), (Connector, "last_card")})
_CONTRACTS = frozenset({(Card, "contract"), (Claim, "contract"), (Connector, "last_contract")})
"""Which field of which struct is a card number, or the name of a customer."""

_RING_FILE = re.compile(r"ring-([0-9]{1,15})\.jsonl(\.part)?")

T = TypeVar("T")
Commands = tuple[Command, ...]


class RingError(EdgeError):
    """A ring cannot be written, or a file is no ring; the text says which line and why."""


class Head(Struct, frozen=True):
    """Where a ring comes from."""

    ring: int  # FORMAT
    edge: str  # the version that decided
    station: str
    unix_ms: int
    why: str = ""


class Happened(Struct, frozen=True):
    """An event and what was decided; None: the core failed on it."""

    event: Event
    commands: Commands | None


class Recording(Struct, frozen=True):
    """A ring as read. Event 1 is `happened[0]`."""

    head: Head
    station: Station  # before the first event
    happened: tuple[Happened, ...]


class Ring:
    """The last events of one core, in two segments: the one that fills, and the full one before it."""

    def __init__(self) -> None:
        self._older: _Segment | None = None
        self._newer: _Segment | None = None
        self._room = 0
        self.being_written = False

    def note(self, before: Station, event: Event, commands: Commands | None) -> None:
        """Keep an event, the station it came to and what was decided; None: the core failed on it."""
        if self._room == 0:
            self._room = min(MOST_EVENTS, EVENTS_PER_DEVICE * (len(before.connectors) + 1))
            self._older, self._newer = self._newer, _Segment(before)
        self._room -= 1
        if TYPE_CHECKING:
            assert self._newer is not None
        routine = type(event) in _ROUTINE and commands is not None
        if routine and all(type(command) in _ROUTINE for command in commands or ()):
            self._newer.kept.append(_line(event, commands))
        else:
            self._newer.kept.append(Happened(event, commands))

    def lines(self, unix_ms: int, why: str) -> Iterator[bytes]:
        """The ring as it is now, as it may leave the station. Raises `RingError` while it is empty."""
        segments = [segment for segment in (self._older, self._newer) if segment is not None]
        if not segments:
            raise RingError("nothing has happened yet that could be written")
        before = segments[0].before
        kept = [each for segment in segments for each in segment.kept]  # what comes now is not waited for
        head = Head(FORMAT, __version__, before.site.station, unix_ms, why)
        return _written_lines(head, before, kept, Pseudonyms())


class _Segment:
    def __init__(self, before: Station) -> None:
        self.before = before
        self.kept: list[bytes | Happened] = []


class Pseudonyms:
    """Replaces card numbers and customers' names in whatever the core knows, each always by the same."""

    def __init__(self) -> None:
        self._cards: dict[str, str] = {"": ""}
        self._contracts: dict[str, str] = {"": ""}

    def of(self, value: T) -> T:
        """The same without any of them."""
        replaced: T = self._of(value)
        return replaced

    def _of(self, value: Any) -> Any:  # noqa: ANN401 - any field of any struct
        if isinstance(value, Struct):
            kind = type(value)
            return kind(*(self._field(kind, name, getattr(value, name)) for name in kind.__struct_fields__))
        if type(value) is tuple:
            return tuple(self._of(each) for each in value)
        if type(value) is dict:  # `Site.cards`, the only one
            return {self._card(number): self._of(card) for number, card in value.items()}
        if type(value) is str:  # and no enumeration
            sentence = value.encode(errors="replace").decode()  # a file name may have what JSON cannot have
            return _CARD_ID.sub(lambda found: self._card(found[0]), sentence)
        return value

    def _field(self, kind: type, name: str, value: Any) -> Any:  # noqa: ANN401 - likewise
        if (kind, name) in _CARDS:
            return self._card(value)
        if (kind, name) in _CONTRACTS:
            return self._contracts.setdefault(value, f"contract-{len(self._contracts)}")
        return self._of(value)

    def _card(self, number: str) -> str:
        return self._cards.setdefault(number, f"card-{len(self._cards)}")


# -- lines ---------------------------------------------------------------------------------------------

_EVENTS = {kind.__name__: msgspec.json.Decoder(kind) for kind in get_args(Event)}
_COMMANDS = {kind.__name__: msgspec.json.Decoder(kind) for kind in get_args(Command)}
_NAMES = {kind: kind.__name__ for kind in (*get_args(Event), *get_args(Command))}


class _Told(Struct, frozen=True):
    command: str
    of: Command


class _Line(Struct, frozen=True, omit_defaults=True):
    event: str
    of: Event
    commands: tuple[_Told, ...] | None = ()


class _RawTold(Struct, frozen=True, forbid_unknown_fields=True):
    command: str
    of: msgspec.Raw


class _RawLine(Struct, frozen=True, forbid_unknown_fields=True):
    event: str
    of: msgspec.Raw
    commands: tuple[_RawTold, ...] | None = ()


_encoder = msgspec.json.Encoder()
_head = msgspec.json.Decoder(Head)
_station = msgspec.json.Decoder(Station)
_raw_line = msgspec.json.Decoder(_RawLine)


def _line(event: Event, commands: Commands | None) -> bytes:
    told = (
        None if commands is None else tuple([_Told(_NAMES[type(command)], command) for command in commands])
    )
    return _encoder.encode(_Line(_NAMES[type(event)], event, told)) + b"\n"


def lines_of(recording: Recording) -> Iterator[bytes]:
    """The file that was read; its names were replaced before."""
    return _written_lines(recording.head, recording.station, recording.happened, None)


def _written_lines(
    head: Head, station: Station, kept: Iterable[bytes | Happened], names: Pseudonyms | None
) -> Iterator[bytes]:
    yield _encoder.encode(head) + b"\n"
    yield _encoder.encode(station if names is None else names.of(station)) + b"\n"
    for each in kept:
        if isinstance(each, bytes):
            yield each
        else:
            noted = each if names is None else names.of(each)
            yield _line(noted.event, noted.commands)


# -- files ---------------------------------------------------------------------------------------------


async def dump(ring: Ring, folder: Path, unix_ms: int) -> Path:
    """Write the ring into `folder` without holding up the loop; its path. Raises `RingError`."""
    path = _path(folder, unix_ms)
    with closing(_write(ring, path, unix_ms, "asked for")) as slices:
        for _ in slices:
            await asyncio.sleep(0)
    return path


def dump_after(error: Exception, ring: Ring, folder: Path, unix_ms: int) -> Path | None:
    """Write the ring if a bug ends the daemon, and not what an `EdgeError` tells of. Raises `RingError`."""
    if (bug := _bug(error)) is None:
        return None
    return dump_at_once(ring, folder, unix_ms, f"ended by {type(bug).__name__}")


def _bug(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return next((bug for each in error.exceptions if (bug := _bug(each)) is not None), None)
    return None if isinstance(error, EdgeError) else error


def dump_at_once(ring: Ring, folder: Path, unix_ms: int, why: str) -> Path:
    """Write the ring into `folder`, before the process ends. Raises `RingError`."""
    path = _path(folder, unix_ms)
    for _ in _write(ring, path, unix_ms, why):
        pass
    return path


def _path(folder: Path, unix_ms: int) -> Path:
    return folder / f"ring-{unix_ms // 1000}.jsonl"


def _write(ring: Ring, path: Path, unix_ms: int, why: str) -> Generator[None, None, None]:
    """Write a slice at each step. Nothing is synced, that would hold up the loop; a power cut may take it."""
    if ring.being_written:
        raise RingError("the ring is being written already; ask again in a moment")
    folder, part = path.parent, beside(path, ".part")
    ring.being_written = True
    try:
        _tidy(folder)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor, for its mode
            for piece in _slices(ring.lines(unix_ms, why)):
                if free_bytes(folder) < LEAVE_FREE_BYTES:
                    raise RingError(f"{folder}: less than {LEAVE_FREE_BYTES >> 20} MiB would stay free")
                file.write(piece)
                yield
        part.replace(path)
    except OSError as error:
        raise RingError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        ring.being_written = False
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _slices(lines: Iterator[bytes]) -> Iterator[bytes]:
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= SLICE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _tidy(folder: Path) -> None:
    """Make room for one more file, and clear away what a killed daemon left half."""
    names = [(path, _RING_FILE.fullmatch(path.name)) for path in folder.iterdir()]
    numbered = [(int(found[1]), path) for path, found in names if found is not None and not found[2]]
    half = [path for path, found in names if found is not None and found[2]]
    for path in half + [path for _, path in sorted(numbered, reverse=True)[KEPT - 1 :]]:
        path.unlink(missing_ok=True)


def read(path: Path) -> Recording:
    """Read a ring file. Raises `RingError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise RingError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > MOST_FILE_BYTES:
        raise RingError(f"{path}: no ring is longer than {MOST_FILE_BYTES >> 20} MiB")
    try:
        return decoded(data)
    except RingError as error:
        raise RingError(f"{path}: {error}") from error


def decoded(data: bytes) -> Recording:
    """Read what a ring file holds. Raises `RingError`."""
    lines = data.split(b"\n")
    if lines.pop():
        raise RingError(f"line {len(lines) + 1}: cut off, a line ends with a line feed")
    if len(lines) < 2:
        raise RingError("no ring: it begins with a head and a station, a line each")
    number = 1
    try:
        head = _head.decode(lines[0])
        if head.ring != FORMAT:
            raise RingError(
                f"line 1: a ring of format {head.ring}; edge {head.edge} reads it, this one does not"
            )
        number = 2
        station = _station.decode(lines[1])
        happened = []
        for number, line in enumerate(lines[2:], start=3):  # noqa: B007 - told when it cannot be read
            happened.append(_happened(line))
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise RingError(f"line {number}: {error}") from error
    if (wrong := _wrong(station)) is not None:
        raise RingError(f"line 2: {wrong}")
    return Recording(head, station, tuple(happened))


def _happened(line: bytes) -> Happened:
    raw = _raw_line.decode(line)
    commands = None
    if raw.commands is not None:
        commands = tuple([_known(_COMMANDS, told.command).decode(told.of) for told in raw.commands])
    return Happened(_known(_EVENTS, raw.event).decode(raw.of), commands)


def _known(decoders: "dict[str, msgspec.json.Decoder[Any]]", name: str) -> "msgspec.json.Decoder[Any]":
    if name not in decoders:
        raise ValueError(f"{name[:40]!r} is not known here; there are {', '.join(decoders)}")
    return decoders[name]


def _wrong(station: Station) -> str | None:
    """What the core could not work on: a place that the site does not have."""
    site = station.site
    outlets, circuits = range(len(site.outlets)), range(len(site.circuits))
    if (len(station.connectors), len(station.circuits)) != (len(outlets), len(circuits)):
        return "connectors and circuits are not those of the site"
    if any(not NO_PARENT <= circuit.parent < c for c, circuit in enumerate(site.circuits)):
        return "circuits stand parents first"
    if any(outlet.circuit not in circuits or not _is_wired(outlet.lines) for outlet in site.outlets):
        return "a connector hangs on a circuit or a phase that is not there"
    if any(not set(each.used or ()) <= set(range(len(outlet.lines)))
           for each, outlet in zip(station.connectors, site.outlets, strict=True)):  # fmt: skip
        return "a car uses a phase that is not wired"
    places: tuple[Signal | Heard, ...] = (*site.signals, *station.heard)
    if any(not _is_place(each.circuit, each.connector, site) for each in places):
        return "a limit is for a place that is not there"
    return None


def _is_wired(lines: tuple[int, ...]) -> bool:
    return 1 <= len(lines) <= 3 and len(set(lines)) == len(lines) and set(lines) <= {0, 1, 2}


def _is_place(circuit: int | None, connector: int | None, site: Site) -> bool:
    return (circuit is None or circuit in range(len(site.circuits))) and (
        connector is None or connector in range(len(site.outlets))
    )
