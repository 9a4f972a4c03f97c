"""What may be asked on the local socket: any JSON is a request or a sentence; what is typed comes through."""

import argparse
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import by_hand, requests
from edge.commands import Announce
from edge.errors import PeerError
from edge.events import DemandStated, LimitSignalled, PhasesRequested

CIRCUITS, CONNECTORS = ["house", "garage"], [1, 2]
HOUR_MS = 3_600_000
UNIX_MS = 1_780_000_000_000

LIMIT = {"ask": "limit", "circuit": "garage", "current_ma": [10_000, 0, 16_500], "for_ms": 2 * HOUR_MS}
DEMAND = {"ask": "demand", "connector": 2, "energy_wh": 20_000, "departs_in_ms": 3 * HOUR_MS, "min_ma": 8_000}
PHASES = {"ask": "phases", "connector": 1, "phases": 3}
Request = dict[str, Any]


def event_of(request: Request) -> LimitSignalled | DemandStated | PhasesRequested:
    """Take a request as the daemon does. Raises `PeerError`."""
    asked = requests.decoded(request)
    requests.check(asked, CIRCUITS, CONNECTORS)
    assert isinstance(asked, requests.Wish)
    return requests.event_of(asked, 1_000, UNIX_MS, "Europe/Berlin")


def test_each_wish_becomes_its_event() -> None:
    assert event_of(LIMIT) == LimitSignalled(
        1_000, "technician", "garage", None, (10_000, 0, 16_500), None, 2 * HOUR_MS
    )
    assert event_of({"ask": "limit", "connector": 1, "for_ms": 0}) == LimitSignalled(
        1_000, "technician", None, 1, None, None, requests.LIFT_MS
    )
    assert event_of(DEMAND) == DemandStated(1_000, 2, 20_000, 3 * HOUR_MS, 8_000)
    assert event_of(PHASES) == PhasesRequested(1_000, 1, 3)


@pytest.mark.parametrize(
    ("request_", "change", "sentence"),
    [
        (
            PHASES,
            {"ask": "weather"},
            "unknown request; ask status, log, ring, clear_fault, limit, demand, phases",
        ),
        (PHASES, {"connector": 9}, "there is no connector 9; there are 1, 2"),
        (PHASES, {"phases": 2}, "2 phases cannot be switched to; there are 1 and 3"),
        (LIMIT, {"circuit": "hall"}, "there is no circuit 'hall'; there are house, garage"),
        (LIMIT, {"connector": 1}, "a limit needs a place: either a circuit or a connector"),
        (LIMIT, {"circuit": None}, "a limit needs a place: either a circuit or a connector"),
        (LIMIT, {"current_ma": [0, -1, 0]}, "a limit has from 0 to 6300 A on each phase"),
        (LIMIT, {"power_mw": -1}, "a limit has from 0 to 5000 kW"),
        (LIMIT, {"for_ms": 0}, "a limit by hand needs an end: say for how long it holds, 1 second or more"),
        (
            LIMIT,
            {"for_ms": 7 * 24 * HOUR_MS + 1},
            "a limit by hand holds for 7 days at most; a lasting one belongs into the configuration",
        ),
        (DEMAND, {"energy_wh": 0}, "a car needs more than 0 and at most 2000 kWh"),
        (DEMAND, {"by": "17:30"}, "say when the car leaves: either a time of day or in how long"),
        (DEMAND, {"by": "5 pm", "departs_in_ms": None}, "a time of day is written from 00:00 to 23:59"),
        (
            DEMAND,
            {"departs_in_ms": 0},
            "a car can be planned for until it leaves within 7 days; say how long from now",
        ),
        (
            DEMAND,
            {"min_ma": 5_999},
            "the least current is 6 to 80 A, as IEC 61851-1 can signal no other; or leave it out",
        ),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(request_: Request, change: Request, sentence: str) -> None:
    with pytest.raises(PeerError) as wrong:
        event_of(request_ | change)
    assert str(wrong.value) == sentence


@pytest.mark.parametrize(
    "change", [{"connector": "1"}, {"connector": True}, {"connector": 1.5}, {"conector": 1}, {"phases": None}]
)
def test_another_type_or_key_is_refused_with_its_name(change: Request) -> None:
    with pytest.raises(PeerError, match=r"request phases: .*(connector|conector|phases)"):
        event_of(PHASES | change)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["house", "garage", "17:30", "limit", "demand", "phases", 1, 2, 3, 6_000, HOUR_MS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_keys = "circuit connector current_ma power_mw for_ms energy_wh by departs_in_ms min_ma phases".split()


@given(
    st.sampled_from([LIMIT, DEMAND, PHASES, {"ask": "status"}, {"ask": "log"}, {"ask": "clear_fault"}, {}]),
    st.dictionaries(st.sampled_from([*_keys, "ask", "more"]), _values, max_size=5),
)
def test_any_json_object_is_a_request_that_can_be_or_one_sentence(request_: Request, change: Request) -> None:
    try:
        asked = requests.decoded(request_ | change)
        requests.check(asked, CIRCUITS, CONNECTORS)
    except PeerError as error:
        said, asked = str(error), None
    else:
        said = "taken"
    assert 0 < len(said) < 400
    if isinstance(asked, requests.Wish):
        event = requests.event_of(asked, 0, UNIX_MS, "Europe/Berlin")
        assert getattr(event, "connector", None) in (None, *CONNECTORS)
        if isinstance(event, DemandStated):
            assert 0 < event.departs_in_ms <= requests.LONGEST_STAY_MS
        if isinstance(event, LimitSignalled):
            assert all(0 <= ma <= requests.MOST_MA for ma in event.current_ma or ())


@given(
    st.integers(UNIX_MS, UNIX_MS + 366 * 24 * HOUR_MS),
    st.integers(0, 23),
    st.integers(0, 59),
    st.sampled_from(["Europe/Berlin", "America/St_Johns", "UTC"]),
)
def test_a_time_of_day_is_the_next_moment_the_stations_clock_shows_it(
    unix_ms: int, hour: int, minute: int, zone: str
) -> None:
    ahead_ms = requests.until_ms(f"{hour:02d}:{minute:02d}", unix_ms, zone)
    assert 0 < ahead_ms <= 25 * HOUR_MS
    shown = datetime.fromtimestamp((unix_ms + ahead_ms) / 1000, ZoneInfo(zone))
    before = datetime.fromtimestamp((unix_ms + ahead_ms) / 1000 - 3_600, ZoneInfo(zone))
    skipped = shown.utcoffset() != before.utcoffset()  # 02:30 in the night in which it does not exist
    assert (shown.hour, shown.minute) == (hour, minute) or skipped


def test_without_a_time_zone_the_machines_own_counts() -> None:
    shows = datetime.fromtimestamp((UNIX_MS + requests.until_ms("17:30", UNIX_MS, None)) / 1000)  # noqa: DTZ006 - its own
    assert (shows.hour, shows.minute) == (17, 30)


def typed(words: str) -> Request:
    """What is asked for by the words after `edge`."""
    parser = argparse.ArgumentParser(prog="edge")
    verbs = parser.add_subparsers()
    by_hand.limit_options(verbs.add_parser("limit"))
    by_hand.demand_options(verbs.add_parser("demand"))
    by_hand.phases_options(verbs.add_parser("phases"))
    options = parser.parse_args(words.split())
    request: Request = options.request(options)
    return request


@pytest.mark.parametrize(
    ("words", "event"),
    [
        (
            "limit --circuit garage --amps 10 --for 2h",
            LimitSignalled(1_000, "technician", "garage", None, (10_000,) * 3, None, 2 * HOUR_MS),
        ),
        (
            "limit --connector 2 --amps 16,0,6.125 --kw 4.2 --for 1h30min",
            LimitSignalled(
                1_000, "technician", None, 2, (16_000, 0, 6_125), 4_200_000, HOUR_MS + HOUR_MS // 2
            ),
        ),
        ("limit --circuit house --lift", LimitSignalled(1_000, "technician", "house", None, None, None, 1)),
        (
            "limit --circuit house --source grid --lift --for 1h",
            LimitSignalled(1_000, "grid", "house", None, None, None, HOUR_MS),
        ),
        ("demand 1 --kwh 20.5 --in 90s", DemandStated(1_000, 1, 20_500, 90_000)),
        ("demand 1 --kwh 7 --in 0.5d --min-amps 8", DemandStated(1_000, 1, 7_000, 12 * HOUR_MS, 8_000)),
        ("phases 2 1", PhasesRequested(1_000, 2, 1)),
    ],
)
def test_what_is_typed_comes_through(
    words: str, event: LimitSignalled | DemandStated | PhasesRequested
) -> None:
    assert event_of(typed(words)) == event


def test_a_time_of_day_may_be_typed_without_its_zero() -> None:
    assert typed("demand 1 --kwh 7 --by 7:05")["by"] == "07:05"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "limit --circuit house --amps 10",
            "say for how long, for example --for 2h: a limit by hand has to end",
        ),
        ("limit --circuit house --for 2h", "say how much: --amps, --kw or both, or --lift"),
        ("limit --circuit house --lift --amps 3", "--lift takes a limit back; it goes without --amps"),
        ("limit --amps 10 --for 2h", "one of the arguments --circuit --connector is required"),
        ("limit --connector 1 --circuit house --amps 10 --for 2h", "not allowed with argument"),
        (
            "limit --connector 1 --amps 10,5 --for 2h",
            "'10,5' has 2 numbers; write one for all phases or three",
        ),
        ("limit --connector 1 --amps -10 --for 2h", "'-10' is no number from 0 on; write it like 16 or 7.25"),
        ("limit --connector 1 --amps nan --for 2h", "'nan' is no number from 0 on"),
        ("limit --connector 1 --amps 1e3 --for 2h", "'1e3' is no number from 0 on"),
        ("limit --connector 1 --kw 3kW --for 2h", "'3kW' is no number from 0 on"),
        (
            "limit --connector 1 --kw 3 --for 2",
            "'2' is no span of time; write it like 90s, 15min, 2h, 1h30min",
        ),
        ("limit --connector 1 --kw 3 --for -2h", "--for: expected one argument"),
        ("limit --connector one --kw 3 --for 2h", "invalid int value"),
        ("demand 1 --kwh 7", "one of the arguments --by --in is required"),
        ("demand 1 --kwh 7 --by 24:30", "'24:30' is no time of day; write it like 17:30"),
        ("demand 1 --in 3h", "--kwh"),
        ("phases 1 2", "invalid choice"),
    ],
)
def test_what_cannot_be_meant_is_told_where_it_is_typed(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        typed(words)
    assert ending.value.code == 2
    assert sentence in capsys.readouterr().err


@given(st.text("0123456789.,smhdin -+e", max_size=12))
def test_any_word_is_a_value_or_a_sentence(word: str) -> None:
    for read in (by_hand.thousandths, by_hand.phases_ma, by_hand.span_ms, by_hand.time_of_day):
        try:
            said = f"write {read(word)}"
        except argparse.ArgumentTypeError as error:
            said = str(error)
        assert "write" in said


@pytest.mark.parametrize(
    ("request_", "announced", "text"),
    [
        (LIMIT, [("limit_changed", "anything")], "circuit garage: at most 10/0/16.5 A for 2 h"),
        (
            {
                "ask": "limit",
                "connector": 1,
                "current_ma": [0, 0, 0],
                "power_mw": 4_200_000,
                "for_ms": 90_000,
            },
            [],
            "connector 1: at most 0/0/0 A and 4.2 kW for 1 min 30 s",
        ),
        ({"ask": "limit", "connector": 1, "for_ms": 0}, [], "connector 1: no limit by hand any more"),
        (DEMAND, [("demand_answered", "20.0 kWh can be done")], "connector 2: 20.0 kWh can be done"),
        (PHASES, [], "connector 1: pauses, then goes on with 3 phases"),
    ],
)
def test_what_came_of_a_wish_is_one_sentence(
    request_: Request, announced: list[tuple[str, str]], text: str
) -> None:
    wish = requests.decoded(request_)
    assert isinstance(wish, requests.Wish)
    others = [Announce(0, "fault_raised", "a cable is too hot", 1)]
    assert requests.outcome(wish, [*others, *(Announce(0, *one) for one in announced)]) == text
    refusal = Announce(0, f"{request_['ask']}_refused", "the core says no")
    with pytest.raises(PeerError, match="the core says no"):
        requests.outcome(wish, [*others, refusal])


@pytest.mark.parametrize(
    ("ms", "text"), [(90_000, "1 min 30 s"), (7_200_000, "2 h"), (90_000_000, "1 d 1 h"), (999, "0 s")]
)
def test_a_span_is_said_without_its_zeros(ms: int, text: str) -> None:
    assert requests.span(ms) == text
