"""A meter's description file: which registers hold what. `edge.metering.plan` makes reads and values of it.

One TOML file per meter in `profiles/`, named as the configuration names it. Addresses are zero-based protocol
addresses, as they stand on the wire. Adding a meter needs no code.
"""

import re
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from edge import toml_strict
from edge.errors import ConfigError
from edge.toml_strict import Problems

REGISTERS: Final = {"u16": 1, "s16": 1, "u32": 2, "s32": 2, "u64": 4, "s64": 4, "f32": 2, "f64": 4}
"""Types and how many registers of 16 bits each takes."""

MOST_REGISTERS = 125
"""In one read: MODBUS Application Protocol V1.1b3, 6.3."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Table = Annotated[
    Literal["input", "holding"],
    Meta(description='write "input" if the manual reads it with function 4, "holding" for function 3'),
]
Address = Annotated[
    int, Meta(ge=0, le=65_535, description="write the zero-based protocol address, 0 to 65535")
]
Type = Annotated[
    Literal["u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64"],
    Meta(description="write u, s or f for unsigned, signed or float, and the bits of it"),
]
Scale = Annotated[
    Decimal, Meta(extra={"most": 1_000_000}, description="write what the register counts in, e.g. 0.1")
]
Absent = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=2**63 - 1)], ...],
    Meta(description="write the register values, unsigned, that mean there is no value"),
]
Order = Annotated[
    Literal["big", "little"],
    Meta(description='write "big" if the most significant part comes first, else "little"'),
]


class Amperes(Struct, frozen=True):
    """Where a current stands: register value x `scale` is in `unit`."""

    table: Table
    address: Address
    type: Type
    unit: Annotated[Literal["A", "mA"], Meta(description="write A or mA")]
    scale: Scale = Decimal(1)
    absent: Absent = ()


class Watts(Struct, frozen=True):
    """Where a power stands; positive is import."""

    table: Table
    address: Address
    type: Type
    unit: Annotated[Literal["W", "kW"], Meta(description="write W or kW")]
    scale: Scale = Decimal(1)
    absent: Absent = ()


class WattHours(Struct, frozen=True):
    """Where an energy register stands."""

    table: Table
    address: Address
    type: Type
    unit: Annotated[Literal["Wh", "kWh", "MWh"], Meta(description="write Wh, kWh or MWh")]
    scale: Scale = Decimal(1)
    absent: Absent = ()


Field = Amperes | Watts | WattHours


class Quantities(Struct, frozen=True):
    """[quantities]: what protects a circuit and what a session is billed by; the least a meter must give."""

    current_l1: Amperes
    power_total: Watts
    energy_import: WattHours
    current_l2: Amperes | None = None
    current_l3: Amperes | None = None

    def present(self) -> dict[str, Field]:
        """The fields there are, by name."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: field for name, field in fields.items() if field is not None}


class SerialDefaults(Struct, frozen=True):
    """[serial]: how the meter leaves its factory."""

    baud: Annotated[
        Literal[1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200], Meta(description="write the rate")
    ]
    parity: Annotated[Literal["N", "E", "O"], Meta(description="write N, E or O")]
    stop_bits: Annotated[Literal[1, 2], Meta(description="write 1 or 2")]
    confidence: Annotated[
        Literal["documented", "typical", "unverified"],
        Meta(description="write documented, typical or unverified: a technician wants to know"),
    ]


class Profile(Struct, frozen=True):
    """A meter model. `word_order`: of registers in a value; `byte_order`: of bytes in a register."""

    model: Annotated[str, Meta(max_length=100, description="write maker and model")]
    source: Annotated[str, Meta(max_length=300, description="write where the addresses are from")]
    phases: Annotated[Literal[1, 3], Meta(description="write 1 or 3")]
    word_order: Order
    byte_order: Order
    max_registers: Annotated[
        int, Meta(ge=1, le=MOST_REGISTERS, description="write how many registers it gives in one read")
    ]
    quantities: Quantities
    min_gap_ms: Annotated[
        int, Meta(ge=0, le=1_000, description="write the silence it needs between two requests")
    ] = 0
    serial: SerialDefaults | None = None


def shipped() -> frozenset[str]:
    """The names of the profiles that come with the controller."""
    names = (entry.name for entry in (resources.files("edge.metering") / "profiles").iterdir())
    return frozenset(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_profile(name: str, extra_dir: Path | None = None) -> Profile:
    """The profile `name`: from `extra_dir` if it has one, else the shipped one. Raises `ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            [f"meter profile {toml_strict.shown(name)}: no name; write lower-case letters, digits, _ or -"]
        )
    own = extra_dir / f"{name}.toml" if extra_dir is not None else None
    if own is not None and own.is_file():
        try:
            return parse(own.read_text(encoding="utf-8"), str(own))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"{own}: cannot be read ({error}); it must be UTF-8 text"]) from error
    if name not in shipped():
        remedy = toml_strict.nearest(name, sorted(shipped()))
        raise ConfigError([f"meter profile {toml_strict.shown(name)}: does not exist; {remedy}"])
    text = (resources.files("edge.metering") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    return parse(text, f"profile {name}")


def parse(text: str, source: str) -> Profile:
    """A description file as a profile; `source` names it. Raises `ConfigError` with every problem."""
    problems = Problems()
    try:
        profile = toml_strict.decode(toml_strict.parse(text), Profile, problems)
    except ConfigError as error:
        raise ConfigError([f"{source}: {line}" for line in error.problems]) from error
    if not problems.lines:
        _check(profile, problems)
    if problems.lines:
        raise ConfigError([f"{source}: {line}" for line in problems.lines])
    return profile


def _check(profile: Profile, problems: Problems) -> None:
    fields = profile.quantities.present()
    for name in ("current_l2", "current_l3"):
        path = f"quantities.{name}"
        if profile.phases == 3 and name not in fields:
            problems.note(path, "missing", f"a meter of three phases needs [{path}]")
        if profile.phases == 1 and name in fields:
            problems.note(path, "one phase too many", "remove it, or write phases = 3")
    taken: dict[tuple[str, int], str] = {}
    for name, field in fields.items():
        _check_field(f"quantities.{name}", field, profile, problems)
        for address in range(field.address, field.address + REGISTERS[field.type]):
            other = taken.setdefault((field.table, address), name)
            if other != name:
                problems.note(
                    f"quantities.{name}",
                    f"shares register {address} with {other}",
                    "correct an address or type",
                )
                break


def _check_field(path: str, field: Field, profile: Profile, problems: Problems) -> None:
    registers = REGISTERS[field.type]
    if field.address + registers > 65_536:
        problems.add(
            f"{path}.address", field.address, "ends behind register 65535", "correct address or type"
        )
    if registers > profile.max_registers:
        problems.add(
            f"{path}.type", field.type, f"takes {registers} registers", "correct it, or raise max_registers"
        )
    if field.scale == 0:
        problems.add(f"{path}.scale", field.scale, "makes every value 0", "write what the register counts in")
    for value in field.absent:
        if value >= 1 << 16 * registers:
            problems.add(
                f"{path}.absent", value, f"more than {field.type} can hold", "write the register value"
            )
    if field.absent and field.type.startswith("f"):
        problems.note(f"{path}.absent", "a float says it itself", "remove it: not-a-number is always refused")
