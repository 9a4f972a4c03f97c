"""DECIDES. Pure: no clock, no I/O, no asyncio, no logging, no floats in what becomes a current.

`station.step(station, event)` gives the next station and what to command. Time comes in with the events.
"""
