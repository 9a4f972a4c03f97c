"""Money: exact, rounded once, never negative, the same for ever."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.payments.claim import checkpoint, claim_id, close, flag
from edge.payments.tariff import minor_unit, price, price_text
from edge.records import Claim, ClaimState, ClockQuality, StopReason, Tariff

money = st.decimals(0, 10, places=4)
tariffs = st.builds(
    Tariff, st.sampled_from(["EUR", "JPY", "KWD"]), money, money, st.decimals(0, 27, places=1)
)


def an_open_claim(tariff: Tariff, start_wh: int = 1_000) -> Claim:
    return Claim(
        id="st-e-1", seq=1, state=ClaimState.OPEN, connector=1, contract="alice", credential="…A2A3",
        tariff=tariff, meter="m1", start_wh=start_wh, last_wh=start_wh, opened_unix_ms=0,
        clock=ClockQuality.SYNCED,
    )  # fmt: skip


@given(tariffs, st.integers(0, 200_000))
def test_a_price_is_exact_and_rounded_half_up_once(tariff: Tariff, wh: int) -> None:
    cost = price(tariff, wh)
    excl = Fraction(tariff.per_session) + Fraction(tariff.per_kwh) * Fraction(wh, 1000)
    incl = excl * (1 + Fraction(tariff.vat_percent) / 100)
    assert Fraction(cost.exact_incl_tax) == incl
    unit = Fraction(minor_unit(tariff.currency))
    for rounded, exact in ((cost.excl_tax, excl), (cost.incl_tax, incl)):
        assert Fraction(rounded) == (exact / unit + Fraction(1, 2)).__floor__() * unit


@pytest.mark.parametrize(
    ("per_kwh", "per_session", "vat", "wh", "excl", "incl"),
    [
        ("0.25", "0", "10", 20_000, "5.00", "5.50"),  # OCPI 2.2.1 tariff example: simple energy
        ("0.25", "0", "10", 1_900, "0.48", "0.52"),
        ("0.50", "0.35", "19", 10_001, "5.35", "6.37"),
    ],
)
def test_worked_examples(per_kwh: str, per_session: str, vat: str, wh: int, excl: str, incl: str) -> None:
    cost = price(Tariff("EUR", Decimal(per_kwh), Decimal(per_session), Decimal(vat)), wh)
    assert (str(cost.excl_tax), str(cost.incl_tax)) == (excl, incl)


def test_the_price_text_names_what_a_driver_pays() -> None:
    text = price_text(Tariff("EUR", Decimal("0.40"), Decimal("0.50"), Decimal(19)))
    assert text == "0.476 EUR per kWh + 0.595 EUR per session (tax included)"
    assert "session" not in price_text(Tariff("EUR", Decimal("0.40"), Decimal(0), Decimal(0)))


@given(tariffs, st.lists(st.integers(0, 10**9), max_size=5), st.integers(0, 10**9))
def test_a_claim_never_bills_negative_energy_and_says_when_it_would_have(
    tariff: Tariff, seen_wh: list[int], end_wh: int
) -> None:
    claim = an_open_claim(tariff)
    for wh in seen_wh:
        claim = checkpoint(claim, wh)
    closed = close(claim, end_wh, StopReason.CARD, 5)
    assert closed.energy_wh is not None
    assert closed.energy_wh >= 0
    assert closed.hold == (end_wh < claim.last_wh)
    nothing = closed.energy_wh == 0 and not closed.hold  # what is held goes to a person in any case
    assert (closed.state is ClaimState.VOIDED) == nothing == (closed.cost is None)
    assert close(claim, end_wh, StopReason.CARD, 5) == closed


def test_an_anomaly_is_noted_once() -> None:
    claim = flag(flag(an_open_claim(Tariff("EUR", Decimal(1), Decimal(0), Decimal(0))), "odd"), "odd")
    assert claim.anomalies == ("odd",)
    assert claim.hold


def test_claim_ids_of_two_journals_never_meet() -> None:
    assert claim_id("st", "a" * 32, 1) != claim_id("st", "b" * 32, 1)
