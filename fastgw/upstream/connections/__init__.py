"""Connections to targets: connecting, TLS, HTTP/1.1, and the pool that lends them."""
