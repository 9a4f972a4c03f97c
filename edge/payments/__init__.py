"""DECIDES what a session costs. Pure and exact: decimals and integers, no floats, no clock, no I/O."""
