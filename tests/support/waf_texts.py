"""Texts that the firewall searches, read plainly: the judge of the compiled readers."""

import re
from collections.abc import Collection, Iterable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from fastgw.filters.policies.waf.header_values import FILENAME
from fastgw.filters.policies.waf.json_values import unescaped
from fastgw.filters.policies.waf.normalization import DECODINGS, PLAIN, SEPARATOR, normalized, unicode_decoded

_BESIDE_STRINGS: Final = b" \t\r\n\x1e{}[],:0123456789+-.eEtrufalsn"
_BOM: Final = b"\xef\xbb\xbf"
_STRING: Final = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)[ \t\r\n]*(:?)', re.DOTALL).finditer
_BETWEEN: Final = frozenset((b",", b", "))
_NO_STRUCTURE: Final = bytes(each for each in range(256) if each not in b"{}[]:=")
_PLAIN_QUERY: Final = re.compile(
    rb"[A-Za-z0-9_.,:@~/-]*(?:=[A-Za-z0-9_.,:@~/-]*)?(?:&[A-Za-z0-9_.,:@~/-]*(?:=[A-Za-z0-9_.,:@~/-]*)?)*"
).fullmatch
_QUERY: Final = bytes(range(256)).lower().replace(b"&", SEPARATOR).replace(b"=", SEPARATOR)
UNSKIPPED: Final = b"${"


def json_values(body: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return the strings, each with the name of the member that it is in, and the names, each with an empty value; and
    whether there is anything else than JSON beside the strings.
    """
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
    return pairs, bool(b"".join(others).removeprefix(_BOM).translate(None, _BESIDE_STRINGS))


def unknown_values(
    headers: Any,
    skipped: frozenset[bytes],
    of_files: frozenset[bytes],
    known: Collection[bytes],
    known_cookies: Collection[bytes],
) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Return the names and values of the headers that have to be searched, and the lines of cookies.

    `skipped`: lower-case names, `cookie` among them. `of_files`: names whose values are names of files; these are
    returned as `FILENAME`, even if they are known. `known`, `known_cookies`: values that need no search.
    """
    values = []
    for name, value in headers.fields():
        folded = name.lower()
        if folded in of_files:
            values.append((name, FILENAME % value))
        elif value not in known and (folded not in skipped or UNSKIPPED in value):
            values.append((name, value))
    return values, [line for line in headers.values(b"cookie") if line not in known_cookies]


def decoded(text: bytes, plus: bool) -> bytes:
    """Return the text percent-decoded, up to `DECODINGS` times. `plus`: `+` is a space, as in a query."""
    if plus and b"+" in text:
        text = text.replace(b"+", b" ")
    for _ in range(DECODINGS):
        if b"%" not in text:
            break
        if b"%u" in text or b"%U" in text:
            text = unicode_decoded(text)
        text = unquote_to_bytes(text)
    return text


def search_text(texts: Iterable[bytes]) -> tuple[bytes, bool]:
    """Return texts normalized, with `SEPARATOR` between them, and whether all of them are plain (`PLAIN`)."""
    texts = [*texts]
    return SEPARATOR.join(map(normalized, texts)), all(map(PLAIN, texts))


def plain_target(path: bytes, query: bytes | None, most: int) -> bytes | None:
    """Return path and query in lower case, with `SEPARATOR` between the path, the names and the values. None: there is
    more to normalize, or there are more than `most` parameters.
    """
    if not PLAIN(path):
        return None
    if not query:
        return path.lower()
    if not _PLAIN_QUERY(query) or query.count(b"&") >= most:
        return None
    return b"%b\0%b" % (path.lower(), query.translate(_QUERY))


def cookie_text(line: bytes) -> tuple[bytes, bool]:
    """Return the names and values of the cookies in a line as `search_text` does."""
    texts = []
    for pair in line.split(b";"):
        name, _, value = pair.strip().partition(b"=")
        texts += [decoded(name, plus=False), decoded(value, plus=False)]
    return search_text(texts)
