"""What must survive a power cut: the money side of a session, as journal and uplink keep it.

Energy is in watt-hours of the meter's lifetime register (never integrated power), money in exact decimals,
times in milliseconds of Unix time with the quality the clock had.
"""

from decimal import Decimal
from enum import StrEnum

from msgspec import Struct


class ClockQuality(StrEnum):
    """How much a wall-clock time is worth."""

    SYNCED = "synced"  # the kernel says NTP disciplines the clock
    UNSYNCED = "unsynced"  # free-running since start; durations across a reboot are unknown


class ClaimState(StrEnum):
    """The life of a claim. OPEN -> CLOSED -> SETTLED | REJECTED, or OPEN -> VOIDED.

    CLOSED is the outbox: a closed claim is sent until the backend answers; there is no second queue.
    """

    OPEN = "open"  # recorded before power; the session runs
    CLOSED = "closed"  # priced; waits for the backend's answer, for ever if need be
    SETTLED = "settled"  # the backend accepted it (or knew it already)
    REJECTED = "rejected"  # the backend refused it; kept for the operator, never deleted
    VOIDED = "voided"  # no energy was ever allowed; nothing to bill


class StopReason(StrEnum):
    """Why a session ended."""

    CARD = "card"  # the same card again
    UNPLUGGED = "unplugged"
    FAULT = "fault"
    POWER_LOSS = "power_loss"  # the station was without power, or the daemon was away too long


class Tariff(Struct, frozen=True, forbid_unknown_fields=True):
    """A price: per kWh and per session, before tax. The snapshot taken at the start stays with the claim."""

    currency: str  # ISO 4217
    per_kwh: Decimal
    per_session: Decimal
    vat_percent: Decimal


class Cost(Struct, frozen=True):
    """A price worked out. Totals are rounded half up, once, to the currency's minor unit."""

    currency: str
    excl_tax: Decimal
    incl_tax: Decimal
    exact_incl_tax: Decimal


class Claim(Struct, frozen=True):
    """What one session costs and why. `id` is the idempotency key, the same on every try for ever."""

    id: str  # "{station}-{epoch}-{seq}", see `payments.claim.claim_id`
    seq: int
    state: ClaimState
    connector: int
    contract: str  # whom to bill: the name behind the card, never the card's number
    credential: str  # masked card number, for a person comparing with the card in his hand
    tariff: Tariff
    meter: str
    start_wh: int  # lifetime register before power was allowed
    last_wh: int  # highest register seen so far and recorded
    opened_unix_ms: int
    clock: ClockQuality
    closed_unix_ms: int | None = None
    end_wh: int | None = None
    energy_wh: int | None = None
    reason: StopReason | None = None
    cost: Cost | None = None
    anomalies: tuple[str, ...] = ()  # what a person should know before he trusts the figure
    hold: bool = False  # an operator must look at it before it is charged to anyone
