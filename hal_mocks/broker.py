"""A private mosquitto: free loopback port, own directory; started, stopped, killed and restarted at will.

Persistence is on, but mosquitto saves only at a clean stop and every 30 minutes: a kill loses what it has
acknowledged since, as a power cut at the operator's would.
"""

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
_START_S = 10.0
_STOP_S = 10.0
# Debian puts daemons where the PATH of an ordinary user does not look.
_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin")


DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
"""Words before a program that the kernel shall kill when the rig is killed (util-linux): a daemon left behind
would go on reading what others have put in the place of the rig's lines."""


class BrokerFailed(Exception):
    """Mosquitto did not start; the text has the end of its log."""


def _program() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=":".join(_DIRECTORIES))


def why_not() -> str | None:
    """Why no broker can run here, None if one can."""
    return None if _program() else "mosquitto is not installed (Debian package: mosquitto)"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Tls:
    """PEM files. Clients are asked for a certificate of the same CA."""

    ca: Path
    cert: Path
    key: Path


class Broker:
    """One mosquitto. `acl` is the text of an ACL file, mosquitto.conf(5); without it everyone may do all."""

    def __init__(
        self, directory: Path, *, port: int | None = None, acl: str | None = None, tls: Tls | None = None
    ) -> None:
        self.host = HOST
        self.port = _free_port() if port is None else port
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listener {self.port} {HOST}",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {directory}/",
            f"log_dest file {self.log}",
            "log_type all",
            "user root",  # as root it would change to a user who may not write here; else it has no effect
        ]
        if acl is not None:
            (directory / "acl").write_text(acl)
            lines.append(f"acl_file {directory / 'acl'}")
        if tls is not None:
            lines += [
                f"cafile {tls.ca}",
                f"certfile {tls.cert}",
                f"keyfile {tls.key}",
                "require_certificate true",
            ]
        self._config = directory / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n")

    @property
    def log(self) -> Path:
        """Its log file."""
        return self._directory / "mosquitto.log"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it takes connections. Raises `BrokerFailed`."""
        program = _program()
        if program is None:
            raise BrokerFailed(str(why_not()))
        self._process = subprocess.Popen(
            [*DIES_WITH_US, program, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_S
        while not self._listens():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                log = self.log.read_text(errors="replace")[-500:] if self.log.exists() else "no log"
                raise BrokerFailed(f"mosquitto did not start on port {self.port}: {log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it cleanly; what it holds is saved."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it with SIGKILL; what it has not saved is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)

    def restart(self) -> None:
        """Stop cleanly and start again on the same port."""
        self.stop()
        self.start()

    def _listens(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True
