"""The page of `edge status`: within 100 columns, with the times of the place."""

from typing import Any

import pytest

from edge.status import COLUMNS, show

NOON_MS = 1_780_311_600_000  # Monday 2026-06-01 11:00 UTC, 13:00 in Berlin
MIN_MS, HOUR_MS = 60_000, 3_600_000
NOW_MS = 100 * HOUR_MS

CONNECTOR = {
    "number": 1,
    "state": "charging",
    "offered_ma": 8_000,
    "why": "circuit house L1",
    "why_kind": "circuit",
    "why_since_ms": NOW_MS - 10 * MIN_MS,
    "why_until_ms": None,
    "demand": None,
    "current_ma": [7_900, 8_000, 7_850],
    "meter_age_ms": 200,
    "meter_stale": False,
    "energy_wh": 12_345,
    "cost": "6.42 EUR",
    "faults": [],
}
STATION = {
    "station": "yard-1",
    "online": True,
    "uptime_ms": 3 * HOUR_MS,
    "clock": "synced",
    "price": "0.4641 EUR per kWh",
    "claims": {"open": 1},
    "connectors": [CONNECTOR],
    "circuits": [],
    "limits": [],
    "faults": [],
    "now_ms": NOW_MS,
    "unix_ms": NOON_MS,
    "time_zone": "Europe/Berlin",
}


def page(connector: dict[str, Any] | None = None, **station: object) -> str:
    text = show(STATION | {"connectors": [CONNECTOR | (connector or {})]} | station, as_json=False)
    assert all(len(line) <= COLUMNS for line in text.splitlines())
    return text


def test_a_short_reason_stands_in_the_row_and_a_long_one_below() -> None:
    (row,) = (line for line in page().splitlines() if line.startswith(" 1 "))
    assert row.endswith("6.42 EUR  circuit house L1, since 12:50")
    long = "limit of technician for circuit house, whose source is silent"
    assert f"6.42 EUR\n   {long}, since 12:50\n" in page({"why": long, "why_kind": "signal"})
    text = page({"why": f"waiting for its turn: the minimum does not fit {long}"})
    assert "for circuit house, whose\n     source is silent, since 12:50\n" in text


@pytest.mark.parametrize(
    ("kind", "until_ms", "text"),
    [
        ("turn", NOW_MS + 15 * MIN_MS, "since 12:50, next turn 13:15\n"),
        ("pause", NOW_MS + MIN_MS, "since 12:50, until 13:01\n"),
        ("signal", NOW_MS + 30 * HOUR_MS, "since 12:50, until Tue 19:00\n"),
        ("not_asking", NOW_MS, "since 12:50\n"),
    ],
)
def test_since_when_and_until_when_it_holds_is_shown(kind: str, until_ms: int, text: str) -> None:
    assert text in page({"why_kind": kind, "why_until_ms": until_ms})


def test_a_wish_and_a_silent_meter_have_a_line_of_their_own() -> None:
    text = page(
        {"demand": "20.0 kWh within 3 h 0 min can be done", "meter_stale": True, "meter_age_ms": 9_000}
    )
    assert "\n   meter silent for 9.0 s\n   wish: 20.0 kWh within 3 h 0 min can be done\n" in text


def test_limits_are_listed_with_their_end() -> None:
    limits = [
        {"text": "limit of a for circuit house", "current_ma": [8_000, 8_000, 0], "power_mw": 4_200_000,
         "until_ms": NOW_MS + HOUR_MS},
        {"text": "limit of b for connector 1", "current_ma": None, "power_mw": None, "until_ms": None},
    ]  # fmt: skip
    text = page(limits=limits)
    assert "limit of a for circuit house: 8.0/8.0/0.0 A and 4.2 kW until 14:00" in text
    assert "limit of b for connector 1: none" in text


def test_the_answer_of_another_version_is_told_and_not_a_traceback() -> None:
    older = {key: value for key, value in STATION.items() if key != "limits"}
    assert show(older, as_json=False).startswith(
        "the daemon is of another version, its answer has no 'limits'"
    )
