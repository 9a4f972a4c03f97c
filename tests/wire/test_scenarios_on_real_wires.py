"""The scenarios that say `real = true`, on real ptys, pcscd and mosquitto, with the daemon as a process."""

import asyncio
from pathlib import Path

import pytest

from hal_mocks import scenario
from hal_mocks.play import play
from hal_mocks.report import failure_text
from hal_mocks.scenario import SHELF, Scenario, parse
from hal_mocks.stage_real import RealStage, real_stage, run_real
from hal_mocks.steps import Action

pytestmark = [pytest.mark.wire, pytest.mark.timeout(180)]

REAL = [one for one in map(scenario.read, sorted(SHELF.glob("*.toml"))) if one.real]


@pytest.mark.parametrize("told", REAL, ids=[told.name for told in REAL])
def test_a_scenario_holds_on_real_wires(told: Scenario, tmp_path: Path) -> None:
    async def main() -> None:
        async with real_stage(told, tmp_path) as stage:
            outcome = await play(told, stage)
            assert outcome.refusals == []
            failure = outcome.failure
            assert failure is None, f"{failure_text(failure)}\n{stage.rig.log_tail()}"

    asyncio.run(main())


def story(*lines: str) -> Scenario:
    text = "\n".join(lines)
    return parse(f'title = "t"\ntopic = "safety"\nabout = "a"\nstory = """\n{text}\n"""')


def test_what_real_wires_cannot_do_is_refused_with_a_sentence_each(tmp_path: Path) -> None:
    lines = (
        "power cut",
        "clock jumps +1h",
        "disk full",
        "daemon killed in write 3",
        "broker silent",
        "plug 1",
    )
    told = story(*lines)
    outcome = asyncio.run(run_real(told, tmp_path, lambda _done: None))
    assert [refusal.partition(":")[0] for refusal in outcome.refusals] == [f"line {n}" for n in range(5, 10)]
    assert all("without --real" in refusal for refusal in outcome.refusals)
    assert outcome.done == []


def test_a_configuration_that_the_daemon_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    told = parse(
        'title = "t"\ntopic = "safety"\nabout = "a"\nconfig = "[sharing]\\nslot_min = 1"\n'
        'story = """\nplug 1\n"""'
    )
    outcome = asyncio.run(run_real(told, tmp_path, lambda _done: None))
    assert "sharing.slot_min" in outcome.refusals[0]


def test_a_flawed_card_a_pulled_reader_and_a_stopped_daemon_are_what_they_say(tmp_path: Path) -> None:
    told = story(
        "plug 1 car 10A",
        "next-card unreadable",
        "swipe alice",
        "within 5s log has card_unreadable",
        "reader unplugged",
        "within 10s station has fault reader_lost",
        "reader plugged",
        "within 10s station has no fault",
        "limit connector 1 8A for 10m",
        "backend refuses",
        "swipe bob",
        "within 15s connector 1 offers 8A",
        "within 15s connector 1 draws 8A",
        "daemon stopped for 1s",
        "daemon is down",
        "within 10s daemon is running",
        "unplug 1",
        "within 15s 1 claim rejected",
        "bills equal meters",
    )

    async def main() -> None:
        async with real_stage(told, tmp_path) as stage:
            if stage.rig.pcscd is None or not stage.rig.pcscd.restartable:
                pytest.skip(f"no pcscd of our own: {stage.rig.why_no_pcscd}")
            outcome = await play(told, stage)
            assert outcome.held, f"{outcome.failure}\n{stage.rig.log_tail()}"

    asyncio.run(main())


def test_without_a_pcscd_of_its_own_the_stage_says_which_steps_it_cannot_play(tmp_path: Path) -> None:
    told = story("reader unplugged", "swipe alice at back")

    async def main() -> list[str | None]:
        async with real_stage(told, tmp_path) as stage:
            own, stage.rig.pcscd = stage.rig.pcscd, None
            reasons = [stage.can(step.what) for step in told.steps if isinstance(step.what, Action)]
            stage.rig.pcscd = own
            return reasons

    first, second = asyncio.run(main())
    assert "no pcscd" in str(first)
    assert '"front"' in str(second)
    assert RealStage.name == "real wires"
