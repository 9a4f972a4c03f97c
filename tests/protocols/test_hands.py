"""The polling hands on virtual time: leases, newest wins, lost devices, back-off."""

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from edge.commands import SetOffer, SetPhases
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


class SwitchingBoard(Board):
    """A controller that can switch phases, and notes what it was told in which state."""

    def __init__(self) -> None:
        super().__init__()
        self.phases = 3
        self.switched: list[tuple[int, int]] = []  # phases and the current it held then

    async def read(self) -> EvseReading:
        return replace(await super().read(), phases=self.phases)

    async def set_phases(self, phases: int) -> None:
        self._answer()
        self.switched.append((phases, self.held_ma))
        self.phases = phases


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
    scenario: Callable[[EvseHand, Board, list[Event]], object], seconds: float, driven: Board | None = None
) -> tuple[Board, list[Event]]:
    """Run an EVSE hand for a while; `scenario` is called at the start and may schedule what happens."""

    async def main() -> tuple[Board, list[Event]]:
        board, events = driven or Board(), list[Event]()
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


def phases(hand: EvseHand, number: int) -> None:
    hand.set_phases(SetPhases(1, number, now_ms()))


def test_phases_are_switched_before_the_offer_that_comes_with_them() -> None:
    def scenario(hand: EvseHand, board: Board, events: list[Event]) -> None:
        def wish() -> None:
            phases(hand, 3)
            phases(hand, 1)
            offer(hand, 8_000, lease_ms=60_000)

        later(1.2, wish)

    board = SwitchingBoard()
    _, events = drive(scenario, 5, board)
    assert board.switched == [(1, 0)]
    assert [ma for _, ma in board.writes] == [8_000]
    reads = [e.phases for e in events if isinstance(e, EvseRead)]
    assert (reads[0], reads[-1]) == (3, 1)


def test_phases_are_not_switched_before_the_contactor_was_seen_open() -> None:
    def scenario(hand: EvseHand, board: Board, events: list[Event]) -> None:
        phases(hand, 1)  # nothing was seen yet
        board.held_ma = 16_000
        later(2, lambda: offer(hand, 0))

    board = SwitchingBoard()
    drive(scenario, 5, board)
    assert board.switched == [(1, 0)]


def test_a_wish_for_phases_is_over_when_the_car_is_let_on_without_it() -> None:
    def scenario(hand: EvseHand, board: Board, events: list[Event]) -> None:
        board.held_ma = 16_000
        offer(hand, 16_000, lease_ms=2_000)
        later(0.5, lambda: phases(hand, 1))

    board = SwitchingBoard()
    drive(scenario, 10, board)
    assert board.held_ma == 0
    assert board.switched == []


def test_phases_are_switched_when_the_board_is_heard_again() -> None:
    def scenario(hand: EvseHand, board: Board, events: list[Event]) -> None:
        offer(hand, 0)
        later(1, lambda: setattr(board, "silent", True))
        later(1.1, lambda: phases(hand, 1))
        later(8, lambda: setattr(board, "silent", False))

    board = SwitchingBoard()
    _, events = drive(scenario, 20, board)
    assert board.switched == [(1, 0)]
    assert sum(isinstance(e, DeviceLost) for e in events) == 1


def test_a_board_that_cannot_switch_is_left_alone() -> None:
    board, events = drive(lambda hand, board, events: phases(hand, 1), 3)
    assert board.writes == []
    assert all(e.phases is None for e in events if isinstance(e, EvseRead))


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
