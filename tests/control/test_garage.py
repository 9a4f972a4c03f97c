"""An afternoon of a real garage through the pure core, at a limit that makes everybody wait."""

import pytest

from edge.events import EvseRead, Pilot
from tests.benchmarks.garage import score
from tests.benchmarks.garage_bound import bound_wh
from tests.benchmarks.garage_core import Replay
from tests.benchmarks.garage_rules import BASELINES, simulate
from tests.benchmarks.garage_world import WEEK, Garage, garage, limited

FROM_S, TO_S = 10 * 3600, 15 * 3600


def afternoon(percent: int, *, three_phase: bool) -> Garage:
    """The cars of one day that come between ten and three."""
    day = limited(garage(WEEK[0], 1, three_phase=three_phase), percent)
    return day._replace(cars=tuple(car for car in day.cars if FROM_S <= car.arrives_s < TO_S))


@pytest.mark.parametrize(("three_phase", "energy", "worst"), [(True, 0.8, 0.4), (False, 0.8, 0.3)])
def test_a_garage_is_shared_without_excess_and_every_watt_hour_is_billed(
    three_phase: bool, energy: float, worst: float
) -> None:
    place = afternoon(14, three_phase=three_phase)
    replayed = Replay(place).run()
    outcome = replayed.outcome
    assert outcome.over_a <= 0
    assert replayed.faults == 0
    assert replayed.claimed_wh == pytest.approx(outcome.wh, abs=1.01)  # a register counts whole watt-hours
    assert (outcome.wh <= [car.wish_wh + 0.01 for car in place.cars]).all()
    judged = score(place, outcome, bound_wh(place))
    assert judged.energy >= energy
    assert judged.worst >= worst


@pytest.mark.parametrize("three_phase", [True, False])
def test_nobody_beats_the_bound_or_a_fuse(three_phase: bool) -> None:
    place = afternoon(19, three_phase=three_phase)
    most_wh = bound_wh(place)
    for rule in BASELINES.values():
        outcome = simulate(place, rule)
        assert outcome.over_a <= 1e-6
        assert outcome.wh.sum() <= most_wh + 1


def test_the_short_cut_for_idle_connectors_changes_nothing() -> None:
    place = afternoon(19, three_phase=True)
    short, long = Replay(place), Replay(place)
    for replay in (short, long):
        replay._look()
        replay.now_ms += 30_000
    short._read_idle()
    for n in range(len(place.site.outlets)):
        long._put(EvseRead(long.now_ms, long.now_ms, n + 1, Pilot.A, 0, False, None))
        long._measure(n)
    assert short.station == long.station
