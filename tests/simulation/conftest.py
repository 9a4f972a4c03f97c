"""The 200 random days of `test_simulation.py` are played beside all other tests.

They take minutes of processor time, and the tests on real wires mostly wait. So they begin with the session,
in processes that only get what nobody else wants (nice 19), and the test that asks for the verdict runs last.
"""

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

SEEDS = 200
ROOT = Path(__file__).resolve().parents[2]
IDLE = 19
"""The politest a process can be: whatever tests measure on real wires goes first."""


@dataclass
class Days:
    """The process that plays them, and what it says."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def verdict(self) -> tuple[int, str]:
        """Wait for its end: exit code and output."""
        status = self.process.wait()
        self.output.seek(0)
        return status, self.output.read().decode()


_DAYS = pytest.StashKey[Days]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that want the verdict run last."""
    items.sort(key=_wants_days)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin, if somebody will ask."""
    if any(map(_wants_days, session.items)) and not session.config.option.collectonly:
        output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the session
        process = subprocess.Popen(
            ["nice", "-n", str(IDLE), sys.executable, "-m", "hal_mocks", "sim", "--seeds", str(SEEDS)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its workers end with it
        )
        session.config.stash[_DAYS] = Days(process, output)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End them if nobody asked, as after ^C."""
    days = session.config.stash.get(_DAYS, None)
    if days is not None:
        if days.process.poll() is None:
            os.killpg(days.process.pid, signal.SIGKILL)
            days.process.wait()
        days.output.close()


@pytest.fixture
def days(pytestconfig: pytest.Config) -> Days:
    """The random days that are played beside the session."""
    return pytestconfig.stash[_DAYS]


def _wants_days(item: pytest.Item) -> bool:
    return "days" in getattr(item, "fixturenames", ())
