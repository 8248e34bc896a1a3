"""Services of a process's event loop: timer wheel, read buffers, direct socket sends, TLS transport, single-
flight.

This package is independent of HTTP.
"""
