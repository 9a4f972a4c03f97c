"""What cards and readers say in bytes: the answer to reset (ATR), the UID, and the credential made of them.

Sources: PC/SC part 3 rev. 2.01.09 (3.1.3.2.3 contactless ATR, 3.2.2.1.3 GET DATA) and its supplement (tables
of standards and card names), ISO/IEC 14443-3 (UID sizes), ISO/IEC 15693-3 (UID layout), NXP AN10927 (random
UIDs). No I/O. Errors name lengths and status words, never a card's number.
"""

from enum import StrEnum
from functools import reduce
from operator import xor

from msgspec import Struct

from edge.errors import PeerError
from edge.events import Credential

GET_UID = bytes.fromhex("FFCA000000")
"""GET DATA for the UID (PC/SC part 3, 3.2.2.1.3); Le 00 asks for all of it."""


class Standard(StrEnum):
    """The air interface, as it stands in front of a canonical card number."""

    ISO14443A = "ISO14443A"
    ISO14443B = "ISO14443B"
    ISO15693 = "ISO15693"
    FELICA = "FELICA"


class Family(Struct, frozen=True):
    """What an ATR tells about a card. `standard` is None when it tells nothing: the UID's length decides."""

    standard: Standard | None
    name: str


_UNKNOWN = Family(None, "unknown card")

_ATR_HEAD = bytes.fromhex("8001")  # TD1, TD2: every contactless ATR announces T=0, then T=1
_STORAGE_CARD = bytes.fromhex(
    "804F0CA000000306"
)  # historical bytes: an AID of 12 bytes, PC/SC workgroup's RID
_STORAGE_HISTORY_BYTES = 15  # those 8, SS, NN NN and four reserved bytes

# The SS byte names a part of a standard; which part does not matter here.
_STANDARDS = (
    dict.fromkeys((0x01, 0x02, 0x03), Standard.ISO14443A)
    | dict.fromkeys((0x05, 0x06, 0x07), Standard.ISO14443B)
    | dict.fromkeys((0x09, 0x0A, 0x0B, 0x0C), Standard.ISO15693)
    | {0x11: Standard.FELICA}
)

_NAMES = {
    0x0001: "MIFARE Classic 1K",
    0x0002: "MIFARE Classic 4K",
    0x0003: "MIFARE Ultralight",
    0x0014: "ICODE SLI",
    0x0026: "MIFARE Mini",
    0x0036: "MIFARE Plus 2K, level 1",
    0x0037: "MIFARE Plus 4K, level 1",
    0x003A: "MIFARE Ultralight C",
    0x003B: "FeliCa",
    0xF011: "FeliCa 212K",
    0xF012: "FeliCa 424K",
}

# ACS readers report FeliCa under SS 03 (ISO 14443 A) with names of their own, so the name goes first.
_FELICA_NAMES = frozenset((0x003B, 0xF011, 0xF012))

_DESFIRE_HISTORY = bytes.fromhex("80")  # the one historical byte in a DESFire's answer to select (ATS)

_UID_BYTES = {
    Standard.ISO14443A: (4, 7, 10),  # ISO/IEC 14443-3, 6.5.4: single, double, triple size
    Standard.ISO14443B: (4,),  # the PUPI
    Standard.ISO15693: (8,),
    Standard.FELICA: (8,),  # the IDm
}
_STANDARD_BY_UID_BYTES = {
    4: Standard.ISO14443A,
    7: Standard.ISO14443A,
    10: Standard.ISO14443A,
    8: Standard.ISO15693,
}

_RANDOM_UID0 = (
    0x08  # a single-size UID that starts so is made up at each activation: ISO/IEC 14443-3, AN10927
)
_ISO15693_UID0 = 0xE0  # the most significant byte of every ISO 15693 UID

_DONE = (0x9000, 0x6282)  # 6282: fewer bytes than Le asked for, yet all there are
_REFUSALS = {
    0x6300: "the reader lost the card while reading it",
    0x6A81: "this card or reader gives no UID",
}


def parse_atr(atr: bytes) -> Family:
    """Tell a card's family from the ATR its reader made up for it.

    Never fails: readers invent odd ATRs for cards whose UID is perfectly good, so anything not understood
    (wrong checksum TCK included) is an unknown card.
    """
    history = _contactless_history(atr)
    if history is None:
        return _UNKNOWN
    if len(history) == _STORAGE_HISTORY_BYTES and history.startswith(_STORAGE_CARD):
        return _storage_card(history[8], int.from_bytes(history[9:11]))
    # ISO 14443-4: the history is the card's own (ATS of type A, ATQB of type B) and does not tell A from B.
    # Charging cards of type B are practically unknown; their four-byte PUPI would be filed as type A.
    return Family(Standard.ISO14443A, "MIFARE DESFire" if history == _DESFIRE_HISTORY else "ISO 14443-4 card")


def parse_uid(response: bytes) -> bytes:
    """Take the UID out of the response to `GET_UID`. Raises `PeerError`."""
    if len(response) < 2:
        raise PeerError(f"the reader answered {len(response)} bytes, less than a status word")
    status = int.from_bytes(response[-2:])
    if status not in _DONE:
        refusal = _REFUSALS.get(status, "the reader refused to give the card's UID")
        raise PeerError(f"{refusal} (status word {status:04X})")
    uid = response[:-2]
    if len(uid) not in _STANDARD_BY_UID_BYTES:
        raise PeerError(f"no card has a UID of {len(uid)} bytes")
    return uid


def credential(uid: bytes, family: Family) -> Credential:
    """Make the canonical credential of a UID: standard, colon, the UID in hex, in the order on air.

    ISO 15693 is written most significant byte first; readers differ there, and the E0 that leads every such
    UID tells which way round it came.
    Raises `PeerError` when a card of this family cannot have such a UID.
    """
    standard = family.standard or _STANDARD_BY_UID_BYTES.get(len(uid))
    if standard is None or len(uid) not in _UID_BYTES[standard]:
        raise PeerError(f"a UID of {len(uid)} bytes does not fit a card that says it is a {family.name}")
    if standard is Standard.ISO15693:
        uid = _most_significant_first(uid)
    digits = uid.hex().upper()
    return Credential(
        id=f"{standard}:{digits}",
        masked=f"…{digits[-4:]}",
        random=standard is Standard.ISO14443A and len(uid) == 4 and uid[0] == _RANDOM_UID0,
    )


def _contactless_history(atr: bytes) -> bytes | None:
    """Return the n historical bytes of `3B 8n 80 01 ... TCK` (PC/SC part 3, 3.1.3.2.3), None for others."""
    if len(atr) < 5 or atr[0] != 0x3B or atr[1] >> 4 != 8 or atr[2:4] != _ATR_HEAD:
        return None
    if len(atr) != 4 + (atr[1] & 0x0F) + 1 or reduce(xor, atr[1:]) != 0:
        return None
    return atr[4:-1]


def _storage_card(standard: int, name: int) -> Family:
    known = Standard.FELICA if name in _FELICA_NAMES else _STANDARDS.get(standard)
    fallback = f"{known or 'unknown'} storage card"
    return Family(known, _NAMES.get(name, fallback))


def _most_significant_first(uid: bytes) -> bytes:
    for order in (uid, uid[::-1]):
        if order[0] == _ISO15693_UID0:
            return order
    raise PeerError("an ISO 15693 UID starts with E0, this one does not")
