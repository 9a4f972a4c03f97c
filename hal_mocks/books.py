"""What the operator's backend knows and answers, without a thread, a clock or a network.

    books = Books()
    for ack in books.take("de-0001", "claim", payload, now_ms):
        ...                       # publish ack.payload to the station when ack.due_ms has come, then:
        books.said(ack)

Written from the contract alone: own JSON, own hash. What it believes can be spoiled on command with
`manners`; what really happened is in `tally`, which survives everything.
"""

import hashlib
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]

TOPICS = ("status", "birth", "event", "claim", "connector/+/state", "connector/+/meter")
"""What stations say, below `{prefix}/v1/{station}/`: what a backend subscribes to."""

_EVENTS_KEPT = 1000


class Crashed(Exception):
    """The backend fell after it had booked and before it could answer; the message counts as not taken."""


@dataclass(frozen=True)
class Manners:
    """How it behaves. The default is well: book, then acknowledge each copy at once."""

    silent: bool = False  # takes claims in, books nothing, says nothing
    delay_s: float = 0.0  # acknowledges that much later
    acks: int = 1  # how often it says each acknowledgement
    wrong_hash: bool = False  # acknowledges with the hash of something else
    reject: bool = False  # refuses claims it does not know yet
    first_copy_only: bool = False  # acknowledges the first copy of a claim, no later one
    crash_before_ack: bool = False  # books the next claim, then restarts instead of acknowledging; once
    contradiction: Literal["none", "after", "before"] = "none"  # when it says the opposite verdict, too
    forgetful: bool = False  # takes each copy for a new claim and books it again


@dataclass
class Tally:
    """What happened to one claim, whoever remembers."""

    station: str
    copies: int = 0  # messages received
    booked: int = 0  # how many times somebody was charged
    rejected: int = 0
    acked: int = 0  # acknowledgements sent
    conflicts: int = 0  # same id, other content


@dataclass(frozen=True)
class Booking:
    """An entry of the ledger."""

    hash: str
    claim: Json
    accepted: bool


@dataclass(frozen=True)
class Ack:
    """An acknowledgement to be published to `station` when its time has come."""

    due_ms: int
    station: str
    claim_id: str
    payload: bytes


@dataclass
class StationView:
    """What a station shows, the newest of each topic."""

    status: Json | None = None
    birth: Json | None = None
    connectors: dict[int, Json] = field(default_factory=dict)
    meters: dict[int, Json] = field(default_factory=dict)
    events: deque[Json] = field(default_factory=lambda: deque(maxlen=_EVENTS_KEPT))


def claim_hash(claim: Json) -> str:
    """SHA-256 over the canonical JSON (RFC 8785) of a claim without its hash."""
    body = {key: value for key, value in claim.items() if key != "hash"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Books:
    """Ledger, views and tally of one backend, for all its stations."""

    def __init__(self) -> None:
        self.manners = Manners()
        self.tally: dict[str, Tally] = {}  # by claim id
        self.ledger: dict[str, Booking] = {}  # by claim id
        self.stations: dict[str, StationView] = {}
        self.invalid: list[str] = []  # what was wrong with messages that could not be read

    def take(self, station: str, topic: str, payload: bytes, now_ms: int) -> list[Ack]:
        """Take in one message; the acknowledgements to send for it, in order. Raises `Crashed`."""
        try:
            return self._take(station, topic, json.loads(payload), now_ms)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self.invalid.append(f"{station}/{topic}: {error!r}")
            return []

    def said(self, ack: Ack) -> None:
        """Note that an acknowledgement was sent."""
        self.tally[ack.claim_id].acked += 1

    def forget(self) -> None:
        """Lose the ledger, as a backend restored from an old backup does."""
        self.ledger.clear()

    def settled_once(self, claim_ids: list[str]) -> bool:
        """Whether each of these claims, and no other, was booked exactly once."""
        booked = {claim_id: tally.booked for claim_id, tally in self.tally.items() if tally.booked}
        return booked == dict.fromkeys(claim_ids, 1)

    def _take(self, station: str, topic: str, body: Json, now_ms: int) -> list[Ack]:
        view = self.stations.setdefault(station, StationView())
        match topic.split("/"):
            case ["status"]:
                stale = body["state"] == "lost" and body["connection"] < (view.status or body)["connection"]
                view.status = view.status if stale else body
            case ["birth"]:
                view.birth = body
            case ["event"]:
                view.events.append(body)
            case ["connector", number, "state"]:
                view.connectors[int(number)] = body
            case ["connector", number, "meter"]:
                view.meters[int(number)] = body
            case ["claim"]:
                return self._take_claim(station, body, now_ms)
            case _:
                raise ValueError("no such topic in the contract")
        return []

    def _take_claim(self, station: str, claim: Json, now_ms: int) -> list[Ack]:
        claim_id, stated = str(claim["id"]), str(claim["hash"])
        tally = self.tally.setdefault(claim_id, Tally(station))
        tally.copies += 1
        if claim_hash(claim) != stated:
            raise ValueError(f"the hash of claim {claim_id} is not that of its content")
        if self.manners.silent:
            return []
        true_word = self._judge(claim_id, stated, claim, tally)
        if self.manners.crash_before_ack:
            self.manners = Manners()
            raise Crashed(claim_id)
        if self.manners.first_copy_only and tally.copies > 1:
            return []
        said = hashlib.sha256(b"something else").hexdigest() if self.manners.wrong_hash else stated
        due_ms = now_ms + round(self.manners.delay_s * 1000)
        return [
            Ack(due_ms, station, claim_id, _ack(claim_id, said, verdict, detail))
            for verdict, detail in self._words(true_word)
            for _ in range(self.manners.acks)
        ]

    def _judge(self, claim_id: str, stated: str, claim: Json, tally: Tally) -> tuple[str, str]:
        """Verdict and detail; books a claim that is new."""
        known = None if self.manners.forgetful else self.ledger.get(claim_id)
        if known is None:
            accepted = not self.manners.reject
            self.ledger[claim_id] = Booking(stated, claim, accepted)
            tally.booked += accepted
            tally.rejected += not accepted
            return ("accepted", "") if accepted else ("rejected", "refused by rule")
        if known.hash != stated:
            tally.conflicts += 1
            return "rejected", "this id was used for another claim"
        return ("duplicate", "") if known.accepted else ("rejected", "refused before")

    def _words(self, true_word: tuple[str, str]) -> list[tuple[str, str]]:
        """What it says about one claim, one after the other; its books follow the true word alone."""
        opposite = ("accepted" if true_word[0] == "rejected" else "rejected", "said in contradiction")
        match self.manners.contradiction:
            case "none":
                return [true_word]
            case "after":
                return [true_word, opposite]
            case "before":
                return [opposite, true_word]


def _ack(claim_id: str, said_hash: str, verdict: str, detail: str) -> bytes:
    ack = {"v": 1, "claim_id": claim_id, "hash": said_hash, "verdict": verdict, "detail": detail}
    return json.dumps(ack).encode()
