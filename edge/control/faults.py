"""The faults a station can be in: named, raised, cleared; each with a sentence for driver and technician.

Effects are limited to the connector or circuit concerned. `mrec` is the ChargeX Minimum Required Error
Code of the same meaning, where one exists.
"""

from enum import StrEnum

from msgspec import Struct


class FaultClass(StrEnum):
    """How a fault ends."""

    TRANSIENT = "transient"  # by itself, when its cause is gone
    LATCHED = "latched"  # a person looks and clears it


class FaultKind(Struct, frozen=True):
    """An entry of the catalogue."""

    name: str
    ends: FaultClass
    stops: bool  # ends a running session and refuses a new one
    driver: str
    technician: str
    mrec: str | None = None


class Fault(Struct, frozen=True):
    """A fault that stands now; `detail` says what was seen."""

    kind: FaultKind
    since_ms: int
    detail: str
    subject: str = ""  # which one of several, e.g. the reader


_T, _L = FaultClass.TRANSIENT, FaultClass.LATCHED
_STOPS, _GOES_ON = True, False
_ELSEWHERE = "This connector is out of order. Please use another one."

_KINDS = (
    FaultKind("meter_silent", _T, _GOES_ON, "The energy meter does not answer; new sessions must wait.",
              "Meter does not answer: check supply, wiring A/B, address and baud rate."),
    FaultKind("meter_backwards", _L, _STOPS, _ELSEWHERE,
              "Energy register went backwards: was the meter replaced or reset? Look, then clear the fault."),
    FaultKind("meter_jump", _L, _STOPS, _ELSEWHERE,
              "Energy register rose faster than this connector can deliver: check the meter, then clear."),
    FaultKind("evse_silent", _T, _GOES_ON, "This connector does not answer at the moment.",
              "EVSE controller does not answer: check supply, wiring A/B, address and baud rate."),
    FaultKind("evse_failure", _T, _STOPS, _ELSEWHERE, "EVSE controller reports a failure (pilot E or F)."),
    FaultKind("evse_rcd", _T, _STOPS, _ELSEWHERE,
              "Residual-current protection tripped: find the earth fault before resetting it.",
              "MREC2 GroundFailure"),
    FaultKind("evse_diode", _T, _STOPS, "The car's charging inlet does not answer as it should.",
              "Diode check of the pilot failed: car or cable fault.", "MREC14 PilotFault"),
    FaultKind("evse_ventilation", _T, _STOPS, "Your car asks for ventilation, which is not available here.",
              "Car asks for state D; connector is configured without ventilation."),
    FaultKind("evse_readback", _L, _STOPS, _ELSEWHERE,
              "EVSE controller holds a higher limit than it was told: replace it or check its firmware."),
    FaultKind("contactor_welded", _L, _STOPS, _ELSEWHERE,
              "Contactor stayed closed after the offer was withdrawn: isolate and replace it.",
              "MREC17 ContactorFault"),
    FaultKind("overdraw", _L, _STOPS, "Your car took more current than allowed and was stopped.",
              "Car drew more than offered for 10 s: check the pilot wiring, then clear.",
              "MREC4 OverCurrent"),
    FaultKind("unbilled_current", _L, _STOPS, _ELSEWHERE,
              "Current flows without an authorised session: check contactor and wiring, then clear."),
    FaultKind("circuit_meter_silent", _T, _GOES_ON, "",
              "Circuit meter does not answer: its connectors share the configured fallback."),
    FaultKind("sharing_failed", _T, _GOES_ON, "",
              "An answer of the sharing kernel failed its check and was not used; offers stay, at most. "
              "This is a defect: report it with `edge log`."),
    FaultKind("reader_lost", _T, _GOES_ON, "The card reader does not work at the moment.",
              "Card reader or pcscd is gone: check the USB cable and `systemctl status pcscd`."),
    FaultKind("journal_failed", _T, _GOES_ON, "New sessions cannot start at the moment.",
              "Journal cannot be written: free space on its disk or replace it; running sessions go on."),
)  # fmt: skip

CATALOGUE = {kind.name: kind for kind in _KINDS}


def raised(
    faults: tuple[Fault, ...], name: str, at_ms: int, detail: str, subject: str = ""
) -> tuple[Fault, ...]:
    """`faults` with this one; unchanged (the same object) when it stands already."""
    if any(_is(fault, name, subject) for fault in faults):
        return faults
    return (*faults, Fault(CATALOGUE[name], at_ms, detail, subject))


def cleared(faults: tuple[Fault, ...], name: str, subject: str = "") -> tuple[Fault, ...]:
    """`faults` without this one; unchanged (the same object) when it does not stand."""
    if not any(_is(fault, name, subject) for fault in faults):
        return faults
    return tuple(fault for fault in faults if not _is(fault, name, subject))


def _is(fault: Fault, name: str, subject: str) -> bool:
    return fault.kind.name == name and fault.subject == subject


def stopping(faults: tuple[Fault, ...]) -> Fault | None:
    """The first fault that forbids charging, if any."""
    return next((fault for fault in faults if fault.kind.stops), None)
