"""What a planner sees of `edge share`: answers on stdout, problems on stderr, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.wire, pytest.mark.timeout(120)]

GARAGE = {
    "circuits": [{"id": 0, "parent": -1, "limit": [29, 32, 32], "background": [0.5, 0, 0], "name": "cellar"}],
    "connectors": [
        {"id": 0, "circuit": 0, "phases": [1, 1, 1], "min": 6.0, "max": 32.0, "priority": 1},
        {"id": "b", "circuit": 0, "phases": [1, 0, 0], "min": 6.0, "max": 32.0},
    ],
}
ANSWER = (
    '{"allocations":[{"id":0,"current":14.25,"bound_by":"circuit 0 L1"},'
    '{"id":"b","current":14.25,"bound_by":"circuit 0 L1"}]}\n'
)


def edge_share(*words: str | Path) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "edge", "share", *map(str, words)]
    return subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)


def test_one_instance_gets_a_page_or_a_line_of_json(tmp_path: Path) -> None:
    site = tmp_path / "site.json"
    site.write_text(json.dumps(GARAGE, indent=2))
    done = edge_share(site, "--explain")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nb          0        L1        6.000  32.000  14.250  circuit 0 L1\n" in done.stdout
    assert "\n0: gets 14.250 A, as circuit 0 L1 is full" in done.stdout
    done = edge_share(site, "--json")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", ANSWER)
    done = edge_share(site, "--json", "--strict")
    assert [one["current"] for one in json.loads(done.stdout)["allocations"]] == [22.5, 6.0]


def test_problems_are_lines_on_stderr_and_the_exit_code_is_65(tmp_path: Path) -> None:
    site = tmp_path / "site.json"
    site.write_text(json.dumps(GARAGE).replace("29", "-29").replace('"min": 6.0', '"min": NaN', 1))
    done = edge_share(site)
    assert (done.returncode, done.stdout) == (65, "")
    assert [line.partition(";")[0] for line in done.stderr.splitlines()] == [
        f"{site}: circuits[0].limit[0]: -29 is negative",
        f"{site}: connectors[0].min: NaN is not a number of amps",
    ]
    for wrong in (tmp_path, tmp_path / "missing.jsonl"):
        done = edge_share(wrong)
        assert done.returncode == 65
        assert done.stderr.startswith(f"{wrong}: cannot be read: ")


def test_many_instances_get_a_line_each_and_a_reader_may_leave_early(tmp_path: Path) -> None:
    day = tmp_path / "day.jsonl"
    day.write_text(f"{json.dumps(GARAGE)}\n[]\n{json.dumps(GARAGE)}\n")
    done = edge_share(day)
    assert done.returncode == 65
    wrong = done.stdout.removeprefix(ANSWER).removesuffix(ANSWER)
    [problem] = json.loads(wrong)["error"]
    assert done.stderr == f"{day}: line 2: {problem}\n"

    day.write_text(f"{json.dumps(GARAGE)}\n" * 3_000)
    with subprocess.Popen(
        [sys.executable, "-m", "edge", "share", day],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == ANSWER
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 0
