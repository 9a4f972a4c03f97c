"""What a person at the station tells the daemon: `edge limit`, `edge demand`, `edge phases`.

Here what is typed becomes a request; whether it makes sense at this station, the daemon says.
"""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from decimal import Decimal

LIMIT_ENDS = (
    "It holds beside all other limits and ends with its time or with the daemon; a lasting one belongs into "
    "the configuration."
)

Request = dict[str, object]

_NUMBER = re.compile(r"[0-9]{1,7}(\.[0-9]{1,3})?")
_SPAN = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*(s|min|h|d)")
_UNIT_MS = {"s": 1_000, "min": 60_000, "h": 3_600_000, "d": 24 * 3_600_000}
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):[0-5][0-9]")


def thousandths(text: str) -> int:
    """Read "7.25" as 7250, for A, kW and kWh. Raises `ArgumentTypeError`."""
    if not _NUMBER.fullmatch(text):
        raise ArgumentTypeError(f"{text!r} is no number from 0 on; write it like 16 or 7.25, without a unit")
    return int(Decimal(text) * 1000)


def phases_ma(text: str) -> list[int]:
    """Read "16" or "16,16,10" as mA on L1, L2, L3. Raises `ArgumentTypeError`."""
    parts = text.split(",")
    if len(parts) not in (1, 3):
        wrong = f"{text!r} has {len(parts)} numbers; write one for all phases or three, like 16 or 16,16,10"
        raise ArgumentTypeError(f"{wrong}, with a point for decimals")
    return [thousandths(part) for part in parts] * (3 // len(parts))


def span_ms(text: str) -> int:
    """Read "90s", "15min", "2h", "1d" or several in a row as ms. Raises `ArgumentTypeError`."""
    parts = _SPAN.findall(text)
    if not parts or "".join(_SPAN.sub("", text).split()):
        raise ArgumentTypeError(f"{text!r} is no span of time; write it like 90s, 15min, 2h, 1h30min or 1d")
    return int(sum(Decimal(count) * _UNIT_MS[unit] for count, unit in parts))


def time_of_day(text: str) -> str:
    """Read "7:30" as "07:30". Raises `ArgumentTypeError`."""
    if not _TIME.fullmatch(text):
        raise ArgumentTypeError(f"{text!r} is no time of day; write it like 17:30")
    return text.rjust(5, "0")


def limit_options(verb: ArgumentParser) -> None:
    """Say how a limit is typed."""
    verb.epilog = LIMIT_ENDS
    verb.set_defaults(request=limit, refuse=verb.error)
    place = verb.add_mutually_exclusive_group(required=True)
    place.add_argument("--circuit", metavar="ID", help="all cars below this circuit together")
    place.add_argument("--connector", type=int, metavar="N", help="the car at this connector")
    verb.add_argument(
        "--amps", type=phases_ma, metavar="A", help="per phase: 16, or L1, L2, L3: 16,16,10; 0: none"
    )
    verb.add_argument("--kw", type=thousandths, metavar="P", help="all phases together")
    verb.add_argument(
        "--for", type=span_ms, metavar="SPAN", dest="span_ms", help="how long: 90s, 15min, 2h; 7d at most"
    )
    verb.add_argument(
        "--source", default="technician", metavar="NAME", help="who says so, as in [[signals]]; default: you"
    )
    verb.add_argument(
        "--lift", action="store_true", help="take back this source's limit here; with --for: none for so long"
    )


def limit(options: Namespace) -> Request:
    """The request for what was typed; ends the program where that is not enough."""
    limited = options.amps is not None or options.kw is not None
    if options.lift and limited:
        options.refuse("--lift takes a limit back; it goes without --amps and --kw")
    elif not options.lift and not limited:
        options.refuse("say how much: --amps, --kw or both, or --lift")
    elif not options.lift and options.span_ms is None:
        options.refuse("say for how long, for example --for 2h: a limit by hand has to end")
    return {
        "ask": "limit",
        "circuit": options.circuit,
        "connector": options.connector,
        "current_ma": options.amps,
        "power_mw": None if options.kw is None else options.kw * 1_000,
        "for_ms": options.span_ms or 0,
        "source": options.source,
    }


def demand_options(verb: ArgumentParser) -> None:
    """Say how a demand is typed."""
    verb.set_defaults(request=demand)
    verb.add_argument("connector", type=int, metavar="N", help="the number painted on it")
    verb.add_argument(
        "--kwh", type=thousandths, required=True, metavar="E", help="energy that is still needed"
    )
    leaves = verb.add_mutually_exclusive_group(required=True)
    leaves.add_argument("--by", type=time_of_day, metavar="TIME", help="when the car leaves: 17:30")
    leaves.add_argument(
        "--in", type=span_ms, metavar="SPAN", dest="span_ms", help="in how long it leaves: 3h"
    )
    verb.add_argument(
        "--min-amps",
        type=thousandths,
        default=0,
        metavar="A",
        help="rather not at all than below this, 6 to 80",
    )


def demand(options: Namespace) -> Request:
    """The request for what was typed."""
    return {
        "ask": "demand",
        "connector": options.connector,
        "energy_wh": options.kwh,
        "by": options.by,
        "departs_in_ms": options.span_ms,
        "min_ma": options.min_amps,
    }


def phases_options(verb: ArgumentParser) -> None:
    """Say how a number of phases is typed."""
    verb.set_defaults(request=phases)
    verb.add_argument("connector", type=int, metavar="N", help="the number painted on it")
    verb.add_argument("phases", type=int, choices=(1, 3), help="how many the car shall charge on")


def phases(options: Namespace) -> Request:
    """The request for what was typed."""
    return {"ask": "phases", "connector": options.connector, "phases": options.phases}
