"""A meter's description file: which registers hold what, and how few reads get them all.

Values leave as integers (mA, mW, Wh) through exact fractions. A reading is believed or refused, never
clipped: what cannot be true is a `PeerError`.
"""

import math
import struct
import tomllib
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edge.errors import ConfigError, PeerError
from edge.events import Phases

Quantity = Literal["current_l1", "current_l2", "current_l3", "power_total", "energy_import"]
Order = Literal["big", "little"]

NEEDED: tuple[Quantity, ...] = ("current_l1", "power_total", "energy_import")
"""Without these a meter can neither protect a circuit nor bill a session."""

_WORDS = {"u16": 1, "s16": 1, "u32": 2, "s32": 2, "u64": 4, "s64": 4, "f32": 2, "f64": 4}

_TO_MILLI = {"A": 1_000, "mA": 1, "W": 1_000, "kW": 1_000_000}
_TO_WH = {"Wh": Fraction(1), "kWh": Fraction(1_000), "MWh": Fraction(1_000_000)}

MAX_CURRENT_MA = 1_000_000
"""No meter behind a charging station measures more than 1000 A; a value above is a misread word order."""

MAX_ENERGY_WH = 10_000_000_000
"""10 GWh: ten years at 114 kW; registers of meters roll over long before."""

Registers = dict[tuple[str, int], int]
"""Register values by table and address."""


class Field(Struct, frozen=True, forbid_unknown_fields=True):
    """One quantity in the registers."""

    table: Literal["input", "holding"]
    address: Annotated[int, Meta(ge=0, le=65_535)]
    type: Literal["u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64"]
    unit: Literal["A", "mA", "W", "kW", "Wh", "kWh", "MWh"]
    scale: Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$")] = "1"  # register value x scale = unit


class Block(Struct, frozen=True):
    """One read."""

    table: Literal["input", "holding"]
    address: int
    count: int


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """A meter model."""

    model: str
    phases: Literal[1, 3]
    word_order: Order
    byte_order: Order
    max_registers: Annotated[int, Meta(ge=2, le=125)]  # 125: Modbus application protocol V1.1b3, 6.3
    quantities: dict[Quantity, Field]

    def blocks(self) -> tuple[Block, ...]:
        """The fewest reads that get every quantity, none longer than the meter allows."""
        spans = sorted((f.table, f.address, f.address + _WORDS[f.type]) for f in self.quantities.values())
        blocks: list[Block] = []
        for table, first, end in spans:
            last = blocks[-1] if blocks else None
            if last is not None and last.table == table and end - last.address <= self.max_registers:
                count = max(last.count, end - last.address)
                blocks[-1] = Block(table, last.address, count)
            else:
                blocks.append(Block(table, first, end - first))
        return tuple(blocks)

    def decode(self, registers: Registers) -> tuple[Phases, int, int]:
        """Currents in mA, power in mW and imported energy in Wh. Raises `PeerError` for what cannot be."""
        amps = [self._milli(name, registers) for name in ("current_l1", "current_l2", "current_l3")]
        currents = (abs(amps[0]), abs(amps[1]), abs(amps[2]))  # the direction stands in the power
        if max(currents) > MAX_CURRENT_MA:
            raise PeerError(f"{self.model}: {max(currents)} mA cannot be; is it this meter model?")
        field = self.quantities["energy_import"]
        energy_wh = round(self._value("energy_import", field, registers) * _TO_WH[field.unit])
        if not 0 <= energy_wh <= MAX_ENERGY_WH:
            raise PeerError(f"{self.model}: {energy_wh} Wh imported cannot be; is it this meter model?")
        return currents, self._milli("power_total", registers), energy_wh

    def _milli(self, name: Quantity, registers: Registers) -> int:
        field = self.quantities.get(name)
        if field is None:
            return 0
        return round(self._value(name, field, registers) * _TO_MILLI[field.unit])

    def _value(self, name: str, field: Field, registers: Registers) -> Fraction:
        words = [registers[field.table, field.address + k] for k in range(_WORDS[field.type])]
        if self.word_order == "little":
            words.reverse()
        raw = b"".join(word.to_bytes(2, self.byte_order) for word in words)
        if field.type in ("f32", "f64"):
            (number,) = struct.unpack(">f" if field.type == "f32" else ">d", raw)
            if not math.isfinite(number):
                raise PeerError(f"{self.model}: {name} is not available (it reads {number})")
            return Fraction(number) * Fraction(field.scale)
        return Fraction(int.from_bytes(raw, "big", signed=field.type.startswith("s"))) * Fraction(field.scale)


def shipped() -> frozenset[str]:
    """The names of the profiles that come with the controller."""
    folder = resources.files("edge.metering") / "profiles"
    return frozenset(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_profile(name: str, folder: Path | None = None) -> Profile:
    """The profile `name`, from `folder` if it has one, else the shipped one. Raises `ConfigError`."""
    own = folder / f"{name}.toml" if folder is not None else None
    if own is not None and own.is_file():
        return parse(own.read_text(encoding="utf-8"), str(own))
    if name not in shipped():
        raise ConfigError(
            [f"meter profile {name!r} does not exist; known are {', '.join(sorted(shipped()))}"]
        )
    text = (resources.files("edge.metering") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    return parse(text, f"profile {name}")


def parse(text: str, source: str) -> Profile:
    """A description file as a profile. Raises `ConfigError` naming the field and the remedy."""
    try:
        profile = msgspec.convert(tomllib.loads(text), Profile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ConfigError([f"{source}: {error}"]) from error
    needed = NEEDED if profile.phases == 1 else (*NEEDED, "current_l2", "current_l3")
    problems = [
        f"{source}: quantities.{name} is missing" for name in needed if name not in profile.quantities
    ]
    for name, field in profile.quantities.items():
        table = _TO_WH if name == "energy_import" else _TO_MILLI
        right = field.unit in table and (field.unit in ("W", "kW")) == (name == "power_total")
        if not right:
            problems.append(f"{source}: quantities.{name}.unit = {field.unit!r} is not a unit of it")
        if field.address + _WORDS[field.type] > 65_536:
            problems.append(f"{source}: quantities.{name} ends behind register 65535")
    if problems:
        raise ConfigError(problems)
    return profile
