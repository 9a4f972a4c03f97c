"""The peers on real ptys and TCP ports, asked by clients of others: mbpoll (libmodbus) and pymodbus."""

import asyncio
import errno
import os
import re
import shutil
import struct
import termios
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ModbusIOException

from hal_mocks.evse import SimpleEvse
from hal_mocks.meter import Sdm630
from hal_mocks.modbus_rtu import crc16
from hal_mocks.vehicle import Vehicle
from hal_mocks.wires import Noise, SerialLine, TcpPort, run_world, serial_line, tcp_port
from hal_mocks.world import Circuit, Connector, World

pytestmark = pytest.mark.wire
needs_mbpoll = pytest.mark.skipif(shutil.which("mbpoll") is None, reason="mbpoll is not installed")

DEADLINE_S = 20
ADDRESS_LINE = re.compile(r"^\[(\d+)\]:\s+(\S+)", re.MULTILINE)
READ_VOLTAGE = bytes.fromhex("010400000002")
READ_VOLTAGE += crc16(READ_VOLTAGE)
VOLTAGE = bytes.fromhex("010404") + struct.pack(">f", 230.0)
VOLTAGE += crc16(VOLTAGE)


def run(main: Coroutine[object, object, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await main

    asyncio.run(in_time())


def make_meter() -> Sdm630:
    meter = Sdm630(unit=1, start_wh=1_234_500, serial_number=0x0109_8765)
    meter.feel(current_ma=(16_000, 6_500, 0))
    return meter


def tcp_arguments(port: TcpPort) -> list[str]:
    return ["-m", "tcp", "-p", str(port.number), "127.0.0.1"]


def rtu_arguments(line: SerialLine) -> list[str]:
    return ["-m", "rtu", "-b", "9600", "-P", "none", str(line.path)]


async def mbpoll(where: list[str], *options: str, write: int | None = None) -> dict[int, float]:
    """Run mbpoll once with 0-based addresses; return value by address."""
    arguments = [*where[:-1], *options, "-0", "-1", "-B", "-o", "2", where[-1]]
    if write is not None:
        arguments.append(str(write))
    process = await asyncio.create_subprocess_exec(
        "mbpoll", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return {int(address): float(value) for address, value in ADDRESS_LINE.findall(output.decode())}


async def check_with_mbpoll(where: list[str], evse: SimpleEvse) -> None:
    near = pytest.approx
    amps = await mbpoll(where, "-a", "1", "-t", "3:float", "-r", "6", "-c", "3")
    assert amps == {6: 16.0, 8: 6.5, 10: 0.0}
    kwh = await mbpoll(where, "-a", "1", "-t", "3:float", "-r", "72", "-c", "1")
    assert kwh == {72: near(1234.5)}
    serial = await mbpoll(where, "-a", "1", "-t", "4:int", "-r", "64512", "-c", "1")
    assert serial == {64512: 0x0109_8765}
    await mbpoll(where, "-a", "11", "-t", "4", "-r", "1000", write=16)
    assert evse.set_current_ma == 16_000
    assert await mbpoll(where, "-a", "11", "-t", "4", "-r", "1000", "-c", "3") == {1000: 16, 1001: 0, 1002: 1}


@needs_mbpoll
@pytest.mark.parametrize("baud", [None, 9600])
def test_mbpoll_reads_the_meter_and_writes_the_board_on_a_pty(tmp_path: Path, baud: int | None) -> None:
    async def main() -> None:
        evse = SimpleEvse(unit=11)
        async with serial_line(tmp_path / "bus", [make_meter(), evse], baud=baud) as line:
            await check_with_mbpoll(rtu_arguments(line), evse)
        assert not line.path.is_symlink()

    run(main())


@needs_mbpoll
def test_mbpoll_reads_the_meter_and_writes_the_board_over_tcp() -> None:
    async def main() -> None:
        evse = SimpleEvse(unit=11)
        async with tcp_port([make_meter(), evse]) as port:
            await check_with_mbpoll(tcp_arguments(port), evse)

    run(main())


Client = AsyncModbusSerialClient | AsyncModbusTcpClient


async def check_with_pymodbus(client: Client, evse: SimpleEvse) -> None:
    assert await client.connect()
    try:
        answer = await client.read_input_registers(0, count=76, device_id=1)
        volts = client.convert_from_registers(answer.registers[:6], client.DATATYPE.FLOAT32)
        assert volts == [230.0] * 3
        watts = client.convert_from_registers(answer.registers[52:54], client.DATATYPE.FLOAT32)
        assert watts == pytest.approx(230 * 22.5)
        assert not (await client.write_registers(1000, [13], device_id=11)).isError()
        assert not (await client.write_register(2005, 8, device_id=11)).isError()
        assert evse.set_current_ma == 13_000
        assert (await client.read_holding_registers(2005, count=1, device_id=11)).registers == [8]
        assert (await client.write_register(1001, 6, device_id=11)).exception_code == 2
        with pytest.raises(ModbusIOException, match="No response"):
            await client.read_holding_registers(0, count=1, device_id=77)
    finally:
        client.close()


def test_pymodbus_reads_and_writes_on_a_pty(tmp_path: Path) -> None:
    async def main() -> None:
        evse = SimpleEvse(unit=11)
        async with serial_line(tmp_path / "bus", [make_meter(), evse]) as line:
            client = AsyncModbusSerialClient(str(line.path), baudrate=9600, timeout=1, retries=0)
            await check_with_pymodbus(client, evse)

    run(main())


def test_pymodbus_reads_and_writes_over_tcp() -> None:
    async def main() -> None:
        evse = SimpleEvse(unit=11)
        async with tcp_port([make_meter(), evse]) as port:
            client = AsyncModbusTcpClient("127.0.0.1", port=port.number, timeout=1, retries=0)
            await check_with_pymodbus(client, evse)

    run(main())


class Terminal:
    """The master's end of a pty, raw, without a Modbus library."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._stream = asyncio.StreamReader()
        asyncio.get_running_loop().add_reader(self.fd, self._readable)

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)

    async def read(self, count: int) -> bytes:
        """Wait for so many bytes, or the end of the line."""
        try:
            return await self._stream.readexactly(count)
        except asyncio.IncompleteReadError as short:
            return short.partial

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.fd)
        os.close(self.fd)

    def _readable(self) -> None:
        try:
            data = os.read(self.fd, 4096)
        except OSError as error:
            if error.errno != errno.EIO:  # so Linux says that the other end of the pty is gone
                raise
            data = b""
        if data:
            self._stream.feed_data(data)
        else:
            self._stream.feed_eof()
            asyncio.get_running_loop().remove_reader(self.fd)


@asynccontextmanager
async def terminal(path: Path) -> AsyncIterator[Terminal]:
    opened = Terminal(path)
    try:
        yield opened
    finally:
        opened.close()


@settings(max_examples=25)
@given(st.binary(max_size=600))
def test_any_bytes_on_a_pty_are_survived_and_the_next_request_is_answered(noise: bytes) -> None:
    async def main() -> None:
        async with serial_line(path, [make_meter()]), terminal(path) as master:
            master.write(noise)
            master.write(READ_VOLTAGE)
            assert await master.read(len(VOLTAGE)) == VOLTAGE

    with TemporaryDirectory() as folder:
        path = Path(folder, "bus")
        run(main())


@settings(max_examples=25)
@given(st.binary(max_size=600))
def test_any_bytes_over_tcp_are_survived_and_the_next_connection_is_answered(noise: bytes) -> None:
    async def main() -> None:
        async with tcp_port([make_meter()]) as port:
            _, first = await asyncio.open_connection("127.0.0.1", port.number)
            reader, second = await asyncio.open_connection("127.0.0.1", port.number)
            first.write(noise)
            second.write(struct.pack(">HHH", 7, 0, 6) + READ_VOLTAGE[:-2])
            assert await reader.readexactly(13) == struct.pack(">HHH", 7, 0, 7) + VOLTAGE[:-2]
            for writer in (first, second):
                writer.close()
                await writer.wait_closed()

    run(main())


def test_an_adapter_pulled_out_ends_the_line_and_comes_back_at_the_same_path(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "bus"
        async with serial_line(path, [make_meter()]) as line:
            async with terminal(path) as master:
                before = path.readlink()
                line.unplug()
                assert await master.read(1) == b""
                assert not path.is_symlink()
                with pytest.raises(FileNotFoundError):
                    Terminal(path)
                line.replug()
                # the old pty is still held open by its master, so the new one is another
                assert path.readlink() != before
            async with terminal(path) as master:
                master.write(READ_VOLTAGE)
                assert await master.read(len(VOLTAGE)) == VOLTAGE

    run(main())


def test_a_pulled_network_plug_breaks_connections_and_the_port_comes_back_with_its_number() -> None:
    async def main() -> None:
        async with tcp_port([make_meter()]) as port:
            number = port.number
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(struct.pack(">HHH", 7, 0, 6) + READ_VOLTAGE[:-2])
            assert (await reader.readexactly(13))[6:] == VOLTAGE[:-2]
            await port.unplug()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", number)
            await port.replug()
            assert port.number == number
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(struct.pack(">HHH", 7, 0, 6) + READ_VOLTAGE[:-2])
            assert (await reader.readexactly(13))[6:] == VOLTAGE[:-2]
            writer.close()
            await writer.wait_closed()

    run(main())


def test_a_file_in_the_way_of_the_path_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bus").write_text("precious")

    async def main() -> None:
        with pytest.raises(FileExistsError):
            async with serial_line(tmp_path / "bus", []):
                pass

    run(main())
    assert (tmp_path / "bus").read_text() == "precious"


def test_a_paced_line_takes_the_time_of_its_baud_rate(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            serial_line(tmp_path / "bus", [make_meter()], baud=1200) as line,
            terminal(line.path) as master,
        ):
            start_s = time.monotonic()
            master.write(READ_VOLTAGE)
            assert await master.read(len(VOLTAGE)) == VOLTAGE
            wanted_s = (len(READ_VOLTAGE) + len(VOLTAGE)) * 10 / 1200
            assert wanted_s <= time.monotonic() - start_s

    run(main())


def test_injected_bytes_reach_the_master_and_a_delayed_answer_comes_late_and_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with serial_line(tmp_path / "bus", [make_meter()]) as line, terminal(line.path) as master:
            line.inject(b"\xff\x00")
            assert await master.read(2) == b"\xff\x00"
            line.faults.delay_ms, line.faults.split_bytes = 60, 4
            start_s = time.monotonic()
            master.write(READ_VOLTAGE)
            assert await master.read(len(VOLTAGE)) == VOLTAGE
            assert time.monotonic() - start_s >= 0.060

    run(main())


@given(st.binary(max_size=400), st.integers(0, 100))
def test_noise_is_the_same_for_the_same_seed_and_a_quiet_cable_has_none(data: bytes, seed: int) -> None:
    assert Noise(seed).through(data) == data
    assert Noise(seed, loss=1.0).through(data) == b""
    flipped = Noise(seed, flip=1.0).through(data)
    assert all((a ^ b).bit_count() == 1 for a, b in zip(data, flipped, strict=True))
    with_garbage = Noise(seed, garbage=1.0).through(data)
    assert with_garbage.endswith(data)
    assert 1 <= len(with_garbage) - len(data) <= 8
    bad = [Noise(seed, loss=0.1, flip=0.1, garbage=0.5) for _ in range(2)]
    assert [bad[0].through(data) for _ in range(3)] == [bad[1].through(data) for _ in range(3)]


def test_a_master_gets_its_answer_through_noise_if_it_asks_often_enough(tmp_path: Path) -> None:
    async def main() -> None:
        noise = Noise(seed=3, loss=0.02, flip=0.02, garbage=0.2)
        async with serial_line(tmp_path / "bus", [make_meter()], noise=noise) as line:
            client = AsyncModbusSerialClient(str(line.path), baudrate=9600, timeout=0.1, retries=50)
            assert await client.connect()
            answer = await client.read_input_registers(0, count=2, device_id=1)
            client.close()
            assert client.convert_from_registers(answer.registers, client.DATATYPE.FLOAT32) == 230.0
            assert line.line.requests > 0

    run(main())


def test_a_car_charges_in_real_time_after_a_master_wrote_the_current(tmp_path: Path) -> None:
    async def main() -> None:
        meter, evse = Sdm630(unit=1), SimpleEvse(unit=11)
        world = World([Circuit("site", (32_000,) * 3, meter=meter)], [Connector(1, "site", evse=evse)])
        world.plug(1, Vehicle(max_ma=16_000, lag_ms=500))
        passing = asyncio.create_task(run_world(world))
        async with serial_line(tmp_path / "bus", [meter, evse]) as line:
            client = AsyncModbusSerialClient(str(line.path), baudrate=9600, timeout=1)
            assert await client.connect()

            async def amps() -> object:
                registers = (await client.read_input_registers(6, count=2, device_id=1)).registers
                return client.convert_from_registers(registers, client.DATATYPE.FLOAT32)

            assert await amps() == 0.0
            start_s = time.monotonic()
            await client.write_register(1000, 16, device_id=11)
            while await amps() != 16.0:  # the answers pace the loop, `run` sets the deadline
                pass
            assert time.monotonic() - start_s >= 1.4  # S2, contactor and ramp take half a second each
            client.close()
        passing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await passing
        assert world.overloads["site"].worst_ma == 0

    run(main())


def test_a_pty_of_the_rig_is_raw_before_a_master_sets_it_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with serial_line(tmp_path / "bus", []) as line, terminal(line.path) as master:
            local_modes = termios.tcgetattr(master.fd)[3]
            assert not local_modes & (termios.ECHO | termios.ICANON)

    run(main())
