"""Requests of the gateway itself: sub-requests, mirrored requests, an HTTP client for key sets and tokens."""
