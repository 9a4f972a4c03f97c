"""What each key of the rig's terminal view does (a pure table), and how keys are read.

choice, act = press("p", Choice())     # which connector and car are chosen now, and what is to be done

with single_keys(sys.stdin.fileno()):  # keys come at once; on any way out the terminal is as it was
    ...
"""

import copy
import re
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

from hal_mocks.vehicle import Vehicle

Doing = Literal[
    "plug", "swipe", "weld", "trip_rcd", "kettle", "silence_meter", "cut_line", "broker", "daemon",
    "clear_fault", "quit",
]  # fmt: skip


@dataclass(frozen=True)
class Act:
    """Something to be done to the rig, at a connector where it matters. Each turns round what it finds."""

    doing: Doing
    connector: int
    what: str = ""  # which car, which card


@dataclass(frozen=True)
class Choice:
    """What the next key is about."""

    connector: int = 1
    car: str = "three-phase 16 A"
    card: str = "alice"
    help: bool = False


@dataclass(frozen=True)
class Key:
    """A word for the bar, a line for the help, and the act of the key if it has one."""

    word: str
    text: str
    doing: Doing | None = None
    what: str = ""


CARS: Final = ("three-phase 16 A", "one-phase 32 A", "sleepy", "disobedient")

KEYS: Final = {
    "p": Key("plug", "plug the chosen car in, or unplug", "plug"),
    "c": Key("car", "choose the next kind of car"),
    "a": Key("alice", "hold alice's card to the reader", "swipe", "alice"),
    "b": Key("bob", "hold bob's card to the reader", "swipe", "bob"),
    "x": Key("stranger", "hold a stranger's card to the reader", "swipe", "stranger"),
    "s": Key("again", "hold the last card to the reader again", "swipe"),
    "w": Key("weld", "weld the contactor, or mend it", "weld"),
    "r": Key("RCD", "let the residual-current device trip, or reset it", "trip_rcd"),
    "k": Key("kettle", "kettle of 10 A on L1 on or off", "kettle"),
    "m": Key("meter", "let the connector's meter fall silent, or answer", "silence_meter"),
    "l": Key("line", "cut the line of the connector's meter, or join it", "cut_line"),
    "u": Key("broker", "kill the broker, or start it", "broker"),
    "d": Key("daemon", "kill the daemon, or start it", "daemon"),
    "f": Key("clear", "clear the connector's latched faults", "clear_fault"),
    "?": Key("help", "show or hide this help"),
    "q": Key("quit", "quit", "quit"),
}
"""All keys but the digits, which choose a connector."""

_DIGITS = "123456789"

_NOT_A_KEY: Final = re.compile(rb"\x1b[\[O][0-?]*[ -/]*[@-~]|\x1b.?", re.DOTALL)
"""What arrow and function keys send (ECMA-48, 5.4); its letters are no keys of ours."""


def press(key: str, choice: Choice, connectors: Sequence[int] = (1,)) -> tuple[Choice, Act | None]:
    """Say what a key changes and what is to be done. A key that means nothing does nothing."""
    if key in _DIGITS:
        place = _DIGITS.index(key)
        return (replace(choice, connector=connectors[place]) if place < len(connectors) else choice), None
    match key:
        case "c":
            return replace(choice, car=CARS[(CARS.index(choice.car) + 1) % len(CARS)]), None
        case "?":
            return replace(choice, help=not choice.help), None
        case _:
            meant = KEYS.get(key)
    if meant is None or meant.doing is None:
        return choice, None
    if meant.doing == "swipe":
        choice = replace(choice, card=meant.what or choice.card)
        return choice, Act("swipe", choice.connector, choice.card)
    return choice, Act(meant.doing, choice.connector, choice.car if meant.doing == "plug" else "")


def car(kind: str) -> Vehicle:
    """Make a car of one of `CARS`."""
    match kind:
        case "one-phase 32 A":
            return Vehicle(phases=1, max_ma=32_000)
        case "sleepy":
            return Vehicle(sleepy=True)
        case "disobedient":
            return Vehicle(max_ma=32_000, obeys=False)
        case _:
            return Vehicle(phases=3, max_ma=16_000)


def split(data: bytes) -> list[str]:
    """Take apart what a terminal sent into keys."""
    return list(_NOT_A_KEY.sub(b"", data).decode(errors="ignore"))


@contextmanager
def single_keys(terminal: int) -> Iterator[None]:
    """Let a terminal give each key at once and unechoed until the block ends.

    Ctrl-C remains what it is. Ctrl-Z is switched off: it would leave the shell with a terminal in this state.
    """
    before = termios.tcgetattr(terminal)
    during = copy.deepcopy(before)
    during[3] &= ~(termios.ECHO | termios.ICANON)
    during[6][termios.VSUSP] = b"\0"  # _POSIX_VDISABLE on Linux
    during[6][termios.VMIN], during[6][termios.VTIME] = 1, 0
    termios.tcsetattr(terminal, termios.TCSADRAIN, during)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
