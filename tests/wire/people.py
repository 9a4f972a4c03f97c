"""What people at a station do and see, for tests against the real daemon: they look, wait and try again."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from hal_mocks.rig import Rig
from hal_mocks.vehicle import Vehicle

Status = dict[str, Any]

PATIENCE_S = 40.0
"""Far above what anything here takes, also on a loaded machine."""


async def until(rig: Rig, what: str, holds: Callable[[Status], bool], seconds: float = PATIENCE_S) -> Status:
    """Ask the daemon for its status until `holds`; fail with `what` and the log otherwise."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                status = await rig.status()
                if status is not None and holds(status):
                    return status
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}\n{rig.log_tail()}") from None


def state(status: Status, number: int) -> str:
    """The availability of a connector."""
    return str(status["connectors"][number - 1]["state"])


def session(status: Status, number: int) -> str:
    """Where the session of a connector stands."""
    return str(status["connectors"][number - 1]["session_state"])


def drawn_ma(status: Status, number: int) -> int:
    """The highest phase current of a connector, as the daemon knows it."""
    return int(max(status["connectors"][number - 1]["current_ma"] or [0]))


def faults(status: Status, number: int) -> list[str]:
    """The names of a connector's faults."""
    return [fault["name"] for fault in status["connectors"][number - 1]["faults"]]


async def arrive(rig: Rig, number: int, card: str, max_ma: int = 16_000) -> None:
    """Plug in and show the card until the car draws current, as often as it takes."""
    rig.world.plug(number, Vehicle(phases=3, max_ma=max_ma, lag_ms=200))
    await until(rig, "the car is seen", lambda s: session(s, number) not in ("free", "unknown"))
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        status = await until(rig, "the daemon knows", lambda s: state(s, number) != "unknown")
        if session(status, number) in ("plugged", "finished"):
            await rig.swipe(card, hold_s=0.1)
        if drawn_ma(status, number) >= 6_000:
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"{card} could not charge at connector {number}: {status}\n{rig.log_tail()}")


async def leave(rig: Rig, number: int, card: str) -> None:
    """Show the card until the session is over, then unplug and wait until the connector is free."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        status = await until(rig, "the daemon knows", lambda s: state(s, number) != "unknown")
        if session(status, number) == "charging":
            await rig.swipe(card, hold_s=0.1)
        if session(status, number) in ("finished", "plugged", "free"):
            break
        await asyncio.sleep(0.2)
    else:
        raise AssertionError(f"{card} could not stop at connector {number}: {status}\n{rig.log_tail()}")
    rig.world.unplug(number)
    await until(rig, "the connector is free", lambda s: state(s, number) == "available")
