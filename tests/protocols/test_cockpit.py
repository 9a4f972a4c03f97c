"""The rig's terminal view: what each key means, and what the page shows of the station and the world."""

from io import StringIO
from typing import Any

from rich.console import Console

from hal_mocks.cockpit import Around, page
from hal_mocks.evse import SimpleEvse
from hal_mocks.keys import CARS, KEYS, Act, Choice, car, press, split
from hal_mocks.meter import Sdm630
from hal_mocks.vehicle import Vehicle
from hal_mocks.world import Circuit, Connector, World


def world_of_two() -> World:
    outlets = [Connector(n, "main", evse=SimpleEvse(n, boot_a=16), meter=Sdm630(10 + n)) for n in (1, 2)]
    return World([Circuit("main", (32_000,) * 3, meter=Sdm630(1))], outlets)


def status_of_two(**first: object) -> dict[str, Any]:
    idle = {
        "number": 1, "state": "available", "offered_ma": 0, "current_ma": [0, 0, 0], "meter_stale": False,
        "energy_wh": None, "cost": None, "why": "", "faults": [],
    }  # fmt: skip
    return {
        "station": "rig-1",
        "price": "0.46 EUR per kWh",
        "online": True,
        "connectors": [idle | first, idle | {"number": 2}],
        "circuits": [{"id": "main", "faults": []}],
        "faults": [],
        "claims": {"closed": 1, "settled": 3},
    }


def drawn(
    status: dict[str, Any] | None, world: World, around: Around, columns: int = 100, rows: int = 40
) -> str:
    console = Console(file=StringIO(), width=columns, height=rows, highlight=False)
    with console.capture() as shown:
        console.print(page(status, world, around))
    return shown.get()


def test_digits_choose_a_connector_that_there_is() -> None:
    assert press("2", Choice(), (7, 9)) == (Choice(connector=9), None)
    assert press("3", Choice(connector=7), (7, 9)) == (Choice(connector=7), None)
    assert press("0", Choice(), (7, 9)) == (Choice(), None)


def test_c_goes_round_the_cars_and_p_is_about_the_chosen_one() -> None:
    choice = Choice(connector=2)
    for kind in (*CARS[1:], CARS[0]):
        choice, act = press("c", choice)
        assert (choice.car, act) == (kind, None)
    assert press("p", choice)[1] == Act("plug", 2, CARS[0])


def test_the_cars_are_what_their_names_say() -> None:
    assert [(car(kind).phases, car(kind).max_ma // 1000) for kind in CARS] == [
        (3, 16),
        (1, 32),
        (3, 16),
        (3, 32),
    ]
    assert car("sleepy").sleepy
    assert not car("disobedient").obeys


def test_s_holds_the_card_that_was_last_chosen() -> None:
    choice, act = press("b", Choice())
    assert act == Act("swipe", 1, "bob")
    assert press("s", choice)[1] == act


def test_every_key_but_the_choosing_ones_does_something_and_others_do_nothing() -> None:
    doing = {key: press(key, Choice())[1] for key in KEYS}
    assert [key for key, act in doing.items() if act is None] == ["c", "?"]
    assert press("z", Choice()) == (Choice(), None)


def test_the_letters_in_arrow_and_function_keys_are_no_keys() -> None:
    assert split(b"\x1b[Ap\x1bOP\x1b[15~q\x1b\xff") == ["p", "q"]


def test_the_page_shows_car_contact_current_and_reason() -> None:
    world = world_of_two()
    world.plug(1, Vehicle(max_ma=16_000))
    world.advance(10_000)
    told = status_of_two(
        state="charging", offered_ma=16_000, current_ma=[16_000] * 3, energy_wh=1234, cost="0.57 EUR",
        why="rising slowly",
    )  # fmt: skip
    text = drawn(
        told, world, Around(Choice(), daemon="runs", broker="runs", backend="connected, 3 booked"), 120
    )
    row = next(line for line in text.splitlines() if "▶1" in line)
    assert row.split() == "▶1 charging 3~ 16A C closed 16.0 16.0 16.0 16.0 1.234 0.57 EUR".split()
    assert "circuit main: 16.0 16.0 16.0 A flow, limit 32.0/32.0/32.0 A" in text
    assert "operator online, payments 1 waiting 3 settled" in text
    assert "connector 1: rising slowly" in text


def test_on_80_columns_no_number_is_cut() -> None:
    told = status_of_two(
        state="suspended_evse", offered_ma=32_000, current_ma=[32_000] * 3, energy_wh=12_345, cost="14.57 EUR"
    )
    world = world_of_two()
    world.plug(1, Vehicle(max_ma=32_000, obeys=False))
    row = next(line for line in drawn(told, world, Around(Choice()), 80).splitlines() if "▶1" in line)
    assert "32.0 32.0 32.0 32.0 12.345 14.57 EUR" in row


def test_a_fault_of_the_chosen_connector_is_told_in_full_and_others_on_one_line() -> None:
    fault = {"name": "meter_silent", "detail": "it did not answer " * 8, "technician": "check its supply"}
    told = status_of_two(faults=[fault])
    assert "→ check its supply" in drawn(told, world_of_two(), Around(Choice(connector=1)))
    assert "…" in drawn(told, world_of_two(), Around(Choice(connector=2)))


def test_without_a_daemon_the_copper_is_still_shown() -> None:
    world = world_of_two()
    world.evses[2].welded = True
    text = drawn(None, world, Around(Choice(), troubles=("line meters cut",), said="the daemon is dead"))
    assert "no daemon answers" in text
    assert "WELDED" in text
    assert "done to the rig: line meters cut" in text
    assert "» the daemon is dead" in text


def test_the_log_gets_the_rows_that_are_left_and_shows_its_end() -> None:
    log = [f'time=2026-11-24T21:41:{n:02d}.1Z level=info topic=x text="line {n}"' for n in range(60)]
    text = drawn(None, world_of_two(), Around(Choice(), log=log), rows=24)
    assert len(text.splitlines()) == 24
    assert text.splitlines()[-1].split() == ["21:41:59", "x", "line", "59"]


def test_the_help_names_every_key() -> None:
    text = drawn(None, world_of_two(), Around(Choice(help=True)), rows=60)
    assert all(key.text in text for key in KEYS.values())
