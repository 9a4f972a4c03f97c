"""The local API on real Unix sockets, asked by real clients, honest and not."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.errors import DeviceError, DeviceTimeout, JournalError, PeerError
from edge.local_api import CONNECTIONS, LINE_BYTES, LocalApi, Request, ask

pytestmark = pytest.mark.wire

STRANGER = 65534
"""nobody: a user and a group that own nothing."""

CLIENT = """
import json, os, socket, sys
path, uid, gid, groups = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(path)
try:
    s.sendall(b'{"ask": "status"}\\n')
except OSError:
    pass
answer = b""
try:
    while piece := s.recv(4096):
        answer += piece
        if b"\\n" in answer: break
except ConnectionResetError:
    pass
print(answer.decode())
"""
"""A caller who shares nothing with us but the path. It becomes somebody else first."""


async def station(request: Request) -> object:
    match request:
        case {"ask": "status"}:
            return {"station": "S1", "connectors": [1, 2]}
        case {"ask": "disk"}:
            raise JournalError("the disk is full")
        case {"ask": "sleep"}:
            await asyncio.Event().wait()
        case _:
            pass
    return {"error": "unknown request"}


def served(
    path: Path,
    story: Callable[[], Awaitable[None]],
    *,
    group: str | None = None,
    refused: Callable[[str], None] = lambda _: None,
    idle_s: float = 60,
) -> None:
    """Run `story` while the API serves `path`; it must still serve at the end, and leave no socket behind."""

    async def both() -> None:
        api = asyncio.create_task(LocalApi(path, station, group, refused, idle_s=idle_s).run())
        await until(lambda: path.exists() or api.done())
        await story()
        assert (await say(path, b'{"ask":"status"}\n'))["station"] == "S1"
        api.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await api

    asyncio.run(asyncio.wait_for(both(), 60))
    assert not path.exists()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something outside it is so; the time limit stands around the whole test."""
    while not condition():
        await asyncio.sleep(0)


async def say(path: Path, data: bytes) -> dict[str, object]:
    """Send one request over a connection of its own and read the line that comes back."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    answer: dict[str, object] = json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return answer


async def in_thread(call: Callable[[], Request]) -> Request:
    """Let a call that blocks do so beside the loop."""
    return await asyncio.to_thread(call)


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "edge.sock"  # short: a socket path has 107 bytes at most


def test_a_question_gets_one_line_and_the_connection_stays_for_the_next(path: Path) -> None:
    async def story() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"ask":"status"}\n{"ask":"weather"}\n')
        assert json.loads(await reader.readline()) == {"station": "S1", "connectors": [1, 2]}
        assert json.loads(await reader.readline()) == {"error": "unknown request"}
        writer.write(b'{"ask":"disk"}\n')
        assert json.loads(await reader.readline()) == {"error": "the disk is full"}
        writer.close()
        await writer.wait_closed()

    served(path, story)


def test_the_client_asks_and_gets_a_dictionary(path: Path) -> None:
    async def story() -> None:
        assert (await in_thread(lambda: ask(path, {"ask": "status"}, 5)))["connectors"] == [1, 2]
        assert "error" in await in_thread(lambda: ask(path, {"ask": "weather"}, 5))

    served(path, story)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunks=st.lists(
        st.binary(max_size=200)
        | st.sampled_from([b"\n", b"{}\n", b"[]\n", b"null\n", b'{"ask":', b'{"ask":1e999}\n', b"\xff\n"])
    )
)
def test_any_bytes_give_answer_lines_or_a_closed_connection_and_the_server_lives(
    path: Path, chunks: list[bytes]
) -> None:
    async def story() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        data = b"".join(chunks)
        writer.write(data)
        writer.write_eof()
        answers = (await reader.read()).splitlines()
        assert len(answers) == data.count(b"\n")
        assert all(isinstance(json.loads(answer), dict) for answer in answers)
        writer.close()
        await writer.wait_closed()

    served(path, story)


@pytest.mark.parametrize(
    "data",
    [b"[" * (LINE_BYTES - 2) + b"\n", b'{"a":' * 10_000 + b"\n", b'{"ask":' + b"9" * 60_000 + b"}\n"],
    ids=["deep list", "deep object", "huge number"],
)
def test_a_request_that_is_hard_to_read_gets_an_error_and_the_next_one_is_served(
    path: Path, data: bytes
) -> None:
    async def story() -> None:
        assert "error" in await say(path, data)

    served(path, story)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(path: Path) -> None:
    async def story() -> None:
        with pytest.raises(DeviceError, match="65536 bytes at most"):
            await in_thread(lambda: ask(path, {"ask": "x" * 300_000}, 10))

    served(path, story)


def test_the_seventeenth_connection_is_told_to_come_back(path: Path) -> None:
    turned_away: list[str] = []

    async def story() -> None:
        callers = []
        for _ in range(CONNECTIONS):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b'{"ask":"status"}\n')
            await reader.readline()
            callers.append(writer)
        with pytest.raises(DeviceError, match="16 connections are open"):
            await in_thread(lambda: ask(path, {"ask": "status"}, 5))
        for writer in callers:
            writer.close()
            await writer.wait_closed()
        while "refused" in await say(path, b'{"ask":"status"}\n'):
            pass  # the server hears of a closed connection when its loop gets there

    served(path, story, refused=turned_away.append)
    assert turned_away


def test_a_caller_who_says_nothing_is_hung_up_on(path: Path) -> None:
    async def story() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    served(path, story, idle_s=0.05)


def test_a_caller_who_never_reads_is_hung_up_on_and_does_not_hold_up_the_end(path: Path) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.setblocking(False)
            await loop.sock_connect(caller, str(path))
            with pytest.raises((BrokenPipeError, ConnectionResetError)):  # it hangs up in the end
                await loop.sock_sendall(caller, b'{"ask":"status"}\n' * 1_000_000)

    served(path, story, idle_s=0.2)


def test_a_caller_in_the_middle_of_a_question_does_not_hold_up_the_end(path: Path) -> None:
    async def story() -> None:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"ask":"sleep"}\n')
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    served(path, story)


def test_a_bug_in_the_answer_ends_the_server_instead_of_being_swallowed(path: Path) -> None:
    async def broken(_: Request) -> object:
        raise ZeroDivisionError

    async def both() -> None:
        api = asyncio.create_task(LocalApi(path, broken).run())
        await until(path.exists)
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b"{}\n")
        with pytest.raises(ExceptionGroup) as bug:
            await api
        assert bug.group_contains(ZeroDivisionError)
        writer.close()

    asyncio.run(asyncio.wait_for(both(), 30))


def call_as(path: Path, uid: int, gid: int, groups: list[int]) -> Callable[[], Request]:
    """Ask from another process under another identity; an unreadable answer is an empty dictionary."""

    def call() -> Request:
        command = [sys.executable, "-I", "-c", CLIENT, str(path), str(uid), str(gid), json.dumps(groups)]
        out = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
        return dict(json.loads(out)) if out.strip() else {}

    return call


def open_to_everybody(path: Path) -> None:
    """Take the file mode out of the way, so that the credentials alone decide."""
    path.chmod(0o666)
    for folder in path.parents:
        if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode | 0o011)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize(
    ("gid", "groups", "allowed"),
    [(STRANGER, [], False), (1, [], True), (STRANGER, [1], True), (STRANGER, [2], False)],
    ids=["a stranger", "by his primary group", "by a supplementary group", "in another group"],
)
def test_a_user_other_than_ours_is_served_only_as_a_member_of_the_group(
    path: Path, gid: int, groups: list[int], *, allowed: bool
) -> None:
    turned_away: list[str] = []

    async def story() -> None:
        open_to_everybody(path)
        answer = await in_thread(call_as(path, STRANGER, gid, groups))
        assert ("station" in answer) is allowed
        assert (answer.get("refused") is True) is not allowed

    served(path, story, group="daemon", refused=turned_away.append)
    assert bool(turned_away) is not allowed
    if turned_away:
        assert f"user {STRANGER}" in turned_away[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_without_a_group_only_root_and_our_own_user_are_served(path: Path) -> None:
    async def story() -> None:
        open_to_everybody(path)
        assert (await in_thread(call_as(path, STRANGER, 0, [0]))).get("refused") is True
        assert "station" in await in_thread(call_as(path, 0, 0, []))

    served(path, story)


def test_the_socket_file_is_for_owner_and_group_only(path: Path) -> None:
    served(path, lambda: same(lambda: path.stat().st_mode & 0o7777, 0o660))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file to a foreign group")
def test_the_socket_file_belongs_to_the_allowed_group(path: Path) -> None:
    served(path, lambda: same(lambda: path.stat().st_gid, 1), group="daemon")


async def same(look: Callable[[], int], expected: int) -> None:
    assert look() == expected


def test_the_socket_of_a_dead_daemon_is_replaced(path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()

    async def story() -> None:
        while "station" not in await until_connected(path):
            pass

    served(path, story)


async def until_connected(path: Path) -> dict[str, object]:
    """The dead socket is there from the start, so its file says nothing about when the new one listens."""
    try:
        return await say(path, b'{"ask":"status"}\n')
    except (ConnectionRefusedError, FileNotFoundError):
        await asyncio.sleep(0)
        return {}


def test_the_socket_of_a_living_daemon_is_left_alone(path: Path) -> None:
    async def story() -> None:
        with pytest.raises(DeviceError, match="another daemon serves"):
            await LocalApi(path, station).run()

    served(path, story)


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("somebody's work")
    with pytest.raises(DeviceError, match="not a socket"):
        asyncio.run(LocalApi(path, station).run())
    assert path.read_text() == "somebody's work"


def test_a_group_that_does_not_exist_is_named(path: Path) -> None:
    with pytest.raises(DeviceError, match="no group 'chargers'"):
        LocalApi(path, station, "chargers")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot serve .*No such file"):
        asyncio.run(LocalApi(tmp_path / "none" / "edge.sock", station).run())


def test_the_client_says_in_a_sentence_that_there_is_no_daemon(path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no daemon answers at .* is it running"):
        ask(path, {"ask": "status"}, 1)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with pytest.raises(DeviceError, match="no daemon answers at"):
        ask(path, {"ask": "status"}, 1)


def test_the_client_gives_up_on_a_daemon_that_is_silent(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(DeviceTimeout, match=r"did not answer within 0\.05 s"):
            ask(path, {"ask": "status"}, 0.05)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answer=st.binary(max_size=100) | st.sampled_from([b"\n", b"[]\n", b"{}", b"{\n", b"[" * 50_000 + b"\n"])
)
def test_any_answer_gives_a_dictionary_or_a_device_error(path: Path, answer: bytes) -> None:
    async def both() -> None:
        async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_unix_server(nonsense, path)
        with contextlib.suppress(PeerError):
            assert isinstance(await in_thread(lambda: ask(path, {"ask": "status"}, 5)), dict)
        server.close()

    asyncio.run(both())
    path.unlink(missing_ok=True)


def test_asking_does_not_load_asyncio() -> None:
    code = "import sys, edge.local_api; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
