"""The answer of `edge status`, laid out for a person at an 80-column console or as JSON for a program."""

import json
from typing import Any

Answer = dict[str, Any]

_CLAIMS = {"open": "running", "closed": "waiting", "settled": "settled", "rejected": "rejected"}


def show(answer: Answer, *, as_json: bool) -> str:
    """One page of text, or the answer as it came."""
    if as_json:
        return json.dumps(answer, ensure_ascii=False, indent=2)
    if "error" in answer:
        return f"the daemon says: {answer['error']}"
    link = "online" if answer["online"] else "OFFLINE (charging goes on, payments wait)"
    claims = answer["claims"]
    lines = [
        f"station {answer['station']}   operator: {link}   up {_span(answer['uptime_ms'])}",
        f"price {answer['price']}   clock {answer['clock']}",
        "payments: " + ", ".join(f"{claims.get(state, 0)} {word}" for state, word in _CLAIMS.items()),
        "",
        f"{'':2} {'state':<15} {'offer':>6} {'L1':>6} {'L2':>6} {'L3':>6} {'kWh':>8} {'cost':>10}  why",
    ]
    for connector in answer["connectors"]:
        lines.append(_connector(connector))
        lines += [_fault(fault) for fault in connector["faults"]]
    lines.append("")
    for circuit in answer["circuits"]:
        lines.append(_circuit(circuit))
        lines += [_fault(fault) for fault in circuit["faults"]]
    lines += [_fault(fault) for fault in answer["faults"]]
    return "\n".join(lines)


def _connector(c: Answer) -> str:
    currents = [f"{_amps(ma):>6}" for ma in c["current_ma"]] if c["current_ma"] else ["     ?"] * 3
    age = c["meter_age_ms"]
    stale = f"  (meter silent for {_span(age)})" if age is not None and c["meter_stale"] else ""
    energy = "" if c["energy_wh"] is None else f"{c['energy_wh'] / 1000:.3f}"
    return (
        f"{c['number']:>2} {c['state']:<15} {_amps(c['offered_ma']):>6} {' '.join(currents)} "
        f"{energy:>8} {c['cost'] or '':>10}  {c['why']}{stale}"
    )


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
