"""Broken builds that the simulation has to catch: `./run mutants`. One that survives shows a hole in it.

A mutant is `tests/simulation/mutants/NAME.patch`, a unified diff against `edge/` under these lines:

    # What the broken build does.
    # promise: the promise that breaks; several, one a line, where chance decides which does first
    # seed: 7

Each is applied to a copy of the code, and `python -m hal_mocks sim` plays that copy: first the day it was
caught on last, then, if that day passes, all from the first. `--all` plays all at once, and `--note` writes
the seeds that were found into the patches.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests/simulation/mutants"

SEEDS = 200
"""A mutant that lives longer is one the simulation does not see."""

_CAUGHT = re.compile(r"^seed (\d+): (.+?) at [\d.]+ s:", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """A broken build, and what has to notice it."""

    path: Path
    sentence: str
    promises: tuple[str, ...]
    seed: int | None

    @property
    def name(self) -> str:
        """Its name in the table."""
        return self.path.stem


@dataclass(frozen=True)
class Verdict:
    """What became of it. `promise` is None for one that survived."""

    mutant: Mutant
    promise: str | None
    seed: int | None
    seconds: float
    text: str = ""  # what went wrong, if anything

    @property
    def caught(self) -> bool:
        """Whether a promise broke that was to break."""
        return self.promise in self.mutant.promises


def mutants(names: Sequence[str] = ()) -> list[Mutant]:
    """All of them, or those that are named."""
    return [_read(path) for path in sorted(FOLDER.glob("*.patch")) if not names or path.stem in names]


def _read(path: Path) -> Mutant:
    head = [line[1:].strip() for line in path.read_text().partition("\n--- ")[0].splitlines()]
    said = [line.partition(": ") for line in head if re.match(r"(promise|seed): ", line)]
    seeds = [int(value) for key, _, value in said if key == "seed"]
    promises = tuple(value for key, _, value in said if key == "promise")
    return Mutant(path, head[0], promises, seeds[0] if seeds else None)


def copy_code(to: Path) -> None:
    """Copy the code with its compiled kernel."""
    for package in ("edge", "hal_mocks"):
        left_out = shutil.ignore_patterns("__pycache__", "control/*.c")
        shutil.copytree(ROOT / package, to / package, ignore=left_out)


def apply(mutant: Mutant, folder: Path, *, check: bool = False) -> str:
    """Break the copy; what git says if it cannot."""
    options = ["--check"] if check else []
    done = subprocess.run(
        ["git", "apply", *options, str(mutant.path)], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stderr if done.returncode else ""


def judge(mutant: Mutant, *, seeds: Iterable[range]) -> Verdict:
    """Play these ranges of seeds on the broken build until one is caught."""
    began_s = time.monotonic()
    promise, seed, text = None, None, ""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy_code(folder)
        text = apply(mutant, folder)
        for some in seeds if not text else ():
            promise, seed, text = _play(folder, some)
            if promise is not None or text:
                break
    return Verdict(mutant, promise, seed, time.monotonic() - began_s, text)


def _play(folder: Path, seeds: range) -> tuple[str | None, int | None, str]:
    """Promise and seed of the first day that broke one, or what else went wrong."""
    options = f"--seeds {len(seeds)} --first {seeds.start} --no-shrink --jobs 1"
    done = subprocess.run(
        [sys.executable, "-m", "hal_mocks", "sim", *options.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = _CAUGHT.search(done.stdout)
    if done.returncode == 1 and found is not None:
        return found[2], int(found[1]), ""
    return None, None, "" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]


def days(mutant: Mutant, *, everything: bool) -> list[range]:
    """What to play: the day it was caught on, then all."""
    known = [] if mutant.seed is None or everything else [range(mutant.seed, mutant.seed + 1)]
    return [*known, range(1, SEEDS + 1)]


def _note(verdict: Verdict) -> None:
    """Write the seed into the head of the patch."""
    head, _, diff = verdict.mutant.path.read_text().partition("\n--- ")
    lines = [line for line in head.splitlines() if not line.startswith("# seed: ")]
    text = "\n".join([*lines, f"# seed: {verdict.seed}"])
    verdict.mutant.path.write_text(f"{text}\n--- {diff}")


def _shown(verdict: Verdict) -> str:
    promise = verdict.promise or "NOBODY"
    if verdict.promise is not None and not verdict.caught:
        promise += " (NOT ITS PROMISE)"
    row = _row(verdict.mutant.name, promise, str(verdict.seed or ""), f"{verdict.seconds:.1f}")
    return row if not verdict.text else f"{row}\n{verdict.text}"


def _row(mutant: str, promise: str, seed: str, seconds: str) -> str:
    return f"{mutant:26} {promise:44} {seed:>5} {seconds:>6}"


def main() -> int:
    """Judge all mutants; 1 if one survives."""
    parser = argparse.ArgumentParser(prog="./run mutants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--all", action="store_true", help="begin with seed 1 even where a seed is known")
    parser.add_argument("--note", action="store_true", help="write the seeds into the patches")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (default 2)")
    chosen = parser.parse_args()
    survivors = 0
    print(_row("mutant", "caught by", "seed", "s"), flush=True)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        under_way = [
            pool.submit(judge, mutant, seeds=days(mutant, everything=chosen.all))
            for mutant in mutants(chosen.names)
        ]
        for done in as_completed(under_way):
            verdict = done.result()
            survivors += not verdict.caught
            print(_shown(verdict), flush=True)
            if chosen.note and verdict.caught:
                _note(verdict)
    print(f"{survivors} survive" if survivors else "all are caught", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
