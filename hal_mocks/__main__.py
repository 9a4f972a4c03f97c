"""`python -m hal_mocks rig | demo`: the simulated site, by itself or with the story of the main job."""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hal_mocks.broker import BrokerFailed
from hal_mocks.rig import CARDS, DaemonFailed, Rig
from hal_mocks.vehicle import Vehicle

MOST_AMPS = 6_300
"""The largest frame of low-voltage circuit-breakers."""

HELP = """\
type:  plug N [A]     plug a three-phase car of up to A amps (default 32) into connector N
       unplug N       pull it out
       swipe NAME     hold a card to the reader: alice, bob, stranger, or a number in hex
       kettle A       draw A amps on L1 that are not ours; 0 switches it off
       cut, join      unplug the meters' serial line, plug it in again"""


def main() -> int:
    """Run one verb and return its exit code."""
    options = _parser().parse_args()
    given: Path | None = getattr(options, "folder", None)
    folder = given or Path(tempfile.mkdtemp(prefix="edge-rig-"))
    try:
        code = asyncio.run(_until_ended(options, folder))
    except KeyboardInterrupt:
        code = 0
    except (OSError, RuntimeError, BrokerFailed, DaemonFailed) as error:
        print(error, file=sys.stderr)
        code = 1
    if given is None and code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hal_mocks",
        description="Peers of the edge controller: ptys, the virtual card reader, a private MQTT broker.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    rig = verbs.add_parser(
        "rig",
        help="start a rig and print what is where",
        description="Start a rig, print what is where, and take these lines:\n\n" + HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rig.add_argument(
        "--connectors", type=_between(1, 40), default=2, metavar="N", help="how many (default 2)"
    )
    rig.add_argument(
        "--limit-a",
        type=_between(6, MOST_AMPS),
        default=32,
        metavar="A",
        help="supply per phase (default 32)",
    )
    rig.add_argument(
        "--baud", type=_between(300, 115_200), metavar="B", help="pace the serial lines as this rate would"
    )
    rig.add_argument(
        "--folder", type=Path, metavar="DIR", help="where ptys and files go (default: a new one)"
    )
    rig.add_argument("--with-daemon", action="store_true", help="run the production daemon on it, too")
    rig.set_defaults(call=_rig)
    demo = verbs.add_parser("demo", help="the main job as a story, with the production daemon")
    demo.add_argument("--once", action="store_true", help="end by itself; exit code 0 only if all held")
    demo.set_defaults(call=_demo)
    return parser


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return number


async def _until_ended(options: argparse.Namespace, folder: Path) -> int:
    """Run the verb; SIGTERM and a closed terminal end it as Ctrl-C does, and leave no process behind."""
    task = asyncio.ensure_future(options.call(options, folder))
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return int(await task)
    except asyncio.CancelledError:
        return 0


async def _rig(options: argparse.Namespace, folder: Path) -> int:
    async with Rig(
        folder, connectors=options.connectors, limit_ma=options.limit_a * 1000, baud=options.baud
    ) as rig:
        for what, where in rig.places().items():
            print(f"{what:>8}  {where}")
        for name, uid in CARDS.items():
            print(f"{'card':>8}  {name} {uid}")
        print(f"{'daemon':>8}  {rig.daemon_line()}")
        if options.with_daemon:
            await rig.start_daemon()
            print(f"{'log':>8}  {rig.log}")
        print(HELP)
        print("runs until Ctrl-C", flush=True)
        await _take_lines(rig)
    return 0


async def _take_lines(rig: Rig) -> None:
    """Do what is typed, for ever; without a terminal or pipe on standard input just go on."""
    typed = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(typed), sys.stdin)
    except (OSError, ValueError):  # a file, /dev/null, or closed
        await asyncio.Event().wait()
    async for line in typed:
        try:
            await _act(rig, line.decode(errors="replace").split())
        except (ValueError, KeyError, OSError, TimeoutError) as error:
            print(f"that did not work: {error}\n{HELP}", flush=True)
    await asyncio.Event().wait()  # the end of what is typed is not the end of the rig


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
        case ["cut"]:
            rig.meters_line.unplug()
        case ["join"]:
            rig.meters_line.replug()
        case _:
            raise ValueError(f"{' '.join(words)!r} is not one of the lines")
    print("done", flush=True)


async def _demo(options: argparse.Namespace, folder: Path) -> int:
    from hal_mocks.demo import tell

    return await tell(folder, once=options.once)


if __name__ == "__main__":
    sys.exit(main())
