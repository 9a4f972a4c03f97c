"""What a configuration file must fulfil beyond each value alone: names that exist, currents that fit, files.

Each check looks at the values that are sound by themselves and notes every problem it finds. None of them
opens a device: a station must start while hardware is missing.
"""

import grp
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

from edge.config_schema import (
    CardTable,
    CircuitTable,
    ConfigFile,
    ConnectorTable,
    LimitSignalTable,
    PathsTable,
    ScheduleSignalTable,
    SerialBusTable,
    SharingTable,
    SolarSignalTable,
    UplinkTable,
)
from edge.toml_strict import WRONG, Problems, masked, nearest

RowT = TypeVar("RowT")

BY_HAND = ("technician", "uplink")
"""Sources that speak only when a person or the operator does."""

_LONGEST_SOCKET = 107
"""Bytes in the path of a Unix socket: sun_path of 108 with its final zero, unix(7)."""


def check(file: ConfigFile, base_dir: Path, profiles: frozenset[str], problems: Problems) -> None:
    """Note everything that is wrong between the values of `file`."""
    _check_unique_ids(file, problems)
    _check_references(file, profiles, problems)
    _check_ports(file, problems)
    _check_units(file, problems)
    _check_meter_places(file, problems)
    _check_tree(_rows(file.circuits), problems)
    _check_fallbacks(file, problems)
    _check_currents(file, problems)
    _check_unbalance(file, problems)
    _check_failsafe(file, problems)
    _check_sharing(file.sharing, problems)
    _check_signals(file, problems)
    _check_readers(file, problems)
    _check_cards(file, problems)
    _check_host(file, problems)
    _check_paths(file.paths, base_dir, problems)
    if file.uplink is not None:
        _check_uplink(file.uplink, base_dir, problems)


def canonical_uid(uid: str) -> str:
    """Bring the UID of a card into the form of `events.Credential.id`."""
    digits = uid.removeprefix("ISO14443A:")
    return "ISO14443A:" + digits.translate(str.maketrans("", "", " :-")).upper()


def phase_lines(phases: str) -> tuple[int, ...]:
    """Turn "L2L3L1" into the indices (1, 2, 0) of the supply's phases."""
    return tuple(int(digit) - 1 for digit in phases[1::2])


def amps(ma: int) -> str:
    """Write milliamps as amps, exactly and without needless zeros: 13500 -> 13.5."""
    whole, rest = divmod(ma, 1000)
    return f"{whole}.{rest:03d}".rstrip("0").rstrip(".")


def _rows(table: tuple[RowT, ...]) -> tuple[RowT, ...]:
    """The rows of a table, none where the table itself is wrong."""
    return () if table is WRONG else table


def _sound(table: tuple[RowT, ...], *fields: str) -> Iterator[tuple[int, RowT]]:
    """Number the rows from 1 and keep those whose `fields` are right by themselves."""
    for number, row in enumerate(_rows(table), 1):
        if all(getattr(row, field) is not WRONG for field in fields):
            yield number, row


def _known(table: tuple[RowT, ...], field: str) -> list[object] | None:
    """The names that a table declares, None if the table is wrong and nobody can tell."""
    return None if table is WRONG else [getattr(row, field) for _, row in _sound(table, field)]


def _check_unique_ids(file: ConfigFile, problems: Problems) -> None:
    for name, table, field in (
        ("buses", file.buses, "id"),
        ("meters", file.meters, "id"),
        ("circuits", file.circuits, "id"),
        ("connectors", file.connectors, "number"),
        ("readers", file.readers, "id"),
        ("tiers", file.tiers, "name"),
    ):
        first: dict[object, int] = {}
        for number, row in _sound(table, field):
            value = getattr(row, field)
            if first.setdefault(value, number) != number:
                wrong = f"{name}[{first[value]}] has the same {field}"
                problems.add(f"{name}[{number}].{field}", value, wrong, f"give every one its own {field}")


def _check_references(file: ConfigFile, profiles: frozenset[str], problems: Problems) -> None:
    def refer(path: str, value: object, kind: str, known: Iterable[object] | None) -> None:
        if value is not WRONG and value is not None and known is not None and value not in known:
            problems.add(path, value, f"no such {kind}", nearest(value, known))

    buses, circuits, meters = (_known(t, "id") for t in (file.buses, file.circuits, file.meters))
    for i, meter in _sound(file.meters):
        refer(f"meters[{i}].bus", meter.bus, "bus", buses)
        refer(f"meters[{i}].profile", meter.profile, "meter profile", sorted(profiles))
    for i, circuit in _sound(file.circuits):
        refer(f"circuits[{i}].parent", circuit.parent, "circuit", circuits)
        refer(f"circuits[{i}].meter", circuit.meter, "meter", meters)
    for i, connector in _sound(file.connectors):
        refer(f"connectors[{i}].circuit", connector.circuit, "circuit", circuits)
        refer(f"connectors[{i}].meter", connector.meter, "meter", meters)
        refer(f"connectors[{i}].evse.bus", connector.evse.bus, "bus", buses)
    numbers = _known(file.connectors, "number")
    for i, reader in _sound(file.readers, "connectors"):
        for k, number in enumerate(reader.connectors, 1):
            refer(f"readers[{i}].connectors[{k}]", number, "connector", numbers)
    tiers = _known(file.tiers, "name")
    for i, card in _sound(file.cards):
        refer(f"cards[{i}].tier", card.tier, "tier", tiers)
    for i, signal in _sound(file.signals):
        refer(f"signals[{i}].circuit", signal.circuit, "circuit", circuits)
        if not isinstance(signal, SolarSignalTable):
            refer(f"signals[{i}].connector", signal.connector, "connector", numbers)


def _check_ports(file: ConfigFile, problems: Problems) -> None:
    """Refuse two buses on one port: each believes to be its only master."""
    first: dict[str, int] = {}
    for i, bus in enumerate(_rows(file.buses), 1):
        if isinstance(bus, SerialBusTable):
            if bus.port is WRONG:
                continue
            key, value, where = os.path.realpath(bus.port), bus.port, f"buses[{i}].port"
        else:
            if bus.host is WRONG or bus.port is WRONG:
                continue
            key = value = f"{bus.host.lower()}:{bus.port}"
            where = f"buses[{i}].host"
        if first.setdefault(key, i) != i:
            remedy = "put all devices of this line on one bus"
            problems.add(where, value, f"buses[{first[key]}] uses the same port", remedy)


def _check_units(file: ConfigFile, problems: Problems) -> None:
    devices = [(f"meters[{i}]", meter.bus, meter.unit) for i, meter in _sound(file.meters, "bus", "unit")]
    devices += [
        (f"connectors[{i}].evse", connector.evse.bus, connector.evse.unit)
        for i, connector in _sound(file.connectors)
        if connector.evse.bus is not WRONG and connector.evse.unit is not WRONG
    ]
    first: dict[tuple[str, int], str] = {}
    for path, bus, unit in devices:
        if first.setdefault((bus, unit), path) != path:
            wrong = f"{first[bus, unit]} has the same unit on bus {bus}"
            problems.add(
                f"{path}.unit", unit, wrong, "set another address in one of the devices and write it here"
            )


def _check_meter_places(file: ConfigFile, problems: Problems) -> None:
    """Refuse a connector whose meter measures something else too: it would bill a stranger's energy."""
    places: dict[str, list[str]] = defaultdict(list)
    for i, circuit in _sound(file.circuits, "meter"):
        if circuit.meter is not None:
            places[circuit.meter].append(f"circuits[{i}]")
    for i, connector in _sound(file.connectors, "meter"):
        before = places[connector.meter]
        if before:
            remedy = "give every connector a meter of its own"
            problems.add(f"connectors[{i}].meter", connector.meter, f"also the meter of {before[0]}", remedy)
        before.append(f"connectors[{i}]")


def _check_tree(circuits: tuple[CircuitTable, ...], problems: Problems) -> None:
    """Exactly one root, and every way up ends there."""
    roots = [i for i, circuit in enumerate(circuits, 1) if circuit.parent is None]
    for i in roots[1:]:
        wrong = f"a second root beside circuits[{roots[0]}]"
        problems.note(f"circuits[{i}]", wrong, "name its parent; only the circuit at the supply has none")
    parents = {c.id: c.parent for _, c in _sound(circuits, "id", "parent")}
    told: set[str] = set()
    for i, circuit in _sound(circuits, "id", "parent"):
        loop = _loop_through(circuit.id, parents)
        if loop and circuit.id not in told:
            told.update(loop)
            wrong = f"goes round in a circle ({' > '.join([*loop, circuit.id])})"
            problems.add(f"circuits[{i}].parent", circuit.parent, wrong, "every way up must end at the root")


def _loop_through(start: str, parents: dict[str, str | None]) -> list[str]:
    """The circuits from `start` up to below `start` again, empty if the way up does not come back."""
    way: list[str] = [start]
    above = parents.get(start)
    while above is not None and above not in way:
        way.append(above)
        above = parents.get(above)
    return way if above == start else []


def _check_fallbacks(file: ConfigFile, problems: Problems) -> None:
    for i, circuit in _sound(file.circuits, "meter", "fallback_ma"):
        path = f"circuits[{i}].fallback_a"
        if circuit.meter is not None and circuit.fallback_ma is None:
            remedy = "write what all connectors below may take together while the meter is silent"
            problems.note(path, "missing beside a meter", remedy)
        elif circuit.meter is None and circuit.fallback_ma is not None:
            problems.note(
                path, "without effect, there is no meter", "name the circuit's meter or leave this out"
            )
        if circuit.fallback_ma is None or circuit.limit_ma is WRONG:
            continue
        for k, (fallback, limit) in enumerate(zip(circuit.fallback_ma, circuit.limit_ma, strict=True), 1):
            if fallback > limit:
                wrong = f"more than limit_a, {amps(limit)} A on L{k}"
                problems.note(f"{path}[{k}] = {amps(fallback)}", wrong, "write at most the limit")


def _check_currents(file: ConfigFile, problems: Problems) -> None:
    circuits = {circuit.id: circuit for _, circuit in _sound(file.circuits, "id", "parent", "limit_ma")}
    for i, connector in _sound(file.connectors, "max_ma"):
        if connector.min_ma is not WRONG and connector.min_ma > connector.max_ma:
            wrong = f"more than max_a, {amps(connector.max_ma)} A"
            problems.note(f"connectors[{i}].min_a = {amps(connector.min_ma)}", wrong, "write at most max_a")
        if connector.circuit is not WRONG and connector.phases is not WRONG:
            tightest = _tightest(connector, circuits)
            if tightest is not None and connector.max_ma > tightest[0]:
                limit_ma, circuit_id, phase = tightest
                wrong = f"circuit {circuit_id} carries only {amps(limit_ma)} A on L{phase + 1}"
                remedy = "write at most that, or correct the circuit's limit_a or the connector's phases"
                problems.note(f"connectors[{i}].max_a = {amps(connector.max_ma)}", wrong, remedy)


def _tightest(connector: ConnectorTable, circuits: dict[str, CircuitTable]) -> tuple[int, str, int] | None:
    """The smallest limit on the connector's way to the supply: mA, circuit, phase index."""
    found: list[tuple[int, str, int]] = []
    seen: set[str] = set()
    above: str | None = connector.circuit
    while above is not None and above in circuits and above not in seen:
        seen.add(above)
        limits = circuits[above].limit_ma
        found += [(limits[phase], above, phase) for phase in phase_lines(connector.phases)]
        above = circuits[above].parent
    return min(found, default=None)


def _check_unbalance(file: ConfigFile, problems: Problems) -> None:
    for i, circuit in _sound(file.circuits, "unbalance_ma"):
        if circuit.unbalance_ma is not None and circuit.meter is None:
            wrong = "nobody measures it, this circuit has no meter"
            problems.note(f"circuits[{i}].unbalance_a", wrong, "name the circuit's meter or leave this out")


def _check_failsafe(file: ConfigFile, problems: Problems) -> None:
    """What the controllers offer by themselves while nobody talks to them must fit every circuit above."""
    for i, connector in _sound(file.connectors):
        failsafe_ma, path = connector.evse.failsafe_ma, f"connectors[{i}].evse.failsafe_a"
        if failsafe_ma is WRONG or failsafe_ma == 0:
            continue
        if connector.evse.driver == "simpleevse":
            wrong = "a SimpleEVSE has no such setting: it wakes up at 0 A and keeps what it was told last"
            problems.note(f"{path} = {amps(failsafe_ma)}", wrong, "leave this out")
    for i, circuit in _sound(file.circuits, "id", "limit_ma"):
        for k, sum_ma in enumerate(_failsafe_below(file, circuit.id)):
            bounds = [("limit_a", circuit.limit_ma), ("fallback_a", circuit.fallback_ma)]
            for key, bound_ma in bounds:
                if bound_ma is not None and bound_ma is not WRONG and sum_ma > bound_ma[k]:
                    wrong = (
                        f"the connectors below circuit {circuit.id} offer {amps(sum_ma)} A on L{k + 1} when "
                        f"nobody talks to them"
                    )
                    remedy = "lower failsafe_a, in the controllers and here"
                    problems.note(f"circuits[{i}].{key}[{k + 1}] = {amps(bound_ma[k])}", wrong, remedy)


def _failsafe_below(file: ConfigFile, circuit_id: str) -> list[int]:
    """The sum of the fail-safe currents of all connectors below a circuit, for L1, L2, L3 in mA."""
    parents = {circuit.id: circuit.parent for _, circuit in _sound(file.circuits, "id", "parent")}
    sums = [0, 0, 0]
    for _, connector in _sound(file.connectors, "circuit", "phases"):
        if connector.evse.failsafe_ma is WRONG or circuit_id not in _way_up(connector.circuit, parents):
            continue
        for phase in phase_lines(connector.phases):
            sums[phase] += connector.evse.failsafe_ma
    return sums


def _way_up(start: str, parents: dict[str, str | None]) -> list[str]:
    """A circuit and all above it, ending where the tree is wrong."""
    way: list[str] = []
    above: str | None = start
    while above is not None and above not in way:
        way.append(above)
        above = parents.get(above)
    return way


def _check_sharing(sharing: SharingTable, problems: Problems) -> None:
    if sharing.slot_min is WRONG:
        return
    for key in ("min_on_min", "min_off_min"):
        minutes = getattr(sharing, key)
        if minutes is not WRONG and minutes > sharing.slot_min:
            wrong = f"more than slot_min, {sharing.slot_min}: no turn would be long enough for a car to start"
            problems.add(f"sharing.{key}", minutes, wrong, "write at most slot_min")


def _check_signals(file: ConfigFile, problems: Problems) -> None:
    unmetered = {circuit.id for _, circuit in _sound(file.circuits, "id", "meter") if circuit.meter is None}
    first: dict[object, int] = {}
    for i, signal in _sound(file.signals):
        path = f"signals[{i}]"
        connector = None if isinstance(signal, SolarSignalTable) else signal.connector
        if signal.circuit is None and connector is None:
            problems.note(path, "limits nothing", "name the circuit or the connector that it limits")
        elif signal.circuit is not None and connector is not None:
            problems.note(path, "limits a circuit and a connector", "write a [[signals]] for each of them")
        place = (signal.source, signal.circuit, connector)
        if WRONG not in place and first.setdefault(place, i) != i:
            wrong = f"signals[{first[place]}] has the same source and limits the same"
            problems.add(f"{path}.source", signal.source, wrong, "give every source its own name")
        if not isinstance(signal, LimitSignalTable) and signal.source in BY_HAND:
            wrong = "so is called who speaks by `edge limit` or over the uplink"
            problems.add(f"{path}.source", signal.source, wrong, "give it another name")
        if isinstance(signal, SolarSignalTable) and signal.circuit in unmetered:
            wrong = "has no meter to see a surplus with"
            problems.add(f"{path}.circuit", signal.circuit, wrong, "name a circuit that has one")
        if isinstance(signal, ScheduleSignalTable):
            _check_windows(path, signal, problems)
    scheduled = any(isinstance(signal, ScheduleSignalTable) for _, signal in _sound(file.signals))
    if scheduled and file.station.time_zone is None:
        problems.note("station.time_zone", "missing beside a schedule", 'write it, e.g. "Europe/Berlin"')


def _check_windows(path: str, signal: ScheduleSignalTable, problems: Problems) -> None:
    for k, window in _sound(signal.windows, "start", "end"):
        where = f"{path}.windows[{k}]"
        if window.start == window.end:
            wrong = "ends when it begins"
            problems.add(f"{where}.to", window.end, wrong, 'for a whole day write "00:00" to "24:00"')
        if window.limit_ma is None and window.limit_w is None:
            problems.note(where, "limits nothing", "write limit_a, limit_kw or both")


def _check_readers(file: ConfigFile, problems: Problems) -> None:
    readers = list(_sound(file.readers, "name"))
    for i, reader in readers:
        for k, other in readers:
            # Of two equal names only the later one is told.
            if i != k and reader.name in other.name and (reader.name != other.name or k < i):
                wrong = f"readers[{k}] has it in its name too"
                remedy = "write more of the name, so that it fits one reader only"
                problems.add(f"readers[{i}].name", reader.name, wrong, remedy)
    for i, reader in _sound(file.readers, "connectors"):
        if len(set(reader.connectors)) != len(reader.connectors):
            wrong = "names a connector twice"
            problems.add(f"readers[{i}].connectors", reader.connectors, wrong, "write each number once")


def _check_cards(file: ConfigFile, problems: Problems) -> None:
    first: dict[str, int] = {}
    for i, card in _sound(file.cards, "uid"):
        uid = canonical_uid(card.uid)
        path, end = f"cards[{i}].uid", masked(uid)
        wrong_uid = _wrong_uid(card, uid)
        if wrong_uid is not None:
            problems.add(path, end, *wrong_uid)
        elif first.setdefault(uid, i) != i:
            problems.add(path, end, f"cards[{first[uid]}] has the same UID", "leave one of them out")


def _wrong_uid(card: CardTable, uid: str) -> tuple[str, str] | None:
    """What is wrong with a UID, and the remedy; the sizes and the meaning of 08 and 88: ISO/IEC 14443-3."""
    digits = uid.removeprefix("ISO14443A:")
    if len(digits) not in (8, 14, 20):
        return f"{len(digits) // 2} bytes", "write all 4, 7 or 10 bytes of the UID"
    if len(digits) == 8 and digits.startswith("08"):
        owner = card.contract if card.contract is not WRONG else "its owner"
        return (
            "a random number that the card makes up at each touch; it identifies nobody",
            f"give {owner} a card with a fixed UID",
        )
    if len(digits) == 8 and digits.startswith("88"):
        return (
            "the first part of a longer UID (88 is the cascade tag)",
            "read the card again, it has 7 or 10 bytes",
        )
    return None


def _check_host(file: ConfigFile, problems: Problems) -> None:
    """Names that this machine must know."""
    zone = file.station.time_zone
    if zone is not None and zone is not WRONG:
        try:
            ZoneInfo(zone)
        except (LookupError, ValueError, OSError):
            problems.add(
                "station.time_zone", zone, "no such time zone", 'write an IANA name like "Europe/Berlin"'
            )
    group = file.paths.local_group
    if group is not None and group is not WRONG:
        try:
            grp.getgrnam(group)
        except KeyError:
            problems.add("paths.local_group", group, "no such group", f"make it: groupadd --system {group}")


def _check_paths(paths: PathsTable, base_dir: Path, problems: Problems) -> None:
    if paths.runtime is WRONG:
        return
    length = len(os.fsencode(base_dir / paths.runtime / "edge.sock"))
    if length > _LONGEST_SOCKET:
        wrong = (
            f"the socket edge.sock in it would have a path of {length} bytes, {_LONGEST_SOCKET} is the most"
        )
        problems.add("paths.runtime", paths.runtime, wrong, "choose a shorter path")


def _check_uplink(uplink: UplinkTable, base_dir: Path, problems: Problems) -> None:
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(uplink, one) is not None and getattr(uplink, other) is None:
            problems.note(f"uplink.{other}", f"missing beside {one}", "a certificate and its key go together")
    if uplink.tls_cert is not None and uplink.tls_ca is None:
        problems.note(
            "uplink.tls_ca", "missing beside tls_cert", "write the CA file that the broker is checked by"
        )
    if uplink.password_file is not None and uplink.username is None:
        problems.note("uplink.username", "missing beside password_file", "write the MQTT user name")
    for key, secret in (("password_file", True), ("tls_ca", False), ("tls_cert", False), ("tls_key", True)):
        name = getattr(uplink, key)
        if name is not None and name is not WRONG:
            _check_file(f"uplink.{key}", name, base_dir, problems, secret=secret)


def _check_file(path: str, name: str, base_dir: Path, problems: Problems, *, secret: bool) -> None:
    file = base_dir / name
    try:
        mode = file.stat().st_mode
    except OSError as error:
        problems.add(path, name, f"{error.strerror}", "write the path of the file")
        return
    if not stat.S_ISREG(mode):
        problems.add(path, name, "not a file", "write the path of the file")
    elif not os.access(file, os.R_OK):
        problems.add(path, name, "this user may not read it", "give the file to the group of the service")
    elif secret and mode & 0o007:
        problems.add(path, name, "everybody on this machine may read it", f"chmod o= {name}")
