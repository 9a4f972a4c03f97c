"""Meters read through the engine from a server made of libmodbus that holds their raw registers."""

import asyncio
import time
from pathlib import Path

import pytest

from edge.drivers.bus import ModbusBus
from edge.errors import PeerError
from edge.metering.modbus_meter import ModbusMeter
from edge.metering.profile import load_profile, parse
from edge.ports import Meter, MeterReading, SerialLink, TcpLink
from tests.wire import libmodbus
from tests.wire.serial_line import device, registers_answer, relay

pytestmark = pytest.mark.wire

UNIT = 17

SDM630_REGISTERS = {  # IEEE 754 by hand: 15.9 A, 16 A, 16.1 A, 11040 W, 12345.678 kWh
    6: 0x417E, 7: 0x6666, 8: 0x4180, 9: 0x0000, 10: 0x4180, 11: 0xCCCD,
    52: 0x462C, 53: 0x8000, 72: 0x4640, 73: 0xE6B6,
}  # fmt: skip


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def expected(asked_ms: int) -> MeterReading:
    return MeterReading(asked_ms, (15_900, 16_000, 16_100), 11_040_000, 12_345_678)


async def read_once(bus: ModbusBus, server: libmodbus.Server) -> None:
    await server.set("input", SDM630_REGISTERS)
    meter: Meter = ModbusMeter(bus, UNIT, load_profile("sdm630"))
    before_ms = now_ms()
    reading = await meter.read()
    assert before_ms <= reading.asked_ms <= now_ms()
    assert reading == expected(reading.asked_ms)
    assert bus.counts.requests == 1
    bus.close()


def test_an_sdm630_is_read_over_rtu_with_one_request() -> None:
    async def run() -> None:
        with relay() as (near, far):
            async with libmodbus.server("rtu", far.name, str(UNIT)) as server:
                link = SerialLink(near.name, 9_600, "N", 1)
                await read_once(ModbusBus(link, timeout_ms=5_000, min_gap_ms=100, now_ms=now_ms), server)

    asyncio.run(run())


def test_an_sdm630_is_read_over_tcp_with_one_request() -> None:
    async def run() -> None:
        async with libmodbus.server("tcp") as server:
            link = TcpLink("127.0.0.1", server.port)
            await read_once(ModbusBus(link, timeout_ms=5_000, min_gap_ms=0, now_ms=now_ms), server)

    asyncio.run(run())


TWO_READS = """
model = "two reads"
source = "this test"
phases = 1
word_order = "little"
byte_order = "big"
max_registers = 10
quantities.current_l1 = { table = "input", address = 0, type = "u32", unit = "mA" }
quantities.power_total = { table = "input", address = 2, type = "s16", unit = "W", scale = 10 }
quantities.energy_import = { table = "holding", address = 40, type = "u64", unit = "Wh", scale = 0.1 }
"""


def test_a_reading_of_several_reads_is_as_old_as_the_first_of_them(tmp_path: Path) -> None:
    async def run() -> None:
        with device(tmp_path / "line") as line:
            bus = ModbusBus(
                SerialLink(str(line.port), 9_600, "N", 1), timeout_ms=5_000, min_gap_ms=50, now_ms=now_ms
            )
            answered_ms: list[int] = []

            def answer(request: bytes) -> None:
                answered_ms.append(now_ms())
                values = [0x86A0, 1, 0xFFFE] if request[1] == 4 else [15, 0, 0, 0]
                line.send(registers_answer(UNIT, request[1], values))

            line.answer = answer
            reading = await ModbusMeter(bus, UNIT, parse(TWO_READS, "two reads")).read()
            assert reading == MeterReading(reading.asked_ms, (100_000, 0, 0), -20_000, 2)
            holding_first = line.requests[0][1] == 3
            assert [request[1] for request in line.requests] == ([3, 4] if holding_first else [4, 3])
            assert reading.asked_ms <= answered_ms[0] < answered_ms[1]
            bus.close()

    asyncio.run(run())


def test_a_meter_that_answers_nonsense_is_named_with_its_place_on_the_line(tmp_path: Path) -> None:
    async def run() -> None:
        with device(tmp_path / "line") as line:
            bus = ModbusBus(
                SerialLink(str(line.port), 9_600, "N", 1), timeout_ms=5_000, min_gap_ms=0, now_ms=now_ms
            )
            line.answer = lambda _: line.send(registers_answer(UNIT, 4, [0xFFFF] * 68))
            with pytest.raises(PeerError, match=f"unit {UNIT} on .*: Eastron SDM630.*is not available"):
                await ModbusMeter(bus, UNIT, load_profile("sdm630")).read()
            bus.close()

    asyncio.run(run())
