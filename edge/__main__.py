"""The command line: `edge run`, `check-config`, `status`, `log`, `clear-fault`, `safe-off`.

Exit codes: 0 done; 1 a device or the daemon cannot be reached; 2 wrong usage; 74 (EX_IOERR) the journal
cannot be used; 78 (EX_CONFIG) the configuration is wrong, one line per problem on stderr.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edge import __version__
from edge.errors import ConfigError, EdgeError, JournalError

EX_IOERR = 74
EX_CONFIG = 78
DEFAULT_CONFIG = Path("/etc/edge/edge.toml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.verb(options))
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        print(f"{len(error.problems)} problem(s); nothing was started", file=sys.stderr)
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
    _verb(verbs, "log", _log, "show the daemon's last 1000 log lines, also where the system keeps none")
    clear = _verb(verbs, "clear-fault", _clear_fault, "clear the latched faults of a connector after looking")
    clear.add_argument("connector", type=int)
    _verb(verbs, "safe-off", _safe_off, "tell every EVSE controller 0 A, without the daemon")
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, call: object, text: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(verb=call)
    # `check-config FILE` is what people type; `--config FILE` stands in the service unit.
    if name == "check-config":
        verb.add_argument("config", type=Path, metavar="FILE")
    else:
        verb.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE")
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
    from edge.config import tree
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


def _clear_fault(options: argparse.Namespace) -> int:
    answer = _ask(options, {"ask": "clear_fault", "connector": options.connector})
    print(answer.get("error", f"latched faults of connector {options.connector} cleared"))
    return 1 if "error" in answer else 0


def _ask(options: argparse.Namespace, request: dict[str, object]) -> dict[str, object]:
    from edge.local_api import ask
    from edge.wiring import load_config

    return ask(load_config(options.config).paths.runtime / "edge.sock", request, timeout_s=5)


def _safe_off(options: argparse.Namespace) -> int:
    import asyncio

    from edge.wiring import load_config, safe_off

    problems = asyncio.run(safe_off(load_config(options.config)))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
