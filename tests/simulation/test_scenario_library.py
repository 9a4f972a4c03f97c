"""The scenarios that come with the program: each can be read, says something of its own, and holds.

Together they use the whole language. A fault that no story tells of is one that nobody can read about.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from hal_mocks.grammar import Choice, Flag, Optional, Part, Slot, parsed
from hal_mocks.play import Outcome
from hal_mocks.scenario import SHELF, TOPICS, Scenario, parse, read
from hal_mocks.stage_virtual import run_virtual
from hal_mocks.steps import ACTIONS, EXPECTATIONS, FAULTS, Action, Expectation, HasFault, Is, Log, Step

FILES = sorted(SHELF.glob("*.toml"))
LIBRARY = {path.stem: read(path) for path in FILES}

LEAST = 42
LEAST_A_TOPIC, MOST_STEPS, WIDTH = 5, 45, 118

NEVER_SEEN = {"sharing_failed"}
"""A defect of the controller; a story of it would be a bug report."""

each = pytest.mark.parametrize("name", list(LIBRARY))


def said(scenario: Scenario) -> Iterator[Action | Expectation]:
    """What is done and expected in it."""
    return (step.what for step in scenario.steps)


EVERYTHING = [what for scenario in LIBRARY.values() for what in said(scenario)]


# -- the pages ---------------------------------------------------------------------------------------


def test_there_are_enough_of_every_topic() -> None:
    of_topic = {topic: [one for one in LIBRARY.values() if one.topic == topic] for topic in TOPICS}
    assert len(LIBRARY) >= LEAST
    assert {topic for topic, stories in of_topic.items() if len(stories) < LEAST_A_TOPIC} == set()


@each
def test_a_file_is_called_after_its_topic(name: str) -> None:
    assert name.startswith(f"{LIBRARY[name].topic}-")


def test_no_two_have_the_same_title() -> None:
    titles = [scenario.title for scenario in LIBRARY.values()]
    assert sorted(titles) == sorted(set(titles))


@each
def test_a_title_is_a_sentence_and_the_story_has_a_reason(name: str) -> None:
    scenario = LIBRARY[name]
    assert scenario.title[0].isupper()
    assert not scenario.title.endswith(".")
    assert len(scenario.title.split()) >= 5
    assert len(scenario.about.split()) >= 25


@each
def test_a_story_is_short_and_ends_with_what_can_fail(name: str) -> None:
    steps = LIBRARY[name].steps
    assert 5 <= len(steps) <= MOST_STEPS
    assert isinstance(steps[-1].what, Expectation)


@each
def test_a_page_fits_on_a_screen(name: str) -> None:
    lines = (SHELF / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > WIDTH or line != line.rstrip() or "\t" in line] == []


@each
def test_what_is_printed_is_read_back_the_same(name: str) -> None:
    scenario = LIBRARY[name]
    again = parse(str(scenario))
    assert replace(again, name=scenario.name) == scenario
    assert str(again) == str(scenario)


# -- the whole language ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*ACTIONS, *EXPECTATIONS], ids=lambda kind: kind.__name__)
def test_every_word_of_the_language_occurs(kind: type[Action | Expectation]) -> None:
    """Each notation's choices, its flags, and each value it can have."""
    told = [what for what in EVERYTHING if type(what) is kind]
    missing = [
        word
        for notation in kind.NOTATIONS
        for field, word in words_of(parsed(notation))
        if not any(says(what, field, word) for what in told)
    ]
    assert missing == []


def words_of(parts: tuple[Part, ...]) -> Iterator[tuple[str, str]]:
    """The fields of a notation, each with every word it may have; of values only that there is one."""
    for part in parts:
        match part:
            case Choice(field, sayings):
                yield from ((field, saying) for saying in sayings)
            case Flag(field, _) | Slot(field, _):
                yield field, ""
            case Optional(inner):
                yield from words_of(inner)
            case _:
                pass


def says(what: Action | Expectation, field: str, word: str) -> bool:
    """Whether it has that word there; for no word, whether it has anything but the default."""
    value = getattr(what, field)
    if word:
        return bool(value == word)
    every = fields(what)  # type: ignore[arg-type]  # each phrase is a dataclass
    return bool(value != next(one.default for one in every if one.name == field))


def test_every_fault_of_the_catalogue_occurs() -> None:
    seen = {what.fault for what in EVERYTHING if isinstance(what, HasFault)}
    logged = [str(what.text) for what in EVERYTHING if isinstance(what, Log) and what.topic == "fault_raised"]
    seen |= {fault for fault in FAULTS for text in logged if text.startswith(fault)}
    assert set(FAULTS) - seen == NEVER_SEEN


def test_every_state_that_a_driver_sees_occurs() -> None:
    seen = {what.state for what in EVERYTHING if isinstance(what, Is)}
    shown = {"available", "preparing", "charging", "suspended_ev", "suspended_evse", "finishing", "faulted"}
    assert shown | {"unknown", "unavailable"} <= seen


def test_each_way_of_waiting_occurs() -> None:
    hows = {step.when.how for scenario in LIBRARY.values() for step in scenario.steps}
    assert hows == {"now", "after", "at", "within", "for"}


# -- on the stage ------------------------------------------------------------------------------------


@each
def test_it_holds_on_virtual_time(name: str) -> None:
    outcome = run_virtual(LIBRARY[name], None, lambda _done: None)
    assert outcome.refusals == []
    assert outcome.held, told(outcome)


def told(outcome: Outcome) -> str:
    """What failed, and the last lines of the daemon's log."""
    failure = outcome.failure
    lines = [f"{line.at_ms} {line.topic} {line.text}" for line in outcome.log[-15:]]
    return "\n".join([f"{failure.step}: {failure.failure}" if failure else "", *lines])


def test_a_story_that_promises_too_much_fails(tmp_path: Path) -> None:
    """The stage is no rubber stamp: the same oven, and no time for the cars to follow."""
    scenario = LIBRARY["sharing-slow-cars-make-room"]
    assert run_virtual(without_patience(scenario), None, lambda _done: None).failure is not None


def without_patience(scenario: Scenario) -> Scenario:
    """The scenario with everything that may take a while expected at once."""

    def at_once(step: Step) -> Step:
        hasty = step.when.how == "within"
        return replace(step, when=replace(step.when, how="now", ms=0)) if hasty else step

    return replace(scenario, steps=tuple(at_once(step) for step in scenario.steps))
