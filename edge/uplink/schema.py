"""The contract with the operator, version 1: one frozen struct per topic, JSON in UTF-8.

    {prefix}/v1/{station}/status               Status          retained, QoS 1, also the last will
    {prefix}/v1/{station}/birth                Birth           retained, QoS 1
    {prefix}/v1/{station}/connector/{n}/state  ConnectorState  retained, QoS 1
    {prefix}/v1/{station}/connector/{n}/meter  ConnectorMeter  QoS 0, rate-limited
    {prefix}/v1/{station}/event                Announcement    QoS 1
    {prefix}/v1/{station}/claim                ClaimMessage    QoS 1, again and again until `ack`
    {prefix}/v1/{station}/ack                  Ack             QoS 1, from the backend; never retained

Evolution is additive: readers ignore fields they do not know, a field is never renamed and never changes
its meaning or unit; anything else is version 2 under its own topics. A field added to `ClaimMessage` must be
left out of claims that do not have it, or the hash of a claim sent before the update would change.
Units stand in the names; money is decimal strings; `*_unix_ms` is milliseconds of Unix time.
"""

from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from edge.errors import ConfigError, UplinkError
from edge.records import Claim, ClaimState, ClockQuality, Cost, StopReason, Tariff

Version = Literal[1]

# What the contract lets the backend send in one message: far above any ack, far below the board's memory.
MAX_INBOUND_BYTES = 64 * 1024

# [MQTT-4.7.1-1]: wildcards and NUL may not stand in a topic that is published to.
_NOT_IN_TOPIC = frozenset("+#\0")


class StationState(StrEnum):
    """`lost` is only ever said by the last will; it concerns the connection number it carries, no other."""

    ONLINE = "online"
    OFFLINE = "offline"  # a clean stop
    LOST = "lost"


class Status(Struct, frozen=True, kw_only=True):
    """Whether the station is there. Unless `online`, what its other retained topics say is history.

    A `lost` with a lower `connection` than the status it would replace is a stale will, to be ignored.
    """

    v: Version = 1
    state: StationState
    connection: int  # counts connection attempts, durably
    since_unix_ms: int | None  # None in the will: nobody knows when the line broke


class ConnectorRating(Struct, frozen=True, kw_only=True):
    """What a connector is built for; currents are per phase."""

    number: int
    phases: int
    min_ma: int
    max_ma: int


class TariffNotice(Struct, frozen=True, kw_only=True):
    """The price before tax as exact decimals, and `text`: the line a driver reads, tax included."""

    currency: str  # ISO 4217
    per_kwh: str
    per_session: str
    vat_percent: str
    text: str


class Birth(Struct, frozen=True, kw_only=True):
    """What the station is; published before every `online`."""

    v: Version = 1
    station: str
    software: str  # version of this program
    name: str
    location: str
    support: str  # whom a driver calls
    connectors: tuple[ConnectorRating, ...]
    tariff: TariffNotice


class ConnectorStatus(StrEnum):
    """What a connector does; the names of OCPP 1.6 (ChargePointStatus) where it has them."""

    AVAILABLE = "available"
    PREPARING = "preparing"
    CHARGING = "charging"
    SUSPENDED_EV = "suspended_ev"  # the car does not draw what it is offered
    SUSPENDED_EVSE = "suspended_evse"  # nothing is offered at the moment
    FINISHING = "finishing"
    UNAVAILABLE = "unavailable"
    FAULTED = "faulted"
    UNKNOWN = "unknown"  # the controller of this connector does not answer


class FaultNotice(Struct, frozen=True, kw_only=True):
    """A fault that stands now: its stable name and the sentence for the driver of the car."""

    name: str
    driver_text: str


class ConnectorState(Struct, frozen=True, kw_only=True):
    """What a connector does now; `reason` says why it has this current and not more."""

    v: Version = 1
    connector: int
    state: ConnectorStatus
    offered_ma: int  # per phase
    reason: str
    faults: tuple[FaultNotice, ...]
    since_unix_ms: int
    reason_kind: str = ""  # a stable word a program can match
    reason_since_unix_ms: int | None = None
    reason_until_unix_ms: int | None = None  # None: nobody can tell
    demand: str = ""  # what the driver asked for and whether it can be met


class ConnectorMeter(Struct, frozen=True, kw_only=True):
    """A meter reading that was `age_ms` old when it was sent."""

    v: Version = 1
    connector: int
    current_ma: tuple[int, int, int]
    power_w: int
    energy_wh: int  # lifetime import register
    age_ms: int


class Announcement(Struct, frozen=True, kw_only=True):
    """One sentence for people. `dropped` announcements just before this one were lost for want of room."""

    v: Version = 1
    topic: str  # a stable word a program can match
    text: str
    connector: int | None
    unix_ms: int
    dropped: int


class ClaimTariff(Struct, frozen=True, kw_only=True):
    """`records.Tariff` on the wire."""

    currency: str
    per_kwh: str
    per_session: str
    vat_percent: str


class ClaimCost(Struct, frozen=True, kw_only=True):
    """`records.Cost` on the wire."""

    currency: str
    excl_tax: str
    incl_tax: str
    exact_incl_tax: str


class ClaimMessage(Struct, frozen=True, kw_only=True):
    """A closed claim with all that is needed to bill it; the same bytes on every try.

    The receiver remembers `id` with `hash`: the same pair again is the same claim sent again, to be
    answered `duplicate`; the same `id` with another `hash` is a conflict, to be answered `rejected`.
    """

    v: Version = 1
    id: str
    seq: int
    connector: int
    contract: str
    credential: str  # masked
    tariff: ClaimTariff
    meter: str
    start_wh: int
    end_wh: int
    energy_wh: int
    opened_unix_ms: int
    closed_unix_ms: int
    clock: ClockQuality
    reason: StopReason
    cost: ClaimCost
    anomalies: tuple[str, ...]
    hold: bool  # do not charge anyone before a person looked at it
    hash: str  # `claim_hash` of all the other fields


class Verdict(StrEnum):
    """The backend's answer to a claim."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # it has this very claim already
    REJECTED = "rejected"  # it will never take it; a person must look


class Ack(Struct, frozen=True, kw_only=True):
    """The backend has durably taken note of one claim, or refuses it."""

    v: Version = 1
    claim_id: Annotated[str, Meta(min_length=1, max_length=255)]
    hash: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]  # "$" alone would let a newline pass
    verdict: Verdict
    detail: Annotated[str, Meta(max_length=1000)] = ""


Message = Status | Birth | ConnectorState | ConnectorMeter | Announcement | ClaimMessage

_SETTLED_AS = {
    Verdict.ACCEPTED: ClaimState.SETTLED,
    Verdict.DUPLICATE: ClaimState.SETTLED,
    Verdict.REJECTED: ClaimState.REJECTED,
}


class Topics:
    """The topic names of one station."""

    def __init__(self, prefix: str, station: str) -> None:
        """Raise `ConfigError` for names that cannot stand in a topic."""
        if not prefix or _NOT_IN_TOPIC & set(prefix):
            raise ConfigError([f'uplink prefix {prefix!r}: must not be empty or hold "+" or "#"'])
        if not station or (_NOT_IN_TOPIC | {"/"}) & set(station):
            raise ConfigError([f'station {station!r}: must not be empty or hold "/", "+" or "#"'])
        root = f"{prefix}/v1/{station}"
        self.status = f"{root}/status"
        self.birth = f"{root}/birth"
        self.event = f"{root}/event"
        self.claim = f"{root}/claim"
        self.ack = f"{root}/ack"
        self._connector = f"{root}/connector"

    def connector_state(self, number: int) -> str:
        """Topic of a connector's state."""
        return f"{self._connector}/{number}/state"

    def connector_meter(self, number: int) -> str:
        """Topic of a connector's meter."""
        return f"{self._connector}/{number}/meter"


def encode(message: Message) -> bytes:
    """One message as JSON."""
    return msgspec.json.encode(message)


def claim_hash(message: ClaimMessage) -> str:
    """SHA-256 in hex over the canonical JSON of all fields but `hash`.

    Canonical is RFC 8785 for what a claim holds (no floats): keys sorted, no white space, UTF-8.
    """
    fields = msgspec.to_builtins(message)
    del fields["hash"]
    return sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


def claim_message(claim: Claim) -> ClaimMessage:
    """Put a closed claim on the wire. Raises `UplinkError` if it lacks what only a closed one has."""
    if (
        claim.closed_unix_ms is None
        or claim.end_wh is None
        or claim.energy_wh is None
        or claim.reason is None
        or claim.cost is None
    ):
        raise UplinkError(f"claim {claim.id} cannot be sent: it is not closed and priced")
    message = ClaimMessage(
        id=claim.id,
        seq=claim.seq,
        connector=claim.connector,
        contract=claim.contract,
        credential=claim.credential,
        tariff=_tariff(claim.tariff),
        meter=claim.meter,
        start_wh=claim.start_wh,
        end_wh=claim.end_wh,
        energy_wh=claim.energy_wh,
        opened_unix_ms=claim.opened_unix_ms,
        closed_unix_ms=claim.closed_unix_ms,
        clock=claim.clock,
        reason=claim.reason,
        cost=_cost(claim.cost),
        anomalies=claim.anomalies,
        hold=claim.hold,
        hash="",
    )
    return replace(message, hash=claim_hash(message))


def parse_ack(payload: bytes) -> Ack:
    """Read what came in on `ack`. Raises `UplinkError` with the reason for anything else."""
    if len(payload) > MAX_INBOUND_BYTES:
        raise UplinkError(f"not an ack: {len(payload)} bytes, at most {MAX_INBOUND_BYTES} are taken")
    try:
        return msgspec.json.decode(payload, type=Ack)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UplinkError(f"not an ack: {str(error)[:200]}") from error  # it may quote what came in


def settled_as(verdict: Verdict) -> ClaimState:
    """What the backend's verdict makes of a claim."""
    return _SETTLED_AS[verdict]


def _exact(amount: Decimal) -> str:
    return format(amount, "f")  # never "1E+2"


def _tariff(tariff: Tariff) -> ClaimTariff:
    return ClaimTariff(
        currency=tariff.currency,
        per_kwh=_exact(tariff.per_kwh),
        per_session=_exact(tariff.per_session),
        vat_percent=_exact(tariff.vat_percent),
    )


def _cost(cost: Cost) -> ClaimCost:
    return ClaimCost(
        currency=cost.currency,
        excl_tax=_exact(cost.excl_tax),
        incl_tax=_exact(cost.incl_tax),
        exact_incl_tax=_exact(cost.exact_incl_tax),
    )
