"""A serial line for tests: ptys whose far end is a scripted device or a program of its own.

The checksum is computed bit by bit from the standard (MODBUS over Serial Line V1.02, 6.2.2), so that it
shares nothing with the library under test.
"""

import asyncio
import contextlib
import os
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def with_crc(body: bytes) -> bytes:
    """The frame: body and CRC, low byte first."""
    crc = 0xFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return body + crc.to_bytes(2, "little")


def registers_answer(unit: int, function: int, values: list[int]) -> bytes:
    """The RTU answer to a read."""
    data = b"".join(value.to_bytes(2, "big") for value in values)
    return with_crc(bytes([unit, function, len(data)]) + data)


class Pty:
    """A pty; `name` is where the other program opens it. Its own end stays open, as a wire does."""

    def __init__(self) -> None:
        self.wire, self._keep = os.openpty()
        tty.setraw(self._keep)
        os.set_blocking(self.wire, False)
        self.name = os.ttyname(self._keep)
        self._loop: asyncio.AbstractEventLoop | None = None

    def on_bytes(self, take: Callable[[bytes], None]) -> None:
        """Call `take` with whatever comes, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.wire, self._take, take)

    def send(self, data: bytes) -> None:
        os.write(self.wire, data)

    def close(self) -> None:
        """Pull the plug: the program that has it open gets an error."""
        if self.wire < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self.wire)
        os.close(self.wire)
        os.close(self._keep)
        self.wire = -1

    def _take(self, take: Callable[[bytes], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            take(os.read(self.wire, 4096))


class Device:
    """The far end of a line at `port`: each request is noted and given to `answer`, which may send or not."""

    def __init__(self, port: Path) -> None:
        self.port = port
        self.requests: list[bytes] = []
        self.answer: Callable[[bytes], None] = lambda _request: None
        self.asked = asyncio.Event()
        self._pending = b""
        self.plug_in()

    def plug_in(self) -> None:
        self.pty = Pty()
        self.port.symlink_to(self.pty.name)
        self.pty.on_bytes(self._hear)

    def unplug(self) -> None:
        self.port.unlink(missing_ok=True)
        self.pty.close()

    def send(self, data: bytes) -> None:
        self.pty.send(data)

    def send_later(self, seconds: float, data: bytes) -> None:
        asyncio.get_running_loop().call_later(seconds, self.send, data)

    def _hear(self, data: bytes) -> None:
        """Take the requests apart; they are functions 3, 4 and 6 of 8 bytes, or 16 with a byte count."""
        self._pending += data
        while len(self._pending) >= 8:
            size = 9 + self._pending[6] if self._pending[1] == 16 else 8
            if len(self._pending) < size:
                return
            request, self._pending = self._pending[:size], self._pending[size:]
            assert with_crc(request[:-2]) == request
            self.requests.append(request[:-2])
            self.asked.set()
            self.answer(request[:-2])


@contextmanager
def device(port: Path) -> Iterator[Device]:
    far_end = Device(port)
    try:
        yield far_end
    finally:
        far_end.unplug()


@contextmanager
def relay() -> Iterator[tuple[Pty, Pty]]:
    """Two ptys with their far ends joined: for two programs that each want a port of their own."""
    near, far = Pty(), Pty()
    near.on_bytes(far.send)
    far.on_bytes(near.send)
    try:
        yield near, far
    finally:
        near.close()
        far.close()
