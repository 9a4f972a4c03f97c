"""A card reader and the service behind it, as the daemon's thread would see them, on the agenda.

    pad = Pad(agenda, dice)
    pad.watch(listener)            # hears Found, Gone, Card, Unreadable and Lifted, also what stands now
    pad.hold("04A1A2A3", for_ms=1_000)
    pad.plug(plugged=False); pad.serve(served=False)

pcscd looks at its readers every 400 ms and the answer of a card takes some 40 ms more: a card held shorter is
not seen, one that leaves in between is seen and cannot be read.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from hal_mocks.agenda import Agenda

LOOK_MS = 400
"""The pace at which pcscd looks at its readers."""

READ_MS = 45
"""Connecting and asking for the UID."""


@dataclass(frozen=True)
class Found:
    """The reader works."""


@dataclass(frozen=True)
class Gone:
    """The reader or its service is away."""

    reason: str


@dataclass(frozen=True)
class Card:
    """A card answered with this number; `random`: a phone, another number each time."""

    uid: bytes


@dataclass(frozen=True)
class Unreadable:
    """A card came and could not be read."""

    reason: str


@dataclass(frozen=True)
class Lifted:
    """No card lies there any more."""


Sight = Found | Gone | Card | Unreadable | Lifted
Listener = Callable[[Sight], None]


class Pad:
    """The reader in the copper; the listener of the moment is the daemon that lives."""

    def __init__(self, agenda: Agenda, dice: random.Random) -> None:
        self.flaw: str | None = None  # of the next card: "torn", "unreadable" or "random"
        self._agenda = agenda
        self._dice = dice
        self._plugged = self._served = True
        self._held: str | None = None
        self._listener: Listener | None = None

    def watch(self, listener: Listener | None) -> None:
        """From now on tell this listener, beginning with whether the reader works."""
        self._listener = listener
        self._agenda.after_ms(50, lambda: self._tell_whether_found(listener))

    def plug(self, *, plugged: bool) -> None:
        """Plug the reader in, or pull its cable."""
        self._plugged = plugged
        self._agenda.after_ms(self._until_look_ms(), lambda: self._tell_whether_found(self._listener))

    def serve(self, *, served: bool) -> None:
        """Start the service, or kill it."""
        self._served = served
        self._agenda.after_ms(20, lambda: self._tell_whether_found(self._listener))

    def hold(self, uid: str, *, for_ms: int) -> None:
        """Hold a card into the field for so long; what lies there is pushed away."""
        flaw, self.flaw = self.flaw, None
        self._held = uid
        seen_ms = self._until_look_ms()
        if seen_ms < for_ms:
            torn = flaw == "torn" or seen_ms + READ_MS > for_ms
            self._agenda.after_ms(seen_ms + READ_MS, lambda: self._read(uid, flaw, torn=torn))
        self._agenda.after_ms(for_ms + self._until_look_ms(), lambda: self._lift(uid))

    def _read(self, uid: str, flaw: str | None, *, torn: bool) -> None:
        if torn:
            self._tell(Unreadable("the card was taken away before it was read: hold it still for a second"))
        elif flaw == "unreadable":
            self._tell(Unreadable("the card could not be read: hold it flat on the reader"))
        elif flaw == "random":
            # NXP AN10927: 08 and three random bytes
            self._tell(Card(b"\x08" + self._dice.randbytes(3)))
        else:
            self._tell(Card(bytes.fromhex(uid)))

    def _lift(self, uid: str) -> None:
        if self._held == uid:
            self._held = None
            self._tell(Lifted())

    def _until_look_ms(self) -> int:
        return self._dice.randint(1, LOOK_MS)

    def _tell_whether_found(self, listener: Listener | None) -> None:
        if listener is None or listener is not self._listener:
            return
        if not self._served:
            listener(Gone("the smart-card service takes no client: pcscd does not run"))
        elif not self._plugged:
            listener(Gone("card reader was unplugged or does not work"))
        else:
            listener(Found())

    def _tell(self, sight: Sight) -> None:
        if self._listener is not None and self._plugged and self._served:
            self._listener(sight)
