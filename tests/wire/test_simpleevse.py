"""The SimpleEVSE driver against a server made of libmodbus that holds the raw registers of the board."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.control.faults import CATALOGUE
from edge.drivers.bus import ModbusBus
from edge.drivers.simpleevse import SimpleEvse
from edge.errors import DeviceError, PeerError
from edge.events import Pilot
from edge.ports import Evse, SerialLink, TcpLink
from tests.wire import libmodbus
from tests.wire.serial_line import Device, device, registers_answer, with_crc

pytestmark = pytest.mark.wire

UNIT = 17
READY = {1000: 0, 1001: 0, 1002: 1, 1003: 0, 1004: 0, 1005: 17, 1006: 1, 1007: 0, 2000: 0, 2005: 0}

Board = libmodbus.Server


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def on_a_board(
    story: Callable[[SimpleEvse, Board], Coroutine[Any, Any, None]], *, max_ma: int = 32_000, **registers: int
) -> None:
    """Tell a story with the board's registers as at rest, but for those given as r1002=3."""

    async def run() -> None:
        async with libmodbus.server("tcp") as board:
            bus = ModbusBus(TcpLink("127.0.0.1", board.port), timeout_ms=5_000, min_gap_ms=0, now_ms=now_ms)
            await board.set("holding", READY | {int(name[1:]): value for name, value in registers.items()})
            await story(SimpleEvse(bus, UNIT, max_ma=max_ma), board)
            bus.close()

    asyncio.run(run())


def test_a_board_at_rest_reads_as_at_rest() -> None:
    async def story(evse: Evse, _: Board) -> None:
        before_ms = now_ms()
        look = await evse.read()
        assert before_ms <= look.asked_ms <= now_ms()
        assert (look.pilot, look.offer_ma, look.contactor_closed) == (Pilot.A, 0, False)
        assert look.cable_ma is None
        assert look.troubles == ()

    on_a_board(story)


@pytest.mark.parametrize(("state", "pilot"), [(1, "A"), (2, "B"), (3, "C"), (4, "D"), (5, "F")])
def test_each_vehicle_state_is_a_pilot_state(state: int, pilot: str) -> None:
    async def story(evse: SimpleEvse, _: Board) -> None:
        look = await evse.read()
        assert look.pilot == pilot
        assert look.troubles == (("evse_failure",) if pilot == "F" else ())

    on_a_board(story, r1002=state)


def test_what_flows_is_seen() -> None:
    async def story(evse: SimpleEvse, _: Board) -> None:
        look = await evse.read()
        assert (look.offer_ma, look.contactor_closed, look.cable_ma) == (13_000, True, 20_000)

    on_a_board(story, r1000=13, r1001=13, r1002=3, r1003=20, r1006=2, r1007=0b1)


@pytest.mark.parametrize(
    ("bits", "troubles"),
    [
        (0b000010, ("evse_diode",)),
        (0b000100, ("evse_ventilation",)),
        (0b001000, ()),
        (0b010000, ()),
        (0b100000, ("evse_rcd",)),
        (0b100110, ("evse_diode", "evse_rcd", "evse_ventilation")),
    ],
)
def test_the_troubles_of_the_board_are_faults_of_the_catalogue(bits: int, troubles: tuple[str, ...]) -> None:
    async def story(evse: SimpleEvse, _: Board) -> None:
        assert (await evse.read()).troubles == troubles
        assert set(troubles) <= set(CATALOGUE)

    on_a_board(story, r1002=2, r1007=bits)


def test_the_most_that_a_pilot_can_say_is_believed() -> None:
    async def story(evse: SimpleEvse, _: Board) -> None:
        look = await evse.read()
        assert (look.offer_ma, look.cable_ma) == (80_000, 80_000)

    on_a_board(story, r1000=80, r1003=80)


@pytest.mark.parametrize("wrong", [{"r1002": 0}, {"r1002": 6}, {"r1000": 81}, {"r1003": 81}])
def test_what_the_board_cannot_mean_is_refused(wrong: dict[str, int]) -> None:
    async def story(evse: SimpleEvse, _: Board) -> None:
        with pytest.raises(PeerError, match=f"unit {UNIT} on 127.0.0.1"):
            await evse.read()

    on_a_board(story, **wrong)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=st.lists(st.integers(0, 0xFFFF) | st.integers(0, 100), min_size=8, max_size=8))
def test_any_registers_are_a_reading_or_an_error_of_the_peer(tmp_path: Path, block: list[int]) -> None:
    async def run() -> None:
        with device(tmp_path / "line") as board:
            bus = ModbusBus(
                SerialLink(str(board.port), 115_200, "N", 1), timeout_ms=5_000, min_gap_ms=0, now_ms=now_ms
            )
            board.answer = lambda _: board.send(registers_answer(UNIT, 3, block))
            try:
                look = await SimpleEvse(bus, UNIT, max_ma=32_000).read()
            except PeerError:
                assert block[2] not in range(1, 6) or max(block[0], block[3]) > 80
            else:
                assert look.offer_ma == block[0] * 1_000 <= 80_000
                assert (look.cable_ma or 0) == block[3] * 1_000 <= 80_000
            bus.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("asked_ma", "written"),
    [(0, 0), (5_999, 0), (6_000, 6), (6_999, 6), (16_000, 16), (31_999, 31), (32_000, 32), (40_000, 32)],
)
def test_an_offer_is_rounded_down_and_never_above_the_rating(asked_ma: int, written: int) -> None:
    async def story(evse: SimpleEvse, board: Board) -> None:
        await evse.prepare()
        await evse.set_offer(asked_ma)
        assert await board.get(1000) == written
        assert (await evse.read()).offer_ma == written * 1_000

    on_a_board(story, r1000=7)


def test_an_offer_can_be_withdrawn_without_preparing_as_safe_off_does() -> None:
    async def story(evse: SimpleEvse, board: Board) -> None:
        await evse.set_offer(0)
        assert await board.get(1000) == 0

    on_a_board(story, r1000=16, r1002=3, r1007=1)


@pytest.mark.parametrize(
    ("firmware", "options", "written"),
    [(17, 1 << 7, 1_337), (18, 1 << 7, 1_337), (17, 0xFFFF ^ 1 << 7, 13), (16, 1 << 7, 13)],
)
def test_hundredths_are_used_where_the_board_has_them_switched_on(
    firmware: int, options: int, written: int
) -> None:
    async def story(evse: SimpleEvse, board: Board) -> None:
        await evse.prepare()
        await evse.set_offer(13_379)
        assert await board.get(1000) == written
        assert (await evse.read()).offer_ma == written * (10 if written > 80 else 1_000)

    on_a_board(story, r1005=firmware, r2005=options)


def test_a_rating_between_two_steps_is_kept() -> None:
    async def story(evse: SimpleEvse, board: Board) -> None:
        await evse.prepare()
        await evse.set_offer(32_000)
        assert await board.get(1000) == 15

    on_a_board(story, max_ma=15_500)


def test_a_board_from_the_factory_is_made_to_wake_up_at_nothing() -> None:
    async def story(evse: SimpleEvse, board: Board) -> None:
        await evse.prepare()
        assert await board.get(2000) == 0

    on_a_board(story, r2000=16)


@pytest.mark.parametrize("firmware", [0, 0xFFFF])
def test_what_has_no_firmware_is_no_such_board(firmware: int) -> None:
    async def story(evse: SimpleEvse, _: Board) -> None:
        with pytest.raises(PeerError, match="is it a SimpleEVSE"):
            await evse.prepare()

    on_a_board(story, r1005=firmware)


class Registers:
    """A board behind a scripted line: answers from `values`, notes what is written, may ignore it."""

    def __init__(self, line: Device, values: dict[int, int], *, stubborn: bool = False) -> None:
        self.values = values
        self.written: list[tuple[int, int]] = []
        self.read: list[int] = []
        self._line = line
        self._stubborn = stubborn
        line.answer = self._answer

    def _answer(self, request: bytes) -> None:
        unit, function, address = request[0], request[1], int.from_bytes(request[2:4], "big")
        if function == 16:
            value = int.from_bytes(request[7:9], "big")
            self.written.append((address, value))
            if not self._stubborn:
                self.values[address] = value
            self._line.send(with_crc(request[:6]))
            return
        self.read.append(address)
        if address in self.values:
            self._line.send(registers_answer(unit, 3, [self.values[address]]))
        else:
            self._line.send(with_crc(bytes([unit, 0x83, 2])))


def on_a_line(
    tmp_path: Path, values: dict[int, int], story: Callable[[SimpleEvse, Registers], Any], **manners: bool
) -> None:
    async def run() -> None:
        with device(tmp_path / "line") as line:
            bus = ModbusBus(
                SerialLink(str(line.port), 9_600, "N", 1), timeout_ms=5_000, min_gap_ms=0, now_ms=now_ms
            )
            await story(SimpleEvse(bus, UNIT, max_ma=32_000), Registers(line, values, **manners))
            bus.close()

    asyncio.run(run())


def test_the_eeprom_is_not_written_when_it_is_right_already(tmp_path: Path) -> None:
    async def story(evse: SimpleEvse, board: Registers) -> None:
        await evse.prepare()
        await evse.prepare()
        assert board.written == []

    on_a_line(tmp_path, {1005: 17, 2000: 0, 2005: 0}, story)


def test_the_eeprom_is_written_once_and_read_back(tmp_path: Path) -> None:
    async def story(evse: SimpleEvse, board: Registers) -> None:
        await evse.prepare()
        assert board.written == [(2000, 0)]
        assert board.read[-2:] == [2000, 2000]

    on_a_line(tmp_path, {1005: 17, 2000: 6, 2005: 0}, story)


def test_a_board_that_does_not_keep_what_is_written_is_refused(tmp_path: Path) -> None:
    async def story(evse: SimpleEvse, _: Registers) -> None:
        with pytest.raises(PeerError, match="after power-up stays at 6 A"):
            await evse.prepare()

    on_a_line(tmp_path, {1005: 17, 2000: 6, 2005: 0}, story, stubborn=True)


def test_an_old_board_without_the_options_register_is_served_in_whole_amperes(tmp_path: Path) -> None:
    async def story(evse: SimpleEvse, board: Registers) -> None:
        await evse.prepare()
        await evse.set_offer(13_900)
        assert board.written == [(1000, 13)]
        assert 2005 not in board.read

    on_a_line(tmp_path, {1005: 15, 2000: 0}, story)


def test_a_board_whose_wake_up_current_cannot_be_seen_is_refused(tmp_path: Path) -> None:
    async def story(evse: SimpleEvse, _: Registers) -> None:
        with pytest.raises(DeviceError, match="holding registers 2000 to 2000 with exception 2"):
            await evse.prepare()

    on_a_line(tmp_path, {1005: 15}, story)
