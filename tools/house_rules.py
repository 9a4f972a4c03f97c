"""The rules of the house that no linter knows. `python -m tools.house_rules` prints one line per problem.

Python files: no mocks, no catch-all `except`, no binary floating point where money and current are decided,
and a reason beside every silenced warning. All text files: no path of the machine they were written on.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

EXACT = ("edge/payments/", "edge/control/")
"""Here every number is an integer or a decimal: `/` and `float()` would make a binary fraction of it."""

CATCH_ALL_ALLOWED = ("edge/__main__.py", "hal_mocks/simulation.py")
"""The last frame of the process may look at any exception; to a simulation any of the daemon is a finding."""

_CATCH_ALL = {"Exception", "BaseException"}

_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|work|home/\w+)(?![\w-])")
_NEIGHBOUR_PATH = re.compile(r"\.\./shared\b")
_BARE_SILENCE = re.compile(r"#\s*(?:noqa(?::\s*[A-Z0-9, ]+)?|type:\s*ignore(?:\[[a-z, -]+\])?)\s*$")
"""A silenced warning with nothing said behind it."""


def problems_of(path: str, text: str) -> Iterator[str]:
    """Yield `path:line: sentence` for each broken rule; `path` is relative to the repository."""
    for number, line in enumerate(text.splitlines(), start=1):
        if _MACHINE_PATH.search(line) or _NEIGHBOUR_PATH.search(line):
            yield f"{path}:{number}: a path that exists on one machine only"
        if path.endswith(".py") and _BARE_SILENCE.search(line):
            yield f"{path}:{number}: a silenced warning needs its reason on the line"
    if path.endswith(".py"):
        for node in ast.walk(ast.parse(text, path)):
            for sentence in _problems_of_node(path, node):
                yield f"{path}:{getattr(node, 'lineno', 1)}: {sentence}"


def _problems_of_node(path: str, node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names) if any(_is_mock(alias.name) for alias in names):
            yield "peers, not mocks: write the other end in hal_mocks"
        case ast.ImportFrom(module=module, names=names) if any(
            _is_mock(f"{module}.{alias.name}") for alias in names
        ):
            yield "peers, not mocks: write the other end in hal_mocks"
        case ast.arg(arg="monkeypatch"):
            yield "give the part its dependency as an argument instead of patching it"
        case ast.ExceptHandler(type=kind, body=body) if _catches_all(kind):
            if path not in CATCH_ALL_ALLOWED and not _raises_again(body[-1]):
                yield "an unexpected exception is a bug and ends the process: name what you expect"
        case _:
            pass
    if not path.startswith(EXACT):
        return
    match node:
        case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
            yield "true division makes a float: use // or Decimal.quantize"
        case ast.Call(func=ast.Name(id="float")) | ast.Constant(value=float()):
            yield "a binary fraction: use an integer in a smaller unit, or Decimal"
        case _:
            pass


def _is_mock(name: str) -> bool:
    return name.startswith("unittest.mock") or name.partition(".")[0] in ("mock", "pytest_mock")


def _catches_all(kind: ast.expr | None) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(k is None or (isinstance(k, ast.Name) and k.id in _CATCH_ALL) for k in kinds)


def _raises_again(last: ast.stmt) -> bool:
    """Whether a handler only tidies up and lets the exception go on."""
    return isinstance(last, ast.Raise) and last.exc is None


def main() -> int:
    """Check every file git knows or would add; return 1 if there is a problem."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = False
    for path in sorted(filter(None, listing.split("\0"))):
        for problem in _problems_of_file(path):
            print(problem)
            found = True
    return int(found)


def _problems_of_file(path: str) -> Iterator[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError):  # a picture, or a file deleted but not yet in the index
        return
    try:
        yield from problems_of(path, text)
    except SyntaxError as error:
        yield f"{path}:{error.lineno or 1}: {error.msg}"


if __name__ == "__main__":
    sys.exit(main())
