"""The resolved configuration as a tree for a person: what `edge check-config` prints."""

from edge.config import Config, Uplink
from edge.config_checks import amps
from edge.config_schema import DAYS
from edge.control.site import Outlet, Sharing, Signal, SignalKind, Site, Tier
from edge.events import Phases
from edge.payments.tariff import price_text
from edge.ports import Link, SerialLink, TcpLink
from edge.schedule import Schedule, Window


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
        *(f"├── tier {name}: {_tier(tier)}" for name, tier in config.tiers.items()),
        *(f"├── {line}" for line in _sharing(site.sharing)),
        *(f"├── signal {_signal_text(config, signal)}" for signal in site.signals),
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
    if circuit.unbalance_ma is not None:
        text += f", phases at most {amps(circuit.unbalance_ma)} A apart"
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
    failsafe = f", {amps(outlet.failsafe_ma)} A when it hears nobody" if outlet.failsafe_ma else ""
    return (
        f"connector {outlet.number}: {phases}, {amps(outlet.min_ma)} to {amps(outlet.max_ma)} A{ventilated}, "
        f"{_meter(config, outlet.meter)}, evse {evse.driver} at {evse.bus}/{evse.unit}{failsafe}"
    )


def _meter(config: Config, meter_id: str) -> str:
    meter = next(meter for meter in config.meters if meter.id == meter_id)
    return f"meter {meter.id} ({meter.profile} at {meter.bus}/{meter.unit})"


def _tier(tier: Tier) -> str:
    return f"weight {tier.weight_percent / 100:g}, class {tier.priority}"


def _sharing(sharing: Sharing) -> tuple[str, str]:
    slot, on, off = (ms // 60_000 for ms in (sharing.slot_ms, sharing.min_on_ms, sharing.min_off_ms))
    classes = ", higher classes are filled first" if sharing.strict else ""
    kept = f"all but {amps(sharing.reclaim_headroom_ma)} A of it shared out"
    return (
        f"sharing: turns of {slot} min, at least {on} min on and {off} min off{classes}",
        f"current that is not drawn: after {sharing.reclaim_after_ms // 1_000} s {kept}",
    )


def _signal_text(config: Config, signal: Signal) -> str:
    site = config.site
    place = f"circuit {site.circuits[signal.circuit].id}" if signal.circuit is not None else ""
    if signal.connector is not None:
        place = f"connector {site.outlets[signal.connector].number}"
    schedule = next((s for s in config.schedules if _is_of(s, signal, site)), None)
    head = f"{signal.source} for {place}"
    if signal.solar is not None:
        start_s, stop_s = signal.solar.start_after_ms // 1000, signal.solar.stop_after_ms // 1000
        power = f"the surplus and {_kw(signal.solar.import_mw)} kW from the grid"
        return f"{head}: {power}, starts after {start_s} s, stops after {stop_s} s"
    if schedule is not None:
        windows = "; ".join(_window_text(window) for window in schedule.windows)
        return f"{head}, {schedule.time_zone}: {windows}"
    grid = " (grid operator, never below 4.2 kW a connector)" if signal.kind is SignalKind.GRID else ""
    silent = _cap(signal.fallback.current_ma, signal.fallback.power_mw) if signal.fallback else "no limit"
    return f"{head}{grid}: {silent} while it is silent"


def _is_of(schedule: Schedule, signal: Signal, site: Site) -> bool:
    """Whether this schedule speaks for this signal."""
    circuit = None if signal.circuit is None else site.circuits[signal.circuit].id
    connector = None if signal.connector is None else site.outlets[signal.connector].number
    return (schedule.source, schedule.circuit, schedule.connector) == (signal.source, circuit, connector)


def _window_text(window: Window) -> str:
    days = " ".join(DAYS[day] for day in window.days) if len(window.days) < len(DAYS) else "every day"
    start, end = (f"{minute // 60:02d}:{minute % 60:02d}" for minute in (window.start_min, window.end_min))
    return f"{days} {start} to {end} {_cap(window.current_ma, window.power_mw)}"


def _cap(current_ma: Phases | None, power_mw: int | None) -> str:
    parts = [] if current_ma is None else [_per_phase(current_ma)]
    return " and ".join(parts if power_mw is None else [*parts, f"{_kw(power_mw)} kW"])


def _kw(mw: int) -> str:
    return amps(mw // 1_000)


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
