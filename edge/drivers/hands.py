"""What the daemon runs for each meter and each EVSE controller: poll, report, retry, keep the newest offer.

Rules of this file: a device error is an event, never the end; anything else propagates. An offer is a lease:
what the core does not renew becomes 0 here, too. Phases are switched only with the contactor seen open.
"""

import asyncio
from collections.abc import Awaitable, Callable

from edge.commands import SetOffer, SetPhases
from edge.errors import DeviceError
from edge.events import DeviceFound, DeviceLost, EvseRead, MeterRead
from edge.ports import Evse, EvseReading, Meter, NowMs, PhaseSwitch, Put

TRIES = 3
"""A single lost frame on RS-485 is weather; three in a row are a lost device."""

RETRY_FIRST_MS = 250
RETRY_MOST_MS = 5_000
"""Back-off of a lost device: soon back after a bump of the plug, no burden to the others on its bus."""


class MeterHand:
    """Polls one meter."""

    def __init__(self, meter_id: str, meter: Meter, poll_ms: int, now_ms: NowMs) -> None:
        self._id = meter_id
        self._meter = meter
        self._poll_ms = poll_ms
        self._now_ms = now_ms

    async def run(self, put: Put) -> None:
        """Feed `MeterRead`, `DeviceFound` and `DeviceLost` until cancelled."""
        await _keep_alive(f"meter/{self._id}", self._once(put), self._now_ms, put)

    def _once(self, put: Put) -> Callable[[bool], Awaitable[None]]:
        async def once(_fresh: bool) -> None:  # noqa: FBT001 - the shape of `_keep_alive`
            began_ms = self._now_ms()
            reading = await self._meter.read()
            put(
                MeterRead(
                    at_ms=self._now_ms(),
                    asked_ms=reading.asked_ms,
                    meter=self._id,
                    current_ma=reading.current_ma,
                    power_mw=reading.power_mw,
                    energy_wh=reading.energy_wh,
                )
            )
            await asyncio.sleep(max(0, self._poll_ms - (self._now_ms() - began_ms)) / 1000)

        return once


class EvseHand:
    """Polls one controller and keeps it at the newest offer."""

    def __init__(self, connector: int, evse: Evse, poll_ms: int, now_ms: NowMs) -> None:
        self._connector = connector
        self._evse = evse
        self._poll_ms = poll_ms
        self._now_ms = now_ms
        self._told: SetOffer | None = None
        self._phases: int | None = None  # to be switched to
        self._news = asyncio.Event()
        self._settled = asyncio.Event()

    def set_offer(self, command: SetOffer) -> None:
        """Put the newest offer into the slot; what was there and not yet written is forgotten."""
        changed = self._told is None or self._told.offer_ma != command.offer_ma
        self._told = command
        if changed:
            self._settled.clear()
            self._news.set()

    def set_phases(self, command: SetPhases) -> None:
        """Switch before the next offer; the newest wins. A controller that cannot switch is left alone."""
        if isinstance(self._evse, PhaseSwitch):
            self._phases = command.phases
            self._news.set()

    async def settled(self) -> None:
        """Return when the newest offer has been written."""
        await self._settled.wait()

    async def run(self, put: Put) -> None:
        """Feed `EvseRead`, `DeviceFound` and `DeviceLost` until cancelled."""
        device = f"evse/{self._connector}"
        held: EvseReading | None = None

        async def once(fresh: bool) -> None:  # noqa: FBT001 - the shape of `_keep_alive`
            nonlocal held
            if fresh:
                await self._evse.prepare()
                held = None
            self._news.clear()
            last, held = held, None  # after an error nobody knows what it holds
            await self._switch(last)
            await self._write(last)
            held = await self._evse.read()
            put(
                EvseRead(
                    at_ms=self._now_ms(),
                    asked_ms=held.asked_ms,
                    connector=self._connector,
                    pilot=held.pilot,
                    offer_ma=held.offer_ma,
                    contactor_closed=held.contactor_closed,
                    cable_ma=held.cable_ma,
                    troubles=held.troubles,
                    phases=held.phases,
                )
            )
            await self._next_poll()

        await _keep_alive(device, once, self._now_ms, put)

    async def _switch(self, held: EvseReading | None) -> None:
        """Switch phases if that was asked for and the last look shows that it is safe; else wait for one."""
        phases = self._phases
        if phases is None or held is None or not isinstance(self._evse, PhaseSwitch):
            return
        if held.contactor_closed or held.offer_ma > 0:
            if self._due_ma():  # it was let on in between: what was asked for before that is over
                self._phases = None
            return
        await self._evse.set_phases(phases)
        if self._phases == phases:
            self._phases = None

    async def _write(self, held: EvseReading | None) -> None:
        """Write the offer unless the controller is known to hold it."""
        due_ma = self._due_ma()
        if due_ma is None:
            return
        # Controllers know steps of up to 1 A and round down; holding more than told is never right.
        if (
            held is None
            or held.offer_ma > due_ma
            or held.offer_ma <= due_ma - 1_000
            or not self._settled.is_set()
        ):
            await self._evse.set_offer(due_ma)
        if self._due_ma() == due_ma:
            self._settled.set()

    def _due_ma(self) -> int | None:
        if self._told is None:
            return None
        expired = self._now_ms() - self._told.at_ms > self._told.lease_ms
        return 0 if expired else self._told.offer_ma

    async def _next_poll(self) -> None:
        """Wait for news; that it is time for a look is news, too."""
        alarm = asyncio.get_running_loop().call_later(self._poll_ms / 1000, self._news.set)
        try:
            await self._news.wait()
        finally:
            alarm.cancel()


async def _keep_alive(device: str, once: Callable[[bool], Awaitable[None]], now_ms: NowMs, put: Put) -> None:
    """Call `once(fresh)` for ever; `fresh` after the device was lost. Three errors in a row lose it."""
    failures, known_lost, fresh = 0, False, True
    while True:
        try:
            await once(fresh)
        except DeviceError as error:
            failures += 1
            if failures >= TRIES:
                fresh = True
            if failures >= TRIES and not known_lost:
                known_lost = True
                put(DeviceLost(now_ms(), device, str(error)))
            pause_ms = min(RETRY_MOST_MS, RETRY_FIRST_MS * 2 ** min(10, max(0, failures - TRIES)))
            await asyncio.sleep(pause_ms / 1000)
            continue
        if known_lost or fresh:
            put(DeviceFound(now_ms(), device))
        failures, known_lost, fresh = 0, False, False
