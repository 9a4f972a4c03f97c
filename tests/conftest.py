"""House rules that hold for every test: nothing left behind, the same run every time, no silent gap in CI."""

import logging
import threading
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

THREADS = ("rfid", "journal", "uplink", "logs")
"""How the threads of the controller are named, or how their names begin."""

GOODBYE_S = 1.0
"""What a thread that was told to end may take to be gone."""

# The same examples on every machine and no time limit per example: a failure is a change of the code.
settings.register_profile("steady", derandomize=True, deadline=None)
# `--hypothesis-profile=explore` goes looking for new failures.
settings.register_profile("explore", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `./run test` gives in CI."""
    parser.addoption(
        "--strict-components",
        action="store_true",
        help="a wire test that is skipped, for want of a component, fails",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest file, so that two processes end together."""
    items.sort(key=lambda item: item.path.name != "test_random_days.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a wire test into a failure under --strict-components."""
    report = yield
    strict = bool(item.config.getoption("--strict-components"))
    if strict and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("wire"):
        reason = call.excinfo.value if call.excinfo is not None else "no reason given"
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped (--strict-components): {reason}"
    return report


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves one of our threads running, or a task that nobody awaited or listened to."""
    before = set(threading.enumerate())
    complaints: list[str] = []
    listener = _Complaints(complaints)
    logging.getLogger("asyncio").addHandler(listener)
    yield
    logging.getLogger("asyncio").removeHandler(listener)
    left = [thread for thread in threading.enumerate() if thread not in before and _is_ours(thread)]
    for thread in left:
        thread.join(GOODBYE_S)
    alive = [thread.name for thread in left if thread.is_alive()]
    assert not alive, f"threads still running after the test: {alive}"
    assert not complaints, "asyncio found work left behind:\n" + "\n".join(complaints)


def _is_ours(thread: threading.Thread) -> bool:
    return thread.name.startswith(THREADS)


class _Complaints(logging.Handler):
    """What asyncio says of lost tasks: "was destroyed but it is pending", "exception was never retrieved"."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        self._complaints.append(record.getMessage())
