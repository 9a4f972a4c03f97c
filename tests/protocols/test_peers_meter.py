"""The Modbus slave framing and the SDM630 of the rig: any bytes in, exact energy out."""

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hal_mocks.evse import SimpleEvse
from hal_mocks.meter import NJ_PER_MWH, Phases, Sdm630
from hal_mocks.modbus_rtu import RTU_GAP_MS, TCP_GAP_MS, Chunk, Line, RtuSlaves, TcpSlaves, crc16


@dataclass(frozen=True)
class Read:
    """A read request as it goes out, without framing."""

    unit: int
    function: int
    start: int
    count: int

    @property
    def body(self) -> bytes:
        return struct.pack(">BBHH", self.unit, self.function, self.start, self.count)


VOLTAGE_L1 = Read(1, 4, 0, 2)
GOOD = VOLTAGE_L1.body + crc16(VOLTAGE_L1.body)
GOOD_ANSWER = bytes.fromhex("010404") + struct.pack(">f", 230.0)
GOOD_TCP = struct.pack(">HHH", 7, 0, 6) + VOLTAGE_L1.body

amps = st.integers(0, 80_000)
currents = st.tuples(amps, amps, amps)


def ask(line: Line, request: Read, at_ms: int = 0) -> bytes | None:
    """Return the PDU of the answer."""
    answer = line.answer(request.unit, request.body[1:], at_ms)
    return None if answer is None else answer.pdu


def floats(line: Line, start: int, count: int = 1) -> tuple[float, ...]:
    pdu = ask(line, Read(1, 4, start, 2 * count))
    assert pdu is not None
    assert pdu[:2] == bytes((4, 4 * count))
    return struct.unpack(f">{count}f", pdu[2:])


def sent(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


def near(value: float) -> object:
    """Compare as a 32-bit float can."""
    return pytest.approx(value, rel=1e-6)


def test_the_crc_is_that_of_the_serial_line_guide() -> None:
    # MODBUS over Serial Line V1.02, appendix B: the CRC of 02 07 is 1241h, sent low byte first.
    assert crc16(bytes.fromhex("0207")) == bytes.fromhex("4112")


@given(st.binary(max_size=300), st.integers(0, 100))
def test_any_bytes_on_the_line_are_survived_and_the_next_request_is_answered(
    noise: bytes, pause: int
) -> None:
    slaves = RtuSlaves(Line([Sdm630(unit=1)]))
    slaves.feed(noise, 0)
    assert sent(slaves.feed(GOOD, pause)) == GOOD_ANSWER + crc16(GOOD_ANSWER)


@given(st.binary(max_size=300))
def test_any_bytes_on_a_tcp_connection_are_survived_and_the_next_request_is_answered(noise: bytes) -> None:
    slaves = TcpSlaves(Line([Sdm630(unit=1)]))
    slaves.feed(noise, 0)
    assert sent(slaves.feed(GOOD_TCP, TCP_GAP_MS)) == struct.pack(">HHH", 7, 0, 7) + GOOD_ANSWER


some_pdus = st.builds(
    lambda function, rest: bytes((function,)) + rest,
    st.sampled_from([3, 4, 6, 16, 0, 1, 43, 131, 255]),
    st.binary(max_size=252),
)


@given(st.sampled_from([0, 1, 2, 3, 255]), some_pdus)
def test_any_request_in_a_good_frame_gives_an_answer_of_its_function_or_silence(
    unit: int, pdu: bytes
) -> None:
    answer = Line([Sdm630(unit=1), Sdm630(unit=2)]).answer(unit, pdu, 0)
    if unit in (1, 2):
        assert answer is not None
        assert answer.pdu[0] & 0x7F == pdu[0] & 0x7F
        assert len(answer.pdu) <= 253
    else:
        assert answer is None


@given(
    st.lists(st.sampled_from([GOOD, GOOD[:5], GOOD_TCP, b"\x01\x10\x00\x00\x00\x10\x20", b"\xff\x00\x01"])),
    st.lists(st.integers(1, 9)),
    st.sampled_from([RtuSlaves, TcpSlaves]),
)
def test_bytes_in_any_pieces_give_the_same_answers(
    parts: list[bytes], sizes: list[int], slaves: type[RtuSlaves] | type[TcpSlaves]
) -> None:
    stream = b"".join(parts)
    whole = slaves(Line([Sdm630(unit=1)])).feed(stream, 0)
    pieces, in_pieces = stream, slaves(Line([Sdm630(unit=1)]))
    answers: list[Chunk] = []
    for size in sizes:
        answers += in_pieces.feed(pieces[:size], 0)
        pieces = pieces[size:]
    for byte in pieces:
        answers += in_pieces.feed(bytes((byte,)), 0)
    assert answers == whole
    if slaves is RtuSlaves and not set(parts) - {GOOD, b"\xff\x00\x01"}:
        assert len(answers) == parts.count(GOOD)


def test_a_request_behind_bytes_that_begin_no_frame_is_answered_without_a_pause() -> None:
    meter = Sdm630(unit=1)
    assert sent(RtuSlaves(Line([meter])).feed(b"\xff\x00\x10" + GOOD, 0))[:-2] == GOOD_ANSWER
    assert sent(TcpSlaves(Line([meter])).feed(b"\xff\x00\x10" + GOOD_TCP, 0))[6:] == GOOD_ANSWER


@pytest.mark.parametrize(
    "pdu",
    [
        "10 07D0 0001 02 00",  # one byte short
        "10 07D0 0001 02 0000 00",
        "10 07D0 0001 04 0000",  # the counts do not agree
        "10 07D0 0000 00",
        "10 07D0 007C F8" + 124 * "0000",  # one register more than the standard has
        "10 07D0",
        "06 07D0 0000 00",
        "06 07D0",
        "03 07D0",
        "04 0000 0002 00",
    ],
)
def test_a_request_of_the_wrong_length_is_refused_as_an_illegal_value(pdu: str) -> None:
    request = bytes.fromhex(pdu)
    answer = Line([SimpleEvse(unit=1)]).answer(1, request, 0)
    assert answer is not None
    assert answer.pdu == bytes((request[0] | 0x80, 3))


def test_a_half_request_is_forgotten_after_a_pause() -> None:
    slaves = RtuSlaves(Line([Sdm630(unit=1)]))
    slaves.feed(GOOD[:4], 0)
    assert slaves.feed(GOOD[4:], RTU_GAP_MS) == []
    slaves.feed(GOOD[:4], 1000)
    assert slaves.feed(GOOD[4:], 1000 + RTU_GAP_MS - 1) != []


@pytest.mark.parametrize("place", range(8))
def test_a_request_with_one_wrong_byte_is_met_with_silence(place: int) -> None:
    spoilt = bytearray(GOOD)
    spoilt[place] ^= 0x10
    assert RtuSlaves(Line([Sdm630(unit=1)])).feed(bytes(spoilt), 0) == []


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (Read(1, 1, 0, 2), "8101"),  # function 1 is none of a meter's
        (Read(1, 4, 382, 2), "8402"),  # behind the last parameter
        (Read(1, 4, 1, 2), "8402"),  # half a float
        (Read(1, 4, 0, 3), "8402"),
        (Read(1, 4, 0, 82), "8403"),  # more than 40 parameters
        (Read(1, 4, 0, 0), "8403"),
        (Read(1, 4, 0, 126), "8403"),
        (Read(1, 4, 0xFFFF, 2), "8402"),
        (Read(1, 3, 500, 2), "8302"),
        (Read(1, 6, 20, 5), "8602"),  # settings are locked
    ],
)
def test_what_a_meter_cannot_do_is_refused_with_the_exception_of_the_standard(
    request_: Read, answer: str
) -> None:
    assert ask(Line([Sdm630(unit=1)]), request_) == bytes.fromhex(answer)


def test_an_unknown_function_of_unknown_length_is_refused_when_it_stands_alone() -> None:
    body = bytes.fromhex("0141AABBCC")
    assert sent(RtuSlaves(Line([Sdm630(unit=1)])).feed(body + crc16(body), 0))[:3] == bytes.fromhex("01C101")


def test_registers_hold_what_is_measured() -> None:
    meter = Sdm630(unit=1, start_wh=1_234_560, serial_number=0x0109_8765)
    meter.feel(current_ma=(16_000, 6_500, 0), voltage_mv=(231_000, 229_500, 230_000))
    line = Line([meter])
    assert floats(line, 0, 6) == (231.0, 229.5, 230.0, 16.0, 6.5, 0.0)
    assert floats(line, 12, 3) == near_all(3696.0, 1491.75, 0.0)
    assert floats(line, 52) == near_all(5187.75)
    assert floats(line, 70, 2) == near_all(50.0, 1234.56)
    assert floats(line, 342) == near_all(1234.56)
    assert sum(floats(line, 346, 3)) == near(1234.56)
    assert len(floats(line, 0, 40)) == 40
    assert ask(line, Read(1, 3, 64512, 2)) == bytes.fromhex("030401098765")


def near_all(*values: float) -> tuple[object, ...]:
    return tuple(near(value) for value in values)


@given(st.lists(st.tuples(currents, st.integers(0, 10_000_000)), max_size=20), st.integers(0, 10**6))
def test_the_register_rises_by_exactly_the_integral_of_power(
    load: list[tuple[Phases, int]], start_wh: int
) -> None:
    meter = Sdm630(unit=1, start_wh=start_wh)
    before = meter.register_nj
    for current_ma, duration_ms in load:
        meter.feel(current_ma=current_ma)
        meter.accumulate(duration_ms)
    assert meter.register_nj - before == sum(230_000 * sum(ma) * duration for ma, duration in load)
    assert meter.energy_mwh == meter.register_nj // NJ_PER_MWH
    assert floats(Line([meter]), 72) == near_all(meter.register_nj / 3.6e15)


def test_a_kilowatt_hour_is_a_kilowatt_for_an_hour() -> None:
    meter = Sdm630(unit=1)
    meter.feel(current_ma=(10_000, 0, 0), voltage_mv=(100_000, 0, 0))
    meter.accumulate(3_600_000)
    assert meter.energy_mwh == 1_000_000


@given(st.integers(-10_000, 10_000))
def test_a_register_that_jumps_never_falls_below_zero_and_the_truth_stays(jump_wh: int) -> None:
    meter = Sdm630(unit=1, start_wh=5_000)
    meter.feel(current_ma=(10_000, 0, 0))
    meter.accumulate(3_600_000)
    flow = sum(meter.flow_nj)
    meter.jump_wh(jump_wh)
    assert meter.energy_mwh == max(0, 7_300_000 + 1000 * jump_wh)
    meter.restart_at_zero()
    assert meter.energy_mwh == 0
    assert sum(meter.flow_nj) == flow


def test_a_negative_current_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Sdm630(unit=1).feel(current_ma=(0, -1, 0))


def test_each_fault_of_an_answer_is_what_its_name_says() -> None:
    meter, other = Sdm630(unit=1), Sdm630(unit=2)
    line = Line([meter, other])
    slaves = RtuSlaves(line)
    good = GOOD_ANSWER + crc16(GOOD_ANSWER)

    def answer(at_ms: int = 0) -> list[Chunk]:
        return slaves.feed(GOOD, at_ms)

    assert answer() == [Chunk(0, good)]
    meter.faults.silent = True
    assert answer() == []
    meter.faults.silent = False
    line.faults.silent = True
    assert answer() == []
    line.faults.silent = False
    meter.powered = False
    assert answer() == []
    meter.powered = True
    meter.faults.exception = 4
    assert sent(answer())[:3] == bytes.fromhex("018404")
    meter.faults.exception = None
    meter.faults.wrong_unit = 9
    assert sent(answer())[:-2] == b"\x09" + GOOD_ANSWER[1:]
    meter.faults.wrong_unit = None
    meter.faults.wrong_crc = True
    assert sent(answer())[:-2] == GOOD_ANSWER
    assert sent(answer())[-2:] != good[-2:]
    meter.faults.wrong_crc = False
    line.faults.garbled = True
    assert len(sent(answer())) == len(good)
    assert all(sent(answer()) != good for _ in range(20))
    line.faults.garbled = False
    meter.faults.delay_ms, line.faults.delay_ms = 30, 12
    meter.faults.split_bytes, meter.faults.split_gap_ms = 4, 10
    assert answer() == [Chunk(42, good[:4]), Chunk(52, good[4:8]), Chunk(62, good[8:])]


def test_a_frozen_meter_repeats_itself_until_it_thaws() -> None:
    meter = Sdm630(unit=1)
    line = Line([meter])
    meter.feel(current_ma=(1_000, 0, 0))
    assert floats(line, 6) == (1.0,)
    meter.faults.frozen = True
    meter.feel(current_ma=(2_000, 0, 0))
    assert floats(line, 6) == (1.0,)
    meter.faults.frozen = False
    assert floats(line, 6) == (2.0,)


def test_a_device_that_needs_a_pause_does_not_hear_a_question_that_comes_too_soon() -> None:
    meter = Sdm630(unit=1)
    meter.faults.min_gap_ms = 100
    line = Line([meter])
    assert [ask(line, VOLTAGE_L1, at_ms) is not None for at_ms in (0, 99, 100, 150, 200)] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_meters_that_share_a_line_answer_for_themselves_only() -> None:
    meters = [Sdm630(unit=1), Sdm630(unit=2)]
    meters[1].feel(current_ma=(2_000, 0, 0))
    line = Line(meters)
    assert ask(line, Read(1, 4, 6, 2)) == b"\x04\x04" + struct.pack(">f", 0.0)
    assert ask(line, Read(2, 4, 6, 2)) == b"\x04\x04" + struct.pack(">f", 2.0)
    assert ask(line, Read(3, 4, 6, 2)) is None
    assert line.requests == 3
