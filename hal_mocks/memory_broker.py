"""An MQTT 5 broker and its clients on an agenda: the rules without the bytes.

    broker = MemoryBroker(agenda, random.Random(seed))
    broker.latency_ms = 300; broker.duplicates = 0.1; broker.silent = True; broker.refuses = "Server busy"
    broker.kill(); broker.start()          # all it has acknowledged since it last saved is gone
    broker.cut("station")                  # a TCP reset: the broker says that client's last will
    broker.vanish("station")               # its power or its cable: the broker finds out by the keepalive

Kept: MQTT 5 sessions that outlive their connection, QoS 0 and 1 with PUBACK, the windows of both sides,
redelivery with DUP, retained messages, wills, keepalive on both sides, filters with + and #. Where the
standard leaves a choice it does what mosquitto 2.0 does; `tests/simulation/test_memory_broker.py` holds both
against each other. All chance comes from the dice, and none is thrown for a fault that is switched off.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from hal_mocks.agenda import Agenda, Entry

# mosquitto's own bound on QoS 1 messages under way to one client (max_inflight_messages).
_INFLIGHT_MOST = 20
# mosquitto's bound on messages that wait for one client (max_queued_messages); what comes then is dropped.
_QUEUED_MOST = 1000
# A broker takes a client for dead after 1.5 times its keepalive [MQTT-3.1.2-22].
_DEAD_AFTER = 1.5
# In how many milliseconds a message may be overtaken by later ones.
_REORDER_MOST_MS = 500
_LAST_MID = 65535

_TAKEN_OVER = "Session taken over"
_SHUTTING_DOWN = "Server shutting down"
NOT_AUTHORIZED = "Not authorized"
"""The reason code 0x87, as people read it."""


@dataclass(frozen=True)
class Message:
    """What is published, or delivered under `mid`; QoS 0 has no mid."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    mid: int = 0


@dataclass(frozen=True)
class Subscription:
    """One topic filter of a client. With `as_published` a live message keeps its mark of being retained."""

    topics: str
    qos: int = 1
    as_published: bool = False


@dataclass(frozen=True)
class Hello:
    """What a CONNECT says; a clean start is never asked for."""

    client_id: str
    keepalive_s: int = 60
    expiry_s: int = 0  # how long the broker keeps the session when the line is gone
    receive_most: int = 65535  # QoS 1 messages the broker may have under way to this client
    will: Message | None = None


@lru_cache(maxsize=4096)
def matches(topics: str, topic: str) -> bool:
    """Whether a topic is one of those a filter names [MQTT-4.7.1]; wildcards do not see `$SYS`."""
    wanted, levels = topics.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(levels) or level not in ("+", levels[place]):
            return False
    return len(wanted) == len(levels)


class _Line:
    """A TCP connection: two directions, each in order, each as late as the broker's latency is."""

    def __init__(self, agenda: Agenda, broker: "MemoryBroker", client: "Client") -> None:
        self.stands = True
        self.dead = False  # carries nothing any more, and nobody knows
        self.hello: Hello | None = None  # once CONNECT was accepted
        self.heard_us = agenda.now_us  # when the broker heard the client last
        self._agenda = agenda
        self._broker = broker
        self._client: Client | None = client
        self._to_broker_us = self._to_client_us = 0
        self._held: list[Callable[[Client], None]] = []  # answers that do not come back

    def to_broker(self, call: Callable[[], None]) -> None:
        """Let the broker hear something."""
        self._to_broker_us = max(self._agenda.now_us + self._broker.latency_ms * 1000, self._to_broker_us)

        def arrive() -> None:
            if self.stands and not self.dead:
                self.heard_us = self._agenda.now_us
                call()

        self._agenda.at_us(self._to_broker_us, arrive)

    def to_client(self, call: Callable[["Client"], None]) -> None:
        """Let the client hear something, once answers come back."""
        if self._broker.silent:
            self._held.append(call)
            return
        self._to_client_us = max(self._agenda.now_us + self._broker.latency_ms * 1000, self._to_client_us)

        def arrive() -> None:
            if self._client is not None and not self.dead:
                call(self._client)

        self._agenda.at_us(self._to_client_us, arrive)

    def deliver(self, message: Message) -> None:
        """Let the client have a message."""
        self.to_client(lambda client: client.deliver(message))

    def answers_come(self) -> None:
        """Let the client hear what was held back."""
        held, self._held = self._held, []
        for call in held:
            self.to_client(call)

    def let_go(self) -> None:
        """The client hears nothing of this line any more."""
        self._client = None

    def reset(self) -> None:
        """Break both ways at once; what was under way is lost."""
        client, self._client, self.stands = self._client, None, False
        if client is not None:
            client.broken()


class Ears(Protocol):
    """What a client tells its owner; never from within a call of its owner, but for `ended`."""

    def not_there(self) -> None:
        """Nobody listens where it dialled; `ended` follows."""

    def connected(self) -> None:
        """CONNACK came, and is no refusal."""

    def subscribed(self) -> None:
        """SUBACK came."""

    def published(self, mid: int, refusal: str | None, /) -> None:
        """PUBACK came (QoS 1), or it was written (QoS 0)."""

    def received(self, message: Message, /) -> None:
        """A message came; QoS 1 is to be acknowledged."""

    def ended(self, why: str, /) -> None:
        """The connection is over; `why` is empty if its owner wanted it."""


class Client:
    """One connection of an MQTT client, with the manners of paho: window, keepalive. For one use only."""

    def __init__(
        self, agenda: Agenda, broker: "MemoryBroker", hello: Hello, ears: Ears, *, send_most: int = 20
    ) -> None:
        """`send_most` QoS 1 messages are under way at a time; more wait here."""
        self._agenda = agenda
        self._broker = broker
        self._hello = hello
        self._ears = ears
        self._send_most = send_most
        self._line: _Line | None = None
        self._connected = False
        self._mid = 0
        self._waiting: deque[Message] = deque()
        self._under_way: set[int] = set()
        self._out_us = self._in_us = agenda.now_us
        self._pinged = False
        self._timer: Entry | None = None

    def open(self) -> None:
        """Dial and say CONNECT."""
        line = self._line = self._broker.dial(self)
        self._out_us = self._in_us = self._agenda.now_us
        line.to_broker(lambda: self._broker.connect(line, self._hello))
        self._set_timer()

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Say SUBSCRIBE."""
        line = self._dialled
        self._send(lambda: self._broker.subscribe(line, subscriptions))

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        """Publish when the window allows; the mid by which `published` names it."""
        self._mid = self._mid % _LAST_MID + 1
        message, mid = Message(topic, payload, qos, retain, mid=self._mid), self._mid
        if qos:
            self._waiting.append(message)
            self._send_waiting()
        elif self._line is not None:
            self._send_publish(message, self._line)
            self._agenda.after_ms(0, lambda: self._ears.published(mid, None))
        return mid

    def acknowledge(self, mid: int) -> None:
        """Say PUBACK. The message is done with even if the line is gone: then it comes again."""
        if self._line is not None:
            line = self._line
            self._send(lambda: self._broker.acknowledged(line, mid))

    def disconnect(self, *, with_will: bool) -> None:
        """Say DISCONNECT and hang up."""
        if self._line is not None:
            line = self._line
            self._send(lambda: self._broker.disconnected(line, with_will=with_will))
        self.close()

    def close(self) -> None:
        """Hang up without a word."""
        if self._line is not None:
            line = self._line
            line.to_broker(lambda: self._broker.hung_up(line))
            self._end("")

    # What the broker says, and what becomes of the line.

    def connack(self, refusal: str | None) -> None:
        """The broker took the CONNECT, or not."""
        self._heard()
        if refusal is not None:
            self._end(f"it refused us: {refusal}")
            return
        self._connected = True
        self._ears.connected()

    def suback(self) -> None:
        """The broker took the SUBSCRIBE."""
        self._heard()
        self._ears.subscribed()

    def puback(self, mid: int, refusal: str | None) -> None:
        """The broker took a message, or turned it away."""
        self._heard()
        self._under_way.discard(mid)
        self._send_waiting()
        self._ears.published(mid, refusal)

    def deliver(self, message: Message) -> None:
        """The broker sent a message."""
        self._heard()
        self._ears.received(message)

    def pong(self) -> None:
        """The broker answered a PINGREQ."""
        self._heard()
        self._pinged = False

    def told_to_go(self, why: str) -> None:
        """The broker said DISCONNECT and hung up."""
        self._end(why)

    def not_there(self) -> None:
        """Nobody listens where we dialled."""
        self._ears.not_there()
        self._end("nobody listens")

    def broken(self) -> None:
        """The line was reset."""
        self._end("The connection was lost.")

    @property
    def _dialled(self) -> _Line:
        if self._line is None:
            raise ValueError("this client is not connected")
        return self._line

    def _send(self, call: Callable[[], None]) -> None:
        self._out_us = self._agenda.now_us
        self._dialled.to_broker(call)

    def _heard(self) -> None:
        self._in_us = self._agenda.now_us

    def _send_waiting(self) -> None:
        while self._line is not None and self._waiting and len(self._under_way) < self._send_most:
            message = self._waiting.popleft()
            self._under_way.add(message.mid)
            self._send_publish(message, self._line)

    def _send_publish(self, message: Message, line: _Line) -> None:
        self._send(lambda: self._broker.publish(line, message))

    def _end(self, why: str) -> None:
        if self._line is None:
            return
        self._line.let_go()
        self._line = None
        if self._timer is not None:
            self._timer.cancel()
        self._ears.ended(why)

    def _set_timer(self) -> None:
        due_us = min(self._in_us, self._out_us) + self._hello.keepalive_s * 1_000_000
        self._timer = self._agenda.at_us(due_us, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        """Ask for a sign of life when one side was silent for a keepalive; give up after another one."""
        now_us = self._agenda.now_us
        if now_us - min(self._in_us, self._out_us) >= self._hello.keepalive_s * 1_000_000:
            line = self._dialled
            if self._pinged or not self._connected:
                line.to_broker(lambda: self._broker.hung_up(line))
                self._end("The connection was lost.")
                return
            self._pinged = True
            self._in_us = now_us
            self._send(lambda: self._broker.ping(line))
        self._set_timer()


@dataclass
class _Session:
    """What the broker knows of one client, connected or not."""

    client_id: str
    expiry_s: int
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    waiting: deque[Message] = field(default_factory=deque)  # not sent yet
    unanswered: dict[int, Message] = field(default_factory=dict)  # sent, without PUBACK, by mid
    last_mid: int = 0
    gone_us: int = 0  # since when there is no line
    holding: bool = False  # lets messages gather, to send them in any order
    line: _Line | None = None

    def copy(self, now_us: int) -> "_Session":
        """As it is written to disk, or read from it."""
        return replace(
            self,
            gone_us=self.gone_us if self.line is None else now_us,
            holding=False,
            subscriptions=dict(self.subscriptions),
            waiting=deque(self.waiting),
            unanswered=dict(self.unanswered),
            line=None,
        )


class MemoryBroker:
    """One broker. It starts running; faults are the public fields, and may change at any time."""

    def __init__(self, agenda: Agenda, dice: random.Random) -> None:
        self.latency_ms = 1  # of every packet, each way
        self.duplicates = 0.0  # the probability that a delivery is made twice
        self.reorders = 0.0  # ... that it waits a little and comes in any order with those after it
        self.loses_acknowledged = 0.0  # ... that it says PUBACK and the message is gone
        self.refuses = ""  # the reason it gives to everybody who connects; empty: none is refused
        self.denies: frozenset[str] = frozenset()  # filters of topics nobody may publish to
        self.observer: Callable[[str, bytes], None] = lambda _topic, _payload: None  # hears all it takes in
        self.running = True
        self._silent = False
        self._agenda = agenda
        self._dice = dice
        self._lines: dict[_Line, None] = {}  # in order of dialling
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, Message] = {}
        self._saved: tuple[list[_Session], dict[str, Message]] = ([], {})

    # What a story does to it.

    @property
    def silent(self) -> bool:
        """Whether it takes everything and nothing comes back, as on a half-open line."""
        return self._silent

    @silent.setter
    def silent(self, silent: bool) -> None:
        self._silent = silent
        if not silent:
            for line in list(self._lines):
                line.answers_come()

    def start(self) -> None:
        """Run again, with what was saved."""
        if not self.running:
            self.running = True
            sessions, self._retained = self._saved[0], dict(self._saved[1])
            self._sessions = {session.client_id: session.copy(self._agenda.now_us) for session in sessions}

    def save(self) -> None:
        """Write sessions, what waits in them and what is retained to disk."""
        self._saved = (
            [session.copy(self._agenda.now_us) for session in self._sessions.values()],
            dict(self._retained),
        )

    def stop(self) -> None:
        """End cleanly: hang up on everybody, say their wills, save."""
        if self.running:
            for line in list(self._lines):
                line.to_client(lambda client: client.told_to_go(_SHUTTING_DOWN))
                self._part(line, with_will=True)
            self.save()
            self._fall()

    def kill(self) -> None:
        """End in the middle: what was not saved is gone, however it was acknowledged."""
        if self.running:
            self._fall()

    def cut(self, client_id: str) -> None:
        """Reset the line of a client, if there is one: both ends know at once."""
        if (line := self._line_of(client_id)) is not None:
            line.reset()
            self.hung_up(line)

    def vanish(self, client_id: str) -> None:
        """Let its line carry nothing any more, either way; each end finds out by its keepalive."""
        if (line := self._line_of(client_id)) is not None:
            line.dead = True

    def connected(self, client_id: str) -> bool:
        """Whether it holds a line to that client for open."""
        return self._line_of(client_id) is not None

    # What comes over the lines.

    def dial(self, client: Client) -> _Line:
        """A new line; refused in time if nobody listens."""
        line = _Line(self._agenda, self, client)
        if self.running:
            self._lines[line] = None
        else:
            line.to_client(lambda client: client.not_there())
        return line

    def connect(self, line: _Line, hello: Hello) -> None:
        """CONNECT."""
        if not self.running:
            return
        if self.refuses:
            reason = self.refuses
            line.to_client(lambda client: client.connack(reason))
            self._drop(line)
            return
        session = self._session(hello)
        if session.line is not None:
            session.line.to_client(lambda client: client.told_to_go(_TAKEN_OVER))
            self._drop(session.line)
        line.hello = hello
        session.line = line
        line.to_client(lambda client: client.connack(None))
        for mid, message in session.unanswered.items():
            again = replace(message, dup=True)
            session.unanswered[mid] = again
            line.deliver(again)
        self._deliver_waiting(session)
        self._watch(line, hello)

    def subscribe(self, line: _Line, subscriptions: Sequence[Subscription]) -> None:
        """SUBSCRIBE; what is retained comes at once."""
        if (session := self._session_of(line)) is None:
            return
        line.to_client(lambda client: client.suback())
        for subscription in subscriptions:
            session.subscriptions[subscription.topics] = subscription
            for message in self._retained.values():
                if matches(subscription.topics, message.topic):
                    self._queue(session, replace(message, qos=min(message.qos, subscription.qos)))
        self._deliver_waiting(session)

    def publish(self, line: _Line, message: Message) -> None:
        """PUBLISH from a client."""
        if self._session_of(line) is None:
            return
        denied = any(matches(topics, message.topic) for topics in self.denies)
        if message.qos:
            reason = NOT_AUTHORIZED if denied else None
            line.to_client(lambda client: client.puback(message.mid, reason))
        if denied or self._happens(self.loses_acknowledged if message.qos else 0.0):
            return
        self._take_in(message)

    def acknowledged(self, line: _Line, mid: int) -> None:
        """PUBACK from a client."""
        if (session := self._session_of(line)) is not None:
            session.unanswered.pop(mid, None)
            self._deliver_waiting(session)

    def ping(self, line: _Line) -> None:
        """PINGREQ."""
        if self._session_of(line) is not None:
            line.to_client(lambda client: client.pong())

    def disconnected(self, line: _Line, *, with_will: bool) -> None:
        """DISCONNECT from a client."""
        self._part(line, with_will=with_will)

    def hung_up(self, line: _Line) -> None:
        """The client closed its end, or its line broke, without a DISCONNECT."""
        self._part(line, with_will=True)

    # How it keeps its promises.

    def _line_of(self, client_id: str) -> _Line | None:
        session = self._sessions.get(client_id)
        return None if session is None else session.line

    def _session_of(self, line: _Line) -> _Session | None:
        """The session this line serves; None if it has lost it."""
        session = None if line.hello is None else self._sessions.get(line.hello.client_id)
        return session if session is not None and session.line is line else None

    def _session(self, hello: Hello) -> _Session:
        """The session of a client that connects: the old one, if it is not over."""
        session = self._sessions.get(hello.client_id)
        if session is None or self._is_over(session):
            session = self._sessions[hello.client_id] = _Session(hello.client_id, hello.expiry_s)
        session.expiry_s = hello.expiry_s
        return session

    def _is_over(self, session: _Session) -> bool:
        away_us = self._agenda.now_us - session.gone_us
        return session.line is None and away_us >= session.expiry_s * 1_000_000

    def _watch(self, line: _Line, hello: Hello) -> None:
        """Take the client for dead when nothing has come from it for long enough."""
        patience_us = round(hello.keepalive_s * _DEAD_AFTER * 1_000_000)

        def look() -> None:
            if self._session_of(line) is None:
                return
            if self._agenda.now_us - line.heard_us >= patience_us:
                line.reset()
                self.hung_up(line)
            else:
                self._agenda.at_us(line.heard_us + patience_us, look)

        self._agenda.at_us(line.heard_us + patience_us, look)

    def _part(self, line: _Line, *, with_will: bool) -> None:
        """A client is gone; its session stays for as long as it asked for."""
        session, hello = self._session_of(line), line.hello
        self._drop(line)
        if session is not None:
            session.line, session.gone_us = None, self._agenda.now_us
            if with_will and hello is not None and hello.will is not None:
                self._take_in(hello.will)

    def _drop(self, line: _Line) -> None:
        """Hear no more of a line; what was said into it still arrives."""
        line.stands = False
        self._lines.pop(line, None)

    def _fall(self) -> None:
        self.running = False
        lines, self._lines = self._lines, {}
        self._sessions, self._retained = {}, {}
        for line in lines:
            line.reset()

    def _take_in(self, message: Message) -> None:
        """Keep it if it is to be retained, and hand it to everybody who wants it."""
        self.observer(message.topic, message.payload)
        if message.retain:
            self._retained.pop(message.topic, None)
            if message.payload:
                self._retained[message.topic] = message
        for session in list(self._sessions.values()):
            wanted = [s for s in session.subscriptions.values() if matches(s.topics, message.topic)]
            if not wanted:
                continue
            if self._is_over(session):
                del self._sessions[session.client_id]
                continue
            qos = min(message.qos, max(s.qos for s in wanted))
            retain = message.retain and any(s.as_published for s in wanted)
            for _ in range(2 if self._happens(self.duplicates) else 1):
                self._queue(session, replace(message, qos=qos, retain=retain))
            if not session.holding and self._happens(self.reorders):
                self._hold(session)
            self._deliver_waiting(session)

    def _queue(self, session: _Session, message: Message) -> None:
        """Let it wait for its turn; what is QoS 0 waits for nobody who is away."""
        if (message.qos or session.line is not None) and len(session.waiting) < _QUEUED_MOST:
            session.waiting.append(replace(message, dup=False, mid=0))

    def _hold(self, session: _Session) -> None:
        session.holding = True
        self._agenda.after_ms(self._dice.randint(1, _REORDER_MOST_MS), lambda: self._shuffle(session))

    def _shuffle(self, session: _Session) -> None:
        waiting = list(session.waiting)
        self._dice.shuffle(waiting)
        session.waiting, session.holding = deque(waiting), False
        self._deliver_waiting(session)

    def _deliver_waiting(self, session: _Session) -> None:
        """Send what waits, as far as the client's window goes."""
        line = session.line
        if line is None or line.hello is None or session.holding:
            return
        window = min(line.hello.receive_most, _INFLIGHT_MOST)
        while session.waiting:
            message = session.waiting[0]
            if message.qos and len(session.unanswered) >= window:
                return
            session.waiting.popleft()
            if message.qos:
                session.last_mid = _free_mid(session)
                message = replace(message, mid=session.last_mid)
                session.unanswered[message.mid] = message
            line.deliver(message)

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._dice.random() < probability


def _free_mid(session: _Session) -> int:
    mid = session.last_mid % _LAST_MID + 1
    while mid in session.unanswered:
        mid = mid % _LAST_MID + 1
    return mid
