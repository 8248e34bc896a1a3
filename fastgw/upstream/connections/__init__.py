"""Connections to targets: connecting, TLS, HTTP/1.1, their streams, and the pool that lends them."""
