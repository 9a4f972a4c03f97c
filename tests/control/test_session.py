"""The session table, walked."""

from pathlib import Path

import pytest

from edge.control.session import ENERGISED, OCCUPIED, TABLE, State, Trigger, after, diagram


def reachable_from(*starts: State) -> set[State]:
    found, todo = set(starts), list(starts)
    while todo:
        state = todo.pop()
        for trigger in Trigger:
            to = after(state, trigger)
            if to not in found:
                found.add(to)
                todo.append(to)
    return found


def test_every_state_can_be_reached_and_left() -> None:
    assert reachable_from(State.UNKNOWN, State.ADOPTING) == set(State)
    for state in State:
        assert State.FREE in reachable_from(state), f"{state} is a dead end"


def test_power_is_reached_only_through_a_record() -> None:
    into = {(source, trigger) for (source, trigger), to in TABLE.items() if to in ENERGISED}
    assert into == {(State.STARTING, Trigger.RECORDED), (State.ADOPTING, Trigger.RESUMED)}


def test_an_open_claim_is_never_left_behind() -> None:
    for (source, trigger), to in TABLE.items():
        if source in OCCUPIED and to not in OCCUPIED:
            assert trigger in (Trigger.RECORDED, Trigger.RECORD_FAILED)


@pytest.mark.parametrize("state", list(State))
def test_a_trigger_that_means_nothing_changes_nothing(state: State) -> None:
    for trigger in Trigger:
        if (state, trigger) not in TABLE:
            assert after(state, trigger) is state


def test_the_readme_shows_the_diagram_of_the_table() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    assert diagram() in readme.read_text(encoding="utf-8")


def test_the_diagram_shows_every_transition() -> None:
    drawn = diagram()
    for (source, trigger), to in TABLE.items():
        assert f"{source} --> {to}: {trigger}" in drawn
