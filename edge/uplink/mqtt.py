"""The hand that talks to the operator over MQTT: shows what is, sends claims until they are answered.

The broker's PUBACK proves nothing about the backend, so a closed claim is sent again and again until the
backend's own `ack` names its id and hash. The answer is committed in the journal before its PUBACK; if the
commit fails the connection is given up and the broker delivers the answer again on the next one.

Announcements wait in a ring in memory and are lost with the process; durable events are not built yet.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from random import SystemRandom

from msgspec import Struct
from msgspec.structs import replace

from edge.errors import JournalError, UplinkError
from edge.events import ClaimAnswered, UplinkChanged
from edge.ports import NowMs, Outbox, Put
from edge.records import Claim
from edge.uplink import schema
from edge.uplink.connection import Access, Connect, Connection, Inbound, Link, Secrets, Will
from edge.uplink.waiting import Announcements, Tries, Uniform

_LOG = logging.getLogger(__name__)

WallMs = Callable[[], int]
"""Milliseconds of Unix time, for what people read."""

# The system's randomness: a fleet must not share a seed.
SPREAD = SystemRandom().uniform
# 2**16 s is beyond any longest wait; keeps the doubling of the back-off from growing without end.
_MAX_DOUBLINGS = 16
# Claims read from the journal at once: one page of the drain.
_PAGE = 50


class UplinkSettings(Struct, frozen=True):
    """Where to report as whom, and how patiently. The defaults are for production; rigs shorten them."""

    access: Access
    station: str
    prefix: str = "edge"
    reconnect_first_s: float = 1.0  # upper bound of the first random wait; doubles with every failure
    reconnect_longest_s: float = 60.0
    answer_timeout_s: float = 20.0  # for CONNACK and SUBACK, with DNS, TCP and TLS before them
    farewell_s: float = 2.0  # what a clean stop may take
    resend_first_s: float = 30.0  # until a claim without an answer is sent again; doubles
    resend_longest_s: float = 900.0
    claim_window: int = 50  # claims sent and not answered yet
    meter_interval_s: float = 5.0
    complaint_interval_s: float = 60.0  # at most one notice of a kind about bad messages in this time


class MqttUplink:
    """One broker, one station. All methods are for the event loop's thread."""

    def __init__(
        self,
        settings: UplinkSettings,
        birth: schema.Birth,
        outbox: Outbox,
        now_ms: NowMs,
        wall_ms: WallMs,
        uniform: Uniform = SPREAD,
        connect: Connect = Connection,
    ) -> None:
        """Raise `ConfigError` if names, password file or TLS files cannot be used."""
        self._settings = settings
        self._secrets = Secrets(settings.access)
        self._topics = schema.Topics(settings.prefix, settings.station)
        self._birth = birth
        self._outbox = outbox
        self._now_ms = now_ms
        self._wall_ms = wall_ms
        self._uniform = uniform
        self._connect = connect
        self._online_ms: int | None = None  # since when, on the present connection
        self._outage_told = False
        self._complaints: dict[str, tuple[int, int]] = {}  # by topic: when told last, how many untold since
        self._connectors: dict[int, schema.ConnectorState] = {}
        self._changed: dict[int, None] = {}  # numbers of connectors to publish, in order
        self._connector_wake = asyncio.Event()
        self._meters: dict[
            int, tuple[int, schema.ConnectorMeter]
        ] = {}  # newest unsent, and when it was shown
        self._announcements = Announcements()
        self._announcement_wake = asyncio.Event()
        self._tries = self._new_tries()
        self._rescan = False
        self._claim_wake = asyncio.Event()

    async def run(self, put: Put) -> None:
        """Keep a connection until cancelled, then say goodbye.

        Puts `UplinkChanged` when the session is up or lost, `ClaimAnswered` once an answer is committed.
        """
        failures = 0
        while True:
            lasted_s = await self._one_connection(put)
            # Only a connection that held shows that trying soon again does no harm.
            failures = 1 if lasted_s > self._settings.reconnect_longest_s else failures + 1
            await asyncio.sleep(self._pause_s(failures))

    def claim_waiting(self) -> None:
        """The journal has a new closed claim."""
        self._rescan = True
        self._claim_wake.set()

    def show_connector(self, state: schema.ConnectorState) -> None:
        """Publish a connector's state if it changed; the newest wins."""
        if self._connectors.get(state.connector) == state:
            return
        self._connectors[state.connector] = state
        self._changed[state.connector] = None
        self._connector_wake.set()

    def show_meter(self, meter: schema.ConnectorMeter) -> None:
        """Publish a reading when its turn comes; the newest wins."""
        self._meters[meter.connector] = (self._now_ms(), meter)

    def announce(self, topic: str, text: str, connector: int | None = None) -> None:
        """Publish a sentence for people, or keep it while offline; the newest 1000 win."""
        self._announcements.add(
            schema.Announcement(
                topic=topic, text=text, connector=connector, unix_ms=self._wall_ms(), dropped=0
            )
        )
        self._announcement_wake.set()

    # The life of one connection.

    async def _one_connection(self, put: Put) -> float:
        """One connection from its number to its end; for how many seconds it was online."""
        try:
            number = await self._outbox.next_connection()
            await self._keep(self._connection(number), number, put)
        except* (UplinkError, JournalError) as group:
            self._tell_outage(_first(group))
        return self._went_offline(put)

    def _went_offline(self, put: Put) -> float:
        if self._online_ms is None:
            return 0.0
        now_ms = self._now_ms()
        lasted_ms = now_ms - self._online_ms
        self._online_ms = None
        put(UplinkChanged(now_ms, online=False))
        return lasted_ms / 1000

    async def _keep(self, connection: Link, number: int, put: Put) -> None:
        """Open, use and close. Raises `UplinkError`, `JournalError` or a group of them at the end."""
        clean = False
        try:
            await connection.open(self._settings.answer_timeout_s)
            await self._converse(connection, number, put)
        except asyncio.CancelledError:
            clean = True
            offline = self._status(schema.StationState.OFFLINE, number)
            await connection.last_word(self._topics.status, offline, self._settings.farewell_s)
            raise
        finally:
            await connection.close(publish_will=not clean, timeout_s=self._settings.farewell_s)

    def _connection(self, number: int) -> Link:
        will = schema.Status(state=schema.StationState.LOST, connection=number, since_unix_ms=None)
        return self._connect(
            self._settings.access,
            self._secrets,
            Will(self._topics.status, schema.encode(will)),
            self._topics.ack,
            lambda topic, reason: self._complain("publish_refused", f"the broker refused {topic}: {reason}"),
        )

    async def _converse(self, connection: Link, number: int, put: Put) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.lost())
            self._tries = self._new_tries()
            tasks.create_task(self._receive(connection, put))
            await self._introduce(connection, number)
            self._online_ms = self._now_ms()
            self._outage_told = False
            put(UplinkChanged(self._online_ms, online=True))
            tasks.create_task(self._send_connectors(connection))
            tasks.create_task(self._send_meters(connection))
            tasks.create_task(self._send_announcements(connection))
            tasks.create_task(self._send_claims(connection))

    async def _introduce(self, connection: Link, number: int) -> None:
        """Refresh everything retained, `online` last: who sees it may trust the rest."""
        await connection.publish(self._topics.birth, schema.encode(self._birth), qos=1, retain=True)
        self._changed = dict.fromkeys(self._connectors)
        await self._publish_changed(connection)
        online = self._status(schema.StationState.ONLINE, number)
        await connection.publish(self._topics.status, online, qos=1, retain=True)

    def _status(self, state: schema.StationState, number: int) -> bytes:
        return schema.encode(schema.Status(state=state, connection=number, since_unix_ms=self._wall_ms()))

    def _pause_s(self, failures: int) -> float:
        """Exponential back-off with full jitter, so that a fleet does not come back as one."""
        bound = self._settings.reconnect_first_s * 2 ** min(failures - 1, _MAX_DOUBLINGS)
        return self._uniform(0.0, min(bound, self._settings.reconnect_longest_s))

    # What goes out, each kind in its own task, so that none waits behind another.

    async def _send_connectors(self, connection: Link) -> None:
        while True:
            await self._publish_changed(connection)
            await self._connector_wake.wait()
            self._connector_wake.clear()

    async def _publish_changed(self, connection: Link) -> None:
        """One at a time, awaiting each PUBACK: on a slow line the states in between are skipped."""
        while self._changed:
            number = next(iter(self._changed))
            del self._changed[number]
            state = schema.encode(self._connectors[number])
            await connection.publish(self._topics.connector_state(number), state, qos=1, retain=True)

    async def _send_meters(self, connection: Link) -> None:
        while True:
            shown, self._meters = self._meters, {}
            for number, (shown_ms, meter) in shown.items():
                aged = replace(meter, age_ms=meter.age_ms + self._now_ms() - shown_ms)
                connection.publish(
                    self._topics.connector_meter(number), schema.encode(aged), qos=0, retain=False
                )
            await asyncio.sleep(self._settings.meter_interval_s)

    async def _send_announcements(self, connection: Link) -> None:
        """One at a time: a long ring never stands in front of a claim."""
        while True:
            oldest = self._announcements.take()
            if oldest is None:
                await self._announcement_wake.wait()
                self._announcement_wake.clear()
                continue
            try:
                await connection.publish(self._topics.event, schema.encode(oldest), qos=1, retain=False)
            except asyncio.CancelledError:
                self._announcements.put_back(oldest)  # perhaps it arrived: at least once
                raise

    async def _send_claims(self, connection: Link) -> None:
        """Send every pending claim, oldest first, then each again until it is answered."""
        copies: dict[int, asyncio.Future[None]] = {}  # by seq: the last copy, until its PUBACK
        fresh: deque[Claim] = deque()
        after_seq = 0
        while True:
            self._claim_wake.clear()
            if self._rescan:  # claims close in another order than they open: the new one may be anywhere
                self._rescan, after_seq = False, 0
                fresh.clear()
            if self._tries.in_flight(self._now_ms()) >= self._settings.claim_window:
                await self._wait_for_claims()
                continue
            if not fresh and (page := await self._outbox.pending(after_seq, _PAGE)):
                after_seq = page[-1].seq
                fresh.extend(claim for claim in page if claim.seq not in self._tries)
                continue
            claim = fresh.popleft() if fresh else await self._overdue()
            if claim is None:
                await self._wait_for_claims()
                continue
            self._tries.sent(claim.seq, self._now_ms())
            copy = copies.get(claim.seq)
            if copy is None or copy.done():  # else the last copy still waits in our own queue
                self._publish_claim(connection, claim, copies)

    async def _overdue(self) -> Claim | None:
        """The claim whose next copy is due; those that no longer wait in the journal are forgotten."""
        while (seq := self._tries.due(self._now_ms())) is not None:
            claim = await self._waiting_claim(seq)
            if claim is not None:
                return claim
            self._tries.answered(seq)
        return None

    async def _wait_for_claims(self) -> None:
        """Until a claim closed or was answered, or the next copy is due."""
        now_ms = self._now_ms()
        due_ms = self._tries.next_due_ms(now_ms)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if due_ms is None else (due_ms - now_ms) / 1000):
                await self._claim_wake.wait()

    def _publish_claim(self, connection: Link, claim: Claim, copies: dict[int, asyncio.Future[None]]) -> None:
        try:
            message = schema.encode(schema.claim_message(claim))
        except UplinkError as error:
            self._complain("claim_unsendable", str(error))
            return
        copy = connection.publish(self._topics.claim, message, qos=1, retain=False)
        copies[claim.seq] = copy
        copy.add_done_callback(lambda _: copies.pop(claim.seq, None))

    async def _waiting_claim(self, seq: int) -> Claim | None:
        page = await self._outbox.pending(seq - 1, 1)
        return page[0] if page and page[0].seq == seq else None

    def _new_tries(self) -> Tries:
        first_s, longest_s = self._settings.resend_first_s, self._settings.resend_longest_s
        return Tries(round(first_s * 1000), round(longest_s * 1000), self._uniform)

    # What comes in.

    async def _receive(self, connection: Link, put: Put) -> None:
        while True:
            message = await connection.inbound.get()
            try:
                await self._take(message, put)
            except UplinkError as error:
                self._complain("invalid_message", str(error))
            connection.acknowledge(message)  # not reached when the journal failed: it comes again

    async def _take(self, message: Inbound, put: Put) -> None:
        """Do what a message asks. Raises `UplinkError` if it is against the contract, or `JournalError`."""
        if message.retained:
            raise UplinkError(f"a retained message on {message.topic} was ignored: it may be of any age")
        if message.topic != self._topics.ack:
            raise UplinkError(f"a message on {message.topic[:100]!r} was ignored: nothing is expected")
        ack = schema.parse_ack(message.payload)
        claim = await self._claim_of(ack.claim_id)
        if claim is None:
            return  # answered before, or never ours: nothing depends on it
        if schema.claim_message(claim).hash != ack.hash:
            raise UplinkError(f"an ack for claim {claim.id} was ignored: its hash is of another content")
        state = schema.settled_as(ack.verdict)
        detail = f"{ack.verdict}: {ack.detail}" if ack.detail else str(ack.verdict)
        if await self._outbox.settle(claim.id, state, detail):
            put(ClaimAnswered(self._now_ms(), claim.id, state))
        self._tries.answered(claim.seq)
        self._claim_wake.set()

    async def _claim_of(self, claim_id: str) -> Claim | None:
        """The waiting claim of that id, found by the seq in which the id ends (`records.Claim.id`)."""
        seq = claim_id.rpartition("-")[2]
        # 18 digits: what SQLite can hold.
        if not (seq.isascii() and seq.isdigit() and len(seq) <= 18):
            return None
        claim = await self._waiting_claim(int(seq))
        return claim if claim is not None and claim.id == claim_id else None

    # What people must know.

    def _tell_outage(self, reason: str) -> None:
        """Once per outage, not per try."""
        if not self._outage_told:
            self._outage_told = True
            self._tell("uplink_lost", reason)

    def _complain(self, topic: str, text: str) -> None:
        """Tell, but not more often than a person can read, whatever a hostile peer sends."""
        now_ms = self._now_ms()
        told_ms, untold = self._complaints.get(topic, (None, 0))
        if told_ms is not None and now_ms - told_ms < 1000 * self._settings.complaint_interval_s:
            self._complaints[topic] = (told_ms, untold + 1)
            return
        self._complaints[topic] = (now_ms, 0)
        self._tell(topic, f"{text} ({untold} more since the last notice)" if untold else text)

    def _tell(self, topic: str, text: str) -> None:
        _LOG.warning("%s: %s", topic, text)
        self.announce(topic, text)


def _first(group: BaseExceptionGroup[UplinkError | JournalError]) -> str:
    """The sentence of the first error in a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
