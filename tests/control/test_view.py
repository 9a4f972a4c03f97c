"""What people are shown: one word that is never rosier than the truth, and a page for every state."""

import json

import msgspec

from edge.control.view import availability, view
from edge.events import StopRequested
from edge.status import show
from tests.control.story import ALICE, BOB, Car, Story, site


def page(story: Story) -> str:
    """The text of `edge status`, through JSON as over the socket."""
    answer = json.loads(msgspec.json.encode(view(story.station)))
    times = {"now_ms": story.now_ms, "unix_ms": 1_800_000_000_000 + story.now_ms, "time_zone": "UTC"}
    return show({**answer, **times, "claims": {"closed": 1, "settled": 2}}, as_json=False)


def word(story: Story, number: int) -> str:
    return availability(story.connector(number), story.now_ms)


def test_the_word_follows_the_session() -> None:
    story = Story()
    assert word(story, 1) == "unknown"
    story.pass_time(500)
    assert word(story, 1) == "available"
    car = story.plug(1, Car(asks=False))
    assert word(story, 1) == "preparing"
    story.swipe(ALICE)
    story.pass_time(1_000)
    assert word(story, 1) == "suspended_ev"
    car.asks = True
    story.pass_time(1_000)
    assert word(story, 1) == "charging"
    story.swipe(ALICE)
    story.pass_time(3_000)
    assert word(story, 1) == "finishing"
    story.unplug(1)
    assert word(story, 1) == "available"


def test_what_is_not_known_is_never_called_available() -> None:
    story = Story()
    story.pass_time(500)
    story.plugs[1].silent = True
    story.plugs[2].meter_silent = True
    story.pass_time(10_000)
    assert (word(story, 1), word(story, 2)) == ("unknown", "unavailable")


def test_a_car_that_waits_for_its_turn_is_said_to_be_suspended_by_the_station() -> None:
    story = Story(site(limit_ma=10_000))
    story.pass_time(1_000)
    for number, card in ((1, ALICE), (2, BOB)):
        story.plug(number)
        story.swipe(card)
    story.pass_time(30_000)
    assert sorted(word(story, n) for n in (1, 2)) == ["charging", "suspended_evse"]
    assert "waiting for its turn" in page(story)


def test_the_page_shows_faults_with_what_to_do_and_the_true_age_of_a_reading() -> None:
    story = Story()
    story.pass_time(1_000)
    story.plugs[1].meter_silent = True
    story.site_meter_silent = True
    story.pass_time(9_000)
    text = page(story)
    assert "FAULT meter_silent" in text
    assert "check supply, wiring A/B" in text
    assert "meter silent for 9.0 s" in text
    assert "FAULT circuit_meter_silent" in text
    assert "1 waiting, 2 settled" in text


def test_there_is_a_page_before_the_first_reading_and_while_stopping() -> None:
    story = Story()
    assert "no reading" in page(story)
    story.put(StopRequested(story.now_ms))
    assert page(story)
