"""The one local API: a JSON object per line over a Unix stream socket, for `edge status` and the console.

`{"ask": "status"}` gets one line back. A request nobody understands gets `{"error": sentence}`; a caller who
is not served at all gets `{"error": sentence, "refused": true}` and the connection closed. Who may ask is
decided by the kernel's word on who called (SO_PEERCRED and SO_PEERGROUPS, unix(7)), before any request is
looked at: root, the daemon's own user, or a member of the allowed group.
"""

import errno
import grp
import os
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.errors import DeviceError, DeviceTimeout, EdgeError, PeerError

if TYPE_CHECKING:  # `edge status` needs only `ask`; asyncio is the larger half of its start-up time
    import asyncio

Request = dict[str, object]
Answer = Callable[[Request], Awaitable[object]]
"""Answers one request with what msgspec can write as JSON; the text of an `EdgeError` is an answer too."""

LINE_BYTES = 64 * 1024
"""The longest request; the longest today has 40 bytes."""

ANSWER_BYTES = 1024 * 1024
"""The longest answer a client takes: a station's status is a few KiB."""

CONNECTIONS = 16
"""At a time: a page, a console and some tools, and never the daemon's last file descriptor."""

IDLE_S = 60.0
"""How long a connection may ask nothing, or leave an answer unread."""

_SO_PEERGROUPS = 59
"""asm-generic/socket.h; the socket module does not name it."""

_PEER_GROUPS_BYTES = 1024
"""What socket.getsockopt gives at most: 256 groups. A caller in more is judged by his primary group alone."""


class LocalApi:
    """Serves `path` while `run` runs. `refused` hears a sentence about every caller who was turned away."""

    def __init__(
        self,
        path: Path,
        answer: Answer,
        allowed_group: str | None = None,
        refused: Callable[[str], None] = lambda _sentence: None,
        *,
        idle_s: float = IDLE_S,
    ) -> None:
        self._path = path
        self._answer = answer
        self._group = _gid(allowed_group)
        self._refused = refused
        self._idle_s = idle_s
        self._open = 0

    async def run(self) -> None:
        """Serve until cancelled. Raises `DeviceError` without a socket; a bug in `answer` gets out too."""
        import asyncio

        listener = _listen(self._path, self._group)
        try:
            async with asyncio.TaskGroup() as group:

                def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                    if closing:
                        writer.transport.abort()
                    else:
                        group.create_task(self._serve(reader, writer), name="local api caller")

                closing = False
                server = await asyncio.start_unix_server(
                    accept, sock=listener, limit=LINE_BYTES, backlog=CONNECTIONS
                )
                try:
                    await asyncio.get_running_loop().create_future()  # until cancelled
                finally:
                    closing = True
                    server.close()
        finally:
            listener.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: "asyncio.StreamReader", writer: "asyncio.StreamWriter") -> None:
        """One caller from hello to goodbye."""
        writer.transport.set_write_buffer_limits(high=0)  # drain() is then over when all is sent
        self._open += 1
        try:
            if (reason := self._why_not(writer)) is not None:
                self._refused(reason)
                await self._say(writer, {"error": reason, "refused": True})
            else:
                await self._converse(reader, writer)
        except (ConnectionError, TimeoutError):
            return  # he left, or fell asleep
        finally:
            self._open -= 1
            writer.transport.abort()  # all is sent; close() would wait for ever for one who does not read

    def _why_not(self, writer: "asyncio.StreamWriter") -> str | None:
        peer = writer.get_extra_info("socket")
        pid, uid, gid = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if not _may_ask(uid, {gid, *_supplementary(peer)}, self._group):
            return f"user {uid} (process {pid}) may not ask this station; root and its group may"
        if self._open > CONNECTIONS:
            return f"{CONNECTIONS} connections are open already; close one and ask again"
        return None

    async def _converse(self, reader: "asyncio.StreamReader", writer: "asyncio.StreamWriter") -> None:
        import asyncio

        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                await self._say(
                    writer, {"error": f"a request has {LINE_BYTES} bytes at most", "refused": True}
                )
                return
            await self._say(writer, await self._answer_to(line))

    async def _answer_to(self, line: bytes) -> object:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.DecodeError, RecursionError) as error:
            return {"error": f'a request is one JSON object, for example {{"ask": "status"}}: {error}'}
        try:
            return await self._answer(request)
        except EdgeError as error:
            return {"error": str(error)}

    async def _say(self, writer: "asyncio.StreamWriter", answer: object) -> None:
        import asyncio

        writer.write(msgspec.json.encode(answer) + b"\n")
        async with asyncio.timeout(self._idle_s):
            await writer.drain()


def ask(path: Path, request: Request, timeout_s: float) -> Request:
    """Ask the daemon behind `path` once and return its answer, an `error` in it included.

    Raises `DeviceError` when there is no daemon or it does not serve us, `DeviceTimeout` when it is silent
    and `PeerError` when its answer cannot be read.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            line = _exchange(sock, msgspec.json.encode(request) + b"\n", deadline)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise DeviceError(f"no daemon answers at {path}; is it running? (systemctl status edge)") from error
    except PermissionError as error:
        raise DeviceError(f"{path}: this user may not ask; be root or a member of its group") from error
    except (TimeoutError, BlockingIOError) as error:
        raise DeviceTimeout(f"the daemon at {path} did not answer within {timeout_s:g} s") from error
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror or error}") from error
    try:
        answer = msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError(f"what answers at {path} is no daemon of ours: {error}") from error
    if answer.get("refused") is True:
        raise DeviceError(f"the daemon at {path} refuses: {answer.get('error')}")
    return answer


def _exchange(sock: socket.socket, request: bytes, deadline: float) -> bytes:
    """Send the request and read one line."""
    with suppress(BrokenPipeError, ConnectionResetError):  # it closed at once, and may have said why
        sock.sendall(request)
    answer = bytearray()
    while b"\n" not in answer:
        if (left_s := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        sock.settimeout(left_s)
        try:
            piece = sock.recv(LINE_BYTES)
        except ConnectionResetError:  # closed before it had read our request
            piece = b""
        if not piece or len(answer) + len(piece) > ANSWER_BYTES:
            raise PeerError("the daemon closed the connection, or talks without end, instead of answering")
        answer += piece
    return bytes(answer).partition(b"\n")[0]


def _listen(path: Path, group: int | None) -> socket.socket:
    """Bind with mode 0660, in the place of a dead daemon's socket but never of a living one's."""
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(0o660)  # before listen(): until then nobody can connect
    except OSError as error:
        listener.close()
        raise DeviceError(f"cannot serve {path}: {error.strerror or error}") from error
    listener.settimeout(0)
    return listener


def _clear(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except OSError:
        return  # nothing there; whatever else is wrong, bind() will say
    if not stat.S_ISSOCK(kind):
        raise DeviceError(f"{path} is not a socket; move it away, the daemon wants to listen there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(str(path))
    if code in (0, errno.EAGAIN):  # EAGAIN: so busy that callers queue up
        raise DeviceError(f"another daemon serves {path}; stop it first")
    if code != errno.ECONNREFUSED:
        raise DeviceError(f"cannot tell who serves {path}: {os.strerror(code)}")
    path.unlink(missing_ok=True)


def _gid(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise DeviceError(f"there is no group {group!r} on this machine; create it or name another") from None


def _may_ask(uid: int, groups: set[int], allowed: int | None) -> bool:
    return uid in (0, os.geteuid()) or allowed in groups


def _supplementary(peer: socket.socket) -> tuple[int, ...]:
    try:
        raw = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PEER_GROUPS_BYTES)
    except OSError:  # more groups than fit, or a kernel before 4.13
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)
