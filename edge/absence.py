"""How long no daemon ran: a heartbeat in the runtime directory, which is memory and does not outlive a boot.

It wears no disk and is written at every tick, at one go over what stood there: who is killed leaves a whole
line. What cannot be read counts as an unknown absence.
"""

import os
import weakref
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_DIGITS = 15
"""Of the time, filled up with spaces: every line is as long as the one it is written over."""


class Heartbeat:
    """The file `alive` in the runtime directory: boot id and monotonic ms of the last tick."""

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / "alive"
        self._file: int | None = None
        self._boot = BOOT_ID.read_text().strip()

    def beat(self, now_ms: int) -> None:
        """Say that the core is alive. A disk error here is not worth a session, so it is left to be seen."""
        try:
            if self._file is None or os.fstat(self._file).st_nlink == 0:  # somebody removed it
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
                weakref.finalize(self, os.close, self._file)
            os.pwrite(self._file, f"{self._boot} {now_ms:{_DIGITS}}\n".encode(), 0)
        except OSError:
            return

    def absent_ms(self, now_ms: int) -> int | None:
        """How long nobody ticked; None after a reboot, at the first start, or when it cannot be told."""
        try:
            boot, last = self._path.read_text().split()
        except (OSError, ValueError):
            return None
        if boot != self._boot or not last.isascii() or not last.isdigit():
            return None
        return max(0, now_ms - int(last))
