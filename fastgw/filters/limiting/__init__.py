"""Shared parts of filters that limit: keys, counter stores, response headers."""
