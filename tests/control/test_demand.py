"""What drivers ask for: it weighs, it is answered, and it never takes a minimum from anybody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.control.demand import answered, left_wh, need_ma
from edge.control.headroom import headroom
from edge.control.state import Demand
from edge.events import DemandStated
from tests.control.story import START_WH, Car, Story, site

HOUR_MS = 3_600_000


def ask(story: Story, number: int, kwh: float, hours: float, min_ma: int = 0) -> str:
    story.put(DemandStated(story.now_ms, number, round(kwh * 1000), round(hours * HOUR_MS), min_ma))
    session = story.connector(number).session
    return session.demand.answer if session is not None and session.demand is not None else ""


def charging(*cars: Car, limit_ma: int = 32_000) -> Story:
    story = Story(site(connectors=max(2, len(cars)), limit_ma=limit_ma))
    story.pass_time(1_000)
    for number, car in enumerate(cars, start=1):
        story.arrive(number, car)
    story.pass_time(20_000)
    return story


def offers(story: Story) -> list[int]:
    return [plug.offer_ma for plug in story.plugs.values()]


def test_current_follows_need_and_who_asks_for_nothing_stands_in_the_middle() -> None:
    story = charging(Car(), Car(), Car(), limit_ma=48_000)
    assert offers(story) == [16_000, 16_000, 16_000]
    ask(story, 1, 33.12, 3)  # 16 A on three phases for three hours
    ask(story, 2, 16.56, 3)  # 8 A
    story.pass_time(20_000)
    # Weights 16 : 8 : 16, the middle of two being the higher.
    assert offers(story) == pytest.approx([19_200, 9_600, 19_200], abs=200)


def test_a_car_that_has_what_it_asked_for_leaves_the_rest_to_the_others() -> None:
    story = charging(Car(), Car())
    ask(story, 1, 0.1, 1)
    ask(story, 2, 50, 2)
    story.pass_time(120_000)
    assert offers(story) == [6_000, 26_000]


def test_who_stays_beyond_his_departure_counts_as_if_he_had_said_nothing() -> None:
    story = charging(Car(), Car())
    ask(story, 1, 90, 0.01)
    ask(story, 2, 5, 10)
    story.pass_time(20_000)
    assert offers(story) == [26_000, 6_000]
    story.pass_time(40_000)
    assert offers(story) == [16_000, 16_000]


def test_the_least_that_a_driver_asks_for_is_given_or_nothing() -> None:
    story = charging(Car(), Car(), limit_ma=24_000)
    ask(story, 1, 20, 2, min_ma=16_000)
    ask(story, 2, 20, 2)
    story.pass_time(20_000)
    assert offers(story) == [16_000, 8_000]  # beside the other one's minimum of 6 A it fits
    ask(story, 1, 20, 2, min_ma=20_000)
    story.pass_time(story.site.sharing.min_off_ms + 20_000)
    assert offers(story) == [0, 24_000]  # a wish takes a minimum from nobody
    assert story.connector(1).why.text == "waiting for the minimum its driver asked for on circuit main L1"


def test_a_minimum_that_can_never_be_had_is_refused() -> None:
    story = charging(Car(), limit_ma=20_000)
    ask(story, 1, 20, 2, min_ma=30_000)
    assert story.announced[-1].text == "this connector never has more than 20.0 A; ask for less as a minimum"
    assert offers(story)[0] == 20_000


def test_a_wish_is_answered_beside_what_others_were_promised() -> None:
    story = charging(Car(), Car())
    assert ask(story, 1, 20, 2) == "20.0 kWh within 2 h 0 min can be done as things stand"
    assert ask(story, 2, 22, 2).endswith("can be done as things stand")
    assert ask(story, 2, 30, 2) == (
        "30.0 kWh within 2 h 0 min cannot be promised: about 24.1 kWh can, "
        "because of what others were promised before"
    )  # 32 A x 3 x 230 V for two hours are 44.1 kWh, of which 20 are promised
    assert story.topics()[-1] == "demand_answered"


def test_a_wish_is_not_promised_what_sharing_would_not_give() -> None:
    story = charging(Car(), Car())
    # The other one said nothing, and who says nothing counts like the others.
    assert "about 11.0 kWh can, because of what the others get beside" in ask(story, 1, 17, 1)
    assert ask(story, 1, 11, 1).endswith("can be done as things stand")
    before = story.plugs[1].register_mwh
    story.pass_time(HOUR_MS, step_ms=5_000)
    assert story.plugs[1].register_mwh - before >= 10_950_000


def test_a_wish_made_before_the_car_asks_is_answered_for_a_car_that_does() -> None:
    story = charging(Car(asks=False), Car(asks=False))
    story.pass_time(120_000)  # by now they are known not to ask
    assert ask(story, 1, 20, 1).endswith("can be done as things stand")
    assert "about 2.0 kWh can" in ask(story, 2, 20, 1)


def test_more_than_the_connector_can_is_said_to_be_too_much() -> None:
    story = charging(Car(), limit_ma=63_000)
    assert "about 22.0 kWh can, because of the connector's maximum" in ask(story, 1, 40, 1)


def test_a_promise_to_one_who_leaves_later_is_kept_as_well() -> None:
    story = charging(Car(), Car())
    ask(story, 2, 1, 3)
    assert ask(story, 1, 50, 3).endswith("can be done as things stand")
    # 22 kWh can flow in one hour, but only 66.2 in three, of which 50 are promised.
    station = story.station
    space = headroom(station)
    wish = Demand(20_000, station.now_ms + HOUR_MS, 0, START_WH)
    assert "about 16.2 kWh can" in answered(station, space.rows, space.room, 1, wish, 32_000).answer


def test_there_is_no_wish_without_a_session_and_none_below_zero() -> None:
    story = charging(Car())
    ask(story, 2, 10, 1)
    story.put(DemandStated(story.now_ms, 9, 10_000, HOUR_MS))
    ask(story, 1, -1, 1)
    ask(story, 1, 1, 0)
    assert story.topics()[-4:] == ["demand_refused"] * 4


@given(st.integers(0, 200_000), st.integers(1, 100 * HOUR_MS), st.integers(1, 3))
def test_need_is_the_mean_current_that_meets_the_wish_just_in_time(wh: int, ms: int, phases: int) -> None:
    story = Story(site())
    story.pass_time(1_000)
    story.arrive(1)
    story.put(DemandStated(story.now_ms, 1, wh, ms))
    connector = story.connector(1)
    need = need_ma(connector, phases, story.station.now_ms)
    assert connector.session is not None
    assert connector.session.demand is not None
    assert need is not None
    delivered_wh = need * 230 * phases * ms / 3_600_000_000
    one_ma_wh = 230 * phases * ms / 3_600_000_000
    assert left_wh(connector.session, connector.session.demand) - one_ma_wh <= delivered_wh <= wh
