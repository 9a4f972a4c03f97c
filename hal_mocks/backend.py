"""The operator's backend on a real broker: its `Books`, with an MQTT client in a thread of its own."""

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from hal_mocks.books import TOPICS, Ack, Booking, Books, Crashed, Manners, StationView, Tally, claim_hash

__all__ = ["Backend", "Booking", "Manners", "StationView", "Tally", "claim_hash"]

_LOOP_S = 0.02  # also the grain of late acks
_RETRY_S = 0.1
_SESSION_EXPIRY_S = 24 * 3600


class Backend:
    """A backend for all stations under `prefix`. Its thread writes; read from outside after `until`."""

    def __init__(self, host: str, port: int, *, prefix: str = "edge", client_id: str = "backend") -> None:
        self.books = Books()
        self.tally = self.books.tally
        self.ledger = self.books.ledger
        self.stations = self.books.stations
        self.invalid = self.books.invalid
        self.ready = threading.Event()  # connected and subscribed
        self._host, self._port = host, port
        self._prefix = prefix
        self._client_id = client_id
        self._due_acks: list[tuple[int, int, Ack]] = []  # when, order
        self._order = itertools.count()
        self._stop = threading.Event()
        self._crash = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None

    @property
    def manners(self) -> Manners:
        """How it behaves."""
        return self.books.manners

    @manners.setter
    def manners(self, manners: Manners) -> None:
        self.books.manners = manners

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
            self.books.forget()
        self.start()

    def settled_once(self, claim_ids: list[str]) -> bool:
        """Whether each of these claims, and no other, was booked exactly once."""
        return self.books.settled_once(claim_ids)

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
        options = SubscribeOptions(qos=1)
        client.subscribe([(f"{self._prefix}/v1/+/{topic}", options) for topic in TOPICS])

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: object, _mid: int, _reasons: object, _properties: object
    ) -> None:
        self.ready.set()

    def _on_message(self, client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if self._crash.is_set():
            return  # it comes again
        station, _, topic = message.topic.removeprefix(f"{self._prefix}/v1/").partition("/")
        try:
            for ack in self.books.take(station, topic, bytes(message.payload), _now_ms()):
                heapq.heappush(self._due_acks, (ack.due_ms, next(self._order), ack))
            client.ack(message.mid, message.qos)
        except Crashed:
            self._crash.set()
        for listener in list(self._listeners):
            listener()

    def _send_due_acks(self, client: mqtt.Client) -> None:
        while self._due_acks and self._due_acks[0][0] <= _now_ms() and client.is_connected():
            _, _, ack = heapq.heappop(self._due_acks)
            client.publish(f"{self._prefix}/v1/{ack.station}/ack", ack.payload, qos=1)
            self.books.said(ack)
            for listener in list(self._listeners):
                listener()


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
