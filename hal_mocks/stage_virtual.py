"""A scenario's stage in memory: the production daemon on virtual time, everything within one thread.

A story is a coroutine that only awaits `sleep_ms` and `status` of its stage. Nothing but the agenda drives
it, because the daemon's event loop may die under it at any moment.
"""

import random
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

from hal_mocks.agenda import Agenda
from hal_mocks.deeds import do
from hal_mocks.forgetful_disk import seed_sqlite
from hal_mocks.in_process_station import SimulatedStation
from hal_mocks.scenario import Scenario
from hal_mocks.steps import Action

POLL_MS = 250
"""As the rig on real wires polls, so that one story holds on both."""


class _Pause:
    """Until a moment of the agenda."""

    def __init__(self, at_us: int) -> None:
        self.at_us = at_us

    def __await__(self) -> Generator["_Pause", None, None]:
        yield self


def drive(station: SimulatedStation, story: Coroutine[Any, Any, None], *, speed: float | None) -> None:
    """Let the world go on until the story has ended; what it raises comes out here.

    `speed` is how many times faster than real time; None is as fast as possible.
    """
    began_s, began_us = time.monotonic(), station.agenda.now_us

    def go_on() -> None:
        _keep_pace(station.agenda, speed, began_s, began_us)
        try:
            pause = story.send(None)
        except StopIteration:
            station.finish()
        else:
            station.agenda.at_us(pause.at_us, go_on)

    try:
        station.run(lambda: station.agenda.after_ms(0, go_on))
    finally:
        story.close()


def _keep_pace(agenda: Agenda, speed: float | None, began_s: float, began_us: int) -> None:
    if speed is not None:
        due_s = began_s + (agenda.now_us - began_us) / 1e6 / speed
        time.sleep(max(0.0, due_s - time.monotonic()))


def open_station(
    scenario: Scenario, folder: Path, lay_config: Callable[[str], str], seed: int
) -> SimulatedStation:
    """The station of a scenario, not begun."""
    seed_sqlite(random.Random(seed))
    return SimulatedStation(
        folder,
        seed=seed,
        connectors=scenario.connectors,
        limit_a=scenario.limit_a,
        poll_ms=POLL_MS,
        lay_config=lay_config,
    )


async def sleep_ms(station: SimulatedStation, ms: int) -> None:
    """Let the world go on for a while."""
    await _Pause(station.agenda.now_us + ms * 1000)


async def status(station: SimulatedStation) -> dict[str, Any] | None:
    """What the daemon answers to `status`; None while nobody answers."""
    asked = len(station.answers)
    station.ask({"ask": "status"})
    for _ in range(ANSWER_MS):
        await sleep_ms(station, 1)
        for answer in station.answers[asked:]:
            if "connectors" in answer:
                return answer
    return None


ANSWER_MS = 5
"""The socket takes no time here and the journal a commit: nobody who has not answered by then lives."""


def act(station: SimulatedStation, action: Action) -> None:
    """Do what a scenario says."""
    do(station, action)
