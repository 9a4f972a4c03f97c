"""Cards: tells who stands in front of a reader, once per touch, and decides nothing about them.

Rule of this folder: `apdu` knows bytes and does no I/O; `pcsc` owns the one thread that may block on the
smart-card service. A card's number leaves only inside `events.Credential`: logs, errors and reasons carry
at most its masked form.
"""
