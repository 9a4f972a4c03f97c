"""Switching between one phase and three: at 0 A and open, once, and never for ever."""

from edge.commands import SetPhases
from edge.control.phases import GIVE_UP_MS, PAUSE_MS
from edge.events import PhasesRequested
from tests.control.story import Car, Story


def charging(*, can_switch: bool = True) -> Story:
    story = Story()
    if can_switch:
        story.plugs[1].phases = 3
    story.pass_time(1_000)
    story.arrive(1, Car(lag_ms=0))
    story.pass_time(30_000)
    return story


def ask(story: Story, phases: int) -> None:
    story.put(PhasesRequested(story.now_ms, 1, phases))


def sent(story: Story) -> list[SetPhases]:
    return [command for command in story.commands if isinstance(command, SetPhases)]


def test_it_pauses_opens_switches_looks_and_goes_on() -> None:
    story = charging()
    ask(story, 1)
    assert story.plugs[1].offer_ma == 0
    assert story.connector(1).why.kind == "phases"
    story.pass_time(PAUSE_MS - 1_000)
    assert sent(story) == []
    story.pass_time(3_000)  # the peer refuses to switch under load
    assert [command.phases for command in sent(story)] == [1]
    assert story.plugs[1].phases == 1
    assert "phases_switched" in story.topics()
    story.pass_time(30_000)  # the pause was for the switch: it is not one of the turns
    assert story.plugs[1].offer_ma == 32_000
    assert story.supply_ma() == [32_000, 0, 0]


def test_a_controller_that_does_not_switch_is_given_up_and_the_session_goes_on() -> None:
    story = charging()
    story.plugs[1].switches = False
    ask(story, 1)
    story.pass_time(GIVE_UP_MS + 1_000)
    assert "phases_refused" in story.topics()
    assert len(sent(story)) > 1
    story.pass_time(story.site.sharing.min_off_ms, step_ms=1_000)
    assert story.plugs[1].offer_ma > 0


def test_who_cannot_switch_or_has_nothing_to_switch_says_so() -> None:
    story = charging(can_switch=False)
    ask(story, 1)
    assert "connector 1 cannot switch to 1 phase(s)" in story.announced[-1].text
    assert story.plugs[1].offer_ma == 32_000
    story = charging()
    ask(story, 3)
    assert "connector 1 is on 3 phase(s)" in story.announced[-1].text
    ask(story, 2)
    assert story.topics()[-1] == "phases_refused"


def test_it_can_be_called_off_and_needs_a_session() -> None:
    story = charging()
    ask(story, 1)
    ask(story, 3)
    story.pass_time(30_000)
    assert sent(story) == []
    assert story.plugs[1].offer_ma == 32_000
    story.unplug(1)
    story.pass_time(5_000)
    ask(story, 1)
    assert "there is no session at connector 1 to switch" in story.announced[-1].text


def test_a_car_that_leaves_meanwhile_ends_it() -> None:
    story = charging()
    ask(story, 1)
    story.unplug(1)
    story.pass_time(30_000)
    assert sent(story) == []
    assert story.connector(1).phases_wanted is None
