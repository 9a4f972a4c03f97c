"""`python -m hal_mocks play`: play scenarios on a stage and tell what held.

    outcome = await play(scenario, stage)     # on the loop of the stage
    outcome.held, outcome.failure

Exit code: 0 when everything held, 1 when something did not, 2 when a scenario could not be played.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hal_mocks import scenario as scenarios
from hal_mocks.meter import Phases
from hal_mocks.scenario import Scenario, ScenarioError
from hal_mocks.stage import LogLine, Stage, StageError, View
from hal_mocks.steps import Action, Expectation, Step
from hal_mocks.verdicts import seen_instead

MOST_SAMPLES = 6_000
"""More than that no picture can show; then every second one is dropped."""

HELD, FAILED, NOT_PLAYED = 0, 1, 2


@dataclass(frozen=True)
class Done:
    """A step that was played."""

    step: Step
    began_ms: int
    ended_ms: int
    failure: str | None = None  # what was seen in place of what was expected


@dataclass(frozen=True)
class Sample:
    """What was so at a moment. What the daemon says is missing while it does not answer."""

    at_ms: int
    flows_ma: dict[str, Phases]  # through each circuit
    draws_ma: dict[int, int]  # through each connector, on its highest phase
    offers_ma: dict[int, int]
    states: dict[int, str]
    running: bool
    online: bool

    def same_as(self, other: "Sample") -> bool:
        """Whether nothing has changed but the time."""
        return replace(self, at_ms=other.at_ms) == other


@dataclass
class Outcome:
    """All that a report can tell of a scenario that was played."""

    scenario: Scenario
    stage: str
    refusals: list[str] = field(default_factory=list)  # why it could not be played
    done: list[Done] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    limits_ma: dict[str, Phases] = field(default_factory=dict)  # of the circuits in the samples
    log: list[LogLine] = field(default_factory=list)
    took_s: float = 0.0  # by the clock on the wall

    @property
    def failure(self) -> Done | None:
        """The step at which it ended, if not at the last one."""
        return next((done for done in self.done if done.failure is not None), None)

    @property
    def held(self) -> bool:
        """Whether it was played and everything in it held."""
        return not self.refusals and self.failure is None

    @property
    def length_ms(self) -> int:
        """How long the story was, on its own clock."""
        return self.done[-1].ended_ms if self.done else 0


Watch = Callable[[Done], None]


def refusals(scenario: Scenario, stage: Stage) -> list[str]:
    """Why a stage cannot play this, one sentence a step."""
    found = []
    for step in scenario.steps:
        reason = stage.can(step.what) if isinstance(step.what, Action) else None
        if reason is not None:
            found.append(f"line {step.line}: {step}: {reason}")
    return found


async def play(scenario: Scenario, stage: Stage, watch: Watch = lambda _done: None) -> Outcome:
    """Play it to its end or to the first step that fails; `watch` hears of each step."""
    began_s = time.perf_counter()
    outcome = Outcome(scenario, stage.name, refusals(scenario, stage))
    if outcome.refusals:
        return outcome
    recorder = _Recorder(outcome)
    for step in scenario.steps:
        done = await _play_step(step, stage, recorder)
        outcome.done.append(done)
        watch(done)
        if done.failure is not None:
            break
    recorder.see(await stage.look())
    recorder.end()
    outcome.took_s = time.perf_counter() - began_s
    return outcome


class _Recorder:
    """Keeps what is seen on the way."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._last: Sample | None = None  # seen, though perhaps not kept

    def see(self, view: View) -> None:
        outcome, samples = self._outcome, self._outcome.samples
        outcome.limits_ma = {name: view.world.circuits[own].limit_ma for name, own in view.circuits.items()}
        outcome.log = list(view.log)
        sample = _sample(view)
        last, self._last = self._last, sample
        if samples and sample.same_as(samples[-1]):
            return
        if last is not None and samples and last is not samples[-1]:
            samples.append(last)  # the end of a time in which nothing changed
        samples.append(sample)
        if len(samples) > MOST_SAMPLES:
            del samples[1:-1:2]

    def end(self) -> None:
        """Keep the last thing seen, so that the picture goes on to the end."""
        samples = self._outcome.samples
        if self._last is not None and self._last is not samples[-1]:
            samples.append(self._last)


def _sample(view: View) -> Sample:
    status = view.status
    rows = [] if status is None else status["connectors"]
    return Sample(
        at_ms=view.at_ms,
        flows_ma={name: view.world.circuit_current_ma(own) for name, own in view.circuits.items()},
        draws_ma={number: max(view.world.connector_current_ma(number)) for number in view.world.connectors},
        offers_ma={row["number"]: row["offered_ma"] for row in rows},
        states={row["number"]: row["state"] for row in rows},
        running=status is not None,
        online=status is not None and bool(status["online"]),
    )


async def _play_step(step: Step, stage: Stage, recorder: _Recorder) -> Done:
    began_ms = stage.now_ms
    failure = None
    match step.when.how:
        case "at" if began_ms > step.when.ms:
            failure = f"this is over: it is {clock(began_ms)} already"
        case "at" | "after":
            wait_ms = step.when.ms - (began_ms if step.when.how == "at" else 0)
            await stage.until(_never(recorder), wait_ms)
        case _:
            pass
    if failure is None and isinstance(step.what, Action):
        try:
            await stage.act(step.what)
        except StageError as error:
            failure = str(error)
        recorder.see(await stage.look())
    elif failure is None and isinstance(step.what, Expectation):
        failure = await _judge(step, step.what, stage, recorder)
    return Done(step, began_ms, stage.now_ms, failure)


def _never(recorder: _Recorder) -> Callable[[View], bool]:
    def look_on(view: View) -> bool:
        recorder.see(view)
        return False

    return look_on


async def _judge(step: Step, expected: Expectation, stage: Stage, recorder: _Recorder) -> str | None:
    """What is seen in place of what is expected; None if it holds (within its time, or for all of it)."""
    lasting = step.when.how == "for"
    seen: list[str | None] = [None]

    def decided(view: View) -> bool:
        recorder.see(view)
        seen[0] = seen_instead(expected, view)
        return (seen[0] is None) is not lasting

    if step.when.how in ("within", "for"):
        await stage.until(decided, step.when.ms)
    else:
        decided(await stage.look())
    return seen[0]


# -- the verb ----------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `play`."""
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="a file, or a name or topic that --list shows"
    )
    parser.add_argument("--list", action="store_true", help="show the scenarios that come with the program")
    parser.add_argument(
        "--speed",
        choices=("1", "60", "max"),
        default="max",
        help="times the speed of the world, on virtual time (default: max)",
    )
    parser.add_argument(
        "--real", action="store_true", help="on real wires, with pcscd, mosquitto and a daemon of its own"
    )
    parser.add_argument(
        "--report",
        type=_report,
        action="append",
        default=[],
        metavar="FILE",
        help="write FILE.xml (JUnit) or FILE.html",
    )


def _report(text: str) -> Path:
    if Path(text).suffix not in (".xml", ".html"):
        raise argparse.ArgumentTypeError("a report is a FILE.xml (JUnit) or a FILE.html")
    return Path(text)


def run(options: argparse.Namespace) -> int:
    """The verb; its exit code."""
    try:
        if options.list:
            _list()
            return HELD
        chosen = _chosen(options.scenarios)
    except ScenarioError as error:
        print(error, file=sys.stderr)
        return NOT_PLAYED
    outcomes = []
    for scenario in chosen:
        print(f"{scenario.title}\n  {scenario.name}, {scenario.topic}", flush=True)
        outcome = _play_real(scenario) if options.real else _play_virtual(scenario, options.speed)
        _tell_end(outcome)
        outcomes.append(outcome)
    _write_reports(options.report, outcomes)
    if len(outcomes) > 1:
        print(f"{sum(outcome.held for outcome in outcomes)} of {len(outcomes)} held")
    codes = [NOT_PLAYED if one.refusals else HELD if one.held else FAILED for one in outcomes]
    return FAILED if FAILED in codes else max(codes)


def _list() -> None:
    for path in sorted(scenarios.SHELF.glob("*.toml")):
        scenario = scenarios.read(path)
        print(f"{path.stem:<44} {'real ' if scenario.real else '     '} {scenario.title}")


def _chosen(words: Iterable[str]) -> list[Scenario]:
    """All scenarios that are named; every problem of all of them at once. Raises `ScenarioError`."""
    chosen: dict[Path, Scenario] = {}
    problems: list[str] = []
    for word in words:
        try:
            for path in scenarios.found(word):
                chosen[path] = scenarios.read(path)
        except ScenarioError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)
    if not chosen:
        raise ScenarioError(["name a scenario to play: a file, or a name or topic that --list shows"])
    return list(chosen.values())


def _play_virtual(scenario: Scenario, speed: str) -> Outcome:
    from hal_mocks.stage_virtual import run_virtual

    return run_virtual(scenario, None if speed == "max" else float(speed), _tell)


def _play_real(scenario: Scenario) -> Outcome:
    from hal_mocks.stage_real import run_real

    with tempfile.TemporaryDirectory(prefix="edge-play-") as folder:
        work: Coroutine[Any, Any, Outcome] = run_real(scenario, Path(folder), _tell)
        return asyncio.run(work)


def _tell(done: Done) -> None:
    mark = "\N{CHECK MARK}" if done.failure is None else "\N{BALLOT X}"
    print(f"  {clock(done.ended_ms):>9} {mark} {done.step}", flush=True)
    if done.failure is not None:
        print(f"            line {done.step.line}: {done.failure}", flush=True)


def _tell_end(outcome: Outcome) -> None:
    for refusal in outcome.refusals:
        print(f"  not played on {outcome.stage}: {refusal}", flush=True)
    if not outcome.refusals:
        verdict = "held" if outcome.held else "FAILED"
        print(
            f"  {verdict}: {clock(outcome.length_ms)} on {outcome.stage}, played in {outcome.took_s:.1f} s",
            flush=True,
        )


def clock(ms: int) -> str:
    """A time of the story: 83400 -> "1:23.4", 3783400 -> "1:03:03.4"."""
    minutes, rest_ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{rest_ms // 1000:02}.{rest_ms % 1000 // 100}"


def _write_reports(paths: Iterable[Path], outcomes: list[Outcome]) -> None:
    from hal_mocks.report import write

    for path in paths:
        write(path, outcomes)
        print(f"report: {path}")
