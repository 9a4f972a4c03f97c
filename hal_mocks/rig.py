"""A simulated site: cars, meters, EVSE controllers, card reader, broker and backend, each on its real wire.

    async with Rig(folder, connectors=2) as rig:
        print(rig.places())                 # what is where
        await rig.start_daemon()            # the production daemon on rig.config; or run your own
        rig.world.plug(1, Vehicle(max_ma=16_000))
        await rig.swipe("alice")
        status = await rig.status()

Faults are on the parts: `rig.meters_line.unplug()`, `rig.world.meters["connector-1"].faults`,
`rig.broker.kill()`, `rig.pcscd.kill()`, `rig.backend.manners`. Where pcscd cannot run, the daemon is started
in one process with a card reader in memory (`hal_mocks.in_process`); `rig.why_no_pcscd` then says why.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

from hal_mocks import broker as mosquitto
from hal_mocks.backend import Backend
from hal_mocks.broker import DIES_WITH_US, Broker
from hal_mocks.card import VirtualCard
from hal_mocks.pcscd import READER_NAME, Pcscd
from hal_mocks.rig_site import CARDS, STATION, Wiring, config_text, world
from hal_mocks.wires import run_world, serial_line

__all__ = ["CARDS", "CARDS_COUNT_AFTER_MS", "STATION", "DaemonFailed", "Rig", "first_of"]

READY_S = 20.0
"""What a loaded small board may take to start the daemon; a PC takes less than a second."""

CARD_S = 20.0
"""How long a card is held in the field at most; pcscd looks every 0.4 s and restarts take seconds."""

SAME_TOUCH_S = 3.2
"""A card that comes back within 3 s is taken for the same touch, however often; people wait, so do we."""

CARDS_COUNT_AFTER_MS = 2_200
"""The daemon takes no card in its first 2 s (README, "Cards"); plus a tick."""


class DaemonFailed(Exception):
    """The daemon ended or did not get ready; the text has the end of its log."""


class Rig:
    """Everything around one station. Use as an asynchronous context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        connectors: int = 2,
        limit_ma: int = 32_000,
        baud: int | None = None,
        pcsc: bool = True,
    ) -> None:
        """`baud` paces the serial lines as a UART would; None carries bytes at once."""
        self.folder = folder
        self.world = world(connectors, limit_ma)
        self.config = folder / "edge.toml"
        self.log = folder / "daemon.log"
        self.daemon: asyncio.subprocess.Process | None = None
        self.broker: Broker
        self.backend: Backend
        self.pcscd: Pcscd | None = None
        self.why_no_pcscd: str | None = None if pcsc else "switched off"
        self._lifted_s: dict[bytes, float] = {}
        self._baud = baud
        self._stack = AsyncExitStack()
        self._uptime: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            meters = list(self.world.meters.values())
            boards = list(self.world.evses.values())
            self.meters_line = await stack.enter_async_context(
                serial_line(self.folder / "ttyMeters", meters, baud=self._baud)
            )
            self.evse_line = await stack.enter_async_context(
                serial_line(self.folder / "ttyEvse", boards, baud=self._baud)
            )
            reason = mosquitto.why_not()
            if reason is not None:
                raise RuntimeError(reason)
            self.broker = Broker(self.folder / "broker")
            self.broker.start()
            stack.callback(self.broker.stop)
            self.backend = Backend(self.broker.host, self.broker.port)
            self.backend.start()
            stack.callback(self.backend.stop)
            self._start_pcscd(stack)
            self.config.write_text(self._config_text())
            self._uptime = asyncio.create_task(run_world(self.world))
            stack.callback(self._uptime.cancel)
            stack.push_async_callback(self.stop_daemon)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def places(self) -> dict[str, str]:
        """What is where, for a person who wants to connect something else."""
        reader = (
            f'PC/SC reader "{READER_NAME}", cards on TCP port {self.pcscd.port}'
            if self.pcscd is not None
            else f"in memory, cards on {self._cards_socket} ({self.why_no_pcscd})"
        )
        meters = ", ".join(f"{meter.unit} {name}" for name, meter in self.world.meters.items())
        boards = ", ".join(f"{evse.unit} connector-{n}" for n, evse in self.world.evses.items())
        return {
            "meters": f"{self.folder / 'ttyMeters'} 9600 8N1, SDM630 units {meters}",
            "evse": f"{self.folder / 'ttyEvse'} 9600 8N1, SimpleEVSE units {boards}",
            "cards": reader,
            "broker": f"mqtt://{self.broker.host}:{self.broker.port}, topics edge/v1/{STATION}/...",
            "config": str(self.config),
            "socket": str(self.socket),
        }

    @property
    def socket(self) -> Path:
        """The daemon's local API."""
        return self.folder / "run" / "edge.sock"

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon needs in its environment to find the rig's own pcscd."""
        return self.pcscd.environment if self.pcscd is not None else {}

    def daemon_line(self) -> str:
        """What to type to run a daemon of one's own on this rig."""
        settings = "".join(f"{key}={value} " for key, value in self.environment.items())
        return f"{settings}{' '.join(self._daemon_words())}"

    def _daemon_words(self) -> list[str]:
        if self.pcscd is None:
            return [sys.executable, "-m", "hal_mocks.in_process", str(self.config), str(self._cards_socket)]
        return [sys.executable, "-m", "edge", "run", "--config", str(self.config)]

    # -- the daemon ----------------------------------------------------------------------------------

    async def start_daemon(self) -> None:
        """Start the production daemon and wait until it serves. Raises `DaemonFailed`."""
        with self.log.open("ab") as log:
            self.daemon = await asyncio.create_subprocess_exec(
                *DIES_WITH_US,
                *self._daemon_words(),
                stderr=log,
                stdout=log,
                env={**os.environ, **self.environment},
            )
        try:
            async with asyncio.timeout(READY_S):
                await self._until_serving(self.daemon)
        except TimeoutError:
            raise DaemonFailed(f"not ready after {READY_S:g} s: {self.log_tail()}") from None

    async def _until_serving(self, daemon: asyncio.subprocess.Process) -> None:
        ended = asyncio.create_task(daemon.wait())
        try:
            while await self.status() is None:
                if ended.done():
                    raise DaemonFailed(f"ended with {daemon.returncode}: {self.log_tail()}")
                await asyncio.wait({ended}, timeout=0.02)
        finally:
            ended.cancel()

    async def stop_daemon(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """End the daemon with a signal and return its exit code; None when none runs."""
        if self.daemon is None:
            return None
        with suppress(ProcessLookupError):
            self.daemon.send_signal(number)
        code = await self.daemon.wait()
        self.daemon = None
        return code

    async def kill_daemon(self) -> None:
        """End it with SIGKILL, wherever it stands."""
        await self.stop_daemon(signal.SIGKILL)

    async def status(self) -> dict[str, Any] | None:
        """What the daemon answers to `status`; None while nobody answers."""
        answer = await self.ask({"ask": "status"})
        return None if answer is None or "error" in answer else answer

    async def ask(self, request: dict[str, object]) -> dict[str, Any] | None:
        """What the daemon answers to a request on its socket; None while nobody answers."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket, limit=1 << 20)
        except OSError:
            return None
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            answer = json.loads(await reader.readline())
        except (OSError, ValueError):
            return None
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        return answer if isinstance(answer, dict) else None

    def log_tail(self, characters: int = 2_000) -> str:
        """The end of the daemon's log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else "(no log)"

    # -- people --------------------------------------------------------------------------------------

    async def swipe(self, name: str, *, hold_s: float = 1.0) -> None:
        """Hold a card by name (see `CARDS`) or number to the reader for a while, at least until read."""
        uid = bytes.fromhex(CARDS.get(name, name))
        await self._until_cards_count()
        await asyncio.sleep(max(0.0, self._lifted_s.get(uid, 0.0) + SAME_TOUCH_S - time.monotonic()))
        if self.pcscd is None:
            _, writer = await asyncio.open_unix_connection(self._cards_socket)
            writer.write(uid.hex().encode() + b"\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return
        card = VirtualCard(uid, port=self.pcscd.port)
        card.insert()
        try:
            async with asyncio.timeout(CARD_S):
                while not any(apdu.startswith(b"\xff\xca") for apdu in card.apdus):  # noqa: ASYNC110 - a thread
                    await asyncio.sleep(0.05)
            await asyncio.sleep(hold_s)
        finally:
            card.remove()
            self._lifted_s[uid] = time.monotonic()

    async def _until_cards_count(self) -> None:
        """Wait out the first seconds of a daemon, in which it ignores what may have lain on the reader."""
        status = await self.status()
        if status is not None:
            await asyncio.sleep(max(0, CARDS_COUNT_AFTER_MS - status["uptime_ms"]) / 1000)

    # -- parts ---------------------------------------------------------------------------------------

    @property
    def _cards_socket(self) -> Path:
        return self.folder / "cards.sock"

    def _start_pcscd(self, stack: AsyncExitStack) -> None:
        if self.why_no_pcscd is not None:
            return
        pcscd = stack.enter_context(Pcscd())
        self.why_no_pcscd = pcscd.why_not()
        if self.why_no_pcscd is None:
            pcscd.start()
            self.pcscd = pcscd

    def _config_text(self) -> str:
        return config_text(
            self.world,
            Wiring(
                folder=str(self.folder),
                meters_port=str(self.folder / "ttyMeters"),
                evse_port=str(self.folder / "ttyEvse"),
                broker_host=self.broker.host,
                broker_port=self.broker.port,
                reader_name=READER_NAME,
            ),
        )


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Do them until the first has ended or failed."""
    tasks = {asyncio.create_task(work) for work in works}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
