"""The answers of `edge share`: a page for a person, a line of JSON for a program."""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from edge.control.sharing import INACTIVE, OWN_MAXIMUM, UNFIT
from edge.planner import Plan, Planner
from edge.planner_format import InstanceError, parse

_MOST_LISTED = 20


def answers(
    path: Path, *, strict: bool = False, explain: bool = False, as_json: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """For each instance in a file its answer, and the problems found, one line each.

    A file that ends in .jsonl holds one instance a line, and is read as it is answered; empty lines are
    skipped, and the answer of a wrong line is an object with `error`. Any other file holds one instance, and
    a wrong one has no answer.
    """
    planner = Planner()
    try:
        if path.suffix.lower() != ".jsonl":
            try:
                plan = planner.plan(parse(path.read_bytes()), strict=strict)
            except InstanceError as error:
                yield "", [f"{path}: {problem}" for problem in error.problems]
            else:
                yield _as_json(plan, explain=explain) if as_json else _as_text(plan, explain=explain), []
            return
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.isspace():
                    continue
                try:
                    plan = planner.plan(parse(line.strip()), strict=strict)
                except InstanceError as error:
                    problems = [f"{path}: line {number}: {problem}" for problem in error.problems]
                    yield _compact({"error": error.problems}), problems
                else:
                    yield _as_json(plan, explain=explain), []
    except OSError as error:
        yield "", [f"{path}: cannot be read: {error.strerror}"]


def _compact(answer: object) -> str:
    return json.dumps(answer, separators=(",", ":"))


def _as_json(plan: Plan, *, explain: bool) -> str:
    listed: list[dict[str, object]] = [
        {"id": one.id, "current": one.current, "bound_by": one.bound_by} for one in plan.allocations()
    ]
    if explain:
        for place, reason in zip(plan.connector_places, _reasons(plan), strict=True):
            listed[place]["why"] = reason
    return _compact({"allocations": listed})


def _as_text(plan: Plan, *, explain: bool) -> str:
    """Two tables: who gets what and why, and what is used of each circuit."""
    listed = sorted(range(len(plan.connectors)), key=lambda i: plan.connector_places[i])
    table = [["connector", "circuit", "phases", "min A", "max A", "gets A", "bound by"]]
    for i, one in zip(listed, plan.allocations(), strict=True):
        connector = plan.connectors[i]
        phases = "+".join(f"L{p + 1}" for p in range(3) if connector.lines >> p & 1)
        currents = (_amps(ma) for ma in (connector.min_ma, connector.max_ma, one.current_ma))
        table.append([str(one.id), str(plan.circuits[connector.circuit].id), phases, *currents, one.bound_by])
    used_ma = _used_ma(plan)
    circuits = [["circuit", "L1 used / headroom A", "L2", "L3"]]
    for c in sorted(range(len(plan.circuits)), key=lambda c: plan.circuit_places[c]):
        rows = [f"{_amps(used_ma[r])} / {_amps(plan.room_ma[r])}" for r in range(3 * c, 3 * c + 3)]
        circuits.append([str(plan.circuits[c].id), *rows])
    text = [*_laid_out(table, right=(3, 4, 5)), "", *_laid_out(circuits, right=(1, 2, 3))]
    if explain:
        reasons = _reasons(plan)
        text += ["", *(f"{plan.connectors[i].id}: {reasons[i]}" for i in listed)]
    return "\n".join(text)


def _laid_out(rows: list[list[str]], right: tuple[int, ...]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _amps(ma: int) -> str:
    return f"{ma // 1000}.{ma % 1000:03}"


def _used_ma(plan: Plan) -> list[int]:
    used_ma = [0] * len(plan.room_ma)
    for i, ma in enumerate(plan.x_ma):
        if ma:
            for row in plan.rows_of(i):
                used_ma[row] += ma
    return used_ma


def _reasons(plan: Plan) -> list[str]:
    """Per connector what bound it, in words and numbers."""
    used_ma = _used_ma(plan)
    before: list[list[int]] = [[] for _ in plan.room_ma]  # per row, those admitted so far
    refused: dict[int, str] = {}
    for i in plan.order:
        if plan.is_on(i):
            for row in plan.rows_of(i):
                before[row].append(i)
        elif plan.bound[i] >= 0:
            refused[i] = _refusal(plan, i, before[plan.bound[i]])
    return [refused.get(i) or _reason(plan, i, used_ma, before) for i in range(len(plan.connectors))]


def _refusal(plan: Plan, i: int, before: list[int]) -> str:
    row, least_ma = plan.bound[i], plan.connectors[i].min_ma
    kept_ma = sum(plan.connectors[k].min_ma for k in before)
    names = _listed([str(plan.connectors[k].id) for k in before])
    kept = f", {_amps(kept_ma)} A of it kept for the minimum of {names}" if before else ""
    return (
        f"waits, as its minimum of {_amps(least_ma)} A does not fit {plan.row_name(row)}: {_room(plan, row)}"
        f"{kept}; {_amps(kept_ma + least_ma - plan.room_ma[row])} A are missing"
    )


def _reason(plan: Plan, i: int, used_ma: list[int], on: list[list[int]]) -> str:
    connector, row = plan.connectors[i], plan.bound[i]
    most, least = f"maximum of {_amps(connector.max_ma)} A", f"minimum of {_amps(connector.min_ma)} A"
    if row == INACTIVE:
        return "does not ask"
    if row == UNFIT:
        return f"cannot charge, as its {most} is below its {least}"
    if row == OWN_MAXIMUM:
        return f"gets its {most}"
    gets = f"its {least}" if plan.x_ma[i] == connector.min_ma else _part(plan, i)
    others = _listed([f"{plan.connectors[k].id} with {_part(plan, k)}" for k in on[row] if k != i])
    return (
        f"gets {gets}, as {plan.row_name(row)} is full: {_room(plan, row)}, {_amps(used_ma[row])} A used; "
        f"{f'on it too: {others}' if others else 'nobody else is on it'}"
    )


def _part(plan: Plan, i: int) -> str:
    connector, ma = plan.connectors[i], plan.x_ma[i]
    if ma in (connector.min_ma, connector.max_ma):
        return f"{_amps(ma)} A ({'its minimum' if ma == connector.min_ma else 'its maximum'})"
    if connector.weight == 1:
        return f"{_amps(ma)} A"
    level_ma = int(ma / Fraction(connector.weight))
    return f"{_amps(ma)} A (weight {connector.weight}: {_amps(level_ma)} A for weight 1)"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more


def _room(plan: Plan, row: int) -> str:
    limit_ma, room_ma = plan.circuits[row // 3].limit_ma[row % 3], plan.room_ma[row]
    if limit_ma == room_ma:
        return f"limit {_amps(limit_ma)} A"
    return f"limit {_amps(limit_ma)} A, of which other loads leave {_amps(room_ma)} A"
