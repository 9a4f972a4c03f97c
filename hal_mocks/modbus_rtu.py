"""Modbus slaves in bytes and time: RTU and TCP framing around devices that only know registers.

    line = Line([Sdm630(unit=1), SimpleEvse(unit=2)])
    rtu = RtuSlaves(line)
    for chunk in rtu.feed(request, at_ms=0):
        ...  # send chunk.data at chunk.at_ms

A `Line` is the devices that share one pair of wires or one gateway. Function codes 3, 4, 6 and 16 are known;
all else is answered with exception 1. An unknown unit id, a bad CRC and a broadcast are answered with
silence. `device.faults` spoils the answers of one device and `line.faults` those of all of them.

Sources: MODBUS Application Protocol V1.1b3, clause 6 (functions) and 7 (exceptions); MODBUS over Serial Line
V1.02, 2.5.1 (RTU); MODBUS Messaging on TCP/IP V1.0b, 3.1.3 (MBAP).
"""

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, Protocol

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3

READ_HOLDING, READ_INPUT, WRITE_ONE, WRITE_MANY = 3, 4, 6, 16

MAX_READ, MAX_WRITE = 125, 123  # registers in one PDU of 253 bytes
MAX_RTU_FRAME = 256  # serial line guide 2.5.1

RTU_GAP_MS = 50
"""Silence that ends a frame. The standard asks for 3.5 characters, 4 ms at 9600 baud; a pty on a busy machine
stalls longer than that, and a master waits at least twice as long before it asks again."""

TCP_GAP_MS = 500
"""After that long a half-sent TCP request is given up; the standard leaves it open."""

_FIXED_LENGTHS = {1: 8, 2: 8, 3: 8, 4: 8, 5: 8, 6: 8, 7: 4, 8: 8, 11: 4, 12: 4, 17: 4, 22: 10, 24: 6, 43: 7}
_COUNTED_LENGTHS = {15: (6, 9), 16: (6, 9), 20: (2, 5), 21: (2, 5), 23: (10, 13)}
"""Function code to (where its byte count stands in the frame, length of the frame without those bytes)."""


class RefusedError(Exception):
    """A device answers with a Modbus exception `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Modbus exception {code}")
        self.code = code


class Table(Enum):
    """The two register tables; coils and discrete inputs are not used here."""

    HOLDING = READ_HOLDING
    INPUT = READ_INPUT


@dataclass
class Faults:
    """What goes wrong with the answers; change it at any time. The default is a device in order."""

    silent: bool = False
    exception: int | None = None  # every request is refused with this code and not carried out
    frozen: bool = False  # each read gets the answer it got last time
    wrong_unit: int | None = None  # answers carry this unit id
    wrong_crc: bool = False  # RTU only
    garbled: bool = False  # one to three bytes of each answer are wrong
    delay_ms: int = 0
    split_bytes: int = 0  # answers come in pieces of so many bytes; 0 = in one piece
    split_gap_ms: int = 5  # between two pieces
    min_gap_ms: int = 0  # a question sooner than this after the last answer is not heard

    def joined(self, other: "Faults") -> "Faults":
        """Return what happens to an answer that passes both; where only one can be, ours wins."""
        return Faults(
            silent=self.silent or other.silent,
            exception=self.exception if self.exception is not None else other.exception,
            frozen=self.frozen or other.frozen,
            wrong_unit=self.wrong_unit if self.wrong_unit is not None else other.wrong_unit,
            wrong_crc=self.wrong_crc or other.wrong_crc,
            garbled=self.garbled or other.garbled,
            delay_ms=self.delay_ms + other.delay_ms,
            split_bytes=self.split_bytes or other.split_bytes,
            split_gap_ms=max(self.split_gap_ms, other.split_gap_ms),
            min_gap_ms=max(self.min_gap_ms, other.min_gap_ms),
        )


class Device(Protocol):
    """Registers behind a unit id. `powered` off is a device that is dark: it neither hears nor answers."""

    faults: Faults

    @property
    def unit(self) -> int:
        """The Modbus unit id, 1 to 247."""

    @property
    def powered(self) -> bool:
        """Whether it hears at all."""

    def read(self, table: Table, start: int, count: int) -> list[int]:
        """Return `count` registers; raises `RefusedError`, also for addresses above 65535."""

    def write(self, start: int, values: Sequence[int]) -> None:
        """Write holding registers, all or none; raises `RefusedError`."""


class Chunk(NamedTuple):
    """Bytes that leave at a time."""

    at_ms: int
    data: bytes


class _Answer(NamedTuple):
    unit: int
    pdu: bytes
    faults: Faults


class Line:
    """Devices that share a line; `feed` of the slaves below asks it, tests may too."""

    def __init__(self, devices: Sequence[Device], *, seed: int = 0) -> None:
        self.devices = list(devices)
        self.faults = Faults()
        self.requests = 0  # well-framed requests heard, for whoever they were
        self.random = random.Random(seed)
        self._answered_ms: dict[int, int] = {}
        self._last: dict[tuple[int, bytes], bytes] = {}

    def answer(self, unit: int, pdu: bytes, at_ms: int) -> _Answer | None:
        """Carry out one request; None is silence."""
        self.requests += 1
        hearing = [device for device in self.devices if device.powered]
        if unit == 0:  # broadcast: all obey, nobody answers
            for device in hearing:
                if pdu[0] in (WRITE_ONE, WRITE_MANY):
                    _carry_out(device, pdu)
            return None
        called = next((device for device in hearing if device.unit == unit), None)
        return None if called is None else self._ask(called, pdu, at_ms)

    def garbled(self, frame: bytes) -> bytes:
        """Return the frame with one to three bytes changed."""
        spoilt = bytearray(frame)
        for place in self.random.sample(range(len(frame)), min(len(frame), self.random.randint(1, 3))):
            spoilt[place] ^= self.random.randint(1, 255)
        return bytes(spoilt)

    def _ask(self, device: Device, pdu: bytes, at_ms: int) -> _Answer | None:
        unit = device.unit
        faults = device.faults.joined(self.faults)
        if faults.silent or at_ms - self._answered_ms.get(unit, -faults.min_gap_ms) < faults.min_gap_ms:
            return None
        answer = self._spoilt(device, pdu, faults)
        self._answered_ms[unit] = at_ms + faults.delay_ms
        return _Answer(unit if faults.wrong_unit is None else faults.wrong_unit, answer, faults)

    def _spoilt(self, device: Device, pdu: bytes, faults: Faults) -> bytes:
        if faults.exception is not None:
            return bytes((pdu[0] | 0x80, faults.exception))
        key = (device.unit, pdu)
        if faults.frozen and key in self._last:
            return self._last[key]
        answer = _carry_out(device, pdu)
        if pdu[0] in (READ_HOLDING, READ_INPUT):
            if len(self._last) > 1000:  # a master asks a few dozen different questions, a fuzzer any number
                self._last.clear()
            self._last[key] = answer
        return answer


def _carry_out(device: Device, pdu: bytes) -> bytes:
    function = _FUNCTIONS.get(pdu[0])
    if function is None:
        return bytes((pdu[0] | 0x80, ILLEGAL_FUNCTION))
    try:
        return function(device, pdu)
    except RefusedError as refused:
        return bytes((pdu[0] | 0x80, refused.code))


def _read(device: Device, pdu: bytes) -> bytes:
    if len(pdu) != 5:
        raise RefusedError(ILLEGAL_VALUE)
    function, start, count = struct.unpack(">BHH", pdu)
    if not 1 <= count <= MAX_READ:
        raise RefusedError(ILLEGAL_VALUE)
    table = Table.HOLDING if function == READ_HOLDING else Table.INPUT
    values = device.read(table, start, count)
    return struct.pack(f">BB{count}H", function, 2 * count, *values)


def _write(device: Device, pdu: bytes) -> bytes:
    if len(pdu) < 5:
        raise RefusedError(ILLEGAL_VALUE)
    function, start, second = struct.unpack(">BHH", pdu[:5])
    if function == WRITE_ONE:
        if len(pdu) != 5:
            raise RefusedError(ILLEGAL_VALUE)
        device.write(start, [second])
        return pdu
    if not 1 <= second <= MAX_WRITE or len(pdu) != 6 + 2 * second or pdu[5] != 2 * second:
        raise RefusedError(ILLEGAL_VALUE)
    device.write(start, struct.unpack(f">{second}H", pdu[6:]))
    return pdu[:5]


_FUNCTIONS = {READ_HOLDING: _read, READ_INPUT: _read, WRITE_ONE: _write, WRITE_MANY: _write}


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC = _crc_table()


@lru_cache(maxsize=256)  # the same questions come for ever, and what stands still gives the same answers
def crc16(data: bytes) -> bytes:
    """Return the CRC as it stands on the line, low byte first (serial line guide 6.2.2)."""
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


class RtuSlaves:
    """The receiving end of a serial line, for all its devices.

    A frame is taken as soon as the last bytes received form one with a good CRC, whatever stood before, so a
    request behind garbage is heard even without a pause. `gap_ms` of silence forgets what came before.
    A real slave that frames by silence alone would miss such a request, as it would on any bad line.
    """

    def __init__(self, line: Line, *, gap_ms: int = RTU_GAP_MS) -> None:
        self.line = line
        self._gap_ms = gap_ms
        self._heard = bytearray()
        self._heard_ms = 0

    def feed(self, data: bytes, at_ms: int) -> list[Chunk]:
        """Take bytes that arrived at `at_ms` (never falling) and return what goes out."""
        if at_ms - self._heard_ms >= self._gap_ms:
            self._heard.clear()
        self._heard_ms = at_ms
        if not self._heard and len(data) > 3 and _length(data, 0) == len(data) and _is_sound(data):
            return self._answer(data, at_ms)  # nearly always: one request, the whole of it, and nothing else
        chunks: list[Chunk] = []
        for byte in data:
            self._heard.append(byte)
            del self._heard[:-MAX_RTU_FRAME]
            if (frame := self._frame()) is not None:
                self._heard.clear()
                chunks += self._answer(frame, at_ms)
        return chunks

    def _frame(self) -> bytes | None:
        """Return the frame that the last byte completed."""
        for start in range(len(self._heard) - 3):
            length = _length(self._heard, start)
            # The length of an unknown function is not known: only what stands alone can be its frame.
            if length == len(self._heard) - start or (length is None and start == 0):
                frame = bytes(self._heard[start:])
                if _is_sound(frame):
                    return frame
        return None

    def _answer(self, frame: bytes, at_ms: int) -> list[Chunk]:
        answer = self.line.answer(frame[0], frame[1:-2], at_ms)
        if answer is None:
            return []
        body = bytes((answer.unit,)) + answer.pdu
        crc = crc16(body)
        if answer.faults.wrong_crc:
            crc = bytes((crc[0] ^ 0xFF, crc[1]))
        return _chunks(self.line, body + crc, answer.faults, at_ms)


def _is_sound(frame: bytes) -> bool:
    return crc16(frame[:-2]) == frame[-2:]


def _length(heard: bytes | bytearray, start: int) -> int | None:
    """Return how long a request at `start` is, -1 if its count has not come, None for an unknown function."""
    function = heard[start + 1]
    if function in _FIXED_LENGTHS:
        return _FIXED_LENGTHS[function]
    if function in _COUNTED_LENGTHS:
        place, others = _COUNTED_LENGTHS[function]
        return others + heard[start + place] if start + place < len(heard) else -1
    return None


class TcpSlaves:
    """The receiving end of one TCP connection to the devices of a line, as a gateway or a device offers it.

    Bytes that cannot begin an MBAP header are skipped. A unit id nobody has is answered with silence.
    """

    def __init__(self, line: Line, *, gap_ms: int = TCP_GAP_MS) -> None:
        self.line = line
        self._gap_ms = gap_ms
        self._heard = bytearray()
        self._heard_ms = 0

    def feed(self, data: bytes, at_ms: int) -> list[Chunk]:
        """Take bytes that arrived at `at_ms` (never falling) and return what goes out."""
        if at_ms - self._heard_ms >= self._gap_ms:
            self._heard.clear()
        self._heard_ms = at_ms
        self._heard += data
        chunks: list[Chunk] = []
        while len(self._heard) >= 6:
            transaction, protocol, length = struct.unpack(">HHH", self._heard[:6])
            if protocol != 0 or not 2 <= length <= 254:
                del self._heard[0]
                continue
            if len(self._heard) < 6 + length:
                break
            unit, pdu = self._heard[6], bytes(self._heard[7 : 6 + length])
            del self._heard[: 6 + length]
            if (answer := self.line.answer(unit, pdu, at_ms)) is not None:
                header = struct.pack(">HHHB", transaction, 0, 1 + len(answer.pdu), answer.unit)
                chunks += _chunks(self.line, header + answer.pdu, answer.faults, at_ms)
        return chunks


def _chunks(line: Line, frame: bytes, faults: Faults, at_ms: int) -> list[Chunk]:
    if faults.garbled:
        frame = line.garbled(frame)
    at_ms += faults.delay_ms
    size = faults.split_bytes or len(frame)
    pieces = [frame[place : place + size] for place in range(0, len(frame), size)]
    return [Chunk(at_ms + number * faults.split_gap_ms, piece) for number, piece in enumerate(pieces)]
