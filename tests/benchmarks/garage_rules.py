"""Other ways to share, on the same cars, the same tree and the same 6 A rule, without the daemon's core.

A snapshot simulator: between two events (a car comes, goes or is full; the rule's clock) currents are
constant, so energies are exact. It knows no metering, no lag and no ramps, so what it shows of a rule is the
most the rule can do, and a week takes a fraction of a second.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tests.benchmarks.garage_world import MAX_MA, MIN_MA, VOLTS, Floats, Garage, Outcome, rows

Mask = NDArray[np.bool_]

MIN_A = MIN_MA / 1000
MAX_A = MAX_MA / 1000
ROUNDING_A = 1e-9

DECIDE_S = 300
"""A rule is asked at every event and at least this often, as needs and laxities move."""


class Now(NamedTuple):
    """What a rule may know: arrays over the cars that are plugged in and ask, in order of arrival."""

    at_s: float
    arrived_s: Floats
    phases: Floats
    most_a: Floats  # the maximum as far as it is known
    taken_wh: Floats
    asked_wh: Floats  # nan where nothing was said
    leaves_s: Floats  # as declared, nan where nothing was said
    on_a: Floats  # the offer up to now
    since_s: Floats  # when it was last switched on or off; its arrival if never
    loads: Floats  # rows x cars
    limits_a: Floats


Rule = Callable[[Now], Floats]
"""The current of every car."""


def simulate(place: Garage, rule: Rule, *, headroom_a: float = 0.0) -> Outcome:
    """Let all cars come and go under this rule. A car's maximum is known to it but for `headroom_a`."""
    loads, limits_a = rows(place)
    cars = place.cars
    arrives, leaves, wish, phases, own_a = (
        np.array(column, dtype=float)
        for column in zip(
            *((car.arrives_s, car.leaves_s, car.wish_wh, car.phases, car.max_ma / 1000) for car in cars),
            strict=True,
        )
    )
    asked = np.array([np.nan if car.asked_wh is None else car.asked_wh for car in cars])
    says = np.array([np.nan if car.says_leaves_s is None else float(car.says_leaves_s) for car in cars])
    known_a = np.minimum(own_a + headroom_a, MAX_A)
    wh, on_a, since = np.zeros(len(cars)), np.zeros(len(cars)), arrives.copy()
    edges = np.unique(np.concatenate([arrives, leaves]))
    pauses = changes = 0
    charging_s, over_a = 0.0, -np.inf
    at = float(edges[0])
    while at < edges[-1]:
        edge = float(edges[np.searchsorted(edges, at, side="right")])
        here = np.flatnonzero((arrives <= at) & (at < leaves) & (wh < wish - 1e-6))
        if not len(here):
            at = edge
            continue
        x = rule(
            Now(at, arrives[here], phases[here], known_a[here], wh[here], asked[here], says[here],
                on_a[here], since[here], loads[:, here], limits_a)
        )  # fmt: skip
        before = on_a[here]
        pauses += int(((before > 0) & (x == 0)).sum())
        changes += int((np.abs(before - x) >= 0.1).sum())
        since[here[(before > 0) != (x > 0)]] = at
        on_a[here] = x
        watts = np.minimum(x, own_a[here]) * phases[here] * VOLTS
        over_a = max(over_a, float((loads[:, here] @ np.minimum(x, own_a[here]) - limits_a).max()))
        drawing = watts > 0
        full_s = ((wish - wh)[here][drawing] * 3600 / watts[drawing]).min(initial=np.inf)
        passes = max(min(float(full_s), edge - at, DECIDE_S - at % DECIDE_S), 1e-3)
        wh[here] = np.minimum(wh[here] + watts * passes / 3600, wish[here])
        charging_s += passes * int((x > 0).sum())
        at += passes
    return Outcome(wh, pauses, changes, charging_s / 3600, over_a)


# -- the two steps of the core's sharing, written another way ------------------------------------------------


def admitted(now: Now, order: Sequence[int]) -> Mask:
    """Who is on if minimums are granted in this order."""
    on = np.zeros(len(now.on_a), dtype=bool)
    room = now.limits_a + ROUNDING_A
    for i in order:
        left = room - now.loads[:, i] * MIN_A
        if now.most_a[i] >= MIN_A and (left >= 0).all():
            room, on[i] = left, True
    return on


def filled(now: Now, on: Mask, weight: Floats, least_a: float = MIN_A) -> Floats:
    """Weighted max-min fair currents of those that are on: clip(weight * level, minimum, maximum)."""
    x = np.zeros(len(on))
    rising = np.flatnonzero(on)
    room = now.limits_a.copy()
    while len(rising):
        loads, most, w = now.loads[:, rising], now.most_a[rising], weight[rising]
        full = np.flatnonzero(loads @ most > room + ROUNDING_A)
        if not len(full):
            x[rising] = most
            break
        # A row's total is piecewise linear in the level, with its corners at these.
        corners = np.sort(np.concatenate([least_a / w, most / w]))
        totals = loads[full] @ np.clip(corners * w[:, None], least_a, most[:, None])
        levels = [
            float(np.interp(free, total, corners)) for free, total in zip(room[full], totals, strict=True)
        ]
        tightest = full[int(np.argmin(levels))]
        stops = now.loads[tightest, rising] > 0
        stopped, rising = rising[stops], rising[~stops]
        x[stopped] = np.clip(weight[stopped] * min(levels), least_a, now.most_a[stopped])
        room = np.maximum(room - now.loads[:, stopped] @ x[stopped], 0)
    return x


# -- baselines -----------------------------------------------------------------------------------------------


def first_come(now: Now) -> Floats:
    """The car that came first takes all it can."""
    return _one_by_one(now, np.arange(len(now.on_a)))


def earliest_deadline(now: Now) -> Floats:
    """By declared departure; those who said nothing come last."""
    return _one_by_one(now, np.argsort(now.leaves_s, kind="stable"))


def least_laxity(now: Now) -> Floats:
    """By the time that may pass before a car must charge at its maximum; those who said nothing come last."""
    needs_s = np.maximum(now.asked_wh - now.taken_wh, 0) * 3600 / (now.most_a * now.phases * VOLTS)
    return _one_by_one(now, np.argsort(now.leaves_s - now.at_s - needs_s, kind="stable"))


def equal_share(now: Now) -> Floats:
    """Water filling; where minimums do not fit, those who came first are on."""
    return filled(now, admitted(now, range(len(now.on_a))), np.ones(len(now.on_a)))


def round_robin(now: Now) -> Floats:
    """One ampere after the other is handed round, the first six at once, as in ACN-Sim."""
    x = np.zeros(len(now.on_a))
    room = now.limits_a.copy()
    turn = list(range(len(x)))
    while turn:
        again = []
        for i in turn:
            more = 1.0 if x[i] else MIN_A
            mine = now.loads[:, i] > 0
            if x[i] + more <= now.most_a[i] and room[mine].min() >= more:
                x[i] += more
                room[mine] -= more
                again.append(i)
        turn = again
    return x


def _one_by_one(now: Now, order: NDArray[np.int64]) -> Floats:
    x = np.zeros(len(now.on_a))
    room = now.limits_a.copy()
    for i in order:
        mine = now.loads[:, i] > 0
        free = min(now.most_a[i], room[mine].min())
        if free >= MIN_A - ROUNDING_A:
            x[i] = free
            room[mine] -= free
    return x


BASELINES: dict[str, Rule] = {
    "first come": first_come,
    "round robin": round_robin,
    "earliest deadline": earliest_deadline,
    "least laxity": least_laxity,
    "equal share": equal_share,
}


# -- water filling with turns, to try what the core might do -------------------------------------------------


SLOT_S = 900


class Turns(Struct, frozen=True):
    """Weighted water filling where those that do not fit take turns.

    A car that is on keeps its place for `slot_s`. Then cars that have less than `least` of what they asked
    come first, longest wait first, and after them the others by `by`. Who was paused stays off for `off_s`.
    With `gate`, a car whose share would be under this part of the minimum is off unless it is in haste.
    """

    by: Callable[[Now], Floats]  # the lower, the earlier
    weight: Callable[[Now], Floats] = lambda now: np.ones(len(now.on_a))
    least: float = 0.0
    slot_s: int = SLOT_S
    off_s: int = 300
    gate: float = 0.0

    def __call__(self, now: Now) -> Floats:
        """The current of every car."""
        held = (now.on_a > 0) & (now.at_s - now.since_s < self.slot_s - 1)
        resting = (now.on_a == 0) & (now.since_s > now.arrived_s) & (now.at_s - now.since_s < self.off_s - 1)
        poor = ~held & (served(now) < self.least)
        key = np.where(poor, now.since_s + np.where(now.on_a > 0, self.slot_s, 0), self.by(now))
        order = np.lexsort((key, ~poor, ~held))
        ready = ~resting
        if self.gate:
            ideal_a = filled(now, np.ones(len(now.on_a), dtype=bool), self.weight(now), 0.0)
            ready &= held | (ideal_a >= self.gate * MIN_A) | (need_a(now) >= now.most_a)
        return filled(now, admitted(now, [i for i in order if ready[i]]), self.weight(now))


UNSAID_WH = 10_000
"""Taken as asked for where nothing was said."""


def arrival(now: Now) -> Floats:
    """First come, first admitted."""
    return now.arrived_s


def wait(now: Now) -> Floats:
    """Longest wait first, counted from the pause or from the end of the slot."""
    return now.since_s + np.where(now.on_a > 0, SLOT_S, 0)


def served(now: Now) -> Floats:
    """What part of its demand a car has; the least first."""
    return now.taken_wh / np.where(np.isnan(now.asked_wh), UNSAID_WH, now.asked_wh)


def hurry(now: Now) -> Floats:
    """Highest need first, in power."""
    return -need_a(now) * now.phases


def laxity(now: Now) -> Floats:
    """Least normalised laxity (1 - need / maximum) first."""
    return 1 - need_a(now) / now.most_a


def need_a(now: Now) -> Floats:
    """The current that would just do; where nothing was said or the time is over, as for the middle one."""
    left_h = np.where(now.leaves_s > now.at_s, np.maximum((now.leaves_s - now.at_s) / 3600, 0.25), np.nan)
    needs = np.maximum(now.asked_wh - now.taken_wh, 0) / left_h / (VOLTS * now.phases)
    said = ~np.isnan(needs)
    return np.where(said, needs, np.median(needs[said]) if said.any() else MIN_A)


def by_need(now: Now) -> Floats:
    """Weights: the need between 1 A and the connector's maximum."""
    return np.clip(need_a(now), 1, MAX_A)


def by_need_squared(now: Now) -> Floats:
    """Weights: those in haste much before those who are not."""
    return by_need(now) ** 2


POLICIES: dict[str, Rule] = {
    "equal, no turns": Turns(arrival, slot_s=24 * 3600),
    "equal, turns by wait": Turns(wait),
    "equal, turns by served": Turns(served),
    "equal, turns by need": Turns(hurry),
    "need, turns by wait": Turns(wait, by_need),
    "need, turns by served": Turns(served, by_need),
    "need, turns by need": Turns(hurry, by_need),
    "need, turns by laxity": Turns(laxity, by_need),
    "need squared, turns by served": Turns(served, by_need_squared),
    "equal, under 20 % first, then by need": Turns(hurry, least=0.2),
    "need, under 20 % first, then by need": Turns(hurry, by_need, least=0.2),
    "need, under 20 % first, then by need, 30 min": Turns(hurry, by_need, least=0.2, slot_s=1800),
    "need, gate at half the minimum": Turns(hurry, by_need, gate=0.5),
    "need, under 20 % first, gate": Turns(hurry, by_need, least=0.2, gate=0.5),
}
