"""The last word. Every offer passes `permit`, which can only make it safer: lower it or refuse it.

Small and dumb on purpose. It does not trust what sharing worked out: it looks at the room that the other
connectors, at the worst they may draw this moment, leave in every row.
"""

from edge.control.rows import Rows
from edge.control.site import Outlet


def room_for(rows: Rows, room: list[int], load: list[int], i: int, own_ma: int) -> tuple[int, int]:
    """What connector i may draw per phase beside all others, and the row that bounds it.

    `room` and `load` are per row in mA, `own_ma` is what connector i is in `load` with. Never negative.
    """
    best_ma, tightest = -1, -1
    for row, times in rows.of[i]:
        ma = (room[row] - load[row]) // times + own_ma
        if tightest < 0 or ma < best_ma:
            best_ma, tightest = ma, row
    return max(0, best_ma), tightest


def add_load(rows: Rows, load: list[int], i: int, ma: int) -> None:
    """Add `ma` per phase of connector i to all its rows; negative takes away."""
    if ma:
        for row, times in rows.of[i]:
            load[row] += times * ma


def permit(
    wanted_ma: int, *, outlet: Outlet, cable_ma: int | None, room_ma: int, recorded: bool, healthy: bool
) -> int:
    """The offer that may leave: 0, or between the connector's minimum and the smallest of all limits.

    `recorded`: an open claim of this session is on disk. `healthy`: no fault that stops, controller and
    commands up to date, station not shutting down.
    """
    if not recorded or not healthy:
        return 0
    allowed_ma = min(wanted_ma, outlet.max_ma, room_ma)
    if cable_ma is not None:
        allowed_ma = min(allowed_ma, cable_ma)
    return allowed_ma if allowed_ma >= outlet.min_ma else 0
