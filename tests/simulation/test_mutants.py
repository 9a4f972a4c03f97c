"""The broken builds in `mutants/` fit the code as it is, and promises that exist have to catch them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hal_mocks import promises, scenario, simulation
from hal_mocks.plans import make_plan
from tools import mutants

FEWEST = 14

ALL = mutants.mutants()

QUICK = ("card-number-published", "unknown-trouble", "house-ignored")
"""Money, safety and a plain bug; `./run mutants` plays all of them."""


def test_there_are_enough_of_them() -> None:
    assert len(ALL) >= FEWEST


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code(mutant: mutants.Mutant) -> None:
    assert mutants.apply(mutant, mutants.ROOT, check=True) == ""


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_says_what_is_broken_and_names_promises_that_exist(mutant: mutants.Mutant) -> None:
    assert re.fullmatch(r"[A-Z].*\.", mutant.sentence)
    assert mutant.promises
    known = "".join(Path(module.__file__ or "").read_text() for module in (promises, simulation))
    known += (Path(promises.__file__).parent / "last_drivers.py").read_text()
    assert [text for text in mutant.promises if f'"{text}"' not in known] == []


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_has_been_caught(mutant: mutants.Mutant) -> None:
    assert mutant.seed is not None
    assert 1 <= mutant.seed <= mutants.SEEDS


@pytest.mark.parametrize("name", QUICK)
def test_a_broken_build_is_caught_by_its_promise(name: str) -> None:
    (mutant,) = mutants.mutants([name])
    assert mutant.seed is not None
    verdict = mutants.judge(mutant, seeds=[range(mutant.seed, mutant.seed + 1)])
    assert verdict.caught, verdict


def test_a_failing_day_is_made_small_and_what_is_left_fails_again(tmp_path: Path) -> None:
    (mutant,) = mutants.mutants(["house-ignored"])
    mutants.copy_code(tmp_path)
    assert mutants.apply(mutant, tmp_path) == ""
    day = make_plan(mutant.seed or 0)
    status, said = sim(tmp_path, "--seed", str(mutant.seed), "--quiet", "--write", "small.toml")
    assert status == 1
    assert f"BROKEN {mutant.promises[0]}" in said
    small = scenario.read(tmp_path / "small.toml")
    assert 0 < len(small.steps) < len(day.steps) / 2
    status, said = sim(tmp_path, "--scenario", "small.toml", "--quiet", "--no-shrink")
    assert status == 1
    assert f"BROKEN {mutant.promises[0]}" in said
    status, said = sim(mutants.ROOT, "--scenario", str(tmp_path / "small.toml"), "--quiet")
    assert status == 0, said


def sim(folder: Path, *words: str) -> tuple[int, str]:
    """Run `sim` on the code in a folder: exit code and output."""
    done = subprocess.run(
        [sys.executable, "-m", "hal_mocks", "sim", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
