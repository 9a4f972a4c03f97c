"""After the last fault the station has to serve again: one more driver comes to each connector.

`serve_once_more(station, promises)` plugs a car in, shows a card and looks for current, connector after
connector. What the station says of itself is asked only where it does not serve: then it has to name a fault.
"""

from typing import Any

from hal_mocks.in_process_station import SimulatedStation
from hal_mocks.promises import Promises
from hal_mocks.rig_site import CARDS
from hal_mocks.vehicle import Vehicle

SEEN_MS = 4_000
"""From the plug until the controller must have seen the car: polls, retries, a tick."""

SERVED_MS = 15_000
"""From the card to current: the record, an offer, a car that sees it, a contactor that closes within 3 s."""

LOOK_EVERY_MS = 1_000


def serve_once_more(station: SimulatedStation, promises: Promises) -> None:
    """Raise `PromiseBroken` if a connector neither charges a car nor names the fault it is in."""
    for number in station.world.connectors:
        station.world.plug(number, Vehicle(phases=1, max_ma=8_000))
        station.pass_to(station.agenda.now_ms + SEEN_MS)
        # Somebody else than before: a connector that did not see the last car leave would refuse him.
        card = "bob" if promises.last_contract(number) == "alice" else "alice"
        station.swipe(CARDS[card])
        ends_ms = station.agenda.now_ms + SERVED_MS
        while not promises.serves(number) and station.agenda.now_ms < ends_ms:
            station.pass_to(station.agenda.now_ms + LOOK_EVERY_MS)
        if not promises.serves(number):
            shown = _shown(station, number)
            named = bool(shown.get("faults"))
            promises.must("the station is back in service", hold=named, text=f"connector {number}: {shown}")
        station.world.unplug(number)
    station.pass_to(station.agenda.now_ms + SEEN_MS)


def _shown(station: SimulatedStation, number: int) -> dict[str, Any]:
    """What the daemon says of this connector."""
    station.answers.clear()
    station.ask_later({"ask": "status"})
    station.pass_to(station.agenda.now_ms + LOOK_EVERY_MS)
    rows = [row for answer in station.answers for row in answer.get("connectors", ())]
    return next((row for row in rows if row["number"] == number), {})
