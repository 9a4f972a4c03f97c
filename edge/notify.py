"""Telling systemd: ready, stopping, status, alive. sd_notify(3) and sd_watchdog_enabled(3) in a few lines.

Without a service manager ($NOTIFY_SOCKET is not set) nothing happens.
"""

import os
import socket
from collections.abc import Mapping


def send(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send `VARIABLE=value` assignments in one datagram; False if nobody took them.

    It never waits and never raises: a service manager that does not listen will act on the silence itself.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # the abstract namespace of unix(7)
        address = "\0" + address[1:]
    message = "\n".join(assignment.replace("\n", " ") for assignment in assignments)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto(message.encode(errors="replace"), address)
        except OSError:
            return False
    return True


def watchdog_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How long systemd waits for the next `WATCHDOG=1` before it kills us; None if it does not watch us.

    Send it at least twice in that time (sd_watchdog_enabled(3)).
    """
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # meant for the process that started us
    wait_us = environ.get("WATCHDOG_USEC", "")
    if not (wait_us.isascii() and wait_us.isdigit()):
        return None
    return int(wait_us) / 1_000_000 or None
