"""What systemd would receive, on a real datagram socket."""

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import notify

pytestmark = pytest.mark.wire


class Manager:
    """The service manager's end: a bound datagram socket that learns who sent, as systemd's does."""

    def __init__(self, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.settimeout(5)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def receive(self) -> tuple[list[str], int]:
        data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
        pid: int = struct.unpack("iII", ancillary[0][2])[0]
        return data.decode().split("\n"), pid

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = tmp_path / "notify"
    manager = Manager(str(name) if request.param == "path" else f"@edge-test-{os.getpid()}")
    yield manager
    manager.close()


def test_all_assignments_arrive_in_one_datagram_from_this_very_process(manager: Manager) -> None:
    assert notify.send("READY=1", "STATUS=serving 2 connectors", environ=manager.environ)
    assert manager.receive() == (["READY=1", "STATUS=serving 2 connectors"], os.getpid())


def test_each_call_is_a_datagram_of_its_own(manager: Manager) -> None:
    for word in ("READY=1", "WATCHDOG=1", "STOPPING=1"):
        assert notify.send(word, environ=manager.environ)
    assert [manager.receive()[0] for _ in range(3)] == [["READY=1"], ["WATCHDOG=1"], ["STOPPING=1"]]


def test_a_line_break_in_a_status_forges_no_assignment(manager: Manager) -> None:
    notify.send("STATUS=fine\nMAINPID=1", environ=manager.environ)
    assert manager.receive()[0] == ["STATUS=fine MAINPID=1"]


def test_it_says_the_same_as_systemd_notify(manager: Manager) -> None:
    if (tool := shutil.which("systemd-notify")) is None:
        pytest.skip("systemd-notify is not installed")
    subprocess.run(
        [tool, "--no-block", "--ready", "--status=serving"], env=manager.environ, check=True, timeout=10
    )
    theirs, _ = manager.receive()
    notify.send("READY=1", "STATUS=serving", environ=manager.environ)
    ours, _ = manager.receive()
    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path", "@nobody-listens-here"])
def test_without_a_manager_who_listens_nothing_happens(address: str) -> None:
    assert not notify.send("READY=1", environ={"NOTIFY_SOCKET": address})
    assert not notify.send("READY=1", environ={})


def test_a_manager_who_does_not_read_never_makes_the_loop_wait(manager: Manager) -> None:
    sent = 0
    while notify.send("WATCHDOG=1", environ=manager.environ):
        sent += 1
        assert sent < 100_000
    assert sent > 0
    manager.receive()
    assert notify.send("WATCHDOG=1", environ=manager.environ)
