"""The shell around the core: opens the world, one inbox, one brain, many hands.

Rules of this file: it decides nothing. Events come in through `Daemon.put`; the brain takes them one at a
time; each command goes to one hand: set-points to a slot (newest wins), records to a queue (first in, first
out), announcements to the log and the uplink. The systemd watchdog is petted by the brain, after a tick.
"""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import msgspec

from edge import absence, notify, requests, ring
from edge.commands import Announce, Command, Record, SetOffer, SetPhases
from edge.config import Config
from edge.control.state import unix_ms
from edge.control.station import start, step
from edge.control.view import ConnectorView, view
from edge.errors import DeviceError, JournalError
from edge.events import Event, FaultClearRequested, Recorded, RecordFailed, StopRequested, Tick
from edge.journal import Journal
from edge.local_api import LocalApi
from edge.logs import log, recent
from edge.outside import REAL_WORLD, Outside
from edge.ports import Clock
from edge.records import Claim, ClaimState
from edge.wiring import Hands, Report, open_hands, open_uplink

if TYPE_CHECKING:
    from edge.uplink.mqtt import MqttUplink

TICK_MS = 250
"""The pace of the core: an overload is answered within one meter poll and one tick."""

_LEVELS = {"fault_raised": logging.WARNING, "session_stopped": logging.WARNING}
"""What a station at log level "warning" still says."""

WALL_EVERY_MS = 60_000
"""How often the kernel is asked whether the wall clock is disciplined; it rarely changes."""

LAST_WORDS_S = 5.0
"""What withdrawing all offers and the last records may take on the way out (TimeoutStopSec is 20 s)."""


async def run(config: Config, outside: Outside = REAL_WORLD) -> None:
    """Run the station until SIGTERM or SIGINT. Raises `JournalError` if it cannot remember."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await live(config, outside, stop)


async def live(config: Config, outside: Outside, stop: asyncio.Event) -> None:
    """Open the world and serve until `stop`."""
    clock = outside.clock
    async with AsyncExitStack() as stack:
        _make_runtime(config.paths.runtime)
        journal = Journal(
            config.paths.journal,
            station=config.site.station,
            wall=clock.wall,
            now_ms=clock.now_ms,
            worker=outside.journal_worker(),
        )
        await stack.enter_async_context(journal)
        hands = open_hands(config, outside)
        uplink = open_uplink(config, journal, outside)
        daemon = Daemon(config, clock, journal, hands, uplink)
        try:
            await daemon.serve(stop)
        except Exception as error:
            daemon.keep_last_minutes(error)
            raise


def _make_runtime(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(
            f"the runtime directory {folder} cannot be made ({error.strerror}); make it or set paths.runtime"
        ) from error


class Daemon:
    """One life of the brain and its hands."""

    def __init__(
        self, config: Config, clock: Clock, journal: Journal, hands: Hands, uplink: "MqttUplink | None"
    ) -> None:
        self._config = config
        self._clock = clock
        self._journal = journal
        self._hands = hands
        self._uplink = uplink
        self._report = None if uplink is None else Report(uplink)
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._asked: dict[int, asyncio.Future[list[Announce]]] = {}  # by id of the event: who waits for it
        self._records: asyncio.Queue[Claim] = asyncio.Queue()
        self._heartbeat = absence.Heartbeat(config.paths.runtime)
        self._ring = ring.Ring()
        self._wall_quality = self._clock.quality()

    async def serve(self, stop: asyncio.Event) -> None:
        """Live until `stop`, then withdraw every offer and flush every record."""
        await self._wake_up()
        api = LocalApi(
            self._config.paths.runtime / "edge.sock",
            self._answer,
            self._config.paths.local_group,
            lambda sentence: log("local_api_refused", level=logging.WARNING, text=sentence),
        )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._think(), name="brain"),
                group.create_task(self._tick(), name="tick"),
                group.create_task(self._remember(), name="records"),
                group.create_task(api.run(), name="local api"),
                *(group.create_task(hand.run(self.put), name=name) for name, hand in self._hands.all()),
            ]
            if self._uplink is not None:
                tasks.append(group.create_task(self._uplink.run(self.put), name="uplink"))
            notify.send("READY=1", f"STATUS=serving {len(self._config.site.outlets)} connectors")
            log("ready", text=f"serving {len(self._config.site.outlets)} connectors")
            await stop.wait()
            notify.send("STOPPING=1")
            await self._say_goodbye()
            for task in tasks:
                task.cancel()

    def put(self, event: Event) -> None:
        """Put an event into the inbox; for the loop's thread."""
        self._inbox.put_nowait(event)

    async def _wake_up(self) -> None:
        now = self._clock.now_ms()
        opened = self._journal.opened
        if opened.quarantined is not None:
            log("journal_quarantined", path=str(opened.quarantined), damage=opened.damage)
        self._station, commands = start(
            self._config.site,
            opened.life,
            await self._journal.next_seq(),
            await self._journal.open_claims(),
            now,
            self._heartbeat.absent_ms(now),
        )
        self._carry_out(commands)

    async def _think(self) -> None:
        while True:
            event = await self._inbox.get()
            before, commands = self._station, None
            try:
                self._station, commands = step(before, event)
            finally:
                self._ring.note(before, event, commands)
            self._carry_out(commands)
            asker = self._asked.pop(id(event), None)
            if asker is not None and not asker.done():
                asker.set_result([command for command in commands if isinstance(command, Announce)])
            if isinstance(event, Tick):
                self._heartbeat.beat(event.at_ms)
                notify.send("WATCHDOG=1")
                if self._report is not None:
                    self._report.show(self._station)
            self._inbox.task_done()

    def _carry_out(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            match command:
                case SetOffer(connector=number):
                    self._hands.evses[number].set_offer(command)
                case SetPhases(connector=number):
                    self._hands.evses[number].set_phases(command)
                case Record(claim=claim):
                    self._records.put_nowait(claim)
                case Announce(topic=topic, text=text, connector=connector):
                    log(topic, level=_LEVELS.get(topic, logging.INFO), text=text, connector=connector)
                    if self._uplink is not None:
                        self._uplink.announce(topic, text, connector)
                case _:
                    assert_never(command)

    async def _tick(self) -> None:
        """Tick at even distances; after a stall once, not once for each missed tick."""
        loop = asyncio.get_running_loop()
        due, judged_ms = loop.time(), self._clock.now_ms()
        while True:
            now = self._clock.now_ms()
            if now - judged_ms >= WALL_EVERY_MS:
                self._wall_quality, judged_ms = self._clock.quality(), now
            wall_ms, _ = self._clock.wall()
            self.put(Tick(now, wall_ms, self._wall_quality))
            due = max(due + TICK_MS / 1000, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _remember(self) -> None:
        """One record at a time, in order; the brain hears how each ended."""
        while True:
            claim = await self._records.get()
            try:
                await self._journal.record(claim)
            except JournalError as error:
                self.put(RecordFailed(self._clock.now_ms(), claim.id, claim.state, str(error)))
            else:
                self.put(Recorded(self._clock.now_ms(), claim.id, claim.state))
                if claim.state is ClaimState.CLOSED and self._uplink is not None:
                    self._uplink.claim_waiting()
            finally:
                self._records.task_done()

    async def _say_goodbye(self) -> None:
        """Withdraw, wait for the controllers and the disk as long as that makes sense."""
        log("stopping", text="withdrawing every offer")
        self.put(StopRequested(self._clock.now_ms()))
        await self._inbox.join()
        settled = [asyncio.create_task(hand.settled()) for hand in self._hands.evses.values()]
        flushed = asyncio.create_task(self._records.join())
        _, late = await asyncio.wait([*settled, flushed], timeout=LAST_WORDS_S)
        for task in late:
            task.cancel()
        if late:
            log(
                "stopped_late",
                text=f"{len(late)} controllers or records did not finish in {LAST_WORDS_S:g} s",
            )

    async def _answer(self, request: dict[str, object]) -> object:
        """Answer the local API; see `edge.requests`. Raises `PeerError` for what cannot be asked."""
        asked = requests.decoded(request)
        site = self._config.site
        requests.check(asked, [c.id for c in site.circuits], [outlet.number for outlet in site.outlets])
        match asked:
            case requests.AskStatus():
                station, zone = self._station, self._config.station.time_zone
                times = {"now_ms": station.now_ms, "unix_ms": unix_ms(station), "time_zone": zone}
                claims = self._journal.counts()
                return {**msgspec.to_builtins(view(station)), **times, "claims": claims}
            case requests.AskLog():
                return {"lines": recent()}
            case requests.AskRing():
                path = await ring.dump(self._ring, self._config.paths.journal.parent, self._clock.wall()[0])
                return {"path": str(path)}
            case requests.AskClearFault(connector=number):
                latched = [fault.name for fault in self._shown(number).faults if fault.latched]
                self.put(FaultClearRequested(self._clock.now_ms(), number))
                return {"cleared": latched}
            case requests.AskLimit() | requests.AskDemand() | requests.AskPhases():
                return {"text": await self._grant(asked)}
            case _:
                assert_never(asked)

    def keep_last_minutes(self, error: Exception) -> None:
        """Write the ring beside the journal if what ends the daemon is a bug of ours."""
        try:
            path = ring.dump_after(
                error, self._ring, self._config.paths.journal.parent, self._clock.wall()[0]
            )
        except ring.RingError as problem:
            log("ring_not_written", level=logging.WARNING, text=str(problem))
        else:
            if path is not None:
                log(
                    "ring_written",
                    level=logging.ERROR,
                    path=str(path),
                    text="shows a defect: `edge replay` it",
                )

    async def _grant(self, wish: requests.Wish) -> str:
        """Hand a wish to the brain; what came of it, in words. Raises `PeerError` if it refuses."""
        wall_ms, _ = self._clock.wall()
        event = requests.event_of(wish, self._clock.now_ms(), wall_ms, self._config.station.time_zone)
        announced = self._asked[id(event)] = asyncio.get_running_loop().create_future()
        self.put(event)
        return requests.outcome(wish, await announced)

    def _shown(self, number: int) -> ConnectorView:
        return next(shown for shown in view(self._station).connectors if shown.number == number)
