"""What our connectors may draw together in every row now: fuses less what is not ours, and others' limits.

A row that nobody can vouch for (a stale meter, a silent source) gets its configured fallback, never a guess.
"""

from msgspec import Struct

from edge.control.rows import Rows, row_name, rows_of, used_lines
from edge.control.signals import Holding, connector_cap_ma, holding
from edge.control.site import NO_PARENT, NOMINAL_V, SignalKind
from edge.control.state import METER_STALE_MS, Station, is_fresh
from edge.events import Phases


class Headroom(Struct, frozen=True, eq=False):
    """The room of each row in mA, who limits it, and what limits single connectors."""

    rows: Rows
    lines: tuple[tuple[int, ...], ...]  # the supply phases each connector loads
    room: list[int]
    by: dict[int, Holding]  # rows whose room is a signal's, not the fuse's
    caps: dict[int, list[Holding]]  # by connector

    def name(self, station: Station, row: int) -> str:
        """What bounds a row, in words."""
        holder = self.by.get(row)
        return row_name(station.site, self.rows, row) if holder is None else holder.text(station.site)


def headroom(station: Station) -> Headroom:
    """Work out all rooms for this moment."""
    site = station.site
    lines = tuple(
        used_lines(connector, outlet)
        for connector, outlet in zip(station.connectors, site.outlets, strict=True)
    )
    limits = holding(station) if site.signals or station.heard else []
    sums = {h.circuit for h in limits if h.circuit is not None and h.cap.power_mw is not None}
    sums |= {s.circuit for s in site.signals if s.circuit is not None and s.kind is SignalKind.SOLAR}
    rows = rows_of(site, lines, tuple(sorted(sums)))
    per_circuit = headroom_ma(station)
    room = [ma for phases in per_circuit for ma in phases]
    room += [sum(per_circuit[c]) for c in rows.sums]
    for c in rows.unbalanced:
        room += _unbalance_ma(station, c, lines)
    _charge_idle_phases(station, room)
    by: dict[int, Holding] = {}
    caps: dict[int, list[Holding]] = {}

    def lower(row: int, ma: int, limit: Holding) -> None:
        if ma < room[row]:
            room[row] = max(0, ma)
            by[row] = limit

    for limit in limits:
        if limit.connector is not None:
            caps.setdefault(limit.connector, []).append(limit)
        elif limit.circuit is not None:
            if limit.cap.current_ma is not None:
                for p in range(3):
                    lower(3 * limit.circuit + p, limit.cap.current_ma[p], limit)
            if limit.cap.power_mw is not None:
                lower(rows.sums[limit.circuit], limit.cap.power_mw // NOMINAL_V, limit)
    return Headroom(rows, lines, room, by, caps)


def capped_by(space: Headroom, i: int) -> tuple[int, Holding] | None:
    """The tightest limit set for connector `i` alone: mA per phase, and whose."""
    found = [
        (ma, limit)
        for limit in space.caps.get(i, ())
        if (ma := connector_cap_ma(limit.cap, space.lines[i])) is not None
    ]
    return min(found, key=lambda pair: pair[0], default=None)


def headroom_ma(station: Station) -> list[Phases]:
    """What our connectors may draw together below each circuit, per phase; never negative.

    A measured circuit gives its limit minus the load that is not ours. While its meter is stale the
    configured fallback holds. A circuit without a meter passes on what is measured below it.
    """
    site, now = station.site, station.now_ms
    background = [[0, 0, 0] for _ in site.circuits]
    room: list[Phases] = [(0, 0, 0)] * len(site.circuits)
    for c in range(len(site.circuits) - 1, -1, -1):  # children before parents
        circuit, state = site.circuits[c], station.circuits[c]
        limit = circuit.limit_ma
        if circuit.meter is not None:
            if state.background_ma is not None and is_fresh(state.meter, now, METER_STALE_MS):
                background[c] = list(state.background_ma)
            elif circuit.fallback_ma is not None:
                # To those above, everything but the fallback is taken: what is not seen is not free.
                background[c] = [max(0, circuit.limit_ma[p] - circuit.fallback_ma[p]) for p in range(3)]
        free = [max(0, limit[p] - background[c][p]) for p in range(3)]
        room[c] = (free[0], free[1], free[2])
        if circuit.parent != NO_PARENT:
            for p in range(3):
                background[circuit.parent][p] += background[c][p]
    return room


def _charge_idle_phases(station: Station, room: list[int]) -> None:
    """Take the standby current on phases that cars were seen not to use from what others may have."""
    for connector, outlet in zip(station.connectors, station.site.outlets, strict=True):
        if connector.used is None or connector.meter is None:
            continue
        for k, line in enumerate(outlet.lines):
            ma = 0 if k in connector.used else connector.meter.current_ma[k]
            c = outlet.circuit
            while ma and c != NO_PARENT:
                room[3 * c + line] = max(0, room[3 * c + line] - ma)
                c = station.site.circuits[c].parent


def _unbalance_ma(station: Station, c: int, lines: tuple[tuple[int, ...], ...]) -> list[int]:
    """What connectors on one or two phases may add on each phase before it is too far above the lowest.

    Cars on all three phases do not count, nor is a car on the lowest phase relied on: it may leave at any
    moment. While the circuit's meter is silent, or was never heard, they keep what they have.
    """
    most_ma, others = station.site.circuits[c].unbalance_ma, station.circuits[c].background_ma
    if (
        most_ma is None
        or others is None
        or not is_fresh(station.circuits[c].meter, station.now_ms, METER_STALE_MS)
    ):
        have = [0, 0, 0]
        for i, connector in enumerate(station.connectors):
            if len(lines[i]) < 3 and station.site.is_below(i, c):
                for line in lines[i]:
                    have[line] += connector.offer_ma
        return have
    return [max(0, most_ma - (ma - min(others))) for ma in others]
