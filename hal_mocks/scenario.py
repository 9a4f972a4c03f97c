"""A scenario: a story of a station in a file, read, checked and printed back. docs/scenarios.md explains it.

    scenario = read(Path("hal_mocks/scenarios/sharing-two-cars.toml"))   # raises ScenarioError
    for step in scenario.steps: ...
    str(scenario)                  # the file again, without its comments
    replace(scenario, steps=...)   # a shorter one

All problems of a file are told at once, one a line: file, line, the word and what was expected there.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hal_mocks import toml_text
from hal_mocks.grammar import NotUnderstood
from hal_mocks.steps import Step, names_of, read_step
from hal_mocks.toml_text import FileError, TomlTextError

TOPICS = ("sharing", "metering", "rfid", "payments", "uplink", "safety", "power_loss")

SHELF = Path(__file__).parent / "scenarios"
"""The scenarios that come with the program, `<topic>-<name>.toml` each."""

MOST_CONNECTORS = 8
MOST_LIMIT_A = 1_000
LONGEST_TITLE = 200
LARGEST_SEED = 2**63 - 1  # what TOML can hold

_KEYS = ("title", "topic", "about", "connectors", "limit_a", "seed", "real", "config", "story")


class ScenarioError(FileError):
    """A file is no scenario."""


@dataclass(frozen=True)
class Scenario:
    """A story and the station it is played on."""

    title: str
    topic: str
    about: str
    steps: tuple[Step, ...]
    connectors: int = 2
    limit_a: int = 32
    seed: int = 0  # of what is left to chance in wires and devices
    real: bool = False  # is also played on real wires
    config: str = ""  # TOML laid over the configuration of the rig
    name: str = ""  # of its file, without the ending

    def __str__(self) -> str:
        lines = [
            f"title = {toml_text.text(self.title)}",
            f"topic = {toml_text.text(self.topic)}",
            f"about = {toml_text.long_text(self.about)}",
            f"connectors = {self.connectors}",
            f"limit_a = {self.limit_a}",
            *([f"seed = {self.seed}"] if self.seed else []),
            *(["real = true"] if self.real else []),
            *([f"config = {toml_text.long_text(self.config)}"] if self.config else []),
            "story = " + toml_text.long_text("".join(f"{step}\n" for step in self.steps)),
        ]
        return "\n".join(lines) + "\n"


def read(path: Path) -> Scenario:
    """Read a file. Raises `ScenarioError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ScenarioError([f"{path}: this is not UTF-8 text; save the file as UTF-8"]) from error
    return parse(text, str(path))


def parse(text: str, source: str = "scenario") -> Scenario:
    """Read a scenario from its text. Raises `ScenarioError`, whatever the text is."""
    try:
        table = toml_text.loads(text)
    except TomlTextError as error:
        raise ScenarioError([f"{source}: this is not TOML: {error}"]) from error
    reading = _Reading(table, text, source)
    scenario = reading.scenario()
    if reading.problems:
        raise ScenarioError(reading.problems)
    return scenario


def found(word: str, shelf: Path = SHELF) -> list[Path]:
    """The files that a word means: a path, or a name or topic on the shelf. Raises `ScenarioError`."""
    if word.endswith(".toml") or "/" in word:
        return [Path(word)]
    on_shelf = sorted(shelf.glob("*.toml"))
    files = [path for path in on_shelf if path.stem == word]
    files = files or [path for path in on_shelf if path.stem.startswith(f"{word}-")]
    if not files:
        raise ScenarioError([f"{word!r} is no scenario; --list shows their names and topics"])
    return files


class _Reading:
    """One file being read."""

    def __init__(self, table: Mapping[str, Any], text: str, source: str) -> None:
        self.problems: list[str] = []
        self._table = table
        self._source = source
        # The first line of the story in the file; a key written in another way still gets its own count.
        begins = re.search(r"^[ \t]*story[ \t]*=[ \t]*(?:\"\"\"|''')(\r?\n)?", text, re.MULTILINE)
        self._above = text.count("\n", 0, begins.end()) if begins else None

    def scenario(self) -> Scenario:
        for key in self._table:
            if key not in _KEYS:
                self._wrong(key, f"is no key of a scenario; there are {', '.join(_KEYS)}")
        connectors = self._number("connectors", 2, 1, MOST_CONNECTORS)
        config = self._text("config", "")
        scenario = Scenario(
            title=self._text("title", None, LONGEST_TITLE),
            topic=self._topic(),
            about=self._text("about", None),
            connectors=connectors,
            limit_a=self._number("limit_a", 32, 6, MOST_LIMIT_A),
            seed=self._number("seed", 0, 0, LARGEST_SEED),
            real=self._truth("real"),
            config=config,
            steps=self._story(_Names.of(connectors, self._config(config))),
            name=Path(self._source).stem,
        )
        if not scenario.steps and not self.problems:
            self._wrong("story", "has no steps")
        return scenario

    def _wrong(self, key: str, sentence: str) -> None:
        self.problems.append(f"{self._source}: {key[:60]!r} {sentence}")

    def _text(self, key: str, default: str | None, longest: int = 100_000) -> str:
        value = self._table.get(key, default)
        if isinstance(value, str) and len(value) <= longest and (value.strip() or default is not None):
            return value
        self._wrong(key, f"needs a text in quotes of at most {longest} characters")
        return ""

    def _topic(self) -> str:
        value = self._table.get("topic")
        if value not in TOPICS:
            self._wrong("topic", f"is one of {', '.join(TOPICS)}")
            return ""
        return str(value)

    def _number(self, key: str, default: int, least: int, most: int) -> int:
        value = self._table.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self._wrong(key, f"is a whole number from {least} to {most}")
        return default

    def _truth(self, key: str) -> bool:
        value = self._table.get(key, False)
        if not isinstance(value, bool):
            self._wrong(key, "is true or false")
        return value is True

    def _config(self, config: str) -> Mapping[str, Any]:
        try:
            return toml_text.loads(config)
        except TomlTextError as error:
            self._wrong("config", f"is not TOML: {error}")
            return {}

    def _story(self, names: "_Names") -> tuple[Step, ...]:
        steps: list[Step] = []
        latest_ms = 0
        for count, text in enumerate(self._text("story", None).split("\n"), start=1):
            line = count + (self._above or 0)
            where = f"{self._source}: {'line' if self._above is not None else 'story line'} {line}"
            try:
                step = read_step(text.strip("\r"), line)
            except NotUnderstood as error:
                self.problems.append(f"{where}: {error}")
                continue
            if step is None:
                continue
            self.problems += [f"{where}: {problem}" for problem in names.problems_of(step)]
            if step.when.how == "at":
                if step.when.ms < latest_ms:
                    self.problems.append(f"{where}: this is over when the step comes to be played")
                latest_ms = step.when.ms
            elif step.when.how in ("after", "for"):
                latest_ms += step.when.ms
            steps.append(step)
        return tuple(steps)


@dataclass(frozen=True)
class _Names:
    """What a station has and a step may name."""

    connectors: int
    circuits: tuple[str, ...]
    meters: tuple[str, ...]

    @classmethod
    def of(cls, connectors: int, config: Mapping[str, Any]) -> "_Names":
        """What the rig has, and what the configuration adds."""
        meters = ("site", *(f"connector-{number}" for number in range(1, connectors + 1)))
        return cls(
            connectors,
            tuple(dict.fromkeys(("main", *_ids(config.get("circuits"))))),
            tuple(dict.fromkeys((*meters, *_ids(config.get("meters"))))),
        )

    def problems_of(self, step: Step) -> Iterator[str]:
        """A sentence for each name that is none."""
        for number in names_of(step.what, "N"):
            if int(number) > self.connectors:
                yield f"there is no connector {number}; there are {self.connectors}"
        for kind, known in (("CIRCUIT", self.circuits), ("METER", self.meters)):
            for name in names_of(step.what, kind):
                if name not in known:
                    yield f"there is no {kind.lower()} {name!r}; there are {', '.join(known)}"


def _ids(entries: object) -> list[str]:
    rows = entries if isinstance(entries, list) else []
    return [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
