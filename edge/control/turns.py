"""Who comes first when the minimums do not fit: turns by slots, with a bound on every wait.

A slot is a stretch of time counted from the start of the daemon. At its beginning places are given anew:
those who wait stand before those who were on; who was on for less than its minimum on-time gives way when
that is over. Within a slot whoever has a place keeps it, as long as his minimum fits; who comes later waits
for the next slot, unless there is room beside the others.

The bound. Whoever begins to wait is given the slot in which his turn comes at the latest: as many slots on as
it takes to serve all who wait now, himself included, if as many are served at a time as are on now. Whose
time has come stands first, and before those who have a place but are beyond their minimum on-time, too: it
may have come while he was in his minimum off-time. Those before their time are not bound to an order: first
who got less than a fifth of what he asked for, by waiting time, then by need. `./run bench garage` shows what
this order is worth; tests/control/test_turns.py proves the bound.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from edge.control.demand import need_ma, phases_of
from edge.control.state import Connector, Station, Turning

UNDERSERVED_WH = 10_000
"""What is taken as asked for by those who say nothing: the median session of ACN-Data takes about as much."""

UNDERSERVED_PART = 5
"""Below one fifth of its wish a car is served before those with more need: measured to give the worst-served
twentieth of all drivers twice as much, at the same energy in total."""

PROBE_MS = 60_000
"""How long a car may hold its minimum without asking: some take half a minute from the offer to state C."""


FULL_SLOTS = 8
"""A car that stopped asking by itself is full rather than asleep. Most cars of a garage are, for hours:
trying each of them once a slot took a tenth of the current from those who asked (`./run bench garage`)."""


def slot_of(station: Station) -> int:
    """The number of the slot that runs now."""
    return (station.now_ms - station.started_ms) // station.site.sharing.slot_ms


def order(station: Station, wanting: Sequence[int]) -> list[int]:
    """The order of admission among the connectors `wanting`, by class and then by turn.

    A connector within its minimum on-time keeps its place before waiting ones of higher classes, too: a
    contactor is not worn out by somebody's subscription. In its own class and below, it counts among those
    who are on.
    """
    slot = slot_of(station)
    protected = [i for i in wanting if _protected(station, i)]
    lowest = min((_class(station, i) for i in protected), default=None)

    def place(i: int) -> tuple[int, ...]:
        turn, rank = station.connectors[i].turn, _class(station, i)
        seq = _seq(station, i)
        if turn.on_since_ms is not None:
            stays = _protected(station, i) or turn.slot == slot
            first = _protected(station, i) or (stays and lowest is not None and rank > lowest)
            # The longest on goes first when one has to go.
            return (0 if first else 1, -rank, 1 if stays else 3, -turn.on_since_ms, seq)
        if turn.waiting_since_ms is not None and slot >= turn.due_slot:
            return (1, -rank, 0, turn.due_slot, turn.waiting_since_ms, seq)
        return (1, -rank, 2, *_queue_key(station, i), seq)

    return sorted(wanting, key=place)


def _queue_key(station: Station, i: int) -> tuple[int, ...]:
    connector = station.connectors[i]
    waited_since = connector.turn.waiting_since_ms
    if waited_since is None:
        return (1, 0, station.now_ms)
    if _underserved(connector):
        return (0, waited_since)
    need = need_ma(connector, phases_of(connector, station.site.outlets[i]), station.now_ms)
    return (1, -(need or 0), waited_since)


def taken(station: Station, wanting: Sequence[int], admitted: Sequence[bool]) -> Station:
    """The station after an admission: who is on, who waits since when and until which slot at the latest."""
    slot = slot_of(station)
    connectors = list(station.connectors)
    on = {i for i, yes in zip(wanting, admitted, strict=True) if yes}
    waiting = [i for i in wanting if i not in on]
    changed = False
    for i, connector in enumerate(connectors):
        turn = connector.turn
        if i in on:
            if turn.on_since_ms is None:
                turn = replace(turn, on_since_ms=station.now_ms, waiting_since_ms=None, slot=slot)
            elif turn.slot != slot and not _protected(station, i):
                turn = replace(turn, slot=slot)  # he may stay for another slot
            else:
                continue
            connectors[i] = replace(connector, turn=turn)
            changed = True
        elif (turn.on_since_ms is not None or turn.waiting_since_ms is not None) and i not in waiting:
            after = replace(turn, on_since_ms=None, waiting_since_ms=None)
            connectors[i] = replace(connector, turn=after)
            changed = True
    for i in waiting:
        turn = connectors[i].turn
        if turn.waiting_since_ms is None:
            due = slot + _slots_to_serve(station, i, waiting, on)
            waits = replace(turn, on_since_ms=None, waiting_since_ms=station.now_ms, due_slot=due)
            connectors[i] = replace(connectors[i], turn=waits)
            changed = True
    return replace(station, connectors=tuple(connectors)) if changed else station


def next_turn_ms(station: Station, i: int) -> int | None:
    """When the turn of a waiting connector comes at the latest, as things stand; else None."""
    turn = station.connectors[i].turn
    if turn.waiting_since_ms is None:
        return None
    slot = max(turn.due_slot, slot_of(station) + 1)
    return station.started_ms + slot * station.site.sharing.slot_ms


def rested(station: Station) -> Station:
    """Let cars rest that do not ask, and let them take part again when they ask or have rested for a slot.

    A resting car keeps an offer only while nobody else can use that current; it counts until its contactor is
    open. After a slot it stands in the queue like everybody else, because a car may need an offer to wake up.
    """
    now = station.now_ms
    connectors: list[Connector] | None = None
    for i, connector in enumerate(station.connectors):
        turn, look = connector.turn, connector.evse
        after = turn
        if look is None or connector.asking_since_ms is not None or connector.session is None:
            if turn.resting_since_ms is not None:
                after = replace(turn, resting_since_ms=None)
        elif turn.resting_since_ms is None:
            asked = turn.on_since_ms is not None and connector.asked_ms >= turn.on_since_ms
            tried = (
                turn.on_since_ms is not None and connector.offer_ma and now - connector.offered_ms >= PROBE_MS
            )
            if not look.contactor_closed and (asked or tried):
                after = Turning(resting_since_ms=now)
        elif not connector.offer_ma and now >= tried_again_ms(station, i):
            after = replace(turn, resting_since_ms=None)
        if after is not turn:
            connectors = list(station.connectors) if connectors is None else connectors
            connectors[i] = replace(connector, turn=after)
    return station if connectors is None else replace(station, connectors=tuple(connectors))


def tried_again_ms(station: Station, i: int) -> int:
    """When a resting connector without an offer stands in the queue again."""
    connector = station.connectors[i]
    since_ms = max(connector.turn.resting_since_ms or 0, connector.offered_ms)
    full = connector.asked_ms > connector.since_ms  # it asked in this session and stopped by itself
    return since_ms + station.site.sharing.slot_ms * (FULL_SLOTS if full else 1)


def _protected(station: Station, i: int) -> bool:
    since = station.connectors[i].turn.on_since_ms
    return since is not None and station.now_ms - since < station.site.sharing.min_on_ms


def _class(station: Station, i: int) -> int:
    session = station.connectors[i].session
    return session.tier.priority if session else 0


def _seq(station: Station, i: int) -> int:
    session = station.connectors[i].session
    return session.claim.seq if session else 0


def _underserved(connector: Connector) -> bool:
    session = connector.session
    if session is None:
        return False
    asked_wh = session.demand.energy_wh if session.demand else UNDERSERVED_WH
    return (session.claim.last_wh - session.claim.start_wh) * UNDERSERVED_PART < asked_wh


def _slots_to_serve(station: Station, i: int, waiting: Sequence[int], on: set[int]) -> int:
    """ceil(waiting / served) within the class of connector i; at least one slot."""
    rank = _class(station, i)
    queue = sum(1 for k in waiting if _class(station, k) == rank)
    served = sum(1 for k in on if _class(station, k) == rank)
    return max(1, -(-queue // max(1, served)))
