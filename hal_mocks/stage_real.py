"""The stage of real wires: the rig with its ptys, pcscd and mosquitto, and the daemon as a process.

    async with real_stage(scenario, folder) as stage:
        outcome = await play(scenario, stage)

It cannot cut power, bend clocks or spoil disks: it says so, and the scenario is not played.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from hal_mocks import steps, toml_text
from hal_mocks.broker import BrokerFailed
from hal_mocks.card import VirtualCard
from hal_mocks.pcscd import READER_NAME
from hal_mocks.play import Outcome, Watch, play
from hal_mocks.rig import CARDS, DaemonFailed, Rig
from hal_mocks.rig_site import Wiring, config_text
from hal_mocks.scenario import Scenario
from hal_mocks.stage import (
    LogLine,
    Site,
    StageError,
    Till,
    View,
    circuits_of,
    do_on_site,
    log_line,
    manners_of,
    request_of,
    world_of,
)
from hal_mocks.steps import Action
from hal_mocks.toml_text import TomlTextError

LOOK_S = 0.1
"""Between two looks at the daemon: each is a question on its socket, and it ticks every 250 ms."""

RESTART_MS = 2_000
"""RestartSec of systemd/edge.service."""

HOLD_S = 0.3
"""How long a card stays after it was read."""

READ_S = 12.0
"""How long a person holds a card to a reader that does not react: the rig waits 5 s at most until cards count
and until the same card is another touch, and pcscd looks every 0.4 s."""

GET_UID = b"\xff\xca"
NO_UID = bytes.fromhex("6A81")
"""GET DATA is not supported: a card that shows itself and has no number (PC/SC part 3, 3.2.2.1.3)."""

_NO_BROKER_FAULT = "mosquitto cannot be told to do that; play this on virtual time (without --real)"
_VIRTUAL_ONLY = "real wires have no such fault; play this on virtual time (without --real)"


class ScenarioRig(Rig):
    """A rig with the site and the configuration of a scenario."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        """Raises `TomlTextError` when the scenario's configuration does not fit over the rig's."""
        super().__init__(folder, connectors=scenario.connectors, limit_ma=scenario.limit_a * 1000)
        self._base = self.world
        self._over = scenario.config
        self.settings = toml_text.loads(self._laid_over("127.0.0.1", 1))  # the port is not known yet
        self.world = world_of(self._base, self.settings)

    def _config_text(self) -> str:
        return self._laid_over(self.broker.host, self.broker.port)

    def _laid_over(self, host: str, port: int) -> str:
        meters, evse = self.folder / "ttyMeters", self.folder / "ttyEvse"
        wiring = Wiring(str(self.folder), str(meters), str(evse), host, port, READER_NAME)
        return toml_text.merged(config_text(self._base, wiring), self._over)

    async def hold(self, card: VirtualCard, uid: bytes) -> None:
        """Hold a card with a flaw to the reader for as long as a person would."""
        await self._until_cards_count()
        card.insert()
        try:
            async with asyncio.timeout(READ_S):
                while card.inserted and not any(one.startswith(GET_UID) for one in card.apdus):  # noqa: ASYNC110 - a thread
                    await asyncio.sleep(0.05)
            await asyncio.sleep(HOLD_S)
        finally:
            card.remove()
            self._lifted_s[uid] = time.monotonic()


class RealStage:
    """Implements `stage.Stage`; made by `real_stage`."""

    name = "real wires"

    def __init__(self, rig: ScenarioRig) -> None:
        self.rig = rig
        self._site = Site(
            rig.world, {"meters": rig.meters_line, "evse": rig.evse_line}, circuits_of(rig.settings)
        )
        self._till = Till()
        self._log: list[LogLine] = []
        self._log_bytes = 0
        self._flaw: str | None = None  # of the next card
        self._starting: set[asyncio.Task[None]] = set()
        self._began_s = asyncio.get_running_loop().time()

    @property
    def now_ms(self) -> int:
        """Time since the beginning."""
        return int((asyncio.get_running_loop().time() - self._began_s) * 1000)

    def can(self, action: Action) -> str | None:  # noqa: PLR0911 - one for each reason
        """Why real wires cannot do this; None if they can."""
        match action:
            case steps.Power() | steps.Clock() | steps.Disk():
                return _VIRTUAL_ONLY
            case steps.DaemonFault(write=int()):
                return _VIRTUAL_ONLY
            case steps.BrokerFault(fault=fault) if fault not in ("killed", "stopped", "started", "well"):
                return _NO_BROKER_FAULT
            case steps.ReaderFault() | steps.PcscdFault() | steps.NextCard():
                pcscd = self.rig.pcscd
                if pcscd is None or not pcscd.restartable:
                    return f"there is no pcscd of its own: {self.rig.why_no_pcscd or 'another one runs'}"
                return None
            case steps.Swipe(reader=str(reader)) if reader != "front":
                return f'the rig has one reader, "front", and no {reader}'
            case _:
                return None

    async def look(self) -> View:
        """Look at everything."""
        status = await self.rig.status()
        self._read_log()
        backend = self.rig.backend
        self._till.note(backend.books)
        return View(
            at_ms=self.now_ms,
            status=status,
            world=self.rig.world,
            circuits=self._site.circuits,
            tally=dict(backend.tally),
            bills=self._till.bills,
            log=self._log,
        )

    async def until(self, condition: Callable[[View], bool], timeout_ms: int) -> bool:
        """Let time pass until the condition holds."""
        end_ms = self.now_ms + timeout_ms
        while True:
            last = self.now_ms >= end_ms
            if condition(await self.look()):
                return True
            if last:
                return False
            await asyncio.sleep(min(LOOK_S, max(0, end_ms - self.now_ms) / 1000))

    async def act(self, action: Action) -> None:
        """Do it now. Raises `StageError`."""
        try:
            if not do_on_site(self._site, action):
                await self._act(action)
        except (OSError, RuntimeError, ValueError, BrokerFailed, DaemonFailed) as error:
            raise StageError(f"it did not work: {error}") from error

    async def _act(self, action: Action) -> None:
        rig = self.rig
        request = request_of(action)
        if request is not None:
            answer = await rig.ask(request)
            if answer is None or "error" in answer:
                raise StageError("the daemon does not answer" if answer is None else str(answer["error"]))
            return
        match action:
            case steps.Swipe(card=card):
                await self._swipe(card)
            case steps.NextCard(flaw=flaw):
                self._flaw = flaw
            # pcscd is started by this thread, as the kernel kills it when the thread ends that started it.
            case steps.ReaderFault(does=does) if rig.pcscd is not None:
                rig.pcscd.start(plugged=does == "plugged")
            case steps.PcscdFault(does=does) if rig.pcscd is not None:
                rig.pcscd.kill() if does == "killed" else rig.pcscd.start()
            case steps.BrokerFault(fault=fault):
                self._broker(fault)
            case steps.BackendFault():
                manners = manners_of(action)
                if manners is None:
                    self._till.note(rig.backend.books)
                    rig.backend.restart(forgetting=True)
                else:
                    rig.backend.manners = manners
            case steps.DaemonFault(does=does, for_ms=for_ms):
                await self._daemon(does, for_ms)
            case _:
                raise StageError(f"real wires cannot do this: {action}")

    async def _swipe(self, name: str) -> None:
        """Hold a card to the reader; where no reader works, nothing happens, as for a person."""
        flaw, self._flaw = self._flaw, None
        number = CARDS.get(name, name)
        with suppress(TimeoutError, OSError):
            if flaw is None or self.rig.pcscd is None:
                async with asyncio.timeout(READ_S):
                    await self.rig.swipe(number, hold_s=HOLD_S)
                return
            card = VirtualCard(None if flaw == "random" else bytes.fromhex(number), port=self.rig.pcscd.port)
            if flaw == "torn":
                card.tear_after_apdus = 1
            elif flaw == "unreadable":
                card.status_word = NO_UID
            await self.rig.hold(card, bytes.fromhex(number))

    def _broker(self, fault: str) -> None:
        broker = self.rig.broker
        match fault:
            case "killed":
                broker.kill()
            case "stopped":
                broker.stop()
            case _:
                if not broker.running:
                    broker.start()

    async def _daemon(self, does: str, for_ms: int | None) -> None:
        rig = self.rig
        match does:
            case "started":
                if rig.daemon is None:
                    await rig.start_daemon()
                return
            case "killed":
                await rig.kill_daemon()
                await self._safe_off()
                for_ms = RESTART_MS if for_ms is None else for_ms
            case _:
                await rig.stop_daemon()
        if for_ms is not None:
            task = asyncio.create_task(self._start_again(for_ms))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start_again(self, after_ms: int) -> None:
        await asyncio.sleep(after_ms / 1000)
        if self.rig.daemon is None:
            await self.rig.start_daemon()

    async def _safe_off(self) -> None:
        """What systemd runs after each end of the daemon (ExecStopPost)."""
        words = [sys.executable, "-m", "edge", "safe-off", "--config", str(self.rig.config)]
        with self.rig.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(*words, stdout=log, stderr=log)
            await process.wait()

    def _read_log(self) -> None:
        if not self.rig.log.exists():
            return
        with self.rig.log.open("rb") as log:
            log.seek(self._log_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # it is still being written
                self._log_bytes += len(line)
                found = log_line(line.decode(errors="replace"), self.now_ms)
                if found is not None:
                    self._log.append(found)

    async def end(self) -> None:
        """Start nothing any more."""
        for task in list(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)


@asynccontextmanager
async def real_stage(scenario: Scenario, folder: Path) -> AsyncIterator[RealStage]:
    """A rig with the daemon ready. Raises what `Rig` and its daemon raise, and `TomlTextError`."""
    async with ScenarioRig(folder, scenario) as rig:
        await rig.start_daemon()
        stage = RealStage(rig)
        try:
            yield stage
        finally:
            await stage.end()


async def run_real(scenario: Scenario, folder: Path, watch: Watch) -> Outcome:
    """Play it on real wires; what keeps the rig from being built is a refusal."""
    try:
        async with real_stage(scenario, folder) as stage:
            return await play(scenario, stage, watch)
    except (OSError, RuntimeError, BrokerFailed, DaemonFailed, TomlTextError) as error:
        return Outcome(scenario, RealStage.name, refusals=[str(error)])
