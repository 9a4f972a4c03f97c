"""The promises of the core, told as a driver or technician would see them."""

from decimal import Decimal

import pytest
from msgspec.structs import replace

from edge.commands import Record, SetOffer
from edge.control.session import State
from edge.control.view import view
from edge.events import (
    ClaimAnswered,
    Credential,
    DeviceFound,
    DeviceLost,
    FaultClearRequested,
    StopRequested,
    Tick,
)
from edge.records import Claim, ClaimState, ClockQuality, StopReason
from tests.control.story import ALICE, BOB, PHONE, STRANGER, Car, Story, site


def charging(number: int = 1) -> Story:
    story = Story()
    story.pass_time(1_000)
    story.plug(number)
    story.pass_time(500)
    story.swipe(ALICE)
    story.pass_time(10_000)
    assert story.connector(number).state is State.CHARGING
    return story


def test_a_card_becomes_a_paid_session() -> None:
    story = charging()
    story.pass_time(3_600_000)
    story.swipe(ALICE)
    story.pass_time(3_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.reason is StopReason.CARD
    assert claim.contract == "alice"
    assert claim.energy_wh == story.plugs[1].register_mwh // 1000 - claim.start_wh
    assert claim.energy_wh is not None
    assert claim.energy_wh > 20_000  # an hour at 32 A on three phases is 22 kWh
    assert claim.cost is not None
    excl_tax = claim.energy_wh * Decimal("0.0004") + Decimal("0.5")
    assert claim.cost.exact_incl_tax == excl_tax * Decimal("1.19")
    assert story.connector(1).state is State.FINISHED
    story.unplug(1)
    assert story.connector(1).state is State.FREE


def test_the_record_is_on_disk_before_any_current_is_offered() -> None:
    story = charging()
    first_offer = next(i for i, c in enumerate(story.commands) if isinstance(c, SetOffer) and c.offer_ma)
    first_record = next(i for i, c in enumerate(story.commands) if isinstance(c, Record))
    assert first_record < first_offer


def test_nothing_is_offered_while_the_record_is_on_its_way() -> None:
    story = Story()
    story.pass_time(1_000)
    story.plug(1)
    story.pass_time(500)
    story.journal_fails = lambda _claim: True
    story.swipe(ALICE)
    story.pass_time(20_000)
    assert story.plugs[1].offer_ma == 0
    assert story.connector(1).state is State.CLOSING
    assert "card_refused" in story.topics()
    assert story.journal == {}
    story.journal_fails = lambda _claim: False
    story.pass_time(6_000)
    assert story.connector(1).state is State.FINISHED
    assert story.claims(ClaimState.OPEN) == []


def test_a_start_that_failed_but_landed_late_is_voided_and_bills_nobody() -> None:
    story = Story()
    story.pass_time(1_000)
    story.plug(1)

    def late(claim: Claim) -> bool:
        story.journal[claim.id] = claim  # on disk after all, though the answer was no
        return claim.state is ClaimState.OPEN

    story.journal_fails = late
    story.swipe(ALICE)
    story.pass_time(10_000)
    assert [claim.state for claim in story.journal.values()] == [ClaimState.VOIDED]


def test_a_claim_without_a_connector_is_closed_even_if_the_disk_says_no_at_first() -> None:
    story = charging()
    old = replace(story.connector(1).session.claim, id="st-old-0", seq=0)  # type: ignore[union-attr] # charging
    story.journal[old.id] = old
    story.journal_fails = lambda claim: claim.id == old.id
    story.boot(absent_ms=2_000)
    story.pass_time(2_000)
    assert story.journal[old.id].state is ClaimState.OPEN
    story.journal_fails = lambda _claim: False
    story.pass_time(6_000)
    assert story.journal[old.id].hold
    assert story.journal[old.id].state is ClaimState.CLOSED
    assert story.journal[old.id].end_wh == old.last_wh


def test_a_stop_holds_over_a_restart_whoever_is_plugged_in_then() -> None:
    story = charging()
    story.pass_time(60_000)
    story.plugs[1].meter_silent = True
    story.swipe(ALICE)
    story.pass_time(2_000)
    story.plugs[1].car = Car()  # another car, while nobody looked
    story.boot(absent_ms=3_000)
    story.plugs[1].meter_silent = False
    story.pass_time(10_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.reason is StopReason.CARD
    assert story.plugs[1].offer_ma == 0


def test_a_car_that_leaves_while_its_session_is_being_adopted_ends_it() -> None:
    story = charging()
    story.pass_time(60_000)
    story.plugs[1].meter_silent = True
    story.boot(absent_ms=3_000)
    story.pass_time(1_000)
    story.unplug(1)
    story.plug(1)
    story.plugs[1].meter_silent = False
    story.pass_time(10_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.reason is StopReason.UNPLUGGED
    assert story.plugs[1].offer_ma == 0


def test_after_an_hour_without_its_controller_nobody_takes_the_car_for_the_same() -> None:
    story = charging()
    story.plugs[1].silent = True
    story.pass_time(120_000)
    story.plugs[1].car = Car()
    story.plugs[1].silent = False
    story.pass_time(10_000)
    assert len(story.claims(ClaimState.CLOSED)) == 1
    assert story.plugs[1].offer_ma == 0


def test_a_card_shown_for_the_next_connector_does_not_start_on_the_last_drivers_car() -> None:
    story = charging()
    story.pass_time(60_000)
    story.swipe(ALICE)
    story.pass_time(5_000)
    assert story.connector(1).state is State.FINISHED
    story.swipe(BOB)
    story.plug(2)
    story.pass_time(2_000)
    assert story.plugs[1].offer_ma == 0
    assert story.connector(2).state is State.CHARGING


def test_a_silent_controller_over_a_kettle_is_not_accused_of_unbilled_current() -> None:
    story = charging()
    story.plugs[1].silent = True
    story.pass_time(7_000)
    story.background_ma = (10_000, 0, 0)
    story.pass_time(20_000)
    assert story.faults(1) == ["evse_silent"]


@pytest.mark.parametrize(
    ("card", "words"),
    [(STRANGER, "not known"), (PHONE, "number changes each time")],
    ids=["unknown", "phone"],
)
def test_a_card_that_identifies_nobody_here_is_refused_with_the_reason(card: Credential, words: str) -> None:
    story = Story()
    story.pass_time(1_000)
    story.plug(1)
    story.swipe(card)
    story.pass_time(5_000)
    assert story.announced[-1].topic == "card_refused"
    assert words in story.announced[-1].text
    assert story.plugs[1].offer_ma == 0
    assert story.journal == {}


def test_a_card_may_come_before_the_plug_and_is_forgotten_after_a_minute() -> None:
    story = Story()
    story.pass_time(1_000)
    story.swipe(ALICE)
    story.pass_time(30_000)
    story.plug(2)
    story.pass_time(1_000)
    assert story.connector(2).state is State.CHARGING
    story.swipe(BOB)
    story.pass_time(61_000)
    story.plug(1)
    story.pass_time(1_000)
    assert story.connector(1).state is State.PLUGGED
    assert "card_timeout" in story.topics()


def test_another_card_does_not_stop_my_session() -> None:
    story = Story(site(connectors=1))
    story.pass_time(1_000)
    story.plug(1)
    story.swipe(ALICE)
    story.pass_time(2_000)
    story.swipe(BOB)
    story.pass_time(2_000)
    assert story.connector(1).state is State.CHARGING
    assert story.announced[-1].topic == "card_refused"


def test_unplugging_ends_the_session_and_bills_what_flowed() -> None:
    story = charging()
    story.pass_time(600_000)
    story.unplug(1)
    story.pass_time(2_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.reason is StopReason.UNPLUGGED
    assert story.connector(1).state is State.FREE


def test_a_session_without_energy_costs_nothing() -> None:
    story = Story()
    story.pass_time(1_000)
    story.plug(1, Car(asks=False))
    story.swipe(ALICE)
    story.pass_time(60_000)
    story.unplug(1)
    story.pass_time(2_000)
    (claim,) = story.claims(ClaimState.VOIDED)
    assert claim.cost is None


def test_two_cars_share_and_the_kettle_takes_its_part() -> None:
    story = Story()
    story.pass_time(1_000)
    for number, card in ((1, ALICE), (2, BOB)):
        story.plug(number)
        story.pass_time(500)
        story.swipe(card)
    story.pass_time(20_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [16_000, 16_000]
    story.background_ma = (10_000, 0, 0)
    story.pass_time(500)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [11_000, 11_000]
    story.pass_time(10_000)
    story.background_ma = (0, 0, 0)
    story.pass_time(10_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [16_000, 16_000]
    assert "circuit main" in story.connector(1).why.text


def test_the_newcomer_gets_nothing_until_the_first_car_has_let_go() -> None:
    story = charging()
    story.pass_time(10_000)
    assert story.plugs[1].offer_ma == 32_000
    story.plug(2, Car(lag_ms=0))
    story.swipe(BOB)
    assert (story.plugs[1].offer_ma, story.plugs[2].offer_ma) == (16_000, 0)
    worst = 0

    def watch() -> None:
        nonlocal worst
        worst = max(worst, *story.supply_ma())

    story.pass_time(20_000, watch)
    assert worst <= 32_000
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [16_000, 16_000]


def test_a_stop_soon_after_a_share_takes_nothing_from_the_others() -> None:
    story = charging()
    story.plug(2)
    story.swipe(BOB)
    story.pass_time(8_000)
    assert story.plugs[2].offer_ma == 16_000
    story.swipe(ALICE)
    offers: list[int] = []
    story.pass_time(10_000, lambda: offers.append(story.plugs[2].offer_ma))
    assert min(offers) == 16_000


def test_one_car_stopping_is_not_taken_for_a_kettle_starting() -> None:
    story = Story()
    story.pass_time(1_000)
    for number, card in ((1, ALICE), (2, BOB)):
        story.plug(number)
        story.swipe(card)
    story.pass_time(20_000)
    story.measure_site()  # 32 A, the moment before ...
    story.unplug(1)
    story.measure(1)  # ... and 0 A, the moment after
    story.put(Tick(story.now_ms, 0, ClockQuality.SYNCED))
    assert story.plugs[2].offer_ma >= 16_000
    story.pass_time(15_000)
    assert story.plugs[2].offer_ma == 32_000


def test_when_minimums_do_not_fit_cars_take_turns() -> None:
    story = Story(site(connectors=2, limit_ma=10_000))
    story.pass_time(1_000)
    for number, card in ((1, ALICE), (2, BOB)):
        story.plug(number)
        story.pass_time(500)
        story.swipe(card)
    story.pass_time(60_000)
    first = [story.plugs[n].offer_ma for n in (1, 2)]
    assert sorted(first) == [0, 10_000]
    waiting = 1 if first[0] == 0 else 2
    assert "waiting for its turn" in story.connector(waiting).why.text
    story.pass_time(16 * 60_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == first[::-1]


def test_a_silent_meter_stops_no_car_but_lets_no_new_one_in() -> None:
    story = charging()
    story.plugs[1].meter_silent = True
    story.plugs[2].meter_silent = True
    story.pass_time(10_000)
    assert story.faults(1) == ["meter_silent"]
    assert story.plugs[1].offer_ma > 0
    story.plug(2)
    story.swipe(BOB)
    assert "nothing could be billed" in story.announced[-1].text
    shown = view(story.station).connectors[0]
    assert shown.meter_age_ms is not None
    assert shown.meter_age_ms > 9_000  # an old value with its true age, never a new one


def test_a_claim_waits_for_its_meter_and_is_billed_to_the_watt_hour() -> None:
    story = charging()
    story.pass_time(60_000)
    story.plugs[1].meter_silent = True
    story.pass_time(60_000)
    story.swipe(ALICE)
    story.pass_time(60_000)
    assert story.claims(ClaimState.CLOSED) == []
    story.plugs[1].meter_silent = False
    story.pass_time(1_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.end_wh == story.plugs[1].register_mwh // 1000
    assert not claim.hold


def test_a_meter_that_never_comes_back_closes_the_claim_at_its_last_reading_on_hold() -> None:
    story = charging()
    story.pass_time(60_000)
    seen_wh = story.plugs[1].register_mwh // 1000
    story.plugs[1].meter_silent = True
    story.pass_time(1_000)
    story.swipe(ALICE)
    story.pass_time(16 * 60_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.end_wh == seen_wh
    assert claim.hold


def test_a_register_that_goes_backwards_ends_the_session_at_its_last_good_value() -> None:
    story = charging()
    story.pass_time(600_000)
    good_wh = story.plugs[1].register_mwh // 1000
    story.plugs[1].register_mwh = 5_000
    story.pass_time(20_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.hold
    assert claim.end_wh == pytest.approx(good_wh, abs=5)
    assert claim.reason is StopReason.FAULT
    assert "meter_backwards" in story.faults(1)
    story.unplug(1)
    story.plug(1)
    story.pass_time(1_000)
    story.swipe(ALICE)
    assert story.announced[-1].topic == "card_refused"
    story.put(FaultClearRequested(story.now_ms, 1))
    story.swipe(ALICE)
    story.pass_time(1_000)
    assert story.connector(1).state is State.CHARGING


def test_a_register_that_jumps_is_not_billed() -> None:
    story = charging()
    story.pass_time(60_000)
    story.plugs[1].register_mwh += 500_000_000
    story.pass_time(20_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.energy_wh is not None
    assert claim.energy_wh < 1_000
    assert claim.hold


def test_a_fault_on_one_connector_leaves_the_other_charging() -> None:
    story = charging()
    story.plug(2)
    story.swipe(BOB)
    story.pass_time(20_000)
    story.plugs[1].troubles = ("evse_rcd",)
    story.pass_time(10_000)
    assert story.connector(1).state is State.FINISHED
    assert story.plugs[1].offer_ma == 0
    assert story.connector(2).state is State.CHARGING
    assert story.plugs[2].offer_ma == 32_000


def test_a_silent_controller_counts_with_the_worst_it_may_hold() -> None:
    story = charging()
    story.plug(2)
    story.swipe(BOB)
    story.pass_time(20_000)
    story.plugs[1].silent = True
    story.background_ma = (10_000, 10_000, 10_000)
    story.pass_time(10_000)
    assert "evse_silent" in story.faults(1)
    assert story.plugs[1].offer_ma == 16_000  # it still holds what it was told last
    assert story.plugs[2].offer_ma == 6_000  # 32 - 10 - 16
    story.plugs[1].silent = False
    story.pass_time(20_000)
    assert [story.plugs[n].offer_ma for n in (1, 2)] == [11_000, 11_000]


def test_a_silent_circuit_meter_drops_its_connectors_to_the_fallback() -> None:
    story = charging()
    story.site_meter_silent = True
    story.pass_time(10_000)
    assert story.plugs[1].offer_ma == 16_000
    assert [f.kind.name for f in story.station.circuits[0].faults] == ["circuit_meter_silent"]
    story.site_meter_silent = False
    story.pass_time(10_000)
    assert story.plugs[1].offer_ma == 32_000


def test_a_car_that_takes_more_than_offered_is_stopped_by_name() -> None:
    story = Story(site(limit_ma=16_000))
    story.pass_time(1_000)
    car = story.plug(1, Car(max_ma=20_000))
    car.obeys = False
    story.swipe(ALICE)
    story.pass_time(9_000)
    assert story.connector(1).state is State.CHARGING
    story.pass_time(10_000)
    assert "overdraw" in story.faults(1)
    assert story.plugs[1].offer_ma == 0


def test_a_welded_contactor_is_found_and_the_connector_closed_to_others() -> None:
    story = charging()
    story.plugs[1].welded = True
    story.swipe(ALICE)
    story.pass_time(15_000)
    assert "contactor_welded" in story.faults(1)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.hold
    assert view(story.station).connectors[0].state == "faulted"


def test_a_contactor_is_not_called_welded_before_its_controller_could_be_told_to_open_it() -> None:
    story = charging()
    plug = story.plugs[1]
    plug.silent = True
    story.swipe(ALICE)
    story.pass_time(30_000)
    plug.welded, plug.silent = True, False  # it hears of the stop only now, and has 6 s to force it open
    story.pass_time(6_000)
    plug.welded = False
    story.pass_time(2_000)
    assert story.faults(1) == []
    (claim,) = story.claims(ClaimState.CLOSED)
    assert not claim.hold


def test_a_claim_whose_contactor_nobody_saw_open_waits_for_the_operator() -> None:
    story = charging()
    story.plugs[1].silent = True
    story.swipe(ALICE)
    story.pass_time(16 * 60_000, step_ms=1_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.hold
    assert claim.anomalies == ("the contactor was not seen open",)


def test_after_a_power_cut_a_car_that_stayed_goes_on_with_its_own_card_and_with_no_other() -> None:
    story = charging()
    story.boot(absent_ms=None)
    story.pass_time(20_000)
    assert story.connector(1).state is State.FINISHED
    story.swipe(BOB)
    story.pass_time(2_000)
    assert story.connector(1).state is State.FINISHED
    story.swipe(ALICE)
    story.pass_time(2_000)
    assert story.connector(1).state is State.CHARGING


def test_a_full_disk_refuses_new_sessions_and_bills_the_running_one_when_it_has_room_again() -> None:
    story = charging()
    story.pass_time(60_000)
    story.journal_fails = lambda _claim: True
    story.swipe(ALICE)
    story.pass_time(20_000)
    assert story.connector(1).state is State.CLOSING
    assert [f.kind.name for f in story.station.faults] == ["journal_failed"]
    story.plug(2)
    story.swipe(BOB)
    assert "cannot be recorded" in story.announced[-1].text
    story.journal_fails = lambda _claim: False
    story.pass_time(6_000)
    assert len(story.claims(ClaimState.CLOSED)) == 1
    story.swipe(BOB)
    story.pass_time(1_000)
    assert story.connector(2).state is State.CHARGING


def test_after_a_short_absence_the_same_claim_goes_on() -> None:
    story = charging()
    story.pass_time(60_000)
    story.now_ms += 5_000
    story.boot(absent_ms=5_000)
    story.pass_time(30_000)
    assert story.connector(1).state is State.CHARGING
    assert story.plugs[1].offer_ma == 32_000
    story.swipe(ALICE)
    story.pass_time(3_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.energy_wh == story.plugs[1].register_mwh // 1000 - 1_000_000
    assert claim.reason is StopReason.CARD


def test_a_card_that_lies_on_the_reader_over_a_restart_stops_nothing() -> None:
    story = charging()
    story.boot(absent_ms=2_000)
    story.pass_time(500)
    story.swipe(ALICE)
    story.pass_time(5_000)
    assert story.connector(1).state is State.CHARGING
    assert "card_ignored" in story.topics()


def test_a_car_that_begins_to_ask_rises_at_once_and_in_steps() -> None:
    story = Story()
    story.pass_time(1_000)
    car = story.plug(1, Car(asks=False))
    story.swipe(ALICE)
    story.pass_time(1_000)
    assert story.plugs[1].offer_ma == 6_000
    car.asks = True
    offers: list[int] = []
    story.pass_time(500)
    story.pass_time(10_000, lambda: offers.append(story.plugs[1].offer_ma))
    assert sorted(set(offers)) == [16_000, 26_000, 32_000]


@pytest.mark.parametrize("absent_ms", [None, 120_000], ids=["power cut", "two minutes"])
def test_after_a_power_cut_the_claim_is_closed_with_the_meter_register(absent_ms: int | None) -> None:
    story = charging()
    story.pass_time(60_000)
    story.boot(absent_ms)
    story.pass_time(10_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.reason is StopReason.POWER_LOSS
    assert claim.end_wh == story.plugs[1].register_mwh // 1000
    assert story.plugs[1].offer_ma == 0


def test_a_meter_exchanged_while_the_power_was_off_bills_nobody_for_its_register() -> None:
    story = charging()
    story.pass_time(60_000)
    story.put(StopRequested(story.now_ms))  # the registers are on record
    seen_wh = story.journal["st-ep0cep0cep0c-1"].last_wh
    story.plugs[1].register_mwh += 900_000_000
    story.boot(absent_ms=None)
    story.pass_time(10_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.end_wh == seen_wh
    assert claim.hold
    assert "meter_jump" in story.faults(1)


def test_a_car_that_left_while_the_daemon_was_away_is_billed_for_what_it_took() -> None:
    story = charging()
    story.pass_time(60_000)
    story.plugs[1].car = None
    story.boot(absent_ms=5_000)
    story.pass_time(3_000)
    (claim,) = story.claims(ClaimState.CLOSED)
    assert claim.reason is StopReason.UNPLUGGED


def test_a_controller_found_charging_without_a_claim_is_stopped_at_once() -> None:
    story = Story()
    story.plugs[1].car = Car()
    story.plugs[1].offer_ma = 20_000
    story.pass_time(250)
    assert story.plugs[1].offer_ma == 0
    assert story.connector(1).state is State.PLUGGED


def test_a_stop_withdraws_all_offers_and_records_the_registers() -> None:
    story = charging()
    story.pass_time(60_000)
    story.put(StopRequested(story.now_ms))
    assert story.plugs[1].offer_ma == 0
    assert story.records[-1].state is ClaimState.OPEN
    assert story.records[-1].last_wh == story.plugs[1].register_mwh // 1000


def test_of_two_lost_readers_the_one_that_comes_back_does_not_hide_the_other() -> None:
    story = Story()
    for reader in ("front", "back"):
        story.put(DeviceLost(story.now_ms, f"reader/{reader}", "unplugged"))
    assert story.topics().count("fault_raised") == 2
    story.put(DeviceFound(story.now_ms, "reader/front"))
    assert [fault.subject for fault in story.station.faults] == ["back"]


def test_a_lost_device_is_a_named_fault_before_its_reading_is_old() -> None:
    story = charging()
    story.put(DeviceLost(story.now_ms, "meter/m1", "port is gone"))
    assert story.faults(1) == ["meter_silent"]
    story.pass_time(250)
    assert story.faults(1) == []


def test_the_backends_answer_is_announced() -> None:
    story = Story()
    story.put(ClaimAnswered(story.now_ms, "st-x-1", ClaimState.SETTLED))
    assert story.announced[-1].topic == "claim_settled"
