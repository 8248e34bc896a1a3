"""Protocols below HTTP: PROXY protocol, TLS client hello, certificates, session tickets, OpenSSL functions."""
