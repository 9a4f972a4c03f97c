"""A Modbus question, and the only bytes that are its answer. Pure: no I/O, any bytes may come in.

RTU has no transaction number and its lines bring noise, echoes and answers nobody waits for any more. So a
frame is believed only if unit, function, length and checksum are those of the question that was asked; all
other bytes are skipped. Source: MODBUS Application Protocol V1.1b3, clauses 6.3, 6.4, 6.6, 6.12 and 7.
"""

from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct

READ_HOLDING, READ_INPUT, WRITE_ONE, WRITE_MANY = 3, 4, 6, 16

MAX_READ, MAX_WRITE = 125, 123
"""Registers in one request: a PDU has at most 253 bytes."""

_REFUSED = 0x80  # added to the function code of an answer that is an exception
_REFUSAL_BYTES = 3  # unit, function, exception code
_CRC_BYTES = 2
_MBAP_BYTES = (
    6  # transaction, protocol 0 and length, each two bytes; the unit id after them is counted as data
)

Checksum = Callable[[bytes], int]
"""The CRC of the serial line as it stands in the frame, first byte high."""


class Question(Struct, frozen=True):
    """A request and what is known of its answer: the bytes it begins with, unit id first, and its size."""

    unit: int
    function: int
    text: str  # what is asked, for a person
    head: bytes
    answer_bytes: int
    request_bytes: int

    @property
    def rtu_bytes(self) -> int:
        """What request and answer together put on a serial line."""
        return self.request_bytes + self.answer_bytes + 2 * _CRC_BYTES


@lru_cache(maxsize=256)  # a station asks the same few questions for ever
def reading(unit: int, function: int, address: int, count: int) -> Question:
    """The question for `count` registers; `function` is READ_HOLDING or READ_INPUT."""
    table = "holding" if function == READ_HOLDING else "input"
    text = f"{table} registers {address} to {address + count - 1}"
    return Question(unit, function, text, bytes((unit, function, 2 * count)), 3 + 2 * count, 6)


def writing(unit: int, function: int, address: int, values: list[int]) -> Question:
    """The question that sets registers; `function` is WRITE_ONE or WRITE_MANY. An echo answers both."""
    one = function == WRITE_ONE
    echo = values[0] if one else len(values)
    head = bytes((unit, function)) + address.to_bytes(2, "big") + echo.to_bytes(2, "big")
    return Question(
        unit,
        function,
        f"writing {', '.join(map(str, values))} to holding register {address}",
        head,
        len(head),
        6 if one else 7 + 2 * len(values),
    )


def find_in_rtu(line: bytes, question: Question, checksum: Checksum) -> bytes:
    """The frame with CRC that answers or refuses the question; empty while there is none."""
    for head, size in _answers(question):
        start = line.find(head)
        while start >= 0:
            end = start + size + _CRC_BYTES
            body, crc = line[start : end - _CRC_BYTES], line[end - _CRC_BYTES : end]
            if len(line) >= end and checksum(body) == int.from_bytes(crc, "big"):
                return line[start:end]
            start = line.find(head, start + 1)
    return b""


def find_in_tcp(stream: bytes, question: Question, transaction: bytes) -> bytes:
    """The frame with MBAP header that answers or refuses the question; empty while there is none."""
    for head, size in _answers(question):
        start = stream.find(transaction + b"\0\0" + size.to_bytes(2, "big") + head)
        end = start + _MBAP_BYTES + size
        if start >= 0 and len(stream) >= end:
            return stream[start:end]
    return b""


def _answers(question: Question) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    refusal = bytes((question.unit, question.function | _REFUSED))
    return (question.head, question.answer_bytes), (refusal, _REFUSAL_BYTES)
