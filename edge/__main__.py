"""The command line of `edge`; `edge --help` lists the verbs.

Exit codes: 0 done; 1 a device or the daemon cannot be reached; 2 wrong usage; 65 (EX_DATAERR) what should be
shared is wrong, or a ring is replayed otherwise; 74 (EX_IOERR) the journal cannot be used; 78 (EX_CONFIG) the
configuration is wrong. What is wrong stands on stderr, one line per problem.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edge import __version__, by_hand
from edge.errors import ConfigError, EdgeError, JournalError

EX_DATAERR = 65
EX_IOERR = 74
EX_CONFIG = 78
DEFAULT_CONFIG = Path("/etc/edge/edge.toml")
DEFAULT_SOCKET = Path("/run/edge/edge.sock")

ANSWER_S = 5
"""A healthy daemon answers within a tick; one that needs longer is worth a message of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.verb(options))
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        print(f"{len(error.problems)} problem(s) in the configuration", file=sys.stderr)
        return EX_CONFIG
    except JournalError as error:
        print(f"journal: {error}", file=sys.stderr)
        return EX_IOERR
    except EdgeError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # `edge status | head`
        return 0
    except ExceptionGroup as group:  # what ended one of the daemon's tasks
        expected, bugs = group.split(EdgeError)
        for known in expected.exceptions if expected is not None else ():
            print(known, file=sys.stderr)
        if bugs is not None:
            raise bugs from None
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edge", description="Controller of an EV charging station.")
    parser.add_argument("--version", action="version", version=f"edge {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    run = _verb(verbs, "run", _run, "run the station until SIGTERM")
    run.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    _verb(verbs, "check-config", _check_config, "check a configuration and print the station as a tree")
    status = _verb(verbs, "status", _status, "show what the running daemon sees and does")
    status.add_argument("--json", action="store_true", help="for programs")
    _verb(verbs, "log", _log, "show the last 1000 log lines of the running daemon")
    _verb(verbs, "dump", _dump, "have the running daemon write its last minutes into a file for `replay`")
    replay = _verb(verbs, "replay", _replay, "run the last minutes of a station again, without the daemon")
    replay.add_argument(
        "--first", type=int, default=1, metavar="EVENT_NO", help="show from there (default 1)"
    )
    replay.add_argument("--until", type=int, metavar="EVENT_NO", help="run no further (default: the last)")
    replay.add_argument(
        "--write", type=Path, metavar="FILE", help="write these events as they are decided now"
    )
    replay.add_argument("--verbose", action="store_true", help="show readings and ticks, too")
    replay.add_argument("--json", action="store_true", help="for programs")
    clear = _verb(
        verbs, "clear-fault", _clear_fault, "clear latched faults, once you have looked at the connector"
    )
    clear.add_argument("connector", type=int, help="the number painted on it")
    by_hand.limit_options(_verb(verbs, "limit", _wish, "limit what cars may take, for a while"))
    by_hand.demand_options(_verb(verbs, "demand", _wish, "say what a car needs and when it leaves"))
    by_hand.phases_options(_verb(verbs, "phases", _wish, "charge a car on 1 or on 3 phases"))
    _verb(verbs, "safe-off", _safe_off, "tell every EVSE controller 0 A, without the daemon")
    share = _verb(verbs, "share", _share, "share the current of a site given as JSON, without the daemon")
    share.add_argument("--strict", action="store_true", help="fill a higher priority before the lower ones")
    share.add_argument("--explain", action="store_true", help="say for each connector what bound it")
    share.add_argument("--json", action="store_true", help="for programs")
    return parser


_ASKS_THE_DAEMON = ("status", "log", "dump", "clear-fault", "limit", "demand", "phases")
"""They need the socket alone: a technician may not read the configuration, which holds card numbers."""


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, call: object, text: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(verb=call)
    # `check-config FILE` is what people type; `--config FILE` stands in the service unit.
    if name == "check-config":
        verb.add_argument("config", type=Path, metavar="FILE", help="the configuration to check")
    elif name == "share":
        verb.add_argument(
            "file", type=Path, metavar="FILE", help="one instance (.json), or one a line (.jsonl)"
        )
    elif name == "replay":
        verb.add_argument("ring", type=Path, metavar="RING", help="the file that `edge dump` wrote")
    elif name in _ASKS_THE_DAEMON:
        verb.add_argument(
            "--socket",
            type=Path,
            default=DEFAULT_SOCKET,
            help=f"the daemon's socket (default {DEFAULT_SOCKET})",
        )
        verb.add_argument(
            "--config", type=Path, metavar="FILE", help="take the socket from this configuration"
        )
    else:
        verb.add_argument(
            "--config",
            type=Path,
            default=DEFAULT_CONFIG,
            metavar="FILE",
            help=f"the configuration (default {DEFAULT_CONFIG})",
        )
    return verb


def _run(options: argparse.Namespace) -> int:
    import asyncio

    from edge import daemon, logs
    from edge.wiring import load_config

    config = load_config(options.config)
    with logs.start(options.log_level):
        asyncio.run(daemon.run(config))
    return 0


def _check_config(options: argparse.Namespace) -> int:
    from edge.config_tree import tree
    from edge.wiring import load_config

    print(tree(load_config(options.config)))
    return 0


def _status(options: argparse.Namespace) -> int:
    from edge.status import show

    print(show(_ask(options, {"ask": "status"}), as_json=options.json))
    return 0


def _log(options: argparse.Namespace) -> int:
    lines = _ask(options, {"ask": "log"}).get("lines")
    for line in lines if isinstance(lines, list) else ():
        print(line)
    return 0


def _dump(options: argparse.Namespace) -> int:
    answer = _ask(options, {"ask": "ring"})
    if "error" in answer:
        print(answer["error"], file=sys.stderr)
        return 1
    print(answer["path"])
    return 0


def _replay(options: argparse.Namespace) -> int:
    from edge.replay import Wishes, replay
    from edge.ring import RingError

    wishes = Wishes(options.first, options.until, options.verbose, options.json, options.write)
    try:
        return 0 if replay(options.ring, wishes, print) else EX_DATAERR
    except RingError as error:
        print(error, file=sys.stderr)
        return EX_DATAERR


def _clear_fault(options: argparse.Namespace) -> int:
    answer = _ask(options, {"ask": "clear_fault", "connector": options.connector})
    if "error" in answer:
        print(answer["error"], file=sys.stderr)
        return 1
    cleared = answer.get("cleared")
    names = ", ".join(cleared) if isinstance(cleared, list) else ""
    print(f"connector {options.connector}: " + (f"cleared {names}" if names else "no latched fault stands"))
    return 0


def _wish(options: argparse.Namespace) -> int:
    answer = _ask(options, options.request(options))
    if "error" in answer:
        print(answer["error"], file=sys.stderr)
        return 1
    print(answer["text"])
    return 0


def _ask(options: argparse.Namespace, request: dict[str, object]) -> dict[str, object]:
    from edge.local_api import ask

    socket = options.socket
    if options.config is not None:
        from edge.wiring import load_config

        socket = load_config(options.config).paths.runtime / "edge.sock"
    return ask(socket, request, timeout_s=ANSWER_S)


def _safe_off(options: argparse.Namespace) -> int:
    import asyncio

    from edge.wiring import load_config, safe_off

    done, problems = asyncio.run(safe_off(load_config(options.config)))
    for sentence in done:
        print(sentence)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _share(options: argparse.Namespace) -> int:
    from edge.planner_report import answers

    code = 0
    for answer, problems in answers(
        options.file, strict=options.strict, explain=options.explain, as_json=options.json
    ):
        if answer:
            print(answer)
        for problem in problems:
            print(problem, file=sys.stderr)
            code = EX_DATAERR
    return code


if __name__ == "__main__":
    sys.exit(main())
