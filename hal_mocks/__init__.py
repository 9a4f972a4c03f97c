"""The other end of every wire: devices, cars, cards and a backend that speak the real protocols.

A peer is written from its specification and imports nothing from `edge`. Its model does no input or output
and reads no clock: bytes in, bytes out, time as an argument. The same model therefore answers in memory on
virtual time and, through `wires`, on a real pty or TCP port. All times are milliseconds, all states are
integers (mA, mV, mW, nJ), and what is random comes from a seed.

`vehicle` `evse` `meter` are devices; `world` wires them into a site; `modbus_rtu` frames their registers;
`wires` puts them on ptys and ports.
"""
