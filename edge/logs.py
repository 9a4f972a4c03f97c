"""Log lines as key=value on stderr, written by their own thread, so that a slow disk never stalls the loop.

A line is `topic=card_refused text="nobody knows card …B3C4" connector=1`. Values come from cards, cars,
brokers and files of other people: what is not plainly printable is escaped, so no value can start a new line,
forge a field or talk to a terminal, and a full card number is cut to its last digits wherever it turns up.

Records of libraries (stdlib `logging`) take the same way; their topic is the name of their logger.
"""

import json
import logging
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from types import TracebackType
from typing import Self

QUEUE_LINES = 4096
"""What waits for a disk that stalls: SD cards pause for seconds, a busy station logs some lines a second."""

RING_LINES = 1000
"""What a person can still ask for without the journal of the system: about 300 KiB."""

VALUE_CHARACTERS = 2000
"""A longer value is cut. journald splits a line at 48 KiB (LineMax=), and the second half would stand alone;
an escaped character takes 12 bytes at most. Of a traceback the end is kept, where the reason stands."""

LAST_LINES_S = 2.0
"""What writing out the queue may take at the end; stderr may be a pipe nobody reads."""

_CARD_ID = re.compile(r"((?:ISO[0-9]{1,9}[AB]?|FELICA):)([0-9A-F]+)", re.IGNORECASE)
"""A canonical card id, as in `events.Credential.id`: "ISO14443A:04A2B3C4"."""

_BARE = re.compile(r"[\w.:/+@%,…-]+")
"""A value that needs no quotes."""

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))
"""From the level of a record down to the number of sd-daemon(3): SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG."""

_log = logging.getLogger("edge")
_ring: deque[str] = deque(maxlen=RING_LINES)


def log(topic: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Log one event. `topic` is a stable word a program can match; a field that is None is left out."""
    if _log.isEnabledFor(level):
        _log.log(level, "%s", topic, extra={"edge_topic": topic, "edge_fields": fields})


def recent(count: int = RING_LINES) -> list[str]:
    """The last lines of this process, oldest first, each with time and level."""
    lines = list(_ring)
    return lines[max(0, len(lines) - count) :]


def start(level: str, *, fd: int = 2) -> "LogThread":
    """Send all logging of this process to `fd`, from `level` ("debug", "info", "warning", "error") upwards.

    For use in `with`: what waits is written at the end.
    """
    return LogThread(logging.getLevelNamesMapping()[level.upper()], fd)


def line(topic: str, fields: Mapping[str, object]) -> str:
    """One log line without its end: `topic=... key=value ...`; a quoted value is a JSON string."""
    pairs = [("topic", topic), *((key, value) for key, value in fields.items() if value is not None)]
    return " ".join(f"{_key(key)}={_value(value)}" for key, value in pairs)


def _key(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", key)


def _value(value: object) -> str:
    text = _mask(str(value))
    if len(text) > VALUE_CHARACTERS:
        text = f"{text[:VALUE_CHARACTERS]}…"
    if _BARE.fullmatch(text) and text.isprintable():
        return text
    return f'"{"".join(map(_character, text))}"'


def _mask(text: str) -> str:
    return _CARD_ID.sub(lambda found: f"{found[1]}…{found[2][-4:]}", text)


def _character(character: str) -> str:
    """As it is if printable (not a control, format, surrogate or separator of Unicode), else as in JSON."""
    if character.isprintable() and character not in '"\\':
        return character
    return json.dumps(character)[1:-1]


class LogThread:
    """The thread "logs" and the way to it, while its `with` block runs."""

    def __init__(self, level: int, fd: int) -> None:
        self._level = level
        self._fd = fd
        self._journald = _is_journald(fd)
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUE_LINES)
        self._handler = _Handler(self._queue)
        self._unwritten = 0
        self._thread = threading.Thread(target=self._write_all, name="logs", daemon=True)

    def __enter__(self) -> Self:
        root = logging.getLogger()
        self._level_before = root.level
        root.setLevel(self._level)
        root.addHandler(self._handler)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        root.setLevel(self._level_before)
        self._handler.close()
        deadline = time.monotonic() + LAST_LINES_S
        with suppress(queue.Full):
            self._queue.put(None, timeout=LAST_LINES_S)
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _write_all(self) -> None:
        told = 0
        while True:
            record = self._queue.get()
            if record is not None:
                self._write(record.levelno, record.created, record.getMessage())
            lost = self._handler.dropped + self._unwritten
            if lost != told:
                text = line("log_lines_lost", {"count": lost - told, "text": "stderr takes them too slowly"})
                self._write(logging.WARNING, time.time(), text)
                told = lost
            if record is None:
                return

    def _write(self, level: int, unix_s: float, text: str) -> None:
        """Write past Python's buffers: a thread held up there would keep the interpreter from ending."""
        head = f"<{_priority(level)}>" if self._journald else f"{_stamp(level, unix_s)} "
        rest = f"{head}{text}\n".encode()
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:  # the disk is full or nobody reads: the next line that gets through tells how many
            self._unwritten += 1


class _Handler(QueueHandler):
    """Renders in the caller's thread, where the fields are still what they were, and never waits."""

    def __init__(self, lines: "queue.Queue[logging.LogRecord | None]") -> None:
        super().__init__(lines)
        self.setFormatter(LineFormatter())
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        _ring.append(f"{_stamp(record.levelno, record.created)} {record.getMessage()}")
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class LineFormatter(logging.Formatter):
    """Our fields, or what a library said, in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        topic: str = getattr(record, "edge_topic", record.name)
        fields: dict[str, object] = getattr(record, "edge_fields", {"text": record.getMessage()})
        if record.exc_info:
            trace = _mask(self.formatException(record.exc_info))
            fields = {**fields, "traceback": trace[-VALUE_CHARACTERS:]}
        return line(topic, fields)


def _stamp(level: int, unix_s: float) -> str:
    moment = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"time={moment} level={logging.getLevelName(level).lower()}"


def _priority(level: int) -> int:
    return next(number for lowest, number in _PRIORITIES if level >= lowest)


def _is_journald(fd: int) -> bool:
    """Whether journald reads `fd`: $JOURNAL_STREAM is device and inode of its stream, systemd.exec(5)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
