"""Redaction of captured exchanges: credentials, cookies and secret parameters are hidden before it is shown.

Rule: a body that cannot be read cannot be redacted, so it is left out: one with an unknown content coding, of an
unknown type that is not text, or in a character encoding that does not contain ASCII, such as UTF-16.
"""

import re
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Final, NamedTuple, final
from urllib.parse import unquote_to_bytes

from fastgw.capture.captured_exchange import CapturedExchange
from fastgw.capture.secret_members import HIDDEN, without_secrets
from fastgw.observe.access_log.formats import masked_path, masked_words
from fastgw.observe.access_log.secret_names import SecretNames

COOKIES: Final = frozenset((b"cookie", b"set-cookie"))
_SCHEME: Final = re.compile(rb"([A-Za-z][A-Za-z0-9_-]*) +\S")
_REMEMBERED: Final = 4096  # names, which peers choose; each has at most 128 bytes
_PART_HEAD: Final = re.compile(rb"\A(?>(?:[^\r\n]++\r\n)+)\r\n")
_PART_NAME: Final = re.compile(rb"""[;\s]name=(?:"([^"\r\n]*+)"|([^\s;]++))""", re.IGNORECASE)
_PART_KIND: Final = re.compile(rb"^content-type:([^\r\n]*+)", re.IGNORECASE | re.MULTILINE)
_PART_ENCODED: Final = re.compile(rb"^content-transfer-encoding:\s*+(?!7bit|8bit|binary)", re.IGNORECASE | re.MULTILINE)
_BOUNDARY: Final = re.compile(rb"""boundary=(?:"([^"]++)"|([^\s;"]++))""", re.IGNORECASE)
_TEXT: Final = re.compile(
    rb"(?:text/|application/(?:[\w.+-]*\b(?:json|xml|yaml|javascript|graphql|ndjson)\b))", re.IGNORECASE
)
_FORM: Final = b"application/x-www-form-urlencoded"
_LONGEST_NAME: Final = 128
"""Maximum bytes of the name of a parameter that is shown with its value."""
_MOST_DECODED: Final = 4
"""How many percent-encodings around a value are decoded in search of secrets."""
_CHARSET: Final = re.compile(rb"""charset\s*+=\s*+["']?([^\s"';]++)""", re.IGNORECASE)
_XML_ENCODING: Final = re.compile(rb"""(?:\xef\xbb\xbf)?\s*+<\?xml\b[^>]*?\sencoding\s*+=\s*+["']([^"'>]++)""")
_WITH_ASCII: Final = re.compile(
    rb"utf-?8|us-ascii|ascii|iso-?8859-?[0-9]{1,2}|latin-?1|windows-125[0-9]", re.IGNORECASE
)
"""Character encodings in which names of secrets are ASCII, whatever is before them."""


class RedactedBody(NamedTuple):
    """Body of a message without secrets."""

    content: bytes
    omitted: str
    """Reason why the content is left out; "": it is not."""
    is_cut: bool = False
    """Whether a compressed body was read in part only."""


@final
class Redaction:
    """Hides secrets. `names`: names of headers, parameters and cookies with secrets, in addition to well-known ones."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = SecretNames(names)
        self._mask = self._names.mask
        self._hides_member = lru_cache(_REMEMBERED)(partial(_find_member, self._names))

    def hides_header(self, name: bytes) -> bool:
        """Whether the value of a header is hidden, which has this name in lower case."""
        return self._names.has_header(name)

    def path(self, path: bytes) -> bytes:
        return masked_path(path, self._mask) or b""

    def query(self, query: bytes | None) -> bytes | None:
        return self._mask(query)

    def fields(self, fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return header fields without secrets."""
        return [(name, self._value(name.lower(), value)) for name, value in fields]

    def _value(self, name: bytes, value: bytes) -> bytes:
        if name in COOKIES:
            return _without_cookies(value, name == b"set-cookie")
        if self.hides_header(name):
            scheme = _SCHEME.match(value) if name.endswith(b"authorization") else None
            return HIDDEN if scheme is None else scheme[1] + b" " + HIDDEN
        return masked_words(value, self._mask) or b""

    def body(self, fields: Iterable[tuple[bytes, bytes]], body: bytes, most: int) -> RedactedBody:
        """Return a body without secrets. `fields`: the header fields of its message. `most`: maximum bytes of a
        compressed body that are read.
        """
        if not body:
            return RedactedBody(b"", "")
        kind, encoding = content_fields(fields)
        is_cut = False
        if encoding not in (b"", b"identity"):
            inflated = _inflated(encoding, body, most)
            if inflated is None:
                return RedactedBody(b"", f"content coding {encoding.decode('latin-1')[:32]}")
            body, is_cut = inflated
        shown = hide_members(kind, body, self._hides_member, hides_unreadable=True)
        if shown is None:
            return RedactedBody(b"", f"type {kind.lower().partition(b';')[0].decode('latin-1')[:64] or 'unknown'}")
        if not _is_multipart(kind) and not _is_readable(kind, body):
            return RedactedBody(b"", "character encoding")
        return RedactedBody(shown, "", is_cut)


def _find_member(names: SecretNames, name: bytes) -> bool:
    name = name.lower()
    return names.has_member(name) or name in COOKIES


def content_fields(fields: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Return the content type, and the content coding in lower case, of a message; b"": it has none."""
    kind = encoding = b""
    for name, value in fields:
        if name.lower() == b"content-type":
            kind = value
        elif name.lower() == b"content-encoding":
            encoding = b", ".join(filter(None, (encoding, value.strip().lower())))
    return kind, encoding


def hide_members(
    kind: bytes, body: bytes, hides: Callable[[bytes], bool], *, hides_unreadable: bool = False
) -> bytes | None:
    """Return a body without the values of the names that `hides` is true for. `kind`: its content type.
    `hides_unreadable`: hide parts of a form that cannot be read as well.

    None: it is of an unknown type that is not text, or a form that does not contain its boundary.
    """
    if kind.lower().startswith(_FORM):
        shown = without_secrets(body, hides)  # clients send JSON with this type as well
        return b"&".join(_parameter(each, hides) for each in shown.split(b"&"))
    if _is_multipart(kind):
        boundary = _BOUNDARY.search(kind)
        limit = b"" if boundary is None else b"\r\n--" + (boundary[1] or boundary[2])
        before, *parts = (b"\r\n" + body).split(limit) if limit else (body,)
        if not parts:
            return None
        return limit.join((without_secrets(before, hides), *(_part(each, hides, hides_unreadable) for each in parts)))[
            2:
        ]
    if _TEXT.match(kind) or (not kind and body.lstrip()[:1] in (b"{", b"[", b"<")):
        return without_secrets(body, hides)
    return None


def _is_multipart(kind: bytes) -> bool:
    return kind.lower().startswith(b"multipart/form-data")


def _parameter(part: bytes, hides: Callable[[bytes], bool]) -> bytes:
    """Return a parameter of a form without secrets, of which the name and the value are percent-encoded."""
    name, equals, value = part.partition(b"=")
    plain = unquote_to_bytes(name.replace(b"+", b" "))
    if equals and (len(plain) > _LONGEST_NAME or hides(plain) or _has_encoded_secret(value, hides)):
        return name + equals + HIDDEN
    return part


def _has_encoded_secret(value: bytes, hides: Callable[[bytes], bool]) -> bool:
    """Whether decoding reveals a secret, such as in a document or URL that is the value of a parameter."""
    for _ in range(_MOST_DECODED):
        if b"%" not in value:
            break
        value = unquote_to_bytes(value.replace(b"+", b" "))
        if without_secrets(value, hides) != value:
            return True
    return False


def _is_readable(kind: bytes, text: bytes) -> bool:
    """Whether a text of this content type is in a character encoding that secrets are found in."""
    named = (_CHARSET.search(kind), _XML_ENCODING.match(text))
    return b"\0" not in text and all(each is None or _WITH_ASCII.fullmatch(each[1]) is not None for each in named)


def _part(part: bytes, hides: Callable[[bytes], bool], hides_unreadable: bool) -> bytes:
    """Return a part of a form, which begins behind the boundary, without secrets."""
    line_end, rest = part[:2], part[2:]
    if line_end == b"--":
        return line_end + without_secrets(rest, hides)  # after the last part
    head = _PART_HEAD.match(rest)
    if line_end != b"\r\n" or head is None:
        return HIDDEN  # other parsers may find a name in it
    name, content = _PART_NAME.search(head[0]), rest[head.end() :]
    if name is None or hides(name[1] or name[2] or b""):
        return line_end + head[0] + HIDDEN
    if hides_unreadable:
        kind = _PART_KIND.search(head[0])
        if _PART_ENCODED.search(head[0]) or not _is_readable(b"" if kind is None else kind[1], content):
            return line_end + head[0] + HIDDEN
    return line_end + head[0] + without_secrets(content, hides)


def received_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the fields of a request head, in its order."""
    fields = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name, value.strip(b" \t")))
    return fields


def request_fields(captured: CapturedExchange) -> list[tuple[bytes, bytes]]:
    """Return the header fields of the request as they were received."""
    return received_fields(captured.request_head)


def _without_cookies(value: bytes, is_set: bool) -> bytes:
    """Return the value with the names of the cookies. `is_set`: of `Set-Cookie`, whose attributes stay."""
    first, *rest = value.split(b";")
    return b";".join((_without_value(first), *(rest if is_set else map(_without_value, rest))))


def _without_value(cookie: bytes) -> bytes:
    name, equals, value = cookie.partition(b"=")
    if not equals:  # a value without a name (RFC 6265bis section 5.6)
        value = name.lstrip()
        name = name[: len(name) - len(value)]
    return name + equals + HIDDEN if equals or value else name


def _inflated(encoding: bytes, body: bytes, most: int) -> tuple[bytes, bool] | None:
    """Return the decompressed beginning of a body, and whether more follows. None: the coding is unknown, or the body
    is damaged.
    """
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        return None
    inflater = zlib.decompressobj(15 if encoding == b"deflate" else 31)
    try:
        return inflater.decompress(body, max(most, 1)), not inflater.eof
    except zlib.error:
        return None
