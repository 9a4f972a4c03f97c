"""All we can ask, in the imperative. The core returns them; the daemon hands each to its hand."""

from msgspec import Struct

from edge.records import Claim


class SetOffer(Struct, frozen=True):
    """Let a car draw up to `offer_ma` per phase, or nothing at 0: the controller opens after the car let go.

    An offer above 0 is a lease: it is valid for `lease_ms` from `at_ms` and renewed while it shall go on.
    It has passed `control.limits.permit`; a hand may lower it, never raise it.
    """

    connector: int
    offer_ma: int  # 0 or at least the connector's minimum
    at_ms: int
    lease_ms: int


class SetPhases(Struct, frozen=True):
    """Switch a connector to 1 or 3 phases. Sent only at 0 A, with the contactor seen open."""

    connector: int
    phases: int
    at_ms: int


class Record(Struct, frozen=True):
    """Make this state of a claim durable, then answer `Recorded` or `RecordFailed`."""

    claim: Claim


class Announce(Struct, frozen=True):
    """Tell people: one sentence for log, ring and uplink. `topic` is a stable word a program can match."""

    at_ms: int
    topic: str  # e.g. "card_refused", "fault_raised", "session_closed"
    text: str
    connector: int | None = None


Command = SetOffer | SetPhases | Record | Announce
