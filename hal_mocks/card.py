"""A contactless card for the virtual reader of vsmartcard (`vpcd`): a peer, not a mock.

The reader listens on a TCP port; a connection is a card in its field. Each message is a 16-bit big-endian
length and that many bytes. One byte from the reader is a control: 0 power off, 1 power on, 2 reset, 4 give
the ATR; only 4 has an answer. Anything longer is a command APDU and has a response APDU.

The card answers GET DATA for its UID as PC/SC part 3, 3.2.2.1.3 has it, and 6D00 (unknown instruction) to all
else. pcscd looks at its readers every 400 ms: a card that stays shorter may never be noticed.
"""

import random
import socket
import struct
import threading
from contextlib import suppress

VPCD_PORT = 35963
"""Where Debian's vsmartcard-vpcd listens for the card in its first slot; the second slot is the next port."""

_ENTER_S = 5.0  # vpcd takes one card and lets the next one wait until the first has left

_POWER_ON, _RESET, _GET_ATR = 1, 2, 4
_GET_UID = bytes.fromhex("FFCA0000")
_UNKNOWN_INSTRUCTION = bytes.fromhex("6D00")
_READER_FAILED = bytes.fromhex("6300")


def _with_checksum(atr: str) -> bytes:
    """Append TCK: all bytes after the first add up to zero by exclusive or (ISO/IEC 7816-3, 8.2.5)."""
    body = bytes.fromhex(atr)
    check = 0
    for byte in body[1:]:
        check ^= byte
    return body + bytes((check,))


def _storage_atr(standard: int, name: int) -> bytes:
    """Build the ATR a PC/SC reader makes up for a memory card (PC/SC part 3, 3.1.3.2.3.2)."""
    return _with_checksum(f"3B8F8001804F0CA000000306{standard:02X}{name:04X}00000000")


ATRS = {
    "classic-1k": _storage_atr(0x03, 0x0001),
    "classic-4k": _storage_atr(0x03, 0x0002),
    "ultralight": _storage_atr(0x03, 0x0003),
    "icode-sli": _storage_atr(0x0B, 0x0014),
    "felica": _storage_atr(0x11, 0x003B),
    "desfire": _with_checksum("3B81800180"),
    "phone": _with_checksum("3B808001"),
}
"""The ATR of each family this card can be."""


class VirtualCard:
    """One card; `insert` puts it on the reader, `remove` takes it off, both as often as you like.

    `uid` None is a phone: a new random number (08 and three bytes, NXP AN10927) each time it is powered.
    `apdus` keeps every command it was sent. What can go wrong with it, set before or after `insert`:

    atr                senseless bytes make pcscd find it mute (with none at all vpcd says there is no card)
    status_word        the last two bytes of the answer to GET UID
    answer_delay_s     how long it thinks before each answer
    fail_apdus         so many commands at first are answered with 6300
    tear_after_apdus   it leaves the field upon the k-th command (1 = the first), counted anew per insertion
    tear_at_byte       ... after so many bytes of that answer went out; with None nothing of it does
    """

    def __init__(
        self, uid: bytes | None, family: str = "classic-1k", *, port: int = VPCD_PORT, seed: int = 0
    ) -> None:
        self.uid = uid
        self.atr = ATRS[family]
        self.port = port
        self.apdus: list[bytes] = []
        self.status_word = bytes.fromhex("9000")
        self.answer_delay_s = 0.0
        self.fail_apdus = 0
        self.tear_after_apdus: int | None = None
        self.tear_at_byte: int | None = None
        self._dice = random.Random(seed)
        self._random_uid = b""
        self._apdus_left: int | None = None
        self._wire: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._gone = threading.Event()

    @property
    def inserted(self) -> bool:
        """Whether the card is in the field: inserted, and not removed, torn off or left by its reader."""
        return self._thread is not None and self._thread.is_alive()

    def insert(self) -> None:
        """Enter the field. Raises `OSError` when there is no reader or another card is in its field."""
        self.remove()
        wire = socket.create_connection(("127.0.0.1", self.port), timeout=_ENTER_S)
        wire.settimeout(None)
        # The reader sends the length and the bytes in two writes: without this Nagle and delayed
        # acknowledgements add 40 ms to each exchange.
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._gone.clear()
        self._apdus_left = self.tear_after_apdus
        self._wire = wire
        self._thread = threading.Thread(target=self._live, args=(wire,), name="virtual-card", daemon=True)
        self._thread.start()

    def remove(self) -> None:
        """Leave the field."""
        if self._wire is None or self._thread is None:
            return
        self._gone.set()
        with suppress(OSError):  # the other side may have hung up first
            self._wire.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._wire.close()
        self._wire = self._thread = None

    def _live(self, wire: socket.socket) -> None:
        with suppress(OSError):  # the end of the connection, from either side, is the end of the stay
            while (message := _receive(wire)) is not None and self._answer(wire, message):
                pass
            wire.shutdown(socket.SHUT_RDWR)

    def _answer(self, wire: socket.socket, message: bytes) -> bool:
        """Handle one message; False when the card leaves."""
        if len(message) == 1:
            if message[0] in (_POWER_ON, _RESET):
                self._random_uid = b"\x08" + self._dice.randbytes(3)
            elif message[0] == _GET_ATR:
                _send(wire, self.atr)
            return True
        self.apdus.append(message)
        if self._gone.wait(self.answer_delay_s):
            return False
        response = self._respond(message)
        if self._apdus_left is not None:
            self._apdus_left -= 1
            if self._apdus_left <= 0:
                if self.tear_at_byte is not None:
                    wire.sendall(struct.pack(">H", len(response)) + response[: self.tear_at_byte])
                return False
        _send(wire, response)
        return True

    def _respond(self, command: bytes) -> bytes:
        if self.fail_apdus > 0:
            self.fail_apdus -= 1
            return _READER_FAILED
        if not command.startswith(_GET_UID):
            return _UNKNOWN_INSTRUCTION
        return (self._random_uid if self.uid is None else self.uid) + self.status_word


def _receive(wire: socket.socket) -> bytes | None:
    """Return the next message, None at the end of the connection."""
    head = _receive_exactly(wire, 2)
    if head is None:
        return None
    return _receive_exactly(wire, int.from_bytes(head))


def _receive_exactly(wire: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        # Linux falls back to delayed acknowledgements by itself, so ask for quick ones before every read.
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        chunk = wire.recv(count - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def _send(wire: socket.socket, message: bytes) -> None:
    wire.sendall(struct.pack(">H", len(message)) + message)
