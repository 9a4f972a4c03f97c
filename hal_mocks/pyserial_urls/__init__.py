"""Where pyserial looks for the classes of its URLs: `virtual://NAME` is a line of `memory_serial`.

The name of the module is pyserial's rule: `protocol_` and the scheme.
"""
