"""State of the gateway on this host, owned by the supervisor and inherited by its children: configuration snapshot,
shared memory, slots, heartbeats.
"""
