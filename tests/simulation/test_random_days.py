"""200 random days of the production daemon break no promise. They begin first, beside all other tests."""

import pytest

from hal_mocks.plans import make_plan
from hal_mocks.simulation import simulate

SEEDS = 200


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_no_promise_is_broken_on_a_random_day(seed: int) -> None:
    broken = simulate(make_plan(seed)).broken
    assert broken is None, f"{broken}\n./run sim --seed {seed} makes it small"
