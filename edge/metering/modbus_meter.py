"""A meter behind a profile on a Modbus line."""

from edge.drivers.bus import ModbusBus
from edge.metering.profile import Profile, Registers
from edge.ports import MeterReading


class ModbusMeter:
    """Implements `ports.Meter`: one block read per poll where the profile allows it."""

    def __init__(self, bus: ModbusBus, unit: int, profile: Profile) -> None:
        self._bus = bus
        self._unit = unit
        self._profile = profile
        self._blocks = profile.blocks()

    async def read(self) -> MeterReading:
        """Poll once. The reading is as old as the first of its questions."""
        registers: Registers = {}
        first_ms: int | None = None
        for block in self._blocks:
            asked_ms, values = await self._bus.read(self._unit, block.table, block.address, block.count)
            first_ms = asked_ms if first_ms is None else first_ms
            registers |= {(block.table, block.address + k): value for k, value in enumerate(values)}
        current_ma, power_mw, energy_wh = self._profile.decode(registers)
        return MeterReading(
            asked_ms=first_ms or 0, current_ma=current_ma, power_mw=power_mw, energy_wh=energy_wh
        )
