"""The money side of a session: opened before power, closed with a register, priced once, never edited."""

from msgspec.structs import replace

from edge.payments.tariff import price
from edge.records import Claim, ClaimState, StopReason


def claim_id(station: str, epoch: str, seq: int) -> str:
    """The idempotency key: unique for ever. `epoch` is drawn at each start of the daemon.

    Not with the journal: one that was put back from an old copy counts its `seq` from there again, and the
    backend would refuse a new claim under the id of one it has booked.
    """
    return f"{station}-{epoch[:12]}-{seq}"


def checkpoint(claim: Claim, register_wh: int) -> Claim:
    """The same open claim with the highest register seen, to be billed if the meter never comes back."""
    return replace(claim, last_wh=max(claim.last_wh, register_wh))


def flag(claim: Claim, anomaly: str) -> Claim:
    """Note what a person should know; a flagged claim waits for an operator before anyone pays."""
    if anomaly in claim.anomalies:
        return claim
    return replace(claim, anomalies=(*claim.anomalies, anomaly), hold=True)


def close(claim: Claim, end_wh: int, reason: StopReason, unix_ms: int) -> Claim:
    """Close with the end register and price it. Without energy there is nothing to bill: VOIDED.

    A register below the start is never billed negative: the claim closes at its last good value, on hold.
    """
    if end_wh < claim.last_wh:
        claim = flag(claim, f"end register {end_wh} Wh is below {claim.last_wh} Wh seen before")
        end_wh = claim.last_wh
    energy_wh = end_wh - claim.start_wh
    return replace(
        claim,
        # A flagged claim goes to the operator even without energy: nobody may know what really flowed.
        state=ClaimState.CLOSED if energy_wh or claim.hold else ClaimState.VOIDED,
        closed_unix_ms=unix_ms,
        last_wh=end_wh,
        end_wh=end_wh,
        energy_wh=energy_wh,
        reason=reason,
        cost=price(claim.tariff, energy_wh) if energy_wh or claim.hold else None,
    )
