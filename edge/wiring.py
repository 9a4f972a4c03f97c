"""From the configuration to the hands: which driver, which line, which reader. The daemon's second screen.

Adding a driver or a reader family is one line here.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge import __version__, clock, config
from edge.config import Config, EvseDevice
from edge.control.state import Station, unix_ms
from edge.control.view import availability
from edge.drivers.bus import ModbusBus
from edge.drivers.hands import EvseHand, MeterHand
from edge.drivers.simpleevse import SimpleEvse
from edge.errors import DeviceError
from edge.metering.modbus_meter import ModbusMeter
from edge.metering.profile import load_profile, shipped
from edge.outside import Outside
from edge.payments.tariff import price_text
from edge.ports import Clock, Evse, NowMs, Outbox, Put, Reader
from edge.schedule import ScheduleHand

if TYPE_CHECKING:  # paho and TLS cost a station without an operator nothing
    from edge.uplink import schema
    from edge.uplink.mqtt import MqttUplink

SAFE_OFF_TRIES = 3
"""`safe-off` runs when all else has failed; a lost frame shall not be the end of it."""


SAFE_OFF_PAUSE_S = 0.3
"""Longer than the first back-off of a bus."""


WALL_STEP_MS = 1_000
"""Two clocks read one after the other differ by 1 ms more or less each time, and NTP drags one of them. Only
a larger step moves the times that were shown before: each change is a message."""


class Runnable(Protocol):
    """A hand the daemon keeps running."""

    async def run(self, put: Put) -> None:
        """Feed events until cancelled."""


class Hands:
    """Everything that touches the hardware, and the clocks that speak by themselves."""

    def __init__(
        self,
        evses: dict[int, EvseHand],
        meters: dict[str, MeterHand],
        readers: dict[str, Reader],
        schedules: tuple[ScheduleHand, ...],
    ) -> None:
        self.evses = evses
        self._meters = meters
        self._readers = readers
        self._schedules = schedules

    def all(self) -> Iterator[tuple[str, Runnable]]:
        """Each hand with the name of its task; schedules speak before the first car is seen."""
        yield from (("schedule", hand) for hand in self._schedules)
        yield from ((f"evse/{number}", hand) for number, hand in self.evses.items())
        yield from ((f"meter/{name}", hand) for name, hand in self._meters.items())
        yield from ((f"reader/{name}", hand) for name, hand in self._readers.items())


def load_config(path: Path) -> Config:
    """Read the configuration with the meter profiles of this release. Raises `ConfigError`."""
    return config.load(path, shipped())


def open_hands(configured: Config, outside: Outside) -> Hands:
    """Make every hand; they open their devices themselves."""
    from edge.rfid.pcsc import PcscReader

    now_ms, readers = outside.clock.now_ms, outside.readers
    buses = _buses(configured, now_ms)
    meters = {
        meter.id: MeterHand(
            meter.id,
            ModbusMeter(buses[meter.bus], meter.unit, load_profile(meter.profile)),
            meter.poll_ms,
            now_ms,
        )
        for meter in configured.meters
    }
    evses = {
        device.connector: EvseHand(device.connector, _evse(configured, device, buses), device.poll_ms, now_ms)
        for device in configured.evses
    }
    known = {
        reader.id: readers.get(reader.id) or PcscReader(reader.id, reader.name, now_ms)
        for reader in configured.readers
    }
    schedules = tuple(
        ScheduleHand(schedule, now_ms, lambda: outside.clock.wall()[0]) for schedule in configured.schedules
    )
    return Hands(evses, meters, known, schedules)


def _buses(configured: Config, now_ms: NowMs) -> dict[str, ModbusBus]:
    return {
        bus.id: ModbusBus(bus.link, timeout_ms=bus.timeout_ms, min_gap_ms=bus.min_gap_ms, now_ms=now_ms)
        for bus in configured.buses
    }


def _evse(configured: Config, device: EvseDevice, buses: dict[str, ModbusBus]) -> Evse:
    """One line per driver; the configuration knows their names."""
    max_ma = next(outlet.max_ma for outlet in configured.site.outlets if outlet.number == device.connector)
    return SimpleEvse(buses[device.bus], device.unit, max_ma=max_ma)


async def safe_off(configured: Config, clock: Clock = clock) -> tuple[list[str], list[str]]:
    """Tell every controller 0 A, without a daemon: sentences on those that took it, and on the others."""
    buses = _buses(configured, clock.now_ms)
    done: list[str] = []
    problems: list[str] = []
    for device in configured.evses:
        evse = _evse(configured, device, buses)
        for tries_left in range(SAFE_OFF_TRIES - 1, -1, -1):
            try:
                await evse.set_offer(0)
                done.append(f"connector {device.connector}: told 0 A")
                break
            except DeviceError as error:
                if not tries_left:
                    problems.append(
                        f"connector {device.connector} is not known to be off: {error} "
                        "If the daemon still runs, it owns the line: systemctl stop edge does the same."
                    )
                await asyncio.sleep(SAFE_OFF_PAUSE_S)
    for bus in buses.values():
        bus.close()
    return done, problems


def open_uplink(configured: Config, outbox: Outbox, outside: Outside) -> "MqttUplink | None":
    """The uplink, or None for a station without an operator. Raises `ConfigError` for unusable files."""
    plan, station, site = configured.uplink, configured.station, configured.site
    if plan is None:
        return None
    from edge.uplink import schema
    from edge.uplink.connection import Access, Connection, TlsFiles
    from edge.uplink.mqtt import SPREAD, MqttUplink, UplinkSettings

    tls = None
    if plan.tls is not None:
        tls = TlsFiles(str(plan.tls.ca), _text(plan.tls.cert), _text(plan.tls.key))
    access = Access(
        host=plan.host,
        port=plan.port,
        client_id=plan.client_id,
        username=plan.username,
        password_file=_text(plan.password_file),
        tls=tls,
    )
    tariff = site.tariff
    birth = schema.Birth(
        station=station.id,
        software=__version__,
        name=station.name,
        location=station.location,
        support=station.support_contact,
        connectors=tuple(
            schema.ConnectorRating(
                number=outlet.number, phases=len(outlet.lines), min_ma=outlet.min_ma, max_ma=outlet.max_ma
            )
            for outlet in site.outlets
        ),
        tariff=schema.TariffNotice(
            currency=tariff.currency,
            per_kwh=str(tariff.per_kwh),
            per_session=str(tariff.per_session),
            vat_percent=str(tariff.vat_percent),
            text=price_text(tariff),
        ),
    )
    settings = UplinkSettings(
        access=access,
        station=station.id,
        prefix=plan.prefix,
        resend_first_s=plan.resend_after_s,
        meter_interval_s=plan.meter_interval_s,
    )
    return MqttUplink(
        settings,
        birth,
        outbox,
        outside.clock.now_ms,
        lambda: outside.clock.wall()[0],
        outside.uniform or SPREAD,
        outside.connect or Connection,
    )


class Display(Protocol):
    """Where a station is shown to those outside."""

    def show_connector(self, state: "schema.ConnectorState") -> None:
        """Show a connector's state; the newest wins."""

    def show_meter(self, meter: "schema.ConnectorMeter") -> None:
        """Show a reading; the newest wins."""


class Report:
    """Shows every connector as it stands; what has not changed in the same words, to the millisecond."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._wall_ahead_ms = 0  # Unix time minus monotonic time

    def show(self, station: Station) -> None:
        """Show the station after a tick."""
        from edge.uplink import schema

        ahead_ms = unix_ms(station) - station.now_ms
        if abs(ahead_ms - self._wall_ahead_ms) > WALL_STEP_MS:
            self._wall_ahead_ms = ahead_ms
        for i, connector in enumerate(station.connectors):
            number = station.site.outlets[i].number
            why, session, meter = connector.why, connector.session, connector.meter
            self._display.show_connector(
                schema.ConnectorState(
                    connector=number,
                    state=schema.ConnectorStatus(availability(connector, station.now_ms)),
                    offered_ma=connector.offer_ma,
                    reason=why.text,
                    faults=tuple(
                        schema.FaultNotice(name=fault.kind.name, driver_text=fault.kind.driver)
                        for fault in connector.faults
                    ),
                    since_unix_ms=self._wall_ahead_ms + connector.since_ms,
                    reason_kind=why.kind,
                    reason_since_unix_ms=self._wall_ahead_ms + why.since_ms if why.text else None,
                    reason_until_unix_ms=self._ahead(station, why.until_ms),
                    demand=session.demand.answer if session and session.demand else "",
                )
            )
            if meter is not None:
                self._display.show_meter(
                    schema.ConnectorMeter(
                        connector=number,
                        current_ma=meter.current_ma,
                        power_w=meter.power_mw // 1000,
                        energy_wh=meter.energy_wh,
                        age_ms=station.now_ms - meter.asked_ms,
                    )
                )

    def _ahead(self, station: Station, until_ms: int | None) -> int | None:
        """Unix time of a moment to come; None for one that is over, which says nothing."""
        return self._wall_ahead_ms + until_ms if until_ms is not None and until_ms > station.now_ms else None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
