"""The loop of the nightly run: draw a site, ask, judge, and go on to the next."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tests.nightly.ticks import Verdict, answer, compare, draw_site, draw_ticks, judge, shrunk

TICKS = 250
"""Asked of each site; the last of them is worked out in fractions, too."""


class Progress(NamedTuple):
    """How far a run is."""

    ticks: int
    sites: int


def run(seed: int, ticks: int, show: Callable[[Progress], None] = lambda _: None) -> Verdict | None:
    """Judge so many ticks or a few more; the first wrong one, or None. A seed gives the same sites again."""
    done = Progress(0, 0)
    while done.ticks < ticks:
        dice = np.random.default_rng([seed, done.sites])
        site = draw_site(dice)
        asked = draw_ticks(dice, site, TICKS)
        given = answer(site, asked)
        verdict = judge(site, asked, given) or compare(site, asked, given, TICKS - 1)
        if verdict is not None:
            return shrunk(verdict)
        done = Progress(done.ticks + TICKS, done.sites + 1)
        show(done)
    return None
