"""What the world looks like to us: small promises that the hands keep and that peers of a rig can keep too.

A hand is anything the daemon runs. It may raise `DeviceError` (retried with back-off); every other
exception is a bug and ends the process. All times are monotonic milliseconds of the running event loop.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from msgspec import Struct

from edge.events import Event, Phases, Pilot
from edge.records import Claim, ClaimState, ClockQuality

Put = Callable[[Event], None]
"""Put an event into the inbox. Only from the event loop's thread; a thread hands over with
`loop.call_soon_threadsafe(put, event)`."""

NowMs = Callable[[], int]
"""Monotonic milliseconds. The production clock is CLOCK_MONOTONIC; a simulation gives its own."""


class Clock(Protocol):
    """The two clocks: monotonic for deciding, wall time with its quality for records."""

    def now_ms(self) -> int:
        """Monotonic ms, the time of the running event loop."""

    def wall(self) -> tuple[int, ClockQuality]:
        """Unix time in ms and what it is worth."""

    def quality(self) -> ClockQuality:
        """What the wall clock is worth."""


class SerialLink(Struct, frozen=True):
    """A serial line; `port` is a device path."""

    port: str
    baud: int
    parity: str  # "N", "E" or "O"
    stop_bits: int  # 1 or 2


class TcpLink(Struct, frozen=True):
    """A Modbus TCP gateway or device."""

    host: str
    port: int


Link = SerialLink | TcpLink


class MeterReading(Struct, frozen=True):
    """One consistent poll. `asked_ms` is the moment the question left, before any waiting for the answer."""

    asked_ms: int
    current_ma: Phases
    power_mw: int
    energy_wh: int


class Meter(Protocol):
    """An energy meter."""

    async def read(self) -> MeterReading:
        """Poll once. Raises `DeviceTimeout` when it is silent, `PeerError` when it answers nonsense."""


class EvseReading(Struct, frozen=True):
    """One consistent look at an EVSE controller; the fields are those of `events.EvseRead`."""

    asked_ms: int
    pilot: Pilot
    offer_ma: int
    contactor_closed: bool
    cable_ma: int | None
    troubles: tuple[str, ...]
    phases: int | None = None


class Evse(Protocol):
    """The controller or board that owns one connector's pilot and contactor."""

    async def prepare(self) -> None:
        """Check identity and fail-safe settings after every (re)connection, before any offer."""

    async def read(self) -> EvseReading:
        """Look once. Raises `DeviceTimeout` or `PeerError`."""

    async def set_offer(self, offer_ma: int) -> None:
        """Offer that many mA per phase to the car; 0 = let go: the contactor opens once the car has stopped.

        A value between what the hardware can express is rounded down.
        """


@runtime_checkable
class PhaseSwitch(Protocol):
    """What an `Evse` promises besides if it can switch phases; its readings then say `phases`."""

    async def set_phases(self, phases: int) -> None:
        """Switch to 1 or 3 phases. May only be called at 0 A and with the contactor seen open.

        Raises `DeviceTimeout` or `PeerError`.
        """


class Reader(Protocol):
    """A card reader."""

    async def run(self, put: Put) -> None:
        """Feed `CardSeen`, `CardUnreadable`, `DeviceFound` and `DeviceLost` until cancelled."""


class Outbox(Protocol):
    """The uplink's view of the journal: claims that wait for the backend."""

    async def pending(self, after_seq: int, limit: int) -> list[Claim]:
        """Closed claims with `seq` > `after_seq`, oldest first, at most `limit`."""

    async def settle(self, claim_id: str, state: ClaimState, detail: str) -> bool:
        """Commit the backend's answer (SETTLED or REJECTED) durably; False: no such claim waits."""

    async def next_connection(self) -> int:
        """Count a connection attempt durably; the number tells an old last will from a new one."""
