"""The configuration: from a TOML file to what the daemon runs on. See systemd/edge.example.toml.

`config_schema` says what each key may hold, `config_checks` what must fit together. Here both are run and the
result is resolved: file names to absolute paths, circuit names to indices, cards to canonical ids. Whoever
starts the daemon reads every problem of his file at once, one line each.
"""

from pathlib import Path

from msgspec import Struct

from edge.config_checks import amps, canonical_uid, check, phase_lines
from edge.config_schema import CircuitTable, ConfigFile, SerialBusTable, TcpBusTable, UplinkTable
from edge.control.site import NO_PARENT, Card, Circuit, Outlet, ReaderSite, Site
from edge.errors import ConfigError
from edge.events import Phases
from edge.payments.tariff import price_text
from edge.ports import Link, SerialLink, TcpLink
from edge.records import Tariff
from edge.toml_strict import Problems, decode, parse


class Station(Struct, frozen=True):
    """What people are told about the place."""

    id: str
    name: str
    location: str
    support_contact: str
    time_zone: str | None  # IANA name


class Paths(Struct, frozen=True):
    """Absolute paths; the socket `edge.sock` and the file `alive` live in `runtime`."""

    journal: Path
    runtime: Path
    local_group: str | None  # members may use the local socket


class Tls(Struct, frozen=True):
    """PEM files: the authority that the broker is checked by, and the station's own certificate and key."""

    ca: Path
    cert: Path | None
    key: Path | None


class Uplink(Struct, frozen=True):
    """The operator's MQTT broker and how to report to it."""

    host: str
    port: int
    prefix: str  # first levels of every topic
    client_id: str
    username: str | None
    password_file: Path | None
    tls: Tls | None
    meter_interval_s: int
    resend_after_s: int


class Bus(Struct, frozen=True):
    """One Modbus line or gateway."""

    id: str
    link: Link
    timeout_ms: int
    min_gap_ms: int  # silence between an answer and the next question


class MeterDevice(Struct, frozen=True):
    """A meter and where it hangs."""

    id: str
    bus: str
    unit: int
    profile: str
    poll_ms: int


class EvseDevice(Struct, frozen=True):
    """The EVSE controller of one connector and where it hangs."""

    connector: int  # its number
    driver: str
    bus: str
    unit: int
    poll_ms: int


class ReaderDevice(Struct, frozen=True):
    """A card reader; `name` is a part of its PC/SC name."""

    id: str
    name: str


class Config(Struct, frozen=True):
    """The whole station: `site` for the core, the rest for the hands."""

    station: Station
    paths: Paths
    uplink: Uplink | None
    buses: tuple[Bus, ...]
    meters: tuple[MeterDevice, ...]
    evses: tuple[EvseDevice, ...]
    readers: tuple[ReaderDevice, ...]
    site: Site


def load(path: Path, profiles: frozenset[str]) -> Config:
    """Read a file; `profiles` are the meter profiles there are. Raises `ConfigError` with every problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}; give the path of a readable file"]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}: line {line} is not UTF-8; save the file as UTF-8"]) from error
    return read_config(text, path.absolute().parent, profiles)


def read_config(text: str, base_dir: Path, profiles: frozenset[str]) -> Config:
    """Decode, check and resolve; relative paths start at `base_dir`. Raises `ConfigError`."""
    problems = Problems()
    file = decode(parse(text), ConfigFile, problems)
    check(file, base_dir, profiles, problems)
    if problems.lines:
        raise ConfigError(problems.lines)
    return _resolve(file, base_dir)


def _resolve(file: ConfigFile, base_dir: Path) -> Config:
    station, paths = file.station, file.paths
    return Config(
        station=Station(
            station.id, station.name, station.location, station.support_contact, station.time_zone
        ),
        paths=Paths(base_dir / paths.journal, base_dir / paths.runtime, paths.local_group),
        uplink=None if file.uplink is None else _uplink(file.uplink, station.id, base_dir),
        buses=tuple(Bus(bus.id, _link(bus), bus.timeout_ms, bus.min_gap_ms) for bus in file.buses),
        meters=tuple(MeterDevice(m.id, m.bus, m.unit, m.profile, m.poll_ms) for m in file.meters),
        evses=tuple(
            EvseDevice(c.number, c.evse.driver, c.evse.bus, c.evse.unit, c.evse.poll_ms)
            for c in file.connectors
        ),
        readers=tuple(ReaderDevice(reader.id, reader.name) for reader in file.readers),
        site=_site(file),
    )


def _link(bus: SerialBusTable | TcpBusTable) -> Link:
    if isinstance(bus, SerialBusTable):
        return SerialLink(bus.port, bus.baud, bus.parity, bus.stop_bits)
    return TcpLink(bus.host, bus.port)


def _uplink(table: UplinkTable, station: str, base_dir: Path) -> Uplink:
    def absolute(name: str | None) -> Path | None:
        return None if name is None else base_dir / name

    tls = None
    if table.tls_ca is not None:
        tls = Tls(base_dir / table.tls_ca, absolute(table.tls_cert), absolute(table.tls_key))
    return Uplink(
        host=table.host,
        port=table.port,
        prefix=table.prefix,
        client_id=table.client_id or station,
        username=table.username,
        password_file=absolute(table.password_file),
        tls=tls,
        meter_interval_s=table.meter_interval_s,
        resend_after_s=table.resend_after_s,
    )


def _site(file: ConfigFile) -> Site:
    ordered = _parents_first(file.circuits)
    index = {circuit.id: i for i, circuit in enumerate(ordered)}
    cards = [Card(canonical_uid(card.uid), card.contract) for card in file.cards]
    tariff = file.tariff
    return Site(
        station=file.station.id,
        circuits=tuple(
            Circuit(
                c.id, NO_PARENT if c.parent is None else index[c.parent], c.limit_ma, c.meter, c.fallback_ma
            )
            for c in ordered
        ),
        outlets=tuple(
            Outlet(
                number=c.number,
                circuit=index[c.circuit],
                lines=phase_lines(c.phases),
                min_ma=c.min_ma,
                max_ma=c.max_ma,
                meter=c.meter,
                ventilated=c.ventilated,
            )
            for c in file.connectors
        ),
        readers=tuple(ReaderSite(reader.id, reader.connectors) for reader in file.readers),
        cards={card.id: card for card in cards},
        tariff=Tariff(tariff.currency, tariff.per_kwh, tariff.per_session, tariff.vat_percent),
    )


def _parents_first(circuits: tuple[CircuitTable, ...]) -> list[CircuitTable]:
    """Root first, then its children in the order of the file, and so on; the checks saw that it is a tree."""
    ordered = [circuit for circuit in circuits if circuit.parent is None]
    for circuit in ordered:  # grows while it is walked
        ordered.extend(child for child in circuits if child.parent == circuit.id)
    return ordered


def tree(config: Config) -> str:
    """The resolved station as a tree for a person, without secrets and card numbers."""
    station, site = config.station, config.site
    contracts = {card.contract for card in site.cards.values()}
    lines = [
        f"station {station.id}: {station.name}, {station.location}",
        f"├── support: {station.support_contact}",
        f"├── price: {price_text(site.tariff)}",
        f"├── operator: {_operator(config.uplink)}",
        f"├── journal: {config.paths.journal}",
        f"├── local socket: {config.paths.runtime / 'edge.sock'}{_group(config.paths.local_group)}",
        *(f"├── bus {bus.id}: {_where(bus.link)}" for bus in config.buses),
        f"├── known cards: {len(site.cards)}, contracts: {len(contracts)}",
    ]
    for reader, served in zip(config.readers, site.readers, strict=True):
        numbers = ", ".join(str(number) for number in served.connectors)
        lines.append(f'├── reader {reader.id}: "{reader.name}", for connector {numbers}')
    return "\n".join([*lines, *_branch(config, 0, "", last=True)])


def _branch(config: Config, index: int, indent: str, *, last: bool) -> list[str]:
    """A circuit with its connectors, then the circuits below."""
    circuit = config.site.circuits[index]
    text = f"circuit {circuit.id}: {_per_phase(circuit.limit_ma)}"
    if circuit.meter is not None and circuit.fallback_ma is not None:
        text += f", {_meter(config, circuit.meter)}; {_per_phase(circuit.fallback_ma)} while it is silent"
    lines = [f"{indent}{'└── ' if last else '├── '}{text}"]
    below = indent + ("    " if last else "│   ")
    connectors = [outlet for outlet in config.site.outlets if outlet.circuit == index]
    children = [i for i, child in enumerate(config.site.circuits) if child.parent == index]
    for outlet in connectors:
        end = not children and outlet is connectors[-1]
        lines.append(f"{below}{'└── ' if end else '├── '}{_connector(config, outlet)}")
    for child in children:
        lines += _branch(config, child, below, last=child == children[-1])
    return lines


def _connector(config: Config, outlet: Outlet) -> str:
    evse = next(evse for evse in config.evses if evse.connector == outlet.number)
    phases = "".join(f"L{line + 1}" for line in outlet.lines)
    ventilated = ", ventilated" if outlet.ventilated else ""
    return (
        f"connector {outlet.number}: {phases}, {amps(outlet.min_ma)} to {amps(outlet.max_ma)} A{ventilated}, "
        f"{_meter(config, outlet.meter)}, evse {evse.driver} at {evse.bus}/{evse.unit}"
    )


def _meter(config: Config, meter_id: str) -> str:
    meter = next(meter for meter in config.meters if meter.id == meter_id)
    return f"meter {meter.id} ({meter.profile} at {meter.bus}/{meter.unit})"


def _per_phase(limit_ma: Phases) -> str:
    return "/".join(amps(ma) for ma in limit_ma) + " A"


def _where(link: Link) -> str:
    match link:
        case SerialLink():
            return f"{link.port}, {link.baud} 8{link.parity}{link.stop_bits}"
        case TcpLink():
            return f"{link.host}:{link.port}"


def _operator(uplink: Uplink | None) -> str:
    if uplink is None:
        return "none, payments stay in the journal"
    user = f", user {uplink.username}" if uplink.username is not None else ""
    tls = "with TLS" if uplink.tls is not None else "without TLS"
    return f"{uplink.host}:{uplink.port} {tls}, topics {uplink.prefix}/..., client {uplink.client_id}{user}"


def _group(group: str | None) -> str:
    return "" if group is None else f", for group {group}"
