"""The polling hands on virtual time: leases, newest wins, lost devices, back-off."""

import asyncio
from collections.abc import Callable

from edge.commands import SetOffer
from edge.drivers.hands import RETRY_MOST_MS, TRIES, EvseHand, MeterHand
from edge.errors import DeviceTimeout
from edge.events import DeviceFound, DeviceLost, Event, EvseRead, MeterRead, Pilot
from edge.ports import EvseReading, MeterReading
from hal_mocks import virtual_time
from hal_mocks.virtual_time import now_ms


class Board:
    """A controller in memory that rounds down to whole amps, as SimpleEVSE does."""

    def __init__(self) -> None:
        self.held_ma = 0
        self.writes: list[tuple[int, int]] = []
        self.silent = False
        self.prepared = 0

    async def prepare(self) -> None:
        self._answer()
        self.prepared += 1

    async def read(self) -> EvseReading:
        self._answer()
        await asyncio.sleep(0.05)
        return EvseReading(now_ms(), Pilot.C, self.held_ma, self.held_ma > 0, None, ())

    async def set_offer(self, offer_ma: int) -> None:
        self._answer()
        self.writes.append((now_ms(), offer_ma))
        self.held_ma = offer_ma // 1000 * 1000

    def _answer(self) -> None:
        if self.silent:
            raise DeviceTimeout("unit 1 did not answer")


class Counter:
    """A meter in memory."""

    def __init__(self) -> None:
        self.silent_until_ms = 0
        self.asked: list[int] = []

    async def read(self) -> MeterReading:
        self.asked.append(now_ms())
        if now_ms() < self.silent_until_ms:
            raise DeviceTimeout("unit 7 did not answer")
        return MeterReading(now_ms(), (0, 0, 0), 0, 0)


def drive(
    scenario: Callable[[EvseHand, Board, list[Event]], object], seconds: float
) -> tuple[Board, list[Event]]:
    """Run an EVSE hand for a while; `scenario` is called at the start and may schedule what happens."""

    async def main() -> tuple[Board, list[Event]]:
        board, events = Board(), list[Event]()
        hand = EvseHand(1, board, 500, now_ms)
        task = asyncio.create_task(hand.run(events.append))
        scenario(hand, board, events)
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return board, events

    return virtual_time.run(main())


def offer(hand: EvseHand, ma: int, lease_ms: int = 3_000) -> None:
    hand.set_offer(SetOffer(1, ma, now_ms(), lease_ms))


def later(seconds: float, call: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(seconds, call)


def test_an_offer_reaches_the_board_at_once_and_is_not_written_again() -> None:
    def scenario(hand: EvseHand, board: Board, events: list[Event]) -> None:
        later(1.2, lambda: offer(hand, 16_400, lease_ms=60_000))

    board, events = drive(scenario, 10)
    ((at_ms, ma),) = board.writes
    assert ma == 16_400
    assert at_ms <= 1_250
    reads = [e for e in events if isinstance(e, EvseRead)]
    assert reads[-1].offer_ma == 16_000
    assert all(e.at_ms - e.asked_ms <= 60 for e in reads)


def test_an_offer_that_is_not_renewed_becomes_zero() -> None:
    board, _ = drive(lambda hand, board, events: offer(hand, 10_000), 10)
    assert [ma for _, ma in board.writes] == [10_000, 0]
    assert 3_000 <= board.writes[1][0] <= 3_700


def test_nothing_is_written_before_the_core_has_spoken() -> None:
    board, events = drive(lambda hand, board, events: None, 5)
    assert board.writes == []
    assert any(isinstance(e, EvseRead) for e in events)


def test_a_board_that_forgot_its_offer_is_told_again() -> None:
    def scenario(hand: EvseHand, board: Board, events: list[Event]) -> None:
        offer(hand, 16_000, lease_ms=60_000)
        later(3, lambda: setattr(board, "held_ma", 0))
        later(6, lambda: setattr(board, "held_ma", 32_000))

    board, _ = drive(scenario, 10)
    assert [ma for _, ma in board.writes] == [16_000] * 3


def test_the_newest_offer_wins_while_the_board_is_silent() -> None:
    def scenario(hand: EvseHand, board: Board, events: list[Event]) -> None:
        board.silent = True
        for k, ma in enumerate((16_000, 12_000, 8_000)):
            later(1 + k, lambda ma=ma: offer(hand, ma, lease_ms=60_000))  # type: ignore[misc] # bound default
        later(8, lambda: setattr(board, "silent", False))

    board, events = drive(scenario, 20)
    assert [ma for _, ma in board.writes] == [8_000]
    lost = [e for e in events if isinstance(e, DeviceLost)]
    found = [e for e in events if isinstance(e, DeviceFound)]
    assert len(lost) == len(found) == 1
    assert board.prepared == 1


def test_a_single_lost_frame_is_no_event() -> None:
    async def main() -> list[Event]:
        meter, events = Counter(), list[Event]()
        task = asyncio.create_task(MeterHand("m1", meter, 500, now_ms).run(events.append))
        await asyncio.sleep(2.1)
        meter.silent_until_ms = now_ms() + 600
        await asyncio.sleep(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return events

    events = virtual_time.run(main())
    assert not any(isinstance(e, DeviceLost) for e in events)
    assert sum(isinstance(e, MeterRead) for e in events) >= 8


def test_a_silent_meter_is_lost_once_and_asked_ever_more_rarely() -> None:
    async def main() -> tuple[Counter, list[Event]]:
        meter, events = Counter(), list[Event]()
        meter.silent_until_ms = 60_000
        task = asyncio.create_task(MeterHand("m1", meter, 500, now_ms).run(events.append))
        await asyncio.sleep(70)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return meter, events

    meter, events = virtual_time.run(main())
    silent = [at for at in meter.asked if at < 60_000]
    assert len(silent) < TRIES + 7 + 60_000 // RETRY_MOST_MS
    assert [type(e) for e in events[:3]] == [DeviceLost, MeterRead, DeviceFound]
    assert events[0] == DeviceLost(events[0].at_ms, "meter/m1", "unit 7 did not answer")
