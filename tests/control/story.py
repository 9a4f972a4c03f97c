"""A station in memory for stories: the pure core, a journal that says yes, and cars that follow physics.

Nothing here imports a hand. Time moves only by `pass_time`; meters and controllers are read every 250 ms.
"""

from collections.abc import Callable
from decimal import Decimal

from edge.commands import Announce, Command, Record, SetOffer, SetPhases
from edge.control.site import NO_PARENT, Card, Circuit, Outlet, ReaderSite, Sharing, Signal, Site, Tier
from edge.control.state import Connector, Station
from edge.control.station import CARD_QUIET_MS, start, step
from edge.events import (
    CardSeen,
    Credential,
    Event,
    EvseRead,
    MeterRead,
    Phases,
    Pilot,
    Recorded,
    RecordFailed,
    Tick,
)
from edge.records import Claim, ClaimState, ClockQuality, Tariff

TARIFF = Tariff("EUR", Decimal("0.40"), Decimal("0.50"), Decimal(19))
ALICE = Credential("ISO14443A:04A1A2A3", "…A2A3")
BOB = Credential("ISO14443A:04B1B2B3", "…B2B3")
STRANGER = Credential("ISO14443A:04C1C2C3", "…C2C3")
PHONE = Credential("ISO14443A:08C1C2C3", "…C2C3", random=True)
START_WH = 1_000_000
UNIX_MS = 1_800_000_000_000


def site(
    connectors: int = 2,
    limit_ma: int = 32_000,
    *,
    lines: tuple[int, ...] = (0, 1, 2),
    measured: bool = True,
    sharing: Sharing | None = None,
    signals: tuple[Signal, ...] = (),
    unbalance_ma: int | None = None,
) -> Site:
    """Return a measured root circuit and connectors 1.. on it, all served by one reader."""
    root = Circuit(
        id="main",
        parent=NO_PARENT,
        limit_ma=(limit_ma, limit_ma, limit_ma),
        meter="site" if measured else None,
        fallback_ma=(limit_ma // 2,) * 3 if measured else None,
        unbalance_ma=unbalance_ma,
    )
    outlets = tuple(
        Outlet(n, 0, lines, 6_000, 32_000, f"m{n}", ventilated=False) for n in range(1, connectors + 1)
    )
    cards = {c.id: Card(c.id, name) for c, name in ((ALICE, "alice"), (BOB, "bob"))}
    reader = ReaderSite("front", tuple(range(1, connectors + 1)))
    return Site("st", (root,), outlets, (reader,), cards, TARIFF, sharing or Sharing(), signals)


def card(number: int) -> Credential:
    """Return the card of driver `number`, which `site` knows nothing of; see `Story.arrive`."""
    return Credential(f"ISO14443A:04{number:06X}", f"…{number:04X}")


class Car:
    """Follows its offer after `lag_ms`, up to `max_ma`, while it asks."""

    def __init__(
        self, max_ma: int = 32_000, lag_ms: int = 2_000, *, asks: bool = True, phases: int = 3
    ) -> None:
        self.max_ma = max_ma
        self.lag_ms = lag_ms
        self.asks = asks
        self.phases = phases
        self.obeys = True

    def takes_ma(self, followed_ma: int) -> int:
        """Return what it takes when it has followed this offer."""
        return min(followed_ma, self.max_ma)


class Sloppy(Car):
    """Takes a tenth more than it is offered, as tolerances allow."""

    def takes_ma(self, followed_ma: int) -> int:
        return min(followed_ma * 11 // 10, 40_000)


class Plug:
    """The hardware of one connector: controller, contactor and meter register."""

    def __init__(self) -> None:
        self.car: Car | None = None
        self.offer_ma = 0
        self.told_ma: int | None = None
        self.followed_ma = 0
        self.followed_at_ms = 0
        self.register_mwh = START_WH * 1000
        self.welded = False
        self.silent = False
        self.meter_silent = False
        self.troubles: tuple[str, ...] = ()
        self.phases: int | None = None  # what a controller that can switch does switch through
        self.switches = True

    def switch(self, phases: int) -> None:
        """Switch phases, which must not happen under load."""
        assert not self.closed
        assert self.phases is not None
        if self.switches:
            self.phases = phases

    @property
    def closed(self) -> bool:
        return self.welded or bool(self.car and self.car.asks and self.offer_ma)

    def draw_ma(self, now_ms: int) -> int:
        """Return what flows: the old value until the car's lag passed, then the new one."""
        if self.car is None or not self.car.asks or not (self.closed or self.welded):
            return 0
        if not self.car.obeys:
            return self.car.max_ma
        if now_ms - self.followed_at_ms >= self.car.lag_ms:
            self.followed_ma = self.offer_ma
        return self.car.takes_ma(self.followed_ma)

    def used(self) -> int:
        """Return on how many phases the car charges."""
        return min(self.car.phases, self.phases or 3) if self.car else 0

    def pilot(self) -> Pilot:
        if self.car is None:
            return Pilot.A
        return Pilot.C if self.car.asks else Pilot.B


class Story:
    """Drive the core as the daemon does."""

    def __init__(self, station_site: Site | None = None, claims: list[Claim] | None = None) -> None:
        self.site = station_site or site()
        self.now_ms = 1_000_000
        self.station: Station
        self.plugs = {outlet.number: Plug() for outlet in self.site.outlets}
        self.background_ma: Phases = (0, 0, 0)
        self.sun_mw = 0  # what the roof feeds in
        self.site_meter_silent = False
        self.journal: dict[str, Claim] = {claim.id: claim for claim in claims or []}
        self.journal_fails: Callable[[Claim], bool] = lambda _claim: False
        self.announced: list[Announce] = []
        self.commands: list[Command] = []
        self.records: list[Claim] = []
        self.boot()
        self.now_ms += CARD_QUIET_MS  # stories begin when the station takes cards

    def boot(self, absent_ms: int | None = None) -> None:
        """Start the core on the journal as it is, as after a restart."""
        still_open = [c for c in self.journal.values() if c.state is ClaimState.OPEN]
        self.station, commands = start(
            self.site, "ep0c" * 8, len(self.journal) + 1, still_open, self.now_ms, absent_ms
        )
        self._carry_out(commands)

    def put(self, event: Event) -> None:
        self.station, commands = step(self.station, event)
        self.commands += commands
        self._carry_out(commands)

    def _carry_out(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            match command:
                case SetPhases(connector=number, phases=phases):
                    self.plugs[number].switch(phases)
                case SetOffer(connector=number, offer_ma=offer_ma):
                    self.plugs[number].told_ma = offer_ma
                    self._apply(number)
                case Record(claim=claim):
                    self.records.append(claim)
                    if self.journal_fails(claim):
                        self.put(RecordFailed(self.now_ms, claim.id, claim.state, "disk full"))
                    else:
                        self.journal[claim.id] = claim
                        self.put(Recorded(self.now_ms, claim.id, claim.state))
                case Announce():
                    self.announced.append(command)

    def _apply(self, number: int) -> None:
        """Do what the hand does: tell the controller the newest offer as soon as it listens."""
        plug = self.plugs[number]
        if plug.told_ma != plug.offer_ma and plug.told_ma is not None and not plug.silent:
            plug.followed_ma = plug.draw_ma(self.now_ms)
            plug.offer_ma = plug.told_ma
            plug.followed_at_ms = self.now_ms

    # -- the world -----------------------------------------------------------------------------------

    def plug(self, number: int, car: Car | None = None) -> Car:
        self.plugs[number].car = car or Car()
        self.look(number)
        return self.plugs[number].car  # type: ignore[return-value] # set on the line above

    def arrive(self, number: int, car: Car | None = None, tier: Tier | None = None) -> Car:
        """Plug in and start with a card of one's own."""
        credential = card(number)
        self.site.cards[credential.id] = Card(credential.id, f"driver {number}", tier or Tier())
        there = self.plug(number, car)
        self.swipe(credential)
        return there

    def unplug(self, number: int) -> None:
        self.plugs[number].car = None
        self.look(number)

    def swipe(self, credential: Credential) -> None:
        self.put(CardSeen(self.now_ms, "front", credential))

    def look(self, number: int) -> None:
        plug = self.plugs[number]
        self._apply(number)
        if not plug.silent:
            self.put(
                EvseRead(
                    at_ms=self.now_ms,
                    asked_ms=self.now_ms,
                    connector=number,
                    pilot=plug.pilot(),
                    offer_ma=plug.offer_ma,
                    contactor_closed=plug.closed,
                    cable_ma=None,
                    troubles=plug.troubles,
                    phases=plug.phases,
                )
            )

    def measure(self, number: int) -> None:
        plug, outlet = self.plugs[number], self.site.outlets[number - 1]
        if plug.meter_silent:
            return
        draw = plug.draw_ma(self.now_ms)
        used = plug.used()
        current = tuple(draw if k < min(used, len(outlet.lines)) else 0 for k in range(3))
        self.put(
            MeterRead(
                self.now_ms,
                self.now_ms,
                outlet.meter,
                (current[0], current[1], current[2]),
                sum(current) * 230,
                plug.register_mwh // 1000,
            )
        )

    def supply_ma(self) -> list[int]:
        """Return what really flows through the root, per supply phase."""
        total = list(self.background_ma)
        for number, plug in self.plugs.items():
            outlet = self.site.outlets[number - 1]
            draw = plug.draw_ma(self.now_ms)
            for line in outlet.lines[: plug.used()]:
                total[line] += draw
        return total

    def measure_site(self) -> None:
        meter = self.site.circuits[0].meter
        if meter is None or self.site_meter_silent:
            return
        total = self.supply_ma()
        self.put(
            MeterRead(
                self.now_ms,
                self.now_ms,
                meter,
                (total[0], total[1], total[2]),
                sum(total) * 230 - self.sun_mw,
                0,
            )
        )

    def pass_time(self, ms: int, each: Callable[[], None] | None = None, step_ms: int = 250) -> None:
        """Let time go by in steps, with all devices read in every step."""
        for _ in range(ms // step_ms):
            for number, plug in self.plugs.items():
                draw = plug.draw_ma(self.now_ms)
                outlet = self.site.outlets[number - 1]
                phases = min(plug.used(), len(outlet.lines))
                plug.register_mwh += draw * 230 * phases * step_ms // 3_600_000
            self.now_ms += step_ms
            for number in self.plugs:
                self.look(number)
                self.measure(number)
            self.measure_site()
            self.put(Tick(self.now_ms, UNIX_MS + self.now_ms, ClockQuality.SYNCED))
            if each is not None:
                each()

    # -- what came of it -----------------------------------------------------------------------------

    def connector(self, number: int) -> Connector:
        return self.station.connectors[number - 1]

    def topics(self) -> list[str]:
        return [announce.topic for announce in self.announced]

    def faults(self, number: int) -> list[str]:
        return [fault.kind.name for fault in self.connector(number).faults]

    def claims(self, state: ClaimState) -> list[Claim]:
        return [claim for claim in self.journal.values() if claim.state is state]
