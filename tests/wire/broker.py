"""Fixtures and wires around a real mosquitto."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from hal_mocks.backend import Backend
from hal_mocks.broker import HOST, Broker, why_not


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if reason := why_not():
        pytest.skip(reason)
    broker = Broker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def backend(broker: Broker) -> Iterator[Backend]:
    backend = Backend(broker.host, broker.port)
    backend.start()
    assert backend.ready.wait(10)
    yield backend
    backend.stop()


class Line:
    """A TCP line to a port on this machine that can be cut without a goodbye."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.answers = asyncio.Event()  # while cleared, nothing comes back from the far end
        self.answers.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break every connection at once, as a reset does; new ones may come."""
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[Line]:
    """Listen on a free port and pass everything on to `port`."""
    line = Line()

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event | None = None
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if gate is not None:
                    await gate.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, port)
        except OSError:
            writer.transport.abort()
            return
        line.connections += 1
        ends = {writer, far_writer}
        line._writers |= ends
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer, line.answers))
        line._writers -= ends

    server = await asyncio.start_server(accept, HOST, 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        line.answers.set()
        line.cut()
        await server.wait_closed()


# Retained, and always there: when it comes, the subscription stands.
_VERSION = "$SYS/broker/version"


class Subscriber:
    """`mosquitto_sub`, a client that shares nothing with ours. Lines are "RETAINED TOPIC PAYLOAD"."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line_with(self, text: str, timeout_s: float = 10.0) -> str:
        """The next line that holds this text."""
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            while line := (await self._process.stdout.readline()).decode():
                if text in line:
                    return line.rstrip("\n")
        raise AssertionError(f"mosquitto_sub ended before {text!r} came")


@asynccontextmanager
async def subscriber(broker: Broker, topic: str) -> AsyncIterator[Subscriber]:
    """Run `mosquitto_sub` on a topic filter, from when it is subscribed."""
    process = await asyncio.create_subprocess_exec(
        *("mosquitto_sub", "-V", "mqttv5", "-h", broker.host, "-p", str(broker.port)),
        *("-q", "1", "-t", _VERSION, "-t", topic, "-F", "%r %t %p"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        seen = Subscriber(process)
        await seen.line_with(_VERSION)
        yield seen
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def publish(broker: Broker, topic: str, payload: bytes, *options: str) -> None:
    """Run `mosquitto_pub` once with this payload, QoS 1."""
    process = await asyncio.create_subprocess_exec(
        *("mosquitto_pub", "-V", "mqttv5", "-h", broker.host, "-p", str(broker.port)),
        *("-q", "1", "-t", topic, "-s" if payload else "-n", *options),
        stdin=asyncio.subprocess.PIPE,
    )
    await process.communicate(payload)
    assert process.returncode == 0
