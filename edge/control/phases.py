"""Switching a connector between one phase and three: pause, open, switch, look, go on.

A controller switches with its contactor open only; a car that sees a phase come or go under load may break.
Only controllers that say in `EvseRead.phases` what they switch through can do it.
"""

from msgspec.structs import replace

from edge.commands import SetPhases
from edge.control.session import ENERGISED
from edge.control.state import EVSE_STALE_MS, is_fresh
from edge.control.turn import Turn
from edge.events import PhasesRequested

PAUSE_MS = 10_000
"""At 0 A before the switch: the delay EVerest waits by default; chargers of cars discharge within it."""

REPEAT_MS = 5_000
GIVE_UP_MS = 60_000
"""A controller that has not switched by then will not; the session goes on with the phases it has."""


def request(turn: Turn, event: PhasesRequested) -> None:
    """Begin to switch, or say why not."""
    i = turn.station.site.index(event.connector)
    look = turn.at(i).evse if i is not None else None
    if i is None or look is None or look.phases is None or len(turn.outlet(i).lines) < event.phases:
        text = f"connector {event.connector} cannot switch to {event.phases} phase(s)"
        turn.announce("phases_refused", text, i)
    elif turn.at(i).state not in ENERGISED:
        turn.announce("phases_refused", f"there is no session at connector {event.connector} to switch", i)
    elif look.phases == event.phases and turn.at(i).phases_wanted is not None:
        turn.put(i, replace(turn.at(i), phases_wanted=None))
        turn.announce("phases_switched", f"charging goes on with {event.phases} phase(s) as before", i)
    elif event.phases not in (1, 3) or look.phases == event.phases:
        turn.announce("phases_refused", f"connector {event.connector} is on {look.phases} phase(s)", i)
    else:
        turn.put(
            i, replace(turn.at(i), phases_wanted=event.phases, phases_since_ms=turn.now, phases_sent_ms=0)
        )
        turn.allocate()


def switch(turn: Turn, i: int) -> None:
    """What is due at a connector that is being switched."""
    connector, now = turn.at(i), turn.now
    look, wanted = connector.evse, connector.phases_wanted
    if look is None or wanted is None or not is_fresh(look, now, EVSE_STALE_MS):
        return
    if look.phases == wanted and connector.phases_sent_ms:
        turn.put(i, replace(connector, phases_wanted=None, used=None))
        turn.announce("phases_switched", f"charging goes on with {wanted} phase(s)", i)
        return
    if now - connector.phases_since_ms >= GIVE_UP_MS:
        turn.put(i, replace(connector, phases_wanted=None, used=None))
        turn.announce("phases_refused", f"the controller did not switch to {wanted} phase(s)", i)
        return
    quiet_since_ms = max(connector.offered_ms, connector.phases_since_ms)
    idle = connector.offer_ma == 0 and not look.contactor_closed and look.asked_ms > quiet_since_ms
    if idle and now - quiet_since_ms >= PAUSE_MS and now - connector.phases_sent_ms >= REPEAT_MS:
        turn.put(i, replace(connector, phases_sent_ms=now))
        turn.commands.append(SetPhases(turn.outlet(i).number, wanted, now))
