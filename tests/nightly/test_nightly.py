"""A short nightly run, and that its judge would see what is wrong."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.nightly.run import Progress, run
from tests.nightly.ticks import (
    Answers,
    Site,
    Ticks,
    Verdict,
    answer,
    compare,
    draw_site,
    draw_ticks,
    judge,
    shrunk,
)

SEED = 20_251


def test_some_thousand_random_ticks_keep_to_the_rules() -> None:
    seen: list[Progress] = []
    assert run(SEED, 5_000, seen.append) is None
    assert seen[-1] == Progress(5_000, 20)


def test_what_a_new_tree_does_right_is_told_as_it_was_found() -> None:
    site, ticks, given = drawn(1)
    verdict = Verdict(
        "only after the ticks before", ticks.strict, ticks.instance(site, 0), given.x[0].tolist()
    )
    assert shrunk(verdict) == verdict


def drawn(seed: int) -> tuple[Site, Ticks, Answers]:
    dice = np.random.default_rng(seed)
    site = draw_site(dice)
    ticks = draw_ticks(dice, site, 5)
    return site, ticks, answer(site, ticks)


def a_milliamp_less(ticks: Ticks, given: Answers) -> None:
    given.x[:] -= given.x > ticks.least


def an_amp_less(ticks: Ticks, given: Answers) -> None:
    given.x[:] -= 1_000 * (given.x > ticks.least + 1_000)


def an_amp_more(ticks: Ticks, given: Answers) -> None:
    given.x[:] += 1_000 * (given.x > 0)


def an_amp_from_the_first_to_the_last(ticks: Ticks, given: Answers) -> None:
    for x, least, most in zip(given.x, ticks.least, ticks.most, strict=True):
        giver, taker = np.flatnonzero(x > least + 1_000), np.flatnonzero((x > 0) & (x <= most - 1_000))
        if len(giver) and len(taker) and giver[0] != taker[-1]:
            x[giver[0]] -= 1_000
            x[taker[-1]] += 1_000


def nobody_is_on(ticks: Ticks, given: Answers) -> None:
    given.x[:] = 0


def everybody_is_at_his_minimum(ticks: Ticks, given: Answers) -> None:
    given.x[:] = np.minimum(given.x, ticks.least)


def everybody_is_told_of_the_first_row(ticks: Ticks, given: Answers) -> None:
    given.bound[:] = 0


def the_kernel_refuses(ticks: Ticks, given: Answers) -> None:
    given.certified[:] = False


@pytest.mark.parametrize(
    "spoil",
    [
        an_amp_less,
        an_amp_more,
        an_amp_from_the_first_to_the_last,
        nobody_is_on,
        everybody_is_at_his_minimum,
        everybody_is_told_of_the_first_row,
        the_kernel_refuses,
    ],
)
def test_the_judge_objects_to_a_spoilt_answer(spoil: Callable[[Ticks, Answers], None]) -> None:
    spoilt = 0
    for seed in range(60):
        site, ticks, given = drawn(seed)
        assert judge(site, ticks, given) is None
        x, bound = given.x.copy(), given.bound.copy()
        spoil(ticks, given)
        if (x != given.x).any() or (bound != given.bound).any() or not given.certified.all():
            spoilt += 1
            assert judge(site, ticks, given) is not None, seed
    assert spoilt > 20


def test_fractions_object_to_a_missing_milliamp() -> None:
    spoilt = 0
    for seed in range(60):
        site, ticks, given = drawn(seed)
        assert compare(site, ticks, given, 0) is None
        before = given.x[0].copy()
        a_milliamp_less(ticks, given)
        if (before != given.x[0]).any():
            spoilt += 1
            assert compare(site, ticks, given, 0) is not None
    assert spoilt > 20
