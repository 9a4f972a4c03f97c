"""The configuration: from a TOML file to what the daemon runs on. See systemd/edge.example.toml.

`config_schema` says what each key may hold, `config_checks` what must fit together. Here both are run and the
result is resolved: file names to absolute paths, circuit names to indices, cards to canonical ids. Whoever
starts the daemon reads every problem of his file at once, one line each.
"""

from pathlib import Path

from msgspec import Struct

from edge.config_checks import canonical_uid, check, phase_lines
from edge.config_schema import (
    DAYS,
    CircuitTable,
    ConfigFile,
    GridSignalTable,
    LimitSignalTable,
    ScheduleSignalTable,
    SerialBusTable,
    SignalTable,
    SolarSignalTable,
    TcpBusTable,
    UplinkTable,
    WindowTable,
)
from edge.control.site import (
    NO_PARENT,
    Cap,
    Card,
    Circuit,
    Outlet,
    ReaderSite,
    Sharing,
    Signal,
    SignalKind,
    Site,
    Solar,
    Tier,
)
from edge.errors import ConfigError
from edge.ports import Link, SerialLink, TcpLink
from edge.records import Tariff
from edge.schedule import Schedule, Window
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
    tiers: dict[str, Tier]  # by name
    schedules: tuple[Schedule, ...]
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
        tiers=_tiers(file),
        schedules=tuple(
            _schedule(signal, station.time_zone or "UTC")
            for signal in file.signals
            if isinstance(signal, ScheduleSignalTable)
        ),
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
    numbers = [connector.number for connector in file.connectors]
    tiers, ordinary = _tiers(file), Tier()
    cards = [
        Card(canonical_uid(card.uid), card.contract, tiers[card.tier] if card.tier is not None else ordinary)
        for card in file.cards
    ]
    tariff, sharing = file.tariff, file.sharing
    return Site(
        station=file.station.id,
        circuits=tuple(
            Circuit(
                id=c.id,
                parent=NO_PARENT if c.parent is None else index[c.parent],
                limit_ma=c.limit_ma,
                meter=c.meter,
                fallback_ma=c.fallback_ma,
                unbalance_ma=c.unbalance_ma,
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
                failsafe_ma=c.evse.failsafe_ma,
            )
            for c in file.connectors
        ),
        readers=tuple(ReaderSite(reader.id, reader.connectors) for reader in file.readers),
        cards={card.id: card for card in cards},
        tariff=Tariff(tariff.currency, tariff.per_kwh, tariff.per_session, tariff.vat_percent),
        sharing=Sharing(
            slot_ms=sharing.slot_min * 60_000,
            min_on_ms=sharing.min_on_min * 60_000,
            min_off_ms=sharing.min_off_min * 60_000,
            strict=sharing.strict,
            reclaim_after_ms=sharing.reclaim_after_s * 1_000,
            reclaim_headroom_ma=sharing.reclaim_headroom_ma,
        ),
        signals=tuple(_signal(signal, index, numbers) for signal in file.signals),
    )


def _tiers(file: ConfigFile) -> dict[str, Tier]:
    return {tier.name: Tier(tier.weight_percent, tier.priority) for tier in file.tiers}


def _signal(table: SignalTable, circuits: dict[str, int], numbers: list[int]) -> Signal:
    circuit = None if table.circuit is None else circuits[table.circuit]
    if isinstance(table, SolarSignalTable):
        solar = Solar(table.import_w * 1_000, table.start_after_s * 1_000, table.stop_after_s * 1_000)
        return Signal(table.source, SignalKind.SOLAR, circuit, None, None, solar)
    connector = None if table.connector is None else numbers.index(table.connector)
    kind = SignalKind.GRID if isinstance(table, GridSignalTable) else SignalKind.LIMIT
    fallback = None
    if isinstance(table, LimitSignalTable):
        cap = Cap(table.fallback_ma, _milliwatts(table.fallback_w))
        fallback = cap if cap != Cap() else None
    return Signal(table.source, kind, circuit, connector, fallback)


def _schedule(table: ScheduleSignalTable, time_zone: str) -> Schedule:
    windows = tuple(_window(window) for window in table.windows)
    return Schedule(table.source, table.circuit, table.connector, time_zone, windows)


def _window(table: WindowTable) -> Window:
    days = tuple(sorted({DAYS.index(day) for day in table.days}))
    start_min, end_min = (int(time[:2]) * 60 + int(time[3:]) for time in (table.start, table.end))
    return Window(days, start_min, end_min, table.limit_ma, _milliwatts(table.limit_w))


def _milliwatts(watts: int | None) -> int | None:
    return None if watts is None else watts * 1_000


def _parents_first(circuits: tuple[CircuitTable, ...]) -> list[CircuitTable]:
    """Root first, then its children in the order of the file, and so on; the checks saw that it is a tree."""
    ordered = [circuit for circuit in circuits if circuit.parent is None]
    for circuit in ordered:  # grows while it is walked
        ordered.extend(child for child in circuits if child.parent == circuit.id)
    return ordered
