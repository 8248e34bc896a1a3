"""Content codings of a message, by `Content-Encoding` (RFC 9110 section 8.4)."""

from collections.abc import Iterable
from typing import Final

from fastgw.http.content_coding.accept_encoding import IDENTITY

ALIASES: Final = {b"x-gzip": b"gzip"}
"""Codings by their older names."""


def codings_in(values: Iterable[bytes]) -> list[bytes]:
    """Return the codings in the order in which they were applied, in lower case and without `identity`. `values`: of
    the header.
    """
    codings = [member.strip(b" \t").lower() for value in values for member in value.split(b",")]
    return [ALIASES.get(coding, coding) for coding in codings if coding not in (b"", IDENTITY)]
