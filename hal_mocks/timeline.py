"""The picture of a scenario that was played, as SVG: what flowed, what was offered, what was done to it.

Panels below each other on one axis of time: the current of each circuit by phase against its limit, what each
connector was offered and drew with a band of its states, and whether the daemon ran. Numbered marks are the
steps that did something; hovering over a mark or a band tells more.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

from hal_mocks import steps
from hal_mocks.play import Done, Outcome, Sample, clock
from hal_mocks.steps import Action, Step

_WIDTH, _LEFT, _RIGHT = 1100, 66, 14
_TITLE, _PANEL, _BAND, _GAP = 20, 110, 20, 12  # heights
_ROW, _ROWS = 19, 7  # of the marks of steps above the panels, at most
_LONGEST_MARK = 34  # characters

_PHASES = (("L1", "#a65a1e", 6.0), ("L2", "#111", 3.8), ("L3", "#8fb0cc", 2.0))
"""Brown, black, grey: the colours of the wires (IEC 60445). Each is thinner than the one before, so that all
three are seen where they carry the same."""

_DASHES = "7 4"
_LIMIT_COLOUR, _OFFER_COLOUR, _DRAW_COLOUR = "#b3001b", "#0b57d0", "#e58a00"

_TROUBLE, _DEED = "#b3001b", "#444"  # the marks of steps

_STATES = {
    "available": "#e3ecf6",
    "preparing": "#ffe9a8",
    "charging": "#a9dcb4",
    "suspended_ev": "#d5e8c4",
    "suspended_evse": "#ffcf8f",
    "finishing": "#d9d2ee",
    "unavailable": "#d0d0d0",
    "unknown": "#c4c4c4",
    "faulted": "#f0a3ab",
}


def picture(outcome: Outcome) -> str:
    """The story over its time as SVG."""
    return _Picture(outcome).svg()


@dataclass(frozen=True)
class _Mark:
    """A step in the picture, with its number in the list."""

    number: int
    at_ms: int
    step: Step
    failed: bool
    row: int | None = None  # of its label; None: there was no room

    @property
    def label(self) -> str:
        """Its number and what it is, as far as there is room."""
        text = f"{self.number} {self.step.what}"
        return text if len(text) <= _LONGEST_MARK else f"{text[: _LONGEST_MARK - 1]}…"

    @property
    def width(self) -> float:
        """What its label takes; 13 px letters are 7 px wide, a little more in some fonts."""
        return 7.6 * len(self.label) + 10


class _Picture:
    """Panels below each other on one axis of time."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._samples = outcome.samples
        self._end_ms = max(1_000, outcome.length_ms, self._samples[-1].at_ms)
        self._parts: list[str] = []
        self._y = 8.0

    def svg(self) -> str:
        self._legend()
        marks_top = self._y
        marks, rows = _laid_out(self._outcome.done, self._x)
        self._y += _ROW * rows + 8
        first = self._samples[0]
        for name in first.flows_ma:
            self._circuit(name)
        for number in first.draws_ma:
            self._connector(number)
        self._daemon()
        bottom = self._y
        self._axis(bottom)
        behind = list(self._marks(marks, marks_top, bottom))
        box = f'viewBox="0 0 {_WIDTH} {self._y + 30:.0f}" font-family="system-ui,sans-serif" font-size="14"'
        body = "".join([*behind, *self._parts])
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {box}>'
            f'<rect width="100%" height="100%" fill="#fff"/>{body}</svg>'
        )

    def _x(self, at_ms: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at_ms / self._end_ms

    def _add(self, part: str) -> None:
        self._parts.append(part)

    def _line(self, path: str, colour: str, width: float = 1.0, dash: str = "") -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._add(f'<path d="{path}" stroke="{colour}" stroke-width="{width}"{dashed} fill="none"/>')

    def _area(self, path: str, colour: str) -> None:
        self._add(f'<path d="{path}" fill="{colour}" opacity=".45"/>')

    def _label(self, x: float, y: float, text: str, **more: str) -> None:
        attributes = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
        self._add(f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(text)}</text>')

    def _legend(self) -> None:
        x = float(_LEFT)
        entries = [(name, colour, width, "") for name, colour, width in _PHASES]
        entries += [("limit", _LIMIT_COLOUR, 3.0, _DASHES), ("offered", _OFFER_COLOUR, 3.0, "")]
        for name, colour, width, dash in entries:
            self._line(f"M{x:.0f} {self._y + 9:.0f}h26", colour, width, dash)
            self._label(x + 32, self._y + 14, name)
            x += 60 + 8 * len(name)
        self._area(f"M{x:.0f} {self._y + 2:.0f}h26v14h-26Z", _DRAW_COLOUR)
        self._label(x + 32, self._y + 14, "drawn")
        self._label(x + 100, self._y + 14, "marks: steps of the list below, faults in red", fill="#444")
        self._y += 24

    # -- panels ----------------------------------------------------------------------------------------

    def _frame(self, title: str, most_ma: int) -> Callable[[int], float]:
        """Draw a panel with its scale and return what makes a y of a current."""
        self._label(_LEFT, self._y + 13, title, font_weight="700")
        bottom = self._y + _TITLE + _PANEL
        most_a = _nice(most_ma / 1000)

        def y(ma: int) -> float:
            return bottom - _PANEL * min(ma / 1000, most_a) / most_a

        for amps in (0.0, most_a / 2, most_a):
            level = y(round(amps * 1000))
            self._add(f'<path d="M{_LEFT} {level:.1f}H{_WIDTH - _RIGHT}" stroke="#ccc"/>')
            self._label(_LEFT - 6, level + 5, f"{amps:g} A", text_anchor="end", fill="#333")
        self._y = bottom
        return y

    def _circuit(self, name: str) -> None:
        limit_ma = self._outcome.limits_ma[name]
        flows = [sample.flows_ma[name] for sample in self._samples]
        y = self._frame(name, max(*limit_ma, *(max(flow) for flow in flows)))
        for phase, (_, colour, width) in enumerate(_PHASES):
            path = self._steps([(s.at_ms, y(s.flows_ma[name][phase])) for s in self._samples])
            self._line(path, colour, width)
        for limit in dict.fromkeys(limit_ma):
            self._line(f"M{_LEFT} {y(limit):.1f}H{_WIDTH - _RIGHT}", _LIMIT_COLOUR, 2.4, _DASHES)
        self._y += _GAP

    def _connector(self, number: int) -> None:
        offers = [(s.at_ms, s.offers_ma.get(number)) for s in self._samples]
        draws = [(s.at_ms, s.draws_ma[number]) for s in self._samples]
        y = self._frame(f"connector {number}", max(ma or 6_000 for _, ma in (*offers, *draws)))
        drawn = self._steps([(at_ms, y(ma)) for at_ms, ma in draws])
        self._area(f"{drawn}V{y(0):.1f}H{self._x(draws[0][0]):.1f}Z", _DRAW_COLOUR)
        for run in _known(offers):
            self._line(self._steps([(at_ms, y(ma)) for at_ms, ma in run]), _OFFER_COLOUR, 2.4)
        self._bands(lambda s: s.states.get(number, ""), _STATES)
        self._y += _GAP

    def _daemon(self) -> None:
        self._label(_LEFT - 6, self._y + 15, "daemon", text_anchor="end", font_size="13")

        def word(sample: Sample) -> str:
            return "down" if not sample.running else "online" if sample.online else "offline"

        self._bands(word, {"online": "#e3ecf6", "offline": "#ffcf8f", "down": "#333"}, light=("down",))
        self._y += 4

    def _bands(
        self, word: Callable[[Sample], str], colours: dict[str, str], light: Sequence[str] = ()
    ) -> None:
        """A band of coloured pieces with their words, below a panel."""
        pieces: list[tuple[int, str]] = []
        for sample in self._samples:
            if not pieces or pieces[-1][1] != word(sample):
                pieces.append((sample.at_ms, word(sample)))
        for (from_ms, text), (to_ms, _) in pairwise([*pieces, (self._end_ms, "")]):
            x, width = self._x(from_ms), self._x(to_ms) - self._x(from_ms)
            if not text or width <= 0:
                continue
            colour, span = colours.get(text, "#ddd"), f"from {clock(from_ms)} to {clock(to_ms)}"
            self._add(
                f'<rect x="{x:.1f}" y="{self._y + 2:.1f}" width="{width:.1f}" height="{_BAND - 3}" '
                f'fill="{colour}" stroke="#fff"><title>{escape(text)} {span}</title></rect>'
            )
            shown = text.replace("_", " ")
            if width > 7.2 * len(shown) + 6:
                ink = "#fff" if text in light else "#111"
                self._label(x + 4, self._y + 15, shown, fill=ink, font_size="13")
        self._y += _BAND

    def _steps(self, points: Sequence[tuple[int, float]]) -> str:
        """A line that keeps its height until it changes, on to the next point after its last one."""
        at_ms, y = points[0]
        words = [f"M{self._x(at_ms):.1f} {y:.1f}"]
        for now_ms, then in points[1:]:
            words.append(f"H{self._x(now_ms):.1f}")
            if abs(then - y) > 0.01:
                words.append(f"V{then:.1f}")
                y = then
        return "".join(words)

    # -- time and steps --------------------------------------------------------------------------------

    def _axis(self, y: float) -> None:
        self._add(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#111"/>')
        every_ms = _tick_ms(self._end_ms)
        for at_ms in range(0, self._end_ms + 1, every_ms):
            x = self._x(at_ms)
            self._add(f'<path d="M{x:.1f} {y:.1f}v6" stroke="#111"/>')
            self._label(x, y + 22, clock(at_ms).removesuffix(".0"), text_anchor="middle")

    def _marks(self, marks: Sequence[_Mark], top: float, bottom: float) -> Iterator[str]:
        """Lines behind the panels and their labels: what people did in grey, trouble and failures in red."""
        for mark in marks:
            x = self._x(mark.at_ms)
            colour = _TROUBLE if mark.failed or _is_trouble(mark.step) else _DEED
            start = top if mark.row is None else top + mark.row * _ROW
            line, width = f"M{x:.1f} {start:.1f}V{bottom:.1f}", 3.0 if mark.failed else 1.2
            yield f'<path d="{line}" stroke="{colour}" stroke-width="{width}" opacity=".55"/>'
            if mark.row is None:
                continue
            left = min(x, _WIDTH - mark.width)
            size = f'width="{mark.width:.0f}" height="{_ROW - 2}"'
            self._add(
                f'<g><rect x="{left:.1f}" y="{start:.1f}" {size} rx="3" fill="{colour}"/>'
                f"<title>{clock(mark.at_ms)} {escape(str(mark.step))}</title>"
                f'<text x="{left + 5:.1f}" y="{start + 13:.1f}" fill="#fff" font-size="13">'
                f"{escape(mark.label)}</text></g>"
            )


def _laid_out(played: Iterable[Done], x: Callable[[int], float]) -> tuple[list[_Mark], int]:
    """The marks in rows in which their labels do not overlap, and how many rows that takes."""
    ends = [0.0] * _ROWS
    marks = []
    for mark in _steps_shown(played):
        left = min(x(mark.at_ms), _WIDTH - mark.width)
        row = next((row for row, end in enumerate(ends) if left >= end), None)
        if row is not None:  # else too many at once: the line is there, the rest stands in the list
            ends[row] = left + mark.width + 3
        marks.append(replace(mark, row=row))
    return marks, sum(end > 0 for end in ends)


def _steps_shown(played: Iterable[Done]) -> Iterator[_Mark]:
    """What is marked: everything that was done, and what failed."""
    for number, done in enumerate(played, start=1):
        if done.failure is not None or isinstance(done.step.what, Action):
            yield _Mark(number, done.ended_ms, done.step, failed=done.failure is not None)


def _is_trouble(step: Step) -> bool:
    """Whether a step is a fault that begins, not one that ends or something people do."""
    people = (steps.Plug, steps.Unplug, steps.Drive, steps.Swipe, steps.Load, steps.Limit, steps.Demand)
    what = step.what
    ends = ("well", "joined", "clean", "started", "plugged", "synced", "back", "remembers")
    if isinstance(what, (*people, steps.ClearFault)):
        return False
    return not any(getattr(what, name, None) in ends for name in ("fault", "does", "quality"))


def _known(points: Sequence[tuple[int, int | None]]) -> Iterator[list[tuple[int, int]]]:
    """The pieces in which a value is known, each up to the moment from which it is not."""
    run: list[tuple[int, int]] = []
    for at_ms, value in points:
        if value is not None:
            run.append((at_ms, value))
        elif run:
            yield [*run, (at_ms, run[-1][1])]
            run = []
    if run:
        yield run


def _nice(amps: float) -> float:
    """The end of a scale: not below the value, and easy to halve."""
    ends = (8, 16, 20, 32, 40, 64, 80, 100, 125, 160, 200, 250, 400)
    return next((end for end in ends if amps <= end), amps)


def _tick_ms(end_ms: int) -> int:
    """A round distance between the times on the axis, for at most a dozen of them."""
    seconds = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400)
    return next((1_000 * one for one in seconds if end_ms <= 12_000 * one), end_ms)
