"""What may stand in the configuration file: one struct per TOML table, one field per key.

A field's `description` is the remedy that a person reads when the value is missing or wrong. Nothing
electrical has a default: whoever commissions a station must have read the plate or the fuse.
"""

from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

_NAME = r"^[A-Za-z0-9_-]+$"  # safe as a level of an MQTT topic, in a file name and in a shell

Name = Annotated[
    str, Meta(pattern=_NAME, max_length=32, description="write 1 to 32 letters, digits, - or _, no spaces")
]
_REFERENCE = "write the id of one of the [[{}]]"
BusId = Annotated[str, Meta(pattern=_NAME, description=_REFERENCE.format("buses"))]
MeterId = Annotated[str, Meta(pattern=_NAME, description=_REFERENCE.format("meters"))]
CircuitId = Annotated[str, Meta(pattern=_NAME, description=_REFERENCE.format("circuits"))]
TierName = Annotated[str, Meta(pattern=_NAME, description="write the name of one of the [[tiers]]")]
ConnectorNumber = Annotated[
    int, Meta(ge=1, le=999, description="write the number of one of the [[connectors]]")
]
Text = Annotated[str, Meta(max_length=200, description="write a short text in quotes")]
FileName = Annotated[str, Meta(max_length=4096, description="write the path of a file in quotes")]
Milliseconds = Annotated[int, Meta(ge=20, le=60_000, description="write milliseconds, 20 to 60000")]
Seconds = Annotated[int, Meta(ge=1, le=86_400, description="write seconds, 1 to 86400")]
PollMs = Annotated[int, Meta(ge=20, le=1_500, description="write milliseconds, 20 to 1500")]
"""What a circuit carries beside the cars is its meter's reading minus the connectors' readings just before
and after it. A reading that found no partner within 1.5 s makes room for a newer one (`control.background`);
with meters that are asked more rarely it could be so each time, and an old load would stand for ever.
A controller's offer is a lease of 3 s, judged at each look, and a look is worth something for 5 s."""

Port = Annotated[int, Meta(ge=1, le=65_535, description="write the TCP port, 1 to 65535")]
Host = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9._:-]+$", max_length=253, description="write a host name or an IP address"),
]

Address = Annotated[
    str,
    Meta(
        pattern=r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:]+)$",
        description="write the device's IP address; a name would need a name server before a car can charge",
    ),
]

Unit = Annotated[
    int,
    Meta(ge=1, le=247, description="write the Modbus address set in the device, 1 to 247"),
]
"""Modbus over serial line V1.02, 2.2: 0 is broadcast, 248 to 255 are reserved."""

_MOST_CIRCUIT_MA = 6_300_000  # the largest frame of low-voltage circuit-breakers (IEC 60947-2 makers' ranges)

_LIMIT = "write the fuse's rating in A for L1, L2, L3, e.g. [32, 32, 32]; 0 where a phase is not wired"
_FALLBACK = "write what all connectors below may take together while the meter is silent, in A for L1, L2, L3"
_LimitMa = Annotated[int, Meta(ge=0, le=_MOST_CIRCUIT_MA, extra={"milli": "A"})]
LimitMa = Annotated[tuple[_LimitMa, _LimitMa, _LimitMa], Meta(description=_LIMIT)]
FallbackMa = Annotated[tuple[_LimitMa, _LimitMa, _LimitMa], Meta(description=_FALLBACK)]

UnbalanceMa = Annotated[
    int,
    Meta(
        ge=1_000,  # below what any car draws on one phase the key would only forbid single-phase cars
        le=_MOST_CIRCUIT_MA,
        extra={"milli": "A"},
        description="write the most that two phases may differ, in A (1 to 6300), as the grid operator says",
    ),
]
FailsafeMa = Annotated[
    int,
    Meta(
        ge=0,
        le=80_000,
        extra={"milli": "A"},
        description="write what the controller offers when it hears nobody, in A (6 to 80), or 0 for none",
    ),
]

_CAP_A = "write A per phase, e.g. 16, or of L1, L2, L3, e.g. [16, 16, 10]; 0 is a limit, too"
CapMa = Annotated[tuple[_LimitMa, _LimitMa, _LimitMa], Meta(extra={"even": True}, description=_CAP_A)]
CapW = Annotated[
    int,
    Meta(
        ge=0,
        le=5_000_000,  # above three phases of the largest breaker at 230 V
        extra={"milli": "kW"},
        description="write the power of all phases together in kW, 0 to 5000",
    ),
]

MinMa = Annotated[
    int,
    Meta(
        ge=6_000,
        le=80_000,
        extra={"milli": "A"},
        description="write the least current to offer (6 to 80); IEC 61851-1 cannot signal less than 6 A",
    ),
]
MaxMa = Annotated[
    int,
    Meta(
        ge=6_000,
        le=80_000,
        extra={"milli": "A"},
        description="write the rating on the connector's plate (6 to 80)",
    ),
]
"""IEC 61851-1:2017 Annex A: a duty cycle of 10 % stands for 6 A, 96 % for 80 A; nothing else can be said."""

PhaseOrder = Annotated[
    str,
    Meta(
        pattern=r"^(?:L([123])(?!.*\1))+$",  # each phase at most once
        description='write the supply phases behind its L1, L2, L3, e.g. "L2L3L1", or "L1"',
    ),
]

_MOST_MONEY = 10_000_000  # per kWh in the smallest currency units in use
Money = Annotated[
    Decimal,
    Meta(extra={"most": _MOST_MONEY}, description="write an amount before tax, e.g. 0.39, or 0"),
]


class StationTable(Struct, frozen=True):
    """[station]."""

    id: Name
    name: Text
    location: Text
    support_contact: Text
    time_zone: Annotated[str, Meta(description='write an IANA time zone, e.g. "Europe/Berlin"')] | None = None


class PathsTable(Struct, frozen=True):
    """[paths], relative to the configuration file's folder."""

    journal: FileName = "/var/lib/edge/journal.sqlite"
    runtime: FileName = "/run/edge"
    local_group: Annotated[str, Meta(description="write the name of a group of this machine")] | None = None


class UplinkTable(Struct, frozen=True):
    """[uplink]."""

    host: Host
    port: Port
    prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$",
            max_length=100,
            description='write the first levels of the topics, e.g. "edge" or "fleet/north"; no + # or $',
        ),
    ] = "edge"
    client_id: Annotated[str, Meta(max_length=64, description="write the MQTT client id")] | None = None
    username: Annotated[str, Meta(max_length=200, description="write the MQTT user name")] | None = None
    password_file: FileName | None = None
    tls_ca: FileName | None = None
    tls_cert: FileName | None = None
    tls_key: FileName | None = None
    meter_interval_s: Seconds = 10
    resend_after_s: Seconds = 30


class TariffTable(Struct, frozen=True):
    """[tariff]."""

    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$", description='write the ISO 4217 code, e.g. "EUR"')]
    per_kwh: Money
    per_session: Money
    vat_percent: Annotated[
        Decimal, Meta(extra={"most": 100}, description="write the tax rate in percent, e.g. 19")
    ]


class SerialBusTable(Struct, frozen=True, tag_field="kind", tag="serial"):
    """[[buses]] with kind = "serial"."""

    id: Name
    port: Annotated[
        str,
        Meta(
            pattern=r"^/",
            max_length=4096,
            description="write the device's path, best the one under /dev/serial/by-id or by-path",
        ),
    ]
    baud: Annotated[
        Literal[1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200],
        Meta(description="write the rate set in the devices"),
    ]
    parity: Annotated[Literal["N", "E", "O"], Meta(description="write the parity set in the devices")]
    stop_bits: Annotated[Literal[1, 2], Meta(description="write the stop bits set in the devices")]
    timeout_ms: Milliseconds = 500
    min_gap_ms: Annotated[
        int, Meta(ge=0, le=1_000, description="write milliseconds between two questions, 0 to 1000")
    ] = 100  # EVSE controllers on this bus need 100 to 200 ms to themselves


class TcpBusTable(Struct, frozen=True, tag_field="kind", tag="tcp"):
    """[[buses]] with kind = "tcp"."""

    id: Name
    host: Address
    port: Port
    timeout_ms: Milliseconds = 500
    min_gap_ms: Annotated[
        int, Meta(ge=0, le=1_000, description="write milliseconds between two questions, 0 to 1000")
    ] = 0


class MeterTable(Struct, frozen=True):
    """[[meters]]."""

    id: Name
    bus: BusId
    unit: Unit
    profile: Annotated[str, Meta(description="write the name of the meter's profile")]
    poll_ms: PollMs = 500


class CircuitTable(Struct, frozen=True):
    """[[circuits]]."""

    id: Name
    limit_ma: LimitMa = field(name="limit_a")
    parent: CircuitId | None = None
    meter: MeterId | None = None
    fallback_ma: FallbackMa | None = field(name="fallback_a", default=None)
    unbalance_ma: UnbalanceMa | None = field(name="unbalance_a", default=None)


class EvseTable(Struct, frozen=True):
    """[connectors.evse]."""

    driver: Annotated[Literal["simpleevse"], Meta(description="write the controller's driver")]
    bus: BusId
    unit: Unit
    poll_ms: PollMs = 500
    failsafe_ma: FailsafeMa = field(name="failsafe_a", default=0)


class ConnectorTable(Struct, frozen=True):
    """[[connectors]]."""

    number: Annotated[int, Meta(ge=1, le=999, description="write the number painted on it, 1 to 999")]
    circuit: CircuitId
    phases: PhaseOrder
    min_ma: MinMa = field(name="min_a")
    max_ma: MaxMa = field(name="max_a")
    meter: MeterId
    ventilated: Annotated[
        bool, Meta(description="write true only if the place is ventilated for gassing batteries, else false")
    ]
    evse: EvseTable


class ReaderTable(Struct, frozen=True):
    """[[readers]]."""

    id: Name
    name: Annotated[str, Meta(max_length=128, description="write a part of the name that pcsc_scan shows")]
    connectors: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=999)], ...],
        Meta(min_length=1, description="write the numbers of the connectors it serves, e.g. [1, 2]"),
    ]


class CardTable(Struct, frozen=True):
    """[[cards]]."""

    uid: Annotated[
        str,
        Meta(
            pattern=r"^(ISO14443A:)?[0-9A-Fa-f]{2}([ :-]?[0-9A-Fa-f]{2})*$",
            max_length=64,
            description='write the 4, 7 or 10 bytes of its UID in hex, e.g. "04A2B3C4D5E680"',
            extra={"secret": True},
        ),
    ]
    contract: Annotated[str, Meta(max_length=64, description="write who is billed")]
    tier: TierName | None = None


class TierTable(Struct, frozen=True):
    """[[tiers]]: what a subscription is worth when current is short."""

    name: Name
    weight_percent: Annotated[
        int,
        Meta(
            ge=10,
            le=1_000,  # a hundredfold between two tiers is no sharing any more
            extra={"centi": ""},
            description="write its part of the current as against an ordinary card's 1 (0.1 to 10)",
        ),
    ] = field(name="weight", default=100)
    priority: Annotated[
        int, Meta(ge=0, le=9, description="write its class, 0 to 9; a higher one is served first")
    ] = field(name="class", default=0)


class SharingTable(Struct, frozen=True):
    """[sharing]: how cars take turns, and what becomes of current that is offered and not drawn."""

    slot_min: Annotated[
        int,
        # Below, contactors wear and cars fall asleep; above, those who wait have left.
        Meta(ge=5, le=120, description="write minutes until the order moves on, 5 to 120"),
    ] = 15
    min_on_min: Annotated[
        int, Meta(ge=1, le=120, description="write how many minutes a car charges at least, 1 to 120")
    ] = 10
    min_off_min: Annotated[
        int, Meta(ge=1, le=120, description="write how many minutes a car is paused at least, 1 to 120")
    ] = 5
    strict: Annotated[
        bool,
        Meta(description="write true to fill higher classes before lower ones get more than their minimum"),
    ] = field(name="strict_classes", default=False)
    reclaim_after_s: Annotated[
        int,
        # IEC 61851-1:2017 Annex A: a car may take 5 s to follow an offer.
        Meta(ge=5, le=3_600, description="write seconds, 5 to 3600; a car needs up to 5 s to follow"),
    ] = 10
    reclaim_headroom_ma: Annotated[
        int,
        Meta(
            ge=1_000,  # raises below 1 A are not passed on to a car: it could never show that it wants more
            le=80_000,
            extra={"milli": "A"},
            description="write A beyond what the car draws, 1 to 80",
        ),
    ] = field(name="reclaim_headroom_a", default=2_000)


class LimitSignalTable(Struct, frozen=True, kw_only=True, tag_field="kind", tag="limit"):
    """[[signals]] with kind = "limit": somebody who sends limits, and what his silence means."""

    source: Name
    circuit: CircuitId | None = None
    connector: ConnectorNumber | None = None
    fallback_ma: CapMa | None = field(name="fallback_a", default=None)
    fallback_w: CapW | None = field(name="fallback_kw", default=None)


class GridSignalTable(LimitSignalTable, frozen=True, kw_only=True, tag="grid"):
    """[[signals]] with kind = "grid": the grid operator's (EnWG section 14a)."""


class SolarSignalTable(Struct, frozen=True, kw_only=True, tag_field="kind", tag="solar"):
    """[[signals]] with kind = "solar": follows what the circuit's own meter shows."""

    source: Name
    circuit: CircuitId
    import_w: CapW = field(name="import_kw", default=0)
    start_after_s: Seconds = 60
    stop_after_s: Seconds = 600


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class WindowTable(Struct, frozen=True, kw_only=True):
    """[[signals.windows]]: when a limit holds, by the station's time zone. `days` are those it starts on."""

    days: Annotated[
        tuple[Annotated[Day, Meta(description="write the first three letters of the English day")], ...],
        Meta(min_length=1, description='write days, e.g. ["mon", "tue"], or leave it out for every day'),
    ] = DAYS
    start: Annotated[
        str,
        Meta(
            pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$",
            description='write the time of day in quotes, "00:00" to "23:59"',
        ),
    ] = field(name="from")
    end: Annotated[
        str,
        Meta(
            pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$",
            description='write the time of day in quotes, "00:00" to "24:00"; before `from`: on the next day',
        ),
    ] = field(name="to")
    limit_ma: CapMa | None = field(name="limit_a", default=None)
    limit_w: CapW | None = field(name="limit_kw", default=None)


class ScheduleSignalTable(Struct, frozen=True, kw_only=True, tag_field="kind", tag="schedule"):
    """[[signals]] with kind = "schedule": limits by the time of day."""

    source: Name
    circuit: CircuitId | None = None
    connector: ConnectorNumber | None = None
    windows: Annotated[tuple[WindowTable, ...], Meta(min_length=1)]


SignalTable = LimitSignalTable | GridSignalTable | SolarSignalTable | ScheduleSignalTable


class ConfigFile(Struct, frozen=True):
    """The whole file."""

    station: StationTable
    tariff: TariffTable
    buses: Annotated[tuple[SerialBusTable | TcpBusTable, ...], Meta(min_length=1)]
    meters: Annotated[tuple[MeterTable, ...], Meta(min_length=1)]
    circuits: Annotated[tuple[CircuitTable, ...], Meta(min_length=1)]
    connectors: Annotated[tuple[ConnectorTable, ...], Meta(min_length=1)]
    paths: PathsTable = PathsTable()
    uplink: UplinkTable | None = None
    readers: tuple[ReaderTable, ...] = ()
    cards: tuple[CardTable, ...] = ()
    tiers: tuple[TierTable, ...] = ()
    sharing: SharingTable = SharingTable()
    signals: tuple[SignalTable, ...] = ()
