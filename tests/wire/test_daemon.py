"""Bad days of the real daemon on its real wires: a message, a named fault, nothing lost, the others go on."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hal_mocks.card import VirtualCard
from hal_mocks.rig import CARDS, CARDS_COUNT_AFTER_MS, Rig
from hal_mocks.vehicle import Vehicle
from tests.wire.people import arrive, drawn_ma, faults, leave, session, state, until

pytestmark = [pytest.mark.wire, pytest.mark.timeout(180)]

Story = Callable[[Rig], Awaitable[None]]


def play(folder: Path, story: Story) -> None:
    """Run a story on a rig with the daemon, and end the daemon properly."""

    async def main() -> None:
        async with Rig(folder) as rig:
            await rig.start_daemon()
            await story(rig)
            assert await rig.stop_daemon() in (0, None)

    asyncio.run(main())


async def everything_is_paid(rig: Rig, sessions: int) -> None:
    """The backend has booked this many sessions, each once, and nothing waits."""
    await until(rig, "all is settled", lambda s: s["claims"]["settled"] == sessions)
    assert [tally.booked for tally in rig.backend.tally.values()] == [1] * sessions


def test_an_unplugged_serial_line_of_the_meters_is_a_named_fault_and_the_claim_waits_for_it(
    tmp_path: Path,
) -> None:
    async def story(rig: Rig) -> None:
        await arrive(rig, 1, "alice")
        rig.meters_line.unplug()
        await until(rig, "the fault has its name", lambda s: "meter_silent" in faults(s, 1))
        status = await until(rig, "the reading ages", lambda s: s["connectors"][0]["meter_age_ms"] > 3_000)
        assert state(status, 1) == "charging"
        rig.meters_line.replug()
        status = await until(rig, "the fault is over", lambda s: faults(s, 1) == [])
        assert status["connectors"][0]["meter_age_ms"] < 2_000
        await leave(rig, 1, "alice")
        await everything_is_paid(rig, 1)
        (booking,) = rig.backend.ledger.values()
        assert booking.claim["anomalies"] == []

    play(tmp_path, story)


def test_an_unplugged_controller_line_leaves_the_cars_at_their_last_offer_and_comes_back(
    tmp_path: Path,
) -> None:
    async def story(rig: Rig) -> None:
        await arrive(rig, 1, "alice")
        rig.evse_line.unplug()
        await until(rig, "the fault has its name", lambda s: "evse_silent" in faults(s, 1))
        await until(rig, "what is not known is said to be unknown", lambda s: state(s, 1) == "unknown")
        rig.evse_line.replug()
        await until(rig, "the car goes on", lambda s: state(s, 1) == "charging" and drawn_ma(s, 1) > 6_000)
        await leave(rig, 1, "alice")
        await everything_is_paid(rig, 1)

    play(tmp_path, story)


def test_garbage_on_the_bus_costs_readings_but_no_session(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await arrive(rig, 1, "alice")
        for seed in range(20):
            rig.meters_line.inject(bytes((seed * 37 + k * 11) % 256 for k in range(40)))
            rig.evse_line.inject(b"\x01\x03\x10" + bytes(16) + b"\xff\xff")
            await asyncio.sleep(0.1)
        await until(rig, "the car charges on", lambda s: state(s, 1) == "charging" and faults(s, 1) == [])
        await leave(rig, 1, "alice")
        await everything_is_paid(rig, 1)

    play(tmp_path, story)


def test_a_meter_at_a_wrong_address_is_named_and_the_other_connector_charges(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            text = rig.config.read_text()
            rig.config.write_text(text.replace("unit = 11\n", "unit = 99\n"))
            await rig.start_daemon()
            await until(rig, "the fault has its name", lambda s: "meter_silent" in faults(s, 1))
            assert "unit 99" in rig.log_tail()
            rig.world.plug(1, Vehicle())
            await until(rig, "the first car is seen", lambda s: session(s, 1) == "plugged")
            await arrive(rig, 2, "bob")
            await leave(rig, 2, "bob")
            await everything_is_paid(rig, 1)
            await rig.stop_daemon()

    asyncio.run(main())


def test_pcscd_killed_and_restarted_is_a_fault_that_ends_and_cards_work_again(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        if rig.pcscd is None or not rig.pcscd.restartable:
            pytest.skip(f"no pcscd of our own: {rig.why_no_pcscd}")
        await arrive(rig, 1, "alice")
        rig.pcscd.kill()
        status = await until(rig, "the fault has its name", lambda s: s["faults"] != [])
        assert status["faults"][0]["name"] == "reader_lost"
        assert state(status, 1) == "charging"
        rig.pcscd.start()
        await until(rig, "the fault is over", lambda s: s["faults"] == [])
        await leave(rig, 1, "alice")
        await everything_is_paid(rig, 1)

    play(tmp_path, story)


def test_the_broker_killed_mid_session_and_restarted_empty_loses_no_payment(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await arrive(rig, 1, "alice")
        rig.broker.kill()
        await until(rig, "it knows it is offline", lambda s: not s["online"])
        await leave(rig, 1, "alice")
        await arrive(rig, 2, "bob")  # a known card starts while nobody can be asked
        await leave(rig, 2, "bob")
        await until(rig, "two claims wait", lambda s: s["claims"]["closed"] == 2)
        rig.broker.start()
        await everything_is_paid(rig, 2)

    play(tmp_path, story)


def test_a_silent_backend_makes_claims_wait_over_a_restart_and_then_they_are_paid_once(
    tmp_path: Path,
) -> None:
    async def story(rig: Rig) -> None:
        polite, rig.backend.manners = rig.backend.manners, type(rig.backend.manners)(silent=True)
        await arrive(rig, 1, "alice")
        await leave(rig, 1, "alice")
        await until(rig, "the claim waits", lambda s: s["claims"]["closed"] == 1)
        await rig.kill_daemon()
        await rig.start_daemon()
        await until(rig, "it still waits", lambda s: s["claims"]["closed"] == 1)
        rig.backend.manners = polite
        await everything_is_paid(rig, 1)

    play(tmp_path, story)


def test_a_register_going_backwards_ends_one_session_on_hold_and_leaves_the_other_alone(
    tmp_path: Path,
) -> None:
    async def story(rig: Rig) -> None:
        await arrive(rig, 1, "alice")
        await arrive(rig, 2, "bob")
        rig.world.meters["connector-1"].restart_at_zero()
        await until(rig, "the fault has its name", lambda s: "meter_backwards" in faults(s, 1))
        await everything_is_paid(rig, 1)
        (booking,) = rig.backend.ledger.values()
        assert booking.claim["hold"]
        assert booking.claim["reason"] == "fault"
        status = await until(rig, "bob gets it all", lambda s: drawn_ma(s, 2) > 15_000)
        assert state(status, 1) == "faulted"
        run = [sys.executable, "-m", "edge", "clear-fault", "--config", str(rig.config), "1"]
        await asyncio.to_thread(subprocess.run, run, check=True, capture_output=True)
        await until(rig, "the connector is back", lambda s: state(s, 1) == "finishing")
        await leave(rig, 2, "bob")

    play(tmp_path, story)


def test_a_full_disk_refuses_new_sessions_bills_the_running_one_and_recovers(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    filler = small / "filler"

    async def main() -> None:
        async with Rig(tmp_path / "rig") as rig:
            text = rig.config.read_text()
            rig.config.write_text(text.replace(f"{rig.folder}/journal.sqlite", f"{small}/journal.sqlite"))
            await rig.start_daemon()
            await arrive(rig, 1, "alice")
            await asyncio.to_thread(_fill, filler)
            rig.world.plug(2, Vehicle())
            await until(rig, "the second car is seen", lambda s: state(s, 2) == "preparing")
            await rig.swipe("bob")
            status = await until(rig, "the fault has its name", lambda s: s["faults"] != [])
            assert status["faults"][0]["name"] == "journal_failed"
            assert "disk is full" in status["faults"][0]["detail"]
            assert state(status, 1) == "charging"
            await leave(rig, 1, "alice")  # its closed claim uses the reserve
            await everything_is_paid(rig, 1)
            filler.unlink()
            await until(rig, "starts are tried again", lambda s: s["faults"] == [])
            rig.world.unplug(2)
            await until(rig, "the second connector is free", lambda s: state(s, 2) == "available")
            await arrive(rig, 2, "bob")
            await leave(rig, 2, "bob")
            await everything_is_paid(rig, 2)
            await rig.stop_daemon()

    try:
        asyncio.run(main())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def _fill(path: Path) -> None:
    """Write until the disk says no."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_card_torn_off_mid_read_is_told_and_the_next_touch_works(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        if rig.pcscd is None:
            pytest.skip(f"no pcscd: {rig.why_no_pcscd}")
        await until(rig, "cards count", lambda s: s["uptime_ms"] > CARDS_COUNT_AFTER_MS)
        card = VirtualCard(bytes.fromhex(CARDS["alice"]), port=rig.pcscd.port)
        card.tear_after_apdus = 1
        card.insert()
        await until(rig, "it is told", lambda _: "card_unreadable" in rig.log_tail())
        card.remove()
        await arrive(rig, 1, "alice")
        await leave(rig, 1, "alice")

    play(tmp_path, story)


def test_where_pcscd_cannot_run_the_same_daemon_takes_cards_from_a_reader_in_memory(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path, pcsc=False) as rig:
            await rig.start_daemon()
            await arrive(rig, 1, "alice")
            await leave(rig, 1, "alice")
            await everything_is_paid(rig, 1)
            await rig.stop_daemon()

    asyncio.run(main())


def test_sigterm_withdraws_the_offers_and_the_session_goes_on_after_the_restart(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await arrive(rig, 1, "alice")
        assert await rig.stop_daemon() == 0
        assert rig.world.evses[1].set_current_ma == 0
        await rig.start_daemon()
        status = await until(rig, "the car goes on", lambda s: drawn_ma(s, 1) > 6_000)
        assert status["connectors"][0]["contract"] == "alice"
        await leave(rig, 1, "alice")
        await everything_is_paid(rig, 1)

    play(tmp_path, story)


def test_after_a_long_absence_the_session_is_closed_with_the_meters_register(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await arrive(rig, 1, "alice")
        await rig.kill_daemon()
        alive = rig.folder / "run" / "alive"
        boot, last_ms = alive.read_text().split()
        alive.write_text(f"{boot} {int(last_ms) - 3_600_000}\n")  # as if it had been away for an hour
        await rig.start_daemon()
        await everything_is_paid(rig, 1)
        (booking,) = rig.backend.ledger.values()
        assert booking.claim["reason"] == "power_loss"
        assert booking.claim["end_wh"] * 3.6e12 == pytest.approx(
            rig.world.meters["connector-1"].register_nj, abs=5 * 3.6e12
        )

    play(tmp_path, story)


def test_a_second_daemon_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge", "run", "--config", str(rig.config),
            stderr=subprocess.PIPE, env={**os.environ, **rig.environment},
        )  # fmt: skip
        _, said = await second.communicate()
        assert second.returncode == 74
        assert b"journal" in said
        assert b"Traceback" not in said
        await until(rig, "the first serves", lambda s: s["uptime_ms"] > 0)

    play(tmp_path, story)


def test_safe_off_tells_every_controller_zero_when_the_daemon_is_dead(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await arrive(rig, 1, "alice")
        await rig.stop_daemon(signal.SIGKILL)
        assert rig.world.evses[1].set_current_ma > 0
        run = [sys.executable, "-m", "edge", "safe-off", "--config", str(rig.config)]
        await asyncio.to_thread(subprocess.run, run, check=True, capture_output=True)
        assert rig.world.evses[1].set_current_ma == 0
        rig.evse_line.unplug()
        failed = await asyncio.to_thread(subprocess.run, run, check=False, capture_output=True)
        assert failed.returncode == 1
        assert b"connector 1 is not known to be off" in failed.stderr

    play(tmp_path, story)


def test_edge_status_shows_a_page_a_technician_can_read(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await arrive(rig, 1, "alice")
        run = [sys.executable, "-m", "edge", "status", "--config", str(rig.config)]
        done = await asyncio.to_thread(subprocess.run, run, check=True, capture_output=True, text=True)
        assert "station rig-1" in done.stdout
        assert " 1 charging" in done.stdout
        assert "circuit main" in done.stdout
        assert "04A1A2A3A4A5A6" not in done.stdout + rig.log.read_text()
        await rig.stop_daemon()
        dead = await asyncio.to_thread(subprocess.run, run, check=False, capture_output=True, text=True)
        assert dead.returncode == 1
        assert "Traceback" not in dead.stderr

    play(tmp_path, story)
