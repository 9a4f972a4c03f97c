"""One owner per Modbus line: every question to its devices passes here, one at a time.

Set-points overtake polls. Errors are the three of `edge.errors` and say what to do next. RTU has no
transaction number, so after a silence nothing is asked for as long as a late answer may still come: it must
not be taken for the answer to the next question.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, assert_never

from msgspec import Struct

from edge.errors import DeviceError, DeviceTimeout, PeerError
from edge.ports import Link, NowMs, SerialLink, TcpLink

Table = Literal["holding", "input"]

REOPEN_FIRST_MS = 200
REOPEN_MOST_MS = 5_000
"""A port that cannot be opened is tried again at this growing pace; in between, questions fail at once."""

CONNECT_MS = 2_000
"""A TCP gateway on the site's own network answers in milliseconds or not at all."""


class BusCounts(Struct):
    """What passed over the line since the start."""

    requests: int = 0
    timeouts: int = 0
    peer_errors: int = 0
    reopened: int = 0


class ModbusBus:
    """A serial line or TCP connection with any number of units on it."""

    def __init__(self, link: Link, *, timeout_ms: int, min_gap_ms: int, now_ms: NowMs) -> None:
        """`min_gap_ms` is the silence the slowest device needs between two requests."""
        self.counts = BusCounts()
        self._link = link
        self._timeout_ms = timeout_ms
        self._min_gap_ms = min_gap_ms
        self._now_ms = now_ms
        self._client: Any = None
        self._quiet_until_ms = 0
        self._reopen_at_ms = 0
        self._reopen_pause_ms = REOPEN_FIRST_MS
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
        """Read `count` registers; return when the question left (ms) and the registers.

        Raises `DeviceTimeout`, `PeerError`, or `DeviceError` when the port itself is gone.
        """
        what = f"unit {unit} on {self.name}, {table} registers {address}-{address + count - 1}"
        async with self._turn(urgent=urgent):
            client = await self._open()
            call = client.read_holding_registers if table == "holding" else client.read_input_registers
            asked_ms = self._now_ms()
            answer = await self._ask(call(address, count=count, device_id=unit), what)
        if len(answer.registers) != count:
            self.counts.peer_errors += 1
            raise PeerError(f"{what}: {len(answer.registers)} registers came, {count} were asked for")
        return asked_ms, tuple(answer.registers)

    async def write(self, unit: int, address: int, values: list[int], *, urgent: bool = True) -> None:
        """Write holding registers: one by function 6, several by function 16. Raises as `read`."""
        what = f"unit {unit} on {self.name}, writing register {address}"
        async with self._turn(urgent=urgent):
            client = await self._open()
            if len(values) == 1:
                await self._ask(client.write_register(address, values[0], device_id=unit), what)
            else:
                await self._ask(client.write_registers(address, values, device_id=unit), what)

    def close(self) -> None:
        """Let go of the port."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @asynccontextmanager
    async def _turn(self, *, urgent: bool) -> AsyncIterator[None]:
        """Wait for the line: urgent requests first, each lane in order."""
        if self._taken:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            lane = self._urgent if urgent else self._polls
            lane.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                raise
        self._taken = True
        try:
            pause_ms = self._quiet_until_ms - self._now_ms()
            if pause_ms > 0:
                await asyncio.sleep(pause_ms / 1000)
            yield
        finally:
            self._quiet_until_ms = max(self._quiet_until_ms, self._now_ms() + self._min_gap_ms)
            self._pass_on()

    def _pass_on(self) -> None:
        for lane in (self._urgent, self._polls):
            while lane:
                turn = lane.popleft()
                if not turn.done():
                    turn.set_result(None)  # the line stays taken, for the one that wakes
                    return
        self._taken = False

    async def _open(self) -> Any:  # noqa: ANN401 - pymodbus is imported late and its clients share no type
        if self._client is not None and self._client.connected:
            return self._client
        if self._now_ms() < self._reopen_at_ms:
            raise DeviceError(f"{self.name} cannot be opened; next try in a moment. {self._hint()}")
        self.close()
        client = self._new_client()
        try:
            async with asyncio.timeout(CONNECT_MS / 1000):
                connected = await client.connect()
        except TimeoutError:
            connected = False
        if not connected:
            client.close()
            self._reopen_at_ms = self._now_ms() + self._reopen_pause_ms
            self._reopen_pause_ms = min(REOPEN_MOST_MS, 2 * self._reopen_pause_ms)
            raise DeviceError(f"{self.name} cannot be opened. {self._hint()}")
        self._client = client
        self._reopen_pause_ms = REOPEN_FIRST_MS
        self.counts.reopened += 1
        return client

    def _new_client(self) -> Any:  # noqa: ANN401 - see `_open`
        from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient

        # It logs each silence as an error; ours are events, and counted.
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
        seconds = self._timeout_ms / 1000
        match self._link:
            case SerialLink(port=port, baud=baud, parity=parity, stop_bits=stop_bits):
                return AsyncModbusSerialClient(
                    port,
                    baudrate=baud,
                    parity=parity,
                    stopbits=stop_bits,
                    timeout=seconds,
                    retries=0,
                    reconnect_delay=0,
                )
            case TcpLink(host=host, port=number):
                return AsyncModbusTcpClient(host, port=number, timeout=seconds, retries=0, reconnect_delay=0)
            case _:
                assert_never(self._link)

    async def _ask(self, call: Any, what: str) -> Any:  # noqa: ANN401 - see `_open`
        from pymodbus.exceptions import ConnectionException, ModbusException

        self.counts.requests += 1
        try:
            answer = await call
        except ConnectionException as error:
            self.close()
            raise DeviceError(f"{self.name} was lost. {self._hint()}") from error
        except ModbusException as error:
            self._quiet_until_ms = self._now_ms() + self._timeout_ms
            if "No response" in str(error):
                self.counts.timeouts += 1
                raise DeviceTimeout(
                    f"{what}: no answer within {self._timeout_ms} ms; check address, wiring and line settings"
                ) from error
            self.counts.peer_errors += 1
            raise PeerError(f"{what}: {error}") from error
        except asyncio.CancelledError:
            self._quiet_until_ms = self._now_ms() + self._timeout_ms  # its answer may still come
            raise
        if answer.isError():
            self.counts.peer_errors += 1
            raise PeerError(f"{what}: the device refused with Modbus exception {answer.exception_code}")
        return answer

    def _hint(self) -> str:
        if isinstance(self._link, SerialLink):
            return "Is the adapter plugged in, and does no other program use it?"
        return "Is the gateway on, and is the address right?"
