"""A card reader on the smart-card service pcscd, through the PC/SC calls of pyscard.

One thread per reader does all that may block and decides nothing; what it sees goes to the event loop, where
`Touches` picks out what is news. We keep a status loop of our own because pyscard's CardMonitor and
ReaderMonitor die for good when pcscd is restarted.

Sources: PC/SC part 5 (status changes), pcsc-lite 1.9.9 to 2.5 (event counter, cancel, PnP pseudo-reader).
"""

import asyncio
import importlib
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, assert_never

from msgspec import Struct

from edge.errors import DeviceError
from edge.events import CardSeen, CardUnreadable, DeviceFound, DeviceLost, Event
from edge.ports import NowMs, Put
from edge.rfid import apdu

log = logging.getLogger(__name__)

DEBOUNCE_MS = 3000
"""The same card so soon after it left is the same touch: a hand trembles at the edge of the field."""

_WAIT_MS = 1000  # pcsc-lite before 2.3 can miss a reader that comes between two waits; this bounds the delay
_SILENT_MS = 5000  # longest a call may block; a card is read in 50 ms, a slow one in 2 s
_RETRY_FIRST_S = 0.1  # pcscd restarts in far less than this ...
_RETRY_MAX_S = 2.0  # ... and asking a socket that is not there costs nothing
_READ_TRIES = 3  # a card still moving into the field often fails once
_READ_PAUSE_S = 0.05
_END_S = 2.0  # how long a cancelled `run` waits for its thread
_CANCEL_EVERY_S = 0.05  # a cancel is lost when the thread was just between two waits

_SECOND_LOOKS = 5  # a second apart: who holds a card there that failed does not have to lift it first
_NOT_LOOKED = -1  # before the first look at a reader
_PNP = "\\\\?PnP?\\Notification"  # the pseudo-reader that stands for "the list of readers changed"


class Lifted(Struct, frozen=True):
    """No card lies on the reader, or not the one that lay there."""

    at_ms: int


Sight = DeviceFound | DeviceLost | CardSeen | CardUnreadable | Lifted
"""What the thread sees. It may tell the same thing over and over."""


class Touches:
    """Picks the news out of what a reader's thread sees.

    A device is reported once per change. A card is reported once per touch: not while it lies there, also
    across a restart of pcscd, and not again within `DEBOUNCE_MS` of being lifted. Random numbers cannot be
    compared, so all of them count as one card.
    """

    def __init__(self) -> None:
        self._found: bool | None = None
        self._card: str | None = None
        self._lifted_ms: int | None = None  # None while the card lies there

    def report(self, sight: Sight) -> Event | None:
        """Return what to report of this sight, or None when it is no news."""
        match sight:
            case DeviceFound() | DeviceLost():
                found = isinstance(sight, DeviceFound)
                changed = found is not self._found
                self._found = found
                return sight if changed else None
            case CardSeen():
                return sight if self._is_new_touch(sight) else None
            case CardUnreadable():
                return sight
            case Lifted():
                if self._lifted_ms is None:
                    self._lifted_ms = sight.at_ms
                return None
            case _:
                assert_never(sight)

    def _is_new_touch(self, seen: CardSeen) -> bool:
        card = "random" if seen.credential.random else seen.credential.id
        lifted_ms, self._lifted_ms = self._lifted_ms, None
        if card == self._card and (lifted_ms is None or seen.at_ms - lifted_ms < DEBOUNCE_MS):
            return False
        self._card = card
        return True


class PcscReader:
    """The reader whose PC/SC name contains `name_pattern`; the first by name when several do.

    Implements `edge.ports.Reader`. `now_ms` is called from the reader's thread too.
    """

    def __init__(self, reader_id: str, name_pattern: str, now_ms: NowMs) -> None:
        self._reader_id = reader_id
        self._name_pattern = name_pattern
        self._now_ms = now_ms

    async def run(self, put: Put) -> None:
        """Report until cancelled. Any failure of reader or service is a `DeviceLost`, and retried here."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        touches = Touches()
        device = f"reader/{self._reader_id}"
        listening = True

        def take(sight: Sight) -> None:
            event = touches.report(sight) if listening else None
            if event is not None:
                put(event)
            elif listening and isinstance(sight, CardSeen):
                log.info("%s: %s is still the same touch", device, sight.credential.masked)

        def hand_over(deliver: Callable[..., object], *args: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: it gave up waiting for this thread
                loop.call_soon_threadsafe(deliver, *args)

        def body() -> None:
            try:
                watch.run()
            finally:
                hand_over(ended.set)

        watch = _Watch(self._reader_id, self._name_pattern, self._now_ms, partial(hand_over, take))
        thread = threading.Thread(target=body, name=f"rfid-{self._reader_id}", daemon=True)
        thread.start()
        try:
            while not await _set_within(ended, _WAIT_MS / 1000):
                now_ms = self._now_ms()
                if now_ms - watch.alive_ms > _WAIT_MS + _SILENT_MS:
                    take(
                        DeviceLost(
                            now_ms, device, "the card reader does not answer: unplug it and plug it in"
                        )
                    )
            raise RuntimeError(f"the thread of {device} ended; its traceback tells why")
        finally:
            listening = False
            await _end(watch, thread, ended)


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for the event; whether it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


async def _end(watch: "_Watch", thread: threading.Thread, ended: asyncio.Event) -> None:
    """End the thread and join it, or leave it behind when the service holds it in a call."""
    watch.ending.set()
    for _ in range(round(_END_S / _CANCEL_EVERY_S)):
        watch.wake()
        if await _set_within(ended, _CANCEL_EVERY_S):
            for last in (thread, watch.waker):  # both have done their work and are about to end
                if last is not None:
                    last.join(_CANCEL_EVERY_S)
            return
    log.warning("thread %s did not end within %s s: the smart-card service hangs", thread.name, _END_S)


class _Watch:
    """The thread's side: sees the reader and its cards, reads them, decides nothing."""

    def __init__(
        self, reader_id: str, name_pattern: str, now_ms: NowMs, tell: Callable[[Sight], None]
    ) -> None:
        self._reader_id = reader_id
        self._device = f"reader/{reader_id}"
        self._name_pattern = name_pattern
        self._now_ms = now_ms
        self._tell = tell
        self.alive_ms = now_ms()  # when the thread last came out of a call
        self.ending = threading.Event()
        self._scard: Any = None  # pyscard carries no types
        self._context: int | None = None
        self.waker: threading.Thread | None = None
        self._second_looks = 0  # how often a card that could not be read is still tried while it lies there
        self._touch: int | None = _NOT_LOOKED  # the event counter of the touch at hand, None without a card

    def run(self) -> None:
        """Watch until `ending` is set."""
        try:
            self._scard = _load_pyscard()
        except ImportError as missing:
            self._lost(str(missing))
            self.ending.wait()
        else:
            self._keep_watching()

    def wake(self) -> None:
        """Cancel the wait for a status change. Does not block, even when the service hangs."""
        context = self._context
        if context is not None and (self.waker is None or not self.waker.is_alive()):
            self.waker = threading.Thread(
                target=self._scard.SCardCancel, args=(context,), name="rfid-cancel", daemon=True
            )
            self.waker.start()

    def _keep_watching(self) -> None:
        pause_s = _RETRY_FIRST_S
        while not self.ending.is_set():
            began_ms = self._now_ms()
            try:
                self._watch_one_context()
            except DeviceError as broken:
                self._lost(str(broken))
            self.alive_ms = self._now_ms()
            self.ending.wait(pause_s)
            worked = self.alive_ms - began_ms > _WAIT_MS
            pause_s = _RETRY_FIRST_S if worked else min(2 * pause_s, _RETRY_MAX_S)

    def _watch_one_context(self) -> None:
        """Watch until `ending` is set. Raises `DeviceError` when the service goes away."""
        scard = self._scard
        code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
        self._check(code, "the smart-card service takes no client")
        self._context = context
        try:
            self._watch_readers(context)
        finally:
            self._context = None
            scard.SCardReleaseContext(context)

    def _watch_readers(self, context: int) -> None:
        scard = self._scard
        no_news = (scard.SCARD_E_TIMEOUT, scard.SCARD_E_CANCELLED, scard.SCARD_E_UNKNOWN_READER)
        states: dict[str | None, int] = {}
        atr = b""
        while not self.ending.is_set():
            self.alive_ms = self._now_ms()
            reader = self._find_reader(context)
            names = (_PNP,) if reader is None else (_PNP, reader)
            if reader not in states:
                self._touch = _NOT_LOOKED
            states = {name: states.get(name, scard.SCARD_STATE_UNAWARE) for name in names}
            code, changes = scard.SCardGetStatusChange(context, _WAIT_MS, list(states.items()))
            noticed_ms = self._now_ms()
            if code not in no_news:
                self._check(code, "the smart-card service stopped")
                for name, state, name_atr in changes:
                    states[name] = state & ~scard.SCARD_STATE_CHANGED
                    atr = bytes(name_atr) if name == reader else atr
            if reader is not None and states[reader] != scard.SCARD_STATE_UNAWARE:
                self._look(context, reader, states[reader], atr, noticed_ms)

    def _find_reader(self, context: int) -> str | None:
        scard = self._scard
        code, names = scard.SCardListReaders(context, [])
        if code == scard.SCARD_E_NO_READERS_AVAILABLE:
            names = []
        else:
            self._check(code, "the smart-card service does not list its readers")
        matching = sorted(name for name in names if self._name_pattern in name)
        if matching:
            return str(matching[0])
        present = ", ".join(sorted(names)) or "none"
        reason = f'no card reader with "{self._name_pattern}" in its name is plugged in (there is: {present})'
        self._lost(reason)
        return None

    def _look(self, context: int, reader: str, state: int, atr: bytes, at_ms: int) -> None:
        """Tell what a state of our reader means, and read the card when one came."""
        scard = self._scard
        if state & (scard.SCARD_STATE_UNKNOWN | scard.SCARD_STATE_UNAVAILABLE):
            self._lost(f"card reader {reader} was unplugged or does not work")
            return
        self._tell(DeviceFound(at_ms, self._device))
        # The upper half counts insertions and removals: it tells a card that came back from one that stayed.
        touch = state >> 16 if state & scard.SCARD_STATE_PRESENT else None
        if touch == self._touch:
            if touch is not None and self._second_looks:
                self._look_again(context, reader, atr, at_ms)
            return
        if touch is None or self._touch != _NOT_LOOKED:
            self._tell(Lifted(at_ms))
        self._touch = touch
        if touch is not None:
            sight = self._read_card(context, reader, atr, at_ms)
            self._second_looks = _SECOND_LOOKS if isinstance(sight, CardUnreadable) else 0
            self._tell(sight)

    def _look_again(self, context: int, reader: str, atr: bytes, at_ms: int) -> None:
        """Try once more to read what lies there and could not be read; say something only if it worked."""
        self._second_looks -= 1
        sight = self._read_card(context, reader, atr, at_ms)
        if isinstance(sight, CardSeen):
            self._second_looks = 0
            self._tell(sight)

    def _read_card(self, context: int, reader: str, atr: bytes, at_ms: int) -> CardSeen | CardUnreadable:
        family = apdu.parse_atr(atr)
        reason = ""
        for _ in range(_READ_TRIES):
            try:
                credential = apdu.credential(apdu.parse_uid(self._exchange(context, reader)), family)
            except _CardGoneError as gone:
                reason = str(gone)
                break
            except DeviceError as failed:
                reason = str(failed)
                self.ending.wait(_READ_PAUSE_S)
            else:
                if self._now_ms() - at_ms > _SILENT_MS:  # who held it there may have left: start nothing
                    reason = "the card took too long to answer: hold it there once more"
                    break
                log.debug("%s: %s %s", self._device, family.name, credential.masked)
                return CardSeen(at_ms, self._reader_id, credential)
        return CardUnreadable(at_ms, self._reader_id, reason)

    def _exchange(self, context: int, reader: str) -> bytes:
        """Ask the card for its UID; its response with status word. Raises `DeviceError`."""
        scard = self._scard
        self.alive_ms = self._now_ms()
        code, card, protocol = scard.SCardConnect(
            context, reader, scard.SCARD_SHARE_SHARED, scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
        )
        self._check(code, "the card could not be reached")
        try:
            framing = scard.SCARD_PCI_T0 if protocol == scard.SCARD_PROTOCOL_T0 else scard.SCARD_PCI_T1
            code, response = scard.SCardTransmit(card, framing, list(apdu.GET_UID))
            self._check(code, "the card could not be read")
        finally:
            scard.SCardDisconnect(card, scard.SCARD_LEAVE_CARD)
        return bytes(response)

    def _lost(self, reason: str) -> None:
        self._tell(DeviceLost(self._now_ms(), self._device, reason))

    def _check(self, code: int, failure: str) -> None:
        """Raise `DeviceError` with a sentence unless the call succeeded."""
        scard = self._scard
        if code == scard.SCARD_S_SUCCESS:
            return
        if code in (scard.SCARD_W_REMOVED_CARD, scard.SCARD_E_NO_SMARTCARD):
            raise _CardGoneError("the card was taken away before it was read: hold it still for a second")
        advice = {
            scard.SCARD_E_NO_SERVICE: "pcscd does not run: systemctl start pcscd.socket",
            # pcsc-lite 1.9.9 takes a connection that ends before an answer for a refusal.
            scard.SCARD_W_SECURITY_VIOLATION: "pcscd hung up: it was killed, or polkit does not grant this "
            "user org.debian.pcsc-lite.access_pcsc and org.debian.pcsc-lite.access_card",
            scard.SCARD_E_SHARING_VIOLATION: "another program keeps the card reader to itself",
            scard.SCARD_F_COMM_ERROR: "pcscd hung up",
            scard.SCARD_W_UNRESPONSIVE_CARD: "hold it flat on the reader",
            scard.SCARD_E_NOT_TRANSACTED: "hold it still on the reader for a second",
        }.get(code)
        raise DeviceError(f"{failure}: {advice or scard.SCardGetErrorMessage(code).rstrip('.')}")


class _CardGoneError(DeviceError):
    """The card left the field, so there is nothing to try again."""


def _load_pyscard() -> ModuleType:
    """Import pyscard, late because it costs start-up time. Raises `ImportError` with a sentence."""
    import ctypes

    try:
        ctypes.CDLL("libpcsclite.so.1")  # without it pyscard imports well and then calls a null pointer
    except OSError as missing:
        raise ImportError("the PC/SC library is missing: apt install pcscd libpcsclite1") from missing
    try:
        return importlib.import_module("smartcard.scard")
    except ImportError as missing:
        raise ImportError("the Python library pyscard is missing: pip install pyscard") from missing
