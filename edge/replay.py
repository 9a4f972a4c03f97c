"""`edge replay`: runs what a station recorded through the core as it is now, and says where it differs.

A ring of the field that shows a bug, cut with `--first` and `--until`, becomes a test of the repair: put the
file that `--write` makes into tests/control/rings.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from edge.commands import Announce, Command, Record, SetOffer, SetPhases
from edge.control.state import Station, unix_ms
from edge.control.station import step
from edge.events import CardSeen, Event, EvseRead, MeterRead, Tick
from edge.ring import Commands, Happened, Recording, RingError, lines_of, read

Say = Callable[[str], None]


class Step(Struct, frozen=True):
    """One event run again."""

    number: int  # 1 is the first of the file
    before: Station
    after: Station
    event: Event
    recorded: Commands | None  # None: the core failed when this was recorded
    decided: Commands

    @property
    def differs(self) -> bool:
        """Whether the core decides otherwise than it did; where it failed, any answer is a better one."""
        return self.recorded is not None and self.recorded != self.decided


class Wishes(Struct, frozen=True):
    """How a ring is run and shown."""

    first: int = 1  # the first event that is shown and written
    until: int | None = None  # the last one that is run
    verbose: bool = False
    as_json: bool = False
    write: Path | None = None  # where the events go with what the core decides now


def steps(station: Station, happened: Iterable[Happened]) -> Iterator[Step]:
    """Run all events in their order. What the core raises gets out, with a note on the event."""
    for number, each in enumerate(happened, start=1):
        before = station
        try:
            station, decided = step(before, each.event)
        except BaseException as bug:
            bug.add_note(f"event {number} of the ring, at {_clock(before)} UTC: {each.event}")
            raise
        yield Step(number, before, station, each.event, each.commands, decided)


def replay(path: Path, wishes: Wishes, say: Say) -> bool:
    """Run a ring file again and tell about it; whether the core decides the same. Raises `RingError`.

    It ends at the first difference, after which the station would be another one than in the field. With
    `write` it goes on to the end, and to the event the core fails on, since what it decides now shall count.
    """
    recording = read(path)
    count = len(recording.happened)
    until = count if wishes.until is None else wishes.until
    if not 1 <= wishes.first <= until <= count:
        raise RingError(f"{path} has {count} events, numbered from 1; choose from these")
    if not wishes.as_json:
        head = recording.head
        say(f"station {head.station}, edge {head.edge}, {_day(head.unix_ms)} UTC, {head.why or 'no reason'}")
    happened = recording.happened[:until]
    start, decided, different = recording.station, list[Happened](), None
    try:
        for each in steps(recording.station, happened):
            decided.append(Happened(each.event, each.decided))
            if each.number < wishes.first:
                start = each.after
            else:
                _show(each, wishes, say)
            if each.differs and different is None:
                different = each
                if wishes.write is None:
                    break
    finally:
        if wishes.write is not None:
            failed = [Happened(each.event, None) for each in happened[len(decided) :][:1]]
            cut = tuple((decided + failed)[wishes.first - 1 :])
            _write(wishes.write, Recording(recording.head, start, cut))
    _conclude(len(decided), different, wishes, say)
    return different is None or wishes.write is not None


def _write(path: Path, recording: Recording) -> None:
    try:
        with path.open("wb") as file:
            file.writelines(lines_of(recording))
    except OSError as error:
        raise RingError(f"{path}: cannot be written: {error.strerror or error}") from error


# -- words ---------------------------------------------------------------------------------------------


def _show(shown: Step, wishes: Wishes, say: Say) -> None:
    news = [command for command in shown.decided if _is_news(shown.before, command)]
    if not wishes.verbose and not news and isinstance(shown.event, Tick | MeterRead | EvseRead):
        return
    if wishes.as_json:
        say(_json({"number": shown.number, "unix_ms": unix_ms(shown.after), **_named(shown.event),
                   "commands": [_named(command) for command in shown.decided]}))  # fmt: skip
        return
    say(f"{shown.number:>6}  {_clock(shown.after)}  {_event_words(shown.event)}")
    for command in shown.decided if wishes.verbose else news:
        say(f"{'':22}-> {_command_words(command)}")


def _conclude(count: int, different: Step | None, wishes: Wishes, say: Say) -> None:
    if wishes.as_json:
        verdict: dict[str, object] = {"events": count, "same": different is None}
        if different is not None:
            verdict["difference"] = {
                "number": different.number,
                "recorded": [_named(command) for command in different.recorded or ()],
                "decided": [_named(command) for command in different.decided],
            }
        say(_json(verdict))
    elif different is None:
        say(f"{count} events replayed, the core decides the same")
    else:
        say(f"event {different.number}: the core decides otherwise: {_event_words(different.event)}")
        recorded = different.recorded or ()
        for who, commands in (("recorded", recorded), ("now", different.decided)):
            say(f"  {who}:" + ("" if commands else " nothing"))
            for command in commands:
                mark = " " if command in recorded and command in different.decided else "*"
                say(f"  {mark} {command}")
    if wishes.write is not None and not wishes.as_json:
        say(f"{wishes.write}: written, with what the core decides now")


def _is_news(before: Station, command: Command) -> bool:
    """Renewed leases are none."""
    if not isinstance(command, SetOffer):
        return True
    i = before.site.index(command.connector)
    return i is None or before.connectors[i].offer_ma != command.offer_ma


def _event_words(event: Event) -> str:
    match event:
        case Tick():
            return "tick"
        case MeterRead():
            amps = "/".join(map(_amps, event.current_ma))
            return f"meter {event.meter}: {amps} A, {event.power_mw // 1000} W, {event.energy_wh} Wh"
        case EvseRead():
            contactor = "closed" if event.contactor_closed else "open"
            troubles = "".join(f", {trouble}" for trouble in event.troubles)
            return (
                f"controller {event.connector}: pilot {event.pilot}, offers {_amps(event.offer_ma)} A, "
                f"contactor {contactor}{troubles}"
            )
        case CardSeen():
            return f"{event.credential.id} ({event.credential.masked}) at reader {event.reader}"
        case _:
            fields = msgspec.structs.asdict(event)
            told = ", ".join(f"{name} {value}" for name, value in fields.items() if name != "at_ms")
            return type(event).__name__ + (f": {told}" if told else "")


def _command_words(command: Command) -> str:
    match command:
        case SetOffer():
            return f"offer {_amps(command.offer_ma)} A at connector {command.connector}"
        case SetPhases():
            return f"{command.phases} phase(s) at connector {command.connector}"
        case Record(claim=claim):
            return f"record claim {claim.id}: {claim.state}, {claim.last_wh} Wh"
        case Announce():
            place = "" if command.connector is None else f"connector {command.connector}: "
            return f"{command.topic}: {place}{command.text}"


def _amps(ma: int) -> str:
    return f"{ma / 1000:.1f}"


def _clock(station: Station) -> str:
    return _moment(unix_ms(station)).strftime("%H:%M:%S.%f")[:-3]


def _day(of_unix_ms: int) -> str:
    return _moment(of_unix_ms).strftime("%Y-%m-%d %H:%M:%S")


def _moment(of_unix_ms: int) -> datetime:
    """A ring may hold any number; what no calendar has is shown as its beginning."""
    try:
        return datetime.fromtimestamp(of_unix_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _named(told: Event | Command) -> dict[str, object]:
    return {type(told).__name__: msgspec.to_builtins(told)}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
