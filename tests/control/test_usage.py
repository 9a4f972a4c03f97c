"""What cars make of their offers: unused current and phases go to others, excess is charged to all."""

from edge.control.site import Sharing
from tests.control.story import Car, Sloppy, Story, site


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


def test_a_car_a_little_above_its_offer_is_charged_to_all_so_that_the_fuse_holds() -> None:
    story = Story(site(connectors=4, limit_ma=64_000))
    story.pass_time(1_000)
    for number in range(1, 5):
        story.arrive(number, Sloppy(lag_ms=0))
    story.pass_time(120_000)
    assert max(story.supply_ma()) <= 64_000
    assert [fault for number in range(1, 5) for fault in story.faults(number)] == []


def test_falling_offers_do_not_hide_a_car_that_does_not_obey() -> None:
    story = Story(site(limit_ma=64_000))
    greedy = Car(lag_ms=0)
    two(story, greedy, Car(lag_ms=0))
    story.pass_time(30_000)
    greedy.obeys = False
    for tenths in range(100):  # the house takes 0.3 A more every four seconds
        story.background_ma = (30_000 + 300 * tenths,) * 3
        story.pass_time(4_000)
        if "overdraw" in story.faults(1):
            break
    assert tenths < 10


def test_a_car_that_takes_too_much_is_not_forgiven_when_its_meter_dies() -> None:
    story = Story(site(measured=False))
    greedy = Car(lag_ms=0)
    two(story, greedy, Car(lag_ms=0))
    story.pass_time(20_000)
    greedy.obeys = False
    story.pass_time(7_000)
    story.plugs[1].meter_silent = True
    story.pass_time(20_000)
    assert "overdraw" in story.faults(1)


class Partial(Car):
    """Takes a part of whatever it is offered."""

    def takes_ma(self, followed_ma: int) -> int:
        return followed_ma * 8 // 10


def test_a_car_that_takes_a_part_of_whatever_it_is_offered_is_not_squeezed() -> None:
    story = Story()
    story.pass_time(1_000)
    story.arrive(1, Partial(lag_ms=0))
    story.pass_time(30 * 60_000, step_ms=1_000)
    assert story.plugs[1].offer_ma == 32_000


def test_a_small_headroom_does_not_make_a_cap_come_and_go() -> None:
    story = Story(site(sharing=Sharing(reclaim_headroom_ma=1_000)))
    two(story, Car(max_ma=10_000, lag_ms=0), Car(lag_ms=0))
    story.pass_time(60_000)
    seen: set[int] = set()
    story.pass_time(120_000, lambda: seen.add(story.plugs[1].offer_ma))
    assert seen == {11_000}


def test_another_car_or_another_switch_is_not_trusted_to_use_the_same_phases() -> None:
    story = Story()
    story.plugs[1].phases = 1
    two(story, Car(lag_ms=0), Car(lag_ms=0))
    story.pass_time(60_000)
    assert story.connector(1).used == (0,)
    story.plugs[1].phases = 3  # by itself
    story.look(1)
    assert story.connector(1).used is None
    story.plugs[1].phases = 1
    story.pass_time(30_000)
    assert story.connector(1).used == (0,)
    story.plugs[1].silent = True
    story.pass_time(10_000)
    story.plugs[1].silent = False
    story.look(1)
    assert story.connector(1).used is None


def test_a_pilot_that_flickers_does_not_make_the_offer_flicker() -> None:
    story = Story()
    story.pass_time(1_000)
    car = story.arrive(1, Car(lag_ms=0))
    story.pass_time(30_000)
    changes = 0
    for _ in range(40):
        car.asks = not car.asks
        before = story.plugs[1].offer_ma
        story.pass_time(500)
        changes += story.plugs[1].offer_ma > before
    assert changes <= 20_000 // 5_000


def test_a_resting_car_is_not_offered_and_refused_all_the_time() -> None:
    story = Story(site(limit_ma=22_100))
    two(story, Car(asks=False), Car(max_ma=16_000, lag_ms=0))
    story.pass_time(120_000)
    raises = 0
    for step in range(120):
        story.background_ma = (1_000 * (step % 2),) * 3
        before = story.plugs[1].offer_ma
        story.pass_time(1_000)
        raises += story.plugs[1].offer_ma > before
    assert raises <= 1
