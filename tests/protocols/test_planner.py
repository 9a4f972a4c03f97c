"""`edge share` and its Python call: an instance gets its allocations, or a line for every problem in it."""

import doctest
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge import planner
from edge.planner import Allocation, Planner, share
from edge.planner_format import MOST_CIRCUITS, MOST_DEPTH, InstanceError
from edge.planner_report import answers


def circuit(
    name: object = 0, parent: object = -1, limit: object = (32, 32, 32), **more: object
) -> dict[str, object]:
    return {"id": name, "parent": parent, "limit": list(limit) if isinstance(limit, tuple) else limit, **more}


def connector(name: object = 0, at: object = 0, **more: object) -> dict[str, object]:
    return {"id": name, "circuit": at, "phases": [1, 1, 1], "min": 6.0, "max": 32.0, **more}


def instance(*circuits: dict[str, object], connectors: list[dict[str, object]]) -> dict[str, object]:
    return {"circuits": list(circuits) or [circuit()], "connectors": connectors}


def currents(given: object, *, strict: bool = False) -> list[float]:
    return [one.current for one in share(given, strict=strict)]


def problems(given: object) -> list[str]:
    with pytest.raises(InstanceError) as caught:
        share(given)
    assert all(line.isprintable() for line in caught.value.problems)
    return caught.value.problems


def said(
    tmp_path: Path, text: str | bytes, name: str = "site.json", **options: bool
) -> list[tuple[str, list[str]]]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [
        (answer, [line.removeprefix(f"{path}: ") for line in lines])
        for answer, lines in answers(path, **options)
    ]


# -- the answer ----------------------------------------------------------------------------------------------


def test_the_example_of_the_module_is_true() -> None:
    assert doctest.testmod(planner).failed == 0
    assert doctest.testmod(planner).attempted >= 3


def test_everybody_is_told_what_bound_him() -> None:
    garage = instance(
        circuit("main", limit=(40, 50, 40), background=[8, 0, 0]),
        circuit("yard", "main", limit=(32, 17, 32)),
        connectors=[
            connector(1, "main", max=7.25),
            connector("two", "yard", rank=-1),
            connector(3, "yard", rank=1, min=20),
            connector(4, "yard", active=False),
            connector(5, "main", max=5),
            connector(6, "main", weight=2),
            connector(7, "yard", phases=[0, 1, 0]),
        ],
    )
    assert share(garage) == [
        Allocation(1, 7_250, "own maximum"),
        Allocation("two", 8_250, "circuit main L1"),
        Allocation(3, 0, "minimum does not fit circuit yard L2"),
        Allocation(4, 0, "inactive"),
        Allocation(5, 0, "maximum below minimum"),
        Allocation(6, 16_500, "circuit main L1"),
        Allocation(7, 8_750, "circuit yard L2"),
    ]


def test_background_counts_in_every_circuit_above_and_never_makes_headroom_negative() -> None:
    garage = instance(
        circuit(0, limit=(40, 40, 40), background=[1, 0, 0]),
        circuit(1, 0, limit=(16, 16, 16), background=[0, 20, 3.5]),
        connectors=[
            connector(0, 0, phases=[1, 0, 0]),
            connector(1, 0, phases=[0, 1, 0]),
            connector(2, 0, phases=[0, 0, 1], max=50),
            connector(3, 1, phases=[0, 1, 0]),
            connector(4, 1, phases=[0, 0, 1]),
        ],
    )
    assert [(one.current, one.bound_by) for one in share(garage)] == [
        (32.0, "own maximum"),
        (20.0, "circuit 0 L2"),
        (24.0, "circuit 0 L3"),
        (0.0, "minimum does not fit circuit 1 L2"),
        (12.5, "circuit 1 L3"),
    ]


def test_limits_and_maximums_are_rounded_down_to_the_milliamp_backgrounds_and_minimums_up() -> None:
    car = connector(0, phases=[0, 1, 0], min=Decimal("6.0001"), max=Decimal("16.0019"))
    yard = circuit(limit=(0, Decimal("20.0009"), 0))
    assert share(instance(yard, connectors=[car])) == [Allocation(0, 16_001, "own maximum")]
    car["max"] = 25
    assert share(instance(yard, connectors=[car])) == [Allocation(0, 20_000, "circuit 0 L2")]
    yard["background"] = [0, Decimal("13.9999"), 0]  # leaves 6.000 A, of which 6.001 A are needed
    assert share(instance(yard, connectors=[car])) == [Allocation(0, 0, "minimum does not fit circuit 0 L2")]
    car["min"] = 6
    assert share(instance(yard, connectors=[car])) == [Allocation(0, 6_000, "circuit 0 L2")]


def test_a_program_may_give_binary_fractions_and_they_count_as_they_read() -> None:
    given = instance(
        circuit(limit=(6.1 + 0.2, 99, 99)), connectors=[connector(0, min=6.1, max=np.float64(6.1))]
    )
    assert share(given) == [Allocation(0, 6_100, "own maximum")]
    given = instance(connectors=[connector(np.int64(3), min=np.int64(6), weight=np.float64(0.5))])
    assert share(given) == [Allocation(3, 32_000, "own maximum")]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 2, 1], [8.0, 16.0, 8.0]),
        ([Decimal("0.1"), Decimal("0.2"), Decimal("0.1")], [8.0, 16.0, 8.0]),
        ([0.125, 0.25, 0.125], [8.0, 16.0, 8.0]),
        ([Decimal("333.333"), Decimal("666.666"), Decimal("333.333")], [8.0, 16.0, 8.0]),
        ([Decimal("0.0000001"), 10_000_000, Decimal("0.0000001")], [6.0, 20.0, 6.0]),
        ([0.1234567891, 0.2469135782, 0.1234567891], [8.0, 16.0, 8.0]),
    ],
)  # fmt: skip
def test_weights_count_as_ratios_whatever_their_size(weights: list[object], expected: list[float]) -> None:
    assert currents(instance(connectors=[connector(k, weight=w) for k, w in enumerate(weights)])) == expected


def test_weights_that_no_whole_numbers_express_are_taken_to_the_nearest() -> None:
    weights = [0.8414709848078965, 0.9092974268256817, 0.1411200080598672]
    given = instance(
        circuit(limit=(40, 40, 40)),
        connectors=[connector(k, weight=w, min=0, max=40) for k, w in enumerate(weights)],
    )
    for got, weight in zip(currents(given), weights, strict=True):
        assert got == pytest.approx(40 * weight / sum(weights), abs=0.002)


def test_priority_and_rank_decide_who_is_on_and_strict_who_is_filled_first() -> None:
    given = instance(
        circuit(limit=(14, 14, 14)),
        connectors=[connector(0), connector(1, rank=Decimal("-0.5")), connector(2, priority=10**30)],
    )
    assert currents(given) == [0.0, 7.0, 7.0]
    assert currents(given, strict=True) == [0.0, 6.0, 8.0]


def test_a_planner_prepares_a_site_once_and_answers_as_a_new_one_would() -> None:
    dice = random.Random(3)  # noqa: S311 - instances, no secrets
    reused = Planner()
    for _ in range(60):
        given = any_instance(dice, circuits=dice.choice((2, 3)))
        assert reused.share(given) == share(given)


def any_instance(dice: random.Random, circuits: int = 4) -> dict[str, Any]:
    names: list[int | str] = [*range(circuits - 1), "x"]
    listed = [
        circuit(name, names[dice.randrange(k)] if k else -1, tuple(dice.randint(0, 80) for _ in range(3)))
        for k, name in enumerate(names)
    ]
    connectors = [
        connector(
            name,
            dice.choice(names),
            phases=dice.choice(([1, 1, 1], [0, 1, 0], [True, False, True])),
            max=dice.randint(5, 32),
            weight=dice.choice((1, Decimal("1.5"))),
            priority=dice.randint(0, 1),
            rank=dice.randint(0, 1),
            active=dice.random() < 0.8,
        )
        for name in (*range(5), "a", "b")
    ]
    return {"circuits": listed, "connectors": connectors}


@pytest.mark.parametrize("seed", range(40))
def test_the_order_of_the_lists_changes_nothing(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - instances, no secrets
    given = any_instance(dice)
    other = {"connectors": dice.sample(given["connectors"], 7), "circuits": []}
    waiting, placed = list(given["circuits"]), {-1}
    while waiting:
        following = dice.choice([one for one in waiting if one["parent"] in placed])
        waiting.remove(following)
        placed.add(following["id"])
        other["circuits"].append(following)
    for strict in (False, True):
        by_id = {one.id: one for one in share(given, strict=strict)}
        assert {one.id: one for one in share(other, strict=strict)} == by_id
        assert list(by_id) == [one["id"] for one in given["connectors"]]


def test_a_limit_may_be_endless_but_not_what_is_shared_of_it() -> None:
    many = [connector(k, max=30_000) for k in range(2)]
    assert problems(instance(circuit(limit=(10**9,) * 3), connectors=many)) == [
        "connectors: together more than 33554.432 A; so much cannot be shared out"
    ]
    assert currents(instance(circuit(limit=(10**9,) * 3), connectors=many[:1])) == [30_000.0]
    assert currents(instance(circuit(limit=(20_000,) * 3), connectors=many)) == [10_000.0, 10_000.0]


def test_a_site_without_connectors_or_circuits_is_a_site() -> None:
    assert share({"circuits": [], "connectors": []}) == []
    assert share(instance(connectors=[])) == []


# -- the problems --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("min", -1, "connectors[0].min: -1 is negative; write the least current it charges with"),
        ("min", "6", 'connectors[0].min: "6" is not a number of amps'),
        ("min", None, "connectors[0].min: null is not a number of amps"),
        ("min", True, "connectors[0].min: true is not a number of amps"),
        ("min", float("nan"), "connectors[0].min: nan is not a number of amps"),
        ("min", Decimal("Infinity"), "connectors[0].min: Infinity is not a number of amps"),
        ("max", Decimal("1e999999999"), "connectors[0].max: 1E+999999999 is more than 33554.432 A"),
        ("max", 10**99, "connectors[0].max: a number of more than 64 bits is more than 33554.432 A"),
        ("max", Decimal("-1e-999999"), "connectors[0].max: -1E-999999 is negative"),
        ("weight", 0, "connectors[0].weight: 0 is not above 0; write a number from 1e-9 to 1e9"),
        ("weight", Decimal("1e-99"), "connectors[0].weight: 1E-99 is too small"),
        ("weight", 10**99, "connectors[0].weight: a number of more than 64 bits is too large"),
        ("weight", [], "connectors[0].weight: [] is not a number"),
        ("priority", "high", 'connectors[0].priority: "high" is not a number'),
        ("rank", Decimal("sNaN"), "connectors[0].rank: sNaN is not a number"),
        ("active", 2, "connectors[0].active: 2 is neither true nor false"),
        ("phases", [1, 1], "connectors[0].phases: [1, 1] is not a list of three"),
        ("phases", [1, 2, "L3"], 'connectors[0].phases[2]: "L3" is neither 0 nor 1'),
        ("phases", [0, 0, 0], "connectors[0].phases: it loads no phase"),
        ("circuit", 7, "connectors[0].circuit: there is no circuit 7; known here: 0"),
        ("circuit", "0", 'connectors[0].circuit: there is no circuit "0"; did you mean 0?'),
        ("circuit", 0.0, "connectors[0].circuit: 0.0 is no id; write a whole number or a text"),
        ("id", "", 'connectors[0].id: "" is no id'),
        ("id", "a\nb", 'connectors[0].id: "a\\nb" is no id'),
        ("id", "\ud800", 'connectors[0].id: "\\ud800" is no id'),
        ("id", 2**63, "connectors[0].id: 9223372036854775808 is no id"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_connector_is_named(key: str, value: object, line: str) -> None:
    found = problems(instance(connectors=[connector() | {key: value}]))
    assert any(one.startswith(line) for one in found), found
    assert all("; " in one for one in found)


@pytest.mark.parametrize("key", ["id", "circuit", "phases", "min", "max"])
def test_a_missing_value_of_a_connector_is_named(key: str) -> None:
    fields = connector()
    del fields[key]
    [line] = problems(instance(connectors=[fields]))
    assert line.startswith(f"connectors[0].{key}: missing; write ")


@pytest.mark.parametrize(
    ("circuits", "lines"),
    [
        ([circuit(limit=(1, -2, 3))], ["circuits[0].limit[1]: -2 is negative"]),
        ([circuit(limit=32)], ["circuits[0].limit: 32 is not a list of three"]),
        ([circuit(limit=(2 * 10**9,) * 3)],
         [f"circuits[0].limit[{p}]: 2000000000 is more" for p in (0, 1, 2)]),
        ([circuit(background=[0, -1, 0])], ["circuits[0].background[1]: -1 is negative"]),
        ([circuit(background=None)], ["circuits[0].background: null is not a list of three"]),
        ([{"id": 0}], ["circuits[0].parent: missing", "circuits[0].limit: missing"]),
        ([circuit(-1)], ["circuits[0].id: -1 stands for no circuit"]),
        ([circuit(0, 0)], ["circuits[0].parent: a circle of 1, 0 -> 0; write"]),
        ([circuit(0, 9)], ["circuits[0].parent: there is no circuit 9"]),
        ([circuit(1, 0), circuit(0)], ["circuits[0].parent: 0 stands after it"]),
        ([circuit(0, 1), circuit(1, 2), circuit(2, 0), circuit(3, 0)],
         ["circuits[0].parent: a circle of 3, 0 -> 1 -> 2 -> 0"]),
        ([circuit(0), circuit(1, 2), circuit(2, 1), circuit(3, 3)],
         ["circuits[1].parent: a circle of 2", "circuits[3].parent: a circle of 1"]),
        ([circuit(0), circuit(1), circuit(0)], ["circuits[2].id: 0 is the id of circuits[0] too"]),
        ([circuit(0), circuit("0")], ['circuits[1].id: "0" is the id of circuits[0] too']),
        ([circuit(c, c - 1) for c in range(MOST_DEPTH + 9)],
         [f"circuits[{MOST_DEPTH}].parent: more than {MOST_DEPTH} circuits"]),
        ([circuit(c) for c in range(MOST_CIRCUITS + 1)], [f"circuits: {MOST_CIRCUITS + 1} are too many"]),
        ([17], ["circuits[0]: 17 is not an object"]),
    ],
)  # fmt: skip
def test_a_wrong_circuit_is_named(circuits: list[dict[str, object]], lines: list[str]) -> None:
    found = problems(instance(*circuits, connectors=[]))
    assert len(found) == len(lines), found
    for one, line in zip(found, lines, strict=True):
        assert one.startswith(line)
        assert "; " in one


@pytest.mark.parametrize("given", [None, 1, "x", [], [[]], True, b"x"])
def test_what_is_no_object_is_no_instance(given: object) -> None:
    [line] = problems(given)
    assert line.endswith("is no instance; write an object with circuits and connectors")


def test_every_problem_is_told_at_once() -> None:
    found = problems(
        {"circuits": [circuit(0, 7, limit=(1, 1, -1))], "connectors": [connector(max=-1), connector()]}
    )
    assert [line.partition(":")[0] for line in found] == [
        "circuits[0].parent", "circuits[0].limit[2]", "connectors[1].id", "connectors[0].max",
    ]  # fmt: skip
    assert problems({}) == [
        "circuits: missing; write a list of objects", "connectors: missing; write a list of objects",
    ]  # fmt: skip


def test_a_number_of_thousands_of_digits_is_told_without_them() -> None:
    fields = dict.fromkeys(("id", "min", "max", "weight"), 10**5000)
    assert len(problems(instance(connectors=[connector() | fields]))) == len(fields)
    huge = dict.fromkeys(("priority", "rank"), 10**5000)
    assert currents(instance(connectors=[connector() | huge])) == [32.0]


def test_hundreds_of_wrong_references_are_told_in_short_lines() -> None:
    given = instance(
        *(circuit(f"c{k}") for k in range(2000)), connectors=[connector(k, at="d") for k in range(2000)]
    )
    found = problems(given)
    assert len(found) == 2000
    assert max(map(len, found)) < 150


# -- files ---------------------------------------------------------------------------------------------------


def test_a_file_of_json_gets_a_table_and_with_explain_the_numbers_in_words(tmp_path: Path) -> None:
    garage = instance(
        circuit("main", limit=(32, 32, 32), background=[2, 0, 0]),
        connectors=[
            connector(1, "main", max=6.25),
            connector(2, "main", weight=2.5),
            connector(3, "main", phases=[1, 0, 0]),
            connector(4, "main", min=16),
            connector(5, "main", max=1),
            connector(6, "main", active=False),
            connector(7, "main", phases=[0, 0, 1]),
        ],
    )
    [(text, lines)] = said(tmp_path, json.dumps(garage), explain=True)
    assert lines == []
    assert text.splitlines() == [
        "connector  circuit  phases     min A   max A  gets A  bound by",
        "1          main     L1+L2+L3   6.000   6.250   6.250  own maximum",
        "2          main     L1+L2+L3   6.000  32.000  16.964  circuit main L1",
        "3          main     L1         6.000  32.000   6.785  circuit main L1",
        "4          main     L1+L2+L3  16.000  32.000   0.000  minimum does not fit circuit main L1",
        "5          main     L1+L2+L3   6.000   1.000   0.000  maximum below minimum",
        "6          main     L1+L2+L3   6.000  32.000   0.000  inactive",
        "7          main     L3         6.000  32.000   8.785  circuit main L3",
        "",
        "circuit  L1 used / headroom A               L2               L3",
        "main          29.999 / 30.000  23.214 / 32.000  31.999 / 32.000",
        "",
        "1: gets its maximum of 6.250 A",
        "2: gets 16.964 A (weight 2.5: 6.785 A for weight 1), as circuit main L1 is full: limit "
        "32.000 A, of which other loads leave 30.000 A, 29.999 A used; on it too: 1 with 6.250 A (its"
        " maximum), 3 with 6.785 A",
        "3: gets 6.785 A, as circuit main L1 is full: limit 32.000 A, of which other loads leave "
        "30.000 A, 29.999 A used; on it too: 1 with 6.250 A (its maximum), 2 with 16.964 A (weight "
        "2.5: 6.785 A for weight 1)",
        "4: waits, as its minimum of 16.000 A does not fit circuit main L1: limit 32.000 A, of which "
        "other loads leave 30.000 A, 18.000 A of it kept for the minimum of 1, 2, 3; 4.000 A are "
        "missing",
        "5: cannot charge, as its maximum of 1.000 A is below its minimum of 6.000 A",
        "6: does not ask",
        "7: gets 8.785 A, as circuit main L3 is full: limit 32.000 A, 31.999 A used; on it too: 1 "
        "with 6.250 A (its maximum), 2 with 16.964 A (weight 2.5: 6.785 A for weight 1)",
    ]
    [(brief, _)] = said(tmp_path, json.dumps(garage))
    assert text.startswith(brief + "\n\n1: ")


def test_a_file_of_json_gets_one_line_of_json(tmp_path: Path) -> None:
    cars = [connector(0), connector(1, max=24.75, ignored="x", phases=[1, 0, 0])]
    given = json.dumps(instance(circuit(limit=(32, 64, 64)), connectors=cars))
    assert said(tmp_path, given, as_json=True) == [
        (
            '{"allocations":[{"id":0,"current":16.0,"bound_by":"circuit 0 L1"},'
            '{"id":1,"current":16.0,"bound_by":"circuit 0 L1"}]}',
            [],
        )
    ]
    [(text, _)] = said(tmp_path, given, as_json=True, explain=True)
    assert all(
        one["why"].startswith("gets 16.000 A, as circuit 0 L1 is full")
        for one in json.loads(text)["allocations"]
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", "column 1: Expecting value; this is not JSON"),
        (b'{"circuits": [\n1,,]}', "line 2, column 3: Expecting value; this is not JSON"),
        (b"\xff\x00\xfe", "byte 1: not UTF-8"),
        (b"[" * 100_000, "brackets are nested too deeply"),
        (b'{"a":' * 100_000, "brackets are nested too deeply"),
        (b"9" * 5_000, "a number is far too large"),
        (b"1e9999999999999999999", "a number is far too large"),
        (b"[1.5]", "[1.5] is no instance"),
        (b'"' + b"x" * 1_000_000 + b'"', '"xxx'),
    ],
)  # fmt: skip
def test_what_is_no_instance_gets_a_line_and_no_answer(tmp_path: Path, text: bytes, line: str) -> None:
    [(answer, lines)] = said(tmp_path, text)
    assert answer == ""
    assert len(lines) == 1
    assert lines[0].startswith(line)
    assert len(lines[0]) < 200


def test_nan_in_a_file_is_named_where_it_stands(tmp_path: Path) -> None:
    text = json.dumps(instance(circuit(limit=(float("nan"), float("-inf"), 1)), connectors=[]))
    [(_, lines)] = said(tmp_path, text)
    assert [line.partition(";")[0] for line in lines] == [
        "circuits[0].limit[0]: NaN is not a number of amps",
        "circuits[0].limit[1]: -Infinity is not a number of amps",
    ]


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps(instance(connectors=[connector()]))
    assert said(tmp_path, text, as_json=True) == said(tmp_path, text[1:], as_json=True)


def test_of_a_jsonl_file_every_line_gets_its_answer_in_order(tmp_path: Path) -> None:
    right = json.dumps(instance(connectors=[connector()]))
    wrong = json.dumps(instance(connectors=[connector(min=-1, max="x")]))
    found = said(tmp_path, f"{right}\n\n{wrong}\n   \n{{\n{right}", name="day.JSONL")
    assert [answer for answer, _ in found] == [
        '{"allocations":[{"id":0,"current":32.0,"bound_by":"own maximum"}]}',
        json.dumps({"error": [line.removeprefix("line 3: ") for line in found[1][1]]}, separators=(",", ":")),
        json.dumps({"error": [line.removeprefix("line 5: ") for line in found[2][1]]}, separators=(",", ":")),
        found[0][0],
    ]
    assert [line.split(": ")[:2] for _, lines in found for line in lines] == [
        ["line 3", "connectors[0].min"], ["line 3", "connectors[0].max"], ["line 5", "column 2"],
    ]  # fmt: skip


def test_a_jsonl_file_is_answered_while_it_is_read(tmp_path: Path) -> None:
    right = json.dumps(instance(connectors=[connector()])) + "\n"
    path = tmp_path / "day.jsonl"
    path.write_text(right)
    coming = answers(path)
    assert next(coming)[1] == []
    with path.open("a") as more:
        more.write("17\n")
    assert json.loads(next(coming)[0])["error"]


@pytest.mark.parametrize("name", ["missing.json", "missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    [(answer, [line])] = answers(tmp_path / name)
    assert answer == ""
    assert line.startswith(f"{tmp_path / name}: cannot be read: ")


# -- anything ------------------------------------------------------------------------------------------------

numbers = st.integers(-3, 40) | st.integers() | st.floats() | st.decimals() | st.booleans()
leaves = numbers | st.none() | st.text(max_size=5) | st.sampled_from(["main", "yard"])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner)
)
keys = st.sampled_from(
    "id parent limit background circuit phases min max weight priority rank active circuits".split()
)
threes = st.lists(st.integers(0, 40) | numbers, min_size=3, max_size=3) | values
circuit_like = st.fixed_dictionaries(
    {"id": st.integers(0, 3) | leaves, "parent": st.integers(-1, 2) | leaves, "limit": threes},
    optional={"background": threes},
)
connector_like = st.fixed_dictionaries(
    {
        "id": st.integers(0, 9) | leaves,
        "circuit": st.integers(0, 3) | leaves,
        "phases": st.lists(st.integers(0, 1), min_size=3, max_size=3) | values,
        "min": st.integers(0, 13) | values,
        "max": st.integers(0, 40) | values,
    },
    optional={"weight": numbers, "priority": numbers, "rank": numbers, "active": st.booleans() | values},
)
instance_like = st.fixed_dictionaries(
    {
        "circuits": st.lists(circuit_like | st.dictionaries(keys, values) | values, max_size=4) | values,
        "connectors": st.lists(connector_like | st.dictionaries(keys, values) | values, max_size=4) | values,
    }
)


@given(instance_like | values, st.booleans())
@example({"circuits": [circuit(0, 1), circuit(1, 0)], "connectors": [connector()]}, False)
def test_any_value_gets_allocations_or_lines_that_name_what_is_wrong(
    given: dict[str, object], strict: bool
) -> None:
    outcome = allocations_or_problems(given, strict=strict)
    assert all(isinstance(one, Allocation) or (one.isprintable() and "; " in one) for one in outcome)
    assert outcome or given == {"circuits": given["circuits"], "connectors": []}


def allocations_or_problems(given: object, *, strict: bool) -> list[Allocation] | list[str]:
    try:
        return share(given, strict=strict)
    except InstanceError as error:
        return error.problems


@given(st.binary(max_size=60) | instance_like.map(lambda it: json.dumps(it, default=str).encode()))
def test_any_bytes_get_an_answer_or_lines_that_name_what_is_wrong(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("any.json", "any.jsonl"):
        for answer, lines in said(folder, text, name=name, explain=True):
            assert answer or lines
            assert all(line.isprintable() for line in lines)
