"""The session of one connector, plug to unplug.

Two rules of this file: every transition stands in TABLE; nothing here knows what causes a trigger or
what follows from a state. `tests/control/test_session.py` walks the table, and the README's diagram is
drawn from it (`diagram()`).
"""

from enum import StrEnum


class State(StrEnum):
    """What lasts seconds to hours."""

    UNKNOWN = "unknown"  # the controller has not been heard since the start
    FREE = "free"
    PLUGGED = "plugged"  # a car is there, nobody authorised
    STARTING = "starting"  # authorised; the claim is on its way to the disk
    CHARGING = "charging"  # the claim is on disk; offers may be made, whether or not the car takes them
    STOPPING = "stopping"  # offer withdrawn; waits for the open contactor and the final register
    CLOSING = "closing"  # the closed claim is on its way to the disk
    FINISHED = "finished"  # claim closed; the cable is still in
    ADOPTING = "adopting"  # an open claim was found at the start; what the hardware does is not known yet


class Trigger(StrEnum):
    """What moves a session."""

    SEEN_EMPTY = "no car"  # pilot A
    SEEN_CAR = "car seen"  # pilot B, C or D
    AUTHORISED = "authorised"
    RECORDED = "recorded"
    RECORD_FAILED = "record failed"
    STOP = "stop"  # card, unplug or fault
    RESUMED = "resumed"  # the same car is still there after a short absence of the daemon
    METERED = "open and metered"


_S, _T = State, Trigger

TABLE: dict[tuple[State, Trigger], State] = {
    (_S.UNKNOWN, _T.SEEN_EMPTY): _S.FREE,
    (_S.UNKNOWN, _T.SEEN_CAR): _S.PLUGGED,
    (_S.FREE, _T.SEEN_CAR): _S.PLUGGED,
    (_S.PLUGGED, _T.SEEN_EMPTY): _S.FREE,
    (_S.PLUGGED, _T.AUTHORISED): _S.STARTING,
    (_S.STARTING, _T.RECORDED): _S.CHARGING,
    (_S.STARTING, _T.RECORD_FAILED): _S.CLOSING,
    (_S.CHARGING, _T.STOP): _S.STOPPING,
    (_S.STOPPING, _T.METERED): _S.CLOSING,
    (_S.CLOSING, _T.RECORDED): _S.FINISHED,
    (_S.FINISHED, _T.SEEN_EMPTY): _S.FREE,
    (_S.FINISHED, _T.AUTHORISED): _S.STARTING,
    (_S.ADOPTING, _T.RESUMED): _S.CHARGING,
    (_S.ADOPTING, _T.STOP): _S.STOPPING,
}

ENERGISED = frozenset({State.CHARGING})
"""The only states in which an offer above zero may be made."""

OCCUPIED = frozenset({State.STARTING, State.CHARGING, State.STOPPING, State.CLOSING, State.ADOPTING})
"""States with a claim that is not closed yet."""


def after(state: State, trigger: Trigger) -> State:
    """The next state; a trigger that means nothing in `state` leaves it as it is."""
    return TABLE.get((state, trigger), state)


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> unknown", "    [*] --> adopting: open claim found"]
    lines += [f"    {source} --> {target}: {trigger}" for (source, trigger), target in TABLE.items()]
    return "\n".join(lines)
