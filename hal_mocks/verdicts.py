"""Whether what a scenario expects is so: `seen_instead(expectation, view)` is None, or what is seen."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hal_mocks import steps
from hal_mocks.meter import NJ_PER_WH
from hal_mocks.stage import View
from hal_mocks.steps import Expectation

CLOSE_MA = 500
"""Within so much an offer or a current is the one that is expected: boards round to whole amps."""

CLOSE_WH = 1.5
"""A bill is the difference of two registers, each read as a whole number of watt-hours."""

_NO_ANSWER = "the daemon does not answer"

_CLAIM_STATES = {"settled": "settled", "waiting": "closed", "rejected": "rejected"}


def seen_instead(expectation: Expectation, view: View) -> str | None:  # noqa: PLR0911 - one for each expectation
    """What is seen in place of what is expected, in words; None if it holds."""
    match expectation:
        case steps.AtMost(circuit=name, ma=most_ma):
            flows_ma = view.world.circuit_current_ma(view.circuits[name])
            return None if max(flows_ma) <= most_ma else f"{_amps(*flows_ma)} flow on L1/L2/L3"
        case steps.OverLimit(circuit=name, longest_ms=most_ms):
            overload = view.world.overloads[view.circuits[name]]
            if overload.longest_ms <= most_ms:
                return None
            return f"it was for {overload.longest_ms} ms, by up to {_amps(overload.worst_ma)}"
        case steps.Draws(connector=number, ma=ma, bound=bound):
            flows = max(view.world.connector_current_ma(number))
            return None if _near(flows, ma, bound) else f"it draws {_amps(flows)}"
        case steps.Contactor(connector=number, position=position):
            is_ = "closed" if view.world.evses[number].contact_closed else "open"
            return None if is_ == position else f"it is {is_}"
        case steps.Log():
            return _log(expectation, view)
        case steps.Daemon(is_=expected):
            is_ = "down" if view.status is None else "running"
            return None if is_ == expected else f"it is {is_}"
        case steps.Money():
            return _money(expectation.promise, view)
        case _:
            return _NO_ANSWER if view.status is None else _said(expectation, view, view.status)


def _said(expectation: Expectation, view: View, status: Mapping[str, Any]) -> str | None:
    """The same for what the daemon says of itself."""
    match expectation:
        case steps.Offers(connector=number, ma=ma, bound=bound):
            row = view.connector(number) or {}
            holds = _near(row["offered_ma"], ma, bound)
            return (
                None if holds else f"it offers {_amps(row['offered_ma'])}: {row['why'] or 'no reason given'}"
            )
        case steps.Is(connector=number, state=state):
            row = view.connector(number) or {}
            words = (row["state"], row["session_state"])
            return None if state in words else f"it is {words[0]} (session {words[1]})"
        case steps.HasFault():
            return _faults(expectation, view, status)
        case steps.Claims(count=count, state=state):
            claims = status["claims"]
            there = int(claims[_CLAIM_STATES[state]])
            return None if there == count else f"there are {_claims(claims)}"
        case steps.Why(connector=number, text=text):
            why = str((view.connector(number) or {})["why"])
            return None if text in why else f"it says {why!r}"
        case steps.Uplink(is_=expected):
            is_ = "online" if status["online"] else "offline"
            return None if is_ == expected else f"it is {is_}"
        case _:
            raise TypeError(f"nobody can judge {expectation!r}")


def _near(seen_ma: int, ma: int, bound: steps.Bound | None) -> bool:
    match bound:
        case "or less":
            return seen_ma <= ma + CLOSE_MA
        case "or more":
            return seen_ma >= ma - CLOSE_MA
        case None:
            return abs(seen_ma - ma) <= CLOSE_MA


def _amps(*ma: int) -> str:
    return f"{'/'.join(f'{one / 1000:.1f}' for one in ma)} A"


def _claims(claims: Mapping[str, int]) -> str:
    words = {"open": "open", "closed": "waiting", "settled": "settled", "rejected": "rejected"}
    return ", ".join(f"{claims[state]} {word}" for state, word in words.items())


def _faults(expectation: steps.HasFault, view: View, status: Mapping[str, Any]) -> str | None:
    place: Mapping[str, Any] | None = status
    if expectation.connector is not None:
        place = view.connector(expectation.connector)
    elif expectation.circuit is not None:
        place = view.circuit(expectation.circuit)
    if place is None:
        return "the daemon does not know it"
    names = [str(fault["name"]) for fault in place["faults"]]
    holds = names == [] if expectation.fault is None else expectation.fault in names
    return None if holds else f"it has {'fault ' + ', '.join(names) if names else 'no fault'}"


def _log(expectation: steps.Log, view: View) -> str | None:
    lines = [line for line in view.log if line.topic == expectation.topic]
    told = [line for line in lines if expectation.text is None or expectation.text in line.text]
    if bool(told) is (expectation.has == "has"):
        return None
    if told:
        return f"it has {told[0].text!r}"
    if lines:
        return f"it has {' | '.join(repr(line.text) for line in lines[-3:])}"
    others = dict.fromkeys(line.topic for line in view.log)
    return f"it has only {', '.join(others) or 'nothing'}"


def _money(promise: str, view: View) -> str | None:
    twice = {claim: tally.booked for claim, tally in view.tally.items() if tally.booked > 1}
    if twice:
        return "; ".join(f"claim {claim} was booked {count} times" for claim, count in twice.items())
    match promise:
        case "every claim settled once":
            return _NO_ANSWER if view.status is None else _unsettled(view, view.status["claims"])
        case "bills equal meters":
            return _wrong_bills(view)
        case _:
            return None


def _unsettled(view: View, claims: Mapping[str, int]) -> str | None:
    booked = sum(tally.booked for tally in view.tally.values())
    if not claims["open"] and not claims["closed"] and booked == len(view.tally) >= claims["settled"]:
        return None
    return f"the journal has {_claims(claims)}; the backend booked {booked} of {len(view.tally)}"


def _wrong_bills(view: View) -> str | None:
    billed_wh: Counter[int] = Counter()
    count: Counter[int] = Counter()
    for claim in view.bills.values():
        billed_wh[claim["connector"]] += claim["energy_wh"]
        count[claim["connector"]] += 1
    problems = []
    for number, connector in view.world.connectors.items():
        if connector.meter is None:
            continue
        flowed_wh = sum(connector.meter.flow_nj) / NJ_PER_WH
        # Without any bill nothing may have flowed, or as little as no bill would show.
        if abs(billed_wh[number] - flowed_wh) > CLOSE_WH * max(1, count[number]):
            bills = f"{billed_wh[number]} Wh in {count[number]} bills"
            problems.append(f"connector {number}: {flowed_wh:.1f} Wh flowed, {bills}")
    return "; ".join(problems) or None
