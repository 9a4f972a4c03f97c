"""The terminal view of a rig: what the station shows and what really is, and single keys that play with it.

    await Cockpit(rig, Console()).run()    # until q; `keys` has the keys

`page` draws: a pure function of what the daemon says, the world and what stands around them.
"""

import asyncio
import os
import re
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.table import Table as Columns
from rich.text import Text

from hal_mocks.broker import BrokerFailed
from hal_mocks.evse import COMMAND, SimpleEvse
from hal_mocks.keys import KEYS, Act, Choice, Doing, car, press, single_keys, split
from hal_mocks.modbus_rtu import Table
from hal_mocks.rig import DaemonFailed, Rig
from hal_mocks.rig_custom import RigFailed, parts
from hal_mocks.screen import COLOURS
from hal_mocks.vehicle import Vehicle
from hal_mocks.wires import SerialLine
from hal_mocks.world import World

LOOK_S = 0.25
"""The view is as old as this at most; the station itself looks every 0.25 s."""

KETTLE_MA = 10_000
_KETTLE = "kettle"
_OFF = (0, 0, 0)

_LOG_KEPT = 200

_RCD_ERROR, _CLEAR_RCD = 1 << 5, 1 << 2  # of register 1007, of register 1004
_STATUS = 1007

_LOG = re.compile(
    r"time=\S+T(?P<time>[\d:]{8})\S* level=(?P<level>\w+) topic=(?P<topic>[\w.]+)"
    r'(?: text="(?P<text>(?:[^"\\]|\\.)*)")?(?P<rest>.*)'
)

_COLUMNS = {"": 2, "state": 12, "car": 10, "contact": 6, "offer": 5, "measured A": 14, "kWh": 6, "cost": 9}
"""Of the table, with the least width: on 80 columns a long car goes onto a second line, nothing is cut."""

_NUMBERS = ("offer", "kWh", "cost")

Status = dict[str, Any]


@dataclass(frozen=True)
class Around:
    """What stands around the station and its copper."""

    choice: Choice
    daemon: str = "none"
    broker: str = "none"
    backend: str = "none"
    troubles: Sequence[str] = ()  # what was done to the rig and stands
    log: Sequence[str] = ()
    said: str = ""  # what the last key did


class _Page:
    """All of the view; the log gets the rows that are left."""

    def __init__(self, top: Sequence[RenderableType], below: Sequence[RenderableType]) -> None:
        self._top = top
        self._below = below

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        top = Group(*self._top)
        rows = max(0, options.max_height - len(console.render_lines(top, options, pad=False)))
        yield top
        yield from self._below[max(0, len(self._below) - rows) :]


def page(status: Status | None, world: World, around: Around) -> RenderableType:
    """Draw everything."""
    chosen = around.choice.connector
    top: list[RenderableType] = [_connectors(status, world, chosen)]
    top += [_circuit(world, name) for name in world.circuits]
    top.append(_outside(status, around))
    if around.troubles:
        top.append(Text(f"done to the rig: {', '.join(around.troubles)}", style="yellow"))
    top.append(_bar(around.choice))
    top.append(Text(f"» {around.said}" if around.said else "", style="bold"))
    if status is not None:
        top += _reasons(status, chosen) + _faults(status, chosen)
    return _Page(top, _help() if around.choice.help else [_log_line(line) for line in around.log])


def _connectors(status: Status | None, world: World, chosen: int) -> RenderableType:
    title = "no daemon answers" if status is None else f"station {status['station']}   {status['price']}"
    columns = Columns(
        title=title, title_justify="left", box=SIMPLE_HEAD, expand=True, pad_edge=False, padding=0
    )
    for name, least in _COLUMNS.items():
        columns.add_column(
            name,
            justify="right" if name in _NUMBERS else "left",
            no_wrap=name != "car",
            min_width=least,
        )
    told = {one["number"]: one for one in status["connectors"]} if status is not None else {}
    for number, evse in world.evses.items():
        mark = "▶" if number == chosen else " "
        columns.add_row(
            f"{mark}{number}",
            *_row(told.get(number), _car(world.vehicles.get(number)), evse),
            style="" if number == chosen or number in world.vehicles else "dim",
        )
    return columns


def _bar(choice: Choice) -> Text:
    bar = Text(f"connector {choice.connector}, {choice.car} car, {choice.card}'s card:  [1-9] connector")
    bar.stylize("reverse")
    for name, key in KEYS.items():
        bar.append(f"  [{name}]\N{NO-BREAK SPACE}{key.word}", "reverse")
    return bar


def _row(told: Status | None, car_text: str, evse: SimpleEvse) -> list[RenderableType]:
    contact = Text("WELDED", "bold red") if evse.welded else Text("closed" if evse.contact_closed else "open")
    if told is None:
        return ["?", car_text, contact, _amps(evse.offer_ma), "", "", ""]
    measured = " ".join(_amps(ma) for ma in told["current_ma"]) if told["current_ma"] else "?"
    if told["meter_stale"]:
        measured = f"{measured} old"
    return [
        Text(told["state"], style=COLOURS.get(told["state"], "")),
        car_text,
        contact,
        _amps(told["offered_ma"]),
        measured,
        "" if told["energy_wh"] is None else f"{told['energy_wh'] / 1000:.3f}",
        told["cost"] or "",
    ]


def _car(vehicle: Vehicle | None) -> str:
    if vehicle is None:
        return "-"
    manner = " sleepy" if vehicle.sleepy else "" if vehicle.obeys else " disobeys"
    return f"{vehicle.phases}~ {vehicle.max_ma // 1000}A{manner} {vehicle.pilot}"


def _reasons(status: Status, chosen: int) -> list[Text]:
    """Why each connector has no more current; in full for the chosen one."""
    return [
        _line(f"connector {one['number']}: {one['why']}", "magenta", whole=one["number"] == chosen)
        for one in status["connectors"]
        if one["why"]
    ]


def _faults(status: Status, chosen: int) -> list[Text]:
    """What is wrong and what to do; in full for the chosen connector."""
    places = [(f"connector {one['number']}", one) for one in status["connectors"]]
    places += [(f"circuit {one['id']}", one) for one in status["circuits"]]
    places.append(("station", status))
    return [
        _line(
            f"FAULT {where} {fault['name']}: {fault['detail']} → {fault['technician']}",
            "bold red",
            whole=place.get("number") == chosen,
        )
        for where, place in places
        for fault in place["faults"]
    ]


def _line(text: str, style: str, *, whole: bool) -> Text:
    return Text(text, style, no_wrap=not whole, overflow="fold" if whole else "ellipsis")


def _circuit(world: World, name: str) -> Text:
    flows, limit = world.circuit_current_ma(name), world.circuits[name].limit_ma
    over = any(ma > most for ma, most in zip(flows, limit, strict=True))
    text = f"circuit {name}: {' '.join(map(_amps, flows))} A flow, limit {'/'.join(map(_amps, limit))} A"
    worst = world.overloads[name]
    if worst.worst_ma:
        text += f", was {_amps(worst.worst_ma)} A above for up to {worst.longest_ms / 1000:.1f} s"
    return Text(text, style="bold red" if over else "")


def _outside(status: Status | None, around: Around) -> Text:
    parts = [f"daemon {around.daemon}", f"broker {around.broker}", f"backend {around.backend}"]
    if status is not None:
        claims = status["claims"]
        link = "online" if status["online"] else "OFFLINE"
        parts.append(f"operator {link}, payments {claims['closed']} waiting {claims['settled']} settled")
    return Text("   ".join(parts))


def _log_line(line: str) -> Text:
    found = _LOG.match(line)
    if found is None:
        return Text(line, "dim", no_wrap=True, overflow="ellipsis")
    style = "red" if found["level"] in ("error", "warning", "critical") else "dim"
    words = f"{found['time']} {found['topic'].split('.')[-1]:<16} {found['text'] or ''}{found['rest']}"
    return Text(words.replace("\\", ""), style, no_wrap=True, overflow="ellipsis")


def _help() -> list[RenderableType]:
    lines = ["  1-9  choose a connector"]
    lines += [f"  {name:<3}  {key.text}" for name, key in KEYS.items()]
    return [Text(line) for line in lines]


def _amps(ma: int) -> str:
    return f"{ma / 1000:.1f}"


class Cockpit:
    """The view of a running rig, and the hands behind its keys."""

    def __init__(self, rig: Rig, console: Console) -> None:
        self._rig = rig
        self._parts = parts(rig)
        self._console = console
        self._choice = Choice(connector=next(iter(rig.world.connectors)))
        self._said = "? shows what the keys do"
        self._kettle = False
        self._cut: set[str] = set()
        self._log: deque[str] = deque(maxlen=_LOG_KEPT)
        self._log_offset = 0
        self._news = asyncio.Event()
        self._quit = False
        self._busy: set[asyncio.Task[None]] = set()
        self._hands: dict[Doing, Callable[[Act], Awaitable[str]]] = {
            "plug": self._plug,
            "swipe": self._swipe,
            "weld": self._weld,
            "trip_rcd": self._trip_rcd,
            "kettle": self._boil,
            "silence_meter": self._silence_meter,
            "cut_line": self._cut_line,
            "broker": self._broker,
            "daemon": self._daemon,
            "clear_fault": self._clear_fault,
        }

    async def run(self) -> None:
        """Show and obey until q. Raises `DaemonFailed` when the daemon ends by itself."""
        loop, keyboard = asyncio.get_running_loop(), sys.stdin.fileno()
        with ExitStack() as stack:
            stack.enter_context(single_keys(keyboard))
            live = stack.enter_context(Live(console=self._console, screen=True, auto_refresh=False))
            loop.add_reader(keyboard, self._typed, keyboard)
            stack.callback(loop.remove_reader, keyboard)
            try:
                while not self._quit:
                    self._look_after_daemon()
                    self._news.clear()
                    live.update(await self._picture(), refresh=True)
                    await self._until_news()
            finally:
                for task in self._busy:
                    task.cancel()
                await asyncio.gather(*self._busy, return_exceptions=True)

    async def _until_news(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._news.wait()
        except TimeoutError:
            return

    def _look_after_daemon(self) -> None:
        daemon = self._rig.daemon
        if daemon is not None and daemon.returncode is not None:
            raise DaemonFailed(f"the daemon ended with {daemon.returncode}: {self._rig.log_tail()}")

    def _typed(self, keyboard: int) -> None:
        try:
            data = os.read(keyboard, 64)
        except OSError:  # EIO: the terminal is gone
            data = b""
        if not data:
            self._quit = True
        connectors = list(self._rig.world.connectors)
        for key in split(data):
            self._choice, act = press(key, self._choice, connectors)
            if act is not None and act.doing == "quit":
                self._quit = True
            elif act is not None:
                task = asyncio.create_task(self._do(act))
                self._busy.add(task)
                task.add_done_callback(self._busy.discard)
        self._news.set()

    async def _do(self, act: Act) -> None:
        try:
            self._said = await self._hands[act.doing](act)
        except (ValueError, OSError, TimeoutError, BrokerFailed, DaemonFailed, RigFailed) as error:
            self._said = f"that did not work: {str(error).splitlines()[0] if str(error) else 'in time'}"
        self._news.set()

    # -- what is seen --------------------------------------------------------------------------------

    async def _picture(self) -> RenderableType:
        self._read_log()
        rig = self._rig
        around = Around(
            choice=self._choice,
            daemon="runs" if rig.daemon is not None else "none",
            broker=self._broker_state(),
            backend=self._backend_state(),
            troubles=self._troubles(),
            log=tuple(self._log),
            said=self._said,
        )
        return page(await rig.status(), rig.world, around)

    def _broker_state(self) -> str:
        if self._parts.broker is not None:
            return "runs" if self._parts.broker.running else "DEAD"
        return "none" if self._parts.broker_at is None else f"at {self._parts.broker_at[0]}"

    def _backend_state(self) -> str:
        backend = self._parts.backend
        if backend is None:
            return "none"
        booked = sum(tally.booked for tally in backend.tally.values())
        return f"{'connected' if backend.ready.is_set() else 'CUT OFF'}, {booked} booked"

    def _troubles(self) -> list[str]:
        world = self._rig.world
        troubles = [f"line {name} cut" for name in sorted(self._cut)]
        troubles += [f"meter {name} silent" for name, meter in world.meters.items() if meter.faults.silent]
        troubles += [f"connector {n} welded" for n, evse in world.evses.items() if evse.welded]
        troubles += [f"RCD {n} tripped" for n, evse in world.evses.items() if _tripped(evse)]
        return [*troubles, "kettle on"] if self._kettle else troubles

    def _read_log(self) -> None:
        if not self._rig.log.exists():
            return
        with self._rig.log.open("rb") as log:
            log.seek(self._log_offset)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._log_offset += len(line)
                self._log.append(line.decode(errors="replace").rstrip())

    # -- what is done --------------------------------------------------------------------------------

    async def _plug(self, act: Act) -> str:
        world = self._rig.world
        if act.connector in world.vehicles:
            world.unplug(act.connector)
            return f"the car of connector {act.connector} is unplugged"
        world.plug(act.connector, car(act.what))
        return f"a car ({act.what}) is plugged into connector {act.connector}"

    async def _swipe(self, act: Act) -> str:
        if self._parts.why_no_card is not None:
            raise ValueError(self._parts.why_no_card)
        if act.what not in self._parts.cards:
            raise ValueError(f"{act.what} has no card here; give her one in the table [cards]")
        if any(task.get_name() == "card" for task in self._busy):
            raise ValueError("a card is at the reader already")
        task = asyncio.current_task()
        if task is not None:
            task.set_name("card")
        self._said = f"{act.what}'s card is held to the reader ..."
        self._news.set()
        await self._rig.swipe(act.what)
        return f"{act.what}'s card was read"

    async def _weld(self, act: Act) -> str:
        evse = self._rig.world.evses[act.connector]
        evse.welded = not evse.welded
        return f"the contactor of connector {act.connector} is {'welded' if evse.welded else 'mended'}"

    async def _trip_rcd(self, act: Act) -> str:
        evse = self._rig.world.evses[act.connector]
        if _tripped(evse):
            evse.write(COMMAND, [_CLEAR_RCD])
            return f"the residual-current device of connector {act.connector} is reset"
        evse.trip_rcd()
        return f"the residual-current device of connector {act.connector} has tripped"

    async def _boil(self, _act: Act) -> str:
        self._kettle = not self._kettle
        self._rig.world.switch_load(_KETTLE, (KETTLE_MA, 0, 0) if self._kettle else _OFF)
        return f"the kettle is {'on: 10 A on L1 that are not ours' if self._kettle else 'off'}"

    async def _silence_meter(self, act: Act) -> str:
        meter = self._rig.world.connectors[act.connector].meter
        if meter is None:
            raise ValueError(f"connector {act.connector} has no meter of the rig's")
        meter.faults.silent = not meter.faults.silent
        return f"the meter of connector {act.connector} {'is silent' if meter.faults.silent else 'answers'}"

    async def _cut_line(self, act: Act) -> str:
        outlet = self._rig.world.connectors[act.connector]
        found = self._parts.cable_of(outlet.meter if outlet.meter is not None else outlet.evse)
        if found is None:
            raise ValueError(f"connector {act.connector} hangs on no line of the rig's")
        name, cable = found
        again = name in self._cut
        if isinstance(cable, SerialLine):
            cable.replug() if again else cable.unplug()
        else:
            await (cable.replug() if again else cable.unplug())
        self._cut ^= {name}
        return f"line {name} is {'joined' if again else 'cut'}"

    async def _broker(self, _act: Act) -> str:
        broker = self._parts.broker
        if broker is None:
            raise ValueError("there is no broker of the rig's own")
        if broker.running:
            broker.kill()
            return "the broker is dead"
        broker.start()
        return "the broker runs again"

    async def _daemon(self, _act: Act) -> str:
        if self._parts.why_no_daemon is not None:
            raise ValueError(self._parts.why_no_daemon)
        # It is forgotten before it is killed: one that ends while it is known has ended by itself.
        daemon, self._rig.daemon = self._rig.daemon, None
        if daemon is not None:
            daemon.kill()
            await daemon.wait()
            return "the daemon is dead"
        self._said = "the daemon is starting ..."
        self._news.set()
        await self._rig.start_daemon()
        return "the daemon serves"

    async def _clear_fault(self, act: Act) -> str:
        answer = await self._rig.ask({"ask": "clear_fault", "connector": act.connector})
        if answer is None:
            raise ValueError("no daemon answers")
        cleared = ", ".join(answer.get("cleared", ())) or "nothing: no latched fault stands"
        return f"connector {act.connector}: cleared {cleared}"


def _tripped(evse: SimpleEvse) -> bool:
    return bool(evse.read(Table.HOLDING, _STATUS, 1)[0] & _RCD_ERROR)
