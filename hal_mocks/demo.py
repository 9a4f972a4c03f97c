"""The main job as a story: two cars share a supply with a kettle, the uplink is cut, the money is safe.

Everything is real but the copper: the production daemon with an ordinary configuration file, Modbus on ptys,
pcscd with the virtual reader, mosquitto, a backend. What is claimed at the end is read from the peers.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hal_mocks.rig import STATION, DaemonFailed, Rig, first_of
from hal_mocks.screen import Screen
from hal_mocks.vehicle import Vehicle

REACTION_MS = 7_000
"""What the station states: a poll of all meters of a line, a tick and a write on a bus of 9600 baud (2 s),
and the 5 s a car may take to follow (IEC 61851-1 Annex A). Above its limit for longer, a circuit would have
been overloaded by us."""

STORY_S = 80.0
"""`--once` has to end within 90 s; a step that takes longer than this in all has failed."""

_LINE = re.compile(
    r'topic=(?P<topic>[\w.]+)(?: text="(?P<text>(?:[^"\\]|\\.)*)")?(?: connector=(?P<connector>\d+))?'
)


class PromiseBroken(Exception):
    """Something the station promises did not hold."""


class Demo:
    """The story and what is seen of it."""

    def __init__(self, rig: Rig, screen: Screen) -> None:
        self._rig = rig
        self._screen = screen
        self._log_offset = 0
        self.topics: list[str] = []
        self.status: dict[str, Any] = {}
        self._news = asyncio.Event()
        self._start_nj = {n: rig.world.meters[f"connector-{n}"].register_nj for n in rig.world.evses}

    async def watch(self) -> None:
        """Keep the screen up to date until cancelled."""
        while True:
            self._read_log()
            status = await self._rig.status()
            if status is not None:
                self.status = status
                self._screen.show(status, self._cars(), self._supply())
                self._news.set()
            await asyncio.sleep(0.25)

    async def tell_story(self) -> None:
        """Play it from the first car to the last settled claim. Raises `PromiseBroken`."""
        rig, tell = self._rig, self._screen.tell
        tell("A car is plugged into connector 1; a card nobody knows is shown.")
        rig.world.plug(1, Vehicle(phases=3, max_ma=32_000))
        await self._until("the car is seen", lambda: self._state(1) == "preparing")
        await rig.swipe("stranger")
        await self._until("the unknown card is refused", lambda: "card_refused" in self.topics)

        tell("Alice's card is known: her session is recorded, then power is offered.")
        await rig.swipe("alice")
        await self._until("alice's car takes the whole supply", lambda: self._drawn(1) > 29_000)

        tell("Bob plugs into connector 2 and shows his card: the two share 32 A.")
        rig.world.plug(2, Vehicle(phases=3, max_ma=32_000))
        await self._until("the second car is seen", lambda: self._state(2) == "preparing")
        await rig.swipe("bob")
        await self._until("both take 16 A", lambda: min(self._drawn(1), self._drawn(2)) > 15_000)

        tell("Somebody boils water: 10 A on L1 that are not ours.")
        rig.world.switch_load("kettle", (10_000, 0, 0))
        await self._until("both have made room", lambda: max(self._drawn(1), self._drawn(2)) < 11_500)
        tell("The water is hot; the cars get their current back, slowly.")
        rig.world.switch_load("kettle", (0, 0, 0))
        await self._until("both take 15 A again", lambda: min(self._drawn(1), self._drawn(2)) > 14_500)

        tell("The uplink is cut: the broker dies without saving anything.")
        rig.broker.kill()
        await self._until("the daemon knows it is offline", lambda: not self.status["online"])
        tell("Alice stops with her card. Nobody can be told, so her payment waits.")
        await rig.swipe("alice")
        await self._until("the claim waits in the journal", lambda: self.status["claims"]["closed"] == 1)
        await self._until("bob gets the current", lambda: self._drawn(2) > 29_000)
        tell("The uplink returns.")
        rig.broker.start()
        await self._until("the backend has booked alice's session", lambda: self._settled() == 1)

        tell("Bob unplugs; his session is closed and paid.")
        rig.world.unplug(2)
        await self._until("the backend has booked bob's session", lambda: self._settled() == 2)
        rig.world.unplug(1)
        await self._until(
            "both connectors are free", lambda: {self._state(1), self._state(2)} == {"available"}
        )

    async def go_on(self) -> None:
        """Let ordinary life go on: bob charges, the kettle comes and goes."""
        self._rig.world.plug(2, Vehicle(phases=3, max_ma=32_000))
        await self._until("the car is seen", lambda: self._state(2) == "preparing")
        await self._rig.swipe("bob")
        while True:
            for ma in (10_000, 0):
                await asyncio.sleep(15)
                self._rig.world.switch_load("kettle", (ma, 0, 0))

    def check(self) -> list[str]:
        """What the peers saw, one line each. Raises `PromiseBroken`."""
        backend, world = self._rig.backend, self._rig.world
        for claim_id, tally in backend.tally.items():
            _promise(tally.booked == 1, f"claim {claim_id} was booked {tally.booked} times")
        bookings = {booking.claim["connector"]: booking.claim for booking in backend.ledger.values()}
        _promise(set(bookings) == {1, 2}, f"claims of connectors {sorted(bookings)} arrived, not of 1 and 2")
        lines = []
        for number, claim in sorted(bookings.items()):
            meter = world.meters[f"connector-{number}"]
            flowed_wh = (meter.register_nj - self._start_nj[number]) / 3.6e12
            # Registers are read as whole watt-hours, once at each end.
            _promise(
                abs(claim["energy_wh"] - flowed_wh) <= 1.5, f"connector {number}: {flowed_wh:.1f} Wh flowed"
            )
            copies = backend.tally[claim["id"]].copies
            lines.append(
                f"connector {number}: {flowed_wh:.1f} Wh flowed, {claim['energy_wh']} Wh billed to "
                f"{claim['contract']}, {claim['cost']['incl_tax']} {claim['cost']['currency']}, "
                f"sent {copies} time(s), booked once"
            )
        overload = world.overloads["site"]
        _promise(
            overload.longest_ms <= REACTION_MS,
            f"the supply was above its limit for {overload.longest_ms} ms without a break",
        )
        lines.append(
            f"supply: above its limit only while the cars made room for the kettle, {overload.longest_ms} ms "
            f"(stated: {REACTION_MS} ms)"
        )
        return lines

    # -- what is seen --------------------------------------------------------------------------------

    async def _until(self, what: str, condition: Callable[[], bool], seconds: float = 25.0) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not (self.status and condition()):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise PromiseBroken(f"not within {seconds:g} s: {what}\n{self._rig.log_tail()}") from None

    def _state(self, number: int) -> str:
        return str(self.status["connectors"][number - 1]["state"])

    def _drawn(self, number: int) -> int:
        return int(max(self.status["connectors"][number - 1]["current_ma"] or [0]))

    def _settled(self) -> int:
        return int(self.status["claims"]["settled"])

    def _cars(self) -> dict[int, str]:
        return {
            number: f"{car.phases}-phase, up to {car.max_ma // 1000} A, pilot {car.pilot}"
            for number, car in self._rig.world.vehicles.items()
        }

    def _supply(self) -> str:
        amps = " ".join(f"{ma / 1000:5.1f}" for ma in self._rig.world.circuit_current_ma("site"))
        limit = self._rig.world.circuits["site"].limit_ma[0] // 1000
        return f"supply {amps} A of {limit} A per phase"

    def _read_log(self) -> None:
        if not self._rig.log.exists():
            return
        with self._rig.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(self._log_offset)
            for line in log:
                if not line.endswith("\n"):
                    break
                self._log_offset += len(line.encode())
                found = _LINE.search(line)
                if found:
                    self.topics.append(found["topic"])
                    self._screen.event(found["topic"].split(".")[-1], found["text"] or "", found["connector"])


async def tell(folder: Path, *, once: bool) -> int:
    """Run the demo; 0 when everything held."""
    screen = Screen()
    began = time.monotonic()
    try:
        async with _stage(folder, screen) as demo:
            async with asyncio.timeout(STORY_S):
                await first_of(demo.tell_story(), demo.watch())
            for line in demo.check():
                screen.tell(line)
            if not once:
                screen.tell(
                    f"All held. The rig goes on until Ctrl-C; see edge status --config {folder}/edge.toml"
                )
                await first_of(demo.go_on(), demo.watch())
    except TimeoutError:
        screen.console.print(f"FAILED: the story took longer than {STORY_S:g} s", style="bold red")
        return 1
    except (PromiseBroken, DaemonFailed) as error:
        screen.console.print(f"FAILED: {error}", style="bold red", markup=False)
        return 1
    screen.console.print(f"[bold green]all held[/bold green], in {time.monotonic() - began:.0f} s")
    return 0


@asynccontextmanager
async def _stage(folder: Path, screen: Screen) -> AsyncIterator[Demo]:
    """Build the rig, start the daemon, keep the screen alive."""

    async def step(text: str, work: Awaitable[None]) -> None:
        began = time.monotonic()
        await work
        screen.console.print(f"  {text:<58} {time.monotonic() - began:5.1f} s")

    began = time.monotonic()
    async with Rig(folder) as rig:
        screen.console.print(f"  {'meters, controllers, broker, backend, card reader':<58} "
                             f"{time.monotonic() - began:5.1f} s")  # fmt: skip
        if rig.why_no_pcscd is not None:
            screen.console.print(f"  card reader in memory, because pcscd cannot run: {rig.why_no_pcscd}")
        await step(f"the production daemon, station {STATION}", rig.start_daemon())
        with screen:
            yield Demo(rig, screen)
        code = await rig.stop_daemon()
        _promise(code == 0, f"the daemon ended with exit code {code}")


def _promise(held: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not held:
        raise PromiseBroken(otherwise)
