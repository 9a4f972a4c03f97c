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
from edge.control.rows import Rows
from edge.control.session import ENERGISED
from edge.control.sharing import UNFIT
from edge.control.state import Connector, Station

Shares = dict[int, tuple[int, int]]
"""Per connector that took part: its current in mA, and the row or constant of `sharing` that bound it."""

UNDERSERVED_WH = 10_000
"""What is taken as asked for by those who say nothing: half of ACN-Data's drivers ask for 12 kWh or less."""

UNDERSERVED_PART = 5
"""Below one fifth of its wish a car is served before those with more need: measured to give the worst-served
twentieth of all drivers twice as much, at the same energy in total."""

PROBE_MS = 60_000
"""How long a car may hold its minimum without asking: some take half a minute from the offer to state C."""

REST_AFTER_MS = 10_000
"""Where somebody waits for the place, a car that stops asking keeps it so long: pilots flicker, and whoever
asks again within this did not mean to stop."""

MOST_TRIES = 3
FULL_SLOTS = 8
FULL_WH = 500
"""Whoever did not wake up three times in a row will not, and a car that took some energy and stopped asking
by itself is full rather than asleep: five minutes of the least current. Most cars of a garage are full for
hours; trying each of them once a slot took a tenth of the current from those who asked (`./run bench
garage`)."""


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
        if turn.waiting_since_ms is not None and turn.due_slot is not None and slot >= turn.due_slot:
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


def held_back(station: Station, shares: Shares, rows: Rows, room: Sequence[int]) -> dict[int, int]:
    """Connectors let in after one whose time has come, into a row in which he still waits, and that row.

    They would keep him waiting: a car on three phases needs all of them free at once. `shares` stand in the
    order of admission. Nobody is held back for one who waits for something else than a place: `room` that is
    too small for him alone, or a higher class.
    """
    slot = slot_of(station)
    kept: dict[int, int] = {}  # row -> the row that refuses somebody who is due in it
    found = {}
    for i, (x, bound) in shares.items():
        turn = station.connectors[i].turn
        if x:
            blocked = next((kept[row] for row, _ in rows.of[i] if row in kept), None)
            if turn.on_since_ms is None and blocked is not None:
                found[i] = blocked
        elif bound >= 0 and turn.due_slot is not None and slot >= turn.due_slot:
            least, rank = station.site.outlets[i].min_ma, _class(station, i)
            fits = all(room[row] >= times * least for row, times in rows.of[i])
            if fits and any(
                shares[k][0] and _class(station, k) <= rank and _loads(rows, k, bound) for k in shares
            ):
                kept |= dict.fromkeys((row for row, _ in rows.of[i]), bound)
    return found


def taken(  # noqa: C901 - one arm per place in the turns
    station: Station, shares: Shares, rows: Rows
) -> Station:
    """The station after an admission: who is on, who waits since when and until which slot at the latest.

    `shares` are current and bound (see `sharing`) of those who took part. Who did not, but has a session and
    does not rest, keeps where he stands: his controller may only have blinked.
    """
    now, slot = station.now_ms, slot_of(station)
    turns = [connector.turn for connector in station.connectors]
    joining = []
    for i, connector in enumerate(station.connectors):
        turn = turns[i]
        x, bound = shares.get(i, (0, UNFIT))
        if connector.session is None or connector.state not in ENERGISED:
            if turn.on_since_ms is not None or turn.waiting_since_ms is not None:
                turns[i] = replace(turn, on_since_ms=None, waiting_since_ms=None, due_slot=None)
        elif i not in shares:
            continue
        elif x > 0:
            if turn.on_since_ms is None:
                turns[i] = replace(turn, on_since_ms=now, waiting_since_ms=None, due_slot=None, slot=slot)
            elif turn.slot != slot and not _protected(station, i):
                turns[i] = replace(turn, slot=slot)  # he may stay for another slot
        elif bound < 0:
            if turn.on_since_ms is not None:
                turns[i] = replace(turn, on_since_ms=None)  # limited below his minimum: nothing to wait for
        elif turn.waiting_since_ms is None or turn.due_slot is None:
            joining.append(i)
    queued = {i for i, (x, bound) in shares.items() if x == 0 and bound >= 0} - set(joining)
    # Who was on for the shortest time joins the queue first.
    for i in sorted(joining, key=lambda i: (-(turns[i].on_since_ms or 0), _seq(station, i))):
        turn, row = turns[i], shares[i][1]
        alike = [k for k in shares if _class(station, k) == _class(station, i) and _loads(rows, k, row)]
        served = sum(1 for k in alike if shares[k][0] > 0)
        place = sum(1 for k in alike if k in queued) + 1
        due = slot + -(-place // served) if served else None
        since = now if turn.waiting_since_ms is None else turn.waiting_since_ms
        turns[i] = replace(turn, on_since_ms=None, waiting_since_ms=since, due_slot=due)
        queued.add(i)
    if all(turn is connector.turn for turn, connector in zip(turns, station.connectors, strict=True)):
        return station
    connectors = tuple(
        connector if turn is connector.turn else replace(connector, turn=turn)
        for turn, connector in zip(turns, station.connectors, strict=True)
    )
    return replace(station, connectors=connectors)


def _loads(rows: Rows, i: int, row: int) -> bool:
    return any(r == row for r, _ in rows.of[i])


def next_turn_ms(station: Station, i: int) -> int | None:
    """When the turn of a waiting connector comes at the latest; None when nobody can tell."""
    turn = station.connectors[i].turn
    if turn.waiting_since_ms is None or turn.due_slot is None:
        return None
    slot = max(turn.due_slot, slot_of(station) + 1)
    return station.started_ms + slot * station.site.sharing.slot_ms


def rested(station: Station) -> Station:
    """Let cars rest that do not ask, and let them take part again when they ask or it is time to try them.

    A resting car keeps an offer only while nobody else can use that current; it counts until its contactor is
    open. Later it stands in the queue again like everybody else, because a car may need an offer to wake up:
    after a slot, or after FULL_SLOTS if that has proved to be of no use.
    """
    now = station.now_ms
    patience_ms = 0
    if any(connector.turn.waiting_since_ms is not None for connector in station.connectors):
        patience_ms = REST_AFTER_MS
    connectors: list[Connector] | None = None
    for i, connector in enumerate(station.connectors):
        turn, look = connector.turn, connector.evse
        after = turn
        if look is None or connector.asking_since_ms is not None or connector.session is None:
            if turn.resting_since_ms is not None or turn.tries:
                after = replace(turn, resting_since_ms=None, tries=0)
        elif turn.resting_since_ms is not None:
            if not connector.offer_ma and now >= tried_again_ms(station, i):
                after = replace(turn, resting_since_ms=None)
        elif turn.on_since_ms is not None and not look.contactor_closed:
            stopped = connector.asked_ms >= turn.on_since_ms and now - connector.asked_ms >= patience_ms
            asleep = connector.asked_ms < turn.on_since_ms and connector.offer_ma > 0
            if stopped or (asleep and now - connector.offered_ms >= PROBE_MS):
                tries = turn.tries + asleep
                after = replace(turn, resting_since_ms=now, on_since_ms=None, tries=tries)
        if after is not turn:
            connectors = list(station.connectors) if connectors is None else connectors
            # Some cars come back on more phases than they stopped with.
            used = None if after.resting_since_ms is not None else connector.used
            connectors[i] = replace(connector, turn=after, used=used)
    return station if connectors is None else replace(station, connectors=tuple(connectors))


def tried_again_ms(station: Station, i: int) -> int:
    """When a resting connector without an offer stands in the queue again."""
    connector = station.connectors[i]
    since_ms = max(connector.turn.resting_since_ms or 0, connector.offered_ms)
    claim = connector.session.claim if connector.session else None
    full = claim is not None and claim.last_wh - claim.start_wh >= FULL_WH and connector.asked_ms > 0
    seldom = full or connector.turn.tries >= MOST_TRIES
    return since_ms + station.site.sharing.slot_ms * (FULL_SLOTS if seldom else 1)


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
