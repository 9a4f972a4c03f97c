"""The life of a simulated station: it dies and is put back in every way, and what it owes stays right."""

import pytest

from tests.simulation.story import Story, story


def charge(told: Story, card: str) -> None:
    """One short session from plug to settled claim."""
    told.tell("plug 1", f"after 4s swipe {card}", "after 30s unplug 1", "after 15s")


def booked_wh(told: Story) -> int:
    """What the backend has charged somebody for."""
    return sum(entry.claim["energy_wh"] for entry in told.station.books.ledger.values() if entry.accepted)


def test_a_life_killed_between_two_callbacks_goes_on_with_the_same_session() -> None:
    with story() as told:
        told.tell("plug 1", "after 4s swipe alice", "after 20s daemon killed", "after 20s")
        assert [how for _, how in told.station.deaths] == ["killed"]
        assert told.heard("session_resumed")
        assert told.station.world.evses[1].contact_closed
        told.tell("unplug 1", "after 20s")
        (claim,) = told.claims
        assert claim["state"] == "settled"
        assert claim["energy_wh"] == pytest.approx(told.flowed_wh, abs=2.5)
        told.ends_well()


def test_a_power_cut_closes_the_session_with_the_register() -> None:
    with story() as told:
        told.tell("plug 1", "after 4s swipe alice", "after 20s power cut for 10s", "after 40s")
        assert [how for _, how in told.station.deaths] == ["power cut"]
        assert told.heard("session_recovered")
        (claim,) = told.claims
        assert claim["reason"] == "power_loss"
        assert not claim["hold"]
        assert claim["energy_wh"] == pytest.approx(told.flowed_wh, abs=2.5)
        told.ends_well()


def test_safe_off_opens_the_contactors_of_a_daemon_that_died() -> None:
    with story() as told:
        told.tell("plug 1", "after 4s swipe alice", "after 20s daemon killed for 60s", "after 1s")
        board = told.station.world.evses[1]
        assert not told.station.alive
        assert board.set_current_ma == 0
        told.tell("after 7s")
        assert not board.contact_closed
        told.ends_well()


def test_a_dead_daemon_is_back_after_two_seconds() -> None:
    with story() as told:
        told.tell("after 5s daemon killed", "after 1900ms")
        assert told.station.lives == 1
        told.tell("after 200ms")
        assert told.station.lives == 2


def test_the_local_socket_answers() -> None:
    with story() as told:
        told.tell("plug 1", "after 4s swipe alice", "after 10s")
        told.station.ask_later({"ask": "status"})
        told.tell("after 1s")
        (status,) = told.station.answers
        assert status["connectors"][0]["session_state"] == "charging"


# An image of the disk that is put back: its journal counts the same numbers again and cannot know it.


def test_a_session_after_an_old_copy_was_put_back_is_paid_like_any_other() -> None:
    with story() as told:
        charge(told, "alice")
        told.tell("disk remembers")
        charge(told, "bob")
        told.tell("disk restored", "daemon killed", "after 20s")
        charge(told, "alice")
        tally = told.station.books.tally
        assert [(one.booked, one.conflicts) for one in tally.values()] == [(1, 0)] * 3
        assert booked_wh(told) == pytest.approx(told.flowed_wh, abs=7.5)
        told.ends_well()


def test_a_claim_that_was_settled_since_the_copy_is_sent_again_and_known_as_the_same() -> None:
    with story() as told:
        told.tell("backend silent")
        charge(told, "alice")
        told.tell("disk remembers", "backend well", "after 20s")
        assert [claim["state"] for claim in told.claims] == ["settled"]
        told.tell("disk restored", "daemon killed", "after 40s")
        (tally,) = told.station.books.tally.values()
        assert tally.copies >= 2
        assert (tally.booked, tally.conflicts) == (1, 0)
        assert [claim["state"] for claim in told.claims] == ["settled"]
        told.ends_well()


def test_a_session_that_ran_when_the_copy_was_made_is_not_paid_twice() -> None:
    with story() as told:
        told.tell(
            "plug 1", "after 4s swipe alice", "after 10s disk remembers", "after 20s unplug 1", "after 15s"
        )
        charge(told, "bob")
        told.tell("disk restored", "daemon killed", "after 60s")
        assert [one.booked for one in told.station.books.tally.values()] == [1, 1]
        assert [claim["state"] for claim in told.claims] == ["rejected"]  # a person finds it in the journal
        assert booked_wh(told) == pytest.approx(told.flowed_wh, abs=5)
        told.ends_well()


def test_a_session_of_the_copy_that_holds_the_energy_of_others_waits_for_a_person() -> None:
    with story() as told:
        told.tell("broker stopped")
        told.tell(
            "plug 1", "after 4s swipe alice", "after 10s disk remembers", "after 20s unplug 1", "after 15s"
        )
        told.tell("plug 1 car 32A", "after 4s swipe bob", "after 10m unplug 1", "after 15s")
        told.tell("disk restored", "daemon killed", "after 40s")
        (claim,) = told.claims
        assert claim["contract"] == "alice"
        assert claim["hold"]
        assert "others may have charged" in claim["anomalies"][0]
        told.ends_well()


def test_status_is_answered_while_the_disk_is_busy() -> None:
    with story() as told:
        told.tell("disk slow 5s", "plug 1", "after 4s swipe alice", "after 1s")
        told.station.ask({"ask": "status"})
        told.tell("after 50ms")
        (status,) = told.station.answers
        assert status["connectors"][0]["session_state"] == "starting"
        told.ends_well()
