"""One MQTT 5 connection, from CONNECT to its end, in one thread named "uplink". All use of paho stands here.

A new `Connection` (and a new paho client) for every try: what must outlive a connection waits in the journal
and in `edge.uplink.waiting`, so nothing is queued twice. The broker keeps its side of the MQTT session.
"""

import asyncio
import logging
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

import paho.mqtt.client as mqtt
from msgspec import Struct
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.errors import ConfigError, UplinkError

_LOG = logging.getLogger(__name__)

# The broker keeps unanswered messages for us over a long weekend without power, not for ever.
SESSION_EXPIRY_S = 7 * 24 * 3600
# The broker notices a dead line after 1.5 times this [MQTT-3.1.2-22], paho after twice this.
KEEPALIVE_S = 30
# QoS 1 messages the broker may have under way to us: bounds `inbound`.
RECEIVE_MAXIMUM = 64
# QoS 1 messages we have under way: the lowest default of common brokers (HiveMQ 10, mosquitto 20).
SEND_MAXIMUM = 10
# Bigger packets the broker must not send [MQTT-3.1.2-24], so that they never reach the memory of the board.
_MAX_PACKET_BYTES = 1024 * 1024
# How long the thread sleeps in select(); a publish wakes it, `close` waits for it at most this long.
_SELECT_S = 1.0

# What paho raises when the line breaks (OSError, with ssl.SSLError) or the broker does not speak MQTT.
_LINE_OR_PEER = (OSError, ValueError, LookupError, struct.error, MQTTException)


class TlsFiles(Struct, frozen=True):
    """PEM files: the only CA to trust, and the station's own certificate and key if the broker asks."""

    ca: str
    cert: str | None = None
    key: str | None = None


class Access(Struct, frozen=True):
    """Where the broker is and how to get in. `password_file` holds the password in its first line."""

    host: str
    port: int
    client_id: str  # the same on every connection: the broker finds the session by it
    username: str | None = None
    password_file: str | None = None
    tls: TlsFiles | None = None


class Will(Struct, frozen=True):
    """What the broker says, retained and with QoS 1, when the connection breaks."""

    topic: str
    payload: bytes


class Inbound(Struct, frozen=True):
    """A message as it came in; `acknowledge` it when it is done with, and only then."""

    topic: str
    payload: bytes
    retained: bool
    mid: int
    qos: int


class Link(Protocol):
    """One connection to the broker, from CONNECT to its end, for the event loop's thread.

    `Connection` says what each method promises; a peer of a rig can keep the same promises.
    """

    inbound: asyncio.Queue[Inbound]

    async def open(self, timeout_s: float) -> None:
        """Connect and subscribe. Raises `UplinkError`."""

    async def lost(self) -> NoReturn:
        """Wait for the end of the connection. Raises `UplinkError` with the reason."""

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> asyncio.Future[None]:
        """Send. The future is done at PUBACK (QoS 1) or once written (QoS 0); never if the line breaks."""

    async def last_word(self, topic: str, payload: bytes, timeout_s: float) -> None:
        """Publish, retained, and wait for the PUBACK if the line still stands."""

    def acknowledge(self, message: Inbound) -> None:
        """Tell the broker that it may forget this message."""

    @property
    def is_up(self) -> bool:
        """Connected, subscribed and not ended."""

    async def close(self, *, publish_will: bool, timeout_s: float) -> None:
        """Disconnect. With `publish_will` the broker says the last will all the same."""


class Secrets:
    """The password and keys, read once at start. Raises `ConfigError` if they cannot be used."""

    def __init__(self, access: Access) -> None:
        self.password: str | None = None
        self.tls: ssl.SSLContext | None = None
        problems = []
        if access.password_file is not None:
            try:
                self.password = Path(access.password_file).read_text(encoding="utf-8").split("\n", 1)[0]
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"uplink password_file {access.password_file!r}: {error}")
        if access.tls is not None:
            try:
                self.tls = _tls_context(access.tls)
            except OSError as error:  # ssl.SSLError is one
                problems.append(f"uplink tls {access.tls.ca!r}, {access.tls.cert!r}: {error}")
        if problems:
            raise ConfigError(problems)


Refused = Callable[[str, str], None]
"""Called with topic and reason, in the loop's thread, when the broker turns a publish away."""

Connect = Callable[[Access, Secrets, Will, str, Refused], Link]
"""Makes a link that is not open yet, with the topic to subscribe to; `Connection` is one."""


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Trust this CA only, TLS 1.2 or later, host name checked."""
    context = ssl.create_default_context(cafile=files.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.cert is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


class Connection:
    """Implements `Link`. What is public is for the event loop's thread; `_on_*` and `_serve` run in ours."""

    def __init__(
        self, access: Access, secrets: Secrets, will: Will, subscribe_to: str, refused: Refused
    ) -> None:
        self.inbound: asyncio.Queue[Inbound] = asyncio.Queue()
        self._access = access
        self._subscribe_to = subscribe_to
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[str] = self._loop.create_future()  # why, in a sentence
        self._unsent: dict[int, tuple[str, asyncio.Future[None]]] = {}  # by mid, until PUBACK
        self._stop = threading.Event()
        self._why = ""  # first reason heard from the broker; written by the thread
        self._client = self._make_client(secrets, will)
        self._thread = threading.Thread(target=self._serve, name="uplink", daemon=True)

    async def open(self, timeout_s: float) -> None:
        """Connect and subscribe. Raises `UplinkError`."""
        self._thread.start()
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
        mid = self._client.publish(topic, payload, qos=qos, retain=retain).mid
        self._unsent[mid] = (topic, done)  # before `_published` can run: that is called in this thread, later
        return done

    async def last_word(self, topic: str, payload: bytes, timeout_s: float) -> None:
        """Publish, retained, and wait for the PUBACK if the line still stands."""
        if self.is_up:
            done = self.publish(topic, payload, qos=1, retain=True)
            await asyncio.wait((done, self._ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    def acknowledge(self, message: Inbound) -> None:
        """Tell the broker (PUBACK) that it may forget this message."""
        self._client.ack(message.mid, message.qos)

    @property
    def is_up(self) -> bool:
        """Connected, subscribed and not ended."""
        return self._up.done() and not self._ended.done()

    async def close(self, *, publish_will: bool, timeout_s: float) -> None:
        """Disconnect and end the thread. With `publish_will` the broker says the last will all the same."""
        if self._thread.ident is None:
            return  # never started
        if self.is_up:
            word = "Disconnect with will message" if publish_will else "Normal disconnection"
            self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, word))
            await asyncio.wait((self._ended,), timeout=timeout_s)
        self._stop.set()
        await asyncio.wait((self._ended,), timeout=timeout_s + _SELECT_S)
        if self._ended.done():
            self._thread.join()  # its last statement has run
            del self._client  # it holds our methods: without this cycle its sockets are closed at once
        else:
            _LOG.warning("the thread of the uplink to %s hangs and is left behind", self._where)

    @property
    def _where(self) -> str:
        return f"{self._access.host}:{self._access.port}"

    def _make_client(self, secrets: Secrets, will: Will) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._access.client_id,
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages = SEND_MAXIMUM
        client.will_set(will.topic, will.payload, qos=1, retain=True)
        if self._access.username is not None:
            client.username_pw_set(self._access.username, secrets.password)
        if secrets.tls is not None:
            client.tls_set_context(secrets.tls)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        # Tells paho that another thread watches the socket. Without it publish() and ack() would write to the
        # socket from the event loop's thread, beside the write of the "uplink" thread.
        client.on_socket_register_write = lambda _client, _userdata, _socket: None
        return client

    # In the event loop's thread, called from ours.

    def _published(self, mid: int, refusal: str | None) -> None:
        topic, done = self._unsent.pop(mid)
        if refusal is not None:
            self._refused(topic, refusal)
        if not done.done():  # a cancelled await has cancelled it
            done.set_result(None)

    def _received(self, message: Inbound) -> None:
        if message.qos == 0 and self.inbound.qsize() >= RECEIVE_MAXIMUM:
            return  # nothing bounds QoS 0 but this, and nobody was promised its delivery
        self.inbound.put_nowait(message)

    def _subscribed(self) -> None:
        if not self._up.done():
            self._up.set_result(None)

    def _finished(self, outcome: str | BaseException) -> None:
        if isinstance(outcome, str):
            self._ended.set_result(outcome)
        else:
            self._ended.set_exception(outcome)

    # In the thread "uplink".

    def _serve(self) -> None:
        try:
            outcome = self._talk()
        except _LINE_OR_PEER as error:
            outcome = f"no connection to the broker {self._where}: {error}"
        except BaseException as error:
            self._hand_over(self._finished, error)  # a bug of ours: `lost` raises it where it is seen
            raise
        finally:
            if (line := self._client.socket()) is not None:
                line.close()
        self._hand_over(self._finished, outcome)

    def _talk(self) -> str:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = _MAX_PACKET_BYTES
        self._client.connect(
            self._access.host, self._access.port, KEEPALIVE_S, clean_start=False, properties=properties
        )
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and not self._stop.is_set():
            code = self._client.loop(_SELECT_S)
        why = self._why or mqtt.error_string(code)
        return f"the connection to the broker {self._where} ended: {why}"

    def _hand_over(self, call: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed: nobody waits for us any more
            self._loop.call_soon_threadsafe(call, *arguments)

    def _on_connect(
        self, client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self._why = f"it refused us: {reason}"
        else:
            # retainAsPublished: otherwise a retained message that arrives live would lose its mark.
            client.subscribe(self._subscribe_to, options=SubscribeOptions(qos=1, retainAsPublished=True))

    def _on_subscribe(
        self,
        client: mqtt.Client,
        _userdata: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: object,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._why = f"it does not let us subscribe to {self._subscribe_to}: {reasons[0]}"
            client.disconnect()
        else:
            self._hand_over(self._subscribed)

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        inbound = Inbound(message.topic, bytes(message.payload), message.retain, message.mid, message.qos)
        self._hand_over(self._received, inbound)

    def _on_publish(
        self, _client: mqtt.Client, _userdata: object, mid: int, reason: ReasonCode, _properties: object
    ) -> None:
        self._hand_over(self._published, mid, str(reason) if reason.is_failure else None)

    def _on_disconnect(
        self,
        _client: mqtt.Client,
        _userdata: object,
        flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        _properties: object,
    ) -> None:
        if flags.is_disconnect_packet_from_server:  # else `reason` is made up by paho
            self._why = str(reason)
