"""What a scenario's action does to a simulated station."""

from dataclasses import replace
from typing import assert_never

from hal_mocks import steps
from hal_mocks.books import Manners
from hal_mocks.in_process_station import COMMIT_MS, RESTART_MS, SimulatedStation
from hal_mocks.meter import Sdm630
from hal_mocks.modbus_rtu import Faults
from hal_mocks.rig_site import CARDS
from hal_mocks.steps import Action
from hal_mocks.vehicle import Vehicle
from hal_mocks.wires import Noise

LATENCY_MS = 20
"""A packet between a station and its operator, each way."""

HOLD_MS = 1_000
"""How long a person holds a card to the reader."""


def do(station: SimulatedStation, action: Action) -> None:  # noqa: C901, PLR0912 - one arm per action
    """Do it now. Raises ValueError for what cannot be, as plugging in a second car."""
    station.catch_up()
    match action:
        case steps.Plug():
            station.world.plug(action.connector, _car(action))
        case steps.Unplug(connector=number):
            station.world.unplug(number)
        case steps.Drive(connector=number, does=does):
            car = station.world.vehicles[number]
            car.asks = does == "asks" if does in ("asks", "stops") else car.asks
            car.obeys = does == "obeys" if does in ("obeys", "disobeys") else car.obeys
        case steps.Swipe(card=card):
            station.swipe(CARDS.get(card, card), for_ms=HOLD_MS)
        case steps.Load(name=name, l1_ma=l1, l2_ma=l2, l3_ma=l3, circuit=circuit, off=off):
            copper = None if circuit in (None, "main") else circuit  # the rig's copper calls its root "site"
            station.world.switch_load(name, (0, 0, 0) if off else (l1, l2, l3), circuit=copper)
        case steps.Limit() | steps.Demand() | steps.ClearFault():
            station.ask(_request(action))
        case steps.MeterFault():
            _meter(station, action)
        case steps.EvseFault():
            _evse(station, action)
        case steps.LineFault():
            _line(station, action)
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
        case steps.Clock(jump_ms=jump_ms, quality=quality):
            station.clock.ahead_ms += jump_ms or 0
            if quality is not None:
                station.clock.set = quality == "synced"
        case steps.Disk():
            _disk(station, action)
        case steps.Power(does=does, for_ms=for_ms):
            if does == "cut":
                station.cut_power(for_ms=for_ms)
            else:
                station.restore_power()
        case steps.DaemonFault():
            _daemon(station, action)
        case _:
            raise ValueError(f"nobody knows how to do {action}")
    station.catch_up()


def heal(station: SimulatedStation) -> None:
    """End every fault; what was lost or broken for good stays so."""
    for meter in station.world.meters.values():
        meter.faults, meter.powered = Faults(), True
    for board in station.world.evses.values():
        board.mend()
    for line in station.lines.values():
        line.replug()
        line.noise, line.delay_ms, line.split = None, 0, False
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


def _car(plug: steps.Plug) -> Vehicle:
    return Vehicle(
        phases=plug.phases,
        max_ma=plug.max_ma,
        wants_wh=plug.wants_wh,
        lag_ms=plug.lag_ms,
        obeys=not plug.disobedient,
        sleepy=plug.sleepy,
        ventilation=plug.ventilation,
        diode_ok=not plug.no_diode,
        cable_ma=plug.cable_ma,
    )


def _request(action: steps.Limit | steps.Demand | steps.ClearFault) -> dict[str, object]:
    """The line for the daemon's local socket."""
    match action:
        case steps.ClearFault(connector=number):
            return {"ask": "clear_fault", "connector": number}
        case steps.Demand():
            return {
                "ask": "demand",
                "connector": action.connector,
                "energy_wh": action.energy_wh,
                "departs_in_ms": action.in_ms,
                "min_ma": action.min_ma,
            }
        case steps.Limit():
            request: dict[str, object] = {"ask": "limit", "for_ms": action.for_ms or 0}
            if action.ma is not None:
                request["current_ma"] = [action.ma] * 3
            if action.power_mw is not None:
                request["power_mw"] = action.power_mw
            for key in ("circuit", "connector", "source"):
                if getattr(action, key) is not None:
                    request[key] = getattr(action, key)
            return request
        case _:
            assert_never(action)


def _device_faults(old: Faults, fault: str, delay_ms: int | None) -> Faults:
    return replace(
        old,
        silent=old.silent or fault == "silent",
        frozen=old.frozen or fault == "frozen",
        garbled=old.garbled or fault == "garbled",
        split_bytes=7 if fault == "split" else old.split_bytes,
        exception=4 if fault == "exception" else old.exception,
        delay_ms=(delay_ms or 0) if fault == "slow" else old.delay_ms,
    )


def _meter(station: SimulatedStation, action: steps.MeterFault) -> None:
    name = "site" if action.meter in ("main", "site") else action.meter
    meter: Sdm630 = station.world.meters[name]
    match action.fault:
        case "well":
            meter.faults, meter.powered = Faults(), True
        case "backwards":
            meter.jump_wh(-(action.wh or 0))
        case "jumps":
            meter.jump_wh(action.wh or 0)
        case "restarted":
            meter.restart_at_zero()
        case "dark":
            meter.powered = False
        case "swapped-with":
            other = station.world.meters[str(action.other)]
            meter.unit, other.unit = other.unit, meter.unit
        case fault:
            meter.faults = _device_faults(meter.faults, fault, action.delay_ms)


def _evse(station: SimulatedStation, action: steps.EvseFault) -> None:
    board = station.world.evses[action.connector]
    match action.fault:
        case "well":
            board.mend()
        case "welded" | "pilot-fault" | "ignores-writes" | "bounces" | "no-feedback":
            setattr(board, action.fault.replace("-", "_"), True)
        case "rcd":
            board.trip_rcd()
        case "reboots":
            board.reboot()
        case "dark":
            board.powered = False
        case fault:
            board.faults = _device_faults(board.faults, fault, action.delay_ms)


def _line(station: SimulatedStation, action: steps.LineFault) -> None:
    line = station.lines[action.line]
    part = (action.permille or 0) / 1000
    seed = station.dice.getrandbits(32)
    match action.fault:
        case "cut":
            line.unplug()
        case "joined":
            line.replug()
        case "clean":
            line.noise, line.delay_ms, line.split = None, 0, False
        case "loses":
            line.noise = Noise(seed=seed, loss=part)
        case "flips":
            line.noise = Noise(seed=seed, flip=part)
        case "garbage":
            line.noise = Noise(seed=seed, garbage=part)
        case "splits":
            line.split = True
        case "delays":
            line.delay_ms = action.delay_ms or 0
        case _:
            raise ValueError(f"nobody knows how to do {action}")


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
            raise ValueError(f"nobody knows how to do {action}")


def _backend(station: SimulatedStation, action: steps.BackendFault) -> None:
    match action.fault:
        case "silent":
            manners = Manners(silent=True)
        case "late":
            manners = Manners(delay_s=(action.delay_ms or 0) / 1000)
        case "wrong-hash":
            manners = Manners(wrong_hash=True)
        case "contradictory":
            manners = Manners(contradiction="after")
        case "forgetful":
            station.backend.restart(forgetting=True)
            return
        case "crashes-before-ack":
            manners = Manners(crash_before_ack=True)
        case "refuses":
            manners = Manners(reject=True)
        case "twice":
            manners = Manners(acks=2)
        case _:
            manners = Manners()
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
