"""Readers and cards: the pure choice of what is news, then everything on a real pcscd with virtual cards."""

import asyncio
import contextlib
import importlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.events import CardSeen, CardUnreadable, Credential, DeviceFound, DeviceLost, Event
from edge.rfid.pcsc import DEBOUNCE_MS, Lifted, PcscReader, Sight, Touches
from hal_mocks.card import VirtualCard
from hal_mocks.pcscd import READER_NAME, Pcscd

KNOWN = bytes.fromhex("04A2B3C4")
OTHER = bytes.fromhex("04112233445566")
DEADLINE_S = 15.0  # pcscd needs 0.4 s to notice a card; the rest is for busy machines

E = TypeVar("E", bound=Event)


# What is news ------------------------------------------------------------

CREDENTIALS = st.sampled_from(
    [
        Credential("ISO14443A:04A2B3C4", "…B3C4"),
        Credential("ISO14443A:04112233445566", "…5566"),
        Credential("ISO14443A:08000001", "…0001", random=True),
        Credential("ISO14443A:08000002", "…0002", random=True),
    ]
)


@st.composite
def histories(draw: st.DrawFn) -> list[Sight]:
    """Anything a thread may see, in the order of time."""
    at_ms = 0
    sights: list[Sight] = []
    for kind in draw(
        st.lists(st.sampled_from(["found", "lost", "seen", "unreadable", "lifted"]), max_size=30)
    ):
        at_ms += draw(st.sampled_from([0, 1, 400, DEBOUNCE_MS - 1, DEBOUNCE_MS, 60_000]))
        match kind:
            case "found":
                sights.append(DeviceFound(at_ms, "reader/door"))
            case "lost":
                sights.append(DeviceLost(at_ms, "reader/door", "unplugged"))
            case "seen":
                sights.append(CardSeen(at_ms, "door", draw(CREDENTIALS)))
            case "unreadable":
                sights.append(CardUnreadable(at_ms, "door", "torn off"))
            case _:
                sights.append(Lifted(at_ms))
    return sights


def reported(sights: list[Sight]) -> list[Event | None]:
    touches = Touches()
    return [touches.report(sight) for sight in sights]


@given(histories())
def test_a_device_is_reported_exactly_once_per_change(sights: list[Sight]) -> None:
    devices = [type(sight) for sight in sights if isinstance(sight, DeviceFound | DeviceLost)]
    changes = [kind for kind, before in zip(devices, [None, *devices], strict=False) if kind is not before]
    news = [type(event) for event in reported(sights) if isinstance(event, DeviceFound | DeviceLost)]
    assert news == changes


@given(histories())
def test_a_report_is_what_was_seen_and_nothing_unreadable_is_kept_back(sights: list[Sight]) -> None:
    for sight, event in zip(sights, reported(sights), strict=True):
        assert event is None or event is sight
        assert event is sight or not isinstance(sight, CardUnreadable)


@given(histories())
def test_a_card_is_kept_back_only_while_it_lies_there_or_left_less_than_three_seconds_ago(
    sights: list[Sight],
) -> None:
    last: CardSeen | None = None
    lifted: Lifted | None = None  # the first time the field was empty after `last`
    for sight, event in zip(sights, reported(sights), strict=True):
        if isinstance(sight, Lifted):
            lifted = lifted or sight
        if isinstance(sight, CardSeen):
            same = last is not None and (
                last.credential == sight.credential or (last.credential.random and sight.credential.random)
            )
            gone_ms = sight.at_ms - lifted.at_ms if lifted else 0
            assert (event is None) == (same and gone_ms < DEBOUNCE_MS)
            last, lifted = sight, None


def test_a_card_that_rests_on_the_reader_while_pcscd_restarts_is_no_new_touch() -> None:
    seen = CardSeen(0, "door", Credential("ISO14443A:04A2B3C4", "…B3C4"))
    later = CardSeen(3_600_000, "door", seen.credential)
    lost, found = DeviceLost(1, "reader/door", "restarted"), DeviceFound(2, "reader/door")
    assert reported([found, seen, lost, found, later])[-1] is None
    assert reported([found, seen, lost, found, Lifted(3), later])[-1] is later


# On a real pcscd ----------------------------------------------------------------------------


class Clock:
    """Milliseconds that pass only when told to."""

    def __init__(self) -> None:
        self.ms = 1_000
        self.asked = 0

    def __call__(self) -> int:
        self.asked += 1
        return self.ms

    async def let_the_reader_look(self) -> None:
        """Wait until the reader's thread has gone once around: it asks the time twice in each round."""
        rounds = self.asked + 6  # the event loop looks after the thread once a second, too
        await until(lambda: self.asked >= rounds)

    def advance(self, ms: int) -> bool:
        self.ms += ms
        return True


class Listener:
    """What a running reader reports, one by one: an event nobody expected fails the next assertion."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self, kind: type[E]) -> E:
        event = await asyncio.wait_for(self.inbox.get(), DEADLINE_S)
        assert isinstance(event, kind), f"expected {kind.__name__}, got {event}"
        return event


@asynccontextmanager
async def listening(clock: Clock | None = None, pattern: str = READER_NAME) -> AsyncIterator[Listener]:
    """Run a reader; in the end it must have nothing left to say."""
    listener = Listener()
    running = asyncio.create_task(
        PcscReader("door", pattern, clock or Clock()).run(listener.inbox.put_nowait)
    )
    try:
        yield listener
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert listener.inbox.empty()
    assert reader_threads() == []


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rfid")]


def take_off(card: VirtualCard) -> None:
    """Take the card off and wait until pcscd knows."""
    card.remove()
    until_the_field_is_empty()


def until_the_field_is_empty() -> None:
    """Ask pcscd through a client of our own."""
    scard = importlib.import_module("smartcard.scard")
    code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
    assert code == scard.SCARD_S_SUCCESS
    slot, state = f"{READER_NAME} 00 00", scard.SCARD_STATE_UNAWARE
    while not state & scard.SCARD_STATE_EMPTY:
        code, changes = scard.SCardGetStatusChange(context, int(DEADLINE_S * 1000), [(slot, state)])
        assert code == scard.SCARD_S_SUCCESS
        state = changes[0][1] & ~scard.SCARD_STATE_CHANGED
    scard.SCardReleaseContext(context)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def new_card(pcscd: Pcscd) -> Iterator[Callable[..., VirtualCard]]:
    """Make cards for the reader of this test; they are off it when the test ends."""
    made: list[VirtualCard] = []

    def make(uid: bytes | None, family: str = "classic-1k") -> VirtualCard:
        made.append(VirtualCard(uid, family, port=pcscd.port))
        return made[-1]

    yield make
    for card in made:
        card.remove()
    if not pcscd.restartable:  # the next test gets the same pcscd, and shall find the reader empty
        until_the_field_is_empty()


@pytest.fixture
def card(new_card: Callable[..., VirtualCard]) -> VirtualCard:
    """The known card, not yet inserted."""
    return new_card(KNOWN)


@pytest.fixture
def other_card(new_card: Callable[..., VirtualCard]) -> VirtualCard:
    """Another card, not yet inserted."""
    return new_card(OTHER, "ultralight")


@pytest.mark.wire
def test_the_virtual_card_is_a_card_to_a_client_that_is_not_ours(card: VirtualCard) -> None:
    requests = importlib.import_module("smartcard.CardRequest")
    card.insert()
    service = requests.CardRequest(timeout=DEADLINE_S).waitforcard()
    service.connection.connect()
    assert bytes(service.connection.getATR()) == card.atr
    assert service.connection.transmit([0xFF, 0xCA, 0, 0, 0]) == (list(KNOWN), 0x90, 0x00)
    assert service.connection.transmit([0x00, 0xA4, 4, 0, 0]) == ([], 0x6D, 0x00)
    service.connection.disconnect()
    service.connection.release()


@pytest.mark.wire
def test_a_card_is_read_once_with_the_time_it_was_noticed_and_so_is_the_next(
    card: VirtualCard, other_card: VirtualCard
) -> None:
    async def story() -> None:
        clock = Clock()
        async with listening(clock) as door:
            assert (await door.next(DeviceFound)).device == "reader/door"
            clock.ms = 5_000
            card.insert()
            assert await door.next(CardSeen) == CardSeen(
                5_000, "door", Credential("ISO14443A:04A2B3C4", "…B3C4")
            )
            take_off(card)
            other_card.insert()
            assert await door.next(CardSeen) == CardSeen(
                5_000, "door", Credential("ISO14443A:04112233445566", "…5566")
            )

    asyncio.run(story())


@pytest.mark.wire
@pytest.mark.parametrize(
    ("family", "uid", "canonical"),
    [
        ("desfire", "04112233445566", "ISO14443A:04112233445566"),
        ("icode-sli", "78563412500104E0", "ISO15693:E004015012345678"),
        ("felica", "0101060112345678", "FELICA:0101060112345678"),
    ],
)
def test_cards_of_other_families_get_their_own_kind_of_number(
    new_card: Callable[..., VirtualCard], family: str, uid: str, canonical: str
) -> None:
    card = new_card(bytes.fromhex(uid), family)

    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            card.insert()
            assert (await door.next(CardSeen)).credential.id == canonical

    asyncio.run(story())


@pytest.mark.wire
def test_a_phone_is_seen_as_a_random_number_and_is_a_stranger_each_time(
    new_card: Callable[..., VirtualCard],
) -> None:
    phone = new_card(None, "phone")

    async def story() -> None:
        clock = Clock()
        async with listening(clock) as door:
            await door.next(DeviceFound)
            phone.insert()
            first = (await door.next(CardSeen)).credential
            take_off(phone)
            await clock.let_the_reader_look()
            clock.ms += DEBOUNCE_MS
            phone.insert()
            second = (await door.next(CardSeen)).credential
        assert first.random
        assert second.random
        assert first.id != second.id

    asyncio.run(story())


@pytest.mark.wire
def test_a_card_put_back_at_once_is_the_same_touch_and_three_seconds_later_a_new_one(
    card: VirtualCard,
) -> None:
    async def story() -> None:
        clock = Clock()
        async with listening(clock) as door:
            await door.next(DeviceFound)
            card.insert()
            await door.next(CardSeen)
            take_off(card)
            await clock.let_the_reader_look()
            clock.ms += DEBOUNCE_MS - 1
            card.insert()
            await until(lambda: len(card.apdus) == 2)  # it was read again, and not reported:
            take_off(card)
            await clock.let_the_reader_look()
            clock.ms += DEBOUNCE_MS
            card.insert()
            assert (await door.next(CardSeen)).at_ms == clock.ms

    asyncio.run(story())


@pytest.mark.wire
@pytest.mark.parametrize("bytes_out", [None, 1, 3, 5])
def test_a_card_torn_off_mid_read_is_reported_and_the_next_card_is_read(
    card: VirtualCard, other_card: VirtualCard, bytes_out: int | None
) -> None:
    card.tear_after_apdus = 1
    card.tear_at_byte = bytes_out

    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            card.insert()
            torn = await door.next(CardUnreadable)
            assert torn.reader == "door"
            assert "hold it still" in torn.reason
            take_off(card)
            other_card.insert()
            assert (await door.next(CardSeen)).credential.masked == "…5566"

    asyncio.run(story())


@pytest.mark.wire
def test_a_card_torn_off_may_be_put_back_at_once(card: VirtualCard) -> None:
    card.tear_after_apdus = 1

    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            card.insert()
            await door.next(CardUnreadable)
            take_off(card)
            card.tear_after_apdus = None
            card.insert()
            assert (await door.next(CardSeen)).credential.masked == "…B3C4"

    asyncio.run(story())


@pytest.mark.wire
def test_a_card_that_fails_once_on_its_way_into_the_field_is_read_on_the_second_try(
    card: VirtualCard,
) -> None:
    card.fail_apdus = 1

    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            card.insert()
            await door.next(CardSeen)

    asyncio.run(story())
    assert len(card.apdus) == 2


@pytest.mark.wire
def test_a_card_without_a_uid_is_unreadable_for_a_reason(card: VirtualCard) -> None:
    card.status_word = bytes.fromhex("6A81")

    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            card.insert()
            assert "gives no UID (status word 6A81)" in (await door.next(CardUnreadable)).reason

    asyncio.run(story())


@pytest.mark.wire
def test_a_mute_card_is_unreadable_for_a_reason(card: VirtualCard) -> None:
    card.atr = bytes.fromhex("0001")

    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            card.insert()
            assert "the card could not be reached" in (await door.next(CardUnreadable)).reason

    asyncio.run(story())


@pytest.mark.wire
def test_a_card_that_answers_after_its_holder_may_have_left_starts_nothing(card: VirtualCard) -> None:
    card.answer_delay_s = 0.5

    async def story() -> None:
        clock = Clock()
        async with listening(clock) as door:
            await door.next(DeviceFound)
            card.insert()
            await until(lambda: len(card.apdus) == 1)
            clock.ms += 5_001
            assert "took too long" in (await door.next(CardUnreadable)).reason

    asyncio.run(story())


@pytest.mark.wire
def test_pcscd_killed_and_restarted_is_a_device_lost_and_found_and_the_next_card_is_read(
    own_pcscd: Pcscd, card: VirtualCard, other_card: VirtualCard
) -> None:
    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            card.insert()
            await door.next(CardSeen)
            own_pcscd.kill()
            lost = await door.next(DeviceLost)
            assert lost.device == "reader/door"
            assert "pcscd" in lost.reason
            own_pcscd.start()
            await door.next(DeviceFound)
            other_card.insert()
            assert (await door.next(CardSeen)).credential.masked == "…5566"

    asyncio.run(story())


@pytest.mark.wire
def test_an_unplugged_reader_is_lost_until_it_is_plugged_in_again(
    own_pcscd: Pcscd, card: VirtualCard
) -> None:
    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            own_pcscd.unplug()
            await door.next(DeviceLost)
            own_pcscd.plug()
            await door.next(DeviceFound)
            card.insert()
            await door.next(CardSeen)

    asyncio.run(story())


@pytest.mark.wire
def test_a_start_without_a_reader_names_the_one_that_is_missing(own_pcscd: Pcscd) -> None:
    async def story() -> None:
        async with listening() as door:
            assert (
                f'"{READER_NAME}" in its name is plugged in (there is: none)'
                in (await door.next(DeviceLost)).reason
            )
            own_pcscd.plug()
            await door.next(DeviceFound)

    own_pcscd.unplug()
    asyncio.run(story())


@pytest.mark.wire
def test_a_name_that_no_reader_has_is_answered_with_the_names_there_are(pcscd: Pcscd) -> None:
    async def story() -> None:
        async with listening(pattern="Omnikey") as door:
            reason = (await door.next(DeviceLost)).reason
            assert '"Omnikey"' in reason
            assert f"{READER_NAME} 00 00, {READER_NAME} 00 01" in reason

    asyncio.run(story())


@pytest.mark.wire
def test_a_start_before_pcscd_is_lost_once_and_found_once_it_runs(
    own_pcscd: Pcscd, card: VirtualCard
) -> None:
    async def story() -> None:
        async with listening() as door:
            assert "systemctl start pcscd" in (await door.next(DeviceLost)).reason
            own_pcscd.start()
            await door.next(DeviceFound)
            card.insert()
            await door.next(CardSeen)

    own_pcscd.stop()
    asyncio.run(story())


@pytest.mark.wire
def test_a_hanging_pcscd_is_a_lost_device_until_it_goes_on(own_pcscd: Pcscd, card: VirtualCard) -> None:
    async def story() -> None:
        clock = Clock()
        async with listening(clock) as door:
            await door.next(DeviceFound)
            own_pcscd.freeze()
            await until(lambda: clock.advance(1_000) and not door.inbox.empty())
            assert "does not answer" in (await door.next(DeviceLost)).reason
            own_pcscd.thaw()
            await door.next(DeviceFound)
            card.insert()
            await door.next(CardSeen)

    asyncio.run(story())


@pytest.mark.wire
def test_the_full_number_of_a_card_is_never_logged(
    card: VirtualCard, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            card.insert()
            await door.next(CardSeen)
            take_off(card)
            card.insert()  # the same touch again, which is logged
            await until(lambda: "same touch" in caplog.text)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(story())
    assert "…B3C4" in caplog.text
    assert KNOWN.hex()[:6] not in caplog.text.lower()


@pytest.mark.wire
def test_a_cancelled_reader_ends_its_thread(pcscd: Pcscd) -> None:
    async def story() -> None:
        async with listening() as door:
            await door.next(DeviceFound)
            assert [thread.name for thread in reader_threads()] == ["rfid-door"]
        assert reader_threads() == []

    asyncio.run(story())


@pytest.mark.wire
def test_a_cancelled_reader_does_not_sit_out_its_wait_for_a_change(pcscd: Pcscd) -> None:
    async def story() -> None:
        spent_s = 0.0
        for _ in range(4):
            async with listening() as door:
                await door.next(DeviceFound)
                began_s = time.monotonic()
            spent_s += time.monotonic() - began_s
        assert spent_s < 2.0  # 20 ms in all; sitting out four waits of a second would take 4 s

    asyncio.run(story())


@pytest.mark.wire
def test_a_cancelled_reader_does_not_wait_for_a_pcscd_that_hangs(
    own_pcscd: Pcscd, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        listener = Listener()
        running = asyncio.create_task(PcscReader("door", READER_NAME, Clock()).run(listener.inbox.put_nowait))
        await listener.next(DeviceFound)
        own_pcscd.freeze()
        running.cancel()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([running])
        assert running.cancelled()

    asyncio.run(story())
    assert "thread rfid-door did not end" in caplog.text
    own_pcscd.thaw()
    for thread in reader_threads():
        thread.join(DEADLINE_S)
    assert reader_threads() == []


@pytest.mark.wire
def test_without_pyscard_the_reader_is_lost_with_the_name_of_what_to_install() -> None:
    program = """
import asyncio, sys
sys.modules["smartcard"] = None  # what an import finds when there is no such package
from edge.rfid.pcsc import PcscReader

async def main():
    inbox = asyncio.Queue()
    running = asyncio.create_task(PcscReader("door", "any", lambda: 0).run(inbox.put_nowait))
    print((await inbox.get()).reason)
    running.cancel()
    await asyncio.wait([running])

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "pip install pyscard" in done.stdout
