"""The answer of `edge status`, laid out for a person at a console of 100 columns or as JSON for a program."""

import json
from collections.abc import Iterator
from datetime import datetime
from textwrap import fill
from typing import Any
from zoneinfo import ZoneInfo

Answer = dict[str, Any]

COLUMNS = 100

_CLAIMS = {"open": "running", "closed": "waiting", "settled": "settled", "rejected": "rejected"}


class _Clock:
    """Writes moments of the daemon's monotonic clock as the clock on the wall shows them at that place."""

    def __init__(self, answer: Answer) -> None:
        self._zone = (
            None if answer["time_zone"] is None else ZoneInfo(answer["time_zone"])
        )  # None: the machine's
        self._now_ms, self._unix_ms = answer["now_ms"], answer["unix_ms"]

    def at(self, ms: int) -> str:
        shown, today = (
            datetime.fromtimestamp((self._unix_ms + ahead_ms) / 1000, self._zone)
            for ahead_ms in (ms - self._now_ms, 0)
        )
        return f"{shown:%H:%M}" if shown.date() == today.date() else f"{shown:%a %H:%M}"

    def ahead(self, before: str, ms: int | None) -> str:
        """Return a moment to come with what stands before it; nothing for one that is over or not known."""
        return f"{before} {self.at(ms)}" if ms is not None and ms > self._now_ms else ""


def show(answer: Answer, *, as_json: bool) -> str:
    """One page of text, or the answer as it came."""
    if as_json:
        return json.dumps(answer, ensure_ascii=False, indent=2)
    if "error" in answer:
        return f"the daemon says: {answer['error']}"
    try:
        return _page(answer)
    except KeyError as missing:
        return f"the daemon is of another version, its answer has no {missing}; systemctl restart edge"


def _page(answer: Answer) -> str:
    link = "online" if answer["online"] else "OFFLINE (charging goes on, payments wait)"
    claims = answer["claims"]
    lines = [
        f"station {answer['station']}   operator: {link}   up {_span(answer['uptime_ms'])}",
        f"price {answer['price']}   clock {answer['clock']}",
        "payments: " + ", ".join(f"{claims.get(state, 0)} {word}" for state, word in _CLAIMS.items()),
        "",
        f"{'':2} {'state':<15} {'offer':>6} {'L1':>6} {'L2':>6} {'L3':>6} {'kWh':>8} {'cost':>10}  why",
    ]
    clock = _Clock(answer)
    for connector in answer["connectors"]:
        lines += _connector(connector, clock)
        lines += [_fault(fault) for fault in connector["faults"]]
    lines.append("")
    for circuit in answer["circuits"]:
        lines.append(_circuit(circuit))
        lines += [_fault(fault) for fault in circuit["faults"]]
    lines += [_limit(limit, clock) for limit in answer["limits"]]
    lines += [_fault(fault) for fault in answer["faults"]]
    return "\n".join(lines)


def _connector(c: Answer, clock: _Clock) -> Iterator[str]:
    """The row of a connector; what does not fit into it stands below."""
    currents = [f"{_amps(ma):>6}" for ma in c["current_ma"]] if c["current_ma"] else ["     ?"] * 3
    age = c["meter_age_ms"]
    energy = "" if c["energy_wh"] is None else f"{c['energy_wh'] / 1000:.3f}"
    row = (
        f"{c['number']:>2} {c['state']:<15} {_amps(c['offered_ma']):>6} {' '.join(currents)} "
        f"{energy:>8} {c['cost'] or '':>10}  "
    )
    why = _why(c, clock)
    fits = len(row) + len(why) <= COLUMNS
    yield (row + why if fits else row).rstrip()
    if not fits:
        yield _below(why)
    if age is not None and c["meter_stale"]:
        yield f"   meter silent for {_span(age)}"
    if c["demand"]:
        yield _below(f"wish: {c['demand']}")


def _below(text: str) -> str:
    return fill(text, COLUMNS, initial_indent="   ", subsequent_indent="     ")


def _why(c: Answer, clock: _Clock) -> str:
    """Why it has this current, and where times are known, since when and until when."""
    since = f"since {clock.at(c['why_since_ms'])}" if c["why"] else ""
    until = clock.ahead("next turn" if c["why_kind"] == "turn" else "until", c["why_until_ms"])
    return ", ".join(filter(None, (c["why"], since, until)))


def _limit(limit: Answer, clock: _Clock) -> str:
    caps = []
    if limit["current_ma"] is not None:
        caps.append(f"{'/'.join(_amps(ma) for ma in limit['current_ma'])} A")
    if limit["power_mw"] is not None:
        caps.append(f"{limit['power_mw'] / 1_000_000:.1f} kW")
    return f"{limit['text']}: {' and '.join(caps) or 'none'}{clock.ahead(' until', limit['until_ms'])}"


def _circuit(c: Answer) -> str:
    limits = "/".join(_amps(ma) for ma in c["limit_ma"])
    if c["measured_ma"] is None:
        return f"circuit {c['id']}: limit {limits} A, no reading"
    measured = "/".join(_amps(ma) for ma in c["measured_ma"])
    return f"circuit {c['id']}: {measured} A of {limits} A, measured {_span(c['meter_age_ms'])} ago"


def _fault(fault: Answer) -> str:
    return f"   FAULT {fault['name']}: {fault['detail']}\n         {fault['technician']}"


def _amps(ma: int) -> str:
    return f"{ma / 1000:.1f}"


def _span(ms: int) -> str:
    seconds = ms // 1000
    if seconds < 60:
        return f"{ms / 1000:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
