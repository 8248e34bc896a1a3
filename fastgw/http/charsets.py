"""Charsets of bodies that are read as UTF-8."""

import re
from typing import Final

_UTF8: Final = re.compile(
    rb';[ \t]*charset[ \t]*=[ \t]*(?:"(?:utf-?8|us-ascii)"|(?:utf-?8|us-ascii)(?=[ \t]*(?:;|$)))'
).sub
_QUOTED: Final = re.compile(rb'="(?:(?!charset[ \t]*[*=])[^"\\;])*"(?=[ \t]*(?:;|$))').sub
"""Replaces quoted values, but none in which a server that does not know them could read a charset."""


def is_utf8(content_type: bytes) -> bool:
    """Whether text of this content type is UTF-8: without `charset`, with this one, or with its subset US-ASCII.

    Servers decode by the parameter: in UTF-7, `+AHE-uery` is another name of a member than the one that was checked.
    """
    lowered = content_type.lower()
    if b"charset" not in lowered:  # PERF: 0.2 us instead of 0.5 (CPython 3.11)
        return True
    return b"charset" not in _QUOTED(b"=", _UTF8(b";", lowered))
