"""Serial lines in memory: Modbus devices behind `virtual://NAME`, for a daemon on a simulated loop.

    lines = {"meters": MemoryLine(agenda, advance, answered, devices)}
    open_lines(loop, lines)            # SerialLink(port="virtual://meters") now reaches the devices
    lines["meters"].unplug(); lines["meters"].replug()
    lines["meters"].noise = Noise(seed=1, loss=0.01)

The same models that answer on a pty answer here. Bytes need the time a UART would take for them; a message
arrives when its last byte does.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import serial

from hal_mocks.agenda import Agenda, Entry
from hal_mocks.modbus_rtu import Device, Faults, Line, RtuSlaves
from hal_mocks.wires import Noise

if TYPE_CHECKING:
    from hal_mocks.virtual_time import VirtualTimeLoop

SCHEME = "virtual://"

_BITS_PER_BYTE = 10  # 8N1: start, eight data bits, stop

_LINES: "dict[asyncio.AbstractEventLoop, dict[str, MemoryLine]]" = {}


class MemoryLine:
    """Devices on a serial line in memory; the faults are those of `wires.SerialLine`."""

    def __init__(
        self,
        agenda: Agenda,
        advance: Callable[[], object],
        answered: Callable[[], object],
        devices: Sequence[Device],
        *,
        baud: int = 9600,
    ) -> None:
        """`advance` brings the devices to the present before they hear something; `answered` comes after."""
        self.line = Line(devices)
        self.noise: Noise | None = None
        self.plugged = True
        self._agenda = agenda
        self._advance = advance
        self._answered = answered
        self._byte_us = _BITS_PER_BYTE * 1_000_000 // baud
        self._slaves = RtuSlaves(self.line)
        self._port: Serial | None = None
        self._under_way: list[Entry] = []
        self._out_free_us = 0

    @property
    def faults(self) -> Faults:
        """What goes wrong for all devices of the line."""
        return self.line.faults

    def replug(self) -> None:
        """Plug the adapter in again; whoever had it open has to open it anew."""
        self.plugged = True

    def unplug(self) -> None:
        """Pull the adapter: the path is gone, and who has it open gets an error."""
        self.plugged = False
        self.hang_up()

    def hang_up(self) -> None:
        """Break with whoever has the port open; nothing under way arrives."""
        for entry in self._under_way:
            entry.cancel()
        self._under_way.clear()
        port, self._port = self._port, None
        if port is not None:
            port.break_off()

    def inject(self, data: bytes) -> None:
        """Send bytes nobody asked for."""
        self._send(data, self._agenda.now_us)

    def open(self, port: "Serial") -> None:
        """Take a port that was opened. Raises `SerialException` where the line is unplugged or taken."""
        if not self.plugged:
            raise serial.SerialException(2, "could not open port: no such device")
        if self._port is not None:
            raise serial.SerialException(11, "could not exclusively lock port")
        self._port = port

    def close(self, port: "Serial") -> None:
        """Let go of a port."""
        if self._port is port:
            self._port = None

    def hear(self, data: bytes) -> None:
        """Carry bytes from the port to the devices."""
        heard = self.noise.through(data) if self.noise else data
        arrives_us = self._agenda.now_us + len(data) * self._byte_us
        self._at(arrives_us, lambda: self._answer(heard))

    def _answer(self, data: bytes) -> None:
        self._advance()
        now_ms = self._agenda.now_ms
        for chunk in self._slaves.feed(data, now_ms):
            self._send(chunk.data, self._agenda.now_us + (chunk.at_ms - now_ms) * 1000)
        self._answered()

    def _send(self, data: bytes, at_us: int) -> None:
        said = self.noise.through(data) if self.noise else data
        start_us = max(at_us, self._out_free_us)
        self._out_free_us = start_us + len(said) * self._byte_us
        self._at(self._out_free_us, lambda: self._deliver(said))

    def _deliver(self, data: bytes) -> None:
        if self._port is not None and data:
            self._port.receive(data)

    def _at(self, at_us: int, call: Callable[[], object]) -> None:
        def due() -> None:
            self._under_way.remove(entry)
            call()

        entry = self._agenda.at_us(at_us, due)
        self._under_way.append(entry)


def open_lines(loop: "VirtualTimeLoop", lines: "dict[str, MemoryLine]") -> None:
    """Let `virtual://NAME` reach these lines from this loop."""
    package = "hal_mocks.pyserial_urls"
    if package not in serial.protocol_handler_packages:
        serial.protocol_handler_packages.append(package)
    _LINES[loop] = lines


def close_lines(loop: "VirtualTimeLoop") -> None:
    """Forget the lines of a loop that is over."""
    _LINES.pop(loop, None)


class Serial:
    """What pymodbus uses of `serial.Serial`, on a line in memory."""

    _opened = 0

    def __init__(self, port: str | None, **_settings: Any) -> None:
        self.port = port
        self.timeout: float | None = None
        self.write_timeout: float | None = None
        self._heard = bytearray()
        self._broken = False
        self._line: MemoryLine | None = None
        Serial._opened += 1
        self._fd = -Serial._opened

    def open(self) -> None:
        """Open the port of the running loop. Raises `SerialException`."""
        self._loop: Any = asyncio.get_running_loop()
        name = (self.port or "").removeprefix(SCHEME)
        line = _LINES.get(self._loop, {}).get(name)
        if line is None:
            raise serial.SerialException(2, f"could not open port {self.port}: no such device")
        line.open(self)
        self._line = line

    def close(self) -> None:
        """Close it."""
        if self._line is not None:
            self._line.close(self)
            self._line = None

    def fileno(self) -> int:
        """A number no file has."""
        return self._fd

    def read(self, size: int) -> bytes:
        """Return what has come. Raises `SerialException` when the adapter is gone."""
        if self._broken:
            raise serial.SerialException("device disconnected")
        data = bytes(self._heard[:size])
        del self._heard[:size]
        return data

    def write(self, data: bytes) -> int:
        """Send. Raises `SerialException` when the adapter is gone."""
        if self._broken or self._line is None:
            raise serial.SerialException("device disconnected")
        self._line.hear(data)
        return len(data)

    def receive(self, data: bytes) -> None:
        """Take bytes from the line."""
        self._heard += data
        self._loop.readable(self._fd)

    def break_off(self) -> None:
        """The adapter was pulled."""
        self._broken = True
        self._line = None
        self._loop.readable(self._fd)
