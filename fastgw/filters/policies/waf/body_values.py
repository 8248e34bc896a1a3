"""Values of a request body for inspection: fields of forms, strings of JSON, text of XML, or the text itself.

The bodies may be cut off and may be invalid: nothing here parses strictly, recurses, or takes more than linear time.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from fastgw.filters.policies.waf.content_type import CHARSETS
from fastgw.filters.policies.waf.multipart_values import multipart_values
from fastgw.filters.policies.waf.normalization import decoded

_JSON_STRING: Final = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)[ \t\r\n]*(:?)', re.DOTALL).finditer
_JSON_BESIDE_STRINGS: Final = b" \t\r\n{}[],:0123456789+-.eEtrufalsn"
"""Characters of JSON outside of strings."""
_JSON_ESCAPE: Final = re.compile(rb'\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4}))').sub
_JSON_SIGNS: Final = {b"b": b"\x08", b"f": b"\x0c", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_XML_MARKUP: Final = re.compile(
    rb"<(?:!\[CDATA\[(.*?)(?:\]\]>|\Z)|(!--.*?(?:-->|\Z)|\?.*?(?:\?>|\Z))"
    rb"""|((?:[^<>"']++|"[^"]*"?|'[^']*'?)*)>?)""",
    re.DOTALL,
).finditer
"""Iterates over CDATA sections (1), comments and processing instructions (2), and tags and declarations (3). Each ends
with the text, if nothing else ends it, so that no character is read twice.
"""
_XML_QUOTED: Final = re.compile(rb"\"([^\"]+)\"?|'([^']+)'?").findall
_XML_DECLARATION: Final = re.compile(rb"<(?:![a-zA-Z]|xi:|xsl:)[^<>]{0,512}[<>\[]?").findall
_XML_PROLOG: Final = re.compile(rb"\s*<\?xml\s(.*?)(?:\?>|\Z)", re.DOTALL).match
_XML_ENCODING: Final = re.compile(rb"""encoding\s*=\s*["']?([^"'?]*)""").findall
_XML_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]|Lo\xa7\x94|[^\0]{0,3}\0", re.DOTALL).match
"""Beginning of a document in UTF-16, UTF-32 or EBCDIC (XML 1.0, appendix F)."""
_BOM: Final = b"\xef\xbb\xbf"
_BINARY: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]").search
"""Finds a byte that no text has (WHATWG MIME Sniffing, "binary data byte")."""


class InspectedBody(NamedTuple):
    """Values of a body. `arguments`: names and values; `text`: a body without structure; `is_malformed`: its parts
    cannot be separated. `counts`: its arguments count towards the limit. `is_encoded`: it is in an encoding of which
    these are no values.
    """

    arguments: list[tuple[bytes, bytes]]
    text: bytes = b""
    is_malformed: bool = False
    counts: bool = True
    is_encoded: bool = False


def values_of(content_type: bytes | None, body: bytes) -> InspectedBody:
    """Return the values of a body, or of its beginning."""
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    if kind == b"application/x-www-form-urlencoded" or not kind:
        if not kind and body.lstrip()[:1] in (b"{", b"["):
            return _json_body(body)
        return InspectedBody(form_values(body))
    if kind == b"application/json" or kind.endswith(b"+json") or kind in (b"text/json", b"application/x-ndjson"):
        if body.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] in (b"{", b"[", b'"'):
            return _json_body(body)
        return InspectedBody(form_values(body), body)
    if kind.endswith((b"/xml", b"+xml")):
        return InspectedBody([*_xml_values(body)], counts=False, is_encoded=_is_encoded_xml(body))
    if kind.startswith(b"multipart/"):
        arguments, is_malformed = multipart_values(content_type or b"", body)
        return InspectedBody(arguments, body if is_malformed else b"", is_malformed)
    if kind.startswith(b"text/") or not _BINARY(body[:512]):
        return InspectedBody(form_values(body) if b"=" in body[:256] else [], body, counts=False)
    return InspectedBody([])


def form_values(text: bytes) -> list[tuple[bytes, bytes]]:
    """Return the parameters of a query or a form, decoded."""
    pairs = []
    for pair in text.split(b"&"):
        name, _, value = pair.partition(b"=")
        if b"%" in pair or b"+" in pair:
            name, value = decoded(name, plus=True), decoded(value, plus=True)
        pairs.append((name, value))
    return pairs


def _json_body(body: bytes) -> InspectedBody:
    """Return the values of JSON: the strings, each after the last name before it, and the names. Lenient readers, such
    as Gson, also take strings in single quotes or without quotes: with anything else than JSON beside its strings, the
    text is a value, too.
    """
    # PERF: one by one, because 128 KiB of quotation marks at once held the lock of the interpreter for 11 ms, during
    # which the event loop waited (CPython 3.11).
    pairs, others, name, at = [], [], b"", 0
    for found in _JSON_STRING(body):
        text, colon = found.groups()
        if found.start() > at:
            others.append(body[at : found.start()])
        at = found.end()
        if b"\\" in text:
            text = _JSON_ESCAPE(_of_json, text)
        if colon:
            name = text
        pairs.append((name, b"" if colon else text))
    others.append(body[at:])
    beside_strings = b"".join(others).removeprefix(_BOM).translate(None, _JSON_BESIDE_STRINGS)
    return InspectedBody(pairs, body if beside_strings else b"", counts=False)


def _of_json(found: re.Match[bytes]) -> bytes:
    if found[2]:
        code = int(found[2], 16)
        return bytes((code,)) if code < 256 else chr(code).encode(errors="replace")
    return _JSON_SIGNS.get(found[1], found[1])


def _is_encoded_xml(body: bytes) -> bool:
    """Whether a document is in an encoding other than `CHARSETS`, by its first bytes or its declaration."""
    text = body.removeprefix(_BOM)
    if _XML_NOT_ASCII(text):
        return True
    prolog = _XML_PROLOG(text)
    return prolog is not None and any(each.strip().lower() not in CHARSETS for each in _XML_ENCODING(prolog[1]))


def _xml_values(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield texts, with the CDATA sections in them and without the markup that divides them, values of attributes,
    comments and processing instructions.
    """
    pieces, at = [], 0
    for found in _XML_MARKUP(body):
        pieces.append(body[at : found.start()])
        at = found.end()
        section, ignored, tag = found.groups()
        if section is not None:
            pieces.append(section)
        elif ignored is not None:
            yield b"", found[0].removeprefix(b"<?xml")  # its declaration, or a style sheet
        else:
            if text := b"".join(pieces).strip():
                yield b"", text
            pieces = []
            for quoted, other in _XML_QUOTED(tag):
                yield b"", quoted or other
    if text := b"".join([*pieces, body[at:]]).strip():
        yield b"", text
    for text in _XML_DECLARATION(body):
        yield b"", text
