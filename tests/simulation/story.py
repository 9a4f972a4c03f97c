"""Short stories on a simulated station, told in the words of scenarios.

    with story() as told:
        told.tell("plug 1", "after 4s swipe alice", "after 20s evse 1 rcd", "after 10s")
        assert told.heard("fault_raised", "evse_rcd")
        told.ends_well()             # everything healed, everybody gone, the money is right

Every promise is judged all the time, as in a random day.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from hal_mocks import steps
from hal_mocks.grammar import read_time
from hal_mocks.in_process_station import SimulatedStation
from hal_mocks.promises import Promises
from hal_mocks.simulation import end_well, simulated, take

READY_MS = 1_000
"""After that long the daemon has opened everything."""


class Story:
    """A station with everything around it, from its first second."""

    def __init__(self, station: SimulatedStation, promises: Promises) -> None:
        self.station = station
        self.promises = promises
        self.messages: list[
            tuple[str, dict[str, Any]]
        ] = []  # all the broker took in: topic below the station
        judge = station.broker.observer

        def hear(topic: str, payload: bytes) -> None:
            self.messages.append((topic.split("/", 3)[-1], json.loads(payload)))
            judge(topic, payload)

        station.broker.observer = hear
        station.begin()
        station.pass_to(READY_MS)

    def tell(self, *lines: str) -> None:
        """Let these things happen one after the other; "after 5s" alone only lets time pass."""
        for line in lines:
            ms = read_time(line.removeprefix("after ")) if line.startswith("after ") else None
            step = steps.read_step(line) if ms is None else None
            wait_ms = ms if step is None else step.when.ms
            due_ms = self.station.agenda.now_ms + (wait_ms or 0)
            if step is not None and isinstance(step.what, steps.Action):
                self._arrange(due_ms, step.what)
            self.station.pass_to(due_ms)

    def _arrange(self, due_ms: int, action: steps.Action) -> None:
        self.station.agenda.at_ms(due_ms, lambda: take(self.station, self.promises, action))

    def ends_well(self) -> None:
        """Heal everything, let everybody leave and the claims settle; every promise holds."""
        end_well(self.station, self.promises)

    def heard(self, topic: str, *texts: str) -> bool:
        """Whether the daemon logged that, with all of this in the line."""
        lines = (line for line in self.promises.trace if f" topic={topic} " in line)
        return any(all(text in line for text in texts) for line in lines)

    @property
    def claims(self) -> list[dict[str, Any]]:
        """All claims on the disk of the living daemon, the oldest first."""
        journal = self.station.journal
        if journal is None:
            return []
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as reader:
            return [json.loads(row[0]) for row in reader.execute("SELECT body FROM claim ORDER BY seq")]

    @property
    def flowed_wh(self) -> float:
        """What really went through the meter of connector 1."""
        return sum(self.station.world.meters["connector-1"].flow_nj) / 3.6e12


@contextmanager
def story(*, seed: int = 1, connectors: int = 1) -> Iterator[Story]:
    """Tell a story; nothing is left of it afterwards."""
    with simulated(seed, connectors=connectors) as (station, promises):
        yield Story(station, promises)
