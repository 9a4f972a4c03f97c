"""Reports of scenarios that were played: JUnit XML for machines, one HTML file for people.

The HTML needs nothing but a browser: no script, no font, no second file. Its picture is made here, so that a
technician with a telephone in the rain sees first what failed, then when, then everything else.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from xml.sax.saxutils import quoteattr

from hal_mocks.play import Done, Outcome, clock
from hal_mocks.scenario import Scenario
from hal_mocks.steps import Action
from hal_mocks.timeline import picture

# -- for machines ------------------------------------------------------------------------------------

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (2.2) has no way to write."""


def junit(outcomes: Sequence[Outcome]) -> str:
    """JUnit XML: one test case a scenario; what could not be played is an error."""
    failures = sum(outcome.failure is not None for outcome in outcomes)
    errors = sum(bool(outcome.refusals) for outcome in outcomes)
    counts = f'tests="{len(outcomes)}" failures="{failures}" errors="{errors}"'
    seconds = sum(outcome.took_s for outcome in outcomes)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites {counts} time="{seconds:.3f}">',
        f'<testsuite name="scenarios" {counts} time="{seconds:.3f}">',
    ]
    for outcome in outcomes:
        scenario = outcome.scenario
        name, group = _attribute(scenario.title), _attribute(f"scenarios.{scenario.topic}.{scenario.name}")
        lines.append(f'<testcase name={name} classname={group} time="{outcome.took_s:.3f}">')
        if outcome.refusals:
            message = _attribute(outcome.refusals[0])
            lines.append(f"<error message={message}>{_text(chr(10).join(outcome.refusals))}</error>")
        elif outcome.failure is not None:
            said = failure_text(outcome.failure)
            lines.append(f"<failure message={_attribute(said.splitlines()[0])}>{_text(said)}</failure>")
        lines.append("</testcase>")
    return "\n".join([*lines, "</testsuite>", "</testsuites>", ""])


def failure_text(done: Done) -> str:
    """What failed: the step, its line and its time, and what was seen."""
    kind = "the step" if isinstance(done.step.what, Action) else "expected"
    return (
        f"{done.step}: {done.failure}\n"
        f"line:     {done.step.line}\n"
        f"{kind}: {done.step.what}\n"
        f"seen:     {done.failure}\n"
        f"time:     {clock(done.began_ms)} to {clock(done.ended_ms)}"
    )


def _attribute(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text))


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text))


# -- for people --------------------------------------------------------------------------------------

_STYLE = """
:root{color-scheme:light}
body{font:17px/1.45 system-ui,sans-serif;color:#111;background:#fff;
margin:0 auto;padding:12px;max-width:1180px}
h1{font-size:1.5em;margin:.3em 0}
h2{font-size:1.3em;margin:1.6em 0 .2em;border-top:3px solid #111;padding-top:.6em}
.verdict{display:inline-block;padding:.1em .6em;border-radius:.3em;font-weight:700;color:#fff}
.held{background:#146c2e}.failed{background:#b3001b}.refused{background:#555}
.box{border-left:8px solid #b3001b;background:#fdecee;padding:.6em .8em;margin:.8em 0;font-size:1.06em;
overflow-wrap:anywhere}
.box.refused{border-color:#555;background:#eee;color:#111}
.box b{display:block}.quiet{color:#444}.about{max-width:48em}
.wide{overflow-x:auto}.wide svg{display:block;min-width:900px;width:100%;height:auto}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3em .5em;border-bottom:1px solid #bbb;vertical-align:top}
td.n,td.t{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.s{font-family:ui-monospace,monospace;font-size:.92em;overflow-wrap:anywhere}
tr.bad td{background:#fdecee;font-weight:700}tr.never td{color:#777}
.yes{color:#146c2e}.no{color:#b3001b}
details{margin:.8em 0}summary{cursor:pointer;font-weight:700;padding:.4em 0}
@media print{h2{break-before:page}}
"""

_TICK, _CROSS = '<span class="yes">&#10003;</span>', '<span class="no">&#10007;</span>'


def html(outcomes: Sequence[Outcome]) -> str:
    """One page with all of them, the failed ones first in its list."""
    held = sum(outcome.held for outcome in outcomes)
    title = f"{held} of {len(outcomes)} scenarios held" if len(outcomes) != 1 else outcomes[0].scenario.title
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
    ]
    if len(outcomes) != 1:
        parts += [f"<h1>{escape(title)}</h1>", *_summary(outcomes)]
    for number, outcome in enumerate(outcomes):
        parts += _section(number, outcome)
    parts.append("</body></html>\n")
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", "\n".join(parts))


def _summary(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "<table><tbody>"
    for number, outcome in sorted(enumerate(outcomes), key=lambda each: each[1].held):
        link = f'<a href="#s{number}">{escape(outcome.scenario.title)}</a>'
        yield f"<tr><td>{_verdict(outcome)}</td><td>{escape(outcome.scenario.topic)}</td><td>{link}</td></tr>"
    yield "</tbody></table>"


def _verdict(outcome: Outcome) -> str:
    word, kind = ("HELD", "held") if outcome.held else ("FAILED", "failed")
    if outcome.refusals:
        word, kind = "NOT PLAYED", "refused"
    return f'<span class="verdict {kind}">{word}</span>'


def _section(number: int, outcome: Outcome) -> Iterator[str]:
    scenario = outcome.scenario
    yield f'<h2 id="s{number}">{_verdict(outcome)} {escape(scenario.title)}</h2>'
    yield (
        f'<p class="quiet">{escape(scenario.topic)} &middot; {clock(outcome.length_ms)} on '
        f"{escape(outcome.stage)}, played in {outcome.took_s:.1f} s &middot; {escape(scenario.name)}</p>"
    )
    for refusal in outcome.refusals:
        yield f'<div class="box refused">{escape(refusal)}</div>'
    if outcome.failure is not None:
        place = outcome.done.index(outcome.failure) + 1
        yield (
            f'<div class="box"><b>Step {place}, at {clock(outcome.failure.ended_ms)}: '
            f"{escape(str(outcome.failure.step))}</b>Seen: {escape(str(outcome.failure.failure))}</div>"
        )
    yield f'<p class="about">{escape(scenario.about.strip())}</p>'
    if outcome.samples:
        yield f'<div class="wide">{picture(outcome)}</div>'
    yield from _step_table(scenario, outcome.done)
    if outcome.log:
        yield f"<details><summary>What the daemon logged ({len(outcome.log)} lines)</summary><table><tbody>"
        for line in outcome.log:
            where = "" if line.connector is None else f" (connector {line.connector})"
            yield (
                f'<tr><td class="t">{clock(line.at_ms)}</td><td class="s">{escape(line.topic)}</td>'
                f"<td>{escape(line.text + where)}</td></tr>"
            )
        yield "</tbody></table></details>"


def _step_table(scenario: Scenario, played: Sequence[Done]) -> Iterator[str]:
    yield "<table><thead><tr><th></th><th>time</th><th></th><th>step</th></tr></thead><tbody>"
    for number, step in enumerate(scenario.steps, start=1):
        done = played[number - 1] if number <= len(played) else None
        if done is None:
            yield (
                f'<tr class="never"><td class="n">{number}</td><td class="t">not played</td><td></td>'
                f'<td class="s">{escape(str(step))}</td></tr>'
            )
            continue
        mark = (
            '<span class="yes">&#10003;</span>'
            if done.failure is None
            else '<span class="no">&#10007;</span>'
        )
        seen = "" if done.failure is None else f"<br>seen: {escape(done.failure)}"
        yield (
            f'<tr{"" if done.failure is None else " class=bad"}><td class="n">{number}</td>'
            f'<td class="t">{clock(done.ended_ms)}</td><td>{mark}</td>'
            f'<td class="s">{escape(str(step))}{seen}</td></tr>'
        )
    yield "</tbody></table>"


def write(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the report that the ending of the path asks for."""
    path.write_text(junit(outcomes) if path.suffix == ".xml" else html(outcomes), encoding="utf-8")
