"""What may be asked on the local socket, strictly decoded, and the events that come of it.

    {"ask": "status"}    {"ask": "log"}    {"ask": "ring"}    {"ask": "clear_fault", "connector": 1}
    {"ask": "limit", "circuit": "garage", "current_ma": [10000, 10000, 10000], "for_ms": 7200000}
    {"ask": "limit", "circuit": "garage", "for_ms": 0}                                    lifts it
    {"ask": "demand", "connector": 1, "energy_wh": 20000, "by": "17:30", "min_ma": 8000}
    {"ask": "phases", "connector": 1, "phases": 3}

Integers in the unit of their name. What is wrong with a request is a `PeerError`, in a sentence for whoever
typed it.
"""

import re
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from edge.commands import Announce
from edge.errors import PeerError
from edge.events import DemandStated, LimitSignalled, Phases, PhasesRequested

TECHNICIAN = "technician"
"""The source of a limit that is set on this socket and names none. A script that watches the grid operator's
relay or a gateway names its own, that of a [[signals]] entry."""

_SOURCE = re.compile(r"[A-Za-z0-9_-]{1,32}")  # as the names in the configuration

LONGEST_LIMIT_MS = 7 * 24 * 3_600_000
"""Who needs a limit for longer will have forgotten it by then; it belongs into the configuration."""

LONGEST_STAY_MS = 7 * 24 * 3_600_000
"""A car that leaves later needs no planning."""

MOST_WH = 2_000_000
"""Above the battery of the largest truck there is; a slip of Wh for kWh is noticed."""

MOST_MA = 6_300_000
MOST_MW = 5_000_000_000
"""As in the configuration: the largest low-voltage breaker, on three phases at 230 V."""

LEAST_OFFER_MA, MOST_OFFER_MA = 6_000, 80_000
"""IEC 61851-1:2017 Annex A: nothing else can be offered to a car."""

LIFT_MS = 1
"""What takes a limit back without saying for how long is heard and over; then the source is silent."""

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


class _Asked(Struct, frozen=True, kw_only=True, tag_field="ask", forbid_unknown_fields=True):
    """What all requests have in common."""


class AskStatus(_Asked, frozen=True, tag="status"):
    """The whole station as it stands."""


class AskLog(_Asked, frozen=True, tag="log"):
    """The last log lines."""


class AskRing(_Asked, frozen=True, tag="ring"):
    """Write the last events of the core into a file."""


class AskClearFault(_Asked, frozen=True, tag="clear_fault"):
    """Clear the latched faults of a connector."""

    connector: int


class AskLimit(_Asked, frozen=True, tag="limit"):
    """Limit a circuit or a connector, or lift that limit with neither a current nor a power."""

    for_ms: int
    circuit: str | None = None
    connector: int | None = None
    current_ma: Phases | None = None
    power_mw: int | None = None
    source: str = TECHNICIAN

    @property
    def lifts(self) -> bool:
        """Whether this takes back a limit."""
        return self.current_ma is None and self.power_mw is None


class AskDemand(_Asked, frozen=True, tag="demand"):
    """What the driver needs, until a time of day or within a span."""

    connector: int
    energy_wh: int
    by: str | None = None  # "17:30", the next time the station's clock shows it
    departs_in_ms: int | None = None
    min_ma: int = 0


class AskPhases(_Asked, frozen=True, tag="phases"):
    """Charge on 1 or on 3 phases."""

    connector: int
    phases: int


Wish = AskLimit | AskDemand | AskPhases
Asked = AskStatus | AskLog | AskRing | AskClearFault | Wish

_KNOWN = ("status", "log", "ring", "clear_fault", "limit", "demand", "phases")


def decoded(request: dict[str, object]) -> Asked:
    """Read a request. Raises `PeerError` for what is none."""
    if request.get("ask") not in _KNOWN:
        raise PeerError(f"unknown request; ask {', '.join(_KNOWN)}")
    try:
        asked: Asked = msgspec.convert(request, Asked)
    except msgspec.ValidationError as error:
        raise PeerError(f"request {request['ask']}: {error}") from error
    return asked


def check(asked: Asked, circuits: Collection[str], connectors: Collection[int]) -> None:
    """Raise `PeerError` with the first thing that cannot be, given the names that the station has."""
    circuit, connector = getattr(asked, "circuit", None), getattr(asked, "connector", None)
    wrong = None
    if connector is not None and connector not in connectors:
        wrong = f"there is no connector {connector}; there are {', '.join(map(str, connectors))}"
    elif circuit is not None and circuit not in circuits:
        wrong = f"there is no circuit {circuit[:40]!r}; there are {', '.join(circuits)}"
    elif isinstance(asked, AskLimit):
        wrong = _wrong_limit(asked)
    elif isinstance(asked, AskDemand):
        wrong = _wrong_demand(asked)
    elif isinstance(asked, AskPhases) and asked.phases not in (1, 3):
        wrong = f"{asked.phases} phases cannot be switched to; there are 1 and 3"
    if wrong is not None:
        raise PeerError(wrong)


def _wrong_limit(  # noqa: PLR0911 - one sentence per return
    asked: AskLimit,
) -> str | None:
    if (asked.circuit is None) == (asked.connector is None):
        return "a limit needs a place: either a circuit or a connector"
    if not _SOURCE.fullmatch(asked.source):
        return "a source is named in 1 to 32 letters, digits, - or _, as in the configuration"
    if asked.current_ma is not None and not all(0 <= ma <= MOST_MA for ma in asked.current_ma):
        return f"a limit has from 0 to {MOST_MA // 1000} A on each phase"
    if asked.power_mw is not None and not 0 <= asked.power_mw <= MOST_MW:
        return f"a limit has from 0 to {MOST_MW // 1_000_000} kW"
    if not asked.lifts and asked.for_ms < 1_000:
        return "a limit by hand needs an end: say for how long it holds, 1 second or more"
    if not 0 <= asked.for_ms <= LONGEST_LIMIT_MS:
        return "a limit by hand holds for 7 days at most; a lasting one belongs into the configuration"
    return None


def _wrong_demand(asked: AskDemand) -> str | None:
    if (asked.by is None) == (asked.departs_in_ms is None):
        return "say when the car leaves: either a time of day or in how long"
    if asked.by is not None and not _TIME.fullmatch(asked.by):
        return "a time of day is written from 00:00 to 23:59"
    if asked.departs_in_ms is not None and not 0 < asked.departs_in_ms <= LONGEST_STAY_MS:
        return "a car can be planned for until it leaves within 7 days; say how long from now"
    if not 0 < asked.energy_wh <= MOST_WH:
        return f"a car needs more than 0 and at most {MOST_WH // 1000} kWh"
    if asked.min_ma and not LEAST_OFFER_MA <= asked.min_ma <= MOST_OFFER_MA:
        return "the least current is 6 to 80 A, as IEC 61851-1 can signal no other; or leave it out"
    return None


def event_of(
    wish: Wish, now_ms: int, unix_ms: int, time_zone: str | None
) -> LimitSignalled | DemandStated | PhasesRequested:
    """The event that a checked wish is to the core; without a time zone, times of day are the machine's."""
    match wish:
        case AskLimit():
            return LimitSignalled(
                at_ms=now_ms,
                source=wish.source,
                circuit=wish.circuit,
                connector=wish.connector,
                current_ma=wish.current_ma,
                power_mw=wish.power_mw,
                valid_ms=max(LIFT_MS, wish.for_ms),
            )
        case AskDemand(by=by, departs_in_ms=departs_in_ms):
            if by is not None:
                departs_in_ms = until_ms(by, unix_ms, time_zone)
            return DemandStated(now_ms, wish.connector, wish.energy_wh, departs_in_ms or 0, wish.min_ma)
        case AskPhases():
            return PhasesRequested(now_ms, wish.connector, wish.phases)


def until_ms(by: str, unix_ms: int, time_zone: str | None) -> int:
    """How long from a moment of Unix time until the clock shows `by` ("17:30") the next time."""
    zone = None if time_zone is None else ZoneInfo(time_zone)
    local = datetime.fromtimestamp(unix_ms / 1000, zone)
    shows = local.replace(hour=int(by[:2]), minute=int(by[3:]), second=0, microsecond=0, fold=0)
    for day in (0, 1, 2):  # the day after tomorrow: where clocks skip a day
        ahead_ms = round((shows + timedelta(days=day)).timestamp() * 1000) - unix_ms
        if ahead_ms > 0:
            break
    return ahead_ms


def outcome(wish: Wish, announced: Iterable[Announce]) -> str:
    """What came of a wish, from what the core announced when it took it. Raises `PeerError` if it refused."""
    kind = str(wish.__struct_config__.tag)
    said = {one.topic: one.text for one in announced}
    if (reason := said.get(f"{kind}_refused")) is not None:
        raise PeerError(reason)
    match wish:
        case AskLimit():
            place = f"connector {wish.connector}" if wish.circuit is None else f"circuit {wish.circuit}"
            return f"{place}: {_limit_text(wish)}"
        case AskDemand(connector=number):
            return f"connector {number}: {said.get('demand_answered', 'noted')}"
        case AskPhases(connector=number, phases=phases):
            return f"connector {number}: pauses, then goes on with {phases} phase{'s' if phases > 1 else ''}"


def _limit_text(wish: AskLimit) -> str:
    if wish.lifts:
        return "no limit by hand any more"
    parts = [] if wish.current_ma is None else [f"{'/'.join(f'{ma / 1000:g}' for ma in wish.current_ma)} A"]
    parts += [] if wish.power_mw is None else [f"{wish.power_mw / 1_000_000:g} kW"]
    return f"at most {' and '.join(parts)} for {span(wish.for_ms)}"


def span(ms: int) -> str:
    """Write a span as it is typed, without its zeros: 5400000 -> "1 h 30 min"."""
    seconds = ms // 1000
    parts = (
        (seconds // 86_400, "d"),
        (seconds // 3_600 % 24, "h"),
        (seconds // 60 % 60, "min"),
        (seconds % 60, "s"),
    )
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"
