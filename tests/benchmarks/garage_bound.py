"""What nobody can beat: the most energy these cars could have taken, with everything known in advance.

A linear program over periods of 5 minutes: true arrivals, departures, energies and car maxima, every circuit
and phase, continuous currents without a minimum. A period's variable is a car's mean current in it, so a car
that stays for a part of a period counts with that part, and the bound holds for any finer control, too.
"""

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array

from tests.benchmarks.garage_world import VOLTS, Garage, rows

PERIOD_S = 300


def bound_wh(place: Garage) -> float:
    """The most energy all cars together can have been given."""
    loads, limits_a = rows(place)
    car_of, period_of, most_a = [], [], []
    for k, car in enumerate(place.cars):
        for period in range(car.arrives_s // PERIOD_S, -(-car.leaves_s // PERIOD_S)):
            begins = max(car.arrives_s, period * PERIOD_S)
            ends = min(car.leaves_s, (period + 1) * PERIOD_S)
            car_of.append(k)
            period_of.append(period)
            most_a.append(car.max_ma / 1000 * (ends - begins) / PERIOD_S)
    cars, most = np.array(car_of), np.array(most_a)
    _, periods = np.unique(period_of, return_inverse=True)
    variables = np.arange(len(cars))
    wh_per_a = np.array([car.phases * VOLTS * PERIOD_S / 3600 for car in place.cars])[cars]
    energy = csr_array((wh_per_a, (cars, variables)), shape=(len(place.cars), len(cars)))
    wishes = np.array([car.wish_wh for car in place.cars])
    # Row r of the tree in period t is row t * len(limits) + r; those that cannot fill up are left out.
    at, of = np.nonzero(loads[:, cars])
    tree = coo_array((np.ones(len(at)), (periods[of] * len(limits_a) + at, of))).tocsr()
    limits = np.tile(limits_a, periods.max() + 1)[: tree.shape[0]]
    tight = tree @ most > limits
    found = linprog(
        -wh_per_a,
        A_ub=_stacked(energy, tree[tight]),
        b_ub=np.concatenate([wishes, limits[tight]]),
        bounds=np.column_stack([np.zeros(len(most)), most]),
        method="highs-ipm",
    )
    if found.status != 0:
        raise RuntimeError(found.message)
    return float(-found.fun)


def _stacked(*parts: csr_array) -> csr_array:
    from scipy.sparse import vstack

    return csr_array(vstack(parts))
