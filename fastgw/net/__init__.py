"""Protocols before and below HTTP: PROXY protocol, TLS client hello, certificates, session tickets, OpenSSL's own
functions.
"""
