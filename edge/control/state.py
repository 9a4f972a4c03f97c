"""The station as the core knows it, all frozen. What a device said is kept as the event that said it."""

from msgspec import Struct

from edge.control.faults import Fault
from edge.control.session import State
from edge.control.site import Cap, Card, Site, Tier
from edge.events import Credential, EvseRead, MeterRead, Phases, Pilot
from edge.records import Claim, ClockQuality, StopReason

METER_STALE_MS = 5_000
"""A reading older than this is no reading: ten missed polls at the usual 500 ms."""

EVSE_STALE_MS = 5_000
"""As for meters. A controller that is silent longer may hold any limit it was ever told."""


SETTLE_MS = 5_000
"""IEC 61851-1:2017 Annex A: a car follows a new duty cycle within 5 s."""


ASKING = (Pilot.C, Pilot.D)
"""The car asks for current."""


class Reason(Struct, frozen=True):
    """Why a connector has its current and not more.

    `kind` is a stable word a program can match: none, maximum, cable, unused, signal, circuit, turn, pause,
    ramp, step, release, phases, not_asking, overdraw, meter_silent, evse_silent, check.
    """

    kind: str
    text: str
    since_ms: int = 0
    until_ms: int | None = None  # when it is looked at again or ends by itself, if that is known


class Demand(Struct, frozen=True):
    """What the driver asked for (`events.DemandStated`), and what he was answered at that moment."""

    energy_wh: int  # needed from `stated_wh` on
    departs_ms: int
    min_ma: int
    stated_wh: int  # the claim's register when it was stated
    feasible: bool = True
    answer: str = ""


class Session(Struct, frozen=True):
    """What one authorisation started; lives from the card to the closed claim."""

    claim: Claim
    card: str  # canonical id of the card that may stop it; "" after a restart, when only the mask is known
    tier: Tier = Tier()
    demand: Demand | None = None
    resumable: bool = False  # adopted after an absence short enough that it is surely the same car
    reason: StopReason | None = None  # set when it is being stopped
    stopped_ms: int = 0  # when the offer was withdrawn
    opened_ms: int | None = None  # first look that showed the contactor open after that
    retry_ms: int | None = None  # when to try the journal again
    checkpoint_ms: int = 0


class Turning(Struct, frozen=True):
    """Where a connector stands in the turns (`turns`): on, waiting, resting, or none of these."""

    on_since_ms: int | None = None  # admitted since
    slot: int = 0  # while on: the slot for which it has its place
    waiting_since_ms: int | None = None
    due_slot: int | None = (
        None  # the slot in which its turn comes at the latest; None: nobody there is served
    )
    resting_since_ms: int | None = None  # did not ask for so long that others may have its current
    tries: int = 0  # how often it was offered its minimum and did not ask
    paused_ms: int | None = None  # when a car that asked was last put to 0


class Use(Struct, frozen=True):
    """What a car makes of its offer (`usage`)."""

    cap_ma: int | None = None  # it was seen to use no more; None: it may use all it is offered
    under_since_ms: int | None = None
    capped_draw_ma: int | None = None  # what it drew when it was capped, until it is seen how it follows
    follows: bool = False  # it draws a part of whatever it is offered; a cap would only squeeze it
    phases_since_ms: int | None = None  # the same phases seen in use since
    phases_seen: tuple[int, ...] = ()


class Connector(Struct, frozen=True):
    """One connector. `offer_ma` is what the car was last told; it may draw up to `hold_ma` for a while."""

    state: State = State.UNKNOWN
    since_ms: int = 0
    session: Session | None = None
    last_card: str = ""  # canonical id of the card whose session ended last; "" if only the mask was known
    last_contract: str = ""  # whom that session was for
    evse: EvseRead | None = None
    meter: MeterRead | None = None
    earlier: MeterRead | None = None  # the reading before `meter`
    offer_ma: int = 0
    offered_ms: int = 0  # when the offer last changed
    sent_ms: int = 0  # when it was last sent (leases are renewed)
    hold_ma: int = 0  # the offer before the last decrease
    told: tuple[tuple[int, int], ...] = ()  # (until_ms, mA): higher offers it may still be coming down from
    lowered_ms: int = 0
    asking_since_ms: int | None = None  # pilot C or D without a break since
    asked_ms: int = 0  # when it last did
    why: Reason = Reason("none", "")  # why the offer is not higher
    turn: Turning = Turning()
    use: Use = Use()
    used: tuple[int, ...] | None = (
        None  # phases of the car (0 = its L1) its meter showed it uses; None: not known
    )
    phases_wanted: int | None = None  # 1 or 3 while it is being switched
    phases_since_ms: int = 0  # when that was asked for
    phases_sent_ms: int = 0
    overdraw_since_ms: int | None = None
    mismatches: int = 0
    live_since_ms: int | None = None  # since when it is seen live though its controller holds no offer
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


class Heard(Struct, frozen=True):
    """A limit that somebody signalled; of `circuit` and `connector` (indices into the site) one is None."""

    source: str
    circuit: int | None
    connector: int | None
    cap: Cap
    until_ms: int


class Sun(Struct, frozen=True):
    """How a solar signal stands: `power_mw` is what its connectors may take together now."""

    power_mw: int | None = None  # None: nothing known, the fallback holds
    running: bool = False
    changed_since_ms: int | None = None  # since when the surplus says the opposite of `running`
    worked_out_ms: int | None = None


class WaitingCard(Struct, frozen=True):
    """A card shown before the plug was in."""

    reader: str
    credential: Credential
    card: Card
    until_ms: int


class Station(Struct, frozen=True):
    """Everything the core remembers between two events."""

    site: Site
    epoch: str  # random, drawn at the start: with `next_seq` it names the next claim, see `claim_id`
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
    heard: tuple[Heard, ...] = ()
    suns: tuple[Sun, ...] = ()  # one for each solar signal of the site, in their order
    online: bool = False
    stopping: bool = False
    faults: tuple[Fault, ...] = ()


def unix_ms(station: Station) -> int:
    """Wall time of the event being handled, from the last tick's; for records only."""
    return station.wall_unix_ms + station.now_ms - station.wall_at_ms


def is_fresh(read: MeterRead | EvseRead | None, now_ms: int, limit_ms: int) -> bool:
    """Whether a reading is young enough to act on, counted from when the question was sent."""
    return read is not None and now_ms - read.asked_ms <= limit_ms


def drawable_ma(connector: Connector, now_ms: int, max_ma: int, failsafe_ma: int = 0) -> int:
    """The worst the car may draw per phase at this moment, whatever it was told.

    After a decrease the old offer counts until the meter shows less or `SETTLE_MS` passed (IEC 61851-1
    Annex A gives a car 5 s to follow). A silent controller may hold any earlier offer; a car seen to take
    more than it was offered counts with what it takes. A stale meter counts at the offer's worst case, a car
    that was taking too much when its meter fell silent with that, and a silent controller with its fail-safe
    current at least.
    """
    measured_ma = None
    known = connector.overdraw_since_ms is not None or is_fresh(connector.meter, now_ms, METER_STALE_MS)
    if connector.meter is not None and known:
        measured_ma = max(connector.meter.current_ma)
    silent = not is_fresh(connector.evse, now_ms, EVSE_STALE_MS)
    worst_ma = max(connector.offer_ma, failsafe_ma) if silent else connector.offer_ma
    if connector.hold_ma > worst_ma and (silent or now_ms - connector.lowered_ms < SETTLE_MS):
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
