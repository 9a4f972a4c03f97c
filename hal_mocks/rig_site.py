"""The site of the ordinary rig and the configuration that fits it: the same on real wires and in memory."""

from dataclasses import dataclass

from hal_mocks.evse import SimpleEvse
from hal_mocks.meter import Sdm630
from hal_mocks.world import Circuit, Connector, World

CARDS = {
    "alice": "04A1A2A3A4A5A6",
    "bob": "04B1B2B3B4B5B6",
    "stranger": "04C1C2C3C4C5C6",
}
"""Card numbers by name; the station knows alice and bob, each under a contract of that name."""

STATION = "rig-1"

_ROTATIONS = ("L1L2L3", "L2L3L1", "L3L1L2")
_LINES = {"L1L2L3": (0, 1, 2), "L2L3L1": (1, 2, 0), "L3L1L2": (2, 0, 1)}


@dataclass(frozen=True)
class Wiring:
    """Where the daemon finds what the configuration names."""

    folder: str  # for journal and runtime directory
    meters_port: str
    evse_port: str
    broker_host: str
    broker_port: int
    reader_name: str


def config_text(world: World, wiring: Wiring, *, poll_ms: int = 250, extra: str = "") -> str:
    """An ordinary configuration file for this world; `extra` is TOML that is added to its end."""
    limit_ma = world.circuits["site"].limit_ma[0]
    amps, half = f"{limit_ma / 1000:g}", f"{limit_ma / 2000:g}"
    parts = [
        _HEAD.format(station=STATION, wiring=wiring),
        _METER.format(name="site", unit=world.meters["site"].unit, poll_ms=poll_ms),
        _CIRCUIT.format(amps=amps, half=half),
    ]
    for n, board in world.evses.items():
        meter = world.meters[f"connector-{n}"]
        parts.append(_METER.format(name=f"connector-{n}", unit=meter.unit, poll_ms=poll_ms))
        most_a = f"{min(limit_ma, 32_000) / 1000:g}"  # a plate may not promise more than the supply has
        parts.append(
            _CONNECTOR.format(number=n, phases=_rotation(n), most_a=most_a, unit=board.unit, poll_ms=poll_ms)
        )
    parts.append(_READER.format(name=wiring.reader_name, numbers=list(world.evses)))
    parts += [_CARD.format(uid=CARDS[name], contract=name) for name in ("alice", "bob")]
    return "\n".join([*parts, extra])


_HEAD = """\
# Written by the rig; an ordinary configuration file.
[station]
id = "{station}"
name = "Simulated garage"
location = "Rig Street 1, Test Town"
support_contact = "+49 30 000000"

[paths]
journal = "{wiring.folder}/journal.sqlite"
runtime = "{wiring.folder}/run"

[uplink]
host = "{wiring.broker_host}"
port = {wiring.broker_port}
meter_interval_s = 1
resend_after_s = 2

[tariff]
currency = "EUR"
per_kwh = "0.39"
per_session = "0.50"
vat_percent = 19

[[buses]]
id = "meters"
kind = "serial"
port = "{wiring.meters_port}"
baud = 9600
parity = "N"
stop_bits = 1
min_gap_ms = 20

[[buses]]
id = "evse"
kind = "serial"
port = "{wiring.evse_port}"
baud = 9600
parity = "N"
stop_bits = 1
min_gap_ms = 20
"""


_METER = """\
[[meters]]
id = "{name}"
bus = "meters"
unit = {unit}
profile = "sdm630"
poll_ms = {poll_ms}
"""

_CIRCUIT = """\
[[circuits]]
id = "main"
limit_a = [{amps}, {amps}, {amps}]
meter = "site"
fallback_a = [{half}, {half}, {half}]
"""

_CONNECTOR = """\
[[connectors]]
number = {number}
circuit = "main"
phases = "{phases}"
min_a = 6
max_a = {most_a}
meter = "connector-{number}"
ventilated = false

[connectors.evse]
driver = "simpleevse"
bus = "evse"
unit = {unit}
poll_ms = {poll_ms}
"""

_READER = """\
[[readers]]
id = "front"
name = "{name}"
connectors = {numbers}
"""

_CARD = """\
[[cards]]
uid = "{uid}"
contract = "{contract}"
"""


def _rotation(number: int) -> str:
    return _ROTATIONS[(number - 1) % len(_ROTATIONS)]


def world(connectors: int, limit_ma: int) -> World:
    """One measured supply; each connector rotated by one phase more than the last, as electricians do."""
    main = Circuit("site", (limit_ma, limit_ma, limit_ma), meter=Sdm630(1, start_wh=41_000_000))
    outlets = [
        Connector(
            number,
            "site",
            evse=SimpleEvse(number),
            meter=Sdm630(10 + number, start_wh=1_000_000 * number, serial_number=17_400_000 + number),
            lines=_LINES[_rotation(number)],
        )
        for number in range(1, connectors + 1)
    ]
    return World([main], outlets)
