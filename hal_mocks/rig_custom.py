"""A rig as a RIG.toml describes it: simulated peers, real hardware, or some of each. docs/rig.md explains it.

    file = rig_file.read(Path("garage.toml"))
    async with CustomRig(file, folder, template=Path("station.toml")) as rig:
        print(rig.places())
        await rig.start_daemon()           # on the template, its placeholders filled in

What goes wrong at the start is a `RigFailed` in a sentence. `parts` says of either kind of rig what in it can
be cut, killed and started.
"""

import asyncio
import errno
import os
import socket
import sys
import termios
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from serial.serialposix import Serial

from hal_mocks import broker as mosquitto
from hal_mocks.backend import Backend
from hal_mocks.broker import HOST, Broker
from hal_mocks.evse import SimpleEvse
from hal_mocks.meter import Sdm630
from hal_mocks.modbus_rtu import Device
from hal_mocks.pcscd import READER_NAME
from hal_mocks.rig import CARDS, Rig
from hal_mocks.rig_file import ROTATIONS, LineTable, NoiseTable, PortTable, RigFile, fill
from hal_mocks.wires import Noise, SerialLine, TcpPort, run_world, tcp_port
from hal_mocks.world import Circuit, Connector, World

AGAIN_S = 1.0
"""A real port that was pulled out is looked for this often."""

DEFAULT_PORT = 1883  # of a broker

_READ_BYTES = 4096


class RigFailed(Exception):
    """A part of the rig cannot be had; the text says which and what to do."""


Cable = SerialLine | TcpPort


@dataclass(frozen=True)
class Parts:
    """What there is in a rig to be played with."""

    cables: dict[str, Cable]
    broker: Broker | None
    broker_at: tuple[str, int] | None
    backend: Backend | None
    cards: dict[str, str]
    why_no_card: str | None  # nobody can hold a card to this rig's reader
    why_no_daemon: str | None

    def cable_of(self, device: Device) -> tuple[str, Cable] | None:
        """Find the cable a device hangs on."""
        return next(((name, one) for name, one in self.cables.items() if device in one.line.devices), None)


class RealLine(SerialLine):
    """Devices that answer on a real serial port, with the rate and parity its master speaks.

    An adapter that is pulled out is taken again when it is back.
    """

    def __init__(self, table: LineTable, devices: Sequence[Device]) -> None:
        if table.device is None:
            raise ValueError(f"line {table.id} has no device")
        super().__init__(Path(table.device), devices, None, _noise(table.noise))
        self._table = table
        self._port: Any = None  # a `Serial`, whose methods have no types
        self._again: asyncio.TimerHandle | None = None

    def replug(self) -> None:
        """Take the port. Raises `OSError`."""
        if self._master is not None:
            raise ValueError(f"{self.path} is taken already")
        self._port = Serial(  # type: ignore[no-untyped-call]  # pyserial leaves it untyped
            str(self.path),
            baudrate=self._table.baud,
            parity=self._table.parity or "N",
            stopbits=self._table.stop_bits or 1,
            timeout=0,
            exclusive=True,
        )
        self._master = self._port.fileno()
        asyncio.get_running_loop().add_reader(self._master, self._readable)

    def unplug(self) -> None:
        """Let go of the port: to its master all devices are silent."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._master is None or self._port is None:
            return
        asyncio.get_running_loop().remove_reader(self._master)
        self._in.cancel()
        self._out.cancel()
        self._master = None
        self._port.close()

    def _readable(self) -> None:
        if self._master is None:
            return
        try:
            data = os.read(self._master, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the adapter is gone
            data = b""
        if data:
            self._in.put(self.noise.through(data) if self.noise else data)
        else:
            self.unplug()
            self._look()

    def _look(self) -> None:
        try:
            self.replug()
        except (OSError, termios.error):  # pyserial's own errors are OSErrors
            self._again = asyncio.get_running_loop().call_later(AGAIN_S, self._look)

    def _send(self, data: bytes, at_ms: int) -> None:
        try:
            super()._send(data, at_ms)
        except OSError:  # the adapter is gone; `_readable` hears of it, too
            return


class CustomRig(Rig):
    """The rig of a file. Use as an asynchronous context manager."""

    def __init__(self, file: RigFile, folder: Path, *, template: Path | None = None) -> None:
        """`template` is the daemon's configuration with {NAME} in it; without one there is no daemon."""
        super().__init__(folder.absolute())
        self.world, self._devices = _world(file)
        self.file = file
        self.cables: dict[str, Cable] = {}
        self.own_broker: Broker | None = None
        self.own_backend: Backend | None = None
        self._template = template
        self._runtime = self.folder / "run"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            for line in self.file.lines:
                if not line.real:
                    self.cables[line.id] = self._plugged_line(line)
                    stack.callback(self._unplug_line, line.id)
            for port in self.file.ports:
                if not port.real:
                    self.cables[port.id] = await stack.enter_async_context(self._plugged_port(port))
            self._start_operator(stack)
            self._start_reader(stack)
            self._fill_config()
            self._uptime = asyncio.create_task(run_world(self.world))
            stack.callback(self._uptime.cancel)
            stack.push_async_callback(self.stop_daemon)
            self._stack = stack.pop_all()
        return self

    @property
    def broker_at(self) -> tuple[str, int] | None:
        """Host and port of the broker, whoever runs it."""
        if self.file.broker is None:
            return None
        if self.own_broker is not None:
            return self.own_broker.host, self.own_broker.port
        return str(self.file.broker.host), self.file.broker.port or DEFAULT_PORT

    @property
    def socket(self) -> Path:
        """The daemon's local API, where its configuration has it."""
        return self._runtime / "edge.sock"

    def names(self) -> dict[str, str]:
        """What may stand in {braces} in the daemon's configuration."""
        names = {"folder": str(self.folder)}
        for line in self.file.lines:
            names[f"lines.{line.id}"] = line.device or str(self._path(line))
        for port in self.file.ports:
            cable = self.cables.get(port.id)
            number = cable.number if isinstance(cable, TcpPort) else port.port
            names[f"ports.{port.id}.host"] = port.host or HOST
            names[f"ports.{port.id}.port"] = str(number)
        for kind, tables in (("meters", self.file.meters), ("boards", self.file.boards)):
            names |= {f"{kind}.{table.id}": str(table.unit) for table in tables}
        if (where := self.broker_at) is not None:
            names |= {"broker.host": where[0], "broker.port": str(where[1])}
        if self.file.reader is not None:
            names["reader.name"] = self.file.reader.name or READER_NAME
        return names | {f"cards.{name}": uid for name, uid in self.file.cards.items()}

    def places(self) -> dict[str, str]:
        """What is where, for a person; `{name}` is how the daemon's configuration can say it."""
        places = {}
        for line in self.file.lines:
            where = line.device or str(self._path(line))
            rate = "" if line.baud is None else f" {line.baud} 8{line.parity or 'N'}{line.stop_bits or 1}"
            who = "real devices, not served by the rig" if line.real else self._who(line.id)
            places[f"{{lines.{line.id}}}"] = f"{where}{rate}, {who}"
        names = self.names()
        for port in self.file.ports:
            where = f"{names[f'ports.{port.id}.host']}:{names[f'ports.{port.id}.port']}"
            who = "a real gateway, not served by the rig" if port.real else self._who(port.id)
            places[f"{{ports.{port.id}.port}}"] = f"{where} Modbus TCP, {who}"
        if self.file.reader is not None:
            places["{reader.name}"] = self._reader_place()
        if (where_broker := self.broker_at) is not None:
            whose = "" if self.own_broker is not None else ", not the rig's"
            places["{broker.port}"] = f"mqtt://{where_broker[0]}:{where_broker[1]}{whose}"
        if self.file.backend is not None:
            places["backend"] = f"takes {self.file.backend.prefix}/v1/+/..., acknowledges payments"
        places["{folder}"] = str(self.folder)
        if self._template is not None:
            places |= {"config": str(self.config), "socket": str(self.socket)}
        for key, value in self.environment.items():
            places["environment"] = f"{key}={value}"
        return places

    def parts(self) -> Parts:
        """What can be played with."""
        return Parts(
            cables=self.cables,
            broker=self.own_broker,
            broker_at=self.broker_at,
            backend=self.own_backend,
            cards=self.file.cards,
            why_no_card=self._why_no_card(),
            why_no_daemon=None if self._template is not None else "the rig was started without CONFIG",
        )

    def daemon_line(self) -> str:
        """What to type to run a daemon of one's own on this rig."""
        line = super().daemon_line()
        return line if self._template is not None else line.replace(str(self.config), "CONFIG")

    async def start_daemon(self) -> None:
        """Start the production daemon on the filled-in template. Raises `DaemonFailed` or `RigFailed`."""
        if self._template is None:
            raise RigFailed("there is no configuration for a daemon; give one with --with-daemon CONFIG")
        await super().start_daemon()

    async def swipe(self, name: str, *, hold_s: float = 1.0) -> None:
        """Hold a card of the file, by name or number, to the reader."""
        if (why_not := self._why_no_card()) is not None:
            raise ValueError(why_not)
        uid = self.file.cards.get(name, name)
        try:
            bytes.fromhex(uid)
        except ValueError:
            known = ", ".join(self.file.cards) or "none"
            raise ValueError(f"{name!r} is no card of this rig ({known}) and no number in hex") from None
        await super().swipe(uid, hold_s=hold_s)

    # -- parts ---------------------------------------------------------------------------------------

    def _path(self, line: LineTable) -> Path:
        return self.folder / str(line.path).replace("{folder}", str(self.folder))

    def _plugged_line(self, table: LineTable) -> SerialLine:
        devices = self._devices.get(table.id, [])
        where = f"{self.file.name}: line {table.id}"
        if table.device is not None:
            line: SerialLine = RealLine(table, devices)
            try:
                line.replug()
            except (OSError, termios.error) as error:
                raise RigFailed(f"{where}: {_why_no_port(table.device, error)}") from error
            return line
        path = self._path(table)
        if path.is_symlink() and not path.readlink().is_relative_to("/dev/pts"):
            raise RigFailed(f"{where}: {path} is there and is no pty of a rig; choose another `path`")
        line = SerialLine(path, devices, table.baud, _noise(table.noise))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            line.replug()
        except FileExistsError as error:
            raise RigFailed(
                f"{where}: {path} is there and is no pty of a rig; delete it or choose another `path`"
            ) from error
        except OSError as error:
            raise RigFailed(f"{where}: {path}: {error.strerror}; choose another `path`") from error
        return line

    def _unplug_line(self, name: str) -> None:
        cable = self.cables[name]
        if isinstance(cable, SerialLine):
            cable.unplug()

    @asynccontextmanager
    async def _plugged_port(self, table: PortTable) -> AsyncIterator[TcpPort]:
        if (why_not := _why_not_bound(table.port)) is not None:
            raise RigFailed(f"{self.file.name}: port {table.id}: {why_not}")
        devices = self._devices.get(table.id, [])
        async with tcp_port(devices, number=table.port, noise=_noise(table.noise)) as port:
            yield port

    def _start_operator(self, stack: AsyncExitStack) -> None:
        table = self.file.broker
        if table is None:
            return
        if table.host is None:
            if (reason := mosquitto.why_not()) is not None:
                raise RigFailed(
                    f"{self.file.name}: broker: {reason}; install it, or give the `host` of another broker"
                )
            if table.port is not None and (why_not := _why_not_bound(table.port)) is not None:
                raise RigFailed(f"{self.file.name}: broker: {why_not}")
            self.own_broker = self.broker = Broker(self.folder / "broker", port=table.port)
            self.own_broker.start()
            stack.callback(self.own_broker.stop)
        if self.file.backend is not None and (where := self.broker_at) is not None:
            self.own_backend = self.backend = Backend(*where, prefix=self.file.backend.prefix)
            self.own_backend.start()
            stack.callback(self.own_backend.stop)

    def _start_reader(self, stack: AsyncExitStack) -> None:
        if self.file.reader is None or self.file.reader.kind != "virtual":
            return
        self._start_pcscd(stack)
        if self.pcscd is None:
            raise RigFailed(
                f'{self.file.name}: reader: {self.why_no_pcscd}; mend that, or write kind = "memory" under '
                "[reader]"
            )

    def _fill_config(self) -> None:
        if self._template is None:
            return
        try:
            template = self._template.read_text(encoding="utf-8")
        except OSError as error:
            raise RigFailed(
                f"{self._template}: {error.strerror}; give the path of a readable CONFIG"
            ) from error
        except UnicodeDecodeError as error:
            raise RigFailed(f"{self._template}: this is not UTF-8 text; save the file as UTF-8") from error
        text = fill(template, self.names(), str(self._template))
        self.config.write_text(text, encoding="utf-8")
        self._runtime = _runtime_of(text, self.folder)

    def _daemon_words(self) -> list[str]:
        if self.file.reader is not None and self.file.reader.kind == "memory":
            return [sys.executable, "-m", "hal_mocks.in_process", str(self.config), str(self._cards_socket)]
        return [sys.executable, "-m", "edge", "run", "--config", str(self.config)]

    def _why_no_card(self) -> str | None:
        if self.file.reader is None:
            return "this rig has no card reader; write a table [reader]"
        if self.file.reader.kind == "real":
            return "the reader is a real one; hold a real card to it"
        return None

    def _who(self, place: str) -> str:
        meters = ", ".join(f"{one.unit} {one.id}" for one in self.file.meters if one.on == place)
        boards = ", ".join(f"{one.unit} {one.id}" for one in self.file.boards if one.on == place)
        said = [f"SDM630 units {meters}"] if meters else []
        said += [f"SimpleEVSE units {boards}"] if boards else []
        return ", ".join(said) or "no devices"

    def _reader_place(self) -> str:
        if self.pcscd is not None:
            return f'PC/SC reader "{READER_NAME}", cards on TCP port {self.pcscd.port}'
        if self.file.reader is not None and self.file.reader.kind == "real":
            return f'real PC/SC reader "{self.file.reader.name}" through the pcscd of this machine'
        return f"in the daemon's memory, cards on {self._cards_socket}"


def parts(rig: Rig) -> Parts:
    """What can be played with in a rig, of a file or not."""
    if isinstance(rig, CustomRig):
        return rig.parts()
    return Parts(
        cables={"meters": rig.meters_line, "evse": rig.evse_line},
        broker=rig.broker,
        broker_at=(rig.broker.host, rig.broker.port),
        backend=rig.backend,
        cards=CARDS,
        why_no_card=None,
        why_no_daemon=None,
    )


def _world(file: RigFile) -> tuple[World, dict[str, list[Device]]]:
    """Build the copper, and the devices of each line and port."""
    meters = {
        one.id: Sdm630(one.unit, start_wh=one.start_wh, serial_number=one.serial_number)
        for one in file.meters
    }
    boards = {
        one.id: SimpleEvse(
            one.unit, boot_a=one.boot_a, min_a=one.min_a, max_a=one.max_a, firmware=one.firmware
        )
        for one in file.boards
    }
    devices: dict[str, list[Device]] = {}
    for meter in file.meters:
        devices.setdefault(meter.on, []).append(meters[meter.id])
    for board in file.boards:
        devices.setdefault(board.on, []).append(boards[board.id])
    circuits = [
        Circuit(one.id, one.limit_ma, one.parent, meters[one.meter] if one.meter else None)
        for one in file.circuits
    ]
    outlets = [
        Connector(
            one.number,
            one.circuit,
            evse=boards[one.board],
            meter=meters[one.meter] if one.meter else None,
            lines=ROTATIONS[one.phases],
        )
        for one in file.connectors
    ]
    return World(circuits, outlets), devices


def _noise(table: NoiseTable | None) -> Noise | None:
    return None if table is None else Noise(table.seed, table.loss, table.flip, table.garbage)


def _why_not_bound(port: int) -> str | None:
    """Why this port of the loopback cannot be had; None if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"TCP port {port} is in use; choose another `port`, or leave it out for a free one"
            return f"TCP port {port}: {error.strerror}; choose one above 1023"
    return None


def _why_no_port(device: str, error: OSError | termios.error) -> str:
    number = error.errno if isinstance(error, OSError) else None
    match number:
        case errno.ENOENT:
            remedy = "plug the adapter in, and see ls /dev/serial/by-id"
        case errno.EACCES:
            remedy = "become a member of its group (Debian: dialout) and log in again"
        case errno.EAGAIN:
            remedy = "another program has it; end that one"
        case _:
            remedy = "is it a serial port?"
    reason = os.strerror(number) if number else str(error)
    return f"{device}: {reason}; {remedy}"


def _runtime_of(config: str, folder: Path) -> Path:
    """Where the daemon puts its socket. What is wrong with its file the daemon says better."""
    try:
        raw: dict[str, Any] = tomllib.loads(config)
    except tomllib.TOMLDecodeError:
        return folder / "run"
    paths = raw.get("paths")
    runtime = paths.get("runtime") if isinstance(paths, dict) else None
    return folder / runtime if isinstance(runtime, str) else Path("/run/edge")
