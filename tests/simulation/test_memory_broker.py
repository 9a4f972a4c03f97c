"""The broker in memory keeps the promises of a real one: the same stories, on mosquitto with paho, too."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import UplinkError
from edge.uplink.connection import (
    KEEPALIVE_S,
    SEND_MAXIMUM,
    Access,
    Connect,
    Connection,
    Inbound,
    Link,
    Secrets,
    Will,
)
from hal_mocks.agenda import Agenda
from hal_mocks.broker import HOST, Broker, why_not
from hal_mocks.in_process_link import link_maker
from hal_mocks.memory_broker import (
    NOT_AUTHORIZED,
    Client,
    Hello,
    MemoryBroker,
    Message,
    Subscription,
    matches,
)
from hal_mocks.virtual_time import VirtualTimeLoop
from tests.wire.broker import Line, line_to

PATIENCE_S = 10.0
STATUS, ACK, NOTE = "site/status", "site/ack", "site/note"
NOBODY_MAY = "forbidden/topic"
WILL = Will(STATUS, b"lost")
LOST = "The connection was lost."


class Stage(ABC):
    """A broker, and links to it that a story can break."""

    def __init__(self, connect: Connect) -> None:
        self.refusals: list[tuple[str, str]] = []
        self.where = ""  # the address of the link made last, as it stands in sentences
        self._connect = connect

    async def link(self, client_id: str, subscribe_to: str) -> Link:
        access = Access(HOST, await self._port_for(client_id), client_id)
        self.where = f"{access.host}:{access.port}"
        return self._connect(access, Secrets(access), WILL, subscribe_to, self._refused)

    @asynccontextmanager
    async def linked(self, client_id: str, subscribe_to: str) -> AsyncIterator[Link]:
        link = await self.link(client_id, subscribe_to)
        try:
            await link.open(PATIENCE_S)
            yield link
        finally:
            await link.close(publish_will=False, timeout_s=PATIENCE_S)

    def _refused(self, topic: str, why: str) -> None:
        self.refusals.append((topic, why))

    @abstractmethod
    async def _port_for(self, client_id: str) -> int:
        """Where this client is to dial."""

    @abstractmethod
    def cut(self) -> None:
        """Reset the station's line."""

    @abstractmethod
    def silence(self) -> None:
        """Let nothing come back to the station, nor to those who come later."""

    @abstractmethod
    async def vacate(self) -> None:
        """Let nobody listen any more."""

    @abstractmethod
    async def refuse(self) -> None:
        """Turn everybody away who connects from now on, as not authorised."""

    @abstractmethod
    def restart(self, *, forgetting: bool) -> None:
        """End the broker, cleanly or by a kill, and start it again."""


Story = Callable[[Stage], Coroutine[None, None, None]]
Play = Callable[[Story], None]


class MemoryStage(Stage):
    def __init__(self, agenda: Agenda) -> None:
        self.broker = MemoryBroker(agenda, random.Random(1))
        self.broker.denies = frozenset({NOBODY_MAY})
        super().__init__(link_maker(self.broker, agenda))

    async def _port_for(self, _client_id: str) -> int:
        return 1883

    def cut(self) -> None:
        self.broker.cut("station")

    def silence(self) -> None:
        self.broker.silent = True

    async def vacate(self) -> None:
        self.broker.kill()

    async def refuse(self) -> None:
        self.broker.refuses = NOT_AUTHORIZED

    def restart(self, *, forgetting: bool) -> None:
        if forgetting:
            self.broker.kill()
        else:
            self.broker.stop()
        self.broker.start()


# MQTT 5 CONNACK with reason code 0x87, not authorised.
_CONNACK_NOT_AUTHORIZED = b"\x20\x03\x00\x87\x00"


class RealStage(Stage):
    """The station has a TCP line of its own to mosquitto, others dial directly until silence falls."""

    def __init__(self, broker: Broker, exits: AsyncExitStack) -> None:
        super().__init__(Connection)
        self._broker = broker
        self._exits = exits
        self._lines: dict[str, Line] = {}
        self._silent = False
        self._elsewhere: int | None = None

    async def _port_for(self, client_id: str) -> int:
        if self._elsewhere is not None:
            return self._elsewhere
        if client_id != "station" and not self._silent:
            return self._broker.port
        if client_id not in self._lines:
            self._lines[client_id] = await self._exits.enter_async_context(line_to(self._broker.port))
            if self._silent:
                self._lines[client_id].answers.clear()
        return self._lines[client_id].port

    def cut(self) -> None:
        self._lines["station"].cut()

    def silence(self) -> None:
        self._silent = True
        self._lines["station"].answers.clear()

    async def vacate(self) -> None:
        self._broker.kill()
        self._elsewhere = self._broker.port

    async def refuse(self) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(_CONNACK_NOT_AUTHORIZED)
            await reader.read()
            writer.close()

        server = await self._exits.enter_async_context(await asyncio.start_server(answer, HOST, 0))
        self._elsewhere = server.sockets[0].getsockname()[1]

    def restart(self, *, forgetting: bool) -> None:
        if forgetting:
            self._broker.kill()
        else:
            self._broker.stop()
        self._broker.start()


def play_in_memory(story: Callable[[MemoryStage], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        await story(MemoryStage(agenda))

    agenda = Agenda()
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(agenda)) as runner:
        runner.run(main())


@pytest.fixture(params=["memory", pytest.param("mosquitto", marks=pytest.mark.wire)])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    def on_mosquitto(story: Story) -> None:
        broker = Broker(tmp_path / "broker", acl="topic readwrite site/#\n")
        broker.start()

        async def main() -> None:
            async with AsyncExitStack() as exits:
                await story(RealStage(broker, exits))
            if lines := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(lines, timeout=PATIENCE_S)

        try:
            asyncio.run(main())
        finally:
            broker.kill()

    if request.param == "memory":
        return play_in_memory
    if reason := why_not():
        pytest.skip(reason)
    return on_mosquitto


async def next_of(link: Link) -> Inbound:
    message = await unanswered_of(link)
    link.acknowledge(message)
    return message


async def unanswered_of(link: Link) -> Inbound:
    async with asyncio.timeout(PATIENCE_S):
        return await link.inbound.get()


async def said(link: Link, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await link.publish(topic, payload, qos=qos, retain=retain)


async def why_lost(link: Link) -> str:
    with pytest.raises(UplinkError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            await link.lost()
    return str(caught.value)


async def why_not_open(link: Link, timeout_s: float = PATIENCE_S) -> str:
    with pytest.raises(UplinkError) as caught:
        await link.open(timeout_s)
    await link.close(publish_will=True, timeout_s=PATIENCE_S)
    return str(caught.value)


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_published_is_acknowledged_and_reaches_who_wants_it(play: Play, qos: int) -> None:
    async def story(stage: Stage) -> None:
        async with (
            stage.linked("witness", "site/+/state") as witness,
            stage.linked("station", ACK) as station,
        ):
            await said(station, NOTE, b"not of interest", qos=qos)
            for number in range(30):  # more than the window
                await said(station, f"site/{number}/state", b"%d" % number, qos=qos)
            for number in range(30):
                message = await next_of(witness)
                assert (message.topic, message.payload) == (f"site/{number}/state", b"%d" % number)
                assert (message.qos, message.retained) == (qos, False)

    play(story)


def test_what_is_retained_comes_to_who_comes_later_and_keeps_its_mark(play: Play) -> None:
    async def story(stage: Stage) -> None:
        async with stage.linked("early", "site/#") as early:
            await said(early, STATUS, b"first", retain=True)
            await said(early, STATUS, b"online", retain=True)
            await said(early, NOTE, b"gone", retain=True)
            await said(early, NOTE, b"", retain=True)  # takes it back
            seen = [await next_of(early) for _ in range(4)]
            assert [(m.payload, m.retained) for m in seen[:2]] == [(b"first", True), (b"online", True)]
            async with stage.linked("late", "site/#") as late:
                await said(early, NOTE, b"live")
                first, second = await next_of(late), await next_of(late)
                assert (first.topic, first.payload, first.retained) == (STATUS, b"online", True)
                assert (second.payload, second.retained) == (b"live", False)

    play(story)


def test_the_will_of_a_cut_line_is_said_and_retained_and_the_loss_is_told(play: Play) -> None:
    async def story(stage: Stage) -> None:
        async with stage.linked("witness", "site/#") as witness:
            async with stage.linked("station", ACK) as station:
                where = stage.where
                stage.cut()
                assert await why_lost(station) == f"the connection to the broker {where} ended: {LOST}"
                assert not station.is_up
                message = await next_of(witness)
                assert (message.topic, message.payload, message.retained) == (STATUS, b"lost", True)
            async with stage.linked("late", STATUS) as late:
                assert (await next_of(late)).payload == b"lost"

    play(story)


@pytest.mark.parametrize("publish_will", [False, True])
def test_who_leaves_chooses_whether_the_will_is_said(play: Play, publish_will: bool) -> None:
    async def story(stage: Stage) -> None:
        async with stage.linked("witness", "site/#") as witness:
            station = await stage.link("station", ACK)
            await station.open(PATIENCE_S)
            await station.last_word(STATUS, b"offline", PATIENCE_S)
            await station.close(publish_will=publish_will, timeout_s=PATIENCE_S)
            assert not station.is_up
            assert (await next_of(witness)).payload == b"offline"
            if publish_will:
                assert (await next_of(witness)).payload == b"lost"
            await said(witness, NOTE, b"end of story")
            assert (await next_of(witness)).payload == b"end of story"

    play(story)


def test_what_was_not_acknowledged_comes_again_on_the_next_connection_and_first(play: Play) -> None:
    async def story(stage: Stage) -> None:
        async with stage.linked("witness", NOTE) as witness:
            async with stage.linked("station", ACK) as station:
                await said(witness, ACK, b"one")
                await said(witness, ACK, b"two")
                one, two = await unanswered_of(station), await unanswered_of(station)
                assert (one.payload, two.payload) == (b"one", b"two")
                station.acknowledge(two)
                await said(station, NOTE, b"behind the acknowledgement")
                stage.cut()
                await why_lost(station)
            await said(witness, ACK, b"three")
            async with stage.linked("station", ACK) as station:
                again = await next_of(station)
                assert (again.payload, again.mid) == (b"one", one.mid)
                assert (await next_of(station)).payload == b"three"
                await said(witness, ACK, b"end of story")
                assert (await next_of(station)).payload == b"end of story"

    play(story)


def test_what_came_while_the_station_was_away_waits_for_it_unless_it_is_qos_0(play: Play) -> None:
    async def story(stage: Stage) -> None:
        async with stage.linked("station", ACK):
            pass
        async with stage.linked("witness", NOTE) as witness:
            await said(witness, ACK, b"one")
            await said(witness, ACK, b"nobody was promised this", qos=0)
            await said(witness, ACK, b"two")
            async with stage.linked("station", ACK) as station:
                assert [(await next_of(station)).payload for _ in range(2)] == [b"one", b"two"]

    play(story)


@pytest.mark.parametrize("forgetting", [False, True])
def test_a_broker_that_stops_keeps_everything_and_one_that_is_killed_forgets(
    play: Play, forgetting: bool
) -> None:
    async def story(stage: Stage) -> None:
        async with stage.linked("station", ACK):
            pass
        async with stage.linked("witness", NOTE) as witness:
            await said(witness, ACK, b"one")
            await said(witness, "site/kept", b"kept", retain=True)
            stage.restart(forgetting=forgetting)
            ends = (LOST,) if forgetting else (LOST, "Server shutting down")  # mosquitto 2.0.11 says nothing
            assert (await why_lost(witness)).endswith(ends)
        async with (
            stage.linked("station", ACK) as station,
            stage.linked("reader", "site/#") as reader,
        ):
            await said(reader, ACK, b"end of story")
            expected = [] if forgetting else [b"one"]
            assert [(await next_of(station)).payload for _ in [*expected, 0]] == [*expected, b"end of story"]
            retained = [] if forgetting else [b"lost", b"kept"]  # the witness' will was said at the stop
            seen = [(await next_of(reader)).payload for _ in [*retained, 0]]
            assert sorted(seen[:-1]) == sorted(retained)
            assert seen[-1] == b"end of story"

    play(story)


def test_a_second_connection_of_the_same_name_takes_the_session_over(play: Play) -> None:
    async def story(stage: Stage) -> None:
        async with (
            stage.linked("witness", "site/#") as witness,
            stage.linked("twin", ACK) as first,
            stage.linked("twin", ACK) as second,
        ):
            assert (await why_lost(first)).endswith((LOST, "Session taken over"))  # the same
            await said(witness, ACK, b"for the second")
            assert (await next_of(second)).payload == b"for the second"
            assert (await next_of(witness)).payload == b"for the second"  # and no will before it

    play(story)


def test_a_publish_that_is_not_allowed_is_told_and_done_with(play: Play) -> None:
    async def story(stage: Stage) -> None:
        async with stage.linked("station", ACK) as station:
            await said(station, NOBODY_MAY, b"hush")
            assert stage.refusals == [(NOBODY_MAY, NOT_AUTHORIZED)]
            await said(station, NOTE, b"the line still stands")

    play(story)


def test_why_a_connection_cannot_be_opened_is_told(play: Play) -> None:
    async def story(stage: Stage) -> None:
        async with stage.linked("station", ACK):
            stage.silence()
            late = await stage.link("late", ACK)
            assert await why_not_open(late, 0.2) == f"the broker {stage.where} does not answer within 0.2 s"
        await stage.refuse()
        refused = await stage.link("refused", ACK)
        if isinstance(stage, MemoryStage):
            stage.broker.silent = False
        assert await why_not_open(refused) == (
            f"the connection to the broker {stage.where} ended: it refused us: Not authorized"
        )
        await stage.vacate()
        nowhere = await stage.link("nowhere", ACK)
        assert await why_not_open(nowhere) == (
            f"no connection to the broker {stage.where}: [Errno 111] Connection refused"
        )

    play(story)


def test_a_publish_on_a_line_that_breaks_is_never_done(play: Play) -> None:
    async def story(stage: Stage) -> None:
        async with stage.linked("station", ACK) as station:
            stage.silence()
            done = station.publish(NOTE, b"in doubt", qos=1, retain=False)
            stage.cut()
            await why_lost(station)
            await asyncio.sleep(0)
            assert not done.done()

    play(story)


# In memory only: what takes a minute of waiting, or a broker that does not keep its promises.


def test_a_window_of_messages_is_under_way_and_the_rest_waits_for_its_turn() -> None:
    async def story(stage: MemoryStage) -> None:
        heard: list[bytes] = []
        stage.broker.observer = lambda _topic, payload: heard.append(payload)
        async with stage.linked("station", ACK) as station:
            stage.silence()
            copies = [station.publish(NOTE, b"%d" % n, qos=1, retain=False) for n in range(15)]
            copies += [station.publish(NOTE, b"at once", qos=0, retain=False)]
            await asyncio.sleep(5)
            assert heard == [b"%d" % n for n in range(SEND_MAXIMUM)] + [b"at once"]
            assert [copy.done() for copy in copies] == [False] * 15 + [True]
            stage.broker.silent = False
            await asyncio.wait(copies)
            assert len(heard) == 16

    play_in_memory(story)


def test_a_silent_broker_is_given_up_after_a_keepalive_and_an_unanswered_ping() -> None:
    async def story(stage: MemoryStage) -> None:
        loop = asyncio.get_running_loop()
        async with stage.linked("station", ACK) as station:
            await asyncio.sleep(1000)
            assert station.is_up
            stage.silence()
            since_s = loop.time()
            with pytest.raises(UplinkError, match=LOST):
                await station.lost()
            assert KEEPALIVE_S < loop.time() - since_s <= 2 * KEEPALIVE_S
            await asyncio.sleep(1)
            assert not stage.broker.connected("station")

    play_in_memory(story)


def test_a_client_that_vanishes_is_missed_after_one_and_a_half_keepalives() -> None:
    async def story(stage: MemoryStage) -> None:
        loop = asyncio.get_running_loop()
        async with stage.linked("witness", STATUS) as witness, stage.linked("station", ACK):
            stage.broker.vanish("station")
            since_s = loop.time()
            assert (await witness.inbound.get()).payload == b"lost"
            assert loop.time() - since_s == pytest.approx(1.5 * KEEPALIVE_S, abs=0.1)

    play_in_memory(story)


def test_every_packet_is_as_late_as_the_latency_says_and_none_overtakes_another() -> None:
    async def story(stage: MemoryStage) -> None:
        loop = asyncio.get_running_loop()
        stage.broker.latency_ms = 400
        async with stage.linked("station", NOTE) as station:
            assert loop.time() == pytest.approx(4 * 0.4)  # CONNECT, CONNACK, SUBSCRIBE, SUBACK
            first = station.publish(NOTE, b"slow", qos=1, retain=False)
            stage.broker.latency_ms = 0
            second = station.publish(NOTE, b"fast", qos=1, retain=False)
            await asyncio.wait((first, second))
            assert loop.time() == pytest.approx(5 * 0.4)
            assert [(await next_of(station)).payload for _ in range(2)] == [b"slow", b"fast"]

    play_in_memory(story)


def test_a_bad_broker_doubles_reorders_and_loses_as_its_dice_fall() -> None:
    async def story(stage: MemoryStage) -> None:
        async with stage.linked("station", NOTE) as station:

            async def arrived(count: int) -> list[bytes]:
                for number in range(20):
                    await said(station, NOTE, b"%02d" % number)
                return [(await next_of(station)).payload for _ in range(count)]

            orderly = [b"%02d" % number for number in range(20)]
            assert await arrived(20) == orderly
            stage.broker.duplicates = 1.0
            assert await arrived(40) == sorted(2 * orderly)
            stage.broker.duplicates, stage.broker.reorders = 0.0, 0.3
            shuffled = await arrived(20)
            assert shuffled != orderly
            assert sorted(shuffled) == orderly
            stage.broker.reorders, stage.broker.loses_acknowledged = 0.0, 1.0
            assert await arrived(0) == []
            stage.broker.loses_acknowledged = 0.0
            assert await arrived(20) == orderly

    play_in_memory(story)


def test_a_session_ends_when_its_client_stays_away_longer_than_it_said() -> None:
    async def story(stage: MemoryStage) -> None:
        week_s = 7 * 24 * 3600
        async with stage.linked("witness", NOTE) as witness:
            for away_s, arrives in ((week_s - 60, True), (week_s + 60, False)):
                async with stage.linked("station", ACK):
                    pass
                await said(witness, ACK, b"waits")
                await asyncio.sleep(away_s)
                async with stage.linked("station", ACK) as station:
                    await said(witness, ACK, b"end of story")
                    expected = [b"waits"] * arrives + [b"end of story"]
                    assert [(await next_of(station)).payload for _ in expected] == expected

    play_in_memory(story)


def test_the_line_of_a_daemon_that_is_gone_can_be_cut() -> None:
    agenda = Agenda()
    said_last: list[bytes] = []

    async def daemon() -> MemoryStage:
        stage = MemoryStage(agenda)
        stage.broker.observer = lambda _topic, payload: said_last.append(payload)
        station = await stage.link("station", ACK)
        await station.open(PATIENCE_S)
        station.publish(NOTE, b"under way", qos=1, retain=False)
        return stage

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(agenda)) as runner:
        broker = runner.run(daemon()).broker
    broker.cut("station")
    agenda.pass_to(agenda.now_us + 200_000_000)
    assert said_last == [b"lost"]


@pytest.mark.parametrize(
    ("topics", "topic", "wanted"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+/c", "a/b/c", True),
        ("+/+", "/b", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$SYS/broker", False),
        ("+/broker", "$SYS/broker", False),
        ("$SYS/#", "$SYS/broker", True),
        ("a/b/+", "a/b", False),
    ],
)
def test_a_filter_names_the_topics_the_standard_says(topics: str, topic: str, wanted: bool) -> None:
    assert matches(topics, topic) is wanted


class Person:
    """A client that comes back by itself and keeps what it heard and what it was told is safe."""

    def __init__(self, agenda: Agenda, broker: MemoryBroker, name: str, topics: str) -> None:
        self.heard: list[bytes] = []
        self.safe: list[bytes] = []
        self._agenda, self._broker = agenda, broker
        self._topics = topics
        self._hello = Hello(name, keepalive_s=10, expiry_s=10**6)
        self._by_mid: dict[int, bytes] = {}
        self._dial()

    def say(self, payload: bytes) -> None:
        self._by_mid[self._client.publish("all/ears", payload, qos=1, retain=False)] = payload

    def not_there(self) -> None:
        pass

    def connected(self) -> None:
        self._client.subscribe([Subscription(self._topics)])

    def subscribed(self) -> None:
        pass

    def published(self, mid: int, _refusal: str | None) -> None:
        self.safe.append(self._by_mid[mid])

    def received(self, message: Message) -> None:
        self.heard.append(message.payload)
        self._client.acknowledge(message.mid)

    def ended(self, _why: str) -> None:
        self._agenda.after_ms(1000, self._dial)

    def _dial(self) -> None:
        self._client = Client(self._agenda, self._broker, self._hello, self)
        self._client.open()


_happenings = st.lists(
    st.sampled_from(
        ["say", "say", "say", "cut ann", "cut bob", "vanish bob", "stop", "start", "silent", "heard"]
    )
    | st.integers(0, 3000),
    max_size=40,
)


@given(_happenings, st.integers(0, 50), st.integers(0, 2**32))
def test_what_was_acknowledged_arrives_at_least_once_whatever_the_lines_do(
    happenings: list[str | int], latency_ms: int, seed: int
) -> None:
    agenda = Agenda()
    broker = MemoryBroker(agenda, random.Random(seed))
    broker.latency_ms, broker.duplicates, broker.reorders = latency_ms, 0.1, 0.1
    ann, bob = Person(agenda, broker, "ann", "none"), Person(agenda, broker, "bob", "all/+")
    agenda.pass_to(1_000_000)  # bob has subscribed
    for number, happening in enumerate(happenings):
        match happening:
            case int():
                agenda.pass_to(agenda.now_us + 1000 * happening)
            case "say":
                ann.say(b"%d" % number)
            case "stop":
                broker.stop()
            case "start":
                broker.start()
            case "silent" | "heard":
                broker.silent = happening == "silent"
            case _:
                deed, _, name = happening.partition(" ")
                (broker.cut if deed == "cut" else broker.vanish)(name)
    broker.start()
    broker.silent = False
    agenda.pass_to(agenda.now_us + 100_000_000)
    assert set(ann.safe) <= set(bob.heard)


@given(st.lists(st.booleans(), max_size=60))
def test_on_good_lines_everything_arrives_once_and_in_order(waits: list[bool]) -> None:
    agenda = Agenda()
    broker = MemoryBroker(agenda, random.Random(0))
    ann, bob = Person(agenda, broker, "ann", "none"), Person(agenda, broker, "bob", "#")
    agenda.pass_to(1_000_000)  # bob has subscribed
    for number, wait in enumerate(waits):
        ann.say(b"%d" % number)
        agenda.pass_to(agenda.now_us + 10_000 * wait)
    agenda.pass_to(agenda.now_us + 100_000_000)
    assert bob.heard == ann.safe == [b"%d" % number for number in range(len(waits))]
