"""Telling systemd: ready, stopping, status, alive. sd_notify(3) in a few lines.

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
