"""A random day of the production daemon: a seed always gives the same one."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from hal_mocks.plans import make_plan
from hal_mocks.simulation import simulate

ROOT = Path(__file__).resolve().parents[2]

COMPARED = (3, 14, 37)
"""In the last one the daemon dies in a write, of a signal and of a power cut, and a line is bad."""


def fingerprints(seeds: Sequence[int], *, python: str = sys.executable, hash_seed: int = 0) -> dict[int, str]:
    """What `sim --seed` prints for each, in a process of its own."""
    return {seed: _fingerprint(seed, python, hash_seed) for seed in seeds}


def _fingerprint(seed: int, python: str, hash_seed: int) -> str:
    said = subprocess.run(
        [python, "-m", "hal_mocks", "sim", "--seed", str(seed), "--quiet", "--no-shrink"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    words = [line.split()[1] for line in said.stdout.splitlines() if line.startswith("fingerprint ")]
    assert words, said.stdout + said.stderr
    return words[0]


def test_a_seed_gives_the_same_day_in_every_process_and_in_any_order() -> None:
    forward = {seed: simulate(make_plan(seed)).fingerprint for seed in COMPARED}
    backward = {seed: simulate(make_plan(seed)).fingerprint for seed in reversed(COMPARED)}
    assert forward == backward
    assert forward == fingerprints(COMPARED, hash_seed=1)
    assert forward == fingerprints(COMPARED, hash_seed=4_000_000_000)


def test_a_seed_gives_the_same_day_on_another_python() -> None:
    python = os.environ.get("EDGE_OTHER_PYTHON")
    if python is None:
        pytest.skip("EDGE_OTHER_PYTHON names no other Python with the dependencies")
    assert fingerprints(COMPARED) == fingerprints(COMPARED, python=python)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--seeds 0", "'0' is not a whole number from 1 to"),
        ("--seed -1", "'-1' is not a whole number from 0 to"),
        ("--seeds 1 --jobs 0", "'0' is not a whole number from 1 to"),
        ("--seed 1 --days x", "'x' is not a whole number from 0 to"),
        ("--scenario nowhere.toml", "nowhere.toml: No such file"),
    ],
)
def test_a_wrong_option_gets_a_sentence(words: str, sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hal_mocks", "sim", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
