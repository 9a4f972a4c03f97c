"""The language of scenarios: what is read is what is printed, and every mistake gets a sentence."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.control import faults
from edge.control.session import State
from edge.control.view import Availability
from hal_mocks import grammar, scenario, steps
from hal_mocks.grammar import Choice, Flag, NotUnderstood, Optional, Part, Slot, parsed, read_time, write_time
from hal_mocks.rig_site import CARDS
from hal_mocks.scenario import Scenario, ScenarioError, parse
from hal_mocks.steps import ACTIONS, EXPECTATIONS, Action, Expectation, Step, When, read_step
from hal_mocks.toml_text import TomlTextError, dumps, loads, merged

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "scenarios.md"

HEAD = 'title = "t"\ntopic = "safety"\nabout = "a"\n'

VALUES: dict[str, st.SearchStrategy[object]] = {
    "N": st.integers(1, 2),
    "COUNT": st.integers(0, 9999),
    "AMPS": st.integers(0, 200_000),
    "TIME": st.integers(0, 40_000_000),
    "JUMP": st.integers(-40_000_000, 40_000_000),
    "ENERGY": st.integers(0, 100_000),
    "POWER": st.integers(0, 100_000_000),
    "PART": st.integers(0, 1_000),
    "PHASES": st.integers(1, 3),
    "NAME": st.from_regex("[A-Za-z0-9_-]{1,32}", fullmatch=True),
    "CIRCUIT": st.just("main"),
    "METER": st.sampled_from(["site", "connector-1", "connector-2"]),
    "CARD": st.sampled_from([*CARDS, "04A1A2A3", "04a1a2a3a4a5a6"]),
    "STATE": st.sampled_from(steps.STATES),
    "TOPIC": st.sampled_from([*steps.TOPICS, "pymodbus.logging"]),
    "TEXT": st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable() and '"' not in text),
}


@st.composite
def phrases(draw: st.DrawFn, kinds: tuple[type[Action | Expectation], ...]) -> Action | Expectation:
    """Anything that can be written, from the notations themselves."""
    kind = draw(st.sampled_from(kinds))
    chosen: dict[str, object] = {}
    _choose(draw, parsed(draw(st.sampled_from(kind.NOTATIONS))), chosen)
    if chosen.get("fault") is FAULT:
        place = {"connector", "circuit"} & chosen.keys()
        elsewhere = {*steps.CIRCUIT_FAULTS, *steps.STATION_FAULTS}
        names: tuple[str, ...] = steps.CIRCUIT_FAULTS if place == {"circuit"} else steps.STATION_FAULTS
        if place == {"connector"}:
            names = tuple(name for name in steps.FAULTS if name not in elsewhere)
        chosen["fault"] = draw(st.sampled_from(names))
    return kind(**chosen)


FAULT = object()


def _choose(draw: st.DrawFn, parts: tuple[Part, ...], chosen: dict[str, object]) -> None:
    for part in parts:
        match part:
            case Optional(inner):
                if draw(st.booleans()):
                    _choose(draw, inner, chosen)
            case Choice(field, sayings):
                chosen[field] = draw(st.sampled_from(sayings))
            case Flag(field):
                chosen[field] = True
            case Slot(field, "FAULT"):
                chosen[field] = FAULT
            case Slot(field, kind):
                chosen[field] = draw(VALUES[kind])
            case _:
                pass


TIMES = st.integers(0, 40_000_000)
STEPS = st.one_of(
    st.builds(Step, phrases((*ACTIONS, *EXPECTATIONS)), st.just(steps.NOW)),
    st.builds(Step, phrases((*ACTIONS, *EXPECTATIONS)), st.builds(When, st.just("after"), TIMES)),
    st.builds(Step, phrases(EXPECTATIONS), st.builds(When, st.sampled_from(["within", "for"]), TIMES)),
)


@given(STEPS)
def test_every_step_that_can_be_written_is_read_as_itself(step: Step) -> None:
    assert read_step(str(step)) == step


@given(
    st.builds(
        Scenario,
        title=st.text(min_size=1, max_size=60).filter(str.strip),
        topic=st.sampled_from(scenario.TOPICS),
        about=st.text(min_size=1, max_size=200).filter(str.strip),
        steps=st.lists(STEPS, min_size=1, max_size=8).map(tuple),
        connectors=st.integers(2, 8),
        limit_a=st.integers(6, 1_000),
        real=st.booleans(),
        config=st.sampled_from(["", "[sharing]\nslot_min = 5\n"]),
        name=st.just("scenario"),
    )
)
def test_every_scenario_is_printed_as_a_file_that_is_read_as_itself(told: Scenario) -> None:
    again = parse(str(told))
    # TOML knows one end of a line.
    assert again == dataclasses.replace(told, about=again.about, title=told.title)
    assert again.about.split() == told.about.split()


@given(st.text(max_size=400))
def test_any_text_is_a_scenario_or_a_sentence(text: str) -> None:
    for source in (text, f'{HEAD}story = """\n{text.replace(chr(92), "")}\n"""'):
        try:
            told: Sequence[object] = parse(source).steps
        except ScenarioError as error:
            told = error.problems
        assert told


WORDS = sorted(
    {
        word
        for kind in (*ACTIONS, *EXPECTATIONS)
        for notation in kind.NOTATIONS
        for word in re.findall(r"[\w-]+", notation)
    }
    | {"1", "16A", "16", "A", "3s", "at", "after", "within", "for", "expect", '"x"', "99", "3 phases"}
)


@given(st.lists(st.sampled_from(WORDS), max_size=9))
def test_any_words_of_the_language_are_a_step_or_a_sentence(words: list[str]) -> None:
    try:
        step = read_step(" ".join(words))
    except NotUnderstood:
        return
    assert step is None or read_step(str(step)) == step


def problems(text: str, head: str = HEAD) -> tuple[str, ...]:
    with pytest.raises(ScenarioError) as told:
        parse(f'{head}story = """\n{text}\n"""\n', "x.toml")
    return told.value.problems


def test_all_mistakes_are_told_at_once_each_with_its_line_its_word_and_what_was_expected() -> None:
    found = problems(
        "plug 1 car 16B\n# fine\n\nplug 9\nafter swipe alice\nwithin 3s unplug 1\nmeter site ill"
    )
    assert [line.partition(":")[2].partition(":")[0] for line in found] == [
        *(" line 5", " line 8", " line 9", " line 10", " line 11")
    ]
    assert "'16B': expected a current, e.g. 16A" in found[0]
    assert "there is no connector 9; there are 2" in found[1]
    assert "'swipe': expected a time, e.g. 500ms" in found[2]
    assert "'unplug': expected connector" in found[3]
    assert "'ill': expected silent, frozen" in found[4]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("connector 1 is fre", "'fre': expected unknown, available"),
        ("connector 1 has fault meter_silence", "'meter_silence': expected meter_silent"),
        ("station has fault meter_silent", "'meter_silent': expected sharing_failed"),
        ("log never has sesion_stopped", "'sesion_stopped': expected card_accepted"),
        ("swipe eve", "'eve': expected alice"),
        ("circuit garage at most 3A", "there is no circuit 'garage'; there are main"),
        ("meter connector-3 silent", "there is no meter 'connector-3'"),
        ("evse 1 slow", "the end of the line: expected a time"),
        ("unplug 1 now", "'now': expected the end of the line"),
        ("at 5s unplug 1\nat 3s unplug 2", "this is over when the step comes to be played"),
        ('connector 1 why "text', "expected a text in quotes"),
        ("load oven 1000000A", "expected a current"),
        ("after 0.0001ms unplug 1", "expected a time"),
    ],
)
def test_a_mistake_is_told_where_it_is(line: str, said: str) -> None:
    assert said in "\n".join(problems(line))


def test_keys_are_checked_as_steps_are() -> None:
    head = 'title = 3\ntopic = "weather"\nconnectors = 9\nlimit_a = true\n'
    head += 'real = 1\nconfig = "a = "\ncolour = 1\n'
    text = "\n".join(problems("unplug 1", head))
    for key in ("title", "topic", "about", "connectors", "limit_a", "real", "config", "colour"):
        assert f"x.toml: '{key}'" in text
    assert "'story' has no steps" in "\n".join(problems("# nothing"))


def test_a_circuit_that_the_configuration_adds_can_be_named() -> None:
    config = "config = '''\n[[circuits]]\nid = \"garage\"\nparent = \"main\"\n'''\n"
    told = parse(f'{HEAD}{config}story = """\nload oven 3A on garage\n"""')
    assert told.steps == (Step(steps.Load("oven", 3_000, circuit="garage"), steps.NOW),)


def test_optional_words_come_in_any_order_and_units_may_stand_apart() -> None:
    one = read_step("plug 2 car sleepy 3 phases 13 A wants 5 kWh")
    other = read_step("plug 2 car 13A wants 5000Wh 3phases sleepy # a comment")
    assert one == other
    assert str(one) == "plug 2 car 13A wants 5kWh sleepy"


def test_a_step_knows_its_line_in_the_file() -> None:
    told = parse(f'{HEAD}story = """\n\nunplug 1\n# no\nunplug 2\n"""')
    assert [step.line for step in told.steps] == [6, 8]


@given(TIMES)
def test_a_time_is_written_as_it_is_read(ms: int) -> None:
    assert read_time(write_time(ms)) == ms


def test_a_file_that_cannot_be_read_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"title = '\xe9'")
    for name in ("nothing.toml", "latin.toml"):
        with pytest.raises(ScenarioError):
            scenario.read(tmp_path / name)
    with pytest.raises(ScenarioError, match="--list"):
        scenario.found("no-such-topic")


# --- the table ------------------------------------------------------------------------------------------


def test_the_page_lists_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(
        f"a test compares. -->\n\n{steps.reference().rstrip()}\n"
    )


def test_the_example_of_the_page_is_a_scenario() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    assert len(parse(text).steps) == 13


def test_the_words_of_the_table_are_those_of_the_station() -> None:
    assert set(steps.FAULTS) == set(faults.CATALOGUE)
    assert set(steps.STATES) == {*get_args(Availability), *(state.value for state in State)}


def test_every_topic_the_daemon_logs_can_be_expected() -> None:
    said: set[str] = set()
    for path in (REPOSITORY / "edge").rglob("*.py"):
        said |= set(re.findall(r'\b(?:Announce|announce|say|tell|log)\(\s*"([a-z_]+)"', path.read_text()))
    assert said <= set(steps.TOPICS), sorted(said - set(steps.TOPICS))
    for topic in steps.TOPICS:
        assert any(f'"{topic}"' in path.read_text() for path in (REPOSITORY / "edge").rglob("*.py")), topic


def test_a_notation_is_printed_only_when_it_says_everything() -> None:
    assert str(steps.Limit(circuit="main", ma=16_000, for_ms=60_000)) == "limit circuit main 16A for 1m"
    assert str(steps.Limit(connector=1, lift=True)) == "limit connector 1 lift"
    with pytest.raises(ValueError, match="nothing says"):
        str(steps.MeterFault("site", "slow"))  # how slow?
    with pytest.raises(ValueError, match="only what is expected"):
        Step(steps.Unplug(1), When("within", 1))


def test_every_scenario_on_the_shelf_is_one() -> None:
    files = sorted(scenario.SHELF.glob("*.toml"))
    assert len(files) >= 5
    for path in files:
        told = scenario.read(path)
        assert path.stem.startswith(f"{told.topic}-"), path
        assert scenario.found(path.stem) == [path]
    assert len(scenario.found("sharing")) > 1


# --- TOML -----------------------------------------------------------------------------------------------


def test_a_file_is_laid_over_another_by_the_names_of_its_entries() -> None:
    base = '[a]\nb = 1\n[[meters]]\nid = "x"\npoll_ms = 250\n[[meters]]\nid = "y"\n'
    over = '[a]\nc = [1, 2.5]\n[[meters]]\nid = "y"\npoll_ms = 1000\n[[meters]]\nid = "z"\n'
    assert loads(merged(base, over)) == loads(
        '[a]\nb = 1\nc = [1, 2.5]\n[[meters]]\nid = "x"\npoll_ms = 250\n'
        '[[meters]]\nid = "y"\npoll_ms = 1000\n[[meters]]\nid = "z"\n'
    )
    with pytest.raises(TomlTextError, match="a is a table in one file"):
        merged(base, "a = 3")


TABLES = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.text(max_size=10), st.lists(st.integers(0, 9))),
    lambda inner: (
        st.dictionaries(st.text(max_size=6), inner, max_size=4)
        | st.lists(st.dictionaries(st.text(max_size=6), inner, max_size=3), min_size=1, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), TABLES, max_size=5))
def test_a_table_is_written_as_it_is_read(table: dict[str, object]) -> None:
    assert loads(dumps(table)) == table


def test_a_notation_shows_examples_in_place_of_kinds() -> None:
    assert grammar.shown("plug {connector:N} [car {max_ma:AMPS}]") == "plug N [car 16A]"
