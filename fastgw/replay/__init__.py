"""Recordings on the command line: fetched from a gateway, replayed against configurations in a sandbox, compared."""
