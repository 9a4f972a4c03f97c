"""RIG.toml: every problem at once, each with its place in the file and what to do."""

import re
import tomllib
from pathlib import Path

import pytest

from edge.wiring import load_config
from hal_mocks.keys import KEYS
from hal_mocks.rig_file import NO_GPIO, RigFileError, fill, parse, read

EXAMPLES = Path(__file__).parents[2] / "hal_mocks" / "rigs"
PAGE = Path(__file__).parents[2] / "docs" / "rig.md"

GARAGE = """
[[lines]]
id = "bus"
path = "{folder}/ttyBus"

[[meters]]
id = "site"
on = "bus"
unit = 1

[[boards]]
id = "left"
on = "bus"
unit = 11

[[circuits]]
id = "main"
limit_a = 32
meter = "site"

[[connectors]]
number = 1
circuit = "main"
board = "left"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(RigFileError) as caught:
        parse(text, "RIG.toml")
    return list(caught.value.problems)


def problem(text: str) -> str:
    (line,) = problems(text)
    return line


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_is_a_rig_or_the_configuration_for_one(path: Path) -> None:
    if not path.stem.endswith("-station"):
        assert read(path).connectors


def test_a_file_says_what_there_is_and_what_it_does_not_name_is_not_there() -> None:
    file = parse(GARAGE, "RIG.toml")
    assert file.circuits[0].limit_ma == (32_000, 32_000, 32_000)
    assert file.connectors[0].phases == "L1L2L3"
    assert (file.reader, file.broker, file.backend) == (None, None, None)


def test_all_problems_are_told_at_once_with_file_and_key() -> None:
    text = GARAGE.replace("unit = 11", "unit = 300\nunlt = 3").replace("limit_a = 32", "limit_a = [1, 2]")
    told = problems(text + "[broker]\nport = true\n")
    assert told == [
        "RIG.toml: boards[1].unlt: unknown key; did you mean unit?",
        "RIG.toml: boards[1].unit = 300: more than 247; give its Modbus address, 1 to 247",
        "RIG.toml: circuits[1].limit_a = [1, 2]: not one rating or three; give the fuse's rating, or "
        "[L1, L2, L3]",
        "RIG.toml: broker.port = true: not a whole number; give a TCP port, or leave it out for a free one",
    ]


def test_two_devices_with_one_unit_on_a_line_are_named() -> None:
    assert problem(GARAGE.replace("unit = 11", "unit = 1")) == (
        'RIG.toml: boards[1].unit = 1: meters[1] on "bus" has it already and both would answer; '
        "choose another"
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('path = "{folder}/ttyBus"', "", "it is nowhere; give it `path` for a pty"),
        ('path = "{folder}/ttyBus"', 'path = "a"\ndevice = "/dev/ttyUSB0"', "both `path` and `device`"),
        ('path = "{folder}/ttyBus"', 'device = "/dev/ttyUSB0"', "a real port needs the rate"),
        ('path = "{folder}/ttyBus"', 'path = "a"\nreal = true', "a pty is not real"),
        ('path = "{folder}/ttyBus"', 'path = "a"\nparity = "E"', "means nothing on a pty"),
        ('path = "{folder}/ttyBus"', 'path = "a"\nnoise = { los = 1 }', "did you mean loss?"),
        ('path = "{folder}/ttyBus"', 'path = "a"\nnoise = { loss = 2 }', "not a number from 0 to 1"),
        ('on = "bus"\nunit = 11', 'on = "bux"\nunit = 11', "no such line or port; did you mean bus?"),
        ('meter = "site"', 'meter = "sight"', "not in this file; did you mean site?"),
        ('meter = "site"', 'parent = "main"', "the circuit is above itself"),
        ('board = "left"', 'board = "left"\nmeter = "site"', "a meter measures one place"),
        ('board = "left"', 'board = "left"\nphases = "L1L3L2"', "not one of"),
        ('board = "left"', "", "connectors[1].board: missing; name one of [[boards]]"),
        ("limit_a = 32", "limit_a = 0", "not an ampere rating"),
        ("number = 1", 'number = "1"', "not a whole number"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_one_line_with_the_remedy(old: str, new: str, told: str) -> None:
    line = "\n".join(problems(GARAGE.replace(old, new)))
    assert told in line
    assert ";" in line


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("[backend]", "there is no broker it could be reached through"),
        ("[reader]\nkind = 'memory'\nname = 'x'", "only a real reader has a name"),
        ("[reader]\nkind = 'real'", "reader.name: missing"),
        ("[cards]\nalice = '04A1'", "give 4, 7 or 10 bytes in hex"),
        ("[[ports]]\nid = 'bus'", "lines[1] has it already"),
        ("[[ports]]\nid = 'gate'\nreal = true", "a real gateway needs `host` and `port`"),
        ("[[ports]]\nid = 'gate'\nhost = '192.0.2.1'", "the rig serves on the loopback only"),
        ("[lamp]", "unknown table; known here: lines"),
    ],
)
def test_what_does_not_fit_together_is_told(more: str, told: str) -> None:
    assert told in problem(f"{GARAGE}\n{more}\n")


@pytest.mark.parametrize("text", [f"{GARAGE}gpio = 17\n", f"{GARAGE}\n[gpio]\npin = 17\n"])
def test_gpio_is_refused_with_a_sentence_until_the_controller_has_a_driver(text: str) -> None:
    assert NO_GPIO in problem(text)


def test_a_real_line_takes_no_device_of_the_rig() -> None:
    text = GARAGE.replace('path = "{folder}/ttyBus"', 'device = "/dev/ttyUSB0"\nreal = true')
    assert [line.partition(": ")[2] for line in problems(text)] == [
        f'{device}.on = "bus": real devices answer there; take this one out, or `real` out of the line'
        for device in ("meters[1]", "boards[1]")
    ]


def test_a_name_alone_makes_the_reader_a_real_one() -> None:
    reader = parse(GARAGE + '[reader]\nname = "ACS ACR122U"\n', "RIG.toml").reader
    assert reader is not None
    assert reader.kind == "real"


def test_a_file_that_is_not_there_or_not_toml_is_told(tmp_path: Path) -> None:
    with pytest.raises(RigFileError, match="give the path of a readable"):
        read(tmp_path / "none.toml")
    assert "this is not TOML" in problem("[[lines")


def test_placeholders_are_filled_and_unknown_ones_told_with_their_line() -> None:
    names = {"folder": "/tmp/rig", "broker.port": "1883"}
    assert fill('a = "{folder}/x"\n# {any}\nport = {broker.port}\n', names, "c.toml") == (
        'a = "/tmp/rig/x"\n# {any}\nport = 1883\n'
    )
    with pytest.raises(RigFileError) as caught:
        fill("\nport = {broker.prt}\nt = { a = 1 }\nx = '{foldr}'\n", names, "c.toml")
    assert list(caught.value.problems) == [
        "c.toml: line 2: {broker.prt}: no placeholder; did you mean broker.port?",
        "c.toml: line 4: {foldr}: no placeholder; did you mean folder?",
    ]


def test_an_example_of_a_station_is_a_good_configuration_once_it_is_filled(tmp_path: Path) -> None:
    names = {"folder": str(tmp_path), "reader.name": "Virtual PCD", "broker.host": "127.0.0.1"}
    names |= {"broker.port": "1883", "lines.meters": "/dev/ttyA", "lines.controllers": "/dev/ttyB"}
    names |= {"meters.site": "1", "meters.left": "11", "meters.right": "12"}
    names |= {"boards.left": "1", "boards.right": "2"}
    names |= {"cards.alice": "04A1A2A3A4A5A6", "cards.bob": "04B1B2B3B4B5B6"}
    text = fill((EXAMPLES / "garage-station.toml").read_text(), names, "garage-station.toml")
    assert tomllib.loads(text)
    (tmp_path / "edge.toml").write_text(text)
    load_config(tmp_path / "edge.toml")


def test_the_blocks_of_the_page_are_rigs_and_parts_of_one() -> None:
    whole, *parts = [part.partition("```")[0] for part in PAGE.read_text().split("```toml\n")[1:]]
    assert parse(whole, "docs/rig.md").connectors
    assert len(parts) == 2
    for part in parts:
        only_other_tables = re.sub(r"(?s)\[\[lines\]\].*?\n\n", "", whole, count=1)
        text = only_other_tables if '"bus"' in part else whole
        assert parse(f"{part}\n{text}", "docs/rig.md").lines


def test_the_keys_of_the_page_are_the_keys_of_the_view() -> None:
    row = re.search(r"Keys: (.*?)\n\n", PAGE.read_text(), re.DOTALL)
    assert row is not None
    assert re.findall(r"`(.)`", row[1]) == list(KEYS)
