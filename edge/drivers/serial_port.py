"""Why a serial port cannot be used, in words that help the person in front of it."""

import fcntl
import os


def why_not(port: str) -> str:
    """Try the port once more and say in a sentence what is wrong with it."""
    try:
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError:
        return "It does not exist: plug the adapter in, or correct the path (see /dev/serial/by-id)."
    except PermissionError:
        return "This user may not open it: add the user to the port's group, usually dialout."
    except OSError as error:
        return f"The system says: {error.strerror}."
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "Another program uses it: end that program first."
    finally:
        os.close(descriptor)
    return "It is no serial line, or does not know these line settings."
