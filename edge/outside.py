"""What the daemon is given from outside. The default is the real world; a simulation gives its own.

Everything that could make two runs of the same day differ stands here: the clocks, the disk's thread, the
network, chance. The rest of the daemon is the same wherever it runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from edge import clock
from edge.journal import Worker, WorkerThread
from edge.ports import Clock, Reader

if TYPE_CHECKING:  # paho and TLS cost a station without an operator nothing
    from edge.uplink.connection import Connect
    from edge.uplink.waiting import Uniform


def journal_thread() -> Worker:
    """The thread that owns the journal's file."""
    return WorkerThread("journal")


@dataclass(frozen=True)
class Outside:
    """`readers` replaces card readers by id, for those that no PC/SC driver reaches; None means the usual."""

    clock: Clock = clock
    readers: Mapping[str, Reader] = field(default_factory=lambda: MappingProxyType({}))
    journal_worker: Callable[[], Worker] = journal_thread
    connect: "Connect | None" = None  # makes a connection to the broker
    uniform: "Uniform | None" = None  # a random number between two bounds


REAL_WORLD = Outside()
