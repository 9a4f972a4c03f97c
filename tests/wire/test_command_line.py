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
from tests.wire.people import arrive, drawn_ma, until

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
        assert "problem(s) in the configuration" in done.stderr


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


def test_a_stopped_daemon_gives_no_sign_of_life_and_goes_on_when_it_is_let(tmp_path: Path) -> None:
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


def test_a_person_limits_asks_and_is_told_in_a_sentence_what_this_station_cannot(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "rig", pcsc=False) as rig:
            await rig.start_daemon()

            async def said(words: str, *, code: int = 0) -> str:
                """Run a verb beside the loop and return what it says, checking how it ends."""
                done = await asyncio.to_thread(edge, *words.split(), "--socket", str(rig.socket))
                assert done.returncode == code, done.stderr
                return done.stdout if code == 0 else done.stderr

            for words, sentence in (
                ("limit --circuit hall --amps 8 --for 2h", "there is no circuit 'hall'; there are main\n"),
                ("limit --connector 7 --lift", "there is no connector 7; there are 1, 2\n"),
                ("limit --connector 1 --amps 8 --for 8d", "holds for 7 days at most; a lasting one belongs"),
                ("demand 1 --kwh 0 --in 3h", "a car needs more than 0 and at most 2000 kWh\n"),
                ("phases 1 1", "connector 1 cannot switch to 1 phase"),
                ("demand 1 --kwh 20 --in 3h", "there is no session at connector 1"),
            ):
                assert sentence in await said(words, code=1)
            await arrive(rig, 1, "alice")
            await until(rig, "it draws freely", lambda s: drawn_ma(s, 1) > 12_000)
            assert await said("limit --circuit main --amps 8 --for 2h") == (
                "circuit main: at most 8/8/8 A for 2 h\n"
            )
            await until(rig, "it obeys", lambda s: 6_000 <= drawn_ma(s, 1) < 8_200)
            assert await said("limit --circuit main --lift") == "circuit main: no limit by hand any more\n"
            await until(rig, "it draws freely again", lambda s: drawn_ma(s, 1) > 12_000)
            assert (await said("demand 1 --kwh 20 --in 3h")).startswith(
                "connector 1: 20.0 kWh within 3 h 0 min"
            )

    asyncio.run(main())


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of all processes that mention a folder, but for the rig itself."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue  # it has just ended
        if str(folder) in words and "hal_mocks rig" not in words:
            lines.append(words)
    return lines


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_rig_says_what_is_where_does_what_is_typed_and_leaves_nothing_behind(
    tmp_path: Path, ending: signal.Signals
) -> None:
    rig = subprocess.Popen(
        [sys.executable, "-m", "hal_mocks", "rig", "--folder", str(tmp_path), "--with-daemon"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert rig.stdin is not None
    assert rig.stdout is not None
    try:
        said = []
        for line in rig.stdout:
            said.append(line)
            if line.startswith("runs until"):
                break
        text = "".join(said)
        for word in ("ttyMeters", "ttyEvse", "mqtt://", "edge.toml", "card  alice"):
            assert word in text
        config = str(tmp_path / "edge.toml")
        status = edge("status", "--socket", str(tmp_path / "run" / "edge.sock"))
        assert status.returncode == 0, status.stderr
        assert edge("clear-fault", "--config", config, "9").returncode == 1
        assert "no latched fault" in edge("clear-fault", "--config", config, "1").stdout
        rig.stdin.write("plug 1 16\nunplug 7\n")
        rig.stdin.flush()
        assert rig.stdout.readline() == "done\n"
        assert "that did not work" in rig.stdout.readline()
        before = processes_of(tmp_path)
        assert len(before) >= 2  # daemon and broker
        rig.send_signal(ending)
        assert rig.wait(30) == 0
        assert processes_of(tmp_path) == []
    finally:
        rig.kill()
        rig.wait()
        for pipe in (rig.stdin, rig.stdout):
            pipe.close()


@pytest.mark.parametrize(
    "words",
    [
        ["rig", "--limit-a", "-3"],
        ["rig", "--baud", "0"],
        ["rig", "--connectors", "x"],
        ["rig", "--folder", __file__],
    ],
    ids=["limit", "baud", "connectors", "folder"],
)
def test_the_rig_refuses_what_cannot_be_in_a_sentence(words: list[str]) -> None:
    run = [sys.executable, "-m", "hal_mocks", *words]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
