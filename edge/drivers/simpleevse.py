"""SimpleEVSE-WB and EVSE-DIN controllers over Modbus RTU (EVRacing data sheet; as evcc and openWB use it).

The controller owns pilot, contactor and their timing. It has NO watchdog: when nobody talks to it, it keeps
its last current for ever. So its current after power-up is set to 0 A, the service unit calls `edge safe-off`
when the daemon ends for whatever reason, and a station whose host may hang needs a relay that the host's
hardware watchdog can drop.
"""

from edge.drivers.bus import ModbusBus
from edge.errors import PeerError
from edge.events import Pilot
from edge.ports import EvseReading

SET_CURRENT = 1000
"""First of the eight registers read at once: set current, pilot current, vehicle state, cable limit, command,
firmware, EVSE state, status bits."""

BLOCK = 8
FIRMWARE = 1005
AFTER_POWER_UP = 2000
CONFIG_BITS = 2005

FINE_STEPS_BIT = 1 << 7  # of 2005: the set current counts in 0.01 A
FINE_STEPS_FIRMWARE = 17

COARSE_STEP_MA, FINE_STEP_MA = 1_000, 10

LEAST_OFFER_MA = 6_000
"""IEC 61851-1:2017 Annex A: the pilot cannot say less; a smaller offer is none."""

MOST_PLAUSIBLE_MA = 80_000
"""IEC 61851-1:2017 Annex A: the pilot cannot say more, and no cable carries more."""

_PILOT = {1: Pilot.A, 2: Pilot.B, 3: Pilot.C, 4: Pilot.D, 5: Pilot.F}

_RELAY_ON = 1 << 0
_TROUBLES = {1 << 1: "evse_diode", 1 << 5: "evse_rcd", 1 << 2: "evse_ventilation"}


class SimpleEvse:
    """One controller; implements `ports.Evse`. `max_ma` is the connector's rating."""

    def __init__(self, bus: ModbusBus, unit: int, *, max_ma: int) -> None:
        self._bus = bus
        self._unit = unit
        self._max_ma = max_ma
        self._step_ma = COARSE_STEP_MA

    async def prepare(self) -> None:
        """Learn the step of its currents and see to it that it wakes up at 0 A after a power cut.

        Raises `PeerError` when it is no such controller, or cannot be made to wake up at 0 A.
        """
        firmware = await self._register(FIRMWARE)
        if firmware in (0, 0xFFFF):
            raise self._wrong(f"firmware {firmware} does not exist; is it a SimpleEVSE or EVSE-DIN?")
        fine = False
        if firmware >= FINE_STEPS_FIRMWARE:  # older ones may not have the register
            fine = bool(await self._register(CONFIG_BITS) & FINE_STEPS_BIT)
        self._step_ma = FINE_STEP_MA if fine else COARSE_STEP_MA
        if await self._register(AFTER_POWER_UP) != 0:  # it lives in EEPROM: written only when different
            await self._bus.write(self._unit, AFTER_POWER_UP, [0])
            left = await self._register(AFTER_POWER_UP)
            if left != 0:
                raise self._wrong(f"its current after power-up stays at {left} A; update or replace it")

    async def read(self) -> EvseReading:
        """Look once, in one block read."""
        asked_ms, block = await self._bus.read(self._unit, "holding", SET_CURRENT, BLOCK)
        return self._decoded(asked_ms, block)

    async def set_offer(self, offer_ma: int) -> None:
        """Write the current, rounded down to its step and never above the rating; below 6 A it is 0."""
        ma = min(offer_ma, self._max_ma)
        steps = ma // self._step_ma if ma >= LEAST_OFFER_MA else 0
        await self._bus.write(self._unit, SET_CURRENT, [steps])

    def _decoded(self, asked_ms: int, block: tuple[int, ...]) -> EvseReading:
        told, _pilot_current, state, cable, _command, _firmware, _evse_state, bits = block
        if state not in _PILOT:
            raise self._wrong(f"vehicle state {state} does not exist; is it a SimpleEVSE or EVSE-DIN?")
        offer_ma, cable_ma = told * self._step_ma, cable * 1_000
        if max(offer_ma, cable_ma) > MOST_PLAUSIBLE_MA:
            raise self._wrong(f"it reports {offer_ma} mA set and a cable for {cable_ma} mA, which cannot be")
        troubles = [name for bit, name in _TROUBLES.items() if bits & bit]
        if _PILOT[state] is Pilot.F:
            troubles.append("evse_failure")
        return EvseReading(
            asked_ms=asked_ms,
            pilot=_PILOT[state],
            offer_ma=offer_ma,
            contactor_closed=bool(bits & _RELAY_ON),
            cable_ma=cable_ma or None,  # 0 without a cable, or with one that is fixed to the station
            troubles=tuple(troubles),
        )

    async def _register(self, address: int) -> int:
        _, (value,) = await self._bus.read(self._unit, "holding", address, 1)
        return value

    def _wrong(self, what: str) -> PeerError:
        return PeerError(f"unit {self._unit} on {self._bus.name}: {what}")
