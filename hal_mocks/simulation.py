"""Playing a random day on the production daemon: one seed, one trace, one verdict.

outcome = simulate(make_plan(7))
outcome.broken            # None, or the promise that did not hold
outcome.fingerprint       # of all that was seen: the same for the same plan, on every machine
shrink(plan)              # the fewest groups of steps that still break a promise
"""

import hashlib
import logging
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hal_mocks import steps
from hal_mocks.deeds import do, heal
from hal_mocks.forgetful_disk import seed_sqlite
from hal_mocks.in_process_station import SimulatedStation
from hal_mocks.last_drivers import serve_once_more
from hal_mocks.plans import STORY_MS, Plan
from hal_mocks.promises import Broken, PromiseBroken, Promises
from hal_mocks.rig_site import STATION as STATION_NAME
from hal_mocks.scenario import Scenario
from hal_mocks.stage import StageError
from hal_mocks.steps import Action, Step

POLL_MS = 1_000
"""How often a simulated station looks at each device: the usual 500 ms would double the time of a run."""

CALM_MS = 45_000
"""After the last fault, until everybody leaves: devices are found again and sessions go on."""

SETTLED_WITHIN_MS = 20 * 60_000
"""After the last fault and the last car: a claim is sent again after 15 min at most, and nothing else is
slower (the final register is waited for 15 min, too, but only of a meter that is silent)."""

LOOK_EVERY_MS = 5_000

NEVER = 1 << 60
"""More writes than a disk will see."""


@dataclass(frozen=True)
class Outcome:
    """What came of a plan."""

    plan: Plan
    broken: Broken | None
    fingerprint: str
    simulated_ms: int
    trace: tuple[str, ...]


def simulate(plan: Plan, *, see: Callable[[str], None] | None = None) -> Outcome:
    """Play a plan to its end, or to the first broken promise; `see` hears every line of the trace."""
    with simulated(plan.seed, connectors=plan.connectors, limit_a=plan.limit_a) as (station, promises):
        broken = _play(plan, station, promises)
    trace = tuple(promises.trace)
    if see is not None:
        for line in trace:
            see(line)
    fingerprint = hashlib.sha256("\n".join(trace).replace(station.folder, "").encode()).hexdigest()
    return Outcome(plan, broken, fingerprint, station.agenda.now_ms, trace)


@contextmanager
def simulated(
    seed: int, *, connectors: int, limit_a: int = 32
) -> Iterator[tuple[SimulatedStation, Promises]]:
    """A station in a folder of its own with its judge; nothing is left of them afterwards."""
    with quiet(), memory_folder() as folder:
        seed_sqlite(random.Random(seed))
        station = SimulatedStation(folder, seed=seed, connectors=connectors, limit_a=limit_a, poll_ms=POLL_MS)
        try:
            yield station, Promises(station)
        finally:
            station.end()
            seed_sqlite(None)


def _play(plan: Plan, station: SimulatedStation, promises: Promises) -> Broken | None:
    for step in plan.steps:
        _arrange(station, promises, step)
    try:
        station.begin()
        station.pass_to(plan.story_ms)
        end_well(station, promises)
    except PromiseBroken as ended:
        return ended.broken
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as bug:  # noqa: BLE001 - the daemon's or the simulation's own: both are findings
        text = "".join(traceback.format_exception(bug))
        promises.trace.append(text)
        return Broken("the daemon has no bug that ends it", station.agenda.now_ms, text)
    return None


def end_well(station: SimulatedStation, promises: Promises) -> None:
    """Heal everything, let everybody leave, and judge the money when it had its time."""
    heal(station)
    station.kill_in_write(NEVER)  # one that was to come is a fault, too
    station.pass_to(station.agenda.now_ms + CALM_MS)
    for number in list(station.world.vehicles):
        station.world.unplug(number)
    for number in station.world.connectors:
        station.ask_later({"ask": "clear_fault", "connector": number})
    ends_ms = station.agenda.now_ms + SETTLED_WITHIN_MS
    station.pass_to(station.agenda.now_ms + LOOK_EVERY_MS)
    serve_once_more(station, promises)
    while promises.unsettled() and station.agenda.now_ms < ends_ms:
        station.pass_to(station.agenda.now_ms + LOOK_EVERY_MS)
    promises.sessions_are_over()


def take(station: SimulatedStation, promises: Promises, action: Action) -> None:
    """Do what a plan says, before the eyes of its judge; to be called by the agenda."""
    promises.trace.append(f"{station.agenda.now_ms} do {action}")
    promises.hear_of(action)
    with suppress(StageError):  # pulled a plug that is not in: the rest of its visit was left out
        do(station, action)
    promises.look()


def _arrange(station: SimulatedStation, promises: Promises, step: Step) -> None:
    action = step.what
    if not isinstance(action, steps.Action):
        raise TypeError(f"a plan only says what is done: {step}")

    station.agenda.at_ms(step.when.ms, lambda: take(station, promises, action))


def shrink(plan: Plan, broken: Broken, *, tell: Callable[[str], None] = lambda _text: None) -> Plan:
    """The plan with the fewest groups that still breaks this promise, then with the fewest steps in them."""

    def fails(smaller: Plan) -> bool:
        found = simulate(smaller).broken
        return found is not None and found.promise == broken.promise

    size = max(1, len(plan.groups) // 2)
    while size:
        place = 0
        while place < len(plan.groups):
            smaller = plan.without(range(place, place + size))
            if fails(smaller):
                plan = smaller
                tell(f"{len(plan.groups)} groups are left")
            else:
                place += size
        size //= 2
    for place, group in enumerate(plan.groups):
        kept = group
        for step in group:
            fewer = tuple(one for one in kept if one is not step)
            groups = (*plan.groups[:place], fewer, *plan.groups[place + 1 :])
            if fewer and fails(replace(plan, groups=groups)):
                kept = fewer
                plan = replace(plan, groups=groups)
    return plan


def as_scenario(plan: Plan, broken: Broken | None) -> Scenario:
    """The plan as a scenario file."""
    return Scenario(
        title=f"seed {plan.seed}" + (f": {broken.promise}" if broken else ""),
        topic="safety",
        about=str(broken)[:2000] if broken else "a random day",
        steps=plan.steps,
        connectors=plan.connectors,
        limit_a=plan.limit_a,
        seed=plan.seed,
    )


def as_plan(scenario: Scenario) -> Plan:
    """The plan of a scenario that `as_scenario` made: the same day again, up to its last action."""
    actions = tuple((step,) for step in scenario.steps if isinstance(step.what, steps.Action))
    last_ms = max((step.when.ms for (step,) in actions), default=0)
    story_ms = max(STORY_MS, last_ms + 1_000)
    return Plan(scenario.seed, scenario.connectors, scenario.limit_a, actions, story_ms)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A new folder, in memory where that can be had."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    folder = Path(tempfile.mkdtemp(prefix=f"{STATION_NAME}-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Let the daemon log at level "info" to the simulation alone."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.removeHandler(handler)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logging.getLogger("asyncio").setLevel(logging.NOTSET)
        root.setLevel(level)
        for handler in handlers:
            root.addHandler(handler)
