"""One owner per Modbus line: every question to its devices passes here, one at a time.

Set-points overtake polls. Errors are the three of `edge.errors` and say what to do next. A line that went
away is opened again with back-off; meanwhile questions fail at once.

RTU has no transaction number. So after a silence the same unit is not read by the same function for as long
again: an answer that comes late then finds nobody who could take it for the next one. Other units go on, and
so do writes. A TCP connection that failed to answer is closed and made anew instead.
"""

import asyncio
import logging
import math
import termios
from collections import deque
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from edge.drivers.question import (
    MAX_READ,
    MAX_WRITE,
    READ_HOLDING,
    READ_INPUT,
    WRITE_MANY,
    WRITE_ONE,
    Question,
    find_in_rtu,
    find_in_tcp,
    reading,
    writing,
)
from edge.drivers.serial_port import why_not
from edge.errors import DeviceError, DeviceTimeout, PeerError
from edge.ports import Link, NowMs, SerialLink, TcpLink

if TYPE_CHECKING:  # pymodbus costs 50 ms of start-up on a laptop, ten times that on a small board
    from pymodbus.client import ModbusBaseClient
    from pymodbus.pdu import ModbusPDU

Table = Literal["holding", "input"]

REOPEN_FIRST_MS = 200
REOPEN_MOST_MS = 5_000
"""A port that cannot be opened is tried again at this growing pace; in between, questions fail at once."""

CONNECT_S = 2.0
"""A TCP gateway on the site's own network answers in milliseconds; this leaves room for one lost packet."""

_FOR_EVER: Any = None
"""pymodbus's own patience: ours tells silence from noise and knows how slow the line is. A number would be a
second timer for each question, and with one `asyncio.wait_for` of Python 3.11 swallows a cancellation that
comes in the same turn of the loop as the answer. Typed as a float there, and passed on to `wait_for` only."""

_FAST_BAUD = 19_200
_FAST_GAP_MS = 1.75
_GAP_CHARACTERS = 3.5
"""MODBUS over Serial Line V1.02, 2.5.1.1: the silence between two frames, fixed above 19200 baud."""

_GATEWAY_TARGET_SILENT = 11
_EXCEPTIONS = {
    1: "it does not know this function; is it this model?",
    2: "it has no such register; is it this model?",
    3: "it does not accept this value",
    4: "it reports a failure of its own; look at its display",
    6: "it is busy",
    10: "the gateway has no path to it; look at the gateway's settings",
    _GATEWAY_TARGET_SILENT: "the gateway got no answer from it; check its supply, address and wiring",
}
"""MODBUS Application Protocol V1.1b3, clause 7."""

_Call = Callable[["ModbusBaseClient"], "Awaitable[ModbusPDU]"]


class BusCounts(Struct, frozen=True):
    """What passed over the line since the start."""

    requests: int = 0
    timeouts: int = 0  # nothing came
    peer_errors: int = 0  # something came: noise, a wrong CRC or unit, an exception
    opened: int = 0  # how often the port was opened


class ModbusBus:
    """A serial line or TCP connection with any number of units on it; `counts` is a snapshot."""

    def __init__(self, link: Link, *, timeout_ms: int, min_gap_ms: int, now_ms: NowMs) -> None:
        """Open nothing yet.

        `timeout_ms` is a device's time to think; what the bytes need on a serial line is added to it.
        `min_gap_ms` is the silence the slowest device needs between two requests.
        """
        self.counts = BusCounts()
        self._link = link
        self._timeout_ms = timeout_ms
        self._gap_ms = max(min_gap_ms, math.ceil(_frame_gap_ms(link)))
        self._now_ms = now_ms
        self._client: ModbusBaseClient | None = None
        self._ear = _Ear(link, now_ms)
        self._free_ms = 0
        self._late_until_ms: dict[tuple[int, int], int] = {}  # by unit and function
        self._reopen_at_ms = 0
        self._reopen_pause_ms = REOPEN_FIRST_MS
        self._closed_text = ""  # why it could not be opened the last time
        self._taken = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._polls: deque[asyncio.Future[None]] = deque()

    @property
    def name(self) -> str:
        """The port as a technician knows it."""
        match self._link:
            case SerialLink(port=port):
                return port
            case TcpLink(host=host, port=number):
                return f"{host}:{number}"
            case _:
                assert_never(self._link)

    async def read(
        self, unit: int, table: Table, address: int, count: int, *, urgent: bool = False
    ) -> tuple[int, tuple[int, ...]]:
        """Read 1 to 125 registers; return when the question left (ms, after all waiting) and the registers.

        Raises `DeviceTimeout` when nothing came, `PeerError` when something else came than the answer, and
        `DeviceError` when the port itself is gone.
        """
        if not 1 <= count <= MAX_READ:
            raise ValueError(f"{count} registers do not fit into one read")
        holding = table == "holding"

        def call(client: "ModbusBaseClient") -> "Awaitable[ModbusPDU]":
            read = client.read_holding_registers if holding else client.read_input_registers
            return read(address, count=count, device_id=unit)

        question = reading(unit, READ_HOLDING if holding else READ_INPUT, address, count)
        asked_ms, answer = await self._ask(question, call, urgent=urgent)
        return asked_ms, tuple(answer.registers)

    async def write(
        self, unit: int, address: int, values: list[int], *, single: bool = False, urgent: bool = True
    ) -> None:
        """Write 1 to 123 holding registers by function 16; one with function 6 if `single`. Raises as `read`.

        Function 16 is the rule, also for one register: not every controller knows 6, and on an adapter that
        echoes what we send, the answer to 6 cannot be told from the echo.
        """
        if not 1 <= len(values) <= (1 if single else MAX_WRITE):
            raise ValueError(f"{len(values)} registers do not fit into one write")

        def call(client: "ModbusBaseClient") -> "Awaitable[ModbusPDU]":
            if single:
                return client.write_register(address, values[0], device_id=unit)
            return client.write_registers(address, values, device_id=unit)

        question = writing(unit, WRITE_ONE if single else WRITE_MANY, address, values)
        await self._ask(question, call, urgent=urgent)

    def close(self) -> None:
        """Let go of the port; the next question opens it again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def _ask(self, question: Question, call: _Call, *, urgent: bool) -> "tuple[int, ModbusPDU]":
        key = (question.unit, question.function)
        while True:
            await self._sleep_until(self._late_until_ms.get(key, 0))
            await self._take_turn(urgent=urgent)
            try:
                if self._now_ms() >= self._late_until_ms.get(key, 0):
                    client = await self._open()
                    await self._silence()
                    return await self._exchange(client, question, call)
            finally:
                self._pass_on()

    async def _exchange(
        self, client: "ModbusBaseClient", question: Question, call: _Call
    ) -> "tuple[int, ModbusPDU]":
        from pymodbus.exceptions import ModbusException

        answer: ModbusPDU | None = None
        self.counts = replace(self.counts, requests=self.counts.requests + 1)
        asked_ms = self._now_ms()
        try:
            patience_s = self._timeout_ms / 1000 + _line_s(self._link, question.rtu_bytes)
            async with asyncio.timeout(patience_s) as deadline:
                self._ear.listen_for(question, deadline)
                answer = await call(client)
        except TimeoutError:
            raise self._unanswered(client, question) from None
        except ModbusException as error:
            self.close()
            raise DeviceError(f"{self.name} was lost ({error}). {self._hint()}") from error
        finally:
            self._ear.stop()
            self._free_ms = self._now_ms() + self._gap_ms
            if answer is None:
                self._distrust(client, question)
        if answer.isError():
            raise self._refused(question, answer.exception_code)
        return asked_ms, answer

    def _unanswered(self, client: "ModbusBaseClient", question: Question) -> DeviceError:
        what = f"unit {question.unit} on {self.name}"
        if not client.connected:
            return DeviceError(f"{self.name} was lost while {what} was asked. {self._hint()}")
        if self._ear.heard:
            self.counts = replace(self.counts, peer_errors=self.counts.peer_errors + 1)
            return PeerError(
                f"{what}: {len(self._ear.heard)} bytes came that do not answer {question.text}"
                f" ({self._ear.heard[:8].hex(' ')}...); check for two devices with one address, baud rate,"
                " parity, wiring A/B and termination"
            )
        self.counts = replace(self.counts, timeouts=self.counts.timeouts + 1)
        look = (
            "address, wiring A/B and baud rate" if isinstance(self._link, SerialLink) else "unit id and line"
        )
        return DeviceTimeout(
            f"{what} did not answer {question.text} within {self._timeout_ms} ms; check its supply, {look}"
        )

    def _refused(self, question: Question, code: int) -> DeviceError:
        reason = _EXCEPTIONS.get(code, "look it up in its manual")
        text = f"unit {question.unit} on {self.name} refused {question.text} with exception {code}: {reason}"
        if code == _GATEWAY_TARGET_SILENT:  # that is what a silent device behind a gateway looks like
            self.counts = replace(self.counts, timeouts=self.counts.timeouts + 1)
            return DeviceTimeout(text)
        self.counts = replace(self.counts, peer_errors=self.counts.peer_errors + 1)
        return PeerError(text)

    def _distrust(self, client: "ModbusBaseClient", question: Question) -> None:
        """Keep a late answer to this question from being taken for the answer to another one.

        A write is repeated at once: it may lower a current, and its late echo is harmless, for whoever writes
        reads back.
        """
        if not (isinstance(self._link, SerialLink) and client.connected):
            self.close()
        elif question.function in (READ_HOLDING, READ_INPUT):
            self._late_until_ms[question.unit, question.function] = self._now_ms() + self._timeout_ms

    async def _silence(self) -> None:
        """Wait until nobody has spoken for the gap. Raises `PeerError` if that never happens."""
        give_up_ms = self._now_ms() + self._gap_ms + self._timeout_ms
        while (until_ms := max(self._free_ms, self._ear.heard_ms + self._gap_ms)) > self._now_ms():
            if self._now_ms() >= give_up_ms:
                self.counts = replace(self.counts, peer_errors=self.counts.peer_errors + 1)
                raise PeerError(f"{self.name} never falls silent; find the device or the noise that fills it")
            await self._sleep_until(min(until_ms, give_up_ms))

    async def _sleep_until(self, at_ms: int) -> None:
        pause_ms = at_ms - self._now_ms()
        if pause_ms > 0:
            await asyncio.sleep(pause_ms / 1000)

    async def _take_turn(self, *, urgent: bool) -> None:
        """Wait for the line: urgent requests first, each lane in order. Whoever has it has to `_pass_on`."""
        if self._taken:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (self._urgent if urgent else self._polls).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                raise
        self._taken = True

    def _pass_on(self) -> None:
        for lane in (self._urgent, self._polls):
            while lane:
                turn = lane.popleft()
                if not turn.done():
                    turn.set_result(None)  # the line stays taken, for the one that wakes
                    return
        self._taken = False

    async def _open(self) -> "ModbusBaseClient":
        if self._client is not None and self._client.connected:
            return self._client
        self.close()
        if self._now_ms() < self._reopen_at_ms:
            raise DeviceError(self._closed_text)
        # A new client each time: pymodbus lets the end of an old connection close the new one of its client.
        client = self._new_client()
        if not await _connected(client):
            client.close()
            self._reopen_at_ms = self._now_ms() + self._reopen_pause_ms
            self._reopen_pause_ms = min(REOPEN_MOST_MS, 2 * self._reopen_pause_ms)
            self._closed_text = f"{self.name} cannot be opened. {self._hint()}"
            raise DeviceError(self._closed_text)
        self._client = client
        self._reopen_pause_ms = REOPEN_FIRST_MS
        self.counts = replace(self.counts, opened=self.counts.opened + 1)
        return client

    def _new_client(self) -> "ModbusBaseClient":
        from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient

        logging.getLogger("pymodbus").setLevel(logging.CRITICAL + 1)  # our errors say it, and once
        self._ear = _Ear(self._link, self._now_ms)
        match self._link:
            case SerialLink(port=port, baud=baud, parity=parity, stop_bits=stop_bits):
                return AsyncModbusSerialClient(  # it locks the port: a second program is told, not mixed in
                    port,
                    baudrate=baud,
                    parity=parity,
                    stopbits=stop_bits,
                    timeout=_FOR_EVER,
                    retries=0,
                    reconnect_delay=0,
                    trace_packet=self._ear.packet,
                    trace_connect=self._ear.connection,
                )
            case TcpLink(host=host, port=number):
                return AsyncModbusTcpClient(
                    host,
                    port=number,
                    timeout=_FOR_EVER,
                    retries=0,
                    reconnect_delay=0,
                    trace_packet=self._ear.packet,
                    trace_connect=self._ear.connection,
                )
            case _:
                assert_never(self._link)

    def _hint(self) -> str:
        match self._link:
            case SerialLink(port=port):
                return why_not(port)
            case TcpLink():
                return (
                    "Check that the gateway is on, its address, its port, and that nobody else is connected."
                )
            case _:
                assert_never(self._link)


class _Ear:
    """What pymodbus shows us of its port: passes on the answer, keeps all else away, notes a lost port."""

    def __init__(self, link: Link, now_ms: NowMs) -> None:
        self.heard = b""  # since the question, as far as it was not the answer
        self.heard_ms = 0  # when the last byte came
        self._serial = isinstance(link, SerialLink)
        self._now_ms = now_ms
        self._question: Question | None = None
        self._deadline: asyncio.Timeout | None = None
        self._transaction = b""

    def listen_for(self, question: Question, deadline: asyncio.Timeout) -> None:
        """From now on take the answer to this question; if the port goes, the deadline is now."""
        self._question, self._deadline = question, deadline
        self.heard = b""

    def stop(self) -> None:
        """Nobody waits for an answer any more."""
        self._question = self._deadline = None

    def connection(self, connected: bool) -> None:  # noqa: FBT001 - pymodbus's `trace_connect`
        """End the waiting for an answer when the port is lost."""
        if not connected and self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(0)

    def packet(self, sending: bool, packet: bytes) -> bytes:  # noqa: FBT001 - pymodbus's `trace_packet`
        """What pymodbus shall send or take for received; all bytes since the question come each time."""
        if sending:
            self._transaction = packet[:2]
            return packet
        self.heard, self.heard_ms = packet, self._now_ms()
        return self._find(packet, self._question) if self._question else b""

    def _find(self, packet: bytes, question: Question) -> bytes:
        if self._serial:
            return find_in_rtu(packet, question, _checksum)
        return find_in_tcp(packet, question, self._transaction)


@lru_cache(maxsize=64)  # a line on which nothing changes brings the same answers again and again
def _checksum(body: bytes) -> int:
    from pymodbus.framer import FramerRTU

    return FramerRTU.compute_CRC(body)


async def _connected(client: "ModbusBaseClient") -> bool:
    try:
        async with asyncio.timeout(CONNECT_S):
            return await client.connect()
    except (OSError, ValueError, termios.error):  # pyserial lets the latter two through: a line it cannot set
        return False


def _line_s(link: Link, count: int) -> float:
    """How long so many bytes take on a serial line; nothing worth counting on TCP."""
    if not isinstance(link, SerialLink):
        return 0.0
    bits = 1 + 8 + (link.parity != "N") + link.stop_bits
    return count * bits / link.baud


def _frame_gap_ms(link: Link) -> float:
    if isinstance(link, SerialLink) and link.baud > _FAST_BAUD:
        return _FAST_GAP_MS
    return _GAP_CHARACTERS * _line_s(link, 1) * 1000
