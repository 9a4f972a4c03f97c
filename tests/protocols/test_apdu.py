"""Bytes of cards and readers: vectors from the standards and from real cards, then any bytes at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import PeerError
from edge.events import Credential
from edge.rfid import apdu
from edge.rfid.apdu import Family, Standard

CLASSIC_1K = bytes.fromhex("3B8F8001804F0CA000000306030001000000006A")
DONE = bytes.fromhex("9000")
FAMILIES = st.sampled_from([*(Family(standard, "card") for standard in Standard), Family(None, "card")])


def test_the_uid_is_asked_for_with_the_command_of_pcsc_part_3() -> None:
    assert apdu.GET_UID.hex() == "ffca000000"


@pytest.mark.parametrize(
    ("atr", "standard", "name"),
    [
        # ATRs of real cards, as readers' manuals and public card lists have them.
        ("3B8F8001804F0CA000000306030001000000006A", "ISO14443A", "MIFARE Classic 1K"),
        ("3B8F8001804F0CA0000003060300020000000069", "ISO14443A", "MIFARE Classic 4K"),
        ("3B8F8001804F0CA0000003060300030000000068", "ISO14443A", "MIFARE Ultralight"),
        ("3B8F8001804F0CA0000003060B00140000000077", "ISO15693", "ICODE SLI"),
        ("3B8F8001804F0CA00000030611003B0000000042", "FELICA", "FeliCa"),
        ("3B8F8001804F0CA00000030603F011000000008A", "FELICA", "FeliCa 212K"),
        ("3B8F8001804F0CA000000306070007D0020C00B6", "ISO14443B", "ISO14443B storage card"),
        ("3B8180018080", "ISO14443A", "MIFARE DESFire"),
        ("3B80800101", "ISO14443A", "ISO 14443-4 card"),
        ("3B878001C1052F2F01BCD6A9", "ISO14443A", "ISO 14443-4 card"),
    ],
)
def test_an_atr_tells_the_family_of_its_card(atr: str, standard: str, name: str) -> None:
    assert apdu.parse_atr(bytes.fromhex(atr)) == Family(Standard(standard), name)


@given(st.integers(0, len(CLASSIC_1K) - 1), st.integers(1, 255))
def test_an_atr_with_one_wrong_byte_is_an_unknown_card(position: int, change: int) -> None:
    broken = bytearray(CLASSIC_1K)
    broken[position] ^= change
    assert apdu.parse_atr(bytes(broken)).standard is None


@given(st.binary(max_size=40))
def test_any_bytes_as_an_atr_give_a_family(atr: bytes) -> None:
    assert isinstance(apdu.parse_atr(atr), Family)


@pytest.mark.parametrize(
    ("uid", "family", "canonical", "masked"),
    [
        ("04A2B3C4", Standard.ISO14443A, "ISO14443A:04A2B3C4", "…B3C4"),
        ("04112233445566", Standard.ISO14443A, "ISO14443A:04112233445566", "…5566"),
        ("04112233445566778899", Standard.ISO14443A, "ISO14443A:04112233445566778899", "…8899"),
        ("50112233", Standard.ISO14443B, "ISO14443B:50112233", "…2233"),
        ("0101060112345678", Standard.FELICA, "FELICA:0101060112345678", "…5678"),
        ("E004015012345678", Standard.ISO15693, "ISO15693:E004015012345678", "…5678"),
        (
            "78563412500104E0",
            Standard.ISO15693,
            "ISO15693:E004015012345678",
            "…5678",
        ),  # reversed by the reader
        ("04A2B3C4", None, "ISO14443A:04A2B3C4", "…B3C4"),
        ("E004015012345678", None, "ISO15693:E004015012345678", "…5678"),
    ],
)
def test_a_uid_becomes_a_canonical_credential(
    uid: str, family: Standard | None, canonical: str, masked: str
) -> None:
    made = apdu.credential(bytes.fromhex(uid), Family(family, "card"))
    assert made == Credential(canonical, masked, random=False)


@given(st.binary(min_size=3, max_size=3))
def test_a_four_byte_uid_that_starts_with_08_is_random(rest: bytes) -> None:
    assert apdu.credential(b"\x08" + rest, Family(None, "phone")).random


@given(st.sampled_from([7, 10]), st.data())
def test_a_longer_uid_that_starts_with_08_is_not_random(size: int, data: st.DataObject) -> None:
    rest = data.draw(st.binary(min_size=size - 1, max_size=size - 1))
    assert not apdu.credential(b"\x08" + rest, Family(None, "card")).random


@given(st.sampled_from([4, 7, 8, 10]), st.data())
def test_a_uid_with_status_9000_comes_out_as_it_went_in(size: int, data: st.DataObject) -> None:
    uid = data.draw(st.binary(min_size=size, max_size=size))
    assert apdu.parse_uid(uid + DONE) == uid


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        ("", "0 bytes, less than a status word"),
        ("90", "1 bytes, less than a status word"),
        ("9000", "no card has a UID of 0 bytes"),
        ("04A2B39000", "no card has a UID of 3 bytes"),
        ("6A81", "gives no UID (status word 6A81)"),
        ("6300", "lost the card while reading it (status word 6300)"),
        ("04A2B3C46F00", "refused to give the card's UID (status word 6F00)"),
    ],
)
def test_a_bad_response_is_one_sentence(response: str, sentence: str) -> None:
    with pytest.raises(PeerError) as caught:
        apdu.parse_uid(bytes.fromhex(response))
    assert sentence in str(caught.value)


@given(st.binary(max_size=16) | st.binary(max_size=12).map(lambda uid: uid + DONE))
def test_any_bytes_as_a_response_give_a_uid_or_a_peer_error(response: bytes) -> None:
    try:
        uid = apdu.parse_uid(response)
    except PeerError:
        return
    assert len(uid) in {4, 7, 8, 10}


@given(st.binary(max_size=12), FAMILIES)
def test_any_uid_and_family_give_a_credential_or_a_peer_error(uid: bytes, family: Family) -> None:
    try:
        made = apdu.credential(uid, family)
    except PeerError as problem:
        assert len(uid) < 2 or uid.hex() not in str(problem).lower()  # noqa: PT017 - both outcomes are right
        return
    standard, digits = made.id.split(":")
    assert bytes.fromhex(digits) in (uid, uid[::-1])
    assert Standard(standard) is family.standard or family.standard is None
    assert made.masked == "…" + digits[-4:]
