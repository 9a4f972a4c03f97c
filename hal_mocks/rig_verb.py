"""`python -m hal_mocks rig [RIG.toml]`: start a rig, say what is where, take lines or keys."""

import argparse
import asyncio
import importlib.util
import os
import stat
import sys
from pathlib import Path

from hal_mocks import rig_file
from hal_mocks.arguments import between
from hal_mocks.rig import DaemonFailed, Rig, first_of
from hal_mocks.rig_custom import CustomRig, RigFailed, parts
from hal_mocks.rig_file import RigFileError
from hal_mocks.vehicle import Vehicle
from hal_mocks.wires import SerialLine

FAILURES = (RigFileError, RigFailed)
"""What ends the verb with a sentence, besides `BrokerFailed`, `DaemonFailed` and `OSError`."""

MOST_AMPS = 6_300
"""The largest frame of low-voltage circuit-breakers."""

HELP = """\
type:  plug N [A]     plug a three-phase car of up to A amps (default 32) into connector N
       unplug N       pull it out
       swipe NAME     hold a card to the reader: alice, bob, stranger, or a number in hex
       kettle A       draw A amps on L1 that are not ours; 0 switches it off
       cut [LINE]     unplug a line, by default the first one; join [LINE] plugs it in again"""

_CONNECTORS, _LIMIT_A = 2, 32


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Say what may stand behind the verb."""
    verb.add_argument(
        "rig", nargs="?", type=Path, metavar="RIG.toml", help="which peers are where (docs/rig.md)"
    )
    verb.add_argument(
        "--connectors",
        type=between(1, 40),
        metavar="N",
        help=f"without RIG.toml: how many (default {_CONNECTORS})",
    )
    verb.add_argument(
        "--limit-a",
        type=between(6, MOST_AMPS),
        metavar="A",
        help=f"without RIG.toml: supply per phase (default {_LIMIT_A})",
    )
    verb.add_argument(
        "--baud",
        type=between(300, 115_200),
        metavar="B",
        help="without RIG.toml: pace the serial lines as this rate would",
    )
    verb.add_argument(
        "--folder", type=Path, metavar="DIR", help="where ptys and files go (default: a new one)"
    )
    verb.add_argument(
        "--with-daemon",
        nargs="?",
        const=True,
        type=Path,
        metavar="CONFIG",
        help="run the production daemon on it, too; for RIG.toml with this configuration, {NAMES} filled in",
    )
    verb.add_argument(
        "--watch", action="store_true", help="show the station and take single keys; ? lists them"
    )


async def run(options: argparse.Namespace, folder: Path) -> int:
    """Run until the verb is ended. Raises `FAILURES`, and `DaemonFailed` when the daemon ends by itself."""
    if options.watch and (why_not := _why_not_watched()) is not None:
        raise RigFailed(why_not)
    async with _rig(options, folder) as rig:
        for what, where in _places(rig):
            print(f"{what:>{_width(rig)}}  {where}")
        sys.stdout.flush()
        if options.with_daemon:
            await rig.start_daemon()
        if options.watch:
            await _watch(rig)
            return 0
        print(HELP)
        print("runs until Ctrl-C", flush=True)
        await first_of(_take_lines(rig), _until_daemon_ends(rig))
    return 0


def _rig(options: argparse.Namespace, folder: Path) -> Rig:
    """Make the rig that was asked for. Raises `RigFailed` for what does not go together."""
    if options.rig is None:
        if isinstance(options.with_daemon, Path):
            raise RigFailed("--with-daemon CONFIG needs a RIG.toml before it; alone it needs no CONFIG")
        return Rig(
            folder,
            connectors=options.connectors or _CONNECTORS,
            limit_ma=(options.limit_a or _LIMIT_A) * 1000,
            baud=options.baud,
        )
    for name in ("connectors", "limit_a", "baud"):
        if getattr(options, name) is not None:
            raise RigFailed(
                f"--{name.replace('_', '-')} does not go with a RIG.toml; write it into {options.rig}"
            )
    if options.with_daemon is True:
        raise RigFailed(
            f"--with-daemon needs the CONFIG of a daemon that fits {options.rig}; for an example see "
            "hal_mocks/rigs/garage-station.toml"
        )
    return CustomRig(rig_file.read(options.rig), folder, template=options.with_daemon)


def _places(rig: Rig) -> list[tuple[str, str]]:
    lines = list(rig.places().items())
    lines += [("card", f"{name} {uid}") for name, uid in parts(rig).cards.items()]
    lines.append(("daemon", rig.daemon_line()))
    if parts(rig).why_no_daemon is None:
        lines.append(("log", str(rig.log)))
    return lines


def _width(rig: Rig) -> int:
    return max(len("meters") + 2, *(len(what) for what in rig.places()))


def _why_not_watched() -> str | None:
    if not (os.isatty(0) and os.isatty(1)):
        return "--watch needs a terminal; leave it out, or run it in one"
    if importlib.util.find_spec("rich") is None:
        return "--watch needs rich; pip install 'edge-controller[rig]'"
    return None


async def _watch(rig: Rig) -> None:
    from rich.console import Console

    from hal_mocks.cockpit import Cockpit

    await Cockpit(rig, Console(highlight=False)).run()


async def _until_daemon_ends(rig: Rig) -> None:
    """Raise `DaemonFailed` once the daemon ends; here nobody but itself ends it."""
    if rig.daemon is None:
        await asyncio.Event().wait()
    else:
        code = await rig.daemon.wait()
        raise DaemonFailed(f"the daemon ended with {code}: {rig.log_tail()}")


async def _take_lines(rig: Rig) -> None:
    """Do what is typed, for ever; without a terminal or pipe on standard input just go on."""
    if not _can_be_typed():
        await asyncio.Event().wait()
    typed = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(typed), sys.stdin)
    async for line in typed:
        try:
            await _act(rig, line.decode(errors="replace").split())
        except (ValueError, KeyError, OSError, TimeoutError) as error:
            print(f"that did not work: {error}\n{HELP}", flush=True)
    await asyncio.Event().wait()  # the end of what is typed is not the end of the rig


def _can_be_typed() -> bool:
    """Whether standard input is something to wait on, and not a file, /dev/null, or closed."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return os.isatty(0) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


async def _act(rig: Rig, words: list[str]) -> None:
    match words:
        case []:
            return
        case ["plug", number, *amps]:
            rig.world.plug(int(number), Vehicle(max_ma=int(amps[0]) * 1000 if amps else 32_000))
        case ["unplug", number]:
            rig.world.unplug(int(number))
        case ["swipe", name]:
            await rig.swipe(name)
        case ["kettle", amps]:
            rig.world.switch_load("kettle", (int(amps) * 1000, 0, 0))
        case ["cut" | "join" as what, *name]:
            await _connect(rig, what, *name)
        case _:
            raise ValueError(f"{' '.join(words)!r} is not one of the lines")
    print("done", flush=True)


async def _connect(rig: Rig, what: str, name: str | None = None) -> None:
    cables = parts(rig).cables
    name = name or next(iter(cables), None)
    if name not in cables:
        raise ValueError(f"there is no line {name!r}; there are {', '.join(cables) or 'none'}")
    cable = cables[name]
    if isinstance(cable, SerialLine):
        cable.unplug() if what == "cut" else cable.replug()
    else:
        await (cable.unplug() if what == "cut" else cable.replug())
