"""The serial port `virtual://NAME`: pyserial's side of a line in memory, on the running simulated loop."""

from hal_mocks.memory_serial import Serial as Serial  # noqa: PLC0414 - the name pyserial looks for
