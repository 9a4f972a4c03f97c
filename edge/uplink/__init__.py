"""TOUCHES the operator: the versioned MQTT contract and the one connection to the broker.

Lives outside: knows nothing of `control`, gets ready structs from the daemon and the claims from an `Outbox`.
"""
