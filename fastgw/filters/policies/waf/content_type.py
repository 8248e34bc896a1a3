"""Parameters of content types for inspection, read leniently: of a request, and of a part of a multipart body."""

import re
from typing import Final

_PARAMETER: Final = re.compile(rb';[ \t]*([a-zA-Z0-9_*-]+)[ \t]*=[ \t]*(?:"([^"]*)"|([^;" \t]*))').findall
CHARSETS: Final = frozenset(
    (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1", b"iso-8859-15", b"windows-1252", b"latin1", b"")
)
"""Charsets whose text is inspected as it is."""


def parameters_of(content_type: bytes, wanted: bytes) -> list[bytes]:
    """Return the values of the parameters with this lower-case name."""
    return [quoted or token for name, quoted, token in _PARAMETER(content_type) if name.lower() == wanted]


def charset_of(content_type: bytes) -> bytes:
    """Return the declared charset in lower case; b"": none. Several that differ are joined: some readers take the
    first, others the last one.
    """
    return b",".join(dict.fromkeys(each.strip().lower() for each in parameters_of(content_type, b"charset")))
