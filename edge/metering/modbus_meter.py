"""A meter behind a profile on a Modbus line."""

from edge.drivers.bus import ModbusBus
from edge.errors import PeerError
from edge.metering.plan import Plan
from edge.metering.profile import Profile
from edge.ports import MeterReading


class ModbusMeter:
    """Implements `ports.Meter`: one block read per poll where the profile allows it."""

    def __init__(self, bus: ModbusBus, unit: int, profile: Profile) -> None:
        self._bus = bus
        self._unit = unit
        self._plan = Plan(profile)

    async def read(self) -> MeterReading:
        """Poll once; the reading is as old as the first of its questions. Raises as `ModbusBus.read`."""
        asked: list[int] = []
        answers: list[tuple[int, ...]] = []
        for block in self._plan.blocks:
            asked_ms, registers = await self._bus.read(self._unit, block.table, block.address, block.count)
            asked.append(asked_ms)
            answers.append(registers)
        try:
            current_ma, power_mw, energy_wh = self._plan.decode(answers)
        except PeerError as error:
            raise PeerError(f"unit {self._unit} on {self._bus.name}: {error}") from error
        return MeterReading(asked_ms=asked[0], current_ma=current_ma, power_mw=power_mw, energy_wh=energy_wh)
