"""The operator's backend as a client of a broker in memory; what it knows and answers is `books`."""

from heapq import heappop, heappush
from itertools import count

from hal_mocks.agenda import Agenda, Entry
from hal_mocks.books import TOPICS, Ack, Books, Crashed
from hal_mocks.memory_broker import Client, Hello, MemoryBroker, Message, Subscription

_KEEPALIVE_S = 10
_SESSION_EXPIRY_S = 24 * 3600
_RETRY_MS = 1000


class MemoryBackend:
    """The operator's backend: its books, as a client of a broker in memory. Call `start`."""

    def __init__(self, agenda: Agenda, broker: MemoryBroker, books: Books, prefix: str = "edge") -> None:
        self.books = books
        self.ready = False  # connected and subscribed
        self._agenda = agenda
        self._broker = broker
        self._prefix = prefix
        self._hello = Hello("backend", _KEEPALIVE_S, _SESSION_EXPIRY_S)
        self._running = False
        self._client: Client | None = None
        self._retry: Entry | None = None
        self._due_acks: list[tuple[int, int, Ack]] = []  # when, order
        self._order = count()

    def start(self) -> None:
        """Connect, and reconnect for as long as it takes."""
        if not self._running:
            self._running = True
            self._connect()

    def stop(self) -> None:
        """Disconnect; ledger and broker session stay."""
        self._running = False
        if self._retry is not None:
            self._retry.cancel()
        if self._client is not None:
            self._client.disconnect(with_will=False)

    def restart(self, *, forgetting: bool = False) -> None:
        """Stop and start; acknowledgements not yet sent are gone, with `forgetting` the ledger too."""
        self.stop()
        self._due_acks.clear()
        if forgetting:
            self.books.forget()
        self.start()

    # What the client tells.

    def not_there(self) -> None:
        """Nobody listens."""

    def connected(self) -> None:
        """Subscribe to all stations."""
        if self._client is not None:
            self._client.subscribe([Subscription(f"{self._prefix}/v1/+/{topic}") for topic in TOPICS])

    def subscribed(self) -> None:
        """Say what could not be said while away."""
        self.ready = True
        self._say_due_acks()

    def published(self, _mid: int, _refusal: str | None) -> None:
        """An acknowledgement is with the broker; whether it arrives is the station's care."""

    def received(self, message: Message) -> None:
        """Book it, then let the broker forget it."""
        station, _, topic = message.topic.removeprefix(f"{self._prefix}/v1/").partition("/")
        client = self._client
        if client is None:
            return
        try:
            acks = self.books.take(station, topic, message.payload, self._agenda.now_ms)
        except Crashed:
            self._due_acks.clear()
            client.close()
            return
        if message.qos:
            client.acknowledge(message.mid)
        for ack in acks:
            heappush(self._due_acks, (ack.due_ms, next(self._order), ack))
            self._agenda.at_ms(ack.due_ms, self._say_due_acks)

    def ended(self, _why: str) -> None:
        """The connection is over; try again in a while."""
        self.ready, self._client = False, None
        if self._running:
            self._retry = self._agenda.after_ms(_RETRY_MS, self._connect)

    def _connect(self) -> None:
        self._client = Client(self._agenda, self._broker, self._hello, self)
        self._client.open()

    def _say_due_acks(self) -> None:
        while self._due_acks and self._due_acks[0][0] <= self._agenda.now_ms and self.ready:
            ack = heappop(self._due_acks)[2]
            if self._client is not None:
                topic = f"{self._prefix}/v1/{ack.station}/ack"
                self._client.publish(topic, ack.payload, qos=1, retain=False)
                self.books.said(ack)
