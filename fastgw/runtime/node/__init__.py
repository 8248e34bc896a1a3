"""The state of this host's gateway, which the supervisor owns and its children inherit: snapshot, shared memory,
slots, heartbeats.
"""
