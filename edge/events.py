"""All that can happen, in the past tense. Each event carries `at_ms`, monotonic milliseconds since boot.

The hands make events; `edge.control.station.step` takes them one at a time and in the order of the inbox.
"""

from enum import StrEnum

from msgspec import Struct

from edge.records import ClaimState, ClockQuality

Phases = tuple[int, int, int]


class Pilot(StrEnum):
    """Control-pilot state, IEC 61851-1:2017 Annex A."""

    A = "A"  # no car
    B = "B"  # car connected, not asking
    C = "C"  # car asks for current
    D = "D"  # car asks and needs ventilation
    E = "E"  # pilot shorted, or controller off
    F = "F"  # controller not available


class Credential(Struct, frozen=True):
    """What a person showed. `id` is canonical ("ISO14443A:04A2B3C4"), `masked` is fit to be shown."""

    id: str
    masked: str
    random: bool = False  # a random number made up by a phone or bank card; identifies nobody


class Tick(Struct, frozen=True):
    """Time passed; `wall_unix_ms` is for records only and decides nothing that is safe or unsafe."""

    at_ms: int
    wall_unix_ms: int
    clock: ClockQuality


class DeviceFound(Struct, frozen=True):
    """A device answers. `device` is "meter/<id>", "evse/<connector>" or "reader/<id>"."""

    at_ms: int
    device: str


class DeviceLost(Struct, frozen=True):
    """A device stopped answering; `reason` is a sentence."""

    at_ms: int
    device: str
    reason: str


class MeterRead(Struct, frozen=True):
    """One poll of a meter. `asked_ms` is when the question was sent: the reading is as old as that."""

    at_ms: int
    asked_ms: int
    meter: str
    current_ma: Phases
    power_mw: int
    energy_wh: int  # lifetime import register


class EvseRead(Struct, frozen=True):
    """What an EVSE controller reports, read at once and as old as `asked_ms`."""

    at_ms: int
    asked_ms: int
    connector: int
    pilot: Pilot
    offer_ma: int  # the limit it holds, read back
    contactor_closed: bool
    cable_ma: int | None  # what the plugged-in cable may carry, None without one or when it is tethered
    troubles: tuple[str, ...] = ()  # names of `edge.control.faults` the controller reports itself
    phases: int | None = None  # 1 or 3: what it switches through now; None: it cannot switch phases


class CardSeen(Struct, frozen=True):
    """A card was read, once per touch."""

    at_ms: int
    reader: str
    credential: Credential


class CardUnreadable(Struct, frozen=True):
    """A card came, but could not be read to its end."""

    at_ms: int
    reader: str
    reason: str


class Recorded(Struct, frozen=True):
    """The journal holds this state of a claim durably."""

    at_ms: int
    claim_id: str
    state: ClaimState


class RecordFailed(Struct, frozen=True):
    """The journal could not make this state of a claim durable."""

    at_ms: int
    claim_id: str
    state: ClaimState
    reason: str


class ClaimAnswered(Struct, frozen=True):
    """The backend's answer to a claim was committed: SETTLED or REJECTED."""

    at_ms: int
    claim_id: str
    state: ClaimState


class UplinkChanged(Struct, frozen=True):
    """The backend can be reached, or no longer."""

    at_ms: int
    online: bool


class FaultClearRequested(Struct, frozen=True):
    """A person looked at this connector and asks to clear its latched faults."""

    at_ms: int
    connector: int


class DemandStated(Struct, frozen=True):
    """What the driver of the car at `connector` asks for; replaces what was stated before."""

    at_ms: int
    connector: int
    energy_wh: int  # still needed from now on
    departs_in_ms: int  # from `at_ms`
    min_ma: int = 0  # below this per phase he would rather not charge at all; 0: the connector's minimum


class LimitSignalled(Struct, frozen=True):
    """Somebody with a say in it limits what cars may take: grid operator, schedule, technician, uplink ...

    It holds for all connectors below `circuit` together, or for `connector` alone; one of them is None.
    Current per phase, total power, or both; neither lifts what this source said before of the same place.
    """

    at_ms: int
    source: str
    circuit: str | None
    connector: int | None
    current_ma: Phases | None
    power_mw: int | None
    valid_ms: int  # from `at_ms`; then the source's configured fallback holds


class PhasesRequested(Struct, frozen=True):
    """Somebody wants this connector to charge on 1 or on 3 phases."""

    at_ms: int
    connector: int
    phases: int


class StopRequested(Struct, frozen=True):
    """The daemon is asked to end: withdraw every offer; sessions stay open for the next start."""

    at_ms: int


Event = (
    Tick
    | DeviceFound
    | DeviceLost
    | MeterRead
    | EvseRead
    | CardSeen
    | CardUnreadable
    | Recorded
    | RecordFailed
    | ClaimAnswered
    | UplinkChanged
    | FaultClearRequested
    | DemandStated
    | LimitSignalled
    | PhasesRequested
    | StopRequested
)
