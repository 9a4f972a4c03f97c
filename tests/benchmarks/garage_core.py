"""The garage through the core: `step` takes every card, reading and tick, and cars follow its offers.

Physics between two looks are exact: a car draws the smaller of offer and its own maximum until its wish is
met or it leaves. A higher offer is followed at once and a lower one only after 5 s, the worst that
IEC 61851-1 Annex A allows, so that what may still be drawn matters. The station looks every 60 s, whenever a
car comes, goes or is full, and 6 and 17 s after an offer has changed (settling takes 5 s, learning what a car
does not use 10 s more). A real one looks every 250 ms; leases are not waited for here.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from edge.commands import Command, Record, SetOffer
from edge.control.session import State
from edge.control.site import Card, ReaderSite, Site
from edge.control.state import SETTLE_MS
from edge.control.station import CARD_QUIET_MS, start, step
from edge.events import CardSeen, Credential, DemandStated, Event, EvseRead, MeterRead, Pilot, Recorded, Tick
from edge.records import ClaimState, ClockQuality
from tests.benchmarks.garage_world import VOLTS, Car, Floats, Garage, Outcome, rows

LOOK_MS = 60_000
AGAIN_MS = (6_000, 17_000)
BOOTED_MS = 1_000_000
START_WH = 1_000_000
UNIX_MS = 1_557_700_000_000


class Plug:
    """The hardware of one connector with the car in it, if any. Currents in mA, energy in mWh."""

    def __init__(self) -> None:
        self.car: Car | None = None
        self.index = -1  # of the car in Garage.cars
        self.asks = False
        self.offer_ma = 0
        self.old_ma = 0  # what it draws until it follows the offer
        self.follows_ms = 0
        self.register_mwh = START_WH * 1000.0
        self.start_mwh = 0.0

    def draw_ma(self, now_ms: int) -> int:
        """What flows on each phase the car uses."""
        if self.car is None or not self.asks:
            return 0
        return min(self.offer_ma, self.car.max_ma) if now_ms >= self.follows_ms else self.old_ma

    @property
    def left_mwh(self) -> float:
        """What the car still wants."""
        return 0.0 if self.car is None else self.car.wish_wh * 1000 - (self.register_mwh - self.start_mwh)


class Replayed(NamedTuple):
    """What became of the cars, what they are billed, and what it cost to decide."""

    outcome: Outcome
    claimed_wh: Floats  # per car, as billed
    tick_us: Floats
    faults: int


class Replay:
    """Drive the core through the days of a garage."""

    def __init__(self, place: Garage, *, demands: bool = True) -> None:
        self.place = place
        self.demands = demands
        self.site = _with_cards(place)
        self.now_ms = BOOTED_MS
        first_ms = min(car.arrives_s for car in place.cars) * 1000
        self.origin_ms = BOOTED_MS + CARD_QUIET_MS + 1_000 - first_ms
        self.plugs = [Plug() for _ in self.site.outlets]
        self.coming = list(range(len(place.cars)))[::-1]
        self.loads, limits_a = rows(place)
        self.limits_ma = limits_a * 1000
        self.wh = np.zeros(len(place.cars))
        self.claimed_wh = np.full(len(place.cars), np.nan)
        self.claims: dict[str, int] = {}
        self.pauses = self.changes = self.faults = 0
        self.charging_ms = 0
        self.over_ma = -np.inf
        self.tick_ns: list[int] = []
        self.again_ms: list[int] = []
        self.station, commands = start(self.site, "ep0c" * 8, 1, [], self.now_ms, None)
        self._carry_out(commands)

    def run(self, each: Callable[["Replay"], None] | None = None) -> Replayed:
        """Let all cars come and go; `each` is called after every tick."""
        while True:
            self._look()
            if each is not None:
                each(self)
            if not self.coming and self._all_free():
                break
            while not self._pass_on():
                pass
        charging_h, over_a = self.charging_ms / 3_600_000, self.over_ma / 1000
        outcome = Outcome(self.wh, self.pauses, self.changes, charging_h, over_a)
        return Replayed(outcome, self.claimed_wh, np.array(self.tick_ns) / 1000, self.faults)

    # -- the world -----------------------------------------------------------------------------------

    def at_ms(self, seconds: int) -> int:
        """The station's clock at a time of the data."""
        return self.origin_ms + seconds * 1000

    def _pass_on(self) -> bool:
        """Let time pass until something happens; return whether the station sees it."""
        seen_ms = self._next_look_ms()
        ms = min([seen_ms, *(plug.follows_ms for plug in self.plugs if plug.follows_ms > self.now_ms)])
        self._pass_to(ms)
        return ms == seen_ms

    def _next_look_ms(self) -> int:
        times = [ms for ms in self.again_ms if ms > self.now_ms]
        self.again_ms = times
        if self.coming:
            times = [*times, max(self.at_ms(self.place.cars[self.coming[-1]].arrives_s), self.now_ms + 1_000)]
        if not self._all_free():
            times = [*times, self.now_ms // LOOK_MS * LOOK_MS + LOOK_MS]
        for plug in self.plugs:
            if plug.car is None:
                continue
            times.append(max(self.at_ms(plug.car.leaves_s), self.now_ms + 1))
            if draw := plug.draw_ma(self.now_ms):
                mw = draw * plug.car.phases * VOLTS
                times.append(self.now_ms + max(1, round(plug.left_mwh * 3_600_000 / mw + 0.5)))
        return min(times)

    def _all_free(self) -> bool:
        return all(connector.state is State.FREE for connector in self.station.connectors)

    def _pass_to(self, ms: int) -> None:
        for plug in self.plugs:
            if plug.car is None:
                continue
            if plug.asks and plug.offer_ma:
                self.charging_ms += ms - self.now_ms
            drawn = plug.draw_ma(self.now_ms) * plug.car.phases * VOLTS * (ms - self.now_ms) / 3_600_000
            taken = min(drawn, plug.left_mwh)
            plug.register_mwh += taken
            self.wh[plug.index] += taken / 1000
            plug.asks = plug.left_mwh > 1
        self.now_ms = ms
        self.over_ma = max(self.over_ma, float((self._currents_ma() - self.limits_ma).max()))

    def _look(self) -> None:
        """Read every device, let cars go and come, and tick.

        Who comes or goes makes the core share at once, so all else has been read by then.
        """
        now = self.now_ms
        leaving = [n for n, p in enumerate(self.plugs) if p.car and self.at_ms(p.car.leaves_s) <= now]
        for n in leaving:
            self.plugs[n].car = None
        self._read_idle()
        for n, connector in enumerate(self.station.connectors):
            if connector.state is not State.FREE:
                self._measure(n)
                if n not in leaving:
                    self._see(n)
        self._measure_root()
        for n in leaving:
            self._see(n)
        self._arrive()
        tick = Tick(now, UNIX_MS + now, ClockQuality.SYNCED)
        began = time.perf_counter_ns()
        self.station, commands = step(self.station, tick)
        self.tick_ns.append(time.perf_counter_ns() - began)
        self._carry_out(commands)

    def _arrive(self) -> None:
        later = []
        while self.coming and self.at_ms(self.place.cars[self.coming[-1]].arrives_s) <= self.now_ms:
            k = self.coming.pop()
            car = self.place.cars[k]
            plug = self.plugs[car.outlet]
            if self.station.connectors[car.outlet].state is not State.FREE:
                later.append(k)  # the claim of the car before is still being closed
                continue
            plug.car, plug.index, plug.asks = car, k, True
            plug.start_mwh, plug.old_ma, plug.offer_ma = plug.register_mwh, 0, 0
            self._see(car.outlet)
            self._measure(car.outlet)
            self._put(CardSeen(self.now_ms, f"r{car.outlet + 1}", _credential(k)))
            if self.demands and car.asked_wh is not None and car.says_leaves_s is not None:
                departs_in_ms = self.at_ms(car.says_leaves_s) - self.now_ms
                self._put(DemandStated(self.now_ms, car.outlet + 1, round(car.asked_wh), departs_in_ms))
        self.coming += later[::-1]

    # -- wires ---------------------------------------------------------------------------------------

    def _put(self, event: Event) -> None:
        self.station, commands = step(self.station, event)
        self._carry_out(commands)

    def _carry_out(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            match command:
                case SetOffer(connector=number, offer_ma=offer_ma):
                    self._offer(self.plugs[number - 1], offer_ma)
                case Record(claim=claim):
                    n = claim.connector - 1
                    if claim.state is ClaimState.OPEN:
                        self.claims[claim.id] = self.plugs[n].index
                    else:
                        self.claimed_wh[self.claims[claim.id]] = claim.energy_wh or 0
                    self._put(Recorded(self.now_ms, claim.id, claim.state))
                case _:
                    self.faults += getattr(command, "topic", "") == "fault_raised"

    def _offer(self, plug: Plug, offer_ma: int) -> None:
        if offer_ma == plug.offer_ma:
            return
        if plug.asks and plug.car is not None:
            self.changes += 1
            self.pauses += offer_ma == 0
        plug.old_ma = plug.draw_ma(self.now_ms)
        plug.follows_ms = self.now_ms + (SETTLE_MS if offer_ma < plug.offer_ma else 1)
        plug.offer_ma = offer_ma
        self.again_ms += [self.now_ms + ms for ms in AGAIN_MS]

    def _see(self, n: int) -> None:
        plug = self.plugs[n]
        pilot = Pilot.A if plug.car is None else Pilot.C if plug.asks else Pilot.B
        closed = plug.asks and plug.car is not None and bool(plug.offer_ma or plug.draw_ma(self.now_ms))
        self._put(EvseRead(self.now_ms, self.now_ms, n + 1, pilot, plug.offer_ma, closed, None))

    def _measure(self, n: int) -> None:
        plug, now = self.plugs[n], self.now_ms
        draw, phases = plug.draw_ma(now), plug.car.phases if plug.car else 0
        currents = (draw if phases else 0, draw if phases > 1 else 0, draw if phases > 2 else 0)
        register_wh = int(plug.register_mwh / 1000)
        self._put(MeterRead(now, now, f"m{n + 1}", currents, sum(currents) * VOLTS, register_wh))

    def _read_idle(self) -> None:
        """What `step` makes of readings that show what they showed before: the same, but younger.

        Nearly all connectors are free nearly always; this is twenty times faster than two events for each.
        """
        now = self.now_ms
        connectors = list(self.station.connectors)
        for n, connector in enumerate(connectors):
            if connector.state is not State.FREE or connector.evse is None or connector.meter is None:
                if connector.state is State.UNKNOWN:
                    self._see(n)
                    self._measure(n)
                    connectors[n] = self.station.connectors[n]
                continue
            connectors[n] = replace(
                connector,
                evse=replace(connector.evse, at_ms=now, asked_ms=now),
                meter=replace(connector.meter, at_ms=now, asked_ms=now),
                earlier=connector.meter,
            )
        self.station = replace(self.station, now_ms=now, connectors=tuple(connectors))

    def _currents_ma(self) -> Floats:
        """What flows in each row of the tree."""
        total = np.zeros(len(self.limits_ma))
        for plug in self.plugs:
            if draw := plug.draw_ma(self.now_ms):
                total += self.loads[:, plug.index] * draw
        return total

    def _measure_root(self) -> None:
        l1, l2, l3 = (round(ma) for ma in self._currents_ma()[:3])
        self._put(MeterRead(self.now_ms, self.now_ms, "main", (l1, l2, l3), (l1 + l2 + l3) * VOLTS, 0))


def _with_cards(place: Garage) -> Site:
    """A reader at every connector and a card for every session."""
    ids = [_credential(k).id for k in range(len(place.cars))]
    readers = tuple(ReaderSite(f"r{outlet.number}", (outlet.number,)) for outlet in place.site.outlets)
    return replace(place.site, readers=readers, cards={id_: Card(id_, id_) for id_ in ids})


def _credential(k: int) -> Credential:
    return Credential(f"ISO14443A:04{k:06X}", f"…{k:04X}")
