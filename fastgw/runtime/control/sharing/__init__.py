"""Streams in Redis, over which the control processes of all nodes share changes."""
