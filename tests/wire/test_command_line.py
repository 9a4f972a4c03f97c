"""What a technician and systemd see of `edge` and of the rig: words, exit codes, notifications."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hal_mocks.rig import Rig

pytestmark = [pytest.mark.wire, pytest.mark.timeout(120)]

EXAMPLE = Path(__file__).parents[2] / "systemd" / "edge.example.toml"


def edge(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "edge", *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_example_configuration_is_shown_as_a_tree(tmp_path: Path) -> None:
    done = edge("check-config", str(EXAMPLE))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("station ")
    assert "└── connector" in done.stdout


def test_every_problem_of_a_configuration_is_one_line_and_the_exit_code_is_78(tmp_path: Path) -> None:
    wrong = tmp_path / "edge.toml"
    wrong.write_text(
        EXAMPLE.read_text().replace("max_a =", "max_amps =").replace("baud = 9600", "baud = 9601")
    )
    for verb in (["check-config", str(wrong)], ["run", "--config", str(wrong)]):
        done = edge(*verb)
        assert done.returncode == 78
        assert "Traceback" not in done.stderr
        assert any("max_amps" in line and "max_a" in line for line in done.stderr.splitlines())
        assert any("baud = 9601" in line for line in done.stderr.splitlines())
        assert "nothing was started" in done.stderr


def test_a_missing_configuration_says_which_file() -> None:
    done = edge("run", "--config", "/nonexistent/edge.toml")
    assert done.returncode == 78
    assert "/nonexistent/edge.toml" in done.stderr


def test_a_runtime_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = tmp_path / "edge.toml"
    text = EXAMPLE.read_text().replace("[station]", f'[paths]\nruntime = "{tmp_path}/file/run"\n\n[station]')
    config.write_text(text)
    done = edge("run", "--config", str(config))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "paths.runtime" in done.stderr


def test_systemd_is_told_ready_alive_and_stopping(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "rig", pcsc=False) as rig:
            manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            manager.bind(str(tmp_path / "notify"))
            manager.setblocking(False)
            loop = asyncio.get_running_loop()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edge", "run", "--config", str(rig.config),
                stderr=subprocess.DEVNULL, env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            )  # fmt: skip
            heard: list[str] = []
            async with asyncio.timeout(30):
                while heard.count("WATCHDOG=1") < 3:
                    heard += (await loop.sock_recv(manager, 4096)).decode().splitlines()
                assert heard[0] == "READY=1"
                process.send_signal(signal.SIGTERM)
                while "STOPPING=1" not in heard:
                    heard += (await loop.sock_recv(manager, 4096)).decode().splitlines()
                assert await process.wait() == 0
            manager.close()

    asyncio.run(main())


def test_the_watchdog_is_not_petted_by_a_daemon_whose_brain_stands_still(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "rig", pcsc=False) as rig:
            await rig.start_daemon()
            assert rig.daemon is not None
            rig.daemon.send_signal(signal.SIGSTOP)
            alive = rig.folder / "run" / "alive"
            before = alive.read_text()
            await asyncio.sleep(1)
            assert alive.read_text() == before  # the heartbeat is written where the watchdog is petted
            rig.daemon.send_signal(signal.SIGCONT)
            async with asyncio.timeout(10):
                while alive.read_text() == before:
                    await asyncio.sleep(0.05)
            await rig.stop_daemon()

    asyncio.run(main())


def test_the_rig_prints_what_is_where_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    rig = subprocess.Popen(
        [sys.executable, "-m", "hal_mocks", "rig", "--folder", str(tmp_path), "--with-daemon"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert rig.stdout is not None
        said = []
        for line in rig.stdout:
            said.append(line)
            if line.startswith("runs until"):
                break
        text = "".join(said)
        for word in ("ttyMeters", "ttyEvse", "mqtt://", "edge.toml", "card  alice"):
            assert word in text
        status = edge("status", "--config", str(tmp_path / "edge.toml"))
        assert status.returncode == 0, status.stderr
        rig.send_signal(signal.SIGINT)
        assert rig.wait(30) == 0
    finally:
        rig.kill()
        rig.wait()
        if rig.stdout is not None:
            rig.stdout.close()
