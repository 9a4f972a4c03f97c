"""A price per kWh and per session, worked out exactly.

Rounding happens once, half up, on the totals: the only rule that reproduces the worked examples of OCPI
2.2.1 (mod_tariffs), which defines none itself.
"""

from decimal import ROUND_HALF_UP, Decimal

from edge.records import Cost, Tariff

# ISO 4217: minor units other than 2, of the currencies in circulation.
_MINOR_UNITS = dict.fromkeys(
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split(), 0
) | dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3)


def minor_unit(currency: str) -> Decimal:
    """The smallest amount that can be paid: 0.01 EUR, 1 JPY, 0.001 KWD."""
    return Decimal(1).scaleb(-_MINOR_UNITS.get(currency, 2))


def price(tariff: Tariff, energy_wh: int) -> Cost:
    """The price of one session in which `energy_wh` flowed. Recorded inputs give the same cost for ever."""
    exact_excl = tariff.per_session + (tariff.per_kwh * energy_wh).scaleb(-3)
    exact_incl = exact_excl + (exact_excl * tariff.vat_percent).scaleb(-2)
    unit = minor_unit(tariff.currency)
    return Cost(
        currency=tariff.currency,
        excl_tax=exact_excl.quantize(unit, ROUND_HALF_UP),
        incl_tax=exact_incl.quantize(unit, ROUND_HALF_UP),
        exact_incl_tax=exact_incl,
    )


def price_text(tariff: Tariff) -> str:
    """The tariff in words, tax included, as the law wants it shown: kWh first, then session (AFIR Art. 5)."""

    def with_tax(amount: Decimal) -> str:
        total = amount + (amount * tariff.vat_percent).scaleb(-2)
        return f"{total.normalize():f} {tariff.currency}"

    parts = [f"{with_tax(tariff.per_kwh)} per kWh"]
    if tariff.per_session:
        parts.append(f"{with_tax(tariff.per_session)} per session")
    return " + ".join(parts) + " (tax included)"
