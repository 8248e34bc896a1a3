"""Strings of JSON in a request body for inspection. The body may be cut off and may be invalid."""

import re
from typing import TYPE_CHECKING, Final

BOM: Final = b"\xef\xbb\xbf"
BESIDE_STRINGS: Final = b" \t\r\n\x1e{}[],:0123456789+-.eEtrufalsn"
"""Characters of JSON outside of strings, and the separator of records."""
_STRING: Final = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)[ \t\r\n]*(:?)', re.DOTALL).finditer
_BETWEEN: Final = frozenset((b",", b", "))
"""The bytes that stand between most strings."""
_NO_STRUCTURE: Final = bytes(each for each in range(256) if each not in b"{}[]:=")
_ESCAPE: Final = re.compile(rb'\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4}))').sub
_SIGNS: Final = {b"b": b"\x08", b"f": b"\x0c", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _json_values(body: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return the strings, each with the name of the member that it is in, and the names, each with an empty value; and
    whether there is anything else than JSON beside the strings.
    """
    # PERF: one by one, because 128 KiB of quotation marks at once held the lock of the interpreter for 11 ms, during
    # which the event loop waited (CPython 3.11).
    pairs, others, name, at = [], [], b"", 0
    outer: list[bytes] = []  # for each object and array that is open, the name of the member that it is in
    for found in _STRING(body):
        text, colon = found.groups()
        if found.start() > at:
            between = body[at : found.start()]
            others.append(between)
            for sign in b"" if between in _BETWEEN else between.translate(None, _NO_STRUCTURE):
                if sign in b"{[":
                    outer.append(name)
                elif sign in b":=":
                    name = b""  # of a member whose name is in no double quotes: it is not the last one
                else:
                    name = outer.pop() if outer else b""
        at = found.end()
        if b"\\" in text:
            text = unescaped(text)
        if colon:
            name = text
        pairs.append((name, b"" if colon else text))
    others.append(body[at:])
    return pairs, bool(b"".join(others).removeprefix(BOM).translate(None, BESIDE_STRINGS))


def unescaped(text: bytes) -> bytes:
    """Return the content of a string without escapes. Escapes that JSON does not know are kept."""
    return _ESCAPE(_of_escape, text)


def _of_escape(found: re.Match[bytes]) -> bytes:
    if found[2]:
        return chr(int(found[2], 16)).encode(errors="replace")
    return _SIGNS.get(found[1], found[1])


if TYPE_CHECKING:
    json_values = _json_values
else:
    from fastgw.filters.policies.waf._json_values import json_values as json_values
