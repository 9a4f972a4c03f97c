"""`python -m hal_mocks rig RIG.toml` as a person has it: what it says, real ports, the daemon, the keys."""

import asyncio
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hal_mocks import broker as mosquitto
from hal_mocks import rig_file
from hal_mocks.pcscd import Pcscd
from hal_mocks.rig_custom import CustomRig, RigFailed
from hal_mocks.wires import SerialLine
from tests.wire.serial_line import relay

pytestmark = pytest.mark.wire
needs_mbpoll = pytest.mark.skipif(shutil.which("mbpoll") is None, reason="mbpoll is not installed")
needs_broker = pytest.mark.skipif(mosquitto.why_not() is not None, reason=str(mosquitto.why_not()))

EXAMPLES = Path(__file__).parents[2] / "hal_mocks" / "rigs"
DEADLINE_S = 60

ONE = """
[[lines]]
id = "bus"
{line}

[[meters]]
id = "site"
on = "bus"
unit = 1
start_wh = 1_234_500

[[boards]]
id = "left"
on = "bus"
unit = 11

[[circuits]]
id = "main"
limit_a = 32
meter = "site"

[[connectors]]
number = 1
circuit = "main"
board = "left"
"""
ON_A_PTY = 'path = "{folder}/ttyBus"'


def written(folder: Path, line: str = ON_A_PTY, more: str = "") -> Path:
    path = folder / "RIG.toml"
    path.write_text(ONE.replace("{line}", line) + more)
    return path


def words(*options: object) -> list[str]:
    return [sys.executable, "-m", "hal_mocks", "rig", *map(str, options)]


def refused(*options: object) -> str:
    done = subprocess.run(
        words(*options),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode in (1, 2), done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


@contextmanager
def running(*options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the verb; give it and what it said until it runs."""
    rig = subprocess.Popen(words(*options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert rig.stdin is not None
    assert rig.stdout is not None
    try:
        said = []
        for line in rig.stdout:
            said.append(line)
            if line.startswith("runs until"):
                break
        yield rig, "".join(said)
    finally:
        rig.terminate()
        rig.wait(DEADLINE_S)
        rig.stdin.close()
        rig.stdout.close()


# -- what it says and refuses ------------------------------------------------------------------------


def test_it_says_where_each_peer_is_and_what_a_configuration_calls_it(tmp_path: Path) -> None:
    more = "[[ports]]\nid = 'gate'\n[reader]\nkind = 'memory'\n[cards]\nalice = '04A1A2A3A4A5A6'\n"
    folder = tmp_path / "rig"
    with running(written(tmp_path, more=more), "--folder", folder) as (rig, said):
        assert re.search(r"\{lines\.bus\}  \S+/ttyBus, SDM630 units 1 site, SimpleEVSE units 11 left\n", said)
        port = re.search(r"\{ports\.gate\.port\}  127\.0\.0\.1:(\d+) Modbus TCP, no devices\n", said)
        assert port is not None
        socket.create_connection(("127.0.0.1", int(port[1]))).close()
        assert "card  alice 04A1A2A3A4A5A6" in said
        rig.send_signal(signal.SIGTERM)
        assert rig.wait(DEADLINE_S) == 0
    assert list(folder.iterdir()) == []


def test_every_problem_of_a_file_is_said_before_anything_starts(tmp_path: Path) -> None:
    path = written(tmp_path, 'pth = "x"', "[gpio]\npin = 4\n")
    told = refused(path, "--folder", tmp_path / "rig").splitlines()
    assert len(told) == 3
    assert all(line.startswith(f"{path}: ") for line in told)
    assert not (tmp_path / "rig").exists()


def test_a_path_and_ports_that_are_taken_are_said_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "rig"
    folder.mkdir()
    (folder / "ttyBus").write_text("precious")
    assert "delete it or choose another `path`" in refused(written(tmp_path), "--folder", folder)
    assert (folder / "ttyBus").read_text() == "precious"
    (folder / "ttyBus").unlink()
    (folder / "ttyBus").symlink_to("/dev/serial/by-id/somebodys-adapter")
    assert "is no pty of a rig" in refused(written(tmp_path), "--folder", folder)
    assert (folder / "ttyBus").is_symlink()
    (folder / "ttyBus").unlink()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = written(tmp_path, more=f"[[ports]]\nid = 'gate'\nport = {port}\n")
        assert f"port gate: TCP port {port} is in use; choose another" in refused(path, "--folder", folder)
        if mosquitto.why_not() is None:
            path = written(tmp_path, more=f"[broker]\nport = {port}\n")
            assert f"broker: TCP port {port} is in use" in refused(path, "--folder", folder)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--watch"], "--watch needs a terminal"),
        (["--with-daemon", "CONFIG"], "needs a RIG.toml before it"),
        (["RIG.toml", "--connectors", "3"], "--connectors does not go with a RIG.toml"),
        (["RIG.toml", "--with-daemon"], "--with-daemon needs the CONFIG"),
        (["RIG.toml", "--with-daemon", "none.toml"], "none.toml: No such file or directory"),
        (["none.toml"], "none.toml: No such file or directory; give the path"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: list[str], told: str) -> None:
    path = written(tmp_path)
    given = [str(path) if word == "RIG.toml" else word for word in options]
    assert told in refused(*given)


def test_a_placeholder_nobody_fills_is_said_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "station.toml"
    config.write_text('a = "{lines.bus}"\nb = {broker.port}\n')
    told = refused(written(tmp_path), "--folder", tmp_path / "rig", "--with-daemon", config)
    assert told.startswith(f"{config}: line 2: {{broker.port}}: no placeholder; ")


def test_without_pcscd_a_virtual_reader_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async def main() -> None:
        rig = CustomRig(rig_file.read(written(tmp_path, more="[reader]\n")), tmp_path / "rig")
        rig.why_no_pcscd = "pcscd is not installed (Debian: apt install pcscd)"
        with pytest.raises(RigFailed, match=r'apt install pcscd\); mend that, or write kind = "memory"'):
            await rig.__aenter__()
        assert list((tmp_path / "rig").iterdir()) == []

    asyncio.run(main())


# -- real serial ports -------------------------------------------------------------------------------


def on_a_port(device: str) -> str:
    return f'device = "{device}"\nbaud = 9600'


async def mbpoll(port: str, *options: str, write: int | None = None) -> str:
    """Run mbpoll once with 0-based addresses; return what it says."""
    given = [*options, port] if write is None else [*options, port, str(write)]
    process = await asyncio.create_subprocess_exec(
        "mbpoll", "-m", "rtu", "-b", "9600", "-P", "none", "-0", "-1", "-B", "-o", "1", *given,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()


KWH = ("-a", "1", "-t", "3:float", "-r", "72", "-c", "1")
AMPS = ("-a", "11", "-t", "4", "-r", "1000")


@needs_mbpoll
def test_devices_answer_an_independent_master_through_a_port_that_is_not_the_rigs(tmp_path: Path) -> None:
    async def main() -> None:
        with relay() as (near, far):
            file = rig_file.read(written(tmp_path, on_a_port(far.name)))
            async with CustomRig(file, tmp_path / "rig") as rig:
                line = rig.cables["bus"]
                assert isinstance(line, SerialLine)
                assert re.search(r"^\[72\]:\s+1234\.5", await mbpoll(near.name, *KWH), re.MULTILINE)
                assert "Written 1 references" in await mbpoll(near.name, *AMPS, write=16)
                assert rig.world.evses[1].set_current_ma == 16_000
                line.unplug()
                assert "timed out" in await mbpoll(near.name, *KWH)
                line.replug()
                assert "1234.5" in await mbpoll(near.name, *KWH)

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


@needs_mbpoll
def test_an_adapter_that_is_pulled_out_is_taken_again_when_it_is_back(tmp_path: Path) -> None:
    async def main() -> None:
        adapter = tmp_path / "ttyUSB0"
        with relay() as (_, far):
            adapter.symlink_to(far.name)
            file = rig_file.read(written(tmp_path, on_a_port(str(adapter))))
            rig = await CustomRig(file, tmp_path / "rig").__aenter__()
        try:
            adapter.unlink()
            with relay() as (near, far):
                adapter.symlink_to(far.name)
                while "1234.5" not in await mbpoll(near.name, *KWH):  # each attempt waits for an answer
                    pass
        finally:
            await rig.__aexit__()

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


def test_a_real_port_that_is_missing_or_taken_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path, on_a_port("/dev/ttyNobody"))
    assert "line bus: /dev/ttyNobody: No such file or directory; plug the adapter in" in refused(path)
    assert "is it a serial port?" in refused(written(tmp_path, on_a_port("/dev/null")))

    async def main() -> None:
        with relay() as (_, far):
            file = rig_file.read(written(tmp_path, on_a_port(far.name)))
            async with CustomRig(file, tmp_path / "rig"):
                with pytest.raises(RigFailed, match="another program has it; end that one"):
                    await CustomRig(file, tmp_path / "second").__aenter__()

    asyncio.run(main())


def test_a_line_of_real_devices_is_only_named(tmp_path: Path) -> None:
    more = "[[lines]]\nid = 'roof'\ndevice = '/dev/ttyNobody'\nreal = true\n"
    more += "[reader]\nname = 'ACS ACR122U'\n[broker]\nhost = '192.0.2.10'\n"

    async def main() -> None:
        async with CustomRig(rig_file.read(written(tmp_path, more=more)), tmp_path / "rig") as rig:
            assert rig.names()["lines.roof"] == "/dev/ttyNobody"
            assert (rig.names()["broker.host"], rig.names()["broker.port"]) == ("192.0.2.10", "1883")
            assert rig.names()["reader.name"] == "ACS ACR122U"
            assert list(rig.cables) == ["bus"]
            assert "real devices, not served by the rig" in rig.places()["{lines.roof}"]
            with pytest.raises(ValueError, match="hold a real card to it"):
                await rig.swipe("alice")

    asyncio.run(main())


# -- with the daemon ---------------------------------------------------------------------------------


def garage(tmp_path: Path) -> list[object]:
    """The example with its configuration, with a reader in memory where pcscd cannot run."""
    path = tmp_path / "garage.toml"
    text = (EXAMPLES / "garage.toml").read_text()
    if Pcscd().why_not() is not None:
        text = text.replace("[reader]", '[reader]\nkind = "memory"')
    path.write_text(text)
    return [path, "--folder", tmp_path / "rig", "--with-daemon", EXAMPLES / "garage-station.toml"]


def daemon_of(folder: Path) -> int:
    """The process that runs on the configuration in this folder."""
    config = str(folder / "edge.toml")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if config in (process / "cmdline").read_text().split("\0"):
                return int(process.name)
    raise AssertionError(f"no daemon runs on {config}")


@needs_broker
def test_a_daemon_that_dies_ends_the_verb_with_the_end_of_its_log(tmp_path: Path) -> None:
    rig = subprocess.Popen(
        words(*garage(tmp_path)),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert rig.stdout is not None
    for line in rig.stdout:
        if line.startswith("runs until"):
            break
    os.kill(daemon_of(tmp_path / "rig"), signal.SIGKILL)
    _, told = rig.communicate(timeout=DEADLINE_S)
    assert rig.returncode == 1
    assert told.startswith("the daemon ended with -9: ")
    assert "topic=ready" in told
    assert "Traceback" not in told


@needs_broker
def test_a_daemon_that_does_not_like_its_configuration_is_quoted(tmp_path: Path) -> None:
    config = tmp_path / "station.toml"
    config.write_text((EXAMPLES / "garage-station.toml").read_text().replace("min_a = 6", "min_a = 600"))
    told = refused(*garage(tmp_path)[:-1], config)
    assert "connectors[1].min_a = 600" in told


# -- keys --------------------------------------------------------------------------------------------


class Keyboard:
    """A terminal of its own with the verb in it."""

    def __init__(self, *options: object) -> None:
        self._wire, self.terminal = os.openpty()
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.before = termios.tcgetattr(self.terminal)
        self.shown = ""
        self.process = subprocess.Popen(
            words(*options),
            stdin=self.terminal, stdout=self.terminal, stderr=self.terminal,
            env={**os.environ, "TERM": "xterm-256color"}, start_new_session=True,
        )  # fmt: skip

    def press(self, keys: str) -> None:
        os.write(self._wire, keys.encode())

    def until(self, pattern: str, timeout_s: float = 30.0) -> str:
        """Read until the page shows this; return the page. What was shown before the last key counts, too."""
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self._page()):
            ready, _, _ = select.select([self._wire], [], [], 0.1)
            if ready:
                self.shown += os.read(self._wire, 65_536).decode(errors="replace")
            assert self.process.poll() is None, f"it ended:\n{self.shown[-3000:]}"
            assert time.monotonic() < deadline, f"{pattern!r} is not shown:\n{self._page()}"
        return self._page()

    def end(self) -> int:
        """Read what is left until the process has ended."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            ready, _, _ = select.select([self._wire], [], [], 0.1)
            if ready:
                self.shown += os.read(self._wire, 65_536).decode(errors="replace")
        while select.select([self._wire], [], [], 0)[0]:
            self.shown += os.read(self._wire, 65_536).decode(errors="replace")
        return self.process.wait(1)

    def close(self) -> None:
        self.process.terminate()  # a rig that was killed could not end its daemon
        self.end()
        os.close(self._wire)
        os.close(self.terminal)

    def _page(self) -> str:
        """The last whole page, its columns one space apart; each page begins at the upper left."""
        pages = self.shown.split("\x1b[H")
        page = pages[-2] if len(pages) > 2 else pages[-1]
        return re.sub(r"[ \N{NO-BREAK SPACE}]+", " ", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", page))


@contextmanager
def keyboard(*options: object) -> Iterator[Keyboard]:
    keys = Keyboard(*options)
    try:
        yield keys
    finally:
        keys.close()


@needs_broker
def test_keys_plug_a_car_and_hold_a_card_and_the_daemon_charges_it(tmp_path: Path) -> None:
    with keyboard(*garage(tmp_path), "--watch") as keys:
        keys.until(r"serving 2 connectors")
        keys.press("p")
        keys.until(r"▶1 preparing")
        keys.press("a")
        keys.until(r"▶1 charging 3~ 16A C closed \S+ 16\.0 16\.0 16\.0")
        keys.press("kum")
        keys.until(r"(?s)broker DEAD.*done to the rig: meter connector-1 silent, kettle on")
        keys.press("ukm2")
        keys.until(r"▶2 available")
        keys.press("1p")
        keys.until(r"operator online,\s+payments 0 waiting 1 settled")
        keys.press("d")
        keys.until("no daemon answers")
        keys.press("?")
        keys.until("weld the contactor, or mend it")
        keys.press("d?")
        keys.until("▶1 available")
        keys.press("q")
        assert keys.end() == 0
        assert termios.tcgetattr(keys.terminal) == keys.before
        assert keys.shown.rstrip().endswith("\x1b[?1049l")  # back from the alternate screen, cursor shown
        assert "\x1b[?25h" in keys.shown


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_as_before_whatever_ends_the_view(tmp_path: Path, ending: signal.Signals) -> None:
    with keyboard(written(tmp_path), "--folder", tmp_path / "rig", "--watch") as keys:
        keys.until("no daemon answers")
        assert termios.tcgetattr(keys.terminal) != keys.before
        keys.press("d")
        keys.until("that did not work: the rig was started without CONFIG")
        keys.process.send_signal(ending)
        assert keys.end() == 0
        assert termios.tcgetattr(keys.terminal) == keys.before


@needs_broker
def test_the_terminal_is_as_before_when_the_daemon_dies_and_its_log_is_there_to_read(tmp_path: Path) -> None:
    with keyboard(*garage(tmp_path), "--watch") as keys:
        keys.until(r"serving 2 connectors")
        os.kill(daemon_of(tmp_path / "rig"), signal.SIGKILL)
        assert keys.end() == 1
        assert termios.tcgetattr(keys.terminal) == keys.before
        after = keys.shown.rpartition("\x1b[?1049l")[2]
        assert "the daemon ended with -9" in after
        assert "topic=ready" in after
