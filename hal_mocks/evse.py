"""SimpleEVSE-WB / EVSE-DIN: a board that makes the pilot signal and switches the contactor of one connector.

Holding registers 1000-1008 (work) and 2000-2017 (settings), functions 3, 6 and 16:

    1000 set current      A, or 0.01 A with bit 7 of 2005 and firmware >= 17; 0 = nothing offered
    1001 pilot current    whole A that the square wave offers now
    1002 vehicle state    1 no car, 2 car, 3 asks, 4 asks with ventilation, 5 failure
    1003 cable limit      A, from the plug's PP resistor; 0 without a cable
    1004 command          bit 0 off now (while set), bit 1 RCD test, bit 2 clear RCD error
    1005 firmware         1006 EVSE state: 1 steady 12 V, 2 square wave, 3 off
    1007 status           bit 0 relay, 1 diode, 2 ventilation, 3 waits for the car to let go, 4 RCD test,
                          5 RCD error
    2000 set current after boot (A)      2002 least current (A)
    2005 options                         2007 most current (A), 0 = as the cable

There is no watchdog: a board whose master dies offers what it was told last for ever. Settings are kept over
a `reboot()`, after which 1000 holds what 2000 says; a board from the factory has current in 2000.

`step` shows it the car, `contact_closed` says whether the car gets voltage. As IEC 61851-1:2017 Table A.6
asks, it closes within 3 s of state C, opens within 100 ms of B or A, and waits 6 s for the car to let go when
the offer is withdrawn.

Faults: `welded = True` (the contact stays closed whatever the relay says), `bounces = True` (the relay
flutters after it closed), `no_feedback = True` (the status never shows the relay closed), `trip_rcd()`,
`pilot_fault = True` (vehicle state 5), `ignores_writes = True` (acknowledges, does nothing), `reboot()`,
`powered = False`, a car with `diode_ok = False`, and `faults` for the answers themselves (the real board
wants 100 ms between questions: `faults.min_gap_ms`). `mend()` ends them all. The registers have no place for
over-temperature or an opened housing, so the board cannot report them.

Sources: EVSE Wallbox/DIN data sheet (EVRacing), Modbus register table; IEC 61851-1:2017 Annex A.
"""

from collections.abc import Sequence

from hal_mocks.modbus_rtu import ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE, Faults, RefusedError, Table
from hal_mocks.vehicle import Pilot

CLOSE_MS = 500  # the standard allows 3000
OPEN_MS = 50  # the standard allows 100
FORCE_OPEN_MS = 6_000
BOOT_MS = 1_000
RCD_TEST_MS = 30_000
BOUNCE_MS = 300  # a worn contactor settles within some tenths of a second
BOUNCE_STEP_MS = 30

SET_CURRENT, COMMAND = 1000, 1004
BOOT_CURRENT, UNIT, MIN_CURRENT, OPTIONS, MAX_CURRENT = 2000, 2001, 2002, 2005, 2007

_OFF_NOW, _RCD_TEST, _CLEAR_RCD = 1 << 0, 1 << 1, 1 << 2  # bits of 1004
_VENTILATION_ALLOWED, _HUNDREDTHS, _DISABLED = 1 << 3, 1 << 7, 1 << 14  # bits of 2005
_HUNDREDTHS_FIRMWARE = 17
_MAX_A = 80  # the most a pilot can say, IEC 61851-1 Table A.8

_WRITABLE = {SET_CURRENT, COMMAND, BOOT_CURRENT, UNIT, MIN_CURRENT, 2003, 2004, OPTIONS, 2006, MAX_CURRENT}
_VEHICLE_STATES: dict[Pilot, int] = {"A": 1, "B": 2, "C": 3, "D": 4}
_FAILURE = 5


class SimpleEvse:
    """One board. `boot_a` is what its installer left in register 2000."""

    def __init__(
        self, unit: int, *, boot_a: int = 0, min_a: int = 6, max_a: int = 32, firmware: int = 17
    ) -> None:
        self.firmware = firmware
        self.faults = Faults()
        self.dark = False  # its supply is off
        self.welded = False
        self.pilot_fault = False
        self.ignores_writes = False
        self.bounces = False
        self.no_feedback = False
        self.writes = 0  # registers written, for tests that count wear
        self.relay_closed = False
        self.offer_ma = 0  # what the square wave says; 0 = none
        self._settings = {2000 + n: 0 for n in range(18)}
        self._settings |= {BOOT_CURRENT: boot_a, UNIT: unit, MIN_CURRENT: min_a, MAX_CURRENT: max_a}
        self._set_ma = boot_a * 1000
        self._command = 0
        self._pilot: Pilot = "A"
        self._cable_ma = 0
        self._diode_failed = False
        self._rcd_error = False
        self._rcd_test_until_ms: int | None = None
        self._boots_until_ms: int | None = None
        self._relay_goal = (False, OPEN_MS)
        self._goal_since_ms = 0
        self._now_ms = 0

    @property
    def unit(self) -> int:
        """Its Modbus unit id, a setting like others."""
        return self._settings[UNIT]

    @property
    def powered(self) -> bool:
        """Whether it answers: it has supply and has started."""
        return not self.dark and self._boots_until_ms is None

    @powered.setter
    def powered(self, on: bool) -> None:
        if on and self.dark:
            self.dark = False
            self.reboot()
        elif not on:
            self.dark = True
            self._fall()

    @property
    def contact_closed(self) -> bool:
        """Whether the car gets voltage."""
        return self.relay_closed or self.welded

    @property
    def set_current_ma(self) -> int:
        """What register 1000 holds."""
        return self._set_ma

    def reboot(self) -> None:
        """Restart the board: the relay falls, 1000 is loaded from 2000, it is deaf for a second."""
        self._fall()
        self._boots_until_ms = self._now_ms + BOOT_MS

    def trip_rcd(self) -> None:
        """Let the residual-current device trip; it stays so until command bit 2."""
        self._rcd_error = True

    def mend(self) -> None:
        """End every fault: repaired, reset and with supply."""
        self.faults = Faults()
        self.welded = self.pilot_fault = self.ignores_writes = self.bounces = self.no_feedback = False
        self._rcd_error = False
        self.powered = True

    def step(self, pilot: Pilot, *, cable_ma: int, diode_ok: bool, at_ms: int) -> None:
        """See the car at this time; sets `offer_ma` and the relay."""
        self._now_ms = at_ms
        self._pilot, self._cable_ma = pilot, cable_ma
        self._end_of_waits()
        if not self.powered:
            self._fall()
            return
        self.offer_ma = self._offer()
        if pilot == "A":
            self._diode_failed = False
        elif self.offer_ma and not diode_ok:
            self._diode_failed = True
            self.offer_ma = 0
        self._switch_relay()

    def pass_time(self, duration_ms: int) -> None:
        """Let a while pass in which nothing changes by itself."""
        self._now_ms += duration_ms

    def next_ms(self) -> int | None:
        """Return when the board will next change by itself."""
        times = [self._boots_until_ms, self._rcd_test_until_ms]
        goal, after_ms = self._relay_goal
        due_ms = self._goal_since_ms + after_ms
        if goal != self.relay_closed and self._now_ms < due_ms:
            times.append(due_ms)
        elif goal and self.bounces and self._now_ms < due_ms + BOUNCE_MS:
            times.append(due_ms + ((self._now_ms - due_ms) // BOUNCE_STEP_MS + 1) * BOUNCE_STEP_MS)
        return min((time for time in times if time is not None and time > self._now_ms), default=None)

    def read(self, table: Table, start: int, count: int) -> list[int]:
        """Answer a read; raises `RefusedError`."""
        if table is not Table.HOLDING:
            raise RefusedError(ILLEGAL_FUNCTION)
        held = self._work() | self._settings
        try:
            return [held[address] for address in range(start, start + count)]
        except KeyError:
            raise RefusedError(ILLEGAL_ADDRESS) from None

    def write(self, start: int, values: Sequence[int]) -> None:
        """Write registers, all or none; takes effect at the next `step`. Raises `RefusedError`."""
        wanted = dict(enumerate(values, start))
        if not wanted.keys() <= _WRITABLE:
            raise RefusedError(ILLEGAL_ADDRESS)
        if any(not self._possible(address, value) for address, value in wanted.items()):
            raise RefusedError(ILLEGAL_VALUE)
        self.writes += len(wanted)
        if not self.ignores_writes:
            for address, value in wanted.items():
                self._store(address, value)

    def _possible(self, address: int, value: int) -> bool:
        match address:
            case 1000:
                return value * self._step_ma() <= _MAX_A * 1000
            case 2000 | 2002 | 2007:
                return value <= _MAX_A
            case 2001:
                return 1 <= value <= 247
            case _:
                return True

    def _store(self, address: int, value: int) -> None:
        match address:
            case 1000:
                self._set_ma = value * self._step_ma()
            case 1004:
                self._give(value)
            case _:
                self._settings[address] = value

    def _give(self, command: int) -> None:
        self._command = command & _OFF_NOW
        if command & _RCD_TEST:
            self._rcd_test_until_ms = self._now_ms + RCD_TEST_MS
        if command & _CLEAR_RCD:
            self._rcd_error = False

    def _step_ma(self) -> int:
        precise = self._settings[OPTIONS] & _HUNDREDTHS and self.firmware >= _HUNDREDTHS_FIRMWARE
        return 10 if precise else 1000

    def _work(self) -> dict[int, int]:
        return {
            1000: self._set_ma // self._step_ma(),
            1001: self.offer_ma // 1000,
            1002: _FAILURE if self._failed else _VEHICLE_STATES[self._pilot],
            1003: self._cable_ma // 1000,
            1004: self._command,
            1005: self.firmware,
            1006: 3 if self._stopped else 2 if self.offer_ma else 1,
            1007: self._status(),
            1008: 0,  # seconds to the board's own retry: this one never retries
        }

    def _status(self) -> int:
        bits = (
            self.relay_closed and not self.no_feedback,
            self._diode_failed,
            self._pilot == "D" and not self._settings[OPTIONS] & _VENTILATION_ALLOWED,
            self.relay_closed and self._relay_goal == (False, FORCE_OPEN_MS),
            self._rcd_test_until_ms is not None,
            self._rcd_error,
        )
        return sum(1 << place for place, bit in enumerate(bits) if bit)

    @property
    def _failed(self) -> bool:
        return self.pilot_fault or self._diode_failed or self._rcd_error

    @property
    def _stopped(self) -> bool:
        """Whether the relay opens without waiting for the car."""
        testing = self._rcd_test_until_ms is not None
        return bool(self._failed or testing or self._command or self._settings[OPTIONS] & _DISABLED)

    def _offer(self) -> int:
        if self._stopped or self._pilot == "A" or self._set_ma < self._settings[MIN_CURRENT] * 1000:
            return 0
        most_ma = self._settings[MAX_CURRENT] * 1000 or _MAX_A * 1000
        return min(self._set_ma, self._cable_ma, most_ma)

    def _switch_relay(self) -> None:
        goal = self._goal()
        if goal != self._relay_goal:
            self._relay_goal, self._goal_since_ms = goal, self._now_ms
        closed, after_ms = goal
        passed_ms = self._now_ms - (self._goal_since_ms + after_ms)
        if passed_ms >= 0:
            flutters = self.bounces and passed_ms < BOUNCE_MS and passed_ms // BOUNCE_STEP_MS % 2 == 1
            self.relay_closed = closed and not flutters

    def _goal(self) -> tuple[bool, int]:
        """Return what the relay shall be, and how long after that became so."""
        ventilated = self._settings[OPTIONS] & _VENTILATION_ALLOWED
        asks = self._pilot == "C" or (self._pilot == "D" and bool(ventilated))
        if self._stopped or not asks:
            return False, OPEN_MS
        return (True, CLOSE_MS) if self.offer_ma else (False, FORCE_OPEN_MS)

    def _fall(self) -> None:
        """Lose supply: the contactor's coil and all that is not a setting."""
        self.relay_closed = self._diode_failed = self._rcd_error = False
        self.offer_ma = self._command = 0
        self._rcd_test_until_ms = None
        self._set_ma = self._settings[BOOT_CURRENT] * 1000
        self._relay_goal, self._goal_since_ms = (False, OPEN_MS), self._now_ms

    def _end_of_waits(self) -> None:
        if self._boots_until_ms is not None and self._now_ms >= self._boots_until_ms:
            self._boots_until_ms = None
        if self._rcd_test_until_ms is not None and self._now_ms >= self._rcd_test_until_ms:
            self._rcd_test_until_ms = None
