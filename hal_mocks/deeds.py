"""What a scenario's action does to a simulated station."""

from hal_mocks import steps
from hal_mocks.books import Manners
from hal_mocks.in_process_station import COMMIT_MS, RESTART_MS, SimulatedStation
from hal_mocks.modbus_rtu import Faults
from hal_mocks.rig_site import CARDS
from hal_mocks.stage import StageError, do_on_site, manners_of, request_of
from hal_mocks.steps import Action

LATENCY_MS = 20
"""A packet between a station and its operator, each way."""

HOLD_MS = 1_000
"""How long a person holds a card to the reader."""


def do(station: SimulatedStation, action: Action) -> None:
    """Do it now. Raises `StageError` for what cannot be, as plugging in a second car."""
    station.catch_up()
    request = request_of(action)
    if request is not None:
        station.ask(request)
    elif not do_on_site(station.site, action):
        _do_around(station, action)
    station.catch_up()


def _do_around(station: SimulatedStation, action: Action) -> None:
    """What concerns people, the reader, the operator and the machine."""
    match action:
        case steps.Swipe(card=card):
            station.swipe(CARDS.get(card, card), for_ms=HOLD_MS)
        case steps.ReaderFault(does=does):
            station.pad.plug(plugged=does == "plugged")
        case steps.PcscdFault(does=does):
            station.pad.serve(served=does == "started")
        case steps.NextCard(flaw=flaw):
            station.pad.flaw = flaw
        case steps.BrokerFault():
            _broker(station, action)
        case steps.BackendFault():
            _backend(station, action)
        case _:
            _do_to_machine(station, action)


def _do_to_machine(station: SimulatedStation, action: Action) -> None:
    match action:
        case steps.Clock(jump_ms=jump_ms, quality=quality):
            station.clock.ahead_ms += jump_ms or 0
            if quality is not None:
                station.clock.set = quality == "synced"
        case steps.Disk():
            _disk(station, action)
        case steps.Power(does="cut", for_ms=for_ms):
            station.cut_power(for_ms=for_ms)
        case steps.Power():
            station.restore_power()
        case steps.DaemonFault():
            _daemon(station, action)
        case _:
            raise StageError(f"nobody knows how to do {action}")


def heal(station: SimulatedStation) -> None:
    """End every fault; what was lost or broken for good stays so."""
    for meter in station.world.meters.values():
        meter.faults, meter.powered = Faults(), True
    for board in station.world.evses.values():
        board.mend()
    for line in station.lines.values():
        line.replug()
        line.noise, line.line.faults = None, Faults()
    station.pad.plug(plugged=True)
    station.pad.serve(served=True)
    station.pad.flaw = None
    if not station.broker.running:
        station.broker.start()
    _broker(station, steps.BrokerFault("well"))
    station.books.manners = Manners()
    station.set_disk()
    station.clock.set = True
    station.restore_power()
    station.start()
    for car in station.world.vehicles.values():
        car.obeys = True
    station.catch_up()


def _broker(station: SimulatedStation, action: steps.BrokerFault) -> None:
    broker = station.broker
    match action.fault:
        case "killed":
            broker.kill()
        case "stopped":
            broker.stop()
        case "started":
            broker.start()
        case "silent":
            broker.silent = True
        case "duplicates":
            broker.duplicates = 0.3
        case "reorders":
            broker.reorders = 0.3
        case "loses-acknowledged":
            broker.loses_acknowledged = 0.3
        case "slow":
            broker.latency_ms = action.delay_ms or 0
        case "well":
            broker.silent = False
            broker.duplicates = broker.reorders = broker.loses_acknowledged = 0.0
            broker.latency_ms = LATENCY_MS
        case _:
            raise StageError(f"nobody knows how to do {action}")


def _backend(station: SimulatedStation, action: steps.BackendFault) -> None:
    manners = manners_of(action)
    if manners is None:
        station.backend.restart(forgetting=True)
    else:
        station.books.manners = manners


def _disk(station: SimulatedStation, action: steps.Disk) -> None:
    match action.fault:
        case "full":
            station.set_disk(full=True)
        case "failing":
            station.set_disk(failing=True)
        case "slow":
            station.set_disk(slow_ms=action.delay_ms or COMMIT_MS)
        case "remembers":
            station.remember_disk()
        case "restored":
            station.restore_disk()
        case _:
            station.set_disk()


def _daemon(station: SimulatedStation, action: steps.DaemonFault) -> None:
    match action.does:
        case "started":
            station.start()
        case "stopped":
            station.stop(for_ms=action.for_ms)
        case _ if action.write is not None:
            station.kill_in_write(action.write)
        case _:
            station.kill(for_ms=RESTART_MS if action.for_ms is None else action.for_ms)
