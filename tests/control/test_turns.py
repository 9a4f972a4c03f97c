"""Turns: nobody waits longer than his turn takes to come, and nobody is switched more often than is good."""

import random

import pytest
from msgspec.structs import replace

from edge.control.site import Sharing, Tier
from edge.events import DemandStated
from tests.control.story import START_WH, Car, Story, site

SLOT_MS = 15 * 60_000
STEP_MS = 5_000


class Waits:
    """Measures, per connector, the stretches of being admitted and of waiting, in ms."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.longest_ms: dict[int, int] = {}
        self.promised_ms: dict[int, int] = {}
        self.shortest_on_ms: dict[int, int] = {}
        self._since: dict[int, tuple[bool, int]] = {}

    def __call__(self) -> None:
        now = self.story.now_ms
        for number in self.story.plugs:
            turn = self.story.connector(number).turn
            if turn.waiting_since_ms is None and turn.on_since_ms is None:
                self._since.pop(number, None)
                continue
            on = turn.on_since_ms is not None
            was_on, since = self._since.setdefault(number, (on, now))
            if on == was_on:
                continue
            kept = self.longest_ms if on else self.shortest_on_ms
            best = max if on else min
            kept[number] = best(kept.get(number, now - since), now - since)
            self._since[number] = (on, now)

    def still_waiting_ms(self) -> int:
        now = self.story.now_ms
        return max((now - since for on, since in self._since.values() if not on), default=0)


@pytest.mark.parametrize("seed", range(60))
def test_everybody_is_served_within_as_many_slots_as_the_queue_takes(seed: int) -> None:
    rng = random.Random(seed)
    cars, served = rng.randint(2, 5), rng.randint(1, 3)
    # Around the beginnings of slots, too: minutes 0, 5, 10 and 15.
    arrivals = [rng.choice([rng.randint(0, 200), 0, 60, 119, 120, 121, 179, 180, 181]) for _ in range(cars)]
    story = Story(site(connectors=cars, limit_ma=6_000 * served + 1_000))
    waits = Waits(story)
    story.pass_time(1_000)
    for number, after in sorted(enumerate(arrivals, start=1), key=lambda each: each[1]):
        story.pass_time(max(0, after * STEP_MS - (story.now_ms - 1_003_000)), waits, STEP_MS)
        story.arrive(number, Car(lag_ms=0))
    story.pass_time(6 * SLOT_MS, waits, STEP_MS)
    waiting = max(0, cars - served)
    bound_ms = -(-waiting // min(served, cars)) * SLOT_MS
    for waited_ms in (*waits.longest_ms.values(), waits.still_waiting_ms()):
        assert waited_ms <= bound_ms + STEP_MS
    # Seen a step late at most.
    assert min(waits.shortest_on_ms.values(), default=SLOT_MS) >= story.site.sharing.min_on_ms - STEP_MS


@pytest.mark.parametrize("seed", range(20))
def test_a_car_on_three_phases_is_not_kept_out_by_cars_on_one(seed: int) -> None:
    rng = random.Random(seed)
    order, phases = rng.sample([1, 2, 3, 4], k=4), rng.choices([1, 3], k=4)
    # Which phases a car uses is known only once it charged; until then all wired ones count.
    story = Story(site(connectors=4, limit_ma=7_000))
    waits = Waits(story)
    story.pass_time(1_000)
    for number in order:
        story.arrive(number, Car(lag_ms=0, phases=phases[number - 1]))
    story.pass_time(8 * SLOT_MS, waits, STEP_MS)
    for waited_ms in (*waits.longest_ms.values(), waits.still_waiting_ms()):
        assert waited_ms <= 3 * SLOT_MS + STEP_MS


def test_who_waits_is_told_why_and_until_when() -> None:
    story = Story(site(limit_ma=10_000))
    story.pass_time(1_000)
    story.arrive(1)
    story.arrive(2)
    story.pass_time(60_000)
    why = story.connector(2).why
    assert why.kind == "turn"
    assert why.text == "waiting for its turn: the minimum does not fit circuit main L1"
    assert why.until_ms == story.station.started_ms + SLOT_MS
    story.pass_time(SLOT_MS, step_ms=STEP_MS)
    assert story.plugs[2].offer_ma == 10_000
    assert story.connector(1).why.kind == "pause"
    story.pass_time(story.site.sharing.min_off_ms, step_ms=STEP_MS)
    assert story.connector(1).why.kind == "turn"


def test_who_was_paused_in_the_middle_of_a_slot_does_not_miss_his_turn_for_his_off_time() -> None:
    story = Story(site(limit_ma=13_000))
    story.pass_time(1_000)
    for number in (1, 2):
        story.arrive(number, Car(lag_ms=0))
    story.pass_time(12 * 60_000, step_ms=STEP_MS)
    story.background_ma = (5_000, 5_000, 5_000)  # one of them has to go, three minutes before the slot ends
    story.pass_time(60_000, step_ms=STEP_MS)
    paused = 1 if story.plugs[1].offer_ma == 0 else 2
    waited_ms = 60_000
    while story.plugs[paused].offer_ma == 0:
        story.pass_time(STEP_MS, step_ms=STEP_MS)
        waited_ms += STEP_MS
    assert story.site.sharing.min_off_ms <= waited_ms <= story.site.sharing.min_off_ms + 4 * STEP_MS


def paused_by_the_house() -> Story:
    """One car, told 0 A because the house takes too much."""
    story = Story(site(connectors=1, limit_ma=10_000))
    story.pass_time(1_000)
    story.arrive(1)
    story.pass_time(30_000)
    story.background_ma = (6_000, 6_000, 6_000)
    story.pass_time(5_000)
    return story


def test_a_paused_car_is_not_switched_on_again_before_its_off_time() -> None:
    story = paused_by_the_house()
    assert story.plugs[1].offer_ma == 0
    story.background_ma = (0, 0, 0)
    paused_ms = story.now_ms
    story.pass_time(story.site.sharing.min_off_ms - 10_000)
    why = story.connector(1).why
    assert (story.plugs[1].offer_ma, why.kind) == (0, "pause")
    assert why.until_ms is not None
    assert abs(why.until_ms - paused_ms - story.site.sharing.min_off_ms) <= 5_000
    story.pass_time(20_000)
    assert story.plugs[1].offer_ma == 10_000


def test_a_new_driver_does_not_wait_for_the_pause_of_the_one_before() -> None:
    story = paused_by_the_house()
    story.unplug(1)
    story.background_ma = (0, 0, 0)
    story.pass_time(30_000)
    story.arrive(1)
    story.pass_time(1_000)
    assert story.plugs[1].offer_ma > 0


def test_a_higher_class_is_let_in_first_but_not_in_anybodys_first_minutes() -> None:
    story = Story(site(limit_ma=10_000))
    story.pass_time(1_000)
    story.arrive(1)
    story.pass_time(60_000)
    story.arrive(2, tier=Tier(priority=1))
    story.pass_time(60_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [10_000, 0]
    story.pass_time(story.site.sharing.min_on_ms - 60_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [0, 10_000]
    story.pass_time(3 * SLOT_MS, step_ms=STEP_MS)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [
        0,
        10_000,
    ]  # a class does not take turns with a lower one


def test_tiers_weigh_and_strict_classes_are_filled_first() -> None:
    for strict, offers in ((False, [10_000, 21_300]), (True, [6_000, 26_000])):
        story = Story(site(sharing=Sharing(strict=strict)))
        story.pass_time(1_000)
        story.arrive(1)
        story.arrive(2, tier=Tier(weight_percent=200, priority=1))
        story.pass_time(30_000)
        assert [story.plugs[n].offer_ma for n in (1, 2)] == offers


def test_with_strict_classes_a_protected_turn_of_a_lower_class_keeps_only_its_minimum() -> None:
    story = Story(site(connectors=3, limit_ma=20_000, sharing=Sharing(strict=True)))
    story.pass_time(1_000)
    for number, rank in ((1, 0), (2, 1), (3, 1)):
        story.arrive(number, tier=Tier(priority=rank))
        story.pass_time(1_000)
    story.pass_time(30_000)
    assert [story.plugs[n].offer_ma for n in (1, 2, 3)] == [6_000, 7_000, 7_000]


def test_a_car_that_does_not_ask_leaves_its_current_to_the_others_and_gets_it_back() -> None:
    story = Story(site(limit_ma=12_000))
    story.pass_time(1_000)
    full = story.arrive(1, Car(lag_ms=0))
    story.arrive(2, Car(lag_ms=0))
    story.pass_time(30_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [6_000, 6_000]
    full.asks = False
    story.pass_time(12_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [0, 12_000]
    assert story.connector(1).why.kind == "not_asking"
    full.asks = True
    story.pass_time(15_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [6_000, 6_000]


def test_a_sleeping_car_keeps_its_minimum_unless_somebody_needs_it_and_is_offered_it_again() -> None:
    story = Story(site(limit_ma=20_000))
    story.pass_time(1_000)
    story.arrive(1, Car(asks=False))
    story.pass_time(10 * 60_000, step_ms=STEP_MS)
    assert story.plugs[1].offer_ma == 6_000
    story.arrive(2, Car(max_ma=20_000))
    offers: list[int] = []
    story.pass_time(20 * 60_000, lambda: offers.append(story.plugs[1].offer_ma), STEP_MS)
    assert offers[10] == 0
    assert 6_000 in offers[10:]  # a car may need an offer to wake up
    assert offers.count(0) > len(offers) * 3 // 4


def test_need_comes_before_waiting_time_only_within_the_bound() -> None:
    story = Story(site(connectors=3, limit_ma=7_000))
    story.pass_time(1_000)
    for number in (1, 2, 3):
        story.arrive(number, Car(lag_ms=0))
        story.pass_time(5_000)
    # The last in the queue says he is in a hurry: he may not push back the one whose turn has come.
    story.put(DemandStated(story.now_ms, 3, 50_000, 3_600_000))
    story.pass_time(SLOT_MS, step_ms=STEP_MS)
    assert [story.plugs[n].offer_ma for n in (1, 2, 3)] == [0, 7_000, 0]
    story.pass_time(SLOT_MS, step_ms=STEP_MS)
    assert [story.plugs[n].offer_ma for n in (1, 2, 3)] == [0, 0, 7_000]


def test_a_controller_that_blinks_costs_nobody_his_place() -> None:
    story = Story(site(connectors=3, limit_ma=7_000))
    story.pass_time(1_000)
    for number in (1, 2, 3):
        story.arrive(number, Car(lag_ms=0))
    served = dict.fromkeys(story.plugs, 0)

    def count() -> None:
        for number, plug in story.plugs.items():
            served[number] += plug.offer_ma > 0

    for _ in range(18):
        story.plugs[3].silent = True
        story.pass_time(7_000, count, 1_000)
        story.plugs[3].silent = False
        story.pass_time(10 * 60_000 - 7_000, count, 1_000)
    assert min(served.values()) > sum(served.values()) // 5


def test_one_look_at_another_pilot_costs_nobody_his_place() -> None:
    story = Story(site(limit_ma=7_000))
    story.pass_time(1_000)
    car = story.arrive(1, Car(lag_ms=0))
    story.arrive(2, Car(lag_ms=0))
    story.pass_time(60_000)
    car.asks = False
    story.pass_time(250)
    car.asks = True
    story.pass_time(30_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [7_000, 0]


@pytest.mark.parametrize("seed", range(6))
def test_a_car_on_three_phases_gets_all_of_them_within_a_slot_of_its_turn(seed: int) -> None:
    """Seven connectors, one place on each phase, two cars on each phase that come and go."""
    rng = random.Random(seed)
    plan = site(connectors=7, limit_ma=7_000)
    lines = [(0,), (0,), (1,), (1,), (2,), (2,), (0, 1, 2)]
    outlets = tuple(replace(o, lines=each) for o, each in zip(plan.outlets, lines, strict=True))
    story = Story(replace(plan, outlets=outlets))
    story.pass_time(1_000)
    for number in rng.sample(range(1, 8), k=7):
        story.arrive(number, Car(lag_ms=0, phases=3 if number == 7 else 1))
        story.pass_time(rng.randint(0, 60) * STEP_MS, step_ms=STEP_MS)
    late_ms = 0
    for _ in range(8 * SLOT_MS // STEP_MS):
        story.pass_time(STEP_MS, step_ms=STEP_MS)
        turn = story.connector(7).turn
        if turn.waiting_since_ms is not None and turn.due_slot is not None:
            late_ms = max(late_ms, story.now_ms - story.station.started_ms - turn.due_slot * SLOT_MS)
        if rng.random() < 0.01:
            number = rng.randint(1, 6)
            story.unplug(number)
            story.pass_time(STEP_MS, step_ms=STEP_MS)
            story.arrive(number, Car(lag_ms=0, phases=1))
    assert late_ms <= SLOT_MS
    assert story.plugs[7].register_mwh > START_WH * 1000


def test_nobody_is_held_back_for_one_who_waits_for_the_house() -> None:
    plan = site(connectors=3, limit_ma=13_000)
    lines = [(0, 1, 2), (1,), (1,)]
    outlets = tuple(replace(o, lines=each) for o, each in zip(plan.outlets, lines, strict=True))
    story = Story(replace(plan, outlets=outlets))
    story.pass_time(1_000)
    story.arrive(1, Car(lag_ms=0))
    story.arrive(2, Car(lag_ms=0, phases=1))
    story.pass_time(60_000)
    story.background_ma = (9_000, 0, 0)  # the house takes L1, for hours
    story.pass_time(3 * SLOT_MS, step_ms=STEP_MS)
    story.arrive(3, Car(lag_ms=0, phases=1))
    story.pass_time(60_000, step_ms=STEP_MS)
    assert [story.plugs[n].offer_ma for n in (1, 2, 3)] == [0, 6_500, 6_500]


def test_who_waits_below_a_class_that_is_served_is_promised_nothing() -> None:
    story = Story(site(limit_ma=7_000))
    story.pass_time(1_000)
    story.arrive(1, tier=Tier(priority=1))
    story.arrive(2)
    story.pass_time(60_000)
    assert story.connector(2).why.kind == "turn"
    assert story.connector(2).why.until_ms is None


def test_a_car_that_never_wakes_up_is_tried_ever_more_seldom() -> None:
    story = Story(site(limit_ma=7_000))
    story.pass_time(1_000)
    story.arrive(1, Car(asks=False))
    story.arrive(2, Car(lag_ms=0))
    tries = 0
    for _ in range(6 * 3_600_000 // STEP_MS):
        before = story.plugs[1].offer_ma
        story.pass_time(STEP_MS, step_ms=STEP_MS)
        tries += story.plugs[1].offer_ma > before
    assert 3 <= tries <= 7
