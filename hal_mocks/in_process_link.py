"""The uplink's connection to a broker in memory, in place of paho, TCP and mosquitto.

    connect = link_maker(broker, agenda)
    MqttUplink(settings, birth, outbox, now_ms, wall_ms, connect=connect)

One of the few files here that import from `edge`: it keeps the promise of `edge.uplink.connection.Link`, with
the numbers and the sentences of the real `Connection`. The running loop's time must be the agenda's.
"""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from edge.errors import UplinkError
from edge.uplink.connection import (
    KEEPALIVE_S,
    RECEIVE_MAXIMUM,
    SEND_MAXIMUM,
    SESSION_EXPIRY_S,
    Access,
    Connect,
    Inbound,
    Refused,
    Secrets,
    Will,
)
from hal_mocks.agenda import Agenda
from hal_mocks.memory_broker import Client, Hello, MemoryBroker, Message, Subscription


def link_maker(broker: MemoryBroker, agenda: Agenda) -> Connect:
    """Give what makes the links of an uplink to that broker, whatever address they are told."""

    def connect(
        access: Access,
        secrets: Secrets,  # noqa: ARG001  # nobody listens in on memory
        will: Will,
        subscribe_to: str,
        refused: Refused,
    ) -> MemoryLink:
        hello = Hello(
            access.client_id,
            KEEPALIVE_S,
            SESSION_EXPIRY_S,
            RECEIVE_MAXIMUM,
            Message(will.topic, will.payload, qos=1, retain=True),
        )
        where = f"{access.host}:{access.port}"
        return MemoryLink(
            lambda link: Client(agenda, broker, hello, link, send_most=SEND_MAXIMUM),
            where,
            subscribe_to,
            refused,
        )

    return connect


class MemoryLink:
    """Implements `edge.uplink.connection.Link`, and `Ears` for its client."""

    def __init__(
        self, make_client: "Callable[[MemoryLink], Client]", where: str, subscribe_to: str, refused: Refused
    ) -> None:
        self.inbound: asyncio.Queue[Inbound] = asyncio.Queue()
        self._client = make_client(self)
        self._where = where
        self._subscribe_to = subscribe_to
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[str] = self._loop.create_future()  # why, in a sentence
        self._unsent: dict[int, tuple[str, asyncio.Future[None]]] = {}  # by mid, until PUBACK
        self._reachable = True

    async def open(self, timeout_s: float) -> None:
        """Connect and subscribe. Raises `UplinkError`."""
        self._client.open()
        await asyncio.wait((self._up, self._ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._ended.done():
            await self.lost()
        if not self._up.done():
            raise UplinkError(f"the broker {self._where} does not answer within {timeout_s:g} s")

    async def lost(self) -> NoReturn:
        """Wait for the end of the connection. Raises `UplinkError` with the reason."""
        raise UplinkError(await asyncio.shield(self._ended))

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> asyncio.Future[None]:
        """Send. The future is done at PUBACK (QoS 1) or once written (QoS 0); never if the line breaks."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._unsent[self._client.publish(topic, payload, qos=qos, retain=retain)] = (topic, done)
        return done

    async def last_word(self, topic: str, payload: bytes, timeout_s: float) -> None:
        """Publish, retained, and wait for the PUBACK if the line still stands."""
        if self.is_up:
            done = self.publish(topic, payload, qos=1, retain=True)
            await asyncio.wait((done, self._ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    def acknowledge(self, message: Inbound) -> None:
        """Tell the broker (PUBACK) that it may forget this message."""
        if message.qos:
            self._client.acknowledge(message.mid)

    @property
    def is_up(self) -> bool:
        """Connected, subscribed and not ended."""
        return self._up.done() and not self._ended.done()

    async def close(self, *, publish_will: bool, timeout_s: float) -> None:  # noqa: ARG002  # takes no time
        """Disconnect. With `publish_will` the broker says the last will all the same."""
        if self.is_up:
            self._client.disconnect(with_will=publish_will)
        else:
            self._client.close()

    # What the client tells. A killed daemon leaves a closed loop behind, on which nobody waits any more.

    def not_there(self) -> None:
        """Nobody listens where it dialled."""
        self._reachable = False

    def connected(self) -> None:
        """CONNACK came."""
        self._client.subscribe([Subscription(self._subscribe_to, as_published=True)])

    def subscribed(self) -> None:
        """SUBACK came."""
        if not (self._loop.is_closed() or self._up.done()):
            self._up.set_result(None)

    def published(self, mid: int, refusal: str | None) -> None:
        """PUBACK came, or QoS 0 was written."""
        topic, done = self._unsent.pop(mid)
        if self._loop.is_closed():
            return
        if refusal is not None:
            self._refused(topic, refusal)
        if not done.done():  # a cancelled await has cancelled it
            done.set_result(None)

    def received(self, message: Message) -> None:
        """A message came."""
        if self._loop.is_closed() or (message.qos == 0 and self.inbound.qsize() >= RECEIVE_MAXIMUM):
            return  # nothing bounds QoS 0 but this
        self.inbound.put_nowait(
            Inbound(message.topic, message.payload, message.retain, message.mid, message.qos)
        )

    def ended(self, why: str) -> None:
        """The connection is over."""
        if self._loop.is_closed() or self._ended.done():
            return
        self._ended.set_result(
            f"the connection to the broker {self._where} ended: {why or 'No error.'}"
            if self._reachable
            else f"no connection to the broker {self._where}: [Errno 111] Connection refused"
        )
