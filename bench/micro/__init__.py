"""Rooms of the request path timed alone: `python -m bench.micro --help`."""
