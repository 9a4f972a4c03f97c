"""What a card may do, where and why not. Pure: the local list is part of the site."""

from msgspec import Struct

from edge.control.faults import stopping
from edge.control.session import OCCUPIED, State
from edge.control.site import Card, ReaderSite
from edge.control.state import METER_STALE_MS, Connector, Station, is_fresh
from edge.events import Credential


class Start(Struct, frozen=True):
    """Begin a session at connector index `index`."""

    index: int
    card: Card


class Stop(Struct, frozen=True):
    """End the session at connector index `index`."""

    index: int


class Wait(Struct, frozen=True):
    """The card is good, but no car is plugged in yet."""

    card: Card


class Refuse(Struct, frozen=True):
    """Nothing happens; `text` is for the person in front of the reader."""

    text: str


Decision = Start | Stop | Wait | Refuse


def decide(station: Station, reader: str, credential: Credential) -> Decision:
    """The rules in their order: stop your own session, be known, find the car that waits."""
    served = _served(station, reader)
    for index in served:
        connector = station.connectors[index]
        session = connector.session if connector.state in OCCUPIED else None
        if session and _is_same(station, credential, session.card, session.claim.contract):
            return _stop(connector, index)
    if credential.random:
        return Refuse(
            "this is a phone or bank card whose number changes each time; use the operator's card or app"
        )
    card = station.site.cards.get(credential.id)
    if card is None:
        return Refuse("this card is not known at this station; ask the operator on the sticker")
    ready = [i for i in served if _is_ready(station, i, credential)]
    if not ready:
        if all(station.connectors[i].state in OCCUPIED for i in served):
            return Refuse("every connector here is in use with another card")
        return Wait(card)
    # The car plugged in last is the one whose driver walks to the reader.
    index = max(ready, key=lambda i: (station.connectors[i].state is State.PLUGGED, _since(station, i)))
    problem = why_no_start(station, index)
    return Refuse(problem) if problem else Start(index, card)


def why_no_start(station: Station, index: int) -> str | None:
    """What forbids a new session at this connector now, in words; None when it may start."""
    connector = station.connectors[index]
    fault = stopping(connector.faults)
    if fault is not None:
        return fault.kind.driver
    if any(fault.kind.name == "journal_failed" for fault in station.faults):
        return "payments cannot be recorded at the moment; running sessions go on"
    if not is_fresh(connector.meter, station.now_ms, METER_STALE_MS):
        return "the energy meter does not answer; nothing could be billed"
    if station.stopping:
        return "the station is being restarted; try again in a minute"
    return None


def _stop(connector: Connector, index: int) -> Decision:
    if connector.state in (State.CHARGING, State.ADOPTING):
        return Stop(index)
    if connector.state is State.STARTING:
        return Refuse("this session is just starting; show the card again in a moment to stop it")
    return Refuse("this session is ending already")


def _is_ready(station: Station, index: int, credential: Credential) -> bool:
    """A car that waits, or one that has finished with this very card; never somebody else's."""
    connector = station.connectors[index]
    if connector.state is State.FINISHED:
        return _is_same(station, credential, connector.last_card, connector.last_contract)
    return connector.state is State.PLUGGED


def _is_same(station: Station, credential: Credential, card: str, contract: str) -> bool:
    """Whether a card is that of a session; the contract behind it decides where only a mask is on record."""
    known = station.site.cards.get(credential.id)
    return card == credential.id or (not card and known is not None and known.contract == contract)


def _served(station: Station, reader: str) -> list[int]:
    sites: dict[str, ReaderSite] = {site.id: site for site in station.site.readers}
    numbers = sites[reader].connectors if reader in sites else ()
    return [i for i, outlet in enumerate(station.site.outlets) if outlet.number in numbers]


def _since(station: Station, index: int) -> int:
    return station.connectors[index].since_ms
