"""A scenario is judged on what is seen, and its reports say so to machines and to people."""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hal_mocks import rig_site
from hal_mocks.books import Booking, Books, Tally
from hal_mocks.meter import NJ_PER_WH
from hal_mocks.play import MOST_SAMPLES, Outcome, clock, play
from hal_mocks.report import html, junit
from hal_mocks.scenario import Scenario
from hal_mocks.stage import (
    LogLine,
    Site,
    StageError,
    Till,
    View,
    circuits_of,
    do_on_site,
    log_line,
    manners_of,
    request_of,
    world_of,
)
from hal_mocks.steps import Action, BackendFault, Expectation, read_step
from hal_mocks.toml_text import loads, merged
from hal_mocks.verdicts import seen_instead
from hal_mocks.world import World

CONFIG = rig_site.config_text(
    rig_site.world(2, 32_000), rig_site.Wiring("/x", "/x/m", "/x/e", "127.0.0.1", 1883, "reader")
)


def status(world: World, offers_ma: dict[int, int] | None = None) -> dict[str, Any]:
    """What a daemon would answer that sees everything and offers this."""
    fault = {"name": "meter_silent"}
    return {
        "online": True,
        "faults": [],
        "claims": {"open": 0, "closed": 1, "settled": 2, "rejected": 0, "voided": 0},
        "circuits": [{"id": "main", "faults": []}],
        "connectors": [
            {
                "number": number,
                "state": "charging",
                "session_state": "charging",
                "offered_ma": (offers_ma or {}).get(number, 0),
                "why": "circuit main L1",
                "faults": [fault] if number == 2 else [],
            }
            for number in world.connectors
        ],
    }


class CopperStage:
    """A stage of copper alone: boards offer what the test wrote into them, and time is the world's."""

    name = "copper"

    def __init__(self) -> None:
        self.world = rig_site.world(2, 32_000)
        self.site = Site(self.world, {}, {"main": "site"})
        self.books = Books()
        self.answers = True
        self.looks = 0

    @property
    def now_ms(self) -> int:
        return self.world.now_ms

    def can(self, action: Action) -> str | None:
        return "copper has no broker" if str(action).startswith("broker") else None

    async def act(self, action: Action) -> None:
        if str(action).startswith("daemon"):
            self.answers = "started" in str(action)
        elif not do_on_site(self.site, action):
            raise StageError("copper cannot do that")

    async def look(self) -> View:
        self.looks += 1
        offers = {number: board.offer_ma for number, board in self.world.evses.items()}
        log = [LogLine(0, "card_refused", 'nobody "knows" card <B3C4>', 1)]
        return View(
            self.now_ms,
            status(self.world, offers) if self.answers else None,
            self.world,
            self.site.circuits,
            self.books.tally,
            {},
            log,
        )

    async def until(self, condition: Callable[[View], bool], timeout_ms: int) -> bool:
        end_ms = self.now_ms + timeout_ms
        while not condition(await self.look()):
            if self.now_ms >= end_ms:
                return False
            self.world.advance(min(end_ms, self.now_ms + 100))
        return True


def told(*lines: str, title: str = "A story & its <end>") -> Scenario:
    steps = [read_step(line, number) for number, line in enumerate(lines, start=1)]
    return Scenario(title, "safety", "What happens.", tuple(step for step in steps if step), name="story")


def run(coroutine: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Run what never waits for anything but its stage."""
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    outcome: Outcome = end.value.value
    return outcome


def played(*lines: str) -> Outcome:
    stage = CopperStage()
    for board in stage.world.evses.values():
        board.write(1000, [16])
    return run(play(told(*lines), stage))


STORY = (
    "plug 1 car 10A",
    "within 5s connector 1 draws 10A",
    "for 2s circuit main at most 10A",
    "load oven 20A",
    "evse 1 welded",
    "after 1s daemon killed",
    "after 1s daemon started",
    "at 20s connector 1 offers 16A",
)


def test_a_story_is_played_to_its_end_step_by_step_with_times() -> None:
    outcome = played(*STORY)
    assert outcome.held, outcome.failure
    assert [done.ended_ms for done in outcome.done] == [0, 2_900, 4_900, 4_900, 4_900, 5_900, 6_900, 20_000]
    assert outcome.length_ms == 20_000
    assert (outcome.samples[0].at_ms, outcome.samples[-1].at_ms) == (0, 20_000)
    assert {sample.running for sample in outcome.samples} == {True, False}
    assert len(outcome.samples) < 60  # what stays the same is not kept


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("connector 1 draws 10A", "it draws 0.0 A"),
        ("within 2s connector 1 offers 20A", "it offers 16.0 A: circuit main L1"),
        ("for 5s connector 1 draws 1A or less", "it draws 2.0 A"),
        ("contactor 1 closed", "it is open"),
        ("at 0s unplug 2", "there is no car at connector 2"),
        ("plug 1", "a car is plugged into connector 1 already"),
        ("swipe alice", "copper cannot do that"),
        ("daemon is down", "it is running"),
        ("offline", "it is online"),
        ("connector 1 is available", "it is charging (session charging)"),
        ("connector 2 has no fault", "it has fault meter_silent"),
        ("connector 1 has fault meter_silent", "it has no fault"),
        ("2 claims waiting", "there are 0 open, 1 waiting, 2 settled, 0 rejected"),
        ('connector 1 why "turn"', "it says 'circuit main L1'"),
        ("log has ready", "it has only card_refused"),
        ('log has card_refused "alice"', "it has 'nobody \"knows\" card <B3C4>'"),
        ("log never has card_refused", "it has 'nobody \"knows\" card <B3C4>'"),
        ("every claim settled once", "the journal has 0 open, 1 waiting"),
    ],
)
def test_what_does_not_hold_ends_the_story_and_says_what_was_seen_instead(line: str, seen: str) -> None:
    outcome = played("plug 1 car 10A", line, "unplug 1")
    assert outcome.failure is outcome.done[-1]
    assert len(outcome.done) == 2
    assert seen in str(outcome.done[1].failure)


def test_a_time_that_is_over_is_a_failure() -> None:
    outcome = played("after 5s plug 1", "within 4s connector 1 draws 16A", "at 6s unplug 1")
    assert outcome.failure is not None
    assert "this is over" in str(outcome.failure.failure)


def test_a_stage_that_cannot_do_something_refuses_before_it_begins() -> None:
    stage = CopperStage()
    outcome = run(play(told("plug 1", "broker killed"), stage))
    assert outcome.refusals == ["line 2: broker killed: copper has no broker"]
    assert (outcome.held, stage.looks, stage.world.vehicles) == (False, 0, {})


def test_what_a_station_billed_is_held_against_what_flowed() -> None:
    stage = CopperStage()
    world = stage.world
    meter = world.meters["connector-1"]
    meter.flow_nj[0] = 100 * NJ_PER_WH
    bill = {"connector": 1, "energy_wh": 99}

    def seen(promise: str, tally: Tally, bills: dict[str, Any]) -> str | None:
        step = read_step(promise)
        assert step is not None
        assert isinstance(step.what, Expectation)
        claims = {"open": 0, "closed": 0, "settled": 1, "rejected": 0}
        view = View(0, status(world) | {"claims": claims}, world, {}, {"c": tally}, bills, [])
        return seen_instead(step.what, view)

    once, twice = Tally("rig-1", booked=1), Tally("rig-1", booked=2)
    assert seen("bills equal meters", once, {"c": bill}) is None
    assert seen("bills equal meters", once, {"c": bill | {"energy_wh": 98}}) == (
        "connector 1: 100.0 Wh flowed, 98 Wh in 1 bills"
    )
    assert "0 Wh in 0 bills" in str(seen("bills equal meters", once, {}))
    assert seen("every claim settled once", once, {"c": bill}) is None
    for promise in ("every claim settled once", "no claim booked twice", "bills equal meters"):
        assert seen(promise, twice, {"c": bill}) == "claim c was booked 2 times"


def test_the_till_keeps_bills_of_a_backend_that_forgets() -> None:
    till, books = Till(), Books()
    books.ledger["c"] = Booking("hash", {"id": "c"}, accepted=True)
    till.note(books)
    books.forget()
    till.note(books)
    assert till.bills == {"c": {"id": "c"}}


# --- what is the same on every stage --------------------------------------------------------------------


def test_two_meters_that_were_swapped_get_back_their_own_addresses() -> None:
    stage = CopperStage()
    one, two = stage.world.meters["connector-1"], stage.world.meters["connector-2"]
    for line in ("meter connector-1 swapped-with connector-2", "meter connector-1 silent"):
        step = read_step(line)
        assert step is not None
        assert isinstance(step.what, Action)
        assert do_on_site(stage.site, step.what)
    assert (one.unit, two.unit, one.faults.silent) == (12, 11, True)
    well = read_step("meter connector-1 well")
    assert well is not None
    assert isinstance(well.what, Action)
    do_on_site(stage.site, well.what)
    assert (one.unit, two.unit, one.faults.silent) == (11, 12, False)


def test_the_world_has_the_circuits_and_phases_of_the_configuration() -> None:
    base = rig_site.world(2, 32_000)
    over = (
        '[[circuits]]\nid = "garage"\nparent = "main"\nlimit_a = [10, 10, 10]\nmeter = "garage-meter"\n'
        '[[meters]]\nid = "garage-meter"\nbus = "meters"\nunit = 50\nprofile = "sdm630"\n'
        '[[connectors]]\nnumber = 2\ncircuit = "garage"\nphases = "L3"\n'
    )
    settings = loads(merged(CONFIG, over))
    world = world_of(base, settings)
    assert circuits_of(settings) == {"main": "site", "garage": "garage-meter"}
    assert world.circuits["garage-meter"].parent == "site"
    assert world.meters["garage-meter"].unit == 50
    assert world.connectors[2].lines == (2,)
    assert world.evses[2] is base.evses[2]


def test_requests_and_manners_are_those_of_the_station_and_the_backend() -> None:
    def request(line: str) -> dict[str, object] | None:
        step = read_step(line)
        assert step is not None
        assert isinstance(step.what, Action)
        return request_of(step.what)

    assert request("limit circuit main 16A for 10m from grid") == {
        "ask": "limit",
        "circuit": "main",
        "source": "grid",
        "current_ma": [16_000] * 3,
        "for_ms": 600_000,
    }
    assert request("limit connector 1 lift") == {"ask": "limit", "connector": 1, "for_ms": 0}
    assert request("clear-fault 2") == {"ask": "clear_fault", "connector": 2}
    assert request("unplug 1") is None
    late = manners_of(BackendFault("late", 10_000))
    assert late is not None
    assert late.delay_s == 10
    assert manners_of(BackendFault("forgetful")) is None


def test_a_log_line_is_read_with_its_text_and_connector() -> None:
    line = 'time=2026-01-01T00:00:00.000Z level=info topic=card_refused text="nobody \\"knows\\"" connector=1'
    assert log_line(line, 7) == LogLine(7, "card_refused", 'nobody "knows"', 1)
    assert log_line("topic=ready text=serving", 0) == LogLine(0, "ready", "serving", None)
    assert log_line("topic=stopping", 0) == LogLine(0, "stopping", "", None)
    assert log_line("Traceback (most recent call last):", 0) is None


# --- reports --------------------------------------------------------------------------------------------


def three_outcomes() -> list[Outcome]:
    refused = run(play(told("broker killed", title="Refused \x07"), CopperStage()))
    return [played(*STORY), played("plug 1 car 10A", "contactor 1 closed", "unplug 1"), refused]


def test_junit_has_a_case_for_each_scenario_and_a_failure_with_line_expected_and_seen() -> None:
    root = ET.fromstring(junit(three_outcomes()))  # noqa: S314 - our own text
    assert (root.attrib["tests"], root.attrib["failures"], root.attrib["errors"]) == ("3", "1", "1")
    held, failed, refused = root.iter("testcase")
    assert held.attrib["classname"] == "scenarios.safety.story"
    assert list(held) == []
    (failure,) = failed
    assert failure.attrib["message"] == "contactor 1 closed: it is open"
    assert "line:     2" in str(failure.text)
    assert "expected: contactor 1 closed" in str(failure.text)
    assert "seen:     it is open" in str(failure.text)
    assert refused.find("error") is not None


def test_the_page_for_people_is_one_file_that_says_first_what_failed_and_draws_everything() -> None:
    outcomes = three_outcomes()
    page = html(outcomes)
    assert page.count("<svg") == 2
    for svg in page.split("<svg")[1:]:
        ET.fromstring(f"<svg{svg.partition('</svg>')[0]}</svg>")  # noqa: S314 - our own text
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page
    assert "1 of 3 scenarios held" in page
    assert page.index("FAILED") < page.index("HELD<")
    assert "A story &amp; its &lt;end&gt;" in page
    assert "Seen: it is open" in page
    assert "copper has no broker" in page
    for text in ("5 evse 1 welded", "connector 2", ">charging<", ">down<", "card_refused", "not played"):
        assert text in page


def test_a_long_story_keeps_a_picture_of_bearable_size() -> None:
    stage = CopperStage()
    lines = ("load oven 1A", "after 1s load oven off", "after 1s load x 0A")
    outcome = run(play(told(*lines * 2_500), stage))
    assert outcome.held
    assert len(outcome.samples) <= MOST_SAMPLES
    assert outcome.samples[0].at_ms == 0
    assert outcome.samples[-1].at_ms == 5_000_000


def test_times_are_shown_as_a_clock_shows_them() -> None:
    assert [clock(ms) for ms in (0, 83_400, 3_783_499)] == ["0:00.0", "1:23.4", "1:03:03.4"]
