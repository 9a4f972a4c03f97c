"""A day of the garage as a picture: what flows on each phase, what each connector does, who waits."""

from datetime import timedelta
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tests.benchmarks.garage_bound import bound_wh
from tests.benchmarks.garage_core import Replay
from tests.benchmarks.garage_world import MAX_MA, MIN_MA, WEEK, Floats, Garage, garage, limited, rows

PICTURE = Path(__file__).parents[2] / "docs" / "garage-day.png"
PERCENT = 28
FROM_H, TO_H = 5.5, 24.0
MINUTES = int((TO_H - FROM_H) * 60)

STEPS = 200
"""Of the colours in a phase's panel: 0.4 A."""

EMPTY, WAITING, FULL = to_rgb("#ffffff"), to_rgb("#f4a261"), to_rgb("#e3e7ea")
CURRENT = LinearSegmentedColormap.from_list("current", ["#c9e4f4", "#5fa8d3", "#1b6ca8", "#0b3c5d"])
LINE, TEXT, LIMIT = "#8a949b", "#2f3b45", "#c1121f"


class Trace:
    """At every minute and connector: the current in A, whether a car waits, whether it is full."""

    def __init__(self, place: Garage) -> None:
        self.loads, self.limits_a = rows(place)
        connectors = len(place.site.outlets)
        self.draw_a = np.zeros((connectors, MINUTES))
        self.waits = np.zeros((connectors, MINUTES), dtype=bool)
        self.full = np.zeros((connectors, MINUTES), dtype=bool)
        self.parts_a = np.zeros((3, connectors, MINUTES))  # on each phase of the root

    def __call__(self, replay: Replay) -> None:
        """Note how things stand, for this minute and all after it."""
        minute = max(0, round((replay.now_ms - replay.at_ms(0)) / 60_000 - FROM_H * 60))
        self.parts_a[:, :, minute:] = 0
        for n, plug in enumerate(replay.plugs):
            draw_a = plug.draw_ma(replay.now_ms) / 1000
            self.draw_a[n, minute:] = draw_a
            self.waits[n, minute:] = plug.asks and plug.car is not None and not draw_a
            self.full[n, minute:] = plug.car is not None and not plug.asks
            if draw_a:
                self.parts_a[:, n, minute:] = (self.loads[:3, plug.index] * draw_a)[:, None]


def draw() -> Path:
    """Replay the first day of the week and write the picture."""
    place = limited(garage(WEEK[0], 1), PERCENT)
    trace = Trace(place)
    replayed = Replay(place).run(trace)
    PICTURE.parent.mkdir(exist_ok=True)
    mpl.rc("font", size=9)
    mpl.rc("text", color=TEXT)
    mpl.rc("axes", edgecolor=LINE, labelcolor=TEXT)
    mpl.rc("xtick", color=TEXT)
    mpl.rc("ytick", color=TEXT)
    figure = Figure(figsize=(11, 11.5), facecolor="white")
    axes = figure.subplots(
        5, 1, sharex=True, gridspec_kw={"height_ratios": [1.2, 1.2, 1.2, 4.2, 1.6], "hspace": 0.12}
    )
    figure.subplots_adjust(left=0.075, right=0.975, top=0.9, bottom=0.045)
    hours = FROM_H + np.arange(MINUTES) / 60
    for phase in range(3):
        _phase(axes[phase], hours, place, trace, phase)
    _connectors(axes[3], place, trace)
    _counts(axes[4], hours, trace)
    figure.suptitle(
        f"One day in a garage: {len(place.cars)} cars share {trace.limits_a[0]:.0f} A per phase",
        x=0.075, y=0.975, ha="left", fontsize=15, fontweight="bold",
    )  # fmt: skip
    took_kwh = replayed.outcome.wh.sum() / 1000
    kwh = sum(car.wish_wh for car in place.cars) / 1000
    figure.text(
        0.075, 0.95,
        f"Caltech garage, {WEEK[0]:%d %B %Y} (ACN-Data, CC BY 4.0): {len(place.site.outlets)} connectors on "
        f"a three-phase tree; unhindered, up to {place.peak_ma / 1000:.0f} A.\n"
        f"The cars wished for {kwh:.0f} kWh and took {took_kwh:.0f}, "
        f"{took_kwh * 1000 / bound_wh(place):.0%} of what perfect foresight could give.",
        fontsize=9.5, linespacing=1.5, va="top",
    )  # fmt: skip
    figure.savefig(PICTURE, dpi=110)
    return PICTURE


def _phase(axes: Axes, hours: Floats, place: Garage, trace: Trace, phase: int) -> None:
    """The current of one phase of the root, car on car, under its limit."""
    limit_a, most_a = trace.limits_a[phase], trace.limits_a[phase] * 1.4
    tops = np.cumsum(trace.parts_a[phase], axis=0)
    levels = np.arange(STEPS) / STEPS * most_a
    picture = np.ones((STEPS, MINUTES, 3))
    for n in np.flatnonzero(trace.parts_a[phase].any(axis=1)):
        own_a = trace.parts_a[phase, n]
        inside = (levels[:, None] >= tops[n] - own_a) & (levels[:, None] < tops[n])
        picture[inside] = np.broadcast_to(_shade(own_a), picture.shape)[inside]
        edge = inside & (levels[:, None] >= tops[n] - most_a / STEPS)
        picture[edge] = picture[edge] * 0.6 + 0.4
    axes.imshow(
        picture, aspect="auto", extent=(FROM_H, TO_H, 0, most_a), origin="lower", interpolation="nearest"
    )
    unhindered_a = _unhindered_a(place)[phase]
    axes.plot(hours, unhindered_a, color=TEXT, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.axhline(limit_a, color=LIMIT, linewidth=1.2)
    axes.set_ylim(0, most_a)
    axes.set_ylabel(f"L{phase + 1} in A", rotation=0, ha="right", va="center")
    if phase == 0:
        axes.text(TO_H, limit_a * 0.97, "limit", color=LIMIT, ha="right", va="top", fontsize=8.5)
        note = f"dotted: unhindered, up to {unhindered_a.max():.0f} A"
        axes.text(TO_H, limit_a * 1.1, note, ha="right", fontsize=8.5)
    _tidy(axes)


def _shade(current_a: Floats) -> Floats:
    return np.asarray(CURRENT(Normalize(MIN_MA / 1000, MAX_MA / 1000)(current_a)))[..., :3]


def _unhindered_a(place: Garage) -> Floats:
    """What would flow at the root if every car took its maximum from its arrival, per phase and minute."""
    loads, _ = rows(place)
    total = np.zeros((3, MINUTES))
    minutes = (FROM_H * 60 + np.arange(MINUTES)) * 60
    for k, car in enumerate(place.cars):
        ends_s = car.arrives_s + car.wish_wh * 3600 / car.most_w
        total += np.outer(loads[:3, k], (minutes >= car.arrives_s) & (minutes < ends_s)) * car.max_ma / 1000
    return total


def _connectors(axes: Axes, place: Garage, trace: Trace) -> None:
    """A line for each connector that is used: white free, blue charging, red waiting, grey full."""
    used = list(dict.fromkeys(car.outlet for car in place.cars))
    shade = _shade(trace.draw_a[used])
    picture = np.empty((len(used), MINUTES, 3))
    picture[:] = EMPTY
    for mask, colour in ((trace.full, FULL), (trace.waits, WAITING)):
        picture[mask[used]] = colour
    charges = trace.draw_a[used] > 0
    picture[charges] = shade[charges]
    axes.imshow(picture, aspect="auto", extent=(FROM_H, TO_H, len(used), 0), interpolation="nearest")
    for line in range(1, len(used)):
        axes.axhline(line, color="white", linewidth=1.1)
    axes.set_yticks([])
    axes.set_ylabel("connectors, by first arrival")
    axes.legend(
        handles=[
            Patch(color=CURRENT(0.0), label="charging at 6 A"),
            Patch(color=CURRENT(0.4), label="16 A"),
            Patch(color=CURRENT(1.0), label="32 A"),
            Patch(color=WAITING, label="waiting for its turn"),
            Patch(color=FULL, label="full, still plugged in"),
        ],
        loc="lower left", frameon=False, fontsize=8.5,
    )  # fmt: skip
    _tidy(axes)


def _counts(axes: Axes, hours: Floats, trace: Trace) -> None:
    """How many cars charge, wait and are full."""
    charges = (trace.draw_a > 0).sum(axis=0)
    axes.stackplot(
        hours, charges, trace.waits.sum(axis=0), trace.full.sum(axis=0),
        colors=["#5fa8d3", WAITING, FULL], labels=["charging", "waiting", "full"], step="post", linewidth=0,
    )  # fmt: skip
    axes.set_ylabel("cars")
    axes.set_ylim(0)
    axes.legend(loc="upper right", frameon=False, ncols=3, fontsize=8.5)
    axes.set_xlim(FROM_H, TO_H)
    axes.set_xticks(range(6, 25, 2))
    axes.set_xticklabels([f"{timedelta(hours=h)}"[:-3] if h < 24 else "24:00" for h in range(6, 25, 2)])
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
