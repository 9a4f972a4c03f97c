"""The whole daemon on the rig: start-up, memory, and the way from a card to the contactor."""

import asyncio
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from hal_mocks.rig import CARDS_COUNT_AFTER_MS, Rig
from hal_mocks.vehicle import Vehicle
from tests.wire.people import Status, session, until

STARTS = 7
SWIPES = 20
CONNECTORS = 4


def machine() -> str:
    """Say where this ran."""
    python = platform.python_version()
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {python}"


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


async def _starts() -> tuple[float, float]:
    """Median seconds from the start of the process to READY, and the highest memory after a while."""
    seconds: list[float] = []
    memory: list[float] = []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as folder:
            async with Rig(Path(folder), connectors=CONNECTORS, baud=9600) as rig:
                began = time.perf_counter()
                await rig.start_daemon()
                seconds.append(time.perf_counter() - began)
                await asyncio.sleep(3)  # every device has been read, the uplink is up
                if rig.daemon is not None:
                    memory.append(resident_mb(rig.daemon.pid))
                await rig.stop_daemon()
    return statistics.median(seconds), max(memory)


def _finished(status: Status) -> bool:
    return session(status, 1) == "finished"


async def _swipes() -> list[float]:
    """Milliseconds from a card in the reader's hand to the set-point in the controller, 9600 baud.

    The reader is the one in memory: what PC/SC polling costs is not ours.
    """
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Rig(Path(folder), connectors=CONNECTORS, baud=9600, pcsc=False) as rig:
            await rig.start_daemon()
            board = rig.world.evses[1]
            rig.world.plug(1, Vehicle(max_ma=16_000, asks=False))
            await asyncio.sleep(CARDS_COUNT_AFTER_MS / 1000)
            for k in range(SWIPES):
                await asyncio.sleep(1 + k * 0.037)  # another phase of the polling each time
                began = time.perf_counter()
                await rig.swipe("alice")
                async with asyncio.timeout(10):
                    while board.set_current_ma == 0:
                        await asyncio.sleep(0.001)
                times.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(3.3)
                await rig.swipe("alice")
                await until(rig, "the session is over", _finished)
    return times


def report() -> list[tuple[str, str, str]]:
    """Measure all; rows of (what, result, target)."""
    seconds, memory = asyncio.run(_starts())
    times = asyncio.run(_swipes())
    return [
        (f"`edge run` to READY, {CONNECTORS} connectors, median of {STARTS}", f"{seconds:.2f} s", "1.5 s"),
        (f"resident memory, {CONNECTORS} connectors, highest of {STARTS}", f"{memory:.0f} MB", "60 MB"),
        (
            f"card seen to set-point in the controller, 9600 baud, median / worst of {SWIPES}",
            f"{statistics.median(times):.0f} / {max(times):.0f} ms",
            "150 ms",
        ),
    ]
