"""The exceptions of the controller, on one screen.

    EdgeError
    ├── ConfigError        the configuration is wrong; exit 78, every problem listed
    ├── DeviceError        a device of ours does not do its work; the hand retries with back-off
    │   ├── DeviceTimeout  it did not answer in time
    │   └── PeerError      it answered, but not what its protocol allows
    ├── UplinkError        the operator cannot be reached; retried for ever
    └── JournalError       we cannot promise to remember; new sessions are refused

Exceptions steer code; what a person must know is a fault (`edge.control.faults`). Any other exception is
a bug of ours: it ends the process, systemd restarts it, and the hardware falls back to its safe state.
"""


class EdgeError(Exception):
    """The root of all expected failures; its text is one sentence a technician can act on."""


class ConfigError(EdgeError):
    """The configuration cannot be used.

    `problems` holds one line each: path, value found, remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DeviceError(EdgeError):
    """A device is not there, or stopped working."""


class DeviceTimeout(DeviceError):
    """A device did not answer within its time."""


class PeerError(DeviceError):
    """A device answered something its protocol does not allow."""


class UplinkError(EdgeError):
    """The operator's side cannot be reached or does not keep to the contract."""


class JournalError(EdgeError):
    """The journal cannot make a record durable. `full` tells a full disk from a broken or locked one."""

    def __init__(self, text: str, *, full: bool = False) -> None:
        super().__init__(text)
        self.full = full
