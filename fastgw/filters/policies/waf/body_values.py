"""Values of a request body for inspection: fields of forms, strings of JSON, text of XML, or the text itself.

The bodies may be cut off and may be invalid: nothing here parses strictly, recurses, or takes more than linear time.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import re2

from fastgw.filters.policies.waf.normalization import decoded

_PARAMETER: Final = re.compile(rb';[ \t]*([a-zA-Z0-9_*-]+)[ \t]*=[ \t]*(?:"([^"]*)"|([^;" \t]*))').findall
_JSON_STRING: Final = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)[ \t\r\n]*(:?)', re.DOTALL).findall
_JSON_ESCAPE: Final = re.compile(rb'\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4}))').sub
_JSON_SIGNS: Final = {b"b": b"\x08", b"f": b"\x0c", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_XML_TEXT: Final = re.compile(rb">([^<>]+)").findall
_XML_ATTRIBUTE: Final = re.compile(rb"=[ \t\r\n]*(?:\"([^\"<>]*)\"|'([^'<>]*)')").findall
_XML_CDATA: Final = re2.compile(rb"<!\[CDATA\[((?:[^\]]|\][^\]])*)").finditer
_XML_DECLARATION: Final = re.compile(rb"<(?:![a-zA-Z]|xi:|xsl:)[^<>]{0,512}[<>\[]?").findall
_NAME: Final = re.compile(rb"""(?i)[; \t]name\*?=(?:"([^"]*)"|([^; \t\n]*))""").search
_FILE_NAME: Final = re.compile(rb"""(?i)[; \t]filename\*?=(?:"([^"]*)"|([^; \t\n]*))""").search
_PART_TYPE: Final = re.compile(rb"(?im)^content-type:(.*)").search
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{1,70}").fullmatch
_TEXT: Final = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]*").fullmatch
CHARSETS: Final = frozenset(
    (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1", b"iso-8859-15", b"windows-1252", b"latin1", b"")
)


class InspectedBody(NamedTuple):
    """Values of a body. `arguments`: names and values; `text`: a body without structure; `is_malformed`: its parts
    cannot be separated. `counts`: its arguments count towards the limit.
    """

    arguments: list[tuple[bytes, bytes]]
    text: bytes = b""
    is_malformed: bool = False
    counts: bool = True


def charset_of(content_type: bytes) -> bytes:
    """Return the declared charset in lower case; b"": none."""
    return next((q or v for name, q, v in _PARAMETER(content_type) if name.lower() == b"charset"), b"").strip().lower()


def values_of(content_type: bytes | None, body: bytes, most: int) -> InspectedBody:
    """Return the values of a body, or of its beginning. `most`: maximum number of form fields that are returned."""
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    if kind == b"application/x-www-form-urlencoded" or not kind:
        if not kind and body.lstrip()[:1] in (b"{", b"["):
            return InspectedBody(_json_values(body), counts=False)
        return InspectedBody(form_values(body, most))
    if kind == b"application/json" or kind.endswith(b"+json") or kind in (b"text/json", b"application/x-ndjson"):
        if body.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] in (b"{", b"[", b'"'):
            return InspectedBody(_json_values(body), counts=False)
        return InspectedBody(form_values(body, most), body)
    if kind.endswith((b"/xml", b"+xml")):
        return InspectedBody([*_xml_values(body)], counts=False)
    if kind.startswith(b"multipart/"):
        return _multipart_values(content_type or b"", body, most)
    if kind.startswith(b"text/") or _TEXT(body[:512]):
        return InspectedBody(form_values(body, most) if b"=" in body[:256] else [], body, counts=False)
    return InspectedBody([])


def form_values(text: bytes, most: int) -> list[tuple[bytes, bytes]]:
    """Return the parameters of a query or a form, decoded: at most one more than `most`."""
    pairs = []
    for pair in text.split(b"&", most + 1)[: most + 1]:
        name, _, value = pair.partition(b"=")
        pairs.append((decoded(name, plus=True), decoded(value, plus=True)))
    return pairs


def _json_values(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the strings, each after the last name before it, and the names."""
    pairs, name = [], b""
    for text, colon in _JSON_STRING(body):
        if b"\\" in text:
            text = _JSON_ESCAPE(_of_json, text)
        if colon:
            name = text
        pairs.append((name, b"" if colon else text))
    return pairs


def _of_json(found: re.Match[bytes]) -> bytes:
    if found[2]:
        code = int(found[2], 16)
        return bytes((code,)) if code < 256 else chr(code).encode(errors="replace")
    return _JSON_SIGNS.get(found[1], found[1])


def _xml_values(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    for text in _XML_TEXT(body):
        if not text.isspace():
            yield b"", text
    for quoted, other in _XML_ATTRIBUTE(body):
        yield b"", quoted or other
    for found in _XML_CDATA(body):
        yield b"", found[1]
    for text in _XML_DECLARATION(body):
        yield b"", text


def _multipart_values(content_type: bytes, body: bytes, most: int) -> InspectedBody:
    boundaries = [q or v for name, q, v in _PARAMETER(content_type) if name.lower() == b"boundary"]
    if len(boundaries) != 1 or not _BOUNDARY(boundaries[0]):
        return InspectedBody([], body, is_malformed=True)
    parts = (b"\n" + body).split(b"\n--" + boundaries[0], most + 2)
    if len(parts) < 2 or parts[0].strip():
        return InspectedBody([], body, is_malformed=True)
    arguments: list[tuple[bytes, bytes]] = []
    is_malformed = False
    for part in parts[1:]:
        if part.startswith(b"--"):
            break
        head, separator, content = part.replace(b"\r\n", b"\n").partition(b"\n\n")
        is_malformed = is_malformed or head.lower().count(b"\ncontent-disposition:") > 1
        name = _NAME(head)
        label = b"" if name is None else name[1] or name[2] or b""
        file_name = _FILE_NAME(head)
        if file_name is None:
            arguments.append((label, content))
        else:  # the content of a file is data
            arguments.append((label, b'filename="%b"' % (file_name[1] or file_name[2] or b"")))
        if (kind := _PART_TYPE(head)) is not None:
            if charset_of(kind[1]) not in CHARSETS:
                is_malformed = True
            arguments.append((label, kind[1]))
        if not separator and content:
            is_malformed = True
    return InspectedBody(arguments[: 2 * most + 2], b"", is_malformed)
