"""A configuration is either a whole station or a list of every problem in it, one clear line each."""

import re
import string
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from edge.config import Config, load, read_config
from edge.config_schema import ConfigFile
from edge.config_tree import tree
from edge.control.background import MATCH_WITHIN_MS
from edge.control.site import NO_PARENT, Cap, Card, Sharing, Signal, SignalKind, Solar, Tier
from edge.errors import ConfigError
from edge.ports import SerialLink, TcpLink
from edge.schedule import Schedule, Window

PROFILES = frozenset({"sdm630", "sdm72"})
NOWHERE = Path("/nowhere")
WRONG_CONFIGS = Path(__file__).with_name("wrong_configs.txt")
EXAMPLE = Path(__file__).parents[2] / "systemd/edge.example.toml"

STATION = """\
[station]
id = "yard-1"
name = "Yard"
location = "Main Street 1"
support_contact = "+49 30 000000"
time_zone = "Europe/Berlin"

[tariff]
currency = "EUR"
per_kwh = "0.39"
per_session = 0.5
vat_percent = 19

[[buses]]
id = "line"
kind = "serial"
port = "/dev/ttyUSB0"
baud = 9600
parity = "N"
stop_bits = 1

[[buses]]
id = "gateway"
kind = "tcp"
host = "192.0.2.20"
port = 502

[[meters]]
id = "main"
bus = "gateway"
unit = 1
profile = "sdm630"

[[meters]]
id = "left"
bus = "line"
unit = 11
profile = "sdm630"

[[meters]]
id = "right"
bus = "line"
unit = 12
profile = "sdm72"

[[circuits]]
id = "garage"
parent = "house"
limit_a = [25, 20, 25]

[[circuits]]
id = "house"
limit_a = [32, 32, 32]
meter = "main"
fallback_a = [10, 10.5, 10]

[[connectors]]
number = 1
circuit = "garage"
phases = "L1L2L3"
min_a = 6
max_a = 16
meter = "left"
ventilated = false

[connectors.evse]
driver = "simpleevse"
bus = "line"
unit = 1

[[connectors]]
number = 2
circuit = "house"
phases = "L3"
min_a = 6.125
max_a = 32
meter = "right"
ventilated = true

[connectors.evse]
driver = "simpleevse"
bus = "line"
unit = 2

[[readers]]
id = "door"
name = "Virtual PCD 00 00"
connectors = [1, 2]

[[cards]]
uid = "04a2b3c4d5e680"
contract = "alice"

[[cards]]
uid = "ISO14443A:DE AD BE EF"
contract = "bob"
"""

UPLINK = """
[uplink]
host = "broker.example.org"
port = 8883
"""

SHARING = """
[sharing]
slot_min = 20
min_on_min = 12
min_off_min = 6
strict_classes = true
reclaim_after_s = 15
reclaim_headroom_a = 1.5

[[tiers]]
name = "gold"
weight = 1.5
class = 2

[[signals]]
source = "grid"
kind = "grid"
circuit = "house"
fallback_kw = 4.2

[[signals]]
source = "technician"
kind = "limit"
connector = 2
fallback_a = 16

[[signals]]
source = "roof"
kind = "solar"
circuit = "house"
import_kw = 0.5

[[signals]]
source = "evening"
kind = "schedule"
circuit = "garage"

[[signals.windows]]
days = ["tue", "mon"]
from = "17:00"
to = "20:00"
limit_a = [10, 10, 8]
limit_kw = 5.5

[[signals.windows]]
from = "22:00"
to = "06:00"
limit_a = 0
"""


def read(text: str, base_dir: Path = NOWHERE) -> Config:
    return read_config(text, base_dir, PROFILES)


def problems(text: str, base_dir: Path = NOWHERE) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, base_dir)
    return caught.value.problems


def changed(old: str, new: str, text: str = STATION) -> str:
    assert old in text
    return text.replace(old, new, 1)


def cases() -> Iterator[Any]:
    """The blocks of wrong_configs.txt: old lines, new lines, problems."""
    _, *blocks = WRONG_CONFIGS.read_text(encoding="utf-8").strip().split("\n\n")
    for block in blocks:
        old, new, told = (
            [line[2:] for line in block.splitlines() if line.startswith(mark)] for mark in ("- ", "+ ", "! ")
        )
        assert len(old) + len(new) + len(told) == len(block.splitlines())
        yield pytest.param(old, new, told, id=told[0][:60])


@pytest.mark.parametrize(("old", "new", "told"), list(cases()))
def test_a_wrong_configuration_is_told_word_by_word(
    tmp_path: Path, old: list[str], new: list[str], told: list[str]
) -> None:
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "closed").touch(mode=0o640)
    text = changed("\n".join(["", *old, ""]), "\n".join(["", *new, ""]), STATION + UPLINK + SHARING)
    assert problems(text, tmp_path) == told


@pytest.mark.parametrize("number", ["9" * 5_000, "1e9999999999999999999999"])
def test_a_number_without_end_is_told(number: str) -> None:
    assert problems(changed("unit = 11", f"unit = {number}")) == [
        "the file: a number far too large; correct it"
    ]


def test_brackets_without_end_are_told() -> None:
    assert problems(changed("unit = 11", f"unit = {'[' * 5_000}")) == [
        "the file: brackets nested too deeply; lists here hold plain values"
    ]


def test_an_end_in_the_middle_of_a_value_names_the_last_line() -> None:
    assert problems("[station]\nid =") == [
        "line 2, the last: Invalid value; this is not TOML, look for quotes, brackets and = there"
    ]


def test_two_names_of_one_serial_port_are_one_port(tmp_path: Path) -> None:
    (tmp_path / "ttyUSB0").touch()
    (tmp_path / "by-id").symlink_to(tmp_path / "ttyUSB0")
    first = STATION[STATION.index("[[buses]]") : STATION.index('[[buses]]\nid = "gateway"')]
    second = first.replace("/dev/ttyUSB0", f"{tmp_path}/by-id").replace('"line"', '"again"')
    (line,) = problems(changed("/dev/ttyUSB0", f"{tmp_path}/ttyUSB0") + second)
    assert line.endswith("buses[1] uses the same port; put all devices of this line on one bus")


def test_a_runtime_directory_too_deep_for_a_unix_socket_is_refused() -> None:
    fits, too_long = ("/" + "r" * length for length in (96, 97))
    assert read(STATION + f'[paths]\nruntime = "{fits}"\n').paths.runtime == Path(fits)
    (line,) = problems(STATION + f'[paths]\nruntime = "{too_long}"\n')
    assert "would have a path of 108 bytes, 107 is the most; choose a shorter path" in line


def test_a_group_that_this_machine_lacks_is_told() -> None:
    (line,) = problems(STATION + '[paths]\nlocal_group = "no-such-group"\n')
    assert line == (
        'paths.local_group = "no-such-group": no such group; make it: groupadd --system no-such-group'
    )


def test_all_problems_are_listed_at_once_of_values_names_and_sums() -> None:
    text = changed("max_a = 16", "max_a = 320")
    text = changed('profile = "sdm72"', 'profile = "em24"', text)
    text = changed("baud = 9600", "baudrate = 9600", text)
    text = changed("fallback_a = [10, 10.5, 10]", "fallback_a = [40, 10, 40]", text)
    text = changed('currency = "EUR"\n', "", text)
    told = problems(text)
    places = [line.partition(":")[0].partition(" ")[0] for line in told]
    assert sorted(places) == [
        "buses[1].baud",
        "buses[1].baudrate",
        "circuits[2].fallback_a[1]",
        "circuits[2].fallback_a[3]",
        "connectors[1].max_a",
        "meters[3].profile",
        "tariff.currency",
    ]


def test_a_wrong_bus_is_not_also_called_unknown_where_it_is_used() -> None:
    for old, new in (("baud = 9600", "baud = 1"), ('kind = "serial"', 'kind = "seriall"')):
        (line,) = problems(changed(old, new))
        assert line.startswith("buses[1].")
    (line,) = problems(
        "buses = 3\n" + STATION[: STATION.index("[[buses]]")] + STATION[STATION.index("[[meters]]") :]
    )
    assert line == "buses: a whole number, but a list is needed; write a table [[buses]]"


def test_a_card_number_or_password_never_appears_in_a_problem() -> None:
    text = changed('uid = "04a2b3c4d5e680"', 'uidd = "04a2b3c4d5e680"')
    assert "b3c4" not in "\n".join(problems(text))
    text = 'cards = ["04a2b3c4d5e680"]\n' + STATION[: STATION.index("[[cards]]")]
    assert "b3c4" not in "\n".join(problems(text))


def test_a_file_that_is_absent_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; give the path of a readable file"):
        load(tmp_path / "edge.toml", PROFILES)
    (tmp_path / "edge.toml").write_bytes(b'[station]\nid = "\xff"\n')
    with pytest.raises(ConfigError, match="line 2 is not UTF-8; save the file as UTF-8"):
        load(tmp_path / "edge.toml", PROFILES)


def test_a_station_is_resolved_for_the_core() -> None:
    site = read(STATION).site
    house, garage = site.circuits
    assert (house.id, house.parent, house.fallback_ma) == ("house", NO_PARENT, (10_000, 10_500, 10_000))
    assert (garage.id, garage.parent, garage.limit_ma) == ("garage", 0, (25_000, 20_000, 25_000))
    first, second = site.outlets
    assert (first.circuit, first.lines, first.max_ma, first.ventilated) == (1, (0, 1, 2), 16_000, False)
    assert (second.circuit, second.lines, second.min_ma, second.ventilated) == (0, (2,), 6_125, True)
    assert site.cards == {
        "ISO14443A:04A2B3C4D5E680": Card("ISO14443A:04A2B3C4D5E680", "alice"),
        "ISO14443A:DEADBEEF": Card("ISO14443A:DEADBEEF", "bob"),
    }
    assert (site.tariff.per_kwh, site.tariff.per_session) == (Decimal("0.39"), Decimal("0.5"))
    assert site.readers[0].connectors == (1, 2)


def test_what_the_file_does_not_say_about_sharing_is_what_the_core_takes_by_itself() -> None:
    site = read(STATION).site
    assert (site.sharing, site.signals) == (Sharing(), ())
    assert [circuit.unbalance_ma for circuit in site.circuits] == [None, None]
    assert [outlet.failsafe_ma for outlet in site.outlets] == [0, 0]
    assert {card.tier for card in site.cards.values()} == {Tier()}


def test_sharing_tiers_and_signals_are_resolved_for_the_core() -> None:
    text = changed('contract = "bob"', 'contract = "bob"\ntier = "gold"', STATION + SHARING)
    text = changed('meter = "main"', 'meter = "main"\nunbalance_a = 20', text)
    site = read(text).site
    assert site.sharing == Sharing(1_200_000, 720_000, 360_000, True, 15_000, 1_500)
    assert site.circuits[0].unbalance_ma == 20_000
    assert {card.contract: card.tier for card in site.cards.values()} == {
        "alice": Tier(),
        "bob": Tier(weight_percent=150, priority=2),
    }
    assert site.signals == (
        Signal("grid", SignalKind.GRID, 0, None, Cap(power_mw=4_200_000)),
        Signal("technician", SignalKind.LIMIT, None, 1, Cap((16_000, 16_000, 16_000))),
        Signal("roof", SignalKind.SOLAR, 0, None, None, Solar(500_000, 60_000, 600_000)),
        Signal("evening", SignalKind.LIMIT, 1, None, None),
    )


def test_a_schedule_is_resolved_for_its_hand() -> None:
    windows = (
        Window((0, 1), 17 * 60, 20 * 60, (10_000, 10_000, 8_000), 5_500_000),
        Window((0, 1, 2, 3, 4, 5, 6), 22 * 60, 6 * 60, (0, 0, 0), None),
    )
    assert read(STATION + SHARING).schedules == (
        Schedule("evening", "garage", None, "Europe/Berlin", windows),
    )


def test_meters_are_read_often_enough_to_be_matched_with_each_other() -> None:
    for ms, refused in ((MATCH_WITHIN_MS, False), (MATCH_WITHIN_MS + 1, True)):
        text = changed("unit = 11", f"unit = 11\npoll_ms = {ms}")
        assert isinstance(outcome(text), ConfigError) == refused


def test_the_hands_get_links_addresses_and_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    config = read(STATION + UPLINK + 'tls_ca = "ca.pem"\n[paths]\njournal = "j.sqlite"\n', tmp_path)
    line, gateway = config.buses
    assert (line.link, line.min_gap_ms) == (SerialLink("/dev/ttyUSB0", 9600, "N", 1), 100)
    assert (gateway.link, gateway.min_gap_ms) == (TcpLink("192.0.2.20", 502), 0)
    assert [(m.id, m.bus, m.unit, m.poll_ms) for m in config.meters] == [
        ("main", "gateway", 1, 500),
        ("left", "line", 11, 500),
        ("right", "line", 12, 500),
    ]
    assert [(e.connector, e.driver, e.unit) for e in config.evses] == [
        (1, "simpleevse", 1),
        (2, "simpleevse", 2),
    ]
    assert (config.paths.journal, config.paths.runtime) == (tmp_path / "j.sqlite", Path("/run/edge"))
    assert config.uplink is not None
    assert (config.uplink.client_id, config.uplink.resend_after_s) == ("yard-1", 30)
    assert config.uplink.tls is not None
    assert config.uplink.tls.ca == tmp_path / "ca.pem"


def test_nothing_electrical_has_a_default() -> None:
    electrical = "baud parity stop_bits unit limit_a phases min_a max_a ventilated"
    for key in electrical.split():
        line = next(line for line in STATION.splitlines() if line.startswith(f"{key} = "))
        assert any(f"{key}: missing" in told for told in problems(changed(f"{line}\n", "")))


def test_every_value_in_the_file_has_a_remedy_for_a_person() -> None:
    bare: list[str] = []

    def visit(node: inspect.Type, path: str, *, told: bool) -> None:
        match node:
            case inspect.Metadata():
                visit(node.type, path, told=told or "description" in (node.extra_json_schema or {}))
            case inspect.StructType():
                for field in node.fields:
                    visit(field.type, f"{path}.{field.encode_name}", told=False)
            case inspect.UnionType():
                for one in node.types:
                    visit(one, path, told=told)
            case inspect.VarTupleType():
                visit(node.item_type, path, told=told)
            case inspect.NoneType():
                pass
            case _ if not told:
                bare.append(path)
            case _:
                pass

    visit(inspect.type_info(ConfigFile), "", told=False)
    assert bare == []


def test_the_tree_shows_the_resolved_station_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2\n")
    (tmp_path / "pw").chmod(0o600)
    text = tree(read(STATION + UPLINK + 'username = "u"\npassword_file = "pw"\n', tmp_path))
    expected = [
        "station yard-1: Yard, Main Street 1",
        "├── price: 0.4641 EUR per kWh + 0.595 EUR per session (tax included)",
        "├── operator: broker.example.org:8883 without TLS, topics edge/..., client yard-1, user u",
        "├── bus line: /dev/ttyUSB0, 9600 8N1",
        "├── known cards: 2, contracts: 2",
        '├── reader door: "Virtual PCD 00 00", for connector 1, 2',
        "└── circuit house: 32/32/32 A, meter main (sdm630 at gateway/1); 10/10.5/10 A while it is silent",
        (
            "    ├── connector 2: L3, 6.125 to 32 A, ventilated, meter right (sdm72 at line/12), "
            "evse simpleevse at line/2"
        ),
        "    └── circuit garage: 25/20/25 A",
        (
            "        └── connector 1: L1L2L3, 6 to 16 A, meter left (sdm630 at line/11), "
            "evse simpleevse at line/1"
        ),
    ]
    lines = text.splitlines()
    assert [line for line in expected if line not in lines] == []
    assert "hunter2" not in text
    assert "D5E6" not in text
    assert "BEEF" not in text


def test_the_tree_shows_how_current_is_shared_and_who_may_limit_it() -> None:
    text = changed('meter = "main"', 'meter = "main"\nunbalance_a = 20', STATION + SHARING)
    lines = tree(read(text)).splitlines()
    for line in (
        "├── tier gold: weight 1.5, class 2",
        "├── sharing: turns of 20 min, at least 12 min on and 6 min off, higher classes are filled first",
        "├── current that is not drawn: after 15 s all but 1.5 A of it shared out",
        "├── signal grid for circuit house (grid operator, never below 4.2 kW a connector): "
        "4.2 kW while it is silent",
        "├── signal technician for connector 2: 16/16/16 A while it is silent",
        "├── signal roof for circuit house: the surplus and 0.5 kW from the grid, starts after 60 s, "
        "stops after 600 s",
        "├── signal evening for circuit garage, Europe/Berlin: "
        "mon tue 17:00 to 20:00 10/10/8 A and 5.5 kW; every day 22:00 to 06:00 0/0/0 A",
        "└── circuit house: 32/32/32 A, meter main (sdm630 at gateway/1); "
        "10/10.5/10 A while it is silent, phases at most 20 A apart",
    ):
        assert line in lines


def test_the_keys_that_the_example_only_mentions_are_right_as_they_stand() -> None:
    """Each commented block of the second half is taken out of its comment."""
    text = EXAMPLE.read_text(encoding="utf-8")
    blocks = [
        block
        for block in text.split("\n\n")
        if block.startswith(("# [sharing]", "# [[tiers]]", "# [[signals]]"))
    ]
    assert len(blocks) >= 6
    spoken = "\n\n".join(re.sub("^# ", "", block, flags=re.MULTILINE) for block in blocks)
    text = re.sub("^# (tier|unbalance_a) =", r"\1 =", text, flags=re.MULTILINE)
    config = read(f"{text}\n{spoken}")
    assert {signal.kind for signal in config.site.signals} == set(SignalKind)
    assert len(config.schedules) == 1
    assert config.site.circuits[0].unbalance_ma
    assert config.site.cards["ISO14443A:04A2B3C4D5E680"].tier != Tier()


def test_the_example_file_is_a_station_and_its_tree_names_every_part() -> None:
    text = tree(load(EXAMPLE, PROFILES))
    for part in (
        "station yard-1",
        "circuit house",
        "circuit garage",
        "connector 1",
        "connector 2",
        "reader door",
    ):
        assert part in text


def test_the_order_of_the_circuits_in_the_file_does_not_matter() -> None:
    start, house, end = (
        STATION.index(mark) for mark in ("[[circuits]]", '[[circuits]]\nid = "house"', "[[conn")
    )
    swapped = STATION[:start] + STATION[house:end] + STATION[start:house] + STATION[end:]
    assert swapped != STATION
    assert read(swapped).site == read(STATION).site


@given(st.integers(6_000, 80_000))
def test_every_milliamp_from_6_to_80_a_comes_through_exactly(ma: int) -> None:
    text = changed("[25, 20, 25]", "[80, 80, 80]")
    text = changed("[32, 32, 32]", "[80, 80, 80]", text)
    text = changed("max_a = 16", f"max_a = {Decimal(ma).scaleb(-3)}", text)
    assert read(text).site.outlets[0].max_ma == ma


def outcome(text: str) -> Config | ConfigError:
    """Read, and let everything but the one named error through."""
    try:
        result: Config | ConfigError = read(text)
    except ConfigError as error:
        result = error
    if isinstance(result, ConfigError):
        assert result.problems
        assert [line for line in result.problems if not line.isprintable()] == []
    else:
        assert tree(result)
    return result


@given(st.text())
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    outcome(text)


LITERALS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.text(string.printable, max_size=12).map(lambda text: f'"{text}"'),
    st.sampled_from(
        "nan -inf true [] {} [[]] [{}] {a=1} [1,2,3] [nan,0,-0.0] 1e-999999999 -0.0 0x7F 1979-05-27 07:32:00 "
        '"main" "house" "garage" "serial" "tcp" "/" "L1" "L3L2" "08aabbcc" "\\u0000" "\\u202e" '.split()
    ),
)
LINES = STATION.splitlines() + UPLINK.splitlines() + SHARING.splitlines()
CHANGES = st.lists(
    st.tuples(st.sampled_from(["value", "key", "drop", "twice"]), st.integers(0, len(LINES) - 1), LITERALS),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300)
@given(CHANGES)
@example([("value", i, "[]") for i, line in enumerate(LINES) if "=" in line])
def test_a_station_with_any_values_keys_and_lines_changed_is_a_config_or_a_config_error(
    changes: list[tuple[str, int, str]],
) -> None:
    lines = list(LINES)
    for kind, at, literal in changes:
        key, equals, value = lines[at].partition(" = ")
        match kind:
            case "value" if equals:
                lines[at] = f"{key} = {literal}"
            case "key" if equals:
                lines[at] = f"{literal} = {value}"
            case "drop":
                lines[at] = ""
            case "twice":
                lines[at] += f"\n{lines[at]}"
            case _:
                lines[at] = f"[{literal}]"
    outcome("\n".join(lines))
