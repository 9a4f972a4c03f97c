"""Lines of words read into dataclasses and printed back, both by the same notations.

    @dataclass(frozen=True)
    class Unplug(Phrase):
        NOTATIONS = ("unplug {connector:N}",)
        connector: int

    read([Unplug], "unplug 2")        # Unplug(connector=2)
    str(Unplug(2))                    # "unplug 2"

A notation is made of words that stand there as they are and of

    {field:KIND}     a value, see `KINDS`
    {field:a|b c|d}  one of these, each of one or more words
    {field!word}     the word makes a bool field true
    [...]            what may be left out; neighbours in brackets may come in any order

A class with several notations is printed by the first that says all of its fields.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar, TypeVar

P = TypeVar("P", bound="Phrase")

LONGEST_WORD = 60
"""Characters of a wrong word that are shown in its error."""


class NotUnderstood(ValueError):
    """A line that is none; `word` is where it went wrong ("" is the end of the line)."""

    def __init__(self, word: str, expected: Iterable[str]) -> None:
        self.word = word[:LONGEST_WORD]
        self.expected = tuple(dict.fromkeys(expected))
        here = f"{self.word!r}" if word else "the end of the line"
        *most, last = self.expected
        listed = f"{', '.join(most)} or {last}" if most else last
        super().__init__(f"{here}: expected {listed}")


@dataclass(frozen=True)
class Kind:
    """What a value looks like. `read` takes one word and says None when it is not of this kind."""

    example: str  # stands for it in the documentation
    expected: str  # stands for it in an error
    read: Callable[[str], Any]
    write: Callable[[Any], str]
    unit_apart: bool = False  # "16 A" is read as "16A"


class Phrase:
    """A line of words: a frozen dataclass with `NOTATIONS`; its docstring is its meaning."""

    NOTATIONS: ClassVar[tuple[str, ...]]

    def __str__(self) -> str:
        for notation in self.NOTATIONS:
            said = _say(parsed(notation), self)
            if said is not None and said.fields >= _needed(self):
                return " ".join(said.words)
        raise ValueError(f"nothing says {self!r}")


# -- the notation ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """A word as it stands."""

    text: str


@dataclass(frozen=True)
class Slot:
    """A value of a kind."""

    field: str
    kind: str


@dataclass(frozen=True)
class Choice:
    """One of several sayings."""

    field: str
    sayings: tuple[str, ...]


@dataclass(frozen=True)
class Flag:
    """A word that makes a field true."""

    field: str
    text: str


@dataclass(frozen=True)
class Optional:
    """What may be left out."""

    parts: "tuple[Part, ...]"


Part = Word | Slot | Choice | Flag | Optional

_PIECE = re.compile(r"\{([a-z0-9_]+)([:!])([^}]+)\}|([\[\]])|([^\s\[\]{}]+)")


@cache
def parsed(notation: str) -> tuple[Part, ...]:
    """The parts of a notation. Raises ValueError for what is none."""
    levels: list[list[Part]] = [[]]
    for field, sign, what, bracket, word in _PIECE.findall(notation):
        if bracket == "[":
            levels.append([])
        elif bracket == "]":
            inner = tuple(levels.pop())
            levels[-1].append(Optional(inner))
        elif word:
            levels[-1].append(Word(word))
        elif sign == "!":
            levels[-1].append(Flag(field, what))
        elif what in KINDS:
            levels[-1].append(Slot(field, what))
        else:
            levels[-1].append(Choice(field, tuple(what.split("|"))))
    (parts,) = levels
    return tuple(parts)


def shown(notation: str) -> str:
    """A notation as people read it: examples in place of kinds."""
    return _shown(parsed(notation))


def _shown(parts: Sequence[Part]) -> str:
    words = []
    for part in parts:
        match part:
            case Word(text) | Flag(_, text):
                words.append(text)
            case Slot(_, kind):
                words.append(KINDS[kind].example)
            case Choice(_, sayings):
                words.append("|".join(sayings))
            case Optional(inner):
                words.append(f"[{_shown(inner)}]")
    return " ".join(words)


# -- reading -----------------------------------------------------------------------------------------

_WORDS = re.compile(r'"[^"]*"?|#.*|[^\s"#]+', re.DOTALL)


def words_of(line: str) -> list[str]:
    """The words of a line without its comment; a text in quotes is one word and keeps them."""
    found: list[str] = _WORDS.findall(line)
    return [word for word in found if not word.startswith("#")]


class _Trial:
    """What was expected at the furthest word that any notation came to."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.furthest = 0
        self.expected: list[str] = []

    def miss(self, place: int, expected: Iterable[str]) -> None:
        if place > self.furthest:
            self.furthest, self.expected = place, []
        if place == self.furthest:
            self.expected += expected

    def error(self) -> NotUnderstood:
        here = self.words[self.furthest] if self.furthest < len(self.words) else ""
        return NotUnderstood(here, self.expected)


def read(kinds: Iterable[type[P]], words: Sequence[str]) -> P:
    """The phrase that these words are. Raises `NotUnderstood`."""
    trial = _Trial(words)
    for kind in kinds:
        for notation in kind.NOTATIONS:
            found: dict[str, object] = {}
            end = _match(parsed(notation), trial, 0, found)
            if end == len(words):
                return kind(**found)
            if end is not None:
                trial.miss(end, ["the end of the line"])
    raise trial.error()


def _match(parts: Sequence[Part], trial: _Trial, place: int, found: dict[str, object]) -> int | None:
    """Read the parts from a word on; return the word after them, None when they do not stand there."""
    waiting: list[Optional] = []
    for part in parts:
        if isinstance(part, Optional):
            waiting.append(part)
            continue
        place = _match_optionals(waiting, trial, place, found)
        waiting = []
        after = _match_one(part, trial, place, found)
        if after is None:
            return None
        place = after
    return _match_optionals(waiting, trial, place, found)


def _match_optionals(waiting: Sequence[Optional], trial: _Trial, place: int, found: dict[str, object]) -> int:
    """Read as many of these as stand there, in any order."""
    left = list(waiting)
    again = True
    while again:
        again = False
        for optional in left:
            inner: dict[str, object] = {}
            after = _match(optional.parts, trial, place, inner)
            if after is not None and after > place:
                found.update(inner)
                left.remove(optional)
                place, again = after, True
                break
    return place


def _match_one(part: Part, trial: _Trial, place: int, found: dict[str, object]) -> int | None:
    match part:
        case Word(text):
            return _match_saying(text, trial, place)
        case Flag(field, text):
            after = _match_saying(text, trial, place)
            found |= {field: True} if after is not None else {}
            return after
        case Choice(field, sayings):
            for saying in sayings:
                after = _match_saying(saying, trial, place)
                if after is not None:
                    found[field] = saying
                    return after
            return None
        case Slot(field, kind):
            return _match_value(field, KINDS[kind], trial, place, found)
        case Optional():
            raise AssertionError("read by its neighbours")


def _match_saying(saying: str, trial: _Trial, place: int) -> int | None:
    for text in saying.split():
        if place >= len(trial.words) or trial.words[place] != text:
            trial.miss(place, [text])
            return None
        place += 1
    return place


def _match_value(field: str, kind: Kind, trial: _Trial, place: int, found: dict[str, object]) -> int | None:
    here = trial.words[place : place + 2]
    tries = ["".join(here), *here[:1]] if kind.unit_apart and len(here) > 1 else here[:1]
    for text in tries:
        value = kind.read(text)
        if value is not None:
            found[field] = value
            return place + (2 if text != here[0] else 1)
    trial.miss(place, [kind.expected])
    return None


# -- printing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Said:
    words: tuple[str, ...]
    fields: frozenset[str]


def _needed(phrase: Phrase) -> frozenset[str]:
    """The fields that have to be said: all but those that have their default."""
    return frozenset(
        field.name
        for field in fields(phrase)  # type: ignore[arg-type]  # every subclass is a dataclass
        if field.default is MISSING or getattr(phrase, field.name) != field.default
    )


def _say(parts: Sequence[Part], phrase: Phrase) -> _Said | None:
    words: list[str] = []
    said: set[str] = set()
    for part in parts:
        match part:
            case Word(text):
                words.append(text)
            case Optional(inner):
                more = _say(inner, phrase)
                if more is not None and more.fields & _needed(phrase):
                    words += more.words
                    said |= more.fields
            case Flag(field, text):
                if not getattr(phrase, field):
                    return None
                words.append(text)
                said.add(field)
            case Choice(field, sayings):
                if getattr(phrase, field) not in sayings:
                    return None
                words.append(getattr(phrase, field))
                said.add(field)
            case Slot(field, kind):
                value = getattr(phrase, field)
                if value is None:
                    return None
                words.append(KINDS[kind].write(value))
                said.add(field)
    return _Said(tuple(words), frozenset(said))


# -- values ------------------------------------------------------------------------------------------

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"


def _measured(text: str, units: Mapping[str, int], most: int) -> int | None:
    """A number with its unit, in the smallest unit; None unless whole there and at most `most`."""
    found = re.fullmatch(rf"({_NUMBER})({'|'.join(units)})", text)
    if found is None:
        return None
    value = Decimal(found[1]) * units[found[2]]
    return int(value) if value == int(value) and value <= most else None


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


_TIMES = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_MOST_MS = 1_000 * 3_600_000  # six weeks; nobody tells a longer story


def read_time(text: str) -> int | None:
    """Milliseconds of "500ms", "3s", "2m", "1h", "1m30s"; None if it is no time."""
    total, end = 0, 0
    for found in re.finditer(rf"{_NUMBER}(?:ms|s|m|h)", text):
        part = _measured(found[0], _TIMES, _MOST_MS)
        if part is None or found.start() != end:
            return None
        total, end = total + part, found.end()
    return total if 0 < end == len(text) and total <= _MOST_MS else None


def write_time(ms: int) -> str:
    """The same in the largest unit that divides it."""
    unit = next(unit for unit in ("h", "m", "s", "ms") if ms % _TIMES[unit] == 0)
    return f"{ms // _TIMES[unit]}{unit}" if ms else "0s"


def _read_jump(text: str) -> int | None:
    ms = read_time(text[1:])
    return None if ms is None or text[0] not in "+-" else ms * (-1 if text[0] == "-" else 1)


def _whole(pattern: str) -> Callable[[str], int | None]:
    return lambda text: int(text) if re.fullmatch(pattern, text) else None


def _word(pattern: str) -> Callable[[str], str | None]:
    return lambda text: text if re.fullmatch(pattern, text) else None


def _read_phases(text: str) -> int | None:
    found = re.fullmatch(r"(?:(1)phase|([123])phases)", text)
    return int(found[1] or found[2]) if found else None


def _read_text(text: str) -> str | None:
    quoted = len(text) >= 2 and text.startswith('"') and text.endswith('"') and text[1:-1].isprintable()
    return text[1:-1] if quoted and len(text) > 2 else None


def _measure(example: str, expected: str, units: Mapping[str, int], most: int) -> Kind:
    """A number with a unit; printed in the unit of the example."""
    unit = re.sub(r"[0-9.]", "", example)
    return Kind(
        example,
        expected,
        lambda text: _measured(text, units, most),
        lambda value: f"{_plain(Decimal(value) / units[unit])}{unit}",
        unit_apart=True,
    )


KINDS: dict[str, Kind] = {
    "N": Kind("N", "the number of a connector", _whole("[1-9][0-9]{0,2}"), str),
    "COUNT": Kind("K", "a number", _whole("[0-9]{1,4}"), str),
    "AMPS": _measure("16A", "a current, e.g. 16A", {"A": 1_000}, 6_300_000),
    "TIME": Kind("10s", "a time, e.g. 500ms, 3s, 2m or 1h", read_time, write_time, unit_apart=True),
    "JUMP": Kind(
        "+1h",
        "a leap of time, e.g. +1h or -1h",
        _read_jump,
        lambda ms: f"{'-' if ms < 0 else '+'}{write_time(abs(ms))}",
    ),
    "ENERGY": _measure("5kWh", "an energy, e.g. 5kWh or 500Wh", {"Wh": 1, "kWh": 1_000}, 100_000_000),
    "POWER": _measure("4.2kW", "a power, e.g. 4.2kW", {"kW": 1_000_000}, 5_000_000_000),
    "PART": _measure("2%", "a part, e.g. 2%", {"%": 10}, 1_000),
    "PHASES": Kind(
        "3 phases",
        "1, 2 or 3 phases",
        _read_phases,
        lambda phases: "1 phase" if phases == 1 else f"{phases} phases",
        unit_apart=True,
    ),
    "NAME": Kind("NAME", "a name", _word("[A-Za-z0-9_-]{1,32}"), str),
    "CIRCUIT": Kind("CIRCUIT", "the id of a circuit", _word("[A-Za-z0-9_-]{1,32}"), str),
    "METER": Kind("METER", "the id of a meter", _word("[A-Za-z0-9_-]{1,32}"), str),
    "CARD": Kind("alice", "the name or the number of a card", _word("[A-Za-z0-9]{1,32}"), str),
    "FAULT": Kind("FAULT", "the name of a fault", _word("[a-z_]{1,40}"), str),
    "STATE": Kind("STATE", "a state of a connector", _word("[a-z_]{1,40}"), str),
    "TOPIC": Kind("TOPIC", "the topic of a log line", _word("[A-Za-z0-9_.]{1,60}"), str),
    "TEXT": Kind('"text"', "a text in quotes", _read_text, lambda text: f'"{text}"'),
}
"""Currents are in mA, times in ms, energies in Wh, powers in mW and parts in thousandths."""
