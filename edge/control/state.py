"""The station as the core knows it, all frozen. What a device said is kept as the event that said it."""

from msgspec import Struct

from edge.control.faults import Fault
from edge.control.session import State
from edge.control.site import Card, Site
from edge.events import Credential, EvseRead, MeterRead, Phases
from edge.records import Claim, ClockQuality, StopReason

METER_STALE_MS = 5_000
"""A reading older than this is no reading: ten missed polls at the usual 500 ms."""

EVSE_STALE_MS = 5_000
"""As for meters. A controller that is silent longer may hold any limit it was ever told."""


SETTLE_MS = 5_000
"""IEC 61851-1:2017 Annex A: a car follows a new duty cycle within 5 s."""


class Session(Struct, frozen=True):
    """What one authorisation started; lives from the card to the closed claim."""

    claim: Claim
    card: str  # canonical id of the card that may stop it; "" after a restart, when only the mask is known
    resumable: bool = False  # adopted after an absence short enough that it is surely the same car
    reason: StopReason | None = None  # set when it is being stopped
    stopped_ms: int = 0  # when the offer was withdrawn
    opened_ms: int | None = None  # first look that showed the contactor open after that
    retry_ms: int | None = None  # when to try the journal again
    checkpoint_ms: int = 0


class Connector(Struct, frozen=True):
    """One connector. `offer_ma` is what the car was last told; it may draw up to `hold_ma` for a while."""

    state: State = State.UNKNOWN
    since_ms: int = 0
    session: Session | None = None
    last_card: str = ""  # canonical id of the card whose session ended last
    evse: EvseRead | None = None
    meter: MeterRead | None = None
    earlier: MeterRead | None = None  # the reading before `meter`
    offer_ma: int = 0
    offered_ms: int = 0  # when the offer last changed
    sent_ms: int = 0  # when it was last sent (leases are renewed)
    hold_ma: int = 0  # the offer before the last decrease
    lowered_ms: int = 0
    asking_since_ms: int | None = None  # pilot C or D without a break since
    bound_by: str = ""  # why the offer is not higher, in words
    overdraw_since_ms: int | None = None
    mismatches: int = 0
    faults: tuple[Fault, ...] = ()


class CircuitState(Struct, frozen=True):
    """A circuit's own meter and what follows from it: the load on the circuit that is not ours.

    Meters are read one after the other. `unmatched` is a reading that waits until every connector below has
    been read after it, too; only then do both tell of the same moment.
    """

    meter: MeterRead | None = None
    unmatched: MeterRead | None = None
    background_ma: Phases | None = None  # None: not known yet
    faults: tuple[Fault, ...] = ()


class WaitingCard(Struct, frozen=True):
    """A card shown before the plug was in."""

    reader: str
    credential: Credential
    card: Card
    until_ms: int


class Station(Struct, frozen=True):
    """Everything the core remembers between two events."""

    site: Site
    epoch: str
    next_seq: int
    connectors: tuple[Connector, ...]
    circuits: tuple[CircuitState, ...]
    started_ms: int
    now_ms: int
    wall_unix_ms: int = 0
    wall_at_ms: int = 0
    clock: ClockQuality = ClockQuality.UNSYNCED
    waiting: WaitingCard | None = None
    orphans: tuple[Claim, ...] = ()  # closed at the start for want of a connector, and not on record yet
    orphans_sent_ms: int = 0
    online: bool = False
    stopping: bool = False
    faults: tuple[Fault, ...] = ()


def unix_ms(station: Station) -> int:
    """Wall time of the event being handled, from the last tick's; for records only."""
    return station.wall_unix_ms + station.now_ms - station.wall_at_ms


def is_fresh(read: MeterRead | EvseRead | None, now_ms: int, limit_ms: int) -> bool:
    """Whether a reading is young enough to act on, counted from when the question was sent."""
    return read is not None and now_ms - read.asked_ms <= limit_ms


def drawable_ma(connector: Connector, now_ms: int, max_ma: int) -> int:
    """The worst the car may draw per phase at this moment, whatever it was told.

    After a decrease the old offer counts until the meter shows less or `SETTLE_MS` passed (IEC 61851-1
    Annex A gives a car 5 s to follow). A silent controller may hold any earlier offer; a car seen to take
    more than it was offered counts with what it takes. A stale meter counts at the offer's worst case.
    """
    measured_ma = None
    if connector.meter is not None and is_fresh(connector.meter, now_ms, METER_STALE_MS):
        measured_ma = max(connector.meter.current_ma)
    worst_ma = connector.offer_ma
    if connector.hold_ma > worst_ma:
        silent = not is_fresh(connector.evse, now_ms, EVSE_STALE_MS)
        if silent or now_ms - connector.lowered_ms < SETTLE_MS:
            worst_ma = connector.hold_ma
            if measured_ma is not None and not silent and _metered_since_lowered(connector):
                worst_ma = max(connector.offer_ma, min(connector.hold_ma, measured_ma))
    if connector.sent_ms == 0 and connector.session is not None:
        worst_ma = max(worst_ma, min(max_ma, connector.evse.offer_ma) if connector.evse else max_ma)
    if connector.mismatches:
        worst_ma = max(worst_ma, min(max_ma, connector.evse.offer_ma if connector.evse else max_ma))
    if measured_ma is not None:
        worst_ma = max(worst_ma, measured_ma)
    return worst_ma


def _metered_since_lowered(connector: Connector) -> bool:
    return connector.meter is not None and connector.meter.asked_ms > connector.lowered_ms
