"""Trailers: the fields after a body that is chunked, or that came by HTTP/2 (RFC 9110 section 6.5)."""

from typing import Final

from fastgw.http.field_names import NOT_IN_TRAILERS
from fastgw.http.fields import Fields, folded
from fastgw.http.grammar import check_fields
from fastgw.http.malformed import Malformed

LONGEST_TRAILERS: Final = 65536
"""Maximum number of bytes of a response's trailer section, as of its head. `limits` has the values for requests."""
MOST_TRAILERS: Final = 100
TRAILERS_TOO_LARGE: Final = "The trailers are too large or too many."


def parse_trailers(
    section: bytes, longest: int = LONGEST_TRAILERS, most: int = MOST_TRAILERS
) -> tuple[tuple[bytes, bytes], ...]:
    """Parse trailers: from the line end before them to the empty line after them. Raises `Malformed`."""
    if len(section) > longest or section.count(b"\n", 2) - 1 > most:
        raise Malformed(TRAILERS_TOO_LARGE, 431)
    check_fields(section, 2, most)
    trailers = Fields.parse(section, 2)
    for name, _ in trailers:
        lower = folded(name)
        if lower in NOT_IN_TRAILERS or (lower.startswith(b"content-") and lower != b"content-digest"):
            raise Malformed("A trailer has a header that is not allowed in trailers.")
    return tuple(trailers)
