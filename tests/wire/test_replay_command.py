"""What a technician does with a bug in the field: `edge dump` at the station, `edge replay` at the desk."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge import clock, daemon
from edge.control.site import Signal, SignalKind, Solar
from edge.control.state import Sun
from edge.errors import PeerError
from edge.events import DeviceFound, Tick
from edge.outside import Outside
from edge.ports import Put
from edge.ring import Happened, Recording, lines_of, read
from edge.wiring import load_config
from hal_mocks.rig import CARDS, Rig
from tests.wire.people import arrive, leave

pytestmark = [pytest.mark.wire, pytest.mark.timeout(180)]


def edge(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "edge", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ring of a real daemon that two cars used, as `edge dump` wrote it."""
    folder = tmp_path_factory.mktemp("rig")

    async def main() -> Path:
        async with Rig(folder) as rig:
            await rig.start_daemon()
            await arrive(rig, 1, "alice")
            await rig.swipe("stranger", hold_s=0.1)
            await leave(rig, 1, "alice")
            await arrive(rig, 2, "bob")
            done = await asyncio.to_thread(edge, "dump", "--socket", rig.socket)
            assert done.returncode == 0, done.stderr
            assert await rig.stop_daemon() == 0
            return Path(done.stdout.removesuffix("\n"))

    return asyncio.run(main())


def test_the_ring_of_a_real_daemon_is_decided_the_same_at_the_desk(dumped: Path) -> None:
    assert dumped.with_name("journal.sqlite").exists()
    done = edge("replay", dumped)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == (
        f"{len(read(dumped).happened)} events replayed, the core decides the same"
    )
    for topic in ("plugged", "session_started", "session_closed", "card_refused"):
        assert f"-> {topic}: " in done.stdout


def test_no_card_number_and_no_customer_is_in_it(dumped: Path) -> None:
    data = dumped.read_bytes()
    for name, number in CARDS.items():
        assert number.encode() not in data.upper()
        assert name.encode() not in data
    assert CARDS["alice"][-4:].encode() in data  # what a person compares with the card in his hand


def test_a_program_reads_one_object_a_line(dumped: Path) -> None:
    lines = [json.loads(line) for line in edge("replay", dumped, "--json").stdout.splitlines()]
    assert lines[-1] == {"events": len(read(dumped).happened), "same": True}
    assert any("CardSeen" in line for line in lines)


def test_a_difference_and_a_file_that_is_no_ring_end_with_65(dumped: Path, tmp_path: Path) -> None:
    recording, path = read(dumped), tmp_path / "doctored.jsonl"
    at = next(i for i, each in enumerate(recording.happened) if each.commands)
    happened = (*recording.happened[:at], replace(recording.happened[at], commands=()))
    path.write_bytes(b"".join(lines_of(replace(recording, happened=happened))))
    done = edge("replay", path)
    assert done.returncode == 65
    assert f"\nevent {at + 1}: the core decides otherwise: " in done.stdout
    path.write_text("[]\n")
    for words, sentence in (
        ([path], f"{path}: no ring: it begins with a head and a station, a line each\n"),
        ([tmp_path / "none.jsonl"], f"{tmp_path}/none.jsonl: cannot be read: No such file or directory\n"),
        ([dumped, "--until", "0"], f"{dumped} has {len(recording.happened)} events, numbered from 1; "),
    ):
        done = edge("replay", *words)
        assert done.returncode == 65
        assert done.stderr.startswith(sentence)


def test_a_bug_of_the_core_is_a_traceback_with_the_event_that_caused_it(dumped: Path, tmp_path: Path) -> None:
    """The core cannot work on more suns than there are solar signals."""
    recording, path = read(dumped), tmp_path / "broken.jsonl"
    sun = Signal("sun", SignalKind.SOLAR, 0, None, None, Solar())
    station = replace(
        recording.station, site=replace(recording.station.site, signals=(sun,)), suns=(Sun(), Sun())
    )
    tick = next(each.event for each in recording.happened if isinstance(each.event, Tick))
    broken = Recording(recording.head, station, (Happened(tick, None),))
    path.write_bytes(b"".join(lines_of(broken)))
    done = edge("replay", path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "event 1 of the ring, at " in done.stderr


class BuggyReader:
    """A hand with a defect: it raises something, or tells the core what cannot be."""

    def __init__(self, bug: Callable[[Put], None]) -> None:
        self._bug = bug

    async def run(self, put: Put) -> None:
        """Work for a second."""
        await asyncio.sleep(1)
        self._bug(put)
        await asyncio.get_running_loop().create_future()


def fail_at_work(_put: Put) -> None:
    raise KeyError("alice")


def unplug_the_reader(_put: Put) -> None:
    raise PeerError("the reader has a fault that has a name")


def tell_nonsense(put: Put) -> None:
    put(DeviceFound(clock.now_ms(), None))  # type: ignore[arg-type] # that is the nonsense


def rings_after(folder: Path, bug: Callable[[Put], None]) -> tuple[type[BaseException], list[Path]]:
    """Let a daemon on the rig end by a bug; what got out of it, and the rings it left."""

    async def main() -> BaseException:
        async with Rig(folder, pcsc=False) as rig:
            outside = Outside(readers={"front": BuggyReader(bug)})
            with pytest.raises(ExceptionGroup) as ended:
                await daemon.live(load_config(rig.config), outside, asyncio.Event())
            return ended.value.exceptions[0]

    return type(asyncio.run(main())), list(folder.glob("ring-*"))


def test_a_daemon_that_ends_by_a_bug_leaves_its_last_minutes_beside_the_journal(tmp_path: Path) -> None:
    kind, (path,) = rings_after(tmp_path, fail_at_work)
    assert kind is KeyError
    assert path.parent == tmp_path
    assert read(path).head.why == "ended by KeyError"
    assert b"alice" not in path.read_bytes()
    assert edge("replay", path).returncode == 0


def test_the_event_the_core_fails_on_is_the_last_of_the_ring(tmp_path: Path) -> None:
    kind, (path,) = rings_after(tmp_path, tell_nonsense)
    assert kind is AttributeError
    last = json.loads(path.read_text().splitlines()[-1])
    assert (last["event"], last["of"]["device"], last["commands"]) == ("DeviceFound", None, None)


def test_an_end_that_has_a_name_is_no_bug_and_leaves_no_ring(tmp_path: Path) -> None:
    assert rings_after(tmp_path, unplug_the_reader) == (PeerError, [])


def test_without_a_daemon_there_is_the_usual_sentence(tmp_path: Path) -> None:
    done = edge("dump", "--socket", tmp_path / "edge.sock")
    assert done.returncode == 1
    assert done.stderr == (
        f"no daemon answers at {tmp_path}/edge.sock; is it running? (systemctl status edge)\n"
    )
