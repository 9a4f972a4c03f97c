"""How a profile is read: the fewest block reads, and exact integers out of their registers.

Values leave as mA, mW and Wh, rounded half to even once, from exact fractions. A reading is believed or
refused, never clipped: what cannot be true is a `PeerError`.
"""

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from msgspec import Struct

from edge.errors import PeerError
from edge.events import Phases
from edge.metering.profile import REGISTERS, Field, Profile

MAX_CURRENT_MA = 1_000_000
"""No meter behind a charging station measures more than 1000 A; a value above is a misread word order."""

MAX_POWER_MW = 1_200_000_000
"""1000 A on three phases at 690 V, the highest voltage of low-voltage supplies (IEC 60038), are 1.195 MW."""

MAX_ENERGY_WH = 10_000_000_000
"""10 GWh are ten years at 114 kW; registers of meters roll over long before."""

_UNITS = {
    "A": 1_000, "mA": 1,
    "W": 1_000, "kW": 1_000_000,
    "Wh": 1, "kWh": 1_000, "MWh": 1_000_000,
}  # fmt: skip
"""From the profile's unit to mA, mW and Wh."""

_FLOATS = {"f32": ">f", "f64": ">d"}


class Block(Struct, frozen=True):
    """One read."""

    table: Literal["input", "holding"]
    address: int
    count: int


class _Place(Struct, frozen=True):
    """Where a value stands in the answers, and what it is multiplied with: `times` / `per`."""

    block: int
    first: int
    end: int
    type: str
    times: int
    per: int
    absent: tuple[int, ...]


class Plan:
    """The reads of a profile, worked out once: `blocks` to ask for, `decode` for what comes."""

    def __init__(self, profile: Profile) -> None:
        self.blocks = blocks(profile)
        self._model = profile.model
        self._words_reversed = profile.word_order == "little"
        self._byte_order = ">" if profile.byte_order == "big" else "<"
        self._places = {name: self._place(field) for name, field in profile.quantities.present().items()}

    def decode(self, answers: Sequence[Sequence[int]]) -> tuple[Phases, int, int]:
        """Currents in mA, power in mW, imported energy in Wh; `answers` are the registers of each block.

        A current that the meter does not measure is 0; one that flows back counts as if it flowed in, for
        the wire gets as warm. Raises `PeerError` for what cannot be.
        """
        values = {name: self._value(name, place, answers) for name, place in self._places.items()}
        ma = [abs(values.get(f"current_l{phase}", 0)) for phase in (1, 2, 3)]
        power_mw, energy_wh = values["power_total"], values["energy_import"]
        if max(ma) > MAX_CURRENT_MA:
            raise self._refused(f"{max(ma)} mA")
        if abs(power_mw) > MAX_POWER_MW:
            raise self._refused(f"{power_mw} mW")
        if not 0 <= energy_wh <= MAX_ENERGY_WH:
            raise self._refused(f"{energy_wh} Wh")
        return (ma[0], ma[1], ma[2]), power_mw, energy_wh

    def _value(self, name: str, place: _Place, answers: Sequence[Sequence[int]]) -> int:
        words = answers[place.block][place.first : place.end]
        if self._words_reversed:
            words = words[::-1]
        raw = struct.pack(f"{self._byte_order}{len(words)}H", *words)
        if place.type in _FLOATS:
            (number,) = struct.unpack(_FLOATS[place.type], raw)
            if not math.isfinite(number):
                raise PeerError(f"{self._model}: {name} is not available (it reads {number})")
            above, below = number.as_integer_ratio()
            return _rounded(above * place.times, below * place.per)
        if int.from_bytes(raw, "big") in place.absent:
            raise PeerError(f"{self._model}: {name} is not available (it reads 0x{raw.hex()})")
        whole = int.from_bytes(raw, "big", signed=place.type.startswith("s"))
        return _rounded(whole * place.times, place.per)

    def _place(self, field: Field) -> _Place:
        registers = REGISTERS[field.type]
        for index, block in enumerate(self.blocks):
            first = field.address - block.address
            if block.table == field.table and 0 <= first <= block.count - registers:
                factor = Fraction(field.scale) * _UNITS[field.unit]
                times, per = factor.as_integer_ratio()
                return _Place(index, first, first + registers, field.type, times, per, field.absent)
        raise AssertionError("every field lies in a block")

    def _refused(self, what: str) -> PeerError:
        return PeerError(f"{self._model}: it reads {what}, which cannot be; is it this model of meter?")


def _rounded(above: int, below: int) -> int:
    """The whole number nearest to a fraction, the even one of two; `below` is positive."""
    whole, rest = divmod(above, below)
    return whole + (2 * rest > below or (2 * rest == below and whole % 2))


def blocks(profile: Profile) -> tuple[Block, ...]:
    """The fewest reads that get every quantity, none longer than the meter allows.

    Fields do not overlap. Each read starts at the first field not yet covered and is as long as may be: no
    read that covers that field reaches further, so fewer cannot do.
    """
    fields = profile.quantities.present().values()
    made: list[Block] = []
    for table, first, end in sorted((f.table, f.address, f.address + REGISTERS[f.type]) for f in fields):
        last = made[-1] if made else None
        if last is not None and last.table == table and end - last.address <= profile.max_registers:
            made[-1] = Block(table, last.address, end - last.address)
        else:
            made.append(Block(table, first, end - first))
    return tuple(made)
