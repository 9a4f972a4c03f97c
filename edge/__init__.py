"""The edge controller: one daemon that runs a charging station.

Rule of this folder: `control` and `payments` decide and are pure; every other folder touches the world
and decides nothing. The vocabulary they share: `events`, `commands`, `records`, `ports`, `errors`.
"""

__version__ = "0.1.0"
