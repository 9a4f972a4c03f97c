"""A serial line in memory: bytes need their time, and every fault of a line is there."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import serial

from hal_mocks.memory_serial import MemoryLine, Serial, close_lines, open_lines
from hal_mocks.meter import Sdm630
from hal_mocks.modbus_rtu import crc16
from hal_mocks.virtual_time import VirtualTimeLoop
from hal_mocks.wires import Noise

BAUD = 9600
BODY = bytes((1, 4, 0, 0, 0, 2))
VOLTAGE = BODY + crc16(BODY)
"""Unit 1: the two input registers of the voltage of L1."""

ANSWER_BYTES = 9
ROUND_MS = (len(VOLTAGE) + ANSWER_BYTES) * 10 * 1000 / BAUD


class Master:
    """A port of the line, which notes when something came."""

    def __init__(self, loop: VirtualTimeLoop, name: str = "meters") -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.broken = False
        self.port = Serial(f"virtual://{name}")
        self._loop = loop
        self.port.open()
        loop.add_reader(self.port.fileno(), self._read)

    def _read(self) -> None:
        try:
            self.heard.append((self._loop.agenda.now_us / 1000, self.port.read(256)))
        except serial.SerialException:
            self.broken = True


@contextmanager
def site() -> Iterator[tuple[VirtualTimeLoop, MemoryLine]]:
    loop = VirtualTimeLoop()
    line = MemoryLine(loop.agenda, lambda: None, lambda: None, [Sdm630(1)], baud=BAUD)
    open_lines(loop, {"meters": line})
    try:
        yield loop, line
    finally:
        close_lines(loop)
        loop.close()


def ask(loop: VirtualTimeLoop, *, master: list[Master] | None = None) -> list[tuple[float, bytes]]:
    """Ask for the voltage and return what came within a second."""

    async def exchange() -> list[tuple[float, bytes]]:
        one = Master(loop)
        if master is not None:
            master.append(one)
        one.port.write(VOLTAGE)
        await asyncio.sleep(1)
        one.port.close()
        return one.heard

    return loop.run_until_complete(exchange())


def is_sound(frame: bytes) -> bool:
    return len(frame) == ANSWER_BYTES and crc16(frame[:-2]) == frame[-2:]


def test_an_answer_comes_when_its_last_byte_does() -> None:
    with site() as (loop, _line):
        ((at_ms, frame),) = ask(loop)
        assert is_sound(frame)
        assert at_ms == pytest.approx(ROUND_MS, abs=0.1)


def test_an_adapter_that_is_pulled_breaks_its_port_and_is_gone_until_it_is_plugged_in() -> None:
    with site() as (loop, line):
        masters: list[Master] = []
        loop.agenda.at_ms(5, line.unplug)  # while the question is under way
        assert ask(loop, master=masters) == []
        assert masters[0].broken
        with pytest.raises(serial.SerialException, match="no such device"):
            ask(loop)
        line.replug()
        assert len(ask(loop)) == 1


def test_a_port_is_exclusive_and_another_name_is_no_device() -> None:
    with site() as (loop, _line):

        async def open_two() -> None:
            Master(loop)
            with pytest.raises(serial.SerialException, match="exclusively"):
                Master(loop)
            with pytest.raises(serial.SerialException, match="no such device"):
                Master(loop, "nowhere")

        loop.run_until_complete(open_two())


@pytest.mark.parametrize("noise", [Noise(seed=1, loss=0.3), Noise(seed=1, flip=0.3)], ids=["lost", "flipped"])
def test_noise_leaves_no_sound_answer(noise: Noise) -> None:
    with site() as (loop, line):
        line.noise = noise
        assert not any(is_sound(frame) for _, frame in ask(loop))


def test_the_faults_of_a_line_are_those_of_all_its_devices() -> None:
    with site() as (loop, line):
        line.faults.delay_ms = 100
        ((late_ms, _),) = ask(loop)
        assert late_ms == pytest.approx(ROUND_MS + 100, abs=1)
        line.faults.delay_ms, line.faults.split_bytes = 0, 5
        pieces = [frame for _, frame in ask(loop)]
        assert [len(piece) for piece in pieces] == [5, 4]
        assert is_sound(b"".join(pieces))
        line.faults.silent = True
        assert ask(loop) == []


def test_bytes_nobody_asked_for_arrive_as_well() -> None:
    with site() as (loop, line):

        async def listen() -> list[bytes]:
            master = Master(loop)
            line.inject(b"\x00\xff")
            await asyncio.sleep(1)
            return [data for _, data in master.heard]

        assert loop.run_until_complete(listen()) == [b"\x00\xff"]
