"""`python -m hal_mocks rig | demo`: the simulated site, by itself or with the story of the main job."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run one verb and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hal_mocks",
        description="Peers of the edge controller: ptys, the virtual card reader, a private MQTT broker.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    rig = verbs.add_parser("rig", help="start a rig and print what is where")
    rig.add_argument("--connectors", type=int, default=2, metavar="N", help="how many, 1 to 40 (default 2)")
    rig.add_argument("--limit-a", type=int, default=32, metavar="A", help="supply per phase (default 32)")
    rig.add_argument("--baud", type=int, default=None, help="pace the serial lines as this rate would")
    rig.add_argument("--folder", type=Path, default=None, help="where its ptys and files go (default: new)")
    rig.add_argument("--with-daemon", action="store_true", help="run the production daemon on it, too")
    rig.set_defaults(call=_rig)
    demo = verbs.add_parser("demo", help="the main job as a story, with the production daemon")
    demo.add_argument("--once", action="store_true", help="end by itself; exit code 0 only if all held")
    demo.set_defaults(call=_demo)
    options = parser.parse_args()
    folder = getattr(options, "folder", None) or Path(tempfile.mkdtemp(prefix="edge-rig-"))
    try:
        return int(asyncio.run(options.call(options, folder)))
    except KeyboardInterrupt:
        return 0


async def _rig(options: argparse.Namespace, folder: Path) -> int:
    from hal_mocks.rig import CARDS, Rig

    if not 1 <= options.connectors <= 40:
        print("--connectors: 1 to 40, please", file=sys.stderr)
        return 2
    async with Rig(
        folder, connectors=options.connectors, limit_ma=options.limit_a * 1000, baud=options.baud
    ) as rig:
        for what, where in rig.places().items():
            print(f"{what:>8}  {where}")
        for name, uid in CARDS.items():
            print(f"{'card':>8}  {name} {uid}")
        environment = " ".join(f"{key}={value}" for key, value in rig.environment.items())
        print(f"{'daemon':>8}  {environment} edge run --config {rig.config}".rstrip())
        if options.with_daemon:
            await rig.start_daemon()
            print(f"{'log':>8}  {rig.log}")
        print("runs until Ctrl-C", flush=True)
        await asyncio.Event().wait()
    return 0


async def _demo(options: argparse.Namespace, folder: Path) -> int:
    from hal_mocks.demo import tell

    return await tell(folder, once=options.once)


if __name__ == "__main__":
    sys.exit(main())
