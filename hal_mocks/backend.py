"""The operator's backend: books claims that come over MQTT, each once, and acknowledges them.

Written from the contract alone: own JSON, own hash, own MQTT client in one thread. What it believes can be
spoiled on command with `Manners`; what really happened is in `tally`, which survives every `restart`.
"""

import asyncio
import hashlib
import heapq
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

Json = dict[str, Any]

_LOOP_S = 0.02  # also the grain of late acks
_RETRY_S = 0.1
_SESSION_EXPIRY_S = 24 * 3600
_EVENTS_KEPT = 1000


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


class Backend:
    """A backend for all stations under `prefix`. Its thread writes; read from outside after `until`."""

    def __init__(self, host: str, port: int, *, prefix: str = "edge", client_id: str = "backend") -> None:
        self.manners = Manners()
        self.tally: dict[str, Tally] = {}
        self.ledger: dict[str, Booking] = {}
        self.stations: dict[str, StationView] = {}
        self.ready = threading.Event()  # connected and subscribed
        self.invalid: list[str] = []  # what was wrong with messages that could not be read
        self._host, self._port = host, port
        self._prefix = prefix
        self._client_id = client_id
        self._due_acks: list[tuple[float, int, str, bytes, str]] = []  # when, order, topic, payload, claim id
        self._order = itertools.count()
        self._stop = threading.Event()
        self._crash = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Connect, and reconnect for as long as it takes."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._serve, name="backend", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Disconnect; ledger and broker session stay."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def restart(self, *, forgetting: bool = False) -> None:
        """Stop and start; acknowledgements not yet sent are gone, with `forgetting` the ledger too."""
        self.stop()
        self._due_acks.clear()
        if forgetting:
            self.ledger.clear()
        self.start()

    def settled_once(self, claim_ids: list[str]) -> bool:
        """Whether each of these claims, and no other, was booked exactly once."""
        booked = {claim_id: tally.booked for claim_id, tally in self.tally.items() if tally.booked}
        return booked == dict.fromkeys(claim_ids, 1)

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until the condition holds, looking again whenever something came in. Raises `TimeoutError`."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def listener() -> None:
            loop.call_soon_threadsafe(news.set)

        self._listeners.append(listener)
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await news.wait()
                    news.clear()
        finally:
            self._listeners.remove(listener)

    # All below runs in the backend's thread.

    def _serve(self) -> None:
        while not self._stop.is_set():
            client = self._make_client()
            try:
                self._talk(client)
            except OSError:
                self._stop.wait(_RETRY_S)
            finally:
                self.ready.clear()
                if (line := client.socket()) is not None:
                    line.close()

    def _make_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=mqtt.MQTTv5, manual_ack=True
        )
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _talk(self, client: mqtt.Client) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = _SESSION_EXPIRY_S
        client.connect(self._host, self._port, keepalive=10, clean_start=False, properties=properties)
        self._crash.clear()
        while client.loop(_LOOP_S) == MQTTErrorCode.MQTT_ERR_SUCCESS:
            if self._crash.is_set():
                self._due_acks.clear()
                return  # the socket is closed without a word
            if self._stop.is_set():
                client.disconnect()
            self._send_due_acks(client)

    def _on_connect(
        self, client: mqtt.Client, _userdata: object, _flags: object, _reason: object, _properties: object
    ) -> None:
        topics = ("status", "birth", "event", "claim", "connector/+/state", "connector/+/meter")
        options = SubscribeOptions(qos=1)
        client.subscribe([(f"{self._prefix}/v1/+/{topic}", options) for topic in topics])

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: object, _mid: int, _reasons: object, _properties: object
    ) -> None:
        self.ready.set()

    def _on_message(self, client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        try:
            self._take(message.topic, json.loads(message.payload))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self.invalid.append(f"{message.topic}: {error!r}")
        if not self._crash.is_set():
            client.ack(message.mid, message.qos)
        for listener in list(self._listeners):
            listener()

    def _take(self, topic: str, body: Json) -> None:
        station, *rest = topic.removeprefix(f"{self._prefix}/v1/").split("/")
        view = self.stations.setdefault(station, StationView())
        match rest:
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
                self._take_claim(station, body)
            case _:
                raise ValueError("no such topic in the contract")

    def _take_claim(self, station: str, claim: Json) -> None:
        claim_id, stated = str(claim["id"]), str(claim["hash"])
        tally = self.tally.setdefault(claim_id, Tally(station))
        tally.copies += 1
        if claim_hash(claim) != stated:
            raise ValueError(f"the hash of claim {claim_id} is not that of its content")
        if self.manners.silent:
            return
        verdict, detail = self._judge(claim_id, stated, claim, tally)
        if self.manners.crash_before_ack:
            self.manners = Manners()
            self._crash.set()
            return
        if self.manners.first_copy_only and tally.copies > 1:
            return
        said = hashlib.sha256(b"something else").hexdigest() if self.manners.wrong_hash else stated
        ack = {"v": 1, "claim_id": claim_id, "hash": said, "verdict": verdict, "detail": detail}
        due = time.monotonic() + self.manners.delay_s
        topic = f"{self._prefix}/v1/{station}/ack"
        for _ in range(self.manners.acks):
            entry = (due, next(self._order), topic, json.dumps(ack).encode(), claim_id)
            heapq.heappush(self._due_acks, entry)

    def _judge(self, claim_id: str, stated: str, claim: Json, tally: Tally) -> tuple[str, str]:
        """Verdict and detail; books a claim that is new."""
        known = self.ledger.get(claim_id)
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

    def _send_due_acks(self, client: mqtt.Client) -> None:
        while self._due_acks and self._due_acks[0][0] <= time.monotonic() and client.is_connected():
            _, _, topic, payload, claim_id = heapq.heappop(self._due_acks)
            client.publish(topic, payload, qos=1)
            self.tally[claim_id].acked += 1
            for listener in list(self._listeners):
                listener()
