"""Recordings of requests: what is recorded of one, without credentials, and the encrypted file that holds them."""
