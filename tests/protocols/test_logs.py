"""The log as a protocol: one line per event, whatever the value says."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge import logs

PAIR = re.compile(r'([A-Za-z0-9_]+)=("(?:[^"\\]|\\.)*"|[^\s"]+)(?: |$)')
"""One field; a quoted value is a JSON string."""


def read_back(line: str) -> dict[str, str]:
    """Parse a line from its grammar alone; every character of it must belong to a field."""
    fields, at = {}, 0
    while at < len(line):
        pair = PAIR.match(line, at)
        assert pair is not None, f"no field at {line[at:]!r}"
        key, value = pair.groups()
        assert key not in fields, f"{key} stands there twice"
        fields[key] = json.loads(value) if value.startswith('"') else value
        at = pair.end()
    return fields


HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=100) | st.sampled_from(
    ['" admin=1', "\n<0>topic=forged", "\x1b[2J", "a\\", '\\"', "\u202eleft", "\u2028", "=", " ", "", "ä…€"]
)


@given(topic=HOSTILE, values=st.dictionaries(st.sampled_from("abcdef"), HOSTILE))
@example(topic="t", values={"a": '\\" b=2'})
def test_a_line_reads_back_as_the_fields_it_was_made_of(topic: str, values: dict[str, str]) -> None:
    assert read_back(logs.line(topic, values)) == {"topic": topic, **values}


@given(value=st.text(st.characters()))
def test_no_value_starts_a_line_or_talks_to_a_terminal(value: str) -> None:
    line = logs.line("t", {"text": value})
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert line.encode("utf-8")


@given(
    before=st.text(max_size=20),
    standard=st.sampled_from(["ISO14443A", "ISO14443B", "ISO15693", "FELICA", "iso14443a"]),
    digits=st.text("0123456789ABCDEFabcdef", min_size=8, max_size=20),
    after=st.text(st.characters(exclude_categories=["L", "N", "Cs"]), max_size=20),
)
def test_of_a_card_number_only_the_last_four_digits_are_logged(
    before: str, standard: str, digits: str, after: str
) -> None:
    line = logs.line("t", {"text": f"{before}{standard}:{digits}{after}"})
    assert f"{standard}:…{digits[-4:]}" in line
    assert f":{digits}" not in line


def test_a_long_value_is_cut_so_that_journald_never_splits_a_line() -> None:
    line = logs.line("t", {"text": "\U000e0001" * 1_000_000})  # an escape of 12 bytes each
    assert len(line.encode()) < 48 * 1024
    assert line.endswith('…"')


def test_a_field_that_is_none_is_left_out_and_zero_is_not() -> None:
    assert logs.line("t", {"connector": None, "offer_ma": 0}) == "topic=t offer_ma=0"


class Pipe:
    """A pipe in the place of stderr."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()

    def lines(self) -> list[str]:
        """Close the writing end and read what was written."""
        os.close(self.into)
        self.into = -1
        with os.fdopen(os.dup(self.out), "rb") as stream:
            return stream.read().decode().splitlines()

    def close(self) -> None:
        for fd in (self.out, self.into):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_what_is_logged_is_written_by_the_thread_named_logs_before_the_end(pipe: Pipe) -> None:
    with logs.start("info", fd=pipe.into):
        assert "logs" in [thread.name for thread in threading.enumerate()]
        for number in range(100):
            logs.log("counted", number=number)
        logs.log("hidden", level=logging.DEBUG)
    lines = pipe.lines()
    assert [read_back(line)["number"] for line in lines] == [str(number) for number in range(100)]
    assert all(
        re.match(r"time=\d{4}-\d\d-\d\dT[\d:.]{12}Z level=info topic=counted ", line) for line in lines
    )


def test_a_library_and_its_traceback_fit_in_one_line(pipe: Pipe) -> None:
    with logs.start("warning", fd=pipe.into):
        try:
            int("first\nsecond ISO14443A:04A2B3C4D5E680")
        except ValueError:
            logging.getLogger("somebody.library").exception("bus %s is\nbroken", "a")
        logging.getLogger("somebody.library").info("chatter")
    [line] = pipe.lines()
    fields = read_back(line)
    assert fields["topic"] == "somebody.library"
    assert fields["text"] == "bus a is\nbroken"
    assert fields["traceback"].endswith("second ISO14443A:…E680'")


def test_a_reader_that_stalls_never_makes_the_caller_wait_and_what_is_lost_is_counted(pipe: Pipe) -> None:
    total = 3 * logs.QUEUE_LINES  # a pipe holds 64 KiB, some 600 lines: the rest must be dropped
    with logs.start("info", fd=pipe.into):
        for number in range(total):
            logs.log("counted", number=number)
        drain = threading.Thread(target=lambda: lines.extend(read_until_closed(pipe.out)))
        lines: list[str] = []
        drain.start()
    os.close(pipe.into)
    pipe.into = -1
    drain.join(10)
    fields = [read_back(line) for line in lines]
    lost = sum(int(entry["count"]) for entry in fields if entry["topic"] == "log_lines_lost")
    written = sum(entry["topic"] == "counted" for entry in fields)
    assert lost > 0
    assert written + lost == total


def read_until_closed(fd: int) -> list[str]:
    with os.fdopen(os.dup(fd), "rb") as stream:
        return stream.read().decode().splitlines()


def test_a_reader_that_never_reads_does_not_hold_up_the_end_of_the_process() -> None:
    code = """
from edge import logs
with logs.start("info"):
    for number in range(5000):
        logs.log("counted", number=number)
"""
    out, into = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=into)
    try:
        assert process.wait(logs.LAST_LINES_S + 20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(out)
        os.close(into)


def test_nobody_reading_any_more_is_no_reason_to_fail(pipe: Pipe) -> None:
    os.close(pipe.out)
    pipe.out = -1
    with logs.start("info", fd=pipe.into):
        logs.log("ready")
    assert "topic=ready" in logs.recent()[-1]


def test_the_ring_keeps_the_last_events_oldest_first(pipe: Pipe) -> None:
    with logs.start("info", fd=pipe.into):
        for number in range(logs.RING_LINES + 10):
            logs.log("counted", number=number)
        kept = [read_back(line)["number"] for line in logs.recent()]
        drained = threading.Thread(target=read_until_closed, args=(pipe.out,))
        drained.start()
    os.close(pipe.into)
    pipe.into = -1
    drained.join(10)
    assert kept == [str(number) for number in range(10, logs.RING_LINES + 10)]
    assert len(logs.recent(3)) == 3
    assert logs.recent(0) == []


@pytest.mark.wire
def test_under_journald_a_line_carries_its_priority_and_not_the_time(tmp_path: Path) -> None:
    code = """
import logging
from edge import logs
with logs.start("debug"):
    logs.log("ready", connectors=2)
    logs.log("fault_raised", level=logging.ERROR)
    logging.getLogger("x").warning("hm")
    logging.getLogger("x").debug("psst")
"""
    journal, ours = socket.socketpair()
    with journal, ours:
        status = os.fstat(ours.fileno())
        stream = f"{status.st_dev}:{status.st_ino}"
        run = [sys.executable, "-c", code]
        subprocess.run(
            run, stderr=ours.fileno(), env={**os.environ, "JOURNAL_STREAM": stream}, check=True, timeout=30
        )
        ours.shutdown(socket.SHUT_WR)
        with journal.makefile() as received:
            assert received.read().splitlines() == [
                "<6>topic=ready connectors=2",
                "<3>topic=fault_raised",
                "<4>topic=x text=hm",
                "<7>topic=x text=psst",
            ]
    redirected = tmp_path / "stderr"
    with redirected.open("wb") as file:  # the variable is inherited, but this is not journald's stream
        subprocess.run(run, stderr=file, env={**os.environ, "JOURNAL_STREAM": stream}, check=True, timeout=30)
    assert redirected.read_text().startswith("time=")
