"""`python -m hal_mocks rig | demo`: the simulated site, by itself or with the story of the main job."""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from hal_mocks import play, rig_verb, sim
from hal_mocks.broker import BrokerFailed
from hal_mocks.rig import DaemonFailed


def main() -> int:
    """Run one verb and return its exit code."""
    options = _parser().parse_args()
    if "simulate" in options:  # brings its own event loop and folder
        return int(options.simulate(options))
    given: Path | None = getattr(options, "folder", None)
    folder = given or Path(tempfile.mkdtemp(prefix="edge-rig-"))
    try:
        code = asyncio.run(_until_ended(options, folder))
    except KeyboardInterrupt:
        code = 0
    except (OSError, RuntimeError, BrokerFailed, DaemonFailed, *rig_verb.FAILURES) as error:
        print(error, file=sys.stderr)
        code = 1
    if given is None and (code == 0 or not any(folder.iterdir())):
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
        description="Start a rig, print what is where, and take these lines:\n\n" + rig_verb.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rig_verb.add_arguments(rig)
    rig.set_defaults(call=rig_verb.run)
    demo = verbs.add_parser("demo", help="the main job as a story, with the production daemon")
    demo.add_argument("--once", action="store_true", help="end by itself; exit code 0 only if all held")
    demo.set_defaults(call=_demo)
    played = verbs.add_parser("play", help="scenarios, on virtual time or on real wires")
    play.add_arguments(played)
    played.set_defaults(simulate=play.run)
    simulation = verbs.add_parser(
        "sim", help="random days of the daemon on virtual time, judged by its promises"
    )
    sim.options(simulation)
    simulation.set_defaults(simulate=sim.run)
    return parser


async def _until_ended(options: argparse.Namespace, folder: Path) -> int:
    """Run the verb; SIGTERM and a closed terminal end it as Ctrl-C does, and leave no process behind."""
    task = asyncio.ensure_future(options.call(options, folder))
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return int(await task)
    except asyncio.CancelledError:
        return 0


async def _demo(options: argparse.Namespace, folder: Path) -> int:
    from hal_mocks.demo import tell

    return await tell(folder, once=options.once)


if __name__ == "__main__":
    sys.exit(main())
