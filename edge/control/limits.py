"""The last word. Every offer passes `permit`, which can only make it safer: lower it or refuse it.

Small and dumb on purpose. It does not trust what sharing worked out: it looks at the room that the other
connectors, at the worst they may draw this moment, leave in every circuit above.
"""

from collections.abc import Sequence

from edge.control.site import NO_PARENT, Circuit, Outlet
from edge.events import Phases


def room_ma(
    circuits: Sequence[Circuit],
    headroom_ma: Sequence[Phases],
    load_ma: Sequence[Sequence[int]],
    outlet: Outlet,
    own_ma: int,
) -> tuple[int, str]:
    """What one connector may draw per phase beside all others, and the circuit and phase that bound it.

    `headroom_ma[c]` is what our connectors below circuit c may take together, `load_ma[c]` the worst they
    may draw now (see `loads_ma`), `own_ma` this connector's part of that. No room is 0, never negative.
    """
    best_ma, bound_by = outlet.max_ma, "own maximum"
    circuit = outlet.circuit
    while circuit != NO_PARENT:
        for line in outlet.lines:
            ma = headroom_ma[circuit][line] - load_ma[circuit][line] + own_ma
            if ma < best_ma:
                best_ma, bound_by = ma, f"circuit {circuits[circuit].id} L{line + 1}"
        circuit = circuits[circuit].parent
    return max(0, best_ma), bound_by


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


def loads_ma(
    circuits: Sequence[Circuit], outlets: Sequence[Outlet], drawn_ma: Sequence[int]
) -> list[list[int]]:
    """Per circuit, the sum over all connectors below it on L1, L2, L3."""
    sums = [[0, 0, 0] for _ in circuits]
    for outlet, ma in zip(outlets, drawn_ma, strict=True):
        add_load(circuits, sums, outlet, ma)
    return sums


def add_load(circuits: Sequence[Circuit], sums: list[list[int]], outlet: Outlet, ma: int) -> None:
    """Add `ma` on each of the connector's lines to its circuit and all above; negative takes away."""
    circuit = outlet.circuit
    while circuit != NO_PARENT:
        for line in outlet.lines:
            sums[circuit][line] += ma
        circuit = circuits[circuit].parent
