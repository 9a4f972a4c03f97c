"""What a car makes of its offer: unused current is shared out, unused phases are freed, excess is charged.

Judged on every tick from fresh readings; what is not known counts as used.
"""

from msgspec.structs import replace

from edge.control.site import Outlet, Sharing
from edge.control.state import METER_STALE_MS, SETTLE_MS, Connector, Use, is_fresh
from edge.events import MeterRead

REGAIN_MA = 1_000
"""A car this close to its cap wants more: half the usual headroom, and what meters and cars round by."""

PHASE_USED_MA = 2_000
PHASE_IDLE_MA = 500
"""Between a charger's standby on a phase and the least of a charging one: IEC 61851-1 cars draw near 6 A or
nothing; the space between the two decides nothing."""

LEARN_MS = 10_000
"""As long as reclaiming: a charger that starts its phases one after the other is done by then."""

TOLERANCE_MA = 1_000
"""What a car may exceed its offer by: its meter's and its charger's steps. Above 10 A it is a tenth."""


def excess_ma(connector: Connector, now_ms: int) -> int:
    """How much the car takes beyond what it was told and tolerated; 0 while it may still be following."""
    meter = connector.meter
    if meter is None or not is_fresh(meter, now_ms, METER_STALE_MS):
        return 0
    if not connector.sent_ms or now_ms - connector.lowered_ms <= SETTLE_MS:
        return 0
    # A car can only obey what its controller has passed on, which is what was read back.
    told_ma = max(connector.offer_ma, connector.evse.offer_ma if connector.evse else 0)
    over_ma = max(meter.current_ma) - told_ma
    return over_ma if over_ma > max(TOLERANCE_MA, told_ma // 10) else 0


def with_use(connector: Connector, outlet: Outlet, sharing: Sharing, now_ms: int) -> Connector:
    """The connector with what its car was seen to use: a cap on what it leaves, and its phases."""
    if connector.asking_since_ms is None or not connector.offer_ma:
        idle = connector.use.cap_ma is None and connector.use.under_since_ms is None
        return connector if idle else replace(connector, use=Use())
    meter = connector.meter
    if meter is None or not is_fresh(meter, now_ms, METER_STALE_MS):
        return connector
    use, used = _phases(connector, meter, outlet, now_ms)
    drawn_ma = max(meter.current_ma)
    cap_ma, under_ms = use.cap_ma, use.under_since_ms
    if cap_ma is not None and drawn_ma >= cap_ma - REGAIN_MA:
        cap_ma = under_ms = None
    settled = now_ms - connector.offered_ms >= SETTLE_MS and meter.asked_ms >= connector.offered_ms
    capped_ma = max(outlet.min_ma, drawn_ma + sharing.reclaim_headroom_ma)
    # Another ampere of distance: a cap is not worth a message to the car for less.
    if settled and capped_ma + REGAIN_MA <= connector.offer_ma:
        under_ms = now_ms if under_ms is None else under_ms
        if now_ms - under_ms >= sharing.reclaim_after_ms:
            cap_ma, under_ms = capped_ma, None
    else:
        under_ms = None
    if cap_ma != use.cap_ma or under_ms != use.under_since_ms:
        use = replace(use, cap_ma=cap_ma, under_since_ms=under_ms)
    if use is connector.use and used == connector.used:
        return connector
    return replace(connector, use=use, used=used)


def _phases(
    connector: Connector, meter: MeterRead, outlet: Outlet, now: int
) -> tuple[Use, tuple[int, ...] | None]:
    """The phases the car uses, once it showed the same for a while; None when it shows another."""
    use, used = connector.use, connector.used
    wired = range(len(outlet.lines))
    if used is not None and any(meter.current_ma[k] > PHASE_IDLE_MA for k in wired if k not in used):
        used = None
    seen = tuple(k for k in wired if meter.current_ma[k] >= PHASE_USED_MA)
    clear = seen and all(meter.current_ma[k] <= PHASE_IDLE_MA for k in wired if k not in seen)
    if not clear or len(seen) == len(wired):
        return (use if use.phases_since_ms is None else replace(use, phases_since_ms=None)), used
    if use.phases_since_ms is None or use.phases_seen != seen:
        return replace(use, phases_since_ms=now, phases_seen=seen), used
    if now - use.phases_since_ms >= LEARN_MS:
        used = seen
    return use, used
