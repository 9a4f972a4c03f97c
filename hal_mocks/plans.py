"""Random days of a station, made from a seed: cars, people and trouble, as groups of steps of a scenario.

    plan = make_plan(seed=7)
    plan.groups                 # each a visit of a car, or a fault with its end
    plan.steps                  # all of them in order of time, ready for a scenario file

A group can be left out and the rest still makes sense; that is how a failing day is made small.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hal_mocks.steps import (
    Action,
    BackendFault,
    BrokerFault,
    Clock,
    DaemonFault,
    Demand,
    Disk,
    Drive,
    EvseFault,
    Limit,
    LineFault,
    Load,
    MeterFault,
    NextCard,
    PcscdFault,
    Plug,
    Power,
    ReaderFault,
    Step,
    Swipe,
    Unplug,
    When,
)

STORY_MS = 300_000
"""The part of a plan in which things happen; then everything is healed and everybody leaves."""

FIRST_MS, LAST_MS = 5_000, STORY_MS - 20_000

MOST_FAULTS = 6

A_BAD_MOMENT = 0.15
"""The part of all visits with trouble just when a card is shown; chance alone rarely hits that moment."""

A_BLIND_DAY = 0.15
"""The part of all days on which nobody sees the supply while it is well used."""

DAY_MS = 86_400_000

SLOWER = 60
"""On an ordinary day cars stay that many times longer: half an hour to three hours."""

FAULTS_A_DAY = 40
"""Far more than a station sees in a year, so that a day of simulation is worth it."""


@dataclass(frozen=True)
class Plan:
    """A day. `groups` are independent of each other; `seed` is the chance within devices and wires."""

    seed: int
    connectors: int
    limit_a: int
    groups: tuple[tuple[Step, ...], ...]
    story_ms: int = STORY_MS

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps by time."""
        return tuple(sorted((step for group in self.groups for step in group), key=lambda step: step.when.ms))

    def without(self, places: Sequence[int]) -> "Plan":
        """The plan without the groups at these places."""
        return replace(self, groups=tuple(g for k, g in enumerate(self.groups) if k not in set(places)))


def make_plan(seed: int, *, days: int = 0) -> Plan:
    """The plan of a seed, the same on every machine: five crowded minutes, or so many ordinary days."""
    dice = random.Random(seed)
    connectors = dice.choice((1, 2, 2, 3, 4)) if not days else 4
    story_ms = days * DAY_MS or STORY_MS
    groups: list[tuple[Step, ...]] = []
    last_ms = story_ms - (STORY_MS - LAST_MS)
    for number in range(1, connectors + 1):
        groups += _visits(dice, number, last_ms, slower=SLOWER if days else 1)
    groups += [_house(dice, last_ms) for _ in range(dice.randint(0, 2) if not days else 20 * days)]
    faults = FAULTS_A_DAY * days or dice.randint(1, MOST_FAULTS)
    groups += [_fault(dice, connectors, last_ms) for _ in range(faults)]
    limit_a = dice.choice((32, 32, 32, 40))
    groups += _blind(dice, groups)
    return Plan(seed, connectors, limit_a, tuple(groups), story_ms)


def _at(ms: int, action: Action) -> Step:
    return Step(action, When("at", ms))


def _visits(dice: random.Random, number: int, last_ms: int, *, slower: int) -> list[tuple[Step, ...]]:
    """One car after the other at a connector, each with a card that is known or not."""
    visits = []
    at_ms = dice.randint(FIRST_MS, FIRST_MS + 60_000)
    while at_ms < last_ms - 30_000:
        leaves_ms = min(last_ms, at_ms + slower * dice.randint(25_000, 200_000))
        visit = _visit(dice, number, at_ms, leaves_ms)
        visits.append(tuple(visit))
        if moment := _moment(dice, visit):
            visits.append(moment)
        at_ms = leaves_ms + slower * dice.randint(6_000, 60_000)
    return visits


def _visit(dice: random.Random, number: int, at_ms: int, leaves_ms: int) -> list[Step]:
    card = dice.choice(("alice", "alice", "bob", "bob", "stranger"))
    plug = Plug(
        number,
        max_ma=dice.choice((10_000, 16_000, 16_000, 32_000)),
        phases=dice.choice((1, 3, 3, 2)),
        wants_wh=dice.choice((None, None, 100, 300)),
        lag_ms=dice.choice((500, 2_000, 4_900)),
        sleepy=dice.random() < 0.1,
        disobedient=dice.random() < 0.05,
        cable_ma=dice.choice((32_000, 32_000, 20_000)),
    )
    steps = [_at(at_ms, plug)]
    swipe_ms = at_ms + dice.choice((-4_000, 2_500, 4_000, 15_000))
    if dice.random() < 0.9 and swipe_ms > FIRST_MS:
        steps.append(_at(swipe_ms, Swipe(card)))
        if dice.random() < 0.4 and leaves_ms - swipe_ms > 20_000:
            steps.append(_at(dice.randint(swipe_ms + 8_000, leaves_ms - 1_000), Swipe(card)))
    if dice.random() < 0.15:
        steps.append(_at(dice.randint(at_ms + 1, leaves_ms - 1), Drive(number, "stops")))
    if dice.random() < 0.15:
        wish = Demand(number, dice.choice((500, 5_000, 20_000)), dice.choice((600_000, 7_200_000)))
        steps.append(_at(dice.randint(at_ms + 1, leaves_ms - 1), wish))
    return [*steps, _at(leaves_ms, Unplug(number))]


def _moment(dice: random.Random, visit: Sequence[Step]) -> tuple[Step, ...]:
    """Trouble at the moment of a visit in which most can go wrong; on most visits none."""
    cards_ms = [step.when.ms for step in visit if isinstance(step.what, Swipe)]
    if not cards_ms or dice.random() > A_BAD_MOMENT:
        return ()
    match dice.randint(1, 3):
        case 1:  # the claim is long on its way to the disk
            return _at(cards_ms[0] - 500, Disk("slow", 3_000)), _at(cards_ms[0] + 10_000, Disk("well"))
        case 2:  # between any two steps of a start
            cut = dice.choice((Power("cut", for_ms=10_000), DaemonFault("killed", for_ms=2_000)))
            return (_at(cards_ms[0] + dice.randint(100, 8_000), cut),)
        case _:  # stopped, and the contactor not yet open or the register not yet read
            return (_at(cards_ms[-1] + dice.randint(500, 7_000), DaemonFault("killed", for_ms=2_000)),)


def _blind(dice: random.Random, groups: Sequence[Sequence[Step]]) -> list[tuple[Step, ...]]:
    """The supply's meter falls silent while cars take what they can get; on most days it does not."""
    cards_ms = [step.when.ms for group in groups for step in group if isinstance(step.what, Swipe)]
    if not cards_ms or dice.random() > A_BLIND_DAY:
        return []
    at_ms = dice.choice(cards_ms) + dice.choice((15_000, 30_000))
    return [(_at(at_ms, MeterFault("site", "silent")), _at(at_ms + 45_000, MeterFault("site", "well")))]


def _house(dice: random.Random, last_ms: int) -> tuple[Step, ...]:
    at_ms = dice.randint(FIRST_MS, last_ms - 20_000)
    name = f"house{dice.randint(1, 99)}"
    l1_ma, l2_ma, l3_ma = (dice.choice((0, 4_000, 10_000, 14_000)) for _ in range(3))
    end_ms = dice.randint(at_ms + 5_000, last_ms)
    return _at(at_ms, Load(name, l1_ma, l2_ma, l3_ma)), _at(end_ms, Load(name, off=True))


def _fault(dice: random.Random, connectors: int, last_ms: int) -> tuple[Step, ...]:
    """Any entry of the menu, with its end where it has one."""
    at_ms = dice.randint(FIRST_MS, last_ms - 10_000)
    end_ms = min(last_ms, at_ms + dice.choice((3_000, 10_000, 30_000, 90_000)))
    kind = dice.choice(_MENU)
    return tuple(_at(ms, action) for ms, action in zip((at_ms, end_ms), kind(dice, connectors), strict=False))


def _meter_fault(dice: random.Random, connectors: int) -> tuple[Action, ...]:
    meter = dice.choice(("site", *(f"connector-{n}" for n in range(1, connectors + 1))))
    fault = dice.choice(("silent", "frozen", "garbled", "split", "exception", "dark", "slow"))
    delay_ms = 900 if fault == "slow" else None
    return MeterFault(meter, fault, delay_ms), MeterFault(meter, "well")


def _register_fault(dice: random.Random, connectors: int) -> tuple[Action, ...]:
    number = dice.randint(1, connectors)
    fault = dice.choice(("backwards", "jumps", "restarted", "swapped-with"))
    if fault == "swapped-with":
        other = f"connector-{number % connectors + 1}"
        swap = MeterFault(f"connector-{number}", fault, other=other)
        return (swap, swap) if connectors > 1 else (MeterFault("connector-1", "restarted"),)
    return (MeterFault(f"connector-{number}", fault, wh=None if fault == "restarted" else 5_000),)


def _evse_fault(dice: random.Random, connectors: int) -> tuple[Action, ...]:
    fault = dice.choice(
        (
            *("silent", "frozen", "garbled", "split", "exception", "dark", "slow", "reboots"),
            *("welded", "bounces", "no-feedback", "rcd", "pilot-fault", "ignores-writes"),
        )
    )
    number = dice.randint(1, connectors)
    delay_ms = 900 if fault == "slow" else None
    return EvseFault(number, fault, delay_ms), EvseFault(number, "well")


def _line_fault(dice: random.Random, _connectors: int) -> tuple[Action, ...]:
    line = dice.choice(("meters", "evse"))
    fault = dice.choice(("cut", "loses", "flips", "garbage", "splits", "delays"))
    permille = dice.choice((2, 20, 100)) if fault in ("loses", "flips", "garbage") else None
    delay_ms = dice.choice((20, 150)) if fault == "delays" else None
    return LineFault(line, fault, permille, delay_ms), LineFault(
        line, "joined" if fault == "cut" else "clean"
    )


def _reader_fault(dice: random.Random, _connectors: int) -> tuple[Action, ...]:
    return dice.choice(
        (
            (ReaderFault("unplugged"), ReaderFault("plugged")),
            (PcscdFault("killed"), PcscdFault("started")),
            (NextCard(dice.choice(("torn", "unreadable", "random"))),),
        )
    )


def _broker_fault(dice: random.Random, _connectors: int) -> tuple[Action, ...]:
    fault = dice.choice(
        ("killed", "stopped", "silent", "duplicates", "reorders", "loses-acknowledged", "slow")
    )
    if fault in ("killed", "stopped"):
        return BrokerFault(fault), BrokerFault("started")
    return BrokerFault(fault, 2_000 if fault == "slow" else None), BrokerFault("well")


def _backend_fault(dice: random.Random, _connectors: int) -> tuple[Action, ...]:
    fault = dice.choice(
        ("silent", "wrong-hash", "contradictory", "crashes-before-ack", "refuses", "twice", "late")
    )
    return BackendFault(fault, 10_000 if fault == "late" else None), BackendFault("well")


def _clock_fault(dice: random.Random, _connectors: int) -> tuple[Action, ...]:
    if dice.random() < 0.3:
        return Clock(quality="unset"), Clock(quality="synced")
    jump_ms = dice.choice((-3_600_000, -5_000, 5_000, 3_600_000, 86_400_000))
    return (Clock(jump_ms=jump_ms),)


def _disk_fault(dice: random.Random, _connectors: int) -> tuple[Action, ...]:
    fault = dice.choice(("full", "failing", "slow", "slow"))
    return Disk(fault, dice.choice((500, 3_000)) if fault == "slow" else None), Disk("well")


def _end_of_a_life(dice: random.Random, _connectors: int) -> tuple[Action, ...]:
    match dice.randint(1, 4):
        case 1:
            return (DaemonFault("killed", for_ms=dice.choice((2_000, 20_000))),)
        case 2:
            return (DaemonFault("killed", write=dice.randint(1, 12)),)
        case 3:
            return (DaemonFault("stopped", for_ms=dice.choice((1_000, 15_000, 70_000))),)
        case _:
            return (Power("cut", for_ms=dice.choice((500, 10_000, 40_000))),)


def _limit(dice: random.Random, connectors: int) -> tuple[Action, ...]:
    if dice.random() < 0.5:
        return (Limit(circuit="main", ma=dice.choice((0, 8_000, 12_000)), for_ms=30_000),)
    return (Limit(connector=dice.randint(1, connectors), ma=dice.choice((6_000, 10_000)), for_ms=30_000),)


_MENU = (
    *(_meter_fault, _meter_fault, _register_fault, _evse_fault, _evse_fault, _line_fault, _line_fault),
    *(_reader_fault, _broker_fault, _broker_fault, _backend_fault, _backend_fault, _clock_fault),
    *(_disk_fault, _disk_fault, _end_of_a_life, _end_of_a_life, _end_of_a_life, _limit),
)
"""The more often an entry stands here, the more often it is drawn."""
