"""Meter profiles: what the files may say, how few reads they cost, and exact values out of any registers."""

import itertools
import math
import struct
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge.errors import ConfigError, PeerError
from edge.metering.plan import MAX_CURRENT_MA, MAX_ENERGY_WH, MAX_POWER_MW, Block, Plan, blocks
from edge.metering.profile import (
    REGISTERS,
    Amperes,
    Profile,
    Quantities,
    WattHours,
    Watts,
    load_profile,
    parse,
    shipped,
)

SDM630 = (Path(__file__).parents[2] / "edge/metering/profiles/sdm630.toml").read_text()


def one_phase(
    current: Amperes | None = None,
    power: Watts | None = None,
    energy: WattHours | None = None,
    **changes: object,
) -> Profile:
    """A small profile of integers: current, power and energy one after the other."""
    profile = Profile(
        model="test meter",
        source="this test",
        phases=1,
        word_order="big",
        byte_order="big",
        max_registers=125,
        quantities=Quantities(
            current_l1=current or Amperes("input", 0, "u32", "mA"),
            power_total=power or Watts("input", 10, "s32", "W"),
            energy_import=energy or WattHours("input", 20, "u32", "Wh"),
        ),
    )
    return replace(profile, **changes)


def answers(profile: Profile, raw: dict[str, bytes]) -> list[list[int]]:
    """The registers of each block as a meter with these values would send them. `raw` is big-endian."""
    memory: dict[tuple[str, int], int] = {}
    for name, field in profile.quantities.present().items():
        words = [raw[name][k : k + 2] for k in range(0, len(raw[name]), 2)]
        if profile.word_order == "little":
            words.reverse()
        for k, word in enumerate(words):
            sent = word if profile.byte_order == "big" else word[::-1]
            memory[field.table, field.address + k] = int.from_bytes(sent, "big")
    return [
        [memory.get((block.table, block.address + k), 0xDEAD) for k in range(block.count)]
        for block in blocks(profile)
    ]


def packed(kind: str, value: float) -> bytes:
    codes = {"u16": "H", "s16": "h", "u32": "I", "s32": "i", "u64": "Q", "s64": "q", "f32": "f", "f64": "d"}
    return struct.pack(">" + codes[kind], value)


def small(**raw: bytes) -> dict[str, bytes]:
    """Raw values of `one_phase`, zero where not given."""
    return {"current_l1": bytes(4), "power_total": bytes(4), "energy_import": bytes(4)} | raw


# --- the shipped profiles ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_profile_loads_and_plans(name: str) -> None:
    profile = load_profile(name)
    assert all(block.count <= profile.max_registers for block in Plan(profile).blocks)


def test_an_sdm630_costs_one_read_and_gives_its_values() -> None:
    plan = Plan(load_profile("sdm630"))
    assert plan.blocks == (Block("input", 6, 68),)
    # IEEE 754: 15.9 A, 16.0 A, 0.0 A at 6, 8, 10; -1234.5 W at 52; 12345.678 kWh at 72
    at = {6: 0x417E6666, 8: 0x41800000, 10: 0, 52: 0xC49A5000, 72: 0x4640E6B6}
    registers = [0] * 68
    for address, value in at.items():
        registers[address - 6 : address - 4] = [value >> 16, value & 0xFFFF]
    assert plan.decode([registers]) == ((15_900, 16_000, 0), -1_234_500, 12_345_678)


def test_an_sdm630_that_sends_not_a_number_is_refused() -> None:
    registers = [0] * 68
    registers[0:2] = [0x7FC0, 0]
    with pytest.raises(PeerError, match=r"SDM630.*current_l1 is not available"):
        Plan(load_profile("sdm630")).decode([registers])


# --- values --------------------------------------------------------------------------------------------


@given(
    st.sampled_from([kind for kind in REGISTERS if kind[0] != "f"]),
    st.sampled_from(["big", "little"]),
    st.sampled_from(["big", "little"]),
    st.sampled_from(["1", "0.1", "0.0001", "0.000001", "3"]),
    st.sampled_from([("W", 1_000), ("kW", 1_000_000)]),
    st.data(),
)
def test_integers_come_out_exact_in_every_order_type_scale_and_unit(
    kind: str, word_order: str, byte_order: str, scale: str, unit: tuple[str, int], data: st.DataObject
) -> None:
    bits = 16 * REGISTERS[kind]
    least, most = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    edges = st.sampled_from([least, least + 1, most // 2, most // 2 + 1, most])
    value = data.draw(
        edges | st.integers(max(least, -200_000), min(most, 200_000)) | st.integers(least, most)
    )
    power = Watts("input", 10, kind, unit[0], Decimal(scale))  # type: ignore[arg-type] # drawn
    profile = one_phase(power=power, word_order=word_order, byte_order=byte_order)
    registers = answers(profile, small(power_total=packed(kind, value)))
    wanted = int((value * Decimal(scale) * unit[1]).to_integral_value(ROUND_HALF_EVEN))
    if abs(wanted) > MAX_POWER_MW:
        with pytest.raises(PeerError, match="cannot be"):
            Plan(profile).decode(registers)
    else:
        assert Plan(profile).decode(registers)[1] == wanted


@given(st.sampled_from(["f32", "f64"]), st.floats(width=32), st.sampled_from([("kWh", 1_000), ("Wh", 1)]))
def test_floats_are_rounded_once_and_what_is_no_number_is_refused(
    kind: str, value: float, unit: tuple[str, int]
) -> None:
    energy = WattHours("holding", 20, kind, unit[0])  # type: ignore[arg-type] # drawn
    profile = one_phase(energy=energy)
    registers = answers(profile, small(energy_import=packed(kind, value)))
    if not math.isfinite(value):
        with pytest.raises(PeerError, match="energy_import is not available"):
            Plan(profile).decode(registers)
        return
    wanted = int((Decimal(value) * unit[1]).to_integral_value(ROUND_HALF_EVEN))
    if not 0 <= wanted <= MAX_ENERGY_WH:
        with pytest.raises(PeerError, match="cannot be"):
            Plan(profile).decode(registers)
    else:
        assert Plan(profile).decode(registers)[2] == wanted


@pytest.mark.parametrize(("tenths", "milliamps"), [(4, 0), (5, 0), (6, 1), (15, 2), (25, 2), (35, 4)])
def test_halves_are_rounded_to_even(tenths: int, milliamps: int) -> None:
    profile = one_phase(Amperes("input", 0, "u16", "mA", Decimal("0.1")))
    registers = answers(profile, small(current_l1=packed("u16", tenths)))
    assert Plan(profile).decode(registers)[0][0] == milliamps


def test_a_current_that_flows_back_loads_the_wire_all_the_same() -> None:
    profile = one_phase(Amperes("input", 0, "s16", "A", Decimal("0.01")), Watts("input", 10, "s32", "kW"))
    raw = small(current_l1=packed("s16", -1_050), power_total=packed("s32", -2))
    assert Plan(profile).decode(answers(profile, raw)) == ((10_500, 0, 0), -2_000_000, 0)


@pytest.mark.parametrize(
    ("kind", "absent"), [("u16", 0xFFFF), ("s16", 0x8000), ("u32", 0xFFFF_FFFF), ("s32", 0x8000_0000)]
)
def test_an_encoding_that_means_no_value_is_never_a_value(kind: str, absent: int) -> None:
    current = Amperes("input", 0, kind, "mA", Decimal("0.0001"), (absent,))  # type: ignore[arg-type] # a str
    profile = one_phase(current)
    raw = absent.to_bytes(2 * REGISTERS[kind], "big")
    with pytest.raises(PeerError, match="current_l1 is not available"):
        Plan(profile).decode(answers(profile, small(current_l1=raw)))
    beside = (absent - 1).to_bytes(2 * REGISTERS[kind], "big")
    assert Plan(profile).decode(answers(profile, small(current_l1=beside)))


@pytest.mark.parametrize(
    ("name", "most", "beyond"),
    [
        ("current_l1", MAX_CURRENT_MA, MAX_CURRENT_MA + 1),
        ("power_total", MAX_POWER_MW, MAX_POWER_MW + 1),
        ("power_total", -MAX_POWER_MW, -MAX_POWER_MW - 1),
        ("energy_import", MAX_ENERGY_WH, MAX_ENERGY_WH + 1),
        ("energy_import", 0, -1),
    ],
)
def test_a_value_is_believed_up_to_its_bound_and_refused_beyond(name: str, most: int, beyond: int) -> None:
    milli = Decimal("0.001")
    profile = one_phase(
        Amperes("input", 0, "s64", "mA"),
        Watts("input", 10, "s64", "W", milli),
        WattHours("input", 20, "s64", "Wh"),
    )
    rest = {"current_l1": bytes(8), "power_total": bytes(8), "energy_import": bytes(8)}
    assert Plan(profile).decode(answers(profile, rest | {name: packed("s64", most)}))
    with pytest.raises(PeerError, match=f"test meter: it reads {beyond} m?[AW]h?, which cannot be"):
        Plan(profile).decode(answers(profile, rest | {name: packed("s64", beyond)}))


def test_the_same_addresses_of_both_tables_are_kept_apart() -> None:
    profile = one_phase(
        Amperes("input", 0, "u16", "mA"), Watts("holding", 0, "u16", "W"), WattHours("input", 1, "u16", "Wh")
    )
    raw = {"current_l1": b"\0\1", "power_total": b"\0\2", "energy_import": b"\0\3"}
    assert Plan(profile).decode(answers(profile, raw)) == ((1, 0, 0), 2_000, 3)


@given(
    st.fixed_dictionaries(
        {name: st.sampled_from(sorted(REGISTERS)) for name in ("current_l1", "power_total", "energy_import")}
    ),
    st.sampled_from(["big", "little"]),
    st.data(),
)
def test_any_registers_are_a_plausible_reading_or_one_named_error(
    types: dict[str, str], word_order: str, data: st.DataObject
) -> None:
    profile = one_phase(
        Amperes("input", 0, types["current_l1"], "A"),  # type: ignore[arg-type] # drawn
        Watts("input", 10, types["power_total"], "kW"),  # type: ignore[arg-type] # drawn
        WattHours("input", 20, types["energy_import"], "MWh"),  # type: ignore[arg-type] # drawn
        word_order=word_order,
    )
    sent = [
        data.draw(st.lists(st.integers(0, 0xFFFF), min_size=block.count, max_size=block.count))
        for block in blocks(profile)
    ]
    try:
        current_ma, power_mw, energy_wh = Plan(profile).decode(sent)
    except PeerError:
        return
    assert all(0 <= ma <= MAX_CURRENT_MA for ma in current_ma)
    assert abs(power_mw) <= MAX_POWER_MW
    assert 0 <= energy_wh <= MAX_ENERGY_WH


# --- reads ---------------------------------------------------------------------------------------------

addresses = st.integers(0, 60)
tables = st.sampled_from(["input", "holding"])
types = st.sampled_from(sorted(REGISTERS))


def fewest(spans: Sequence[tuple[str, int, int]], longest: int) -> int:
    """How many reads are needed, by trying: every way to put the spans into groups of one read each."""
    for count in range(1, len(spans) + 1):
        for groups in itertools.product(range(count), repeat=len(spans)):
            members = [[s for s, g in zip(spans, groups, strict=True) if g == k] for k in range(count)]
            if all(
                len({table for table, _, _ in group}) <= 1
                and (not group or max(e for _, _, e in group) - min(f for _, f, _ in group) <= longest)
                for group in members
            ):
                return count
    return len(spans)


@given(st.lists(st.tuples(tables, addresses, types), min_size=5, max_size=5), st.integers(4, 60))
def test_the_reads_cover_every_field_are_short_enough_and_as_few_as_can_be(
    places: list[tuple[str, int, str]], longest: int
) -> None:
    a, b, c, power, energy = places
    profile = one_phase(
        phases=3,
        max_registers=longest,
        quantities=Quantities(
            current_l1=Amperes(*a, "A"),  # type: ignore[arg-type] # drawn
            current_l2=Amperes(*b, "A"),  # type: ignore[arg-type] # drawn
            current_l3=Amperes(*c, "A"),  # type: ignore[arg-type] # drawn
            power_total=Watts(*power, "W"),  # type: ignore[arg-type] # drawn
            energy_import=WattHours(*energy, "Wh"),  # type: ignore[arg-type] # drawn
        ),
    )
    spans = [(table, first, first + REGISTERS[kind]) for table, first, kind in places]
    assume(all(before[0] != after[0] or before[2] <= after[1] for before, after in pairwise(sorted(spans))))
    made = blocks(profile)
    for table, first, end in spans:
        assert any(
            b.table == table and b.address <= first and end <= b.address + b.count <= b.address + longest
            for b in made
        )
    assert len(made) == fewest(spans, longest)


# --- the files -----------------------------------------------------------------------------------------


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "own.toml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("phases = 3", "phases = 2", "phases = 2: not one of 1, 3; write 1 or 3"),
        (
            "phases = 3",
            "phases = 1",
            "quantities.current_l2: one phase too many; remove it, or write phases = 3",
        ),
        ("phases = 3", "phase = 3", "phase: unknown key; did you mean phases?"),
        ("max_registers = 80", "max_registers = 126", "max_registers = 126"),
        ("max_registers = 80", "max_registers = 1", 'current_l1.type = "f32": takes 2 registers'),
        ('word_order = "big"', 'word_order = "mixed"', 'word_order = "mixed": not one of "big", "little"'),
        ("address = 6\n", "address = 65536\n", "quantities.current_l1.address = 65536"),
        ("address = 6\n", "address = 65535\n", "ends behind register 65535"),
        ("address = 6\n", "address = 7\n", "quantities.current_l2: shares register 8 with current_l1"),
        ("address = 6\n", "address = 6\nscale = 0\n", "quantities.current_l1.scale = 0: makes every value 0"),
        ("address = 6\n", "address = 6\nscale = -1\n", "quantities.current_l1.scale = -1"),
        (
            "address = 6\n",
            "address = 6\nabsent = [1]\n",
            "quantities.current_l1.absent: a float says it itself",
        ),
        (
            'unit = "kWh"',
            'unit = "kW"',
            'quantities.energy_import.unit = "kW": not one of "MWh", "Wh", "kWh"; write',
        ),
        ('unit = "W"', 'unit = "A"', "quantities.power_total.unit"),
        ('table = "input"', 'table = "coil"', 'table = "coil": not one of "holding", "input"; write'),
        ("[quantities.power_total]", "[quantities.power]", "quantities.power_total: missing"),
        ("[quantities.current_l3]", "[quantities.current_l4]", "quantities.current_l4: unknown key"),
        ('model = "', "model = ", "this is not TOML"),
    ],
)
def test_a_wrong_profile_is_refused_with_file_place_and_remedy(right: str, wrong: str, problem: str) -> None:
    assert right in SDM630
    lines = problems(SDM630.replace(right, wrong, 1))
    assert all(line.startswith("own.toml: ") and "; " in line for line in lines)
    assert any(problem in line for line in lines)


@pytest.mark.parametrize(
    ("wrong", "right"), [("address = 6\n", "address = 65534\n"), ("max_registers = 80", "max_registers = 2")]
)
def test_what_just_fits_is_accepted(wrong: str, right: str) -> None:
    parse(SDM630.replace(wrong, right, 1), "own.toml")


def test_an_absent_value_that_does_not_fit_its_type_is_refused() -> None:
    text = SDM630.replace(
        'address = 6\ntype = "f32"', 'address = 6\ntype = "u16"\nabsent = [65535, 65536]', 1
    )
    assert problems(text) == [
        "own.toml: quantities.current_l1.absent = 65536: more than u16 can hold; write the register value"
    ]


def test_three_phases_need_three_currents() -> None:
    start, end = SDM630.index("[quantities.current_l3]"), SDM630.index("[quantities.power_total]")
    assert problems(SDM630[:start] + SDM630[end:]) == [
        "own.toml: quantities.current_l3: missing; a meter of three phases needs [quantities.current_l3]"
    ]


@given(st.text(max_size=300))
def test_any_other_text_is_a_list_of_problems(text: str) -> None:
    with pytest.raises(ConfigError):  # a profile has too many keys to come about by chance
        parse(text, "own.toml")


def test_an_own_profile_wins_over_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "sdm630.toml").write_text(SDM630.replace("max_registers = 80", "max_registers = 60"))
    assert load_profile("sdm630", tmp_path).max_registers == 60
    assert load_profile("sdm630").max_registers == 80
    assert load_profile("sdm630", tmp_path / "none").max_registers == 80


@pytest.mark.parametrize(
    "name", ["sdm360", "../sdm630", "folder/../../sdm630", "", "SDM630", "a" * 65, "sdm630\n"]
)
def test_a_name_without_a_profile_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "sdm630.toml").write_text(SDM630)
    (tmp_path / "own" / "folder").mkdir(parents=True)
    with pytest.raises(ConfigError, match="meter profile"):
        load_profile(name, tmp_path / "own")


def test_a_profile_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"own\.toml: cannot be read"):
        load_profile("own", tmp_path)
