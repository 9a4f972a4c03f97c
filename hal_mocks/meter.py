"""Eastron SDM630-Modbus V2, a three-phase meter: what it measures is set, its registers are read.

    meter = Sdm630(unit=1, start_wh=1_234_000)
    meter.feel(current_ma=(16_000, 0, 0))
    meter.accumulate(3_600_000)           # an hour
    meter.energy_mwh

Values are IEEE 754 floats in two registers, the high word first, in the input table (function 4); a question
is for at most 40 of them and never for half of one. The serial number is holding register 64512.
The load is purely ohmic: power factor 1.

Faults: `faults` (silent, frozen, garbled ... see `modbus_rtu.Faults`), `jump_wh(-5000)` for a register that
goes backwards or leaps, `restart_at_zero()` for an exchanged meter, `powered = False`.
`flow_nj` stays the truth: exactly what went through, whatever the register says.

Source: SDM630-Modbus V2 Modbus Protocol Implementation V2.x (Eastron), tables of input and holding registers.
"""

import struct
from collections.abc import Sequence

from hal_mocks.modbus_rtu import ILLEGAL_ADDRESS, ILLEGAL_VALUE, Faults, RefusedError, Table

Phases = tuple[int, int, int]

NJ_PER_WH = 3_600 * 1_000_000_000
NJ_PER_MWH = NJ_PER_WH // 1000

_MAX_REGISTERS = 80  # "40 parameters or less"
_INPUT_END = 382  # the last parameter, total kvarh of L3, stands at 380
_SERIAL = 64512


class Sdm630:
    """The meter. Integrates exactly: mV times mA times ms is nJ."""

    def __init__(self, unit: int, *, start_wh: int = 0, serial_number: int = 17_400_001) -> None:
        self.unit = unit
        self.serial_number = serial_number
        self.faults = Faults()
        self.powered = True
        self.voltage_mv: Phases = (230_000, 230_000, 230_000)
        self.current_ma: Phases = (0, 0, 0)
        self.frequency_mhz = 50_000
        self.flow_nj = [0, 0, 0]  # per phase since the meter was made
        self._offset_nj = start_wh * NJ_PER_WH

    @property
    def power_mw(self) -> int:
        """Active power of all phases, rounded down."""
        return sum(self._power_uw()) // 1000

    @property
    def register_nj(self) -> int:
        """What the import register holds, to the last digit."""
        return sum(self.flow_nj) + self._offset_nj

    @property
    def energy_mwh(self) -> int:
        """The import register in milliwatt-hours, rounded down."""
        return self.register_nj // NJ_PER_MWH

    def feel(self, *, current_ma: Phases | None = None, voltage_mv: Phases | None = None) -> None:
        """Set what flows from now on. Currents are import, never negative."""
        if current_ma is not None:
            if min(current_ma) < 0:
                raise ValueError(f"current must not be negative: {current_ma}")
            self.current_ma = current_ma
        if voltage_mv is not None:
            self.voltage_mv = voltage_mv

    def accumulate(self, duration_ms: int) -> None:
        """Let the present current flow for a while."""
        if any(self.current_ma):
            for phase in range(3):
                self.flow_nj[phase] += self.voltage_mv[phase] * self.current_ma[phase] * duration_ms

    def jump_wh(self, wh: int) -> None:
        """Let the register leap, or go backwards; it stops at zero."""
        self._offset_nj = max(self._offset_nj + wh * NJ_PER_WH, -sum(self.flow_nj))

    def restart_at_zero(self) -> None:
        """Let the register begin again, as after the meter was exchanged."""
        self._offset_nj = -sum(self.flow_nj)

    def read(self, table: Table, start: int, count: int) -> list[int]:
        """Answer a read; raises `RefusedError`."""
        if table is Table.HOLDING:
            return self._read_holding(start, count)
        if count > _MAX_REGISTERS:
            raise RefusedError(ILLEGAL_VALUE)
        if start % 2 or count % 2 or start + count > _INPUT_END:
            raise RefusedError(ILLEGAL_ADDRESS)
        return _words(self._inputs()[start // 2 : (start + count) // 2])

    def write(self, start: int, values: Sequence[int]) -> None:  # noqa: ARG002 - the protocol has both
        """Refuse: settings can be changed only after the front button put the meter into setting mode."""
        raise RefusedError(ILLEGAL_ADDRESS)

    def _power_uw(self) -> list[int]:
        return [mv * ma for mv, ma in zip(self.voltage_mv, self.current_ma, strict=True)]

    def _inputs(self) -> list[float]:
        """Return all floats, that of address 2n at n; what is not known reads as zero."""
        watts = [uw / 1e6 for uw in self._power_uw()]
        kwh = self.register_nj / (1000 * NJ_PER_WH)
        share = self._offset_nj / 3
        values = [0.0] * (_INPUT_END // 2)
        values[0:3] = [mv / 1e3 for mv in self.voltage_mv]
        values[3:6] = [ma / 1e3 for ma in self.current_ma]
        values[6:9] = values[9:12] = watts
        values[15:18] = [1.0] * 3
        values[26] = values[28] = sum(watts)
        values[31] = 1.0
        values[35] = self.frequency_mhz / 1e3
        values[36] = values[171] = kwh
        values[173:176] = values[179:182] = [(nj + share) / (1000 * NJ_PER_WH) for nj in self.flow_nj]
        return values

    def _read_holding(self, start: int, count: int) -> list[int]:
        if start >= _SERIAL:
            words = [self.serial_number >> 16, self.serial_number & 0xFFFF]
            held = dict(enumerate(words, _SERIAL))
        else:
            # parity 18 (0 = none), unit id 20, baud 28 (2 = 9600)
            floats = {18: 0.0, 20: float(self.unit), 28: 2.0}
            held = {
                address + half: word
                for address, value in floats.items()
                for half, word in enumerate(_words([value]))
            }
        try:
            return [held[address] for address in range(start, start + count)]
        except KeyError:
            raise RefusedError(ILLEGAL_ADDRESS) from None


def _words(values: Sequence[float]) -> list[int]:
    return list(struct.unpack(f">{2 * len(values)}H", struct.pack(f">{len(values)}f", *values)))
