"""The core alone: one tick, per number of connectors. The kernel in it: `sharing`."""

import statistics
import time
from collections.abc import Callable

from edge.control.site import Card
from edge.control.station import step
from edge.events import Credential, Tick
from edge.records import ClockQuality
from tests.control.story import UNIX_MS, Story, site

ROUNDS = 300


def median_us(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median time of one call in microseconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1000


def charging_station(n: int) -> Story:
    """Make a station where n cars charge, each with its own card."""
    plan = site(connectors=n, limit_ma=12_000 * n)
    cards = [Credential(f"ISO14443A:04{i:06X}", "…") for i in range(n)]
    plan.cards.update({card.id: Card(card.id, f"driver {i}") for i, card in enumerate(cards)})
    story = Story(plan)
    story.pass_time(500)
    for number, card in enumerate(cards, start=1):
        story.plug(number)
        story.swipe(card)
    story.pass_time(2_000)
    return story


def tick_us(n: int) -> float:
    """Time one `Tick` of the whole core: ages, faults, sharing, the last word, commands."""
    story = charging_station(n)
    tick = Tick(story.now_ms + 250, UNIX_MS, ClockQuality.SYNCED)
    return median_us(lambda: step(story.station, tick))


def report() -> list[tuple[str, str, str]]:
    """Measure all; rows of (what, result, target)."""
    return [
        (f"one tick of the core, {n} connectors, median", f"{tick_us(n) / 1000:.2f} ms", "1 ms")
        for n in (4, 64)
    ]
