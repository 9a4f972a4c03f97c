"""The production daemon in a simulated world: its lives, its power, its disk and its clocks.

    station = SimulatedStation(Path("/dev/shm/x"), seed=1, connectors=4)
    station.begin()
    station.world.plug(1, Vehicle()); station.swipe("04A1A2A3A4A5A6")
    station.pass_to(60_000)
    station.kill(); station.cut_power(for_ms=20_000)
    station.end()

The daemon is `edge.daemon.live` with its own configuration, Modbus, journal and uplink code; only what
`edge.outside` names is simulated. A life ends by an exception that leaves its event loop where it stood,
between two callbacks; what is left of it is tidied up where nobody sees it. Like systemd, the station starts
a dead daemon again after 2 s, and runs `safe-off` before.
"""

import asyncio
import json
import logging
import random
import shutil
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edge import daemon, wiring
from edge.config import Config
from edge.errors import ConfigError, EdgeError, JournalError, PeerError
from edge.events import CardSeen, CardUnreadable, DeviceFound, DeviceLost
from edge.logs import LineFormatter
from edge.outside import Outside
from edge.ports import Put, SerialLink
from edge.records import ClockQuality
from edge.rfid import pcsc
from edge.rfid.apdu import credential, parse_atr
from hal_mocks import pad as pads
from hal_mocks import toml_text
from hal_mocks.agenda import Agenda
from hal_mocks.books import Books
from hal_mocks.forgetful_disk import Disk
from hal_mocks.in_process_link import link_maker
from hal_mocks.memory_backend import MemoryBackend
from hal_mocks.memory_broker import MemoryBroker
from hal_mocks.memory_serial import SCHEME, MemoryLine, close_lines, open_lines
from hal_mocks.modbus_rtu import Device
from hal_mocks.pad import Pad
from hal_mocks.rig_site import Wiring, config_text, world
from hal_mocks.stage import Site, circuits_of, world_of
from hal_mocks.virtual_time import VirtualTimeLoop
from hal_mocks.world import World

FIRST_UNIX_MS = 1_790_000_000_000
"""A day in September 2026, when every world begins."""

RESTART_MS = 2_000
"""RestartSec of systemd/edge.service."""

COMMIT_MS = 4
"""One commit on a disk that syncs, measured on a virtual machine; SD cards take 5 to 50 ms."""

_CARD = parse_atr(bytes.fromhex("3B8F8001804F0CA000000306030001000000006A"))
"""What a MIFARE Classic 1K answers to reset (PC/SC part 3, supplement 1)."""


class LifeEnded(BaseException):
    """Leaves the loop of a daemon that was killed; nobody may catch it on the way."""


class CannotLive(ValueError):  # as `Crashed`: it says what is so
    """The daemon refuses the configuration of this world."""


class _Finished(BaseException):
    """The time that was asked for has passed."""


class SimulatedClock:
    """`ports.Clock` of this world: monotonic time is the agenda's, wall time can be wrong."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self.ahead_ms = 0
        self.set = True

    def now_ms(self) -> int:
        """Monotonic ms."""
        return self._agenda.now_us // 1000

    def wall(self) -> tuple[int, ClockQuality]:
        """Unix ms and what it is worth; a clock that was never set counts from 1970."""
        base_ms = FIRST_UNIX_MS if self.set else 0
        return base_ms + self.ahead_ms + self._agenda.now_ms, self.quality()

    def quality(self) -> ClockQuality:
        """What it is worth."""
        return ClockQuality.SYNCED if self.set else ClockQuality.UNSYNCED


class DiskWorker:
    """`journal.Worker` on the agenda: every call takes as long as the disk does."""

    def __init__(self, loop: VirtualTimeLoop, slow_ms: Callable[[], int], served: Callable[[], None]) -> None:
        self._loop = loop
        self._slow_ms = slow_ms
        self._served = served
        self._calls: deque[Callable[[], None] | None] = deque()
        self._busy = False
        self._alive = False

    def start(self) -> None:
        """Begin to serve."""
        self._alive = True

    def put(self, call: Callable[[], None] | None) -> None:
        """Serve this call after those before it."""
        self._calls.append(call)
        if not self._busy:
            self._next()

    def is_alive(self) -> bool:
        """Whether it serves."""
        return self._alive

    def join(self, timeout: float) -> None:
        """Nothing to wait for: whoever asks was told of the end."""

    def _next(self) -> None:
        self._busy = bool(self._calls) and self._alive
        if self._busy:
            self._loop.agenda.after_ms(self._slow_ms(), self._serve)

    def _serve(self) -> None:
        call = self._calls.popleft()
        if call is None:
            self._alive = False
        else:
            call()
            self._served()
        self._next()


class PadReader:
    """`ports.Reader` on a pad; picks the news out with the rules of the real reader."""

    def __init__(self, reader_id: str, pad: Pad, agenda: Agenda) -> None:
        self._id = reader_id
        self._pad = pad
        self._agenda = agenda

    async def run(self, put: Put) -> None:
        """Report until cancelled."""
        touches = pcsc.Touches()

        def hear(sight: pads.Sight) -> None:
            event = touches.report(self._meaning(sight))
            if event is not None:
                put(event)

        self._pad.watch(hear)
        await asyncio.get_running_loop().create_future()

    def _meaning(self, sight: pads.Sight) -> pcsc.Sight:
        at_ms, device = self._agenda.now_ms, f"reader/{self._id}"
        match sight:
            case pads.Found():
                return DeviceFound(at_ms, device)
            case pads.Gone(reason):
                return DeviceLost(at_ms, device, reason)
            case pads.Card(uid):
                try:
                    return CardSeen(at_ms, self._id, credential(uid, _CARD))
                except PeerError as error:
                    return CardUnreadable(at_ms, self._id, str(error))
            case pads.Unreadable(reason):
                return CardUnreadable(at_ms, self._id, reason)
            case pads.Lifted():
                return pcsc.Lifted(at_ms)


class _Life:
    """One process of the daemon."""

    def __init__(self, loop: VirtualTimeLoop, disk: Disk, config: Config) -> None:
        self.loop = loop
        self.disk = disk
        self.config = config
        self.stop: asyncio.Event | None = None
        self.task: asyncio.Task[None] | None = None
        self.asking: set[asyncio.Task[None]] = set()


class SimulatedStation:
    """A site with everything around it; public parts are its peers, with their faults."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        connectors: int = 2,
        limit_a: int = 32,
        poll_ms: int = 250,
        config: str = "",
    ) -> None:
        """`config` is TOML laid over the configuration of the rig. Raises `CannotLive` if it cannot be."""
        self.agenda = Agenda()
        self.dice = random.Random(seed)
        base = world(connectors, limit_a * 1000)
        around = Wiring(str(folder), "/dev/meters", "/dev/evse", "broker", 1883, "Virtual PCD")
        text = toml_text.merged(config_text(base, around, poll_ms=poll_ms), config)
        self.circuits = circuits_of(toml_text.loads(text))  # id in the configuration -> id in the world
        self.world: World = world_of(base, toml_text.loads(text)) if config else base
        self.clock = SimulatedClock(self.agenda)
        boards: list[Device] = list(self.world.evses.values())
        meters: list[Device] = list(self.world.meters.values())
        self.lines = {
            "meters": MemoryLine(self.agenda, self.catch_up, self._looked, meters),
            "evse": MemoryLine(self.agenda, self.catch_up, self._looked, boards),
        }
        self.site = Site(self.world, self.lines, self.circuits)
        self.broker = MemoryBroker(self.agenda, random.Random(self.dice.random()))
        self.books = Books()
        self.backend = MemoryBackend(self.agenda, self.broker, self.books)
        self.pad = Pad(self.agenda, random.Random(self.dice.random()))
        self.disk_slow_ms = COMMIT_MS
        self.deaths: list[tuple[int, str]] = []  # when the daemon died, and of what
        self.lives = 0
        self.started_ms = 0  # when the present life began
        self.journal_changes = 0  # calls the disk of the journal has served
        self.hear_line: Callable[[str], None] = lambda _line: None  # every log line of the daemon
        self.look: Callable[[], None] = lambda: None  # called after whatever may have changed the site
        self.answers: list[dict[str, Any]] = []  # of the daemon to what was asked
        self._folder = folder
        self._life: _Life | None = None
        self._powered = True
        self._stopped = False  # on purpose: nobody starts it again
        self._kept: Path | None = None  # what the next life finds
        self._copy: Path | None = None
        self._restores = False  # the next life finds the copy
        self._disk_full = self._disk_failing = False
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "edge.toml").write_text(text)
        try:
            self._config = _on_virtual_lines(wiring.load_config(folder / "edge.toml"))
        except ConfigError as error:
            raise CannotLive("\n".join(error.problems)) from error

    def _looked(self) -> None:
        self.look()

    # -- time ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Switch everything on."""
        self.broker.start()
        self.backend.start()
        self.start()

    def pass_to(self, at_ms: int) -> None:
        """Let the world go on until then."""
        self.run(lambda: self.agenda.at_ms(at_ms, self.finish))

    def run(self, arrange: Callable[[], object]) -> None:
        """Arrange something that calls `finish` one day, and let the world go on until then."""
        arrange()
        try:
            while True:
                if self._life is None:
                    self.agenda.run_next()
                else:
                    self._live(self._life)
        except _Finished:
            self.catch_up()

    @staticmethod
    def finish() -> None:
        """End `run`; to be called by what it arranged."""
        raise _Finished

    def end(self) -> None:
        """Bury the daemon and remove every file."""
        life, self._life = self._life, None
        if life is not None:
            self._bury(life)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _live(self, life: _Life) -> None:
        """Let the daemon run until it ends; `_Finished` only pauses it."""
        if life.task is None:
            life.task = life.loop.create_task(self._main(life))
        handler = _Lines(self.hear_line)
        logging.getLogger().addHandler(handler)
        try:
            life.loop.run_until_complete(life.task)
            self._died(life, "ended")
        except LifeEnded as how:
            self._died(life, str(how))
        except JournalError as error:
            self._died(life, f"journal: {error}")
        except EdgeError as error:
            self._died(life, f"refused: {error}")
        except BaseExceptionGroup as group:
            known, bugs = group.split(EdgeError)
            if bugs is not None:
                raise
            self._died(life, f"gave up: {known}")
        finally:
            logging.getLogger().removeHandler(handler)

    async def _main(self, life: _Life) -> None:
        life.stop = asyncio.Event()
        outside = Outside(
            clock=self.clock,
            readers={r.id: PadReader(r.id, self.pad, self.agenda) for r in life.config.readers},
            journal_worker=lambda: DiskWorker(life.loop, lambda: self.disk_slow_ms, self._disk_served),
            connect=link_maker(self.broker, self.agenda),
            uniform=random.Random(self.dice.random()).uniform,
        )
        await daemon.live(life.config, outside, life.stop)

    # -- life and death ------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether a daemon runs."""
        return self._life is not None

    def start(self) -> None:
        """Start the daemon, unless it runs or has no power."""
        self._stopped = False
        if self._life is None and self._powered:
            self.lives += 1
            self.started_ms = self.agenda.now_ms
            folder = self._folder / f"life-{self.lives}"
            if self._restores and self._copy is not None and self._kept is not None:
                shutil.rmtree(self._kept)
                shutil.copytree(self._copy, self._kept)
                self._restores = False
            if self._kept is None:
                folder.mkdir()
            else:
                self._kept.rename(folder)
                self._kept = None
            disk = Disk(folder)
            disk.full, disk.failing = self._disk_full, self._disk_failing
            loop = VirtualTimeLoop(self.agenda)
            open_lines(loop, self.lines)
            paths = replace(
                self._config.paths, journal=folder / "journal.sqlite", runtime=self._folder / "run"
            )
            self._life = _Life(loop, disk, replace(self._config, paths=paths))

    def stop(self, *, for_ms: int | None = None) -> None:
        """SIGTERM; it stays down until `start`, which comes by itself after the time that is given."""
        self._stopped = True
        if for_ms is not None:
            self.agenda.after_ms(for_ms, self.start)
        if self._life is not None and self._life.stop is not None:
            self._life.stop.set()

    def kill(self, *, for_ms: int = RESTART_MS) -> None:
        """SIGKILL, at this very moment; systemd starts it again."""
        if self._life is not None:
            self._end_life("killed", power_cut=False, again_ms=for_ms)

    def kill_in_write(self, count: int) -> None:
        """SIGKILL in the middle of that write to the disk of the journal, counted from now."""
        if self._life is not None:
            self._life.disk.stop_after(writes=count)

    def cut_power(self, *, for_ms: int | None = None) -> None:
        """The whole station goes dark: daemon, meters and controllers; the cars lose their current."""
        if not self._powered:
            return
        self._powered = False
        self._set_supply(on=False)
        if for_ms is not None:
            self.agenda.after_ms(for_ms, self.restore_power)
        if self._life is not None:
            self._end_life("power cut", power_cut=True, again_ms=None)

    def restore_power(self) -> None:
        """Supply comes back, and the daemon with it."""
        if not self._powered:
            self._powered = True
            self._set_supply(on=True)
            self.agenda.after_ms(RESTART_MS, self._start_unless_stopped)

    def _set_supply(self, *, on: bool) -> None:
        self.catch_up()
        for board in self.world.evses.values():
            board.powered = on
        for meter in self.world.meters.values():
            meter.powered = on
        self.catch_up()

    def _end_life(self, how: str, *, power_cut: bool, again_ms: int | None) -> None:
        self._how_it_ended = (power_cut, again_ms)
        raise LifeEnded(how)

    def _disk_served(self) -> None:
        self.journal_changes += 1
        if self._life is not None and self._life.disk.stopped:
            self._end_life("killed in a write", power_cut=True, again_ms=RESTART_MS)

    def _died(self, life: _Life, how: str) -> None:
        power_cut, again_ms = self._how_it_ended if how in _BY_FORCE else (False, RESTART_MS)
        self.deaths.append((self.agenda.now_ms, how))
        self._life = None
        self._kept = self._folder / f"left-by-{self.lives}"
        life.disk.stop()
        life.disk.survivors(self._kept, power_cut=power_cut, dice=random.Random(self.dice.random()))
        client = life.config.uplink.client_id if life.config.uplink is not None else ""
        if power_cut and not self._powered:
            self.broker.vanish(client)
        else:
            self.broker.cut(client)
        for line in self.lines.values():
            line.hang_up()
        self._bury(life)
        finished = False
        if not self._powered:
            shutil.rmtree(self._folder / "run", ignore_errors=True)  # it is in memory
        else:
            finished = self._run_safe_off()
        if again_ms is not None and not self._stopped:
            self.agenda.after_ms(again_ms, self._start_unless_stopped)
        if finished:
            raise _Finished

    def _start_unless_stopped(self) -> None:
        if not self._stopped:
            self.start()

    def _bury(self, life: _Life) -> None:
        """Let what is left of a dead process end, in a world of its own where it reaches nothing."""
        grave = Agenda()
        grave.now_us = self.agenda.now_us
        life.loop.agenda = grave
        close_lines(life.loop)
        self.pad.watch(None)
        life.loop.set_exception_handler(lambda _loop, _context: None)  # nobody waits for the dead
        logging.disable(logging.CRITICAL)
        try:
            tasks = asyncio.all_tasks(life.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                life.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            life.loop.run_until_complete(life.loop.shutdown_asyncgens())
        finally:
            logging.disable(logging.NOTSET)
        life.loop.close()
        life.disk.close()

    def _run_safe_off(self) -> bool:
        """ExecStopPost of the service: tell every controller 0 A, in a process of its own.

        True: the time that was asked for passed meanwhile; the end of a life is not left half done for that.
        """
        loop = VirtualTimeLoop(self.agenda)
        open_lines(loop, self.lines)
        task = loop.create_task(wiring.safe_off(self._config, self.clock))
        finished = False
        try:
            while not task.done():
                try:
                    loop.run_until_complete(task)
                except _Finished:
                    finished = True
            return finished
        finally:
            close_lines(loop)
            for line in self.lines.values():
                line.hang_up()
            loop.close()

    @property
    def folder(self) -> str:
        """Where its files are; another one in every run, so it belongs in no trace."""
        return str(self._folder)

    @property
    def socket(self) -> Path:
        """The daemon's local API."""
        return self._folder / "run" / "edge.sock"

    @property
    def journal(self) -> Path | None:
        """Where the journal of the living daemon is."""
        return None if self._life is None else self._life.config.paths.journal

    # -- people and things ---------------------------------------------------------------------------

    def swipe(self, uid: str, *, for_ms: int = 1_000) -> None:
        """Hold a card to the reader."""
        self.pad.hold(uid, for_ms=for_ms)

    def ask(self, request: dict[str, object]) -> bool:
        """Ask the daemon on its local socket; what it says comes to `answers`. False if none runs."""
        if self._life is None:
            return False
        task = self._life.loop.create_task(self._ask(self.socket, request))
        self._life.asking.add(task)  # a loop keeps no task alive by itself
        task.add_done_callback(self._life.asking.discard)
        return True

    def ask_later(self, request: dict[str, object]) -> None:
        """Ask as soon as the world goes on."""
        self.agenda.after_ms(0, lambda: self.ask(request))

    async def _ask(self, socket: Path, request: dict[str, object]) -> None:
        with suppress(OSError, ValueError):  # it was just about to end
            reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 20)
            writer.write(json.dumps(request).encode() + b"\n")
            self.answers.append(json.loads(await reader.readline()))
            writer.close()
            await writer.wait_closed()

    def set_disk(self, *, full: bool = False, failing: bool = False, slow_ms: int = COMMIT_MS) -> None:
        """Let the disk of the journal be like that from now on."""
        self._disk_full, self._disk_failing, self.disk_slow_ms = full, failing, slow_ms
        if self._life is not None:
            self._life.disk.full, self._life.disk.failing = full, failing

    def remember_disk(self) -> None:
        """Keep a copy of the disk as it is, as somebody makes an image."""
        if self._life is not None:
            self._copy = self._folder / "copy"
            shutil.rmtree(self._copy, ignore_errors=True)
            self._life.disk.survivors(self._copy, power_cut=False, dice=random.Random(0))

    def restore_disk(self) -> None:
        """Let the next life find the copy, whatever this one still writes."""
        self._restores = self._copy is not None

    def catch_up(self) -> None:
        """Bring the copper to the present."""
        self.world.advance(self.agenda.now_ms)


_BY_FORCE = ("killed", "killed in a write", "power cut")


def _on_virtual_lines(config: Config) -> Config:
    """The serial lines of this configuration in memory; a configuration file can only name devices."""
    return replace(
        config,
        buses=tuple(
            replace(bus, link=replace(bus.link, port=f"{SCHEME}{bus.id}"))
            if isinstance(bus.link, SerialLink)
            else bus
            for bus in config.buses
        ),
    )


class _Lines(logging.Handler):
    """Gives every log line of the daemon, rendered as production does, to a listener."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        super().__init__()
        self.setFormatter(LineFormatter())
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(self.format(record))
