"""Every fault of the simulation's menu is really raised: somebody sees it, and afterwards all is well.

On a quiet day nobody sees any of them. What sees a fault is the controller (a fault by its name, a line in
its log) where it should notice, else the other end: the wire, the board, the broker's and the backend's
count.
At the end everything is healed, the cars leave, and every promise holds, the money above all.

Not on the menu, as nothing could show them: over-temperature and an opened housing. SimpleEVSE's registers
have no place for them, and the controller has no input of another kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.simulation.story import Story, story

CHARGING = ("plug 1", "after 4s swipe alice", "after 15s")
"""How every story begins, unless it says so: alice charges at connector 1, bob is away."""

PAID = ("unplug 1", "after 15s")


@dataclass(frozen=True)
class Fault:
    """An entry of the menu: how it comes about, and what shows that it did."""

    name: str
    told: tuple[str, ...]
    seen: Callable[[Story], object]
    begins: tuple[str, ...] = CHARGING


def raises(name: str) -> Callable[[Story], bool]:
    """The controller raises a fault by that name."""
    return lambda told: told.fault(name)


def logs(topic: str, *texts: str) -> Callable[[Story], bool]:
    """The controller logs that."""
    return lambda told: told.heard(topic, *texts)


def died(how: str) -> Callable[[Story], bool]:
    """The daemon died of that."""
    return lambda told: how in [text for _, text in told.station.deaths]


def states(told: Story) -> list[str]:
    """The states of all claims."""
    return [claim["state"] for claim in told.claims]


def copies(told: Story) -> int:
    """How often the backend heard of the claim it heard of most."""
    return max((tally.copies for tally in told.station.books.tally.values()), default=0)


def contactor_changes(told: Story) -> int:
    """How often the contactor of connector 1 opened or closed, as far as somebody looked."""
    return sum(line.endswith((" connector 1 open", " connector 1 closed")) for line in told.promises.trace)


def flutters(told: Story) -> bool:
    """The relay changes again and again in the seconds that follow."""
    seen = []
    for _ in range(300):
        told.tell("after 10ms")
        seen.append(told.station.world.evses[1].relay_closed)
    return sum(before != after for before, after in pairwise(seen)) > 2


def register_lags(told: Story) -> bool:
    """The station shows a register far behind the true one."""
    true_wh = told.station.world.meters["connector-1"].register_nj / 3.6e12
    return bool(told.shown()["register_wh"] < true_wh - 50)


def hides_its_relay(told: Story) -> bool:
    """The board's status says open while its relay is closed."""
    board = told.station.world.evses[1]
    return board.relay_closed and not board._status() & 1


def in_disorder(told: Story) -> bool:
    """The backend was told things in another order than the broker was."""
    return [body for _, body in told.taken] != told.said[: len(told.taken)]


def deaf(told: Story) -> int:
    """How many messages the broker acknowledged and forgot."""
    return told.promised - len(told.said)


def shows_a_car_that_left(told: Story) -> bool:
    """The station sees a car where none is."""
    return 1 not in told.station.world.vehicles and told.shown()["pilot"] != "A"


def sleeps(told: Story) -> bool:
    """The car does not ask although it is offered current."""
    car = told.station.world.vehicles.get(1)
    return car is not None and car.pilot == "B" and told.shown()["offered_ma"] > 0


def lasted_ms(told: Story) -> int:
    """How long the first session was by the wall clock."""
    claim = told.claims[0]
    return int((claim["closed_unix_ms"] or claim["opened_unix_ms"]) - claim["opened_unix_ms"])


def verdicts(told: Story) -> list[str]:
    """What the backend said of claims."""
    return [ack["verdict"] for ack in told.acks]


def ms_between(told: Story, earlier: str, later: str) -> int:
    """From the first log line of one topic to the first of another."""
    times: dict[str, int] = {}
    for line in told.promises.trace:
        at_ms, _, text = line.partition(" ")
        topic = text.removeprefix("log ").split(" ")[0].removeprefix("topic=")
        times.setdefault(topic, int(at_ms) if at_ms.isdigit() else 0)
    return times.get(later, 0) - times.get(earlier, 0)


METERS = (
    Fault("silent", ("meter connector-1 silent", "after 15s"), raises("meter_silent")),
    Fault("silent at the supply", ("meter site silent", "after 15s"), raises("circuit_meter_silent")),
    Fault("dark", ("meter connector-1 dark", "after 15s"), raises("meter_silent")),
    Fault(
        "refusing", ("meter connector-1 exception", "after 15s"), lambda told: told.wires["meters"].refusals
    ),
    Fault("frozen", ("meter connector-1 frozen", "after 60s"), register_lags),
    Fault("garbled", ("meter connector-1 garbled", "after 15s"), lambda told: told.wires["meters"].broken),
    Fault("split bytes", ("meter connector-1 split", "after 15s"), lambda told: told.wires["meters"].broken),
    Fault(
        "delayed",
        ("meter connector-1 slow 400ms", "after 15s"),
        lambda told: told.wires["meters"].longest_ms >= 400,
    ),
    Fault("backwards", ("meter connector-1 backwards 5kWh", "after 15s"), raises("meter_backwards")),
    Fault("jumping", ("meter connector-1 jumps 5kWh", "after 15s"), raises("meter_jump")),
    Fault("restarted", ("meter connector-1 restarted", "after 15s"), raises("meter_backwards")),
    Fault("swapped", ("meter connector-1 swapped-with connector-2", "after 15s"), raises("meter_jump")),
)

BOARDS = (
    Fault("silent", ("evse 1 silent", "after 15s"), raises("evse_silent")),
    Fault("dark", ("evse 1 dark", "after 15s"), raises("evse_silent")),
    Fault("refusing", ("evse 1 exception", "after 15s"), lambda told: told.wires["evse"].refusals),
    Fault("frozen", ("evse 1 frozen", "unplug 1", "after 10s"), shows_a_car_that_left),
    Fault("garbled", ("evse 1 garbled", "after 15s"), lambda told: told.wires["evse"].broken),
    Fault("split bytes", ("evse 1 split", "after 15s"), lambda told: told.wires["evse"].broken),
    Fault("delayed", ("evse 1 slow 400ms", "after 15s"), lambda told: told.wires["evse"].longest_ms >= 400),
    Fault(
        "welded",  # the board shows its coil, not the contact: a car that goes on drawing tells
        ("evse 1 welded", "car 1 disobeys", "swipe alice", "after 30s"),
        raises("unbilled_current"),
    ),
    Fault(
        "bouncing", ("swipe alice", "after 300ms"), flutters, begins=("plug 1", "evse 1 bounces", "after 4s")
    ),
    Fault("without feedback", ("evse 1 no-feedback", "after 15s"), hides_its_relay),
    Fault("residual current", ("evse 1 rcd", "after 15s"), raises("evse_rcd")),
    Fault("pilot fault", ("evse 1 pilot-fault", "after 15s"), raises("evse_failure")),
    Fault(
        "ignores writes",
        ("evse 1 ignores-writes", "limit connector 1 8A for 30s", "after 20s"),
        raises("evse_readback"),
    ),
    Fault("reboots", ("evse 1 reboots", "after 15s"), lambda told: contactor_changes(told) >= 3),
)

LINES = (
    Fault("meters cut", ("line meters cut", "after 15s"), raises("meter_silent")),
    Fault("boards cut", ("line evse cut", "after 15s"), raises("evse_silent")),
    Fault("loses bytes", ("line meters loses 2%", "after 30s"), lambda told: told.wires["meters"].broken),
    Fault("flips bits", ("line evse flips 2%", "after 30s"), lambda told: told.wires["evse"].broken),
    Fault("garbage between", ("line evse garbage 20%", "after 30s"), lambda told: told.wires["evse"].broken),
    Fault("in pieces", ("line meters splits", "after 15s"), lambda told: told.wires["meters"].broken),
    Fault(
        "delayed",
        ("line meters delays 150ms", "after 15s"),
        lambda told: told.wires["meters"].longest_ms > 250,
    ),
)

CARDS = (
    Fault("torn", ("next-card torn", "swipe bob", "after 5s"), logs("card_unreadable")),
    Fault("unreadable", ("next-card unreadable", "swipe bob", "after 5s"), logs("card_unreadable")),
    Fault(
        "random number",
        ("next-card random", "swipe alice", "after 5s"),
        logs("card_refused", "number changes"),
    ),
    Fault("dead pcscd", ("pcscd killed", "after 5s"), raises("reader_lost")),
    Fault("unplugged reader", ("reader unplugged", "after 5s"), raises("reader_lost")),
)

CARS = (
    Fault(
        "ignores its offer",
        ("car 1 disobeys", "limit connector 1 8A for 60s", "after 30s"),
        raises("overdraw"),
    ),
    Fault(
        "falls asleep",
        ("swipe alice", "after 60s"),
        sleeps,
        begins=("plug 1 car sleepy", "after 70s"),
    ),
    Fault(
        "takes one phase",
        ("swipe alice", "after 60s"),
        lambda told: told.shown()["used_phases"] == 1,
        begins=("plug 1 car 16A 1 phase", "after 4s"),
    ),
    Fault(
        "takes less than offered",
        ("swipe alice", "after 60s"),
        lambda told: 0 < max(told.station.world.connector_current_ma(1)) < 10_500,
        begins=("plug 1 car 10A", "after 4s"),
    ),
    Fault(
        "leaves under load", ("unplug 1", "after 10s"), lambda told: told.claims[0]["reason"] == "unplugged"
    ),
    Fault(
        "bad diode",
        (),
        raises("evse_diode"),
        begins=("plug 1 car no-diode", "after 4s swipe alice", "after 20s"),
    ),
    Fault(
        "wants ventilation",
        (),
        raises("evse_ventilation"),
        begins=("plug 1 car ventilation", "after 4s swipe alice", "after 20s"),
    ),
)

BROKER = (
    Fault("killed", ("broker killed", *PAID), logs("uplink", "cannot")),
    Fault("stopped", ("broker stopped", *PAID), logs("uplink", "cannot")),
    Fault("silent", ("broker silent", *PAID, "after 60s"), lambda told: states(told) == ["closed"]),
    Fault("duplicates", ("broker duplicates", *PAID), lambda told: len(told.taken) > len(told.said)),
    Fault("reorders", ("broker reorders", *PAID), in_disorder),
    Fault(
        "loses acknowledged",
        ("broker loses-acknowledged", *PAID),
        deaf,
    ),
    Fault(
        "slow",
        ("broker slow 2s", *PAID),
        lambda told: ms_between(told, "session_closed", "claim_settled") > 8_000,
    ),
)

BACKEND = (
    Fault("silent", ("backend silent", *PAID), lambda told: states(told) == ["closed"] and copies(told)),
    Fault(
        "late",
        ("backend late 10s", *PAID, "after 10s"),
        lambda told: ms_between(told, "session_closed", "claim_settled") > 10_000,
    ),
    Fault(
        "contradictory",
        ("backend contradictory", *PAID),
        lambda told: {"accepted", "rejected"} <= set(verdicts(told)),
    ),
    Fault("wrong hash", ("backend wrong-hash", *PAID), logs("edge.uplink.mqtt", "its hash is of another")),
    Fault("crashes before ack", ("backend crashes-before-ack", *PAID), lambda told: copies(told) > 1),
    Fault("refuses", ("backend refuses", *PAID), logs("claim_rejected")),
    Fault("says it twice", ("backend twice", *PAID), lambda told: len(verdicts(told)) == 2),
    Fault(
        "forgets",
        ("backend wrong-hash", *PAID, "backend forgetful", "backend well", "after 30s"),
        lambda told: 2 in [tally.booked for tally in told.station.books.tally.values()],
    ),
)

CLOCK = (
    Fault(
        "forward",
        ("clock jumps +1h", *PAID),
        lambda told: lasted_ms(told) > 3_600_000,
    ),
    Fault(
        "backward",
        ("clock jumps -1h", *PAID),
        lambda told: lasted_ms(told) < 0,
    ),
    Fault(
        "unset",
        CHARGING,
        lambda told: told.claims[0]["clock"] == "unsynced",
        begins=("clock unset", "after 65s"),
    ),
)

DISK = (
    Fault("full", CHARGING, raises("journal_failed"), begins=("disk full", "after 1s")),
    Fault("failing", ("disk failing", *PAID), raises("journal_failed")),
    Fault(
        "slow",
        CHARGING,
        lambda told: ms_between(told, "card_accepted", "session_started") >= 3_000,
        begins=("disk slow 3s", "after 1s"),
    ),
    Fault(
        "restored from an old copy",
        (*PAID, "disk restored", "daemon killed", "after 30s"),
        logs("claim_rejected"),
        begins=(*CHARGING, "disk remembers"),
    ),
)

LIVES = (
    Fault("power cut", ("power cut for 10s", "after 30s"), died("power cut")),
    Fault("killed", ("daemon killed", "after 20s"), died("killed")),
    Fault("stopped", ("daemon stopped for 5s", "after 20s"), died("ended")),
)

MENU = [
    pytest.param(fault, id=f"{kind}: {fault.name}")
    for kind, faults in (
        *(("meter", METERS), ("board", BOARDS), ("line", LINES), ("card", CARDS), ("car", CARS)),
        *(("broker", BROKER), ("backend", BACKEND), ("clock", CLOCK), ("disk", DISK), ("life", LIVES)),
    )
    for fault in faults
]


@pytest.mark.parametrize("fault", MENU)
def test_a_fault_is_seen_and_afterwards_all_is_well(fault: Fault) -> None:
    with story(connectors=2) as told:
        told.tell(*fault.begins, *fault.told)
        assert fault.seen(told)
        told.ends_well()


def test_nobody_sees_a_fault_on_a_quiet_day() -> None:
    with story(connectors=2) as told:
        told.tell(*CHARGING, "after 30s")
        seen = [param.id for param in MENU if param.values[0].seen(told)]  # type: ignore[union-attr]  # a mark is no value
        told.tell("swipe alice", "after 5s", *PAID)
        seen += [param.id for param in MENU if param.values[0].seen(told)]  # type: ignore[union-attr]  # a mark is no value
        told.ends_well()
    assert not seen


@pytest.mark.parametrize("write", range(1, 21))
def test_a_daemon_killed_in_any_write_around_a_session_bills_it_once(write: int) -> None:
    with story() as told:
        told.tell("plug 1", "after 3s", f"daemon killed in write {write}")
        told.tell("swipe alice", "after 30s swipe alice", "after 20s unplug 1", "after 20s")
        assert died("killed in a write")(told)
        told.ends_well()
