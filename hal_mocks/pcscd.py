"""A real pcscd with vsmartcard's virtual reader, for rigs and tests: start, kill, stop, unplug.

pcscd has one fixed socket, /run/pcscd/pcscd.comm. Where this machine lets us have a mount namespace (as root,
or as an ordinary user through a user namespace) it gets a /run of its own and a free port for its cards, so
it disturbs no other pcscd and any number of them run side by side; clients find it by `environment`.
Where not, root may still run it at the fixed place, or one that already runs is shared but not killed.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Self

from hal_mocks.card import VPCD_PORT

READER_NAME = "Virtual PCD"
"""PC/SC names the reader's two slots "Virtual PCD 00 00" and "Virtual PCD 00 01"."""

_FIXED_SOCKET = Path("/run/pcscd/pcscd.comm")
_DRIVER = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
_READER_CONF = """\
FRIENDLYNAME "{name}"
DEVICENAME   /dev/null:0x{port:X}
LIBPATH      {driver}
CHANNELID    0x{port:X}
"""
# $1 is what the outside sees of /run/pcscd, $2 the folder of reader definitions. The parent-death signal
# comes last because entering a user namespace clears it.
_ENTER = (
    'mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/pcscd && mount --bind "$1" /run/pcscd && '
    'exec setpriv --pdeathsig KILL pcscd --foreground --config "$2"'
)
_START_S = 10.0  # takes 20 ms on a PC; slow boards under load get a margin
_STOP_S = 5.0  # it waits for its reader threads, which poll every 0.4 s


class Place(Enum):
    """Where pcscd can live on this machine."""

    PRIVATE = "in a mount namespace of its own"
    FIXED = "at the fixed socket, as root"
    SHARED = "the one that already runs; it cannot be killed, restarted or unplugged"


class Pcscd:
    """One pcscd. Use as a context manager, or call `close` at the end.

    The kernel kills it when the thread that called `start` ends, so that no rig leaves one behind.
    """

    def __init__(self) -> None:
        self.place, self._why_not = _choose_place()
        self._home = Path(tempfile.mkdtemp(prefix="pcscd-"))  # short: a socket path has 108 bytes at most
        self._socket = self._home / "run" / "pcscd.comm" if self.place is Place.PRIVATE else _FIXED_SOCKET
        self._process: subprocess.Popen[bytes] | None = None
        self.port = VPCD_PORT if self.place is Place.SHARED else _free_port_pair()
        for folder in ("run", "reader", "no-reader"):
            (self._home / folder).mkdir()
        conf = _READER_CONF.format(name=READER_NAME, port=self.port, driver=_DRIVER)
        (self._home / "reader" / "vpcd").write_text(conf)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def why_not(self) -> str | None:
        """Return why it cannot run on this machine, None when it can."""
        return self._why_not

    @property
    def restartable(self) -> bool:
        """Whether it is ours to kill, restart and unplug."""
        return self.place in (Place.PRIVATE, Place.FIXED)

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment to find it; libpcsclite looks once per process."""
        return {"PCSCLITE_CSOCK_NAME": str(self._socket)} if self.place is Place.PRIVATE else {}

    @property
    def running(self) -> bool:
        """Whether it takes connections."""
        return _answers(self._socket)

    def start(self, *, plugged: bool = True) -> None:
        """Start, with the reader or without; returns once clients can connect. Does nothing when shared."""
        if self._why_not is not None or self.place is None:
            raise RuntimeError(self._why_not)
        if self.place is Place.SHARED:
            return
        self.stop()
        config = self._home / ("reader" if plugged else "no-reader")
        self._process = subprocess.Popen(
            self._command_line(config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _START_S
        while not _answers(self._socket):
            if self._process.poll() is not None:
                raise RuntimeError(f"pcscd ended at its start with exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"pcscd took no connection within {_START_S:.0f} s")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it with SIGKILL: its clients see the connection break, its socket file stays behind."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it properly."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it with SIGSTOP: it takes connections, but answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def unplug(self) -> None:
        """Take the reader away. vpcd knows no hot-plug, so this restarts pcscd without it."""
        self.start(plugged=False)

    def plug(self) -> None:
        """Bring the reader back, by another restart."""
        self.start()

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def _command_line(self, config: Path) -> list[str]:
        if self.place is Place.FIXED:
            _FIXED_SOCKET.parent.mkdir(exist_ok=True)
            return ["setpriv", "--pdeathsig", "KILL", "pcscd", "--foreground", "--config", str(config)]
        return [*_namespace(), "sh", "-c", _ENTER, "sh", str(self._socket.parent), str(config)]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _choose_place() -> tuple[Place | None, str | None]:
    """Return the best place and None, or None and why there is none."""
    if shutil.which("pcscd", path=_path()) is None:
        return None, "pcscd is not installed (Debian: apt install pcscd)"
    if not _DRIVER.exists():
        return None, "pcscd has no driver for a virtual reader (Debian: apt install vsmartcard-vpcd)"
    if _can_have_namespace():
        return Place.PRIVATE, None
    return _place_outside()


def _place_outside() -> tuple[Place | None, str | None]:
    """Choose without a namespace: there is one socket on the machine, so at most one pcscd."""
    if _answers(_FIXED_SOCKET):
        if _listens(VPCD_PORT):
            return Place.SHARED, None
        return None, "a pcscd without a virtual reader runs here, and this user may not have a second one"
    if os.geteuid() == 0:
        return Place.FIXED, None
    return None, "no pcscd runs, and this user may neither make a mount namespace nor write to /run"


def _path() -> str:
    """Return PATH with the folders of system programs, which an ordinary user's may lack."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _namespace() -> list[str]:
    """Return the command that gives the command after it a mount namespace, and /usr/sbin on its PATH."""
    users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["env", f"PATH={_path()}", "unshare", "--mount", *users]


def _can_have_namespace() -> bool:
    trial = [*_namespace(), "mount", "-t", "tmpfs", "tmpfs", "/run"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        with suppress(OSError):
            client.connect(str(path))
            return True
    return False


def _listens(port: int) -> bool:
    """Tell from the kernel's table whether a port is listened on; connecting would be inserting a card."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A" for row in rows)


def _free_port_pair() -> int:
    """Return a free TCP port whose successor is free too: the reader's two slots take one each."""
    while True:
        with socket.socket() as first, socket.socket() as second, suppress(OSError, OverflowError):
            first.bind(("", 0))
            port: int = first.getsockname()[1]
            second.bind(("", port + 1))
            return port
