"""Plumbing to the hardware: lines, controllers, polling. A driver knows one device and decides nothing.

Rules of this folder: a line has one owner (`bus`), and everything on it goes through there; a driver raises
only the three device errors of `edge.errors`, and their text tells a technician what to look at next.
Adding an EVSE controller is one file here, its line in `edge.wiring`, and its test.
"""
