"""A scenario's stage in memory: the production daemon on virtual time, everything within one thread.

    outcome = run_virtual(scenario, speed=None, watch=print)

`play.play` is a coroutine that only awaits its stage. Nothing but the agenda drives it, because the daemon's
event loop may die under it at any moment.
"""

import random
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

from hal_mocks import steps
from hal_mocks.deeds import do
from hal_mocks.forgetful_disk import seed_sqlite
from hal_mocks.in_process_station import CannotLive, SimulatedStation
from hal_mocks.play import Outcome, Watch, play
from hal_mocks.scenario import Scenario
from hal_mocks.simulation import memory_folder, quiet
from hal_mocks.stage import LogLine, StageError, Till, View, log_line
from hal_mocks.steps import Action
from hal_mocks.toml_text import TomlTextError

POLL_MS = 250
"""As the rig on real wires polls, so that one story holds on both."""

CARDS_COUNT_AFTER_MS = 2_200
"""The daemon takes no card in its first 2 s; who plays scenarios waits for that, as on real wires."""

SAME_TOUCH_MS = 3_200
"""A card that comes back within 3 s is taken for the same touch; people wait, so do we."""

HOLD_MS = 1_500
"""The card is held until it is read and a little longer, and then taken away."""

LOOK_MS = 250

ANSWER_MS = 5_000
"""What `edge status` waits for an answer."""


class _Pause:
    """Until a moment of the agenda."""

    def __init__(self, at_us: int) -> None:
        self.at_us = at_us

    def __await__(self) -> Generator["_Pause", None, None]:
        yield self


class VirtualStage:
    """Implements `stage.Stage`."""

    name = "virtual time"

    def __init__(self, station: SimulatedStation) -> None:
        self._station = station
        self._till = Till()
        self._log: list[LogLine] = []
        self._lifted_ms: dict[str, int] = {}
        self._began_ms = 0
        station.hear_line = self._hear

    @property
    def now_ms(self) -> int:
        """Time since the beginning of the story."""
        return self._station.agenda.now_ms - self._began_ms

    def begin(self) -> None:
        """It is 0 ms now."""
        self._began_ms = self._station.agenda.now_ms
        self._log.clear()

    def can(self, action: Action) -> str | None:
        """Everything but a reader that the rig does not have."""
        match action:
            case steps.Swipe(reader=str(reader)) if reader != "front":
                return f'the rig has one reader, "front", and no {reader}'
            case _:
                return None

    async def act(self, action: Action) -> None:
        """Do it; a card takes its time. Raises `StageError`."""
        self._till.note(self._station.books)
        try:
            if isinstance(action, steps.Swipe):
                await self._swipe(action)
            elif isinstance(action, steps.Power | steps.DaemonFault):
                # A life ends by an exception, which may not pass through this story.
                self._station.agenda.after_ms(0, lambda: do(self._station, action))
                await self._sleep_ms(1)
            else:
                do(self._station, action)
        except (KeyError, ValueError) as error:
            raise StageError(str(error)) from error

    async def _swipe(self, swipe: steps.Swipe) -> None:
        station = self._station
        ready_ms = max(
            station.started_ms + CARDS_COUNT_AFTER_MS,
            self._lifted_ms.get(swipe.card, -SAME_TOUCH_MS) + SAME_TOUCH_MS,
        )
        await self._sleep_ms(max(0, ready_ms - station.agenda.now_ms))
        do(station, swipe)
        await self._sleep_ms(HOLD_MS)
        self._lifted_ms[swipe.card] = station.agenda.now_ms

    async def look(self) -> View:
        """Look at everything."""
        status = await self._status()
        station = self._station
        station.catch_up()
        self._till.note(station.books)
        return View(
            at_ms=self.now_ms,
            status=status,
            world=station.world,
            circuits=station.circuits,
            tally=station.books.tally,
            bills=self._till.bills,
            log=self._log,
        )

    async def until(self, condition: Callable[[View], bool], timeout_ms: int) -> bool:
        """Let time pass until the condition holds, at most so long."""
        ends_ms = self.now_ms + timeout_ms
        while not condition(await self.look()):
            left_ms = ends_ms - self.now_ms
            if left_ms <= 0:
                return False
            await self._sleep_ms(min(left_ms, LOOK_MS))
        return True

    async def _status(self) -> dict[str, Any] | None:
        """What the daemon answers to `status`; None where nobody answers."""
        station = self._station
        asked, waited_ms = len(station.answers), 0
        if not station.ask({"ask": "status"}):
            return None
        while station.alive and waited_ms < ANSWER_MS:
            pause_ms = 1 if waited_ms < 20 else 50
            await self._sleep_ms(pause_ms)
            waited_ms += pause_ms
            for answer in station.answers[asked:]:
                if "connectors" in answer:
                    return answer
        return None

    async def _sleep_ms(self, ms: int) -> None:
        if ms > 0:
            await _Pause(self._station.agenda.now_us + ms * 1000)

    def _hear(self, line: str) -> None:
        heard = log_line(line, self.now_ms)
        if heard is not None:
            self._log.append(heard)


def run_virtual(scenario: Scenario, speed: float | None, watch: Watch) -> Outcome:
    """Play a scenario as many times faster than real time; None is as fast as possible."""
    with quiet(), memory_folder() as folder:
        seed_sqlite(random.Random(scenario.seed))
        try:
            station = SimulatedStation(
                folder,
                seed=scenario.seed,
                connectors=scenario.connectors,
                limit_a=scenario.limit_a,
                poll_ms=POLL_MS,
                config=scenario.config,
            )
        except (TomlTextError, CannotLive) as error:
            return Outcome(scenario, VirtualStage.name, [str(error)])
        try:
            return _played(scenario, station, speed, watch)
        finally:
            station.end()
            seed_sqlite(None)


def _played(scenario: Scenario, station: SimulatedStation, speed: float | None, watch: Watch) -> Outcome:
    stage = VirtualStage(station)
    outcomes: list[Outcome] = []

    async def story() -> None:
        outcomes.append(await play(scenario, stage, watch))

    station.begin()
    station.pass_to(CARDS_COUNT_AFTER_MS)
    stage.begin()
    _drive(station, story(), speed)
    return outcomes[0]


def _drive(station: SimulatedStation, story: Coroutine[Any, Any, None], speed: float | None) -> None:
    """Let the world go on until the story has ended; what it raises comes out here."""
    began_s, began_us = time.monotonic(), station.agenda.now_us

    def go_on() -> None:
        if speed is not None:
            due_s = began_s + (station.agenda.now_us - began_us) / 1e6 / speed
            time.sleep(max(0.0, due_s - time.monotonic()))
        try:
            pause = story.send(None)
        except StopIteration:
            station.finish()
        else:
            station.agenda.at_us(pause.at_us, go_on)

    try:
        station.run(lambda: station.agenda.after_ms(0, go_on))
    finally:
        with suppress(RuntimeError):  # it is the one that ended the world, and still runs
            story.close()
