"""How long nobody ran: told exactly within a boot, and not at all when it cannot be known."""

import asyncio
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import clock
from edge.absence import BOOT_ID, Heartbeat


def test_an_absence_within_a_boot_is_told_to_the_millisecond(tmp_path: Path) -> None:
    Heartbeat(tmp_path).beat(5_000)
    assert Heartbeat(tmp_path).absent_ms(12_345) == 7_345


def test_after_a_reboot_or_without_a_file_nobody_knows(tmp_path: Path) -> None:
    assert Heartbeat(tmp_path).absent_ms(1_000) is None
    (tmp_path / "alive").write_text("11111111-2222-3333-4444-555555555555 5000\n")
    assert Heartbeat(tmp_path).absent_ms(6_000) is None


def test_it_beats_on_over_older_lines_and_where_the_file_was_removed(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path)
    heartbeat.beat(123_456_789_000)
    Heartbeat(tmp_path).beat(7)
    assert Heartbeat(tmp_path).absent_ms(10) == 3
    (tmp_path / "alive").unlink()
    heartbeat.beat(8)
    assert Heartbeat(tmp_path).absent_ms(10) == 2


def test_a_directory_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "not there")
    heartbeat.beat(1)
    assert heartbeat.absent_ms(2) is None


@given(st.binary() | st.text().map(lambda text: f"{BOOT_ID.read_text().strip()} {text}".encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_the_file_give_a_length_or_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "alive").write_bytes(content)
    absent_ms = Heartbeat(tmp_path).absent_ms(1_000_000)
    assert absent_ms is None or absent_ms >= 0


def test_the_wall_clock_comes_with_what_it_is_worth() -> None:
    unix_ms, quality = clock.wall()
    assert unix_ms > 1_700_000_000_000
    assert quality in ("synced", "unsynced")


def test_the_monotonic_clock_is_that_of_the_event_loop() -> None:
    async def moments() -> tuple[int, float, int]:
        return clock.now_ms(), asyncio.get_running_loop().time() * 1000, clock.now_ms()

    before, between, after = asyncio.run(moments())
    assert before <= between <= after + 1
