"""Trailers: the fields after a body that is chunked, or that came by HTTP/2 (RFC 9110 section 6.5)."""

from typing import Final

LONGEST_TRAILERS: Final = 65536
"""Maximum number of bytes of a response's trailer section, as of its head. `limits` has the values for requests."""
MOST_TRAILERS: Final = 100
TRAILERS_TOO_LARGE: Final = "The trailers are too large or too many."

def parse_trailers(section: bytes, longest: int = ..., most: int = ...) -> tuple[tuple[bytes, bytes], ...]:
    """Parse trailers: from the line end before them to the empty line after them. Raises `Malformed`."""
