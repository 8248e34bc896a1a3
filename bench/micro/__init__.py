"""Microbenchmarks of parts of the request path: `python -m bench.micro --help`."""
