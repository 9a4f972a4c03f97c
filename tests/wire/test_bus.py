"""The owner of a Modbus line on real ptys and sockets: scripted devices, and a server made of libmodbus."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge.drivers.bus import REOPEN_FIRST_MS, ModbusBus, _Ear
from edge.drivers.question import (
    READ_HOLDING,
    READ_INPUT,
    WRITE_MANY,
    WRITE_ONE,
    find_in_rtu,
    find_in_tcp,
    reading,
    writing,
)
from edge.errors import DeviceError, DeviceTimeout, PeerError
from edge.ports import Link, SerialLink, TcpLink
from tests.wire import libmodbus
from tests.wire.serial_line import Device, device, registers_answer, relay, with_crc

pytestmark = pytest.mark.wire

PATIENT_MS = 5_000  # where an answer is expected: the machine may be busy
SHORT_MS = 150  # where silence is expected


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def bus_at(link: Link, timeout_ms: int = PATIENT_MS, gap_ms: int = 0) -> ModbusBus:
    return ModbusBus(link, timeout_ms=timeout_ms, min_gap_ms=gap_ms, now_ms=now_ms)


def serial(port: Path | str) -> SerialLink:
    return SerialLink(str(port), 115_200, "N", 1)


def on_a_line(
    tmp_path: Path,
    story: Callable[[Device, ModbusBus], Coroutine[Any, Any, None]],
    timeout_ms: int = PATIENT_MS,
    gap_ms: int = 0,
) -> None:
    async def run() -> None:
        with device(tmp_path / "line") as far_end:
            bus = bus_at(serial(far_end.port), timeout_ms, gap_ms)
            try:
                await story(far_end, bus)
            finally:
                bus.close()

    asyncio.run(run())


async def raised(work: Awaitable[object]) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        await work
    return caught.value


async def values(bus: ModbusBus, unit: int = 1, count: int = 1) -> tuple[int, ...]:
    return (await bus.read(unit, "input", 0, count))[1]


# --- what passes for an answer -------------------------------------------------------------------------


def independent_crc(body: bytes) -> int:
    return int.from_bytes(with_crc(body)[-2:], "big")


def answer_to(unit: int, function: int, count: int) -> bytes:
    return registers_answer(unit, function, list(range(count)))


@given(st.binary(max_size=300), st.integers(1, 247), st.sampled_from([3, 4]), st.integers(1, 125))
def test_any_bytes_on_a_serial_line_are_a_whole_true_frame_or_nothing(
    line: bytes, unit: int, function: int, count: int
) -> None:
    found = find_in_rtu(line, reading(unit, function, 0, count), independent_crc)
    if found:
        assert found in line
        assert found == with_crc(found[:-2])
        assert found[0] == unit
        assert found[1:3] == bytes([function, 2 * count]) or found[1] == function | 0x80


@given(st.binary(max_size=300), st.binary(min_size=2, max_size=2), st.integers(0, 255), st.integers(1, 125))
def test_any_bytes_on_a_connection_are_a_whole_true_frame_or_nothing(
    stream: bytes, transaction: bytes, unit: int, count: int
) -> None:
    found = find_in_tcp(stream, reading(unit, READ_INPUT, 0, count), transaction)
    if found:
        assert found.startswith(transaction + b"\0\0")
        assert len(found) == 6 + int.from_bytes(found[4:6], "big")


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(1, 247), st.integers(1, 60))
@example(b"\x01\x04", b"\x01\x84", 1, 2)
def test_an_answer_is_found_between_noise(before: bytes, after: bytes, unit: int, count: int) -> None:
    frame = answer_to(unit, READ_INPUT, count)
    line = before + frame + after
    assert find_in_rtu(line, reading(unit, READ_INPUT, 0, count), independent_crc) == frame


@given(st.integers(1, 247), st.integers(1, 60), st.data())
def test_an_answer_to_another_question_is_no_answer(unit: int, count: int, data: st.DataObject) -> None:
    other = data.draw(
        st.tuples(st.integers(1, 247), st.sampled_from([3, 4]), st.integers(1, 60)).filter(
            lambda asked: asked != (unit, READ_INPUT, count)
        )
    )
    assert not find_in_rtu(answer_to(*other), reading(unit, READ_INPUT, 0, count), independent_crc)


@given(st.integers(1, 247), st.integers(1, 60), st.data())
def test_an_answer_with_a_damaged_or_missing_byte_is_no_answer(
    unit: int, count: int, data: st.DataObject
) -> None:
    frame = bytearray(answer_to(unit, READ_INPUT, count))
    place = data.draw(st.integers(0, len(frame) - 1))
    question = reading(unit, READ_INPUT, 0, count)
    assert not find_in_rtu(bytes(frame[:place]), question, independent_crc)
    frame[place] ^= data.draw(st.integers(1, 255))
    assert not find_in_rtu(bytes(frame), question, independent_crc)


def test_a_frame_that_ends_too_early_is_no_answer_even_with_a_right_checksum() -> None:
    assert not find_in_rtu(with_crc(bytes([1, 4, 4, 0, 1])), reading(1, 4, 0, 2), independent_crc)


@given(st.integers(0, 255), st.integers(1, 60), st.binary(max_size=20), st.data())
def test_an_answer_over_tcp_is_found_when_it_is_whole(
    unit: int, count: int, before: bytes, data: st.DataObject
) -> None:
    frame = mbap(b"\x12\x34", answer_to(unit, READ_INPUT, count)[:-2])
    question = reading(unit, READ_INPUT, 0, count)
    assert find_in_tcp(before + frame + b"more", question, b"\x12\x34") == frame
    assert not find_in_tcp(before + frame, question, b"\x12\x35")
    part = data.draw(st.integers(0, len(frame) - 1))
    assert not find_in_tcp(before + frame[:part], question, b"\x12\x34")


def test_the_echo_of_a_write_of_many_is_not_taken_for_its_answer() -> None:
    question = writing(1, WRITE_MANY, 1000, [16])
    request = with_crc(bytes.fromhex("01 10 03e8 0001 02 0010"))
    answer = with_crc(bytes.fromhex("01 10 03e8 0001"))
    assert find_in_rtu(request, question, independent_crc) == b""
    assert find_in_rtu(request + answer, question, independent_crc) == answer
    assert find_in_rtu(with_crc(bytes.fromhex("01 06 03e8 0010")), question, independent_crc) == b""


def test_a_question_knows_what_it_costs_on_the_line() -> None:
    # clause 6.3: request 6 bytes, answer 3 + 2N; 6.12: request 7 + 2N, answer 6; 6.6: both 6; each with CRC
    assert reading(1, READ_HOLDING, 0, 76).rtu_bytes == 8 + 157
    assert writing(1, WRITE_MANY, 1000, [1, 2]).rtu_bytes == 13 + 8
    assert writing(1, WRITE_ONE, 1000, [1]).rtu_bytes == 16


# --- on a serial line ----------------------------------------------------------------------------------


def test_registers_come_as_asked_for(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: far_end.send(registers_answer(7, 4, [230, 65_535, 0]))
        before_ms = now_ms()
        asked_ms, registers = await bus.read(7, "input", 0x0102, 3)
        assert registers == (230, 65_535, 0)
        assert before_ms <= asked_ms <= now_ms()
        assert far_end.requests == [bytes.fromhex("07 04 0102 0003")]

    on_a_line(tmp_path, story)


def test_writes_use_function_16_and_function_6_on_demand(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda request: far_end.send(with_crc(request[:6]))
        await bus.write(1, 1000, [16])
        await bus.write(1, 1000, [16, 17])
        await bus.write(1, 1000, [16], single=True)
        assert far_end.requests == [
            bytes.fromhex("01 10 03e8 0001 02 0010"),
            bytes.fromhex("01 10 03e8 0002 04 0010 0011"),
            bytes.fromhex("01 06 03e8 0010"),
        ]

    on_a_line(tmp_path, story)


def test_a_request_that_no_frame_can_hold_is_refused_before_the_line(tmp_path: Path) -> None:
    bus = bus_at(serial(tmp_path / "line"))
    for work in (
        bus.read(1, "input", 0, 0),
        bus.read(1, "input", 0, 126),
        bus.write(1, 0, []),
        bus.write(1, 0, [0] * 124),
        bus.write(1, 0, [0, 0], single=True),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            asyncio.run(work)


def test_silence_is_a_timeout_that_says_what_to_look_at(tmp_path: Path) -> None:
    async def story(_far_end: Device, bus: ModbusBus) -> None:
        error = await raised(values(bus, unit=3))
        assert type(error) is DeviceTimeout
        assert str(error) == (
            f"unit 3 on {bus.name} did not answer input registers 0 to 0 within {SHORT_MS} ms;"
            " check its supply, address, wiring A/B and baud rate"
        )
        assert (bus.counts.requests, bus.counts.timeouts, bus.counts.peer_errors) == (1, 1, 0)

    on_a_line(tmp_path, story, SHORT_MS)


@pytest.mark.parametrize(
    "wrong",
    [
        registers_answer(8, 4, [1]),
        registers_answer(7, 3, [1]),
        registers_answer(7, 4, [1, 2]),
        registers_answer(7, 4, [1])[:-1] + b"\x00",
        registers_answer(7, 4, [1])[:-1],
        with_crc(bytes([7, 0x83, 2])),
        with_crc(bytes([7, 0x2B, 14, 1, 2, 3])),
        bytes(range(60)),
        b"\x07",
    ],
    ids="unit function length crc truncated other_exception other_protocol noise one_byte".split(),
)
def test_anything_but_the_answer_is_a_named_error_and_the_next_question_works(
    tmp_path: Path, wrong: bytes
) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: far_end.send(wrong)
        error = await raised(values(bus, unit=7))
        assert type(error) is PeerError
        assert f"{len(wrong)} bytes came" in str(error)
        assert (bus.counts.timeouts, bus.counts.peer_errors) == (0, 1)
        far_end.answer = lambda _: far_end.send(registers_answer(7, 4, [230]))
        assert await values(bus, unit=7) == (230,)

    on_a_line(tmp_path, story, SHORT_MS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(st.binary(min_size=1, max_size=400), max_size=4))
def test_any_bytes_on_the_wire_give_registers_or_one_named_error(tmp_path: Path, noise: list[bytes]) -> None:
    loop_errors: list[dict[str, Any]] = []

    async def story(far_end: Device, bus: ModbusBus) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: loop_errors.append(context))

        def answer(_: bytes) -> None:
            for piece in noise:
                far_end.send(piece)

        far_end.answer = answer
        try:
            assert len(await values(bus, count=2)) == 2
        except (DeviceTimeout, PeerError) as error:
            assert str(error)  # noqa: PT017 - an answer may be among any bytes

    on_a_line(tmp_path, story, 15)
    assert loop_errors == []


def test_an_answer_in_single_bytes_between_noise_is_understood(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        async def trickle() -> None:
            for byte in b"\x00\x01\x04" + registers_answer(1, 4, [42]):
                far_end.send(bytes([byte]))
                await asyncio.sleep(0.001)

        tasks: list[asyncio.Task[None]] = []
        far_end.answer = lambda _: tasks.append(asyncio.create_task(trickle()))
        assert await values(bus) == (42,)
        await asyncio.gather(*tasks)

    on_a_line(tmp_path, story)


def test_an_exception_is_an_error_of_the_peer_with_its_meaning(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: far_end.send(with_crc(bytes([1, 0x84, 2])))
        error = await raised(values(bus))
        assert type(error) is PeerError
        assert "exception 2: it has no such register" in str(error)
        far_end.answer = lambda _: far_end.send(with_crc(bytes([1, 0x84, 77])))
        assert "exception 77" in str(await raised(values(bus)))
        assert bus.counts.peer_errors == 2

    on_a_line(tmp_path, story)


def test_a_gateway_whose_device_is_silent_is_a_timeout(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: far_end.send(with_crc(bytes([1, 0x84, 11])))
        assert type(await raised(values(bus))) is DeviceTimeout
        assert bus.counts.timeouts == 1

    on_a_line(tmp_path, story)


LATE_MS = 300


def late_once(far_end: Device) -> None:
    """Answer the first question too late, the others slower than that one would come if they left at once."""
    late_ms = 1.5 * LATE_MS if len(far_end.requests) == 1 else 0.6 * LATE_MS
    far_end.send_later(late_ms / 1000, registers_answer(1, 4, [len(far_end.requests)]))


def test_a_late_answer_is_not_taken_for_the_answer_to_the_next_question(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: late_once(far_end)
        assert type(await raised(values(bus))) is DeviceTimeout
        assert await values(bus) == (2,)

    on_a_line(tmp_path, story, LATE_MS)


def test_the_answer_to_a_cancelled_question_is_not_taken_for_the_next_either(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        task = asyncio.create_task(values(bus))
        await far_end.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        far_end.send_later(0.3 * LATE_MS / 1000, registers_answer(1, 4, [1]))
        far_end.answer = lambda _: late_once(far_end)
        assert await values(bus) == (2,)

    on_a_line(tmp_path, story, LATE_MS)


def test_one_who_waited_in_the_queue_does_not_get_the_late_answer_of_the_one_before(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: late_once(far_end)
        error, second = await asyncio.gather(raised(values(bus)), values(bus))
        assert type(error) is DeviceTimeout
        assert second == (2,)

    on_a_line(tmp_path, story, LATE_MS)


def test_a_slow_line_is_given_the_time_its_bytes_need(tmp_path: Path) -> None:
    async def run() -> None:
        with device(tmp_path / "line") as far_end:
            bus = ModbusBus(  # 8 + 245 bytes of 10 bits at 1200 baud: 2.1 s
                SerialLink(str(far_end.port), 1_200, "N", 1), timeout_ms=100, min_gap_ms=0, now_ms=now_ms
            )
            far_end.answer = lambda _: far_end.send_later(0.5, registers_answer(1, 4, [0] * 120))
            assert len(await values(bus, count=120)) == 120
            bus.close()

    asyncio.run(run())


def test_a_silent_unit_holds_up_neither_the_others_nor_its_own_set_points(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        def answer(request: bytes) -> None:
            if request[:2] != b"\x01\x04":
                far_end.send(with_crc(request[:6]) if request[1] == 16 else registers_answer(2, 4, [2]))

        far_end.answer = answer
        await raised(values(bus, unit=1))
        again = asyncio.create_task(raised(values(bus, unit=1)))
        assert await values(bus, unit=2) == (2,)
        await bus.write(1, 1000, [0])
        assert [request[:2].hex() for request in far_end.requests] == ["0104", "0204", "0110"]
        await again
        assert len(far_end.requests) == 4

    on_a_line(tmp_path, story, 400)


def test_a_set_point_that_was_not_acknowledged_is_repeated_at_once(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        assert type(await raised(bus.write(1, 1000, [0]))) is DeviceTimeout
        far_end.answer = lambda request: far_end.send(with_crc(request[:6]))
        failed_ms = now_ms()
        await bus.write(1, 1000, [0])
        assert now_ms() - failed_ms < 1_000

    on_a_line(tmp_path, story, 1_000)


def test_set_points_overtake_polls_and_each_lane_keeps_its_order(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        def answer(request: bytes) -> None:
            if len(far_end.requests) > 1:
                reply(request)

        def reply(request: bytes) -> None:
            write = request[1] == 16
            far_end.send(with_crc(request[:6]) if write else registers_answer(request[0], 4, [0]))

        far_end.answer = answer
        work = [asyncio.create_task(values(bus, unit)) for unit in (1, 2, 3)]
        await far_end.asked.wait()
        writes = [asyncio.create_task(bus.write(unit, 1000, [0])) for unit in (11, 12)]
        await asyncio.sleep(0)
        reply(far_end.requests[0])
        await asyncio.gather(*work, *writes)
        assert [request[0] for request in far_end.requests] == [1, 11, 12, 2, 3]

    on_a_line(tmp_path, story)


def test_a_reading_is_as_old_as_the_moment_its_question_left_the_queue(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        answered_ms: list[int] = []

        def answer(request: bytes) -> None:
            far_end.send_later(0.05, registers_answer(request[0], 4, [0]))
            asyncio.get_running_loop().call_later(0.05, lambda: answered_ms.append(now_ms()))

        far_end.answer = answer
        (_, _), (second_ms, _) = await asyncio.gather(bus.read(1, "input", 0, 1), bus.read(2, "input", 0, 1))
        assert second_ms >= answered_ms[0] + 30

    on_a_line(tmp_path, story, gap_ms=30)


def test_someone_who_stops_waiting_for_the_line_does_not_stop_it(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda request: far_end.send_later(
            0.02, registers_answer(request[0], 4, [request[0]])
        )
        first, second, third = (asyncio.create_task(values(bus, unit)) for unit in (1, 2, 3))
        await asyncio.sleep(0)
        second.cancel()
        assert await first == (1,)
        assert await third == (3,)
        with pytest.raises(asyncio.CancelledError):
            await second
        assert [request[0] for request in far_end.requests] == [1, 3]

    on_a_line(tmp_path, story)


def test_a_cancellation_in_the_same_turn_of_the_loop_as_the_answer_is_seen_through(tmp_path: Path) -> None:
    async def run() -> None:
        with device(tmp_path / "line") as far_end:
            loop = asyncio.get_running_loop()

            def clock() -> int:
                """The bus looks at the clock when bytes come, just before it wakes who waits for them."""
                if far_end.asked.is_set():
                    far_end.asked.clear()
                    loop.call_soon(task.cancel)
                return now_ms()

            async def poll() -> None:
                while True:
                    await values(bus)

            bus = ModbusBus(serial(far_end.port), timeout_ms=PATIENT_MS, min_gap_ms=0, now_ms=clock)
            far_end.answer = lambda _: far_end.send(registers_answer(1, 4, [1]))
            task = asyncio.create_task(poll())
            await asyncio.wait([task], timeout=PATIENT_MS / 1000)
            assert task.cancelled()
            bus.close()

    asyncio.run(run())


def test_a_cancellation_at_any_moment_leaves_a_line_that_works(tmp_path: Path) -> None:
    loop_errors: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: loop_errors.append(context))
        with device(tmp_path / "line") as far_end:
            far_end.answer = lambda _: far_end.send(registers_answer(1, 4, [1]))
            for turns in range(15):
                bus = bus_at(serial(far_end.port))
                task = asyncio.create_task(values(bus))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task], timeout=PATIENT_MS / 1000)
                assert task.done()
                bus.close()
            bus = bus_at(serial(far_end.port))
            assert await values(bus) == (1,)
            bus.close()

    asyncio.run(run())
    assert loop_errors == []


def test_a_port_lost_in_the_moment_the_time_is_up_ends_like_any_other_timeout() -> None:
    async def run() -> None:
        ear = _Ear(serial("line"), now_ms)
        async with asyncio.timeout(0) as deadline:
            ear.listen_for(reading(1, READ_INPUT, 0, 1), deadline)
            try:
                await asyncio.sleep(PATIENT_MS / 1000)
            except asyncio.CancelledError:
                ear.connection(connected=False)
                raise

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_one_who_gives_up_just_as_he_gets_the_line_passes_it_on(tmp_path: Path) -> None:
    async def run() -> None:
        bus = bus_at(serial(tmp_path / "line"))

        async def hold() -> None:
            await bus._take_turn(urgent=False)
            bus._pass_on()

        await bus._take_turn(urgent=False)
        second, third = asyncio.create_task(hold()), asyncio.create_task(hold())
        await asyncio.sleep(0)
        bus._pass_on()
        second.cancel()
        await asyncio.wait_for(third, PATIENT_MS / 1000)
        assert second.cancelled()

    asyncio.run(run())


def test_a_deadline_of_the_caller_ends_the_question(tmp_path: Path) -> None:
    async def story(_far_end: Device, bus: ModbusBus) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await values(bus)

    on_a_line(tmp_path, story)


def test_a_line_that_never_falls_silent_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: far_end.send(registers_answer(1, 4, [1]))
        await values(bus)

        async def babble() -> None:
            while True:
                far_end.send(b"\x55")
                await asyncio.sleep(0.005)

        babbling = asyncio.create_task(babble())
        error = await raised(values(bus))
        babbling.cancel()
        assert type(error) is PeerError
        assert "never falls silent" in str(error)
        assert await values(bus) == (1,)

    on_a_line(tmp_path, story, SHORT_MS, gap_ms=100)


def test_an_unplugged_port_fails_at_once_and_works_again_when_it_is_back(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: far_end.send(registers_answer(1, 4, [1]))
        assert await values(bus) == (1,)
        far_end.unplug()
        assert "does not exist" in str(await raised(values(bus)))
        began_ms = now_ms()
        for _ in range(20):  # in back-off: nobody waits, nothing is tried
            assert "does not exist" in str(await raised(values(bus)))
        assert now_ms() - began_ms < REOPEN_FIRST_MS
        far_end.plug_in()
        await asyncio.sleep(REOPEN_FIRST_MS / 1000)
        assert await values(bus) == (1,)
        assert bus.counts.opened == 2

    on_a_line(tmp_path, story)


def test_a_port_pulled_in_the_middle_of_a_question_is_lost_and_not_a_silent_device(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: far_end.unplug()
        began_ms = now_ms()
        error = await raised(values(bus))
        assert type(error) is DeviceError
        assert "was lost" in str(error)
        assert now_ms() - began_ms < PATIENT_MS

    on_a_line(tmp_path, story)


def test_back_off_grows_while_the_port_is_away(tmp_path: Path) -> None:
    clock_ms = 1_000
    bus = ModbusBus(serial(tmp_path / "none"), timeout_ms=100, min_gap_ms=0, now_ms=lambda: clock_ms)

    def tries(until_ms: int) -> list[int]:
        """When the port was looked for."""
        nonlocal clock_ms
        tried = []
        while clock_ms < until_ms:
            bus._closed_text = "not tried"
            if "not tried" not in str(asyncio.run(raised(values(bus)))):
                tried.append(clock_ms)
            clock_ms += 100
        return tried

    assert tries(17_000) == [1_000, 1_200, 1_600, 2_400, 4_000, 7_200, 12_200]


def test_a_second_program_on_the_port_is_told_so(tmp_path: Path) -> None:
    async def story(far_end: Device, bus: ModbusBus) -> None:
        far_end.answer = lambda _: far_end.send(registers_answer(1, 4, [1]))
        await values(bus)
        second = bus_at(serial(far_end.port))
        assert "Another program uses it" in str(await raised(values(second)))
        assert await values(bus) == (1,)

    on_a_line(tmp_path, story)


def test_the_library_below_logs_nothing_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(raised(values(bus_at(serial(tmp_path / "none")))))
    assert caplog.records == []


def test_what_is_no_serial_line_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = asyncio.run(raised(values(bus_at(serial(tmp_path / "file")))))
    assert type(error) is DeviceError
    assert "is no serial line" in str(error)


# --- against libmodbus ---------------------------------------------------------------------------------


def against_libmodbus(story: Callable[[ModbusBus, libmodbus.Server], Coroutine[Any, Any, None]]) -> None:
    """Tell the same story over RTU and over TCP; the server is unit 17."""

    async def rtu() -> None:
        with relay() as (near, far):
            async with libmodbus.server("rtu", far.name, "17") as server:
                bus = bus_at(SerialLink(near.name, 9_600, "N", 1))
                await story(bus, server)
                bus.close()

    async def tcp() -> None:
        async with libmodbus.server("tcp") as server:
            bus = bus_at(TcpLink("127.0.0.1", server.port))
            await story(bus, server)
            bus.close()

    asyncio.run(rtu())
    asyncio.run(tcp())


def test_libmodbus_understands_us_and_we_understand_it() -> None:
    async def story(bus: ModbusBus, server: libmodbus.Server) -> None:
        await server.set("input", {0: 0x4366, 1: 0x199A, 124: 7})
        await server.set("holding", {1000: 16})
        _, registers = await bus.read(17, "input", 0, 125)
        assert (registers[0], registers[1], registers[124]) == (0x4366, 0x199A, 7)
        assert (await bus.read(17, "holding", 1000, 1))[1] == (16,)
        await bus.write(17, 1000, [6])
        await bus.write(17, 2000, list(range(123)))
        await bus.write(17, 1001, [13], single=True)
        assert [await server.get(address) for address in (1000, 1001, 2122)] == [6, 13, 122]
        error = await raised(bus.read(17, "holding", 4_096, 1))
        assert type(error) is PeerError
        assert "exception 2" in str(error)
        assert bus.counts.opened == 1

    against_libmodbus(story)


def test_libmodbus_stays_silent_for_another_unit() -> None:
    async def run() -> None:
        with relay() as (near, far):
            async with libmodbus.server("rtu", far.name, "17"):
                bus = bus_at(SerialLink(near.name, 9_600, "N", 1), SHORT_MS)
                assert type(await raised(values(bus, unit=18))) is DeviceTimeout
                bus.close()

    asyncio.run(run())


# --- over TCP ------------------------------------------------------------------------------------------


class Gateway:
    """A TCP server with scripted answers; `answer` gets transaction, PDU with unit id, and the writer."""

    def __init__(self) -> None:
        self.connections = 0
        self.answer: Callable[[bytes, bytes, asyncio.StreamWriter], None] = lambda *_: None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                header = await reader.readexactly(6)
                body = await reader.readexactly(int.from_bytes(header[4:6], "big"))
                self.answer(header[:2], body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def mbap(transaction: bytes, body: bytes) -> bytes:
    return transaction + b"\0\0" + len(body).to_bytes(2, "big") + body


def behind_a_gateway(
    story: Callable[[Gateway, ModbusBus], Coroutine[Any, Any, None]], timeout_ms: int = PATIENT_MS
) -> None:
    async def run() -> None:
        gateway = Gateway()
        listener = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
        bus = bus_at(TcpLink("127.0.0.1", listener.sockets[0].getsockname()[1]), timeout_ms)
        try:
            await story(gateway, bus)
        finally:
            bus.close()
            listener.close()
            await listener.wait_closed()
            await asyncio.sleep(0.01)  # the far ends see the goodbye

    asyncio.run(run())


ANSWER = bytes([1, 4, 2, 0, 42])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda transaction: mbap(bytes([transaction[0], transaction[1] ^ 1]), ANSWER),
        lambda transaction: mbap(transaction, bytes([2]) + ANSWER[1:]),
        lambda transaction: mbap(transaction, bytes([1, 3]) + ANSWER[2:]),
        lambda transaction: mbap(transaction, bytes([1, 4, 4, 0, 42])),
        lambda transaction: mbap(transaction, bytes([1, 4, 3, 0, 42, 0])),
        lambda transaction: mbap(transaction, bytes([1, 0x2B, 14, 1, 2])),
        lambda transaction: mbap(transaction, ANSWER)[:-1],
        lambda transaction: transaction + b"\0\1" + mbap(transaction, ANSWER)[4:],
        lambda transaction: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids="transaction unit function length odd_length other_protocol truncated protocol http".split(),
)
def test_anything_but_the_answer_over_tcp_is_a_named_error_and_the_next_question_works(
    wrong: Callable[[bytes], bytes],
) -> None:
    loop_errors: list[dict[str, Any]] = []

    async def story(gateway: Gateway, bus: ModbusBus) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: loop_errors.append(context))
        gateway.answer = lambda transaction, _, writer: writer.write(wrong(transaction))
        error = await raised(values(bus))
        assert type(error) is PeerError
        gateway.answer = lambda transaction, _, writer: writer.write(mbap(transaction, ANSWER))
        assert await values(bus) == (42,)
        assert gateway.connections == 2

    behind_a_gateway(story, SHORT_MS)
    assert loop_errors == []


def test_a_connection_that_failed_to_answer_is_replaced_so_nothing_late_comes_through_it() -> None:
    async def story(gateway: Gateway, bus: ModbusBus) -> None:
        writers: list[asyncio.StreamWriter] = []
        gateway.answer = lambda _transaction, _body, writer: writers.append(writer)
        assert type(await raised(values(bus))) is DeviceTimeout

        def answer_both(transaction: bytes, _: bytes, writer: asyncio.StreamWriter) -> None:
            writers[0].write(mbap(transaction, ANSWER[:-1] + b"\x01"))
            writer.write(mbap(transaction, ANSWER))

        gateway.answer = answer_both
        assert await values(bus) == (42,)
        assert gateway.connections == 2

    behind_a_gateway(story, SHORT_MS)


def test_a_gateway_that_hangs_up_is_lost_and_asked_again_over_a_new_connection() -> None:
    async def story(gateway: Gateway, bus: ModbusBus) -> None:
        gateway.answer = lambda _transaction, _body, writer: writer.close()
        began_ms = now_ms()
        assert type(await raised(values(bus))) is DeviceError
        assert now_ms() - began_ms < PATIENT_MS
        gateway.answer = lambda transaction, _, writer: writer.write(mbap(transaction, ANSWER))
        assert await values(bus) == (42,)

    behind_a_gateway(story)


def test_a_gateway_that_hangs_up_between_two_questions_goes_unnoticed() -> None:
    loop_errors: list[dict[str, Any]] = []

    async def story(gateway: Gateway, bus: ModbusBus) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: loop_errors.append(context))

        def answer_and_hang_up(transaction: bytes, _: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(mbap(transaction, ANSWER))
            asyncio.get_running_loop().call_later(0.02, writer.close)

        gateway.answer = answer_and_hang_up
        assert await values(bus) == (42,)
        while bus._client is not None and bus._client.connected:
            await asyncio.sleep(0.01)
        assert await values(bus) == (42,)
        assert gateway.connections == 2

    behind_a_gateway(story)
    assert loop_errors == []


def test_a_gateway_that_nobody_runs_is_said_to_be_closed() -> None:
    async def run() -> None:
        listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        listener.close()
        await listener.wait_closed()
        error = await raised(values(bus_at(TcpLink("127.0.0.1", port))))
        assert type(error) is DeviceError
        assert f"127.0.0.1:{port} cannot be opened" in str(error)

    asyncio.run(run())
