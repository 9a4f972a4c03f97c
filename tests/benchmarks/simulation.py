"""The production daemon on virtual time: how many times faster than real time an hour of a station passes."""

import statistics
import time

from hal_mocks.in_process_station import SimulatedStation
from hal_mocks.promises import Promises
from hal_mocks.simulation import POLL_MS, memory_folder, quiet
from hal_mocks.vehicle import Vehicle

UIDS = ("04D1A2A3A4A5A6", "04D2A2A3A4A5A6", "04D3A2A3A4A5A6", "04D4A2A3A4A5A6")
HOUR_MS = 3_600_000
RUNS = 3
EACH_MS = 10_000
"""From one car to the next; each charges for the rest of the hour."""

_CARDS = "\n".join(f'[[cards]]\nuid = "{uid}"\ncontract = "{uid}"' for uid in UIDS)


def _hour() -> float:
    """Seconds of processor time for an hour in which every connector charges, with all promises judged."""
    with quiet(), memory_folder() as folder:
        station = SimulatedStation(folder, seed=1, connectors=len(UIDS), poll_ms=POLL_MS, config=_CARDS)
        Promises(station)
        try:
            began_s = time.process_time()
            station.begin()
            for number, uid in enumerate(UIDS, start=1):
                station.pass_to(number * EACH_MS)
                station.world.plug(number, Vehicle(phases=number % 3 + 1))
                station.pass_to(number * EACH_MS + 4_000)
                station.swipe(uid)
            station.pass_to(HOUR_MS)
            used_s = time.process_time() - began_s
            if any(not car.taken_wh for car in station.world.vehicles.values()):
                raise RuntimeError("a car was not charged")
        finally:
            station.end()
    return used_s


def report() -> list[tuple[str, str, str]]:
    """Measure; rows of (what, result, target)."""
    used_s = statistics.median(_hour() for _ in range(RUNS))
    return [
        (
            f"simulated hour of the daemon, {len(UIDS)} connectors that charge, median of {RUNS}",
            f"{used_s:.1f} s of processor time, {HOUR_MS / 1000 / used_s:.0f} times real time",
            "7.2 s, 500 times",
        )
    ]
