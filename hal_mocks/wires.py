"""Put Modbus peers on a real pty or TCP port of the loopback, and let a world pass in real time.

    async with serial_line("/run/rig/ttyMeters", [meter, board], baud=9600) as line:
        line.unplug(); line.replug()       # the path vanishes and comes back as another pty
        line.faults.silent = True          # for all devices on it; device.faults for one
        line.noise = Noise(seed=1, loss=0.01)
        line.inject(bytes(3))             # bytes nobody asked for
    async with tcp_port([meter]) as port:
        connect("127.0.0.1", port.number)
        await port.unplug(); await port.replug()   # the same number again
    passing = asyncio.create_task(run_world(world))   # cancel it at the end

Everything runs on the running event loop; nothing blocks and there are no threads. The parity and stop bits a
master sets mean nothing to a pty; `baud` only paces the bytes, both ways.
"""

import asyncio
import os
import random
import tty
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hal_mocks.modbus_rtu import Chunk, Device, Faults, Line, RtuSlaves, TcpSlaves
from hal_mocks.world import World

_BITS_PER_BYTE = 10  # 8N1: start, eight data bits, stop
_READ_BYTES = 4096


@dataclass
class Noise:
    """What a bad cable does to the bytes of both directions, as `seed` has it; probabilities from 0 to 1."""

    seed: int = 0
    loss: float = 0.0  # a byte vanishes
    flip: float = 0.0  # a bit of a byte turns over
    garbage: float = 0.0  # one to eight bytes come before a transmission

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def through(self, data: bytes) -> bytes:
        """Return what arrives."""
        chance = self._random.random
        arrived = bytearray()
        if chance() < self.garbage:
            arrived += self._random.randbytes(self._random.randint(1, 8))
        for byte in data:
            if chance() >= self.loss:
                arrived.append(byte ^ (1 << self._random.randrange(8)) if chance() < self.flip else byte)
        return bytes(arrived)


class _Paced:
    """Hands bytes on in order and in time; with a baud rate one by one, at the pace of a UART.

    `sink` is told when the line carried them: a late turn of the event loop is not a pause on the line.
    """

    def __init__(self, sink: Callable[[bytes, int], object], baud: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._byte_s = _BITS_PER_BYTE / baud if baud else 0.0
        self._free_s = 0.0  # when the line has carried all it was given
        self._timers: set[asyncio.TimerHandle] = set()

    def put(self, data: bytes, after_ms: int = 0) -> None:
        start_s = max(self._loop.time() + after_ms / 1000, self._free_s)
        if not self._byte_s:
            self._at(start_s, data)
            return
        for place in range(len(data)):
            start_s += self._byte_s
            self._at(start_s, data[place : place + 1])

    def cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._free_s = 0.0

    def _at(self, when_s: float, data: bytes) -> None:
        if when_s <= self._loop.time() and not self._timers:
            self._sink(data, int(when_s * 1000))
            return

        def due() -> None:
            self._timers.discard(timer)
            self._sink(data, int(when_s * 1000))

        # Timers of the same instant have no order of their own: one microsecond gives them one.
        self._free_s = max(when_s, self._free_s + 1e-6)
        timer = self._loop.call_at(self._free_s, due)
        self._timers.add(timer)


def _now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)


class SerialLine:
    """Devices behind a pty whose slave end stands at `path`; made by `serial_line`."""

    def __init__(self, path: Path, devices: Sequence[Device], baud: int | None, noise: Noise | None) -> None:
        self.path = path
        self.line = Line(devices)
        self.noise = noise
        self._slaves = RtuSlaves(self.line)
        self._in = _Paced(self._hear, baud)
        self._out = _Paced(self._send, baud)
        self._master: int | None = None
        self._slave = -1

    @property
    def faults(self) -> Faults:
        """What goes wrong for all devices of the line."""
        return self.line.faults

    def replug(self) -> None:
        """Plug the adapter in: a new pty at the same path. Raises FileExistsError when a file is there."""
        if self._master is not None:
            raise ValueError(f"{self.path} is plugged in already")
        if self.path.is_symlink():
            self.path.unlink()
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        try:
            self.path.symlink_to(os.ttyname(slave))
        except OSError:
            os.close(master)
            os.close(slave)
            raise
        # Our own hold on the slave end keeps the line alive while no master has it open.
        self._master, self._slave = master, slave
        asyncio.get_running_loop().add_reader(master, self._readable)

    def unplug(self) -> None:
        """Pull the adapter: whoever has it open gets an end of file or an error, the path is gone."""
        if self._master is None:
            return
        asyncio.get_running_loop().remove_reader(self._master)
        self._in.cancel()
        self._out.cancel()
        os.close(self._master)
        os.close(self._slave)
        self._master = None
        self.path.unlink(missing_ok=True)

    def inject(self, data: bytes) -> None:
        """Send bytes nobody asked for."""
        self._out.put(data)

    def _readable(self) -> None:
        if self._master is None:
            return
        with suppress(BlockingIOError):
            data = os.read(self._master, _READ_BYTES)
            self._in.put(self.noise.through(data) if self.noise else data)

    def _hear(self, data: bytes, at_ms: int) -> None:
        _emit(self._slaves.feed(data, at_ms), at_ms, self.noise, self._out)

    def _send(self, data: bytes, _at_ms: int) -> None:
        if self._master is not None:
            with suppress(BlockingIOError):  # a master that does not read loses bytes, as with a UART
                os.write(self._master, data)


def _emit(chunks: list[Chunk], at_ms: int, noise: Noise | None, out: _Paced) -> None:
    for chunk in chunks:
        out.put(noise.through(chunk.data) if noise else chunk.data, chunk.at_ms - at_ms)


@asynccontextmanager
async def serial_line(
    path: str | Path, devices: Sequence[Device], *, baud: int | None = None, noise: Noise | None = None
) -> AsyncIterator[SerialLine]:
    """Put the devices on a pty at `path` until the block ends. `baud` None carries bytes at once."""
    line = SerialLine(Path(path), devices, baud, noise)
    line.replug()
    try:
        yield line
    finally:
        line.unplug()


class _Connection(asyncio.Protocol):
    """One master that is connected to a `TcpPort`."""

    def __init__(self, port: "TcpPort") -> None:
        self._port = port
        self.lost = asyncio.Event()
        self._slaves = TcpSlaves(port.line)
        self._transport: asyncio.Transport | None = None
        self._out = _Paced(self._send, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # what a TCP server gives
        self._port.connections.add(self)
        if not self._port.plugged:  # it was accepted while the port was being closed
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._out.cancel()
        self._transport = None
        self._port.connections.discard(self)
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        at_ms, noise = _now_ms(), self._port.noise
        heard = noise.through(data) if noise else data
        _emit(self._slaves.feed(heard, at_ms), at_ms, noise, self._out)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self, data: bytes, _at_ms: int) -> None:
        if self._transport is not None:
            self._transport.write(data)


class TcpPort:
    """Devices behind a TCP port of the loopback; made by `tcp_port`. `number` stays the same."""

    def __init__(self, devices: Sequence[Device], number: int, noise: Noise | None) -> None:
        self.number = number
        self.line = Line(devices)
        self.noise = noise
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def faults(self) -> Faults:
        """What goes wrong for all devices behind the port."""
        return self.line.faults

    @property
    def plugged(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def replug(self) -> None:
        """Listen."""
        if self._server is not None:
            raise ValueError(f"port {self.number} is plugged in already")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.number)
        self.number = self._server.sockets[0].getsockname()[1]

    async def unplug(self) -> None:
        """Stop listening and break every connection."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for connection in list(self.connections):
            connection.abort()
            await connection.lost.wait()
        await server.wait_closed()


@asynccontextmanager
async def tcp_port(
    devices: Sequence[Device], *, number: int = 0, noise: Noise | None = None
) -> AsyncIterator[TcpPort]:
    """Put the devices on a TCP port until the block ends; `number` 0 takes a free one."""
    port = TcpPort(devices, number, noise)
    await port.replug()
    try:
        yield port
    finally:
        await port.unplug()


async def run_world(world: World, *, period_ms: int = 50) -> None:
    """Let the world's time pass as real time does, from where it stands, until cancelled."""
    loop = asyncio.get_running_loop()
    start_ms = world.now_ms - int(loop.time() * 1000)
    while True:
        world.advance(max(world.now_ms, start_ms + int(loop.time() * 1000)))
        await asyncio.sleep(period_ms / 1000)
