"""An electric car at the end of the cable: what it shows on the control pilot and what it draws.

    car = Vehicle(phases=3, max_ma=16_000, wants_wh=10_000)
    world.plug(1, car)
    car.asks = False            # the driver presses "stop" in the car; change any field at any time

Kinds of cars: `obeys=False` draws `max_ma` whatever it is offered, until the power is cut; `sleepy=True` does
not notice an offer that comes after a minute without one (withdrawn and made again sooner, it wakes the car);
`diode_ok=False` fails the board's diode check; `ventilation=True` asks with state D.

The car closes its switch S2 (state C or D) shortly after the pilot's square wave appears, opens it when it
needs nothing or the wave is gone and its current has ended. It follows a new offer with a straight ramp of
`lag_ms` (at most 5 s, IEC 61851-1:2017 Table A.6), in steps of 100 ms, so that its current is constant
between the times that `next_ms` names.
"""

from dataclasses import dataclass, field
from typing import Literal

from hal_mocks.meter import NJ_PER_WH

Pilot = Literal["A", "B", "C", "D"]
"""What the pilot's positive level says: no car, connected, asks, asks and needs ventilation."""

S2_MS = 500  # from seeing the square wave to asking; cars take 0.1 to some seconds
SLEEP_AFTER_MS = 60_000  # without an offer; real cars fall asleep after one to some thirty minutes
RAMP_STEP_MS = 100


@dataclass
class Vehicle:
    """A car. The public fields are the driver's and may change while it is plugged in."""

    phases: int = 3
    max_ma: int = 16_000  # per phase
    wants_wh: int | None = None  # None: never full
    lag_ms: int = 2_000
    asks: bool = True
    obeys: bool = True
    ventilation: bool = False
    sleepy: bool = False
    diode_ok: bool = True
    cable_ma: int = 32_000  # what its cable's PP resistor says: 13, 20, 32 or 63 A

    taken_nj: int = field(default=0, init=False)
    current_ma: int = field(default=0, init=False)  # on each of its phases
    _s2: bool = field(default=False, init=False)
    _asleep: bool = field(default=False, init=False)
    _offer_ma: int = field(default=0, init=False)
    _offer_ms: int = field(default=0, init=False)  # since when there is an offer, or none
    _ramp: tuple[int, int, int] = field(default=(0, 0, 0), init=False)  # from mA, to mA, since ms
    _now_ms: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.phases <= 3:
            raise ValueError(f"a car has 1, 2 or 3 phases, not {self.phases}")

    @property
    def pilot(self) -> Pilot:
        """The state it puts on the pilot while connected."""
        if not self._s2:
            return "B"
        return "D" if self.ventilation else "C"

    @property
    def taken_wh(self) -> int:
        """Energy taken since it was made, rounded down."""
        return self.taken_nj // NJ_PER_WH

    @property
    def full(self) -> bool:
        """Whether it has all it wants."""
        return self.wants_wh is not None and self.taken_nj >= self.wants_wh * NJ_PER_WH

    def plug_in(self, at_ms: int) -> None:
        """Begin a new visit: awake, asking nothing yet."""
        self._s2 = self._asleep = False
        self._offer_ma, self._offer_ms = 0, at_ms
        self._now_ms = at_ms
        self._set_current(0)

    def step(self, offer_ma: int, *, powered: bool, at_ms: int) -> None:
        """See the offer on the pilot (0 = no square wave) and whether there is voltage."""
        self._now_ms = at_ms
        self._see(offer_ma)
        if not powered or self.full:
            self._set_current(0)
        elif self._s2:
            self._ramp_to(self._target_ma())
        self._switch_s2(powered=powered)
        self.current_ma = self._ramp_ma(at_ms)

    def accumulate(self, power_uw: int, duration_ms: int) -> None:
        """Take energy with the present power for a while in which nothing changes by itself."""
        self.taken_nj += power_uw * duration_ms
        self._now_ms += duration_ms

    def next_ms(self, power_uw: int) -> int | None:
        """Return when the car will next change by itself, given the power it takes now."""
        times = []
        if self._wants() and not self._s2 and self._offer_ma:
            times.append(self._offer_ms + S2_MS)
        since = self._ramp[2]
        if self.current_ma != self._ramp[1]:
            done = (self._now_ms - since) // RAMP_STEP_MS
            times.append(since + min((done + 1) * RAMP_STEP_MS, self.lag_ms))
        if self.wants_wh is not None and power_uw and not self.full:
            missing_nj = self.wants_wh * NJ_PER_WH - self.taken_nj
            times.append(self._now_ms - (-missing_nj // power_uw))
        return min((time for time in times if time > self._now_ms), default=None)

    def _wants(self) -> bool:
        return self.asks and not self.full and not self._asleep

    def _see(self, offer_ma: int) -> None:
        if bool(offer_ma) != bool(self._offer_ma):
            if offer_ma and self.sleepy:
                self._asleep = self._now_ms - self._offer_ms >= SLEEP_AFTER_MS
            self._offer_ms = self._now_ms
        self._offer_ma = offer_ma

    def _target_ma(self) -> int:
        if not self.obeys:
            return self.max_ma
        return min(self.max_ma, self._offer_ma) if self._wants() else 0

    def _switch_s2(self, *, powered: bool) -> None:
        if self._s2:
            let_go = not self._wants() or (not self._offer_ma and (self.obeys or not powered))
            self._s2 = not (let_go and self._ramp_ma(self._now_ms) == 0)
        else:
            seen_long_enough = self._offer_ma > 0 and self._now_ms - self._offer_ms >= S2_MS
            self._s2 = self._wants() and seen_long_enough

    def _set_current(self, ma: int) -> None:
        self._ramp = (ma, ma, self._now_ms)
        self.current_ma = ma

    def _ramp_to(self, target_ma: int) -> None:
        if target_ma != self._ramp[1]:
            self._ramp = (self._ramp_ma(self._now_ms), target_ma, self._now_ms)

    def _ramp_ma(self, at_ms: int) -> int:
        start, end, since = self._ramp
        passed = at_ms - since
        if passed >= self.lag_ms:
            return end
        return start + (end - start) * (passed // RAMP_STEP_MS * RAMP_STEP_MS) // self.lag_ms
