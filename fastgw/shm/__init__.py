"""Shared memory of a node: one writer per word, slots by name, rate limit tables, quotas, health of upstreams."""
