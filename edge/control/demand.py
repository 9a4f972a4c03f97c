"""What drivers ask for: weights by need, and whether a wish can be met beside what others were promised.

Need is the mean current per phase that meets the wish just in time: energy left / time left. It is the same
as 1 - laxity, in A: a car that must draw its maximum from now on has none left.
"""

from msgspec.structs import replace

from edge.control.rows import Rows
from edge.control.site import NOMINAL_V, Outlet
from edge.control.state import Connector, Demand, Session, Station

LEAST_NEED_MA, MOST_NEED_MA = 1_000, 32_000
"""Needs are kept within these, so that no wish, however bold, makes a car worth more than 32 others.
Measured: `./run bench garage`; exponents and other bounds changed delivered energy by less than 0.1 %."""

UNKNOWN_NEED_MA = 8_000
"""For one who asks for nothing while nobody else does either; any value would do."""

WEIGHT_STEP_MA = 10
"""Weights count in this, so that the largest need with the largest tier stays below sharing.MOST_WEIGHT."""


def left_wh(session: Session, demand: Demand) -> int:
    """The energy still missing; never negative."""
    return max(0, demand.energy_wh - (session.claim.last_wh - demand.stated_wh))


def need_ma(connector: Connector, phases: int, now_ms: int) -> int | None:
    """The mean current per phase that would meet the wish; None when nothing (any more) is asked for.

    A car that is still there after it meant to leave may go at any moment: as if it had said nothing.
    """
    session = connector.session
    if session is None or session.demand is None or session.demand.departs_ms <= now_ms:
        return None
    left_ms = session.demand.departs_ms - now_ms
    return left_wh(session, session.demand) * 3_600_000_000 // (left_ms * NOMINAL_V * phases)


def weights(station: Station, members: list[int], phases: list[int]) -> list[int]:
    """A weight for each of `members` (indices): need by tier. Who states nothing stands in their middle."""
    needs = [need_ma(station.connectors[i], phases[i], station.now_ms) for i in members]
    stated = sorted(min(MOST_NEED_MA, max(LEAST_NEED_MA, need)) for need in needs if need is not None)
    middle = stated[len(stated) // 2] if stated else UNKNOWN_NEED_MA
    found = []
    for i, need in zip(members, needs, strict=True):
        session = station.connectors[i].session
        percent = session.tier.weight_percent if session else 100
        ma = middle if need is None else min(MOST_NEED_MA, max(LEAST_NEED_MA, need))
        found.append(max(1, _coarse(ma) // WEIGHT_STEP_MA * percent // 100))
    return found


def _coarse(ma: int) -> int:
    """The need to three significant bits: it moves by the second, and offers need not follow that closely."""
    bits = max(0, ma.bit_length() - 3)
    return ma >> bits << bits


def answered(
    station: Station, rows: Rows, room: list[int], i: int, demand: Demand, prospect_ma: int
) -> Demand:
    """The demand with its answer: whether it can be met beside what is promised to the others.

    Whoever stated a demand is promised its energy by his departure, everybody else who charges his minimum
    all the time. For each row and each moment by which somebody is promised something, what is promised until
    then must fit what can flow until then (the demand bound of earliest-deadline scheduling: Baruah, Rosier
    and Howell, Real-Time Systems 2, 1990). And it must be met by `prospect_ma`, what sharing would give this
    car now. It is a promise about today's limits and cars, not about tomorrow's kettle.
    """
    now = station.now_ms
    outlet = station.site.outlets[i]
    session = station.connectors[i].session
    phases = phases_of(station.connectors[i], outlet)
    wished_mams = _mams(demand.energy_wh, phases)
    stay_ms = max(0, demand.departs_ms - now)
    best_mams = outlet.max_ma * stay_ms
    text = "the connector's maximum"
    for row, times in rows.of[i]:
        fixed_ma, promised = _promised(station, rows, row, i)
        for until_ms in sorted({demand.departs_ms, *(at for at, _ in promised if at > demand.departs_ms)}):
            flows = (room[row] - fixed_ma) * (until_ms - now)
            taken = sum(mams for at, mams in promised if at <= until_ms)
            if (free := max(0, flows - taken) // times) < best_mams:
                best_mams, text = free, "what others were promised before"
    if prospect_ma * stay_ms < best_mams:
        best_mams, text = prospect_ma * stay_ms, "what the others get beside"
    feasible = session is not None and best_mams >= wished_mams
    kwh, best = _kwh(demand.energy_wh), _kwh(best_mams * NOMINAL_V * phases // 3_600_000_000)
    hours = f"{stay_ms // 3_600_000} h {stay_ms // 60_000 % 60} min"
    answer = (
        f"{kwh} kWh within {hours} can be done as things stand"
        if feasible
        else f"{kwh} kWh within {hours} cannot be promised: about {best} kWh can, because of {text}"
    )
    return replace(demand, feasible=feasible, answer=answer)


def _promised(station: Station, rows: Rows, row: int, i: int) -> tuple[int, list[tuple[int, int]]]:
    """What row `row` owes to all but connector `i`: mA all the time, and (moment, mA x ms) until then."""
    fixed_ma, promised = 0, []
    for k, connector in enumerate(station.connectors):
        times = next((times for r, times in rows.of[k] if r == row), 0)
        session = connector.session
        if k == i or not times or session is None:
            continue
        if session.demand is not None and session.demand.departs_ms > station.now_ms:
            mams = _mams(left_wh(session, session.demand), phases_of(connector, station.site.outlets[k]))
            promised.append((session.demand.departs_ms, times * mams))
        elif connector.turn.resting_since_ms is None:
            fixed_ma += times * station.site.outlets[k].min_ma
    return fixed_ma, promised


def phases_of(connector: Connector, outlet: Outlet) -> int:
    """How many phases the car uses, as far as is known."""
    return len(outlet.lines) if connector.used is None else len(connector.used)


def _mams(energy_wh: int, phases: int) -> int:
    """The energy as current per phase times time, in mA x ms."""
    return energy_wh * 3_600_000_000 // (NOMINAL_V * phases)


def _kwh(wh: int) -> str:
    return f"{wh // 1000}.{wh % 1000 // 100}"
