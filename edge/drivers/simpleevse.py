"""SimpleEVSE-WB and EVSE-DIN controllers over Modbus RTU (register list of the maker, firmware 17 and 18).

The controller owns pilot, contactor and their timing. It has NO watchdog: when nobody talks to it, it keeps
its last current for ever. So its current after power-up is set to 0 A, the service unit calls `edge safe-off`
when the daemon ends for whatever reason, and a station whose host may hang needs a relay that the host's
hardware watchdog can drop.
"""

from edge.drivers.bus import ModbusBus
from edge.errors import PeerError
from edge.events import Pilot
from edge.ports import EvseReading

SET_CURRENT = 1000  # 1000-1007 are read as one block
BLOCK = 8
AFTER_POWER_UP = 2000
CONFIG_BITS = 2005

FINE_STEPS_BIT = 1 << 7  # of 2005: currents in 0.01 A
FINE_STEPS_FIRMWARE = 17

_PILOT = {1: Pilot.A, 2: Pilot.B, 3: Pilot.C, 4: Pilot.D, 5: Pilot.F}

_RELAY_ON = 1 << 0
_TROUBLES = {1 << 1: "evse_diode", 1 << 2: "evse_ventilation", 1 << 5: "evse_rcd"}

MAX_PLAUSIBLE_MA = 80_000
"""IEC 61851-1 Annex A: the pilot cannot express more."""


class SimpleEvse:
    """One controller; implements `ports.Evse`."""

    def __init__(self, bus: ModbusBus, unit: int, *, max_ma: int) -> None:
        self._bus = bus
        self._unit = unit
        self._max_ma = max_ma
        self._step_ma = 1_000

    async def prepare(self) -> None:
        """Learn the step of its currents and see to it that it wakes up at 0 A."""
        _, (firmware,) = await self._bus.read(self._unit, "holding", 1005, 1)
        _, settings = await self._bus.read(self._unit, "holding", AFTER_POWER_UP, 6)
        fine = bool(settings[CONFIG_BITS - AFTER_POWER_UP] & FINE_STEPS_BIT)
        self._step_ma = 10 if fine and firmware >= FINE_STEPS_FIRMWARE else 1_000
        if settings[0] != 0:  # it lives in EEPROM: written only when different
            await self._bus.write(self._unit, AFTER_POWER_UP, [0])
            _, (now,) = await self._bus.read(self._unit, "holding", AFTER_POWER_UP, 1)
            if now != 0:
                raise PeerError(
                    f"unit {self._unit}: current after power-up stays at {now} A; update firmware"
                )

    async def read(self) -> EvseReading:
        """Look once, in one block read."""
        asked_ms, block = await self._bus.read(self._unit, "holding", SET_CURRENT, BLOCK)
        return self.decode(asked_ms, block)

    def decode(self, asked_ms: int, block: tuple[int, ...]) -> EvseReading:
        """Registers 1000-1007 as a reading. Raises `PeerError` for values the register list does not have."""
        told, _, state, cable, _, _, _, bits = block
        if state not in _PILOT:
            raise PeerError(f"unit {self._unit}: vehicle state {state} does not exist")
        offer_ma, cable_ma = told * self._step_ma, cable * 1_000
        if offer_ma > MAX_PLAUSIBLE_MA or cable_ma > MAX_PLAUSIBLE_MA:
            raise PeerError(f"unit {self._unit}: {offer_ma} mA set or {cable_ma} mA cable cannot be")
        return EvseReading(
            asked_ms=asked_ms,
            pilot=_PILOT[state],
            offer_ma=offer_ma,
            contactor_closed=bool(bits & _RELAY_ON),
            cable_ma=cable_ma or None,
            troubles=tuple(name for bit, name in _TROUBLES.items() if bits & bit),
        )

    async def set_offer(self, offer_ma: int) -> None:
        """Write the current, rounded down to its step, never above the connector's rating."""
        steps = min(max(0, offer_ma), self._max_ma) // self._step_ma
        await self._bus.write(self._unit, SET_CURRENT, [steps])
