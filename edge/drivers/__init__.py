"""Plumbing to the hardware: lines, controllers, polling. A driver knows one device and decides nothing.

Adding an EVSE controller is one file here, its line in `edge.wiring`, and its test.
"""
