"""From readings to offers: headroom, sharing, then fall at once and rise slowly, past the last word.

Called on every tick and whenever a session starts or ends. Decreases stand before increases, and what a
car may still draw after a decrease is not given away (`state.drawable_ma`).
"""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from edge.commands import SetOffer
from edge.control import demand, turns
from edge.control.faults import cleared, raised, stopping
from edge.control.headroom import Headroom, capped_by, headroom
from edge.control.limits import add_load, permit, room_for
from edge.control.session import ENERGISED, State
from edge.control.sharing import OWN_MAXIMUM, UNFIT, Tree
from edge.control.site import Outlet
from edge.control.state import (
    EVSE_STALE_MS,
    METER_STALE_MS,
    SETTLE_MS,
    Connector,
    Reason,
    Station,
    drawable_ma,
    is_fresh,
)
from edge.control.turns import Shares
from edge.control.usage import excess_ma, over_ma

LEASE_MS = 3_000
"""How long a controller may hold an offer without hearing from the core: twelve ticks."""

RENEW_MS = 1_000
"""Leases are renewed three times in their life, so that one lost message costs nothing."""

RAISE_EVERY_MS = SETTLE_MS
"""A car is not asked to follow a higher value before it had its time to follow the last one."""

RAISE_STEP_MA = 1_000
"""Raises below 1 A are not worth a message to the car, unless they reach its maximum."""

SMALL_STEP_EVERY_MS = 60_000
"""... and those below it once a minute, so that the last amperes are not left unused."""

RAMP_MA = 10_000
"""The most an offer rises at a time: 2 A a second, 14 s from 6 A to 32 A. Many cars that come back after an
outage or a stale meter are seen by the circuit's meter before they have all of it."""

OFFER_STEP_MA = 100
"""Offers are rounded down to 0.1 A, the finest step of OCPP charging profiles."""


class Wish(Struct):
    """What sharing wants for one connector, and why not more."""

    ma: int
    kind: str
    text: str
    until_ms: int | None = None


def certified_shares(tree: Tree, asked: list[int], *, strict: bool) -> Shares | None:
    """Ask the tree, in which everything but the order stands; None without a certificate.

    Classes are filled along an order by class. Where a protected turn stands before a higher class, admission
    goes by turns first, and those who are on are then filled by class.
    """
    by_class = sorted(asked, key=lambda i: -tree.priority[i]) if strict else asked
    for place, i in enumerate(asked):
        tree.order[place] = i
    if not tree.share(len(asked), by_class == asked and strict):
        return None
    shares = {i: (tree.x[i], tree.bound[i]) for i in asked}
    if by_class != asked:
        on = [i for i in by_class if shares[i][0]]
        for place, i in enumerate(on):
            tree.order[place] = i
        if not tree.share(len(on), strict):
            return None
        shares |= {i: (tree.x[i], tree.bound[i]) for i in on}
    return shares


def allocate(
    station: Station, share: Callable[..., Shares | None] = certified_shares
) -> tuple[Station, list[SetOffer]]:
    """New offers for all connectors and the commands that carry them, decreases first."""
    station = turns.rested(station)
    site, now = station.site, station.now_ms
    space = headroom(station)
    drawn = [
        drawable_ma(connector, now, outlet.max_ma, outlet.failsafe_ma)
        for connector, outlet in zip(station.connectors, site.outlets, strict=True)
    ]
    load = [0] * len(space.room)
    for i, ma in enumerate(drawn):
        add_load(space.rows, load, i, ma)
    station, wishes = _wishes(station, space, drawn, share)
    connectors = list(station.connectors)
    sent: list[SetOffer] = []

    def settle(i: int, offer_ma: int, wish: Wish) -> None:
        connectors[i], send = _offered(connectors[i], offer_ma, wish, drawn[i], now)
        if send:
            sent.append(SetOffer(site.outlets[i].number, offer_ma, now, LEASE_MS))
            drawn_now = drawable_ma(connectors[i], now, site.outlets[i].max_ma, site.outlets[i].failsafe_ma)
            add_load(space.rows, load, i, drawn_now - drawn[i])
            drawn[i] = drawn_now

    for i, connector in enumerate(station.connectors):
        if connector.state is not State.ADOPTING and wishes[i].ma <= connector.offer_ma:
            settle(i, wishes[i].ma, wishes[i])
    for i, connector in enumerate(station.connectors):
        wish = wishes[i]
        if connector.state is State.ADOPTING or wish.ma <= connector.offer_ma:
            continue
        room, row = room_for(space.rows, space.room, load, i, drawn[i])
        allowed = _permitted(station, i, min(wish.ma, room), room)
        if allowed < wish.ma and room < wish.ma:
            wish.kind, wish.text = "release", f"{space.name(station, row)}, until others have let go"
        if allowed <= connector.offer_ma:
            settle(i, connector.offer_ma, wish)
        elif why := _not_yet(station, i, allowed):
            settle(i, connector.offer_ma, why)
        else:
            settle(i, _ramped(connector, site.outlets[i], allowed, wish, now), wish)
    for i in _excess(space, connectors, drawn, site.outlets):
        settle(i, 0, Wish(0, "check", "internal check: offers did not fit the circuit"))
    return replace(station, connectors=tuple(connectors)), sent


def prospect_ma(station: Station, i: int) -> int:
    """What connector `i` would be offered in the end if its car asked now and all else stayed as it is."""
    connector = station.connectors[i]
    on_since_ms = connector.turn.on_since_ms or station.now_ms
    turn = replace(connector.turn, resting_since_ms=None, on_since_ms=on_since_ms)
    asks = replace(connector, state=State.CHARGING, asking_since_ms=station.now_ms, turn=turn)
    rest = station.connectors
    station = replace(station, connectors=(*rest[:i], asks, *rest[i + 1 :]))
    drawn = [
        drawable_ma(each, station.now_ms, outlet.max_ma, outlet.failsafe_ma)
        for each, outlet in zip(station.connectors, station.site.outlets, strict=True)
    ]
    _, wishes = _wishes(station, headroom(station), drawn, certified_shares)
    return wishes[i].ma


def _excess(
    space: Headroom, connectors: list[Connector], drawn: list[int], outlets: tuple[Outlet, ...]
) -> list[int]:
    """Connectors to switch off, as offers do not fit: sharing erred, or one out of reach holds too much."""
    told = [c.offer_ma if c.state in ENERGISED else d for c, d in zip(connectors, drawn, strict=True)]
    load = [0] * len(space.room)
    for i, ma in enumerate(told):
        add_load(space.rows, load, i, ma)
    if all(ma <= room for ma, room in zip(load, space.room, strict=True)):
        return []
    off: list[int] = []
    for i, connector in enumerate(connectors):
        if connector.state not in ENERGISED or not connector.offer_ma:
            continue
        room, _ = room_for(space.rows, space.room, load, i, told[i])
        if room < connector.offer_ma and room < outlets[i].max_ma:
            off.append(i)
            add_load(space.rows, load, i, -told[i])
    return off


def _wishes(
    station: Station, space: Headroom, drawn: list[int], share: Callable[..., Shares | None]
) -> tuple[Station, list[Wish]]:
    """What each connector should have if all cars followed at once, and the station with its turns taken."""
    room = list(space.room)
    wishes = [Wish(0, "none", "") for _ in station.connectors]
    wanting: list[int] = []
    for i, connector in enumerate(station.connectors):
        if _takes_part(station, i):
            wanting.append(i)
            # What it takes beyond its offer, if only by a little, is not there for anybody.
            add_load(space.rows, room, i, -over_ma(connector, station.now_ms))
        elif not (connector.turn.resting_since_ms is not None and _is_ours(station, i)):
            # Not ours to command, or on its way out: it counts with the worst it may draw.
            add_load(space.rows, room, i, -drawn[i])
            if connector.state in ENERGISED:
                wishes[i] = _held(station, i)
    asked = turns.order(station, wanting)
    most = {i: _most(station, space, i) for i in asked}
    shares = _shares(station, space, room, asked, most, share)
    if shares is not None:
        station = _certified(station, ok=True)
        station = turns.taken(station, shares, space.rows)
        for i in asked:
            x, bound = shares[i]
            wishes[i] = _shared(station, space, i, x, bound, most[i])
            wishes[i].ma = _permitted(station, i, wishes[i].ma, x)
            add_load(space.rows, room, i, -x)
    else:
        station = _certified(station, ok=False)
        for i in asked:
            offer = station.connectors[i].offer_ma
            fits = all(room[row] >= times * offer for row, times in space.rows.of[i])
            kept = _permitted(station, i, offer, offer) if fits else 0
            wishes[i] = Wish(kept, "check", "internal check: offers are kept where they fit")
            add_load(space.rows, room, i, -kept)
    _leave_to_resting(station, space, room, wishes)
    return station, wishes


def _shares(
    station: Station,
    space: Headroom,
    room: list[int],
    asked: list[int],
    most: dict[int, Wish],
    share: Callable[..., Shares | None],
) -> Shares | None:
    """Share `room` among `asked`, in this order of admission; None without a certificate.

    Asked a second time where somebody must not have what he got: without those let in before one whose time
    has come; and with those at the end who got less than their drivers want to charge with at all, so that
    they get that beside everybody else's minimum, or nothing.
    """
    site, tree = station.site, space.rows.tree
    phases = [len(lines) for lines in space.lines]
    for row, ma in enumerate(room):
        tree.room[row] = ma
    for i, weight in zip(asked, demand.weights(station, asked, phases), strict=True):
        session = station.connectors[i].session
        tree.least[i] = site.outlets[i].min_ma
        tree.most[i] = most[i].ma
        tree.weight[i] = weight
        tree.priority[i] = session.tier.priority if session else 0
    shares = share(tree, asked, strict=site.sharing.strict)
    if shares is None:
        return None
    out = {i: (0, row) for i, row in turns.held_back(station, shares, space.rows, room).items()}
    choosy = []
    for i, (x, _) in shares.items():
        session = station.connectors[i].session
        if i not in out and session is not None and session.demand is not None:
            least = min(session.demand.min_ma, most[i].ma)
            if 0 < x < least:
                tree.least[i] = least
                choosy.append(i)
    if not out and not choosy:
        return shares
    again = share(
        tree, [i for i in asked if i not in out and i not in choosy] + choosy, strict=site.sharing.strict
    )
    return None if again is None else again | out


def _takes_part(station: Station, i: int) -> bool:
    """Whether sharing decides on this connector now."""
    connector = station.connectors[i]
    return (
        _is_ours(station, i)
        and connector.turn.resting_since_ms is None
        and connector.phases_wanted is None
        and not excess_ma(connector, station.now_ms)
    )


def _is_ours(station: Station, i: int) -> bool:
    return station.connectors[i].state in ENERGISED and _healthy(station, i) and _reachable(station, i)


def _held(station: Station, i: int) -> Wish:
    """A connector in a session that sharing does not decide on: what it has stays, at most."""
    connector = station.connectors[i]
    if connector.phases_wanted is not None and _reachable(station, i):
        return Wish(0, "phases", f"pause to switch to {connector.phases_wanted} phase(s)")
    wish = Wish(connector.offer_ma, "overdraw", "takes more than offered; the others are charged for it")
    if not _reachable(station, i):
        # It holds what it was told last, whatever we say now; the offer stands until it is heard again.
        wish = Wish(connector.offer_ma, "evse_silent", "the controller does not answer")
    wish.ma = _permitted(station, i, wish.ma, wish.ma)
    return wish


def _leave_to_resting(station: Station, space: Headroom, room: list[int], wishes: list[Wish]) -> None:
    """Cars that do not ask keep their minimum where it fits beside all shares, to ask at any time."""
    for i, connector in enumerate(station.connectors):
        resting = connector.turn.resting_since_ms is not None
        if not resting or connector.phases_wanted is not None or not _is_ours(station, i):
            continue
        least = station.site.outlets[i].min_ma
        # Not on again soon after it was taken away for others: they may come and go.
        soon = (
            not connector.offer_ma and station.now_ms - connector.lowered_ms < station.site.sharing.min_off_ms
        )
        if (
            not soon
            and _most(station, space, i).ma >= least
            and all(room[r] >= times * least for r, times in space.rows.of[i])
        ):
            wishes[i] = Wish(_permitted(station, i, least, least), "not_asking", "the car does not ask")
            add_load(space.rows, room, i, -least)
        else:
            text = "the car does not ask, and others use the current"
            wishes[i] = Wish(0, "not_asking", text, turns.tried_again_ms(station, i))


def _shared(station: Station, space: Headroom, i: int, x: int, bound: int, most: Wish) -> Wish:
    """The share `x` of connector `i`, rounded to what is passed on, with its reason."""
    if bound == UNFIT or (x == 0 and bound < 0):
        return Wish(0, most.kind, most.text, most.until_ms)
    if x == 0:
        session, least = station.connectors[i].session, station.site.outlets[i].min_ma
        text = f"waiting for its turn: the minimum does not fit {space.name(station, bound)}"
        if session is not None and session.demand is not None and session.demand.min_ma > least:
            text = f"waiting for the minimum its driver asked for on {space.name(station, bound)}"
        return Wish(0, "turn", text, turns.next_turn_ms(station, i))
    least = station.site.outlets[i].min_ma
    offer = max(least, x // OFFER_STEP_MA * OFFER_STEP_MA)
    if bound == OWN_MAXIMUM:
        return Wish(offer, most.kind, most.text, most.until_ms)
    holder = space.by.get(bound)
    kind, until_ms = ("circuit", None) if holder is None else ("signal", holder.until_ms)
    return Wish(offer, kind, space.name(station, bound), until_ms)


def _most(station: Station, space: Headroom, i: int) -> Wish:
    """The most this car can use, and what says so; one that does not ask keeps its minimum."""
    connector, outlet = station.connectors[i], station.site.outlets[i]
    if not connector.offer_ma and (until_ms := _paused_until_ms(station, i)) is not None:
        return Wish(0, "pause", "paused, and not to be switched on again at once", until_ms)
    most = Wish(outlet.max_ma, "maximum", "own maximum")
    look = connector.evse
    if look is not None and look.cable_ma is not None and look.cable_ma < most.ma:
        most = Wish(look.cable_ma, "cable", "cable")
    if (cap_ma := connector.use.cap_ma) is not None and cap_ma < most.ma:
        most = Wish(cap_ma, "unused", "the car does not use more")
    if space.caps and (cap := capped_by(space, i)) is not None and cap[0] < most.ma:
        most = Wish(cap[0], "signal", cap[1].text(station.site), cap[1].until_ms)
    if look is not None and connector.asking_since_ms is None and outlet.min_ma < most.ma:
        most = Wish(outlet.min_ma, "not_asking", "the car does not ask")
    return most


def _permitted(station: Station, i: int, wanted_ma: int, room: int) -> int:
    connector = station.connectors[i]
    return permit(
        wanted_ma,
        outlet=station.site.outlets[i],
        cable_ma=connector.evse.cable_ma if connector.evse else None,
        room_ma=room,
        recorded=connector.state in ENERGISED,
        healthy=_healthy(station, i),
    )


def _healthy(station: Station, i: int) -> bool:
    connector = station.connectors[i]
    return not station.stopping and (not connector.faults or stopping(connector.faults) is None)


def _reachable(station: Station, i: int) -> bool:
    return is_fresh(station.connectors[i].evse, station.now_ms, EVSE_STALE_MS)


def _certified(station: Station, *, ok: bool) -> Station:
    """Without a certificate the offers stay as they were, at most; that is a defect of ours and a fault."""
    faults = station.faults
    if ok:
        faults = cleared(faults, "sharing_failed") if faults else faults
    else:
        faults = raised(
            faults, "sharing_failed", station.now_ms, "an answer of sharing was refused by its check"
        )
    return station if faults is station.faults else replace(station, faults=faults)


def _paused_until_ms(station: Station, i: int) -> int | None:
    """Until when a paused car is not switched on again; it takes nobody's place until then."""
    paused_ms = station.connectors[i].turn.paused_ms
    if paused_ms is None or station.now_ms - paused_ms >= station.site.sharing.min_off_ms:
        return None
    return paused_ms + station.site.sharing.min_off_ms


def _not_yet(station: Station, i: int, allowed_ma: int) -> Wish | None:
    """Why a raise has to wait; None when it may be made now."""
    connector, outlet, now = station.connectors[i], station.site.outlets[i], station.now_ms
    if not is_fresh(connector.meter, now, METER_STALE_MS):
        return Wish(0, "meter_silent", "nothing is raised while the meter is silent")
    fell = connector.lowered_ms > 0 and now - connector.lowered_ms < RAISE_EVERY_MS
    began = connector.asking_since_ms is not None and connector.offered_ms < connector.asking_since_ms
    if not fell and (connector.offer_ma == 0 or began):
        return None  # a start, or it was offered the minimum until it asked; there is nothing to settle
    if now - connector.offered_ms < RAISE_EVERY_MS:
        return Wish(0, "ramp", "rising slowly", connector.offered_ms + RAISE_EVERY_MS)
    small = allowed_ma - connector.offer_ma < RAISE_STEP_MA and allowed_ma < outlet.max_ma
    if small and now - connector.offered_ms < SMALL_STEP_EVERY_MS:
        return Wish(0, "step", "steps below 1 A are not passed on")
    return None


def _ramped(connector: Connector, outlet: Outlet, allowed_ma: int, wish: Wish, now: int) -> int:
    """The next step on the way up."""
    step_ma = max(outlet.min_ma, connector.offer_ma + RAMP_MA)
    if allowed_ma > step_ma:
        wish.kind, wish.text, wish.until_ms = "ramp", "rising slowly", now + RAISE_EVERY_MS
        return step_ma
    return allowed_ma


def _offered(
    connector: Connector, offer_ma: int, wish: Wish, drawn_ma: int, now: int
) -> tuple[Connector, bool]:
    """The connector after this offer, and whether a command has to leave."""
    why = connector.why
    if (wish.kind, wish.text, wish.until_ms) != (why.kind, why.text, why.until_ms):
        same = (wish.kind, wish.text) == (why.kind, why.text)
        why = Reason(wish.kind, wish.text, why.since_ms if same else now, wish.until_ms)
    first = connector.sent_ms == 0 and connector.evse is not None
    if offer_ma != connector.offer_ma or first:
        held = connector.offer_ma if connector.sent_ms else _unknown_ma(connector)
        lowered = offer_ma < held
        turn = connector.turn
        stopped = offer_ma == 0 and connector.state in ENERGISED and wish.kind != "phases"
        if stopped and connector.asking_since_ms is not None:
            turn = replace(turn, paused_ms=now)
        elif offer_ma and turn.paused_ms is not None:
            turn = replace(turn, paused_ms=None)
        after = replace(
            connector,
            offer_ma=offer_ma,
            why=why,
            turn=turn,
            offered_ms=now,
            sent_ms=now,
            # What it may draw at this moment, it may go on drawing for a while; no more than that.
            hold_ma=max(held, drawn_ma) if lowered else offer_ma,
            lowered_ms=now if lowered else connector.lowered_ms,
            told=_told(connector, held, now) if lowered else connector.told,
        )
        return after, True
    if offer_ma and now - connector.sent_ms >= RENEW_MS:
        return replace(connector, why=why, sent_ms=now), True
    return (connector, False) if why is connector.why else (replace(connector, why=why), False)


def _told(connector: Connector, held_ma: int, now: int) -> tuple[tuple[int, int], ...]:
    """The offers a car may still be coming down from, the one being withdrawn among them."""
    kept = tuple(each for each in connector.told if each[0] > now and each[1] > held_ma)
    return (*kept, (now + SETTLE_MS, held_ma))


def _unknown_ma(connector: Connector) -> int:
    """What a controller held before we ever spoke to it."""
    return connector.evse.offer_ma if connector.evse is not None else 0
