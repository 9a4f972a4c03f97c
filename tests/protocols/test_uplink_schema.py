"""The contract: exact on the wire, the same for two independent readers, and safe against any bytes."""

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge.errors import ConfigError, UplinkError
from edge.records import Claim, ClaimState, ClockQuality, Cost, StopReason, Tariff
from edge.uplink import schema
from hal_mocks import backend

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_amounts = st.decimals(min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False)
_registers = st.integers(0, 2**53 - 1)
_times = st.integers(0, 2**42)

closed_claims = st.builds(
    Claim,
    id=_texts,
    seq=st.integers(1, 2**53 - 1),
    state=st.just(ClaimState.CLOSED),
    connector=st.integers(1, 99),
    contract=_texts,
    credential=_texts,
    tariff=st.builds(Tariff, currency=_texts, per_kwh=_amounts, per_session=_amounts, vat_percent=_amounts),
    meter=_texts,
    start_wh=_registers,
    last_wh=_registers,
    opened_unix_ms=_times,
    clock=st.sampled_from(ClockQuality),
    closed_unix_ms=_times,
    end_wh=_registers,
    energy_wh=_registers,
    reason=st.sampled_from(StopReason),
    cost=st.builds(Cost, currency=_texts, excl_tax=_amounts, incl_tax=_amounts, exact_incl_tax=_amounts),
    anomalies=st.lists(_texts, max_size=3).map(tuple),
    hold=st.booleans(),
)

_acks = st.fixed_dictionaries(
    {
        "claim_id": st.text(min_size=1, max_size=60),
        "hash": st.text("0123456789abcdef", min_size=64, max_size=64),
        "verdict": st.sampled_from(["accepted", "duplicate", "rejected"]),
    },
    optional={"v": st.just(1), "detail": st.text(max_size=60), "added later": st.integers()},
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(closed_claims)
def test_the_hash_of_a_claim_is_the_one_an_independent_reader_works_out(claim: Claim) -> None:
    message = json.loads(schema.encode(schema.claim_message(claim)))
    assert backend.claim_hash(message) == message["hash"]


@given(closed_claims, closed_claims)
def test_equal_claims_have_equal_bytes_and_others_another_hash(claim: Claim, other: Claim) -> None:
    message = schema.claim_message(claim)
    assert schema.encode(message) == schema.encode(schema.claim_message(replace(claim)))
    changed = replace(other, id=claim.id, energy_wh=(claim.energy_wh or 0) + 1)
    assert schema.claim_message(changed).hash != message.hash


@given(closed_claims)
def test_money_is_exact_on_the_wire_and_never_in_exponents(claim: Claim) -> None:
    message = schema.claim_message(claim)
    assert claim.cost is not None
    pairs = {
        message.tariff.per_kwh: claim.tariff.per_kwh,
        message.cost.excl_tax: claim.cost.excl_tax,
        message.cost.exact_incl_tax: claim.cost.exact_incl_tax,
    }
    for text, amount in pairs.items():
        assert Decimal(text) == amount
        assert "E" not in text.upper()


@given(closed_claims, st.sampled_from(["closed_unix_ms", "end_wh", "energy_wh", "reason", "cost"]))
def test_a_claim_that_is_not_closed_and_priced_is_not_sent(claim: Claim, missing: str) -> None:
    with pytest.raises(UplinkError, match="not closed and priced"):
        schema.claim_message(replace(claim, **{missing: None}))


@given(_acks)
def test_an_ack_is_read_as_it_was_meant(wanted: dict[str, str]) -> None:
    payload = json.dumps(wanted, ensure_ascii=False)
    try:
        payload.encode()
    except UnicodeEncodeError:
        payload = json.dumps(wanted)  # lone surrogates, escaped
    try:
        ack = schema.parse_ack(payload.encode())
    except UplinkError:
        assert "\\ud" in payload  # the only thing in these acks that is not text
    else:
        assert (ack.claim_id, ack.hash, ack.verdict) == (
            wanted["claim_id"],
            wanted["hash"],
            wanted["verdict"],
        )
        assert ack.detail == wanted.get("detail", "")


def _parsed_or_refused(payload: bytes) -> None:
    """Neither the error nor the ack is more than a log and a journal can hold, whatever came in."""
    try:
        ack = schema.parse_ack(payload)
    except UplinkError as error:
        said = str(error)
    else:
        said = ack.claim_id + ack.detail
    assert len(said.encode()) <= 4 * (255 + 1000)


@given(st.binary())
def test_any_bytes_give_an_ack_or_one_named_error(payload: bytes) -> None:
    _parsed_or_refused(payload)


@given(_json)
def test_any_json_gives_an_ack_or_one_named_error(value: object) -> None:
    _parsed_or_refused(json.dumps(value).encode())


@given(_acks, st.data())
def test_a_damaged_ack_gives_an_ack_or_one_named_error(ack: dict[str, str], data: st.DataObject) -> None:
    payload = bytearray(json.dumps(ack).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        payload = payload or bytearray(b" ")
    _parsed_or_refused(bytes(payload))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"claim_id": ""},
        {"claim_id": "x" * 256},
        {"hash": "A" * 64},
        {"hash": "a" * 63},
        {"hash": "a" * 64 + "\n"},
        {"verdict": "perhaps"},
        {"detail": "x" * 1001},
        {"detail": None},
    ],
)
def test_an_ack_outside_the_contract_is_refused(change: dict[str, object]) -> None:
    good = {"v": 1, "claim_id": "a-b-1", "hash": "a" * 64, "verdict": "accepted", "detail": ""}
    assert schema.parse_ack(json.dumps(good).encode()).claim_id == "a-b-1"
    with pytest.raises(UplinkError, match="not an ack"):
        schema.parse_ack(json.dumps(good | change).encode())


def test_a_huge_or_deep_ack_is_refused_at_once() -> None:
    for payload in (b" " * (schema.MAX_INBOUND_BYTES + 1), b'{"x":' + b"[" * 60_000):
        with pytest.raises(UplinkError):
            schema.parse_ack(payload)


@pytest.mark.parametrize(
    ("prefix", "station"), [("", "s"), ("a/#", "s"), ("a", ""), ("a", "s/t"), ("a", "+")]
)
def test_names_that_cannot_stand_in_a_topic_are_refused(prefix: str, station: str) -> None:
    with pytest.raises(ConfigError):
        schema.Topics(prefix, station)


def test_every_message_of_the_contract_has_a_json_schema_with_its_version() -> None:
    (_, components) = msgspec.json.schema_components([*schema.Message.__args__, schema.Ack])
    for name in (
        "Status",
        "Birth",
        "ConnectorState",
        "ConnectorMeter",
        "Announcement",
        "ClaimMessage",
        "Ack",
    ):
        assert components[name]["properties"]["v"] == {"enum": [1], "default": 1}
