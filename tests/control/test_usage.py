"""What cars make of their offers: unused current and phases go to others, excess is charged to all."""

from edge.control.site import Sharing
from tests.control.story import Car, Story, site


def offers(story: Story) -> list[int]:
    return [plug.offer_ma for plug in story.plugs.values()]


def two(story: Story, first: Car, second: Car) -> Story:
    story.pass_time(1_000)
    story.arrive(1, first)
    story.arrive(2, second)
    return story


def test_what_a_car_leaves_goes_to_the_others_and_comes_back_when_it_wants_more() -> None:
    small = Car(max_ma=8_000, lag_ms=0)
    story = two(Story(), small, Car(lag_ms=0))
    story.pass_time(15_000)
    assert offers(story) == [16_000, 16_000]
    story.pass_time(20_000)
    assert offers(story) == [10_000, 22_000]  # 8 A and 2 A of headroom
    assert story.connector(1).why.kind == "unused"
    small.max_ma = 32_000
    story.pass_time(30_000)
    assert offers(story) == [16_000, 16_000]


def test_the_rest_is_shared_out_within_a_tick_of_the_reading_that_shows_it() -> None:
    story = two(Story(), Car(max_ma=8_000, lag_ms=0), Car(lag_ms=0))
    moments: dict[int, int] = {}

    def note() -> None:
        if story.plugs[1].offer_ma == 10_000 and story.plugs[2].offer_ma >= 16_000:
            moments.setdefault(story.plugs[2].offer_ma, story.now_ms)

    story.pass_time(40_000, note)
    assert moments[22_000] - moments[16_000] <= 500


def test_how_long_and_how_much_is_set_by_the_site() -> None:
    sharing = Sharing(reclaim_after_ms=60_000, reclaim_headroom_ma=4_000)
    story = two(Story(site(sharing=sharing)), Car(max_ma=8_000, lag_ms=0), Car(lag_ms=0))
    story.pass_time(60_000)
    assert offers(story) == [16_000, 16_000]
    story.pass_time(30_000)
    assert offers(story) == [12_000, 20_000]


def test_a_car_that_follows_slowly_is_not_taken_for_a_small_one() -> None:
    story = two(Story(), Car(lag_ms=4_500), Car(lag_ms=0))
    story.pass_time(60_000)
    assert offers(story) == [16_000, 16_000]


def test_the_phases_a_car_does_not_use_are_free_for_others_until_it_uses_them() -> None:
    single = Car(phases=1, lag_ms=0)
    story = two(Story(), single, Car(lag_ms=0))
    story.pass_time(15_000)
    assert offers(story) == [16_000, 16_000]
    third = story.site.outlets[1]
    assert third.lines == (0, 1, 2)
    story.pass_time(20_000)
    assert story.connector(1).used == (0,)
    single.phases = 3  # some cars begin with one phase
    story.pass_time(1_000)
    assert story.connector(1).used is None
    assert max(story.supply_ma()) <= 32_000
    story.unplug(1)
    assert story.connector(1).used is None


def test_single_phase_cars_on_rotated_connectors_do_not_share_a_phase() -> None:
    plan = site(connectors=3, limit_ma=16_000)
    rotated = tuple(
        type(o)(o.number, o.circuit, lines, o.min_ma, o.max_ma, o.meter, ventilated=False)
        for o, lines in zip(plan.outlets, ((0, 1, 2), (1, 2, 0), (2, 0, 1)), strict=True)
    )
    story = Story(type(plan)(plan.station, plan.circuits, rotated, plan.readers, plan.cards, plan.tariff))
    story.pass_time(1_000)
    for number in (1, 2):
        story.arrive(number, Car(phases=1, lag_ms=0))
    story.pass_time(60_000)
    assert offers(story) == [16_000, 16_000, 0]


def test_a_car_that_takes_too_much_is_charged_to_the_others_and_then_stopped_by_name() -> None:
    greedy = Car(lag_ms=0)
    story = two(Story(), greedy, Car(lag_ms=0))
    story.pass_time(15_000)
    greedy.max_ma, greedy.obeys = 24_000, False
    over: list[int] = []
    story.pass_time(2_000)
    story.pass_time(5_000, lambda: over.append(max(story.supply_ma())))
    assert max(over) <= 32_000  # the other one gave way at once
    assert offers(story)[1] <= 8_000
    assert story.connector(1).why.kind == "overdraw"
    story.pass_time(8_000)
    assert "overdraw" in story.faults(1)
    assert offers(story)[0] == 0
