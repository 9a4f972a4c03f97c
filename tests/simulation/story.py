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
from hal_mocks.books import Ack
from hal_mocks.grammar import read_time
from hal_mocks.in_process_station import SimulatedStation
from hal_mocks.memory_broker import Message, _Line
from hal_mocks.memory_serial import MemoryLine
from hal_mocks.modbus_rtu import _Answer, crc16
from hal_mocks.promises import Promises
from hal_mocks.simulation import end_well, simulated, take

READY_MS = 1_000
"""After that long the daemon has opened everything."""


class Tap:
    """Listens to a serial line in memory: what the devices were asked and what came out of their answers."""

    def __init__(self, line: MemoryLine) -> None:
        self.asked = 0  # questions that arrived whole
        self.refusals = 0  # answers that were Modbus exceptions
        self.broken = 0  # deliveries that are no whole, sound message: garbled, lost in part, or a piece
        self.longest_ms = 0  # from a question that arrived to what came next out of the line
        self._since_ms: int | None = None
        answer, deliver, agenda = line.line.answer, line._deliver, line._agenda

        def answered(unit: int, pdu: bytes, at_ms: int) -> _Answer | None:
            self.asked += 1
            self._since_ms = agenda.now_ms
            said = answer(unit, pdu, at_ms)
            self.refusals += said is not None and said.pdu[0] >= 0x80
            return said

        def delivered(data: bytes) -> None:
            self.broken += len(data) < 5 or crc16(data[:-2]) != data[-2:]
            if self._since_ms is not None:
                self.longest_ms = max(self.longest_ms, agenda.now_ms - self._since_ms)
                self._since_ms = None
            deliver(data)

        line.line.answer = answered  # type: ignore[method-assign]  # a tap, as on a real line
        line._deliver = delivered  # type: ignore[method-assign]  # as above


class Story:
    """A station with everything around it, from its first second."""

    def __init__(self, station: SimulatedStation, promises: Promises) -> None:
        self.station = station
        self.promises = promises
        self.messages: list[
            tuple[str, dict[str, Any]]
        ] = []  # all the broker took in: topic below the station
        self.said: list[bytes] = []  # ... of the station, as it came
        judge = station.broker.observer

        def hear(topic: str, payload: bytes) -> None:
            self.messages.append((topic.split("/", 3)[-1], json.loads(payload)))
            if not topic.endswith("/ack"):
                self.said.append(payload)
            judge(topic, payload)

        station.broker.observer = hear
        self.taken: list[tuple[str, bytes]] = []  # all the backend took in, copies and all
        self.wires = {name: Tap(line) for name, line in station.lines.items()}
        self.promised = 0  # messages of the station that reached the broker
        self._tap_broker()
        self._tap_books()
        station.begin()
        station.pass_to(READY_MS)

    def _tap_broker(self) -> None:
        publish = self.station.broker.publish

        def published(line: _Line, message: Message) -> None:
            self.promised += not message.topic.endswith("/ack")
            publish(line, message)

        self.station.broker.publish = published  # type: ignore[method-assign]  # a tap, as on a real line

    def _tap_books(self) -> None:
        take_in = self.station.books.take

        def take(station: str, topic: str, payload: bytes, now_ms: int) -> list[Ack]:
            self.taken.append((topic, payload))
            return take_in(station, topic, payload, now_ms)

        self.station.books.take = take  # type: ignore[method-assign]  # a tap, as on a real line

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

    def fault(self, name: str) -> bool:
        """Whether the daemon raised that fault."""
        return self.heard("fault_raised", f'"{name}: ')

    def shown(self, number: int = 1) -> dict[str, Any]:
        """What the daemon shows of a connector now; takes 100 ms."""
        self.station.answers.clear()
        self.station.ask_later({"ask": "status"})
        self.tell("after 100ms")
        rows: list[dict[str, Any]] = self.station.answers[0]["connectors"]
        return rows[number - 1]

    @property
    def acks(self) -> list[dict[str, Any]]:
        """What the backend said about claims, as the broker took it in."""
        return [body for topic, body in self.messages if topic == "ack"]

    @property
    def flowed_wh(self) -> float:
        """What really went through the meter of connector 1."""
        return sum(self.station.world.meters["connector-1"].flow_nj) / 3.6e12


@contextmanager
def story(*, seed: int = 1, connectors: int = 1) -> Iterator[Story]:
    """Tell a story; nothing is left of it afterwards."""
    with simulated(seed, connectors=connectors) as (station, promises):
        yield Story(station, promises)
