"""What a car makes of its offer: unused current is shared out, unused phases are freed, excess is charged.

Judged on every tick from fresh readings; what is not known counts as used.
"""

from msgspec.structs import replace

from edge.control.site import Outlet, Sharing
from edge.control.state import METER_STALE_MS, SETTLE_MS, Connector, Use, is_fresh
from edge.events import MeterRead

REGAIN_MA = 1_000
"""A car this close to its cap wants more: what meters and cars round by, at most half of the headroom."""

FOLLOWS_MA = 500
"""Who falls by this much right after he was capped followed his offer, not his own wish."""

PHASE_USED_MA = 2_000
PHASE_IDLE_MA = 500
"""Between a charger's standby on a phase and the least of a charging one: IEC 61851-1 cars draw near 6 A or
nothing; the space between the two decides nothing."""

LEARN_MS = 10_000
"""As long as reclaiming: a charger that starts its phases one after the other is done by then."""

TOLERANCE_MA = 1_000
"""What a car may exceed its offer by: its meter's and its charger's steps. Above 10 A it is a tenth."""


def over_ma(connector: Connector, now_ms: int) -> int:
    """How much more the car takes than any offer of the last SETTLE_MS; it is charged to the others.

    A car that was taking too much when its meter fell silent is taken to go on.
    """
    meter = connector.meter
    if meter is None or not connector.sent_ms:
        return 0
    drawn_ma = max(meter.current_ma)
    if drawn_ma <= connector.offer_ma:
        return 0
    if connector.overdraw_since_ms is None and not is_fresh(meter, now_ms, METER_STALE_MS):
        return 0
    return max(0, drawn_ma - _told_ma(connector, now_ms))


def excess_ma(connector: Connector, now_ms: int) -> int:
    """`over_ma` where it is beyond tolerance, so that the car does not obey; else 0."""
    over = over_ma(connector, now_ms)
    return over if over and over > max(TOLERANCE_MA, _told_ma(connector, now_ms) // 10) else 0


def _told_ma(connector: Connector, now_ms: int) -> int:
    # A car can only obey what its controller has passed on, which is what was read back.
    told = [ma for until_ms, ma in connector.told if until_ms > now_ms]
    return max(connector.offer_ma, connector.evse.offer_ma if connector.evse else 0, *told)


def with_use(connector: Connector, outlet: Outlet, sharing: Sharing, now_ms: int) -> Connector:
    """The connector with what its car was seen to use: a cap on what it leaves, and its phases."""
    if connector.asking_since_ms is None or not connector.offer_ma:
        return connector if connector.use == Use() else replace(connector, use=Use())
    meter = connector.meter
    if meter is None or not is_fresh(meter, now_ms, METER_STALE_MS):
        return connector
    use, used = _phases(connector, meter, outlet, now_ms)
    drawn_ma = max(meter.current_ma)
    cap_ma, under_ms, capped_draw_ma, follows = (
        use.cap_ma, use.under_since_ms, use.capped_draw_ma, use.follows
    )  # fmt: skip
    settled = now_ms - connector.offered_ms >= SETTLE_MS and meter.asked_ms >= connector.offered_ms
    if settled and capped_draw_ma is not None:
        follows = drawn_ma < capped_draw_ma - FOLLOWS_MA
        capped_draw_ma = None
    if follows or (
        cap_ma is not None and drawn_ma >= cap_ma - min(REGAIN_MA, sharing.reclaim_headroom_ma // 2)
    ):
        cap_ma = under_ms = None
    capped_ma = max(outlet.min_ma, drawn_ma + sharing.reclaim_headroom_ma)
    # Another ampere of distance: a cap is not worth a message to the car for less.
    if settled and not follows and capped_ma + REGAIN_MA <= connector.offer_ma:
        under_ms = now_ms if under_ms is None else under_ms
        if now_ms - under_ms >= sharing.reclaim_after_ms:
            cap_ma, under_ms, capped_draw_ma = capped_ma, None, drawn_ma
    else:
        under_ms = None
    if (cap_ma, under_ms, capped_draw_ma, follows) != (
        use.cap_ma, use.under_since_ms, use.capped_draw_ma, use.follows
    ):  # fmt: skip
        use = replace(
            use, cap_ma=cap_ma, under_since_ms=under_ms, capped_draw_ma=capped_draw_ma, follows=follows
        )
    if use is connector.use and used == connector.used:
        return connector
    return replace(connector, use=use, used=used)


def _phases(
    connector: Connector, meter: MeterRead, outlet: Outlet, now: int
) -> tuple[Use, tuple[int, ...] | None]:
    """The phases the car uses, once it showed the same for a while; None when it shows another."""
    use, used = connector.use, connector.used
    phases = len(outlet.lines)
    if used is None and use.phases_since_ms is None and min(meter.current_ma[:phases]) >= PHASE_USED_MA:
        return use, None  # nearly every look: all of them are in use
    wired = range(phases)
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
