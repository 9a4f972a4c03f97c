"""The workshop: what `./run` says to a newcomer, and the rules it checks that no linter knows."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tools.house_rules import problems_of

ROOT = Path(__file__).parents[2]
NOBODY = 65534


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "run", *words], check=False, capture_output=True, text=True, timeout=30)


def test_without_arguments_every_verb_is_listed() -> None:
    answer = run()
    assert answer.returncode == 0
    listed = [line.split()[0] for line in answer.stdout.splitlines() if line.startswith("  ")]
    assert listed == [
        *("setup", "demo", "rig", "test", "check", "bench"),
        *("play", "sim", "mutants", "nightly"),
    ]


def test_an_unknown_verb_is_named_and_the_known_ones_are_listed() -> None:
    answer = run("tset")
    assert answer.returncode == 1
    assert "no verb 'tset'" in answer.stderr
    assert "test [pytest args]" in answer.stderr


def test_without_root_and_sudo_it_prints_what_to_run_and_why(tmp_path: Path) -> None:
    folder = tmp_path
    while folder != Path(tempfile.gettempdir()):  # pytest's folders are closed to others
        folder.chmod(0o755)
        folder = folder.parent
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("awk", "bash", "cat", "dirname", "env", "grep", "sed"):
        (bare / tool).symlink_to(shutil.which(tool) or tool)
    dpkg = bare / "dpkg-query"
    dpkg.write_text("#!/bin/sh\necho 'installed gcc'\n")
    dpkg.chmod(0o755)
    script = shutil.copy(ROOT / "run", tmp_path / "run")
    answer = subprocess.run(
        [script, "demo"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": str(bare)},
        user=NOBODY if os.geteuid() == 0 else None,
    )
    assert answer.returncode == 1
    missing = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if line.startswith("  "))
    assert missing["mosquitto"] == "MQTT broker of the demo and the tests"
    assert "gcc" not in missing
    [command] = [line.strip() for line in answer.stderr.splitlines() if line.startswith("  ")]
    assert command.startswith("apt-get update && apt-get install -y --no-install-recommends ")
    assert command.split()[-len(missing) :] == list(missing)


PROBES = """
import threading, asyncio, pytest

@pytest.mark.wire
def test_skipped_wire(): pytest.skip("no broker here")

def test_skipped_other(): pytest.skip("not on this kernel")

def test_leaves_a_thread(release=threading.Event()):
    threading.Thread(target=release.wait, name="rfid-front", daemon=True).start()

def test_leaves_another_thread():
    threading.Thread(target=threading.Event().wait, name="somebody", daemon=True).start()

def test_loses_a_task():
    loop = asyncio.new_event_loop()
    loop.create_task(asyncio.sleep(1))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop
    import gc; gc.collect()
"""


def outcome_of_probes(tmp_path: Path, *options: str) -> list[str]:
    """Run the tests above under the repository's conftest and return its progress letters: ., s, F, E."""
    probes = tmp_path / "test_probes.py"
    probes.write_text(PROBES)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, "-o", "markers=wire"]
    answer = subprocess.run(
        [*command, "-p", "no:cacheprovider", *options, probes.name],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    [letters] = re.findall(r"^test_probes\.py (\S+) +\[100%\]", answer.stdout, re.MULTILINE)
    return list(letters)


def test_whatever_a_test_leaves_behind_is_an_error(tmp_path: Path) -> None:
    # A test passes, then the look at what it left is the error.
    assert outcome_of_probes(tmp_path) == ["s", "s", ".", "E", ".", ".", "E"]


def test_in_ci_a_skipped_wire_test_is_a_failure_and_another_is_not(tmp_path: Path) -> None:
    assert outcome_of_probes(tmp_path, "--strict-components")[:2] == ["F", "s"]


def sentences(text: str, path: str = "edge/journal.py") -> list[str]:
    return [problem.split(": ", 1)[1] for problem in problems_of(path, text)]


@pytest.mark.parametrize(
    "code",
    [
        "from unittest import mock",
        "import unittest.mock as m",
        "from unittest.mock import Mock",
        "def test_x(monkeypatch): ...",
        "try: x\nexcept Exception: y",
        "try: x\nexcept (OSError, BaseException): y",
        "try: x\nexcept: y",
        "x = 1  # noqa",
        "x = 1  # noqa: E501",
        "x = 1  # type: ignore[misc]",
        "where = '/ro" + "ot/somewhere'",
        "where = '/ho" + "me/me/somewhere'",
        "see = '.." + "/shared/facts.md'",
    ],
)
def test_what_the_house_forbids_is_found(code: str) -> None:
    assert len(sentences(code)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import unittest",
        "try: x\nexcept OSError: y",
        "try: x\nexcept BaseException:\n    tidy()\n    raise",
        "x = 1  # noqa: E501 - a table reads better in one line",
        "x = 1  # type: ignore[misc]  # the library says Any",
        "half = 1 / 2",
        "ProtectHome = '/home'",
        "topic = 'edge/root/work'",
        "x = 'https://example.org/work-order'",
    ],
)
def test_what_the_house_allows_is_not_found(code: str) -> None:
    assert sentences(code) == []


@pytest.mark.parametrize("code", ["x = 1 / 2", "x /= 2", "x = float('1')", "x = 0.5"])
@pytest.mark.parametrize("folder", ["control", "payments"])
def test_where_money_and_current_are_decided_there_are_no_binary_fractions(folder: str, code: str) -> None:
    assert len(sentences(code, f"edge/{folder}/any.py")) == 1
    assert sentences("x = 1 // 2", f"edge/{folder}/any.py") == []


def test_the_last_frame_of_the_process_may_catch_everything() -> None:
    assert sentences("try: x\nexcept Exception: y", "edge/__main__.py") == []
