"""What a car may draw at worst, case by case: the figure on which every raise of another car rests."""

import pytest

from edge.control.state import EVSE_STALE_MS, METER_STALE_MS, SETTLE_MS, Connector, drawable_ma
from edge.events import EvseRead, MeterRead, Pilot

NOW = 100_000


def look(asked_ms: int = NOW, offer_ma: int = 10_000) -> EvseRead:
    return EvseRead(asked_ms, asked_ms, 1, Pilot.C, offer_ma, contactor_closed=True, cable_ma=None)


def metered(ma: int, asked_ms: int = NOW) -> MeterRead:
    return MeterRead(asked_ms, asked_ms, "m1", (ma, ma, 0), 0, 0)


def lowered(meter: MeterRead | None, evse: EvseRead | None, ago_ms: int = 1_000) -> Connector:
    """A connector told 10 A instead of 32 A `ago_ms` ago."""
    return Connector(
        offer_ma=10_000, hold_ma=32_000, lowered_ms=NOW - ago_ms, sent_ms=NOW - ago_ms, meter=meter, evse=evse
    )


@pytest.mark.parametrize(
    ("connector", "worst_ma"),
    [
        (lowered(None, look()), 32_000),
        (lowered(metered(20_000, NOW - 1_500), look()), 32_000),
        (lowered(metered(20_000), look()), 20_000),
        (lowered(metered(4_000), look()), 10_000),
        (lowered(None, look(), SETTLE_MS - 1), 32_000),
        (lowered(None, look(), SETTLE_MS), 10_000),
        (lowered(metered(15_000), look(), SETTLE_MS), 15_000),
        (lowered(metered(4_000), look(NOW - EVSE_STALE_MS - 1), 60_000), 32_000),
        (lowered(metered(40_000, NOW - METER_STALE_MS - 1), look(), 60_000), 10_000),
        (Connector(mismatches=1, evse=look(offer_ma=25_000), sent_ms=1), 25_000),
    ],
    ids=[
        "no reading since the decrease: the old offer",
        "a reading from before the decrease proves nothing",
        "measured on its way down",
        "measured below the new offer: the car may still use that",
        "just before it must have followed",
        "when it must have followed",
        "measured above its offer",
        "a silent controller may not have passed it on",
        "a stale reading counts for nothing, the offer does",
        "the controller holds more than it was told",
    ],
)
def test_worst_case(connector: Connector, worst_ma: int) -> None:
    assert drawable_ma(connector, NOW, 32_000) == worst_ma
