"""Values of a request body for inspection: fields of forms, strings of JSON, text of XML, or the text itself.

The bodies may be cut off and may be invalid: nothing here parses strictly, recurses, or takes more than linear time.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from fastgw.filters.policies.waf.content_type import CHARSETS
from fastgw.filters.policies.waf.json_values import BOM, json_values
from fastgw.filters.policies.waf.multipart_values import multipart_values
from fastgw.filters.policies.waf.search_texts import decoded

_XML_MARKUP: Final = re.compile(
    rb"<(?:!\[CDATA\[(.*?)(?:\]\]>|\Z)|(!--.*?(?:-->|\Z)|\?.*?(?:\?>|\Z))"
    rb"""|((?:[^<>"']++|"[^"]*"?|'[^']*'?)*)>?)""",
    re.DOTALL,
).finditer
"""Iterates over CDATA sections (1), comments and processing instructions (2), and tags and declarations (3). Each ends
with the text, if nothing else ends it, so that no character is read twice.
"""
_XML_QUOTED: Final = re.compile(rb"\"([^\"]+)\"?|'([^']+)'?").findall
_XML_DECLARATION: Final = re.compile(rb"<(?:![a-zA-Z]|xi:|xsl:)[^<>]*>?").findall
_XML_PROLOG: Final = re.compile(rb"\s*<\?xml\s(.*?)(?:\?>|\Z)", re.DOTALL).match
_XML_ENCODING: Final = re.compile(rb"""encoding\s*=\s*["']?([^"'?]*)""").findall
_XML_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]|Lo\xa7\x94|[^\0]{0,3}\0", re.DOTALL).match
"""Beginning of a document in UTF-16, UTF-32 or EBCDIC (XML 1.0, appendix F)."""
_BLANK: Final = b" \t\r\n\x1e" + BOM
"""Bytes before a document: white space, a byte order mark, and the separator of records of JSON (RFC 7464)."""
_IS_JSON: Final = re.compile(rb"(?:[/.+_-]|nd)json").search
_CONTROLS: Final = bytes((*range(9), 11, *range(14, 27), *range(28, 32)))
"""Bytes that no text has (WHATWG MIME Sniffing, "binary data byte")."""
_HAS_CONTROL: Final = re.compile(b"[%b]" % re.escape(_CONTROLS)).search
_SNIFFED: Final = 512
_BINARY_SHARE: Final = 4
"""One of so many bytes is a control character or no UTF-8 in a binary body. Compressed data has more than a half."""
_SIGNED: Final = re.compile(
    rb"(?:image|audio|video|font)/|application/(?:.*[.+-])?(?:(?:g?zip|x?z|bzip2?|zstd|tar|7z.*|rar)(?:-compressed)?|"
    rb"octet-stream|pdf|msword|ogg|mp4|font-.*|wasm)"
).match
"""Matches the types of files that are recognized by their first bytes."""
_SIGNATURE: Final = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF|BM.{4}\0\0|II\*\0|MM\0\*|\0\0\x01\0|.{4}ftyp|\x1a\x45\xdf\xa3|OggS\0|"
    rb"fLaC\0|ID3[\x02-\x04]\0|\xff[\xe2-\xfb]|wOF[F2]|OTTO\0|\0\x01\0\0|PK[\x03\x05][\x04\x06]|\x1f\x8b|"
    rb"7z\xbc\xaf\x27\x1c|\xfd7zXZ\0|BZh[1-9]1AY&SY|\x28\xb5\x2f\xfd|Rar!\x1a\x07|%PDF-[12]|\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1|"
    rb"\0asm|.{257}ustar",
    re.DOTALL,
).match
"""Matches such files: metadata, and what they store without compression, is text that may fill the first bytes."""
_SERIALIZED: Final = re.compile(
    rb"application/(?:.*[.+-])?(?:protobuf|grpc-web|msgpack|cbor|avro|bson|thrift|parquet|amf|ocsp-request)"
).match
"""Matches types of serialized values. To their readers, text is in them, but they are not text."""
_WIDE: Final = re.compile(
    rb"(?:\xff\xfe|(?:\0\0)?\xfe\xff|[\t\n\r -~]\0|\0(?:\0\0(?=.\0))?[\t\n\r -~])", re.DOTALL
).match
"""Matches what may be text in UTF-16 or UTF-32, whose ASCII characters are found when its NUL bytes are removed."""
_WIDE_ENCODINGS: Final = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_STRICT_XML: Final = re.compile(
    rb"[^<&]+|&(?:#[0-9]+|#x[0-9a-fA-F]+|[\w:.-]+);|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)|"
    rb"</?+[\w:.\x80-\xff-]++(?:\s++[\w:.\x80-\xff-]++\s*+=\s*+(?:\"[^\"<&]*+(?:&[\w#:.-]++;[^\"<&]*+)*\"|"
    rb"'[^'<&]*+(?:&[\w#:.-]++;[^'<&]*+)*'))*\s*+/?+>",
    re.DOTALL,
).finditer
"""Iterates over the text and the markup of XML without a document type. All of these, except names of
elements and attributes, is in `_xml_values`.
"""
_CUT_MARKUP: Final = re.compile(
    rb"""<(?:!(?:-|\[[A-Z]{0,5})?|/?[\w:.\x80-\xff-]*+(?:\s++[\w:.\x80-\xff-]++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+'))*"""
    rb"""(?:\s++(?:[\w:.\x80-\xff-]++\s*+(?:=\s*+(?:"[^"<]*|'[^'<]*)?)?)?|/)?)""",
).fullmatch
"""Matches a tag without its end, and the beginning of a comment or a section."""


class InspectedBody(NamedTuple):
    """Values of a body. `arguments`: names and values; `text`: a body without structure; `is_malformed`: its parts
    cannot be separated. `counted`: number of parameters for the limit. `is_encoded`: it is in an encoding of which
    these are no values.
    """

    arguments: list[tuple[bytes, bytes]]
    text: bytes = b""
    is_malformed: bool = False
    counted: int = 0
    is_encoded: bool = False


def values_of(content_type: bytes | None, body: bytes) -> InspectedBody:
    """Return the values of a body, or of its beginning."""
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    if kind == b"application/x-www-form-urlencoded" or not kind:
        values = _document(body)
        if values is not None and not kind:
            return _untyped_xml(body, values) if _begins_xml(body) else values
        pairs = form_values(body)
        # clients such as curl send any body as a form by default, and a service may read it as what it is
        arguments = pairs if values is None else [*pairs, *values.arguments]
        return InspectedBody(arguments, counted=len(pairs), is_encoded=values is not None and values.is_encoded)
    if _IS_JSON(kind):
        if _begins_json(body) or body.lstrip(_BLANK)[:1] == b'"':
            return _json_body(body)
        pairs = form_values(body)
        return InspectedBody(pairs, body, counted=len(pairs))
    if kind.endswith((b"/xml", b"+xml")):
        values = _xml_body(body)
        if values.is_encoded or not body.strip() or _begins_xml(body):
            return values
        return InspectedBody([*form_values(body), *values.arguments], body)
    if kind.startswith(b"multipart/"):
        arguments, is_malformed, counted = multipart_values(content_type or b"", body)
        return InspectedBody(arguments, body if is_malformed else b"", is_malformed, counted)
    is_text = kind.startswith(b"text/")
    if not is_text and _is_binary(kind, body):
        return InspectedBody([])
    if not is_text or _WIDE(body):
        # before escapes are decoded, which have NUL bytes in them
        body = body.replace(b"\0", b"").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    if kind == b"application/octet-stream" and _begins_xml(body):
        return _untyped_xml(body, _xml_body(body))  # the type says no more than none (RFC 9110 section 8.3)
    pairs = form_values(body) if b"=" in body[:256] else []
    values = None if kind == b"text/html" else _document(body)
    return InspectedBody(pairs if values is None else [*pairs, *values.arguments], body)


def _document(body: bytes) -> InspectedBody | None:
    """Return the values of a body that is JSON or XML by its first character. None: it is neither."""
    if _begins_json(body):
        return _json_body(body)
    return _xml_body(body) if _begins_xml(body) else None


def _begins_json(body: bytes) -> bool:
    return body.lstrip(_BLANK)[:1] in (b"{", b"[")


def _begins_xml(body: bytes) -> bool:
    return body.lstrip(_BLANK)[:1] == b"<"


def _untyped_xml(body: bytes, values: InspectedBody) -> InspectedBody:
    """Return the values of XML, and what is no XML as a form: all, or what follows at its end. In XML, markup
    is no attack, but in a form it may be.
    """
    end = 0
    for found in _STRICT_XML(body):
        if found.start() > end:
            break
        end = found.end()
    rest = body[end:]
    pairs = form_values(body if b"<" in rest[1:] else rest) if rest and not _CUT_MARKUP(rest) else []
    encoded = [(b"", decoded(text, plus=True)) for _, text in values.arguments if b"%" in text]
    return values._replace(arguments=[*values.arguments, *encoded, *pairs], counted=len(pairs))


def _is_binary(kind: bytes, body: bytes) -> bool:
    """Whether a body of a type without text is binary. A few control characters in a text do not make it so."""
    beginning = body[:_SNIFFED]
    if not _HAS_CONTROL(beginning):
        return False
    if (_SIGNED(kind) and _SIGNATURE(body)) or _SERIALIZED(kind):
        return True
    if _WIDE(body) and any(_is_text(beginning, each) for each in _WIDE_ENCODINGS):
        return False
    controls = len(beginning) - len(beginning.translate(None, _CONTROLS))
    others = len(beginning) - len(beginning.decode(errors="ignore").encode())
    return (controls + others) * _BINARY_SHARE >= len(beginning)


def _is_text(beginning: bytes, encoding: str) -> bool:
    try:
        text = beginning[: len(beginning) & ~3].decode(encoding)
    except UnicodeDecodeError as error:
        return 4 < len(beginning) - 8 <= error.start  # the last character is cut off
    return not _HAS_CONTROL(text.encode())


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
    """Return the values of JSON: the strings, each with the name of the member that it is in, and the names. Lenient
    readers, such as Gson, also take strings in single quotes or without quotes: with anything else than JSON beside its
    strings, the text is a value, too.
    """
    pairs, has_others = json_values(body)
    return InspectedBody(pairs, body if has_others else b"")


def _xml_body(body: bytes) -> InspectedBody:
    return InspectedBody([*_xml_values(body)], is_encoded=_is_encoded_xml(body))


def _is_encoded_xml(body: bytes) -> bool:
    """Whether a document is in an encoding other than `CHARSETS`, by its first bytes or its declaration."""
    text = body.removeprefix(BOM)
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
