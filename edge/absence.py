"""How long no daemon ran: a heartbeat in the runtime directory, which is memory and does not outlive a boot.

It wears no disk and is written at every tick. What cannot be read counts as an unknown absence.
"""

import os
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Heartbeat:
    """The file `alive` in the runtime directory: boot id and monotonic ms of the last tick."""

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / "alive"
        self._boot = BOOT_ID.read_text().strip()

    def beat(self, now_ms: int) -> None:
        """Say that the core is alive. A disk error here is not worth a session, so it is left to be seen."""
        try:
            alive = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                os.write(alive, f"{self._boot} {now_ms}\n".encode())
            finally:
                os.close(alive)
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
