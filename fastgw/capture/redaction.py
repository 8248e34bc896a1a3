"""Redaction of captured exchanges: credentials, cookies and secret parameters are hidden before it is shown.

Rule: a body that cannot be read cannot be redacted, so it is left out: one with an unknown content coding, or of an
unknown type that is not text.
"""

import re
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, NamedTuple, final

from fastgw.capture.captured_exchange import CapturedExchange
from fastgw.capture.secret_members import HIDDEN, without_secrets
from fastgw.observe.access_log.formats import SecretNames, masked_path, masked_words

SECRET_HEADERS: Final = frozenset(
    (
        *(b"x-api-key", b"apikey", b"api-key"),
        *(b"authorization", b"proxy-authorization", b"authentication-info", b"proxy-authentication-info"),
        *(b"x-forwarded-client-cert", b"x-amz-security-token", b"x-fastgw-debug", b"x-csrf-token", b"x-xsrf-token"),
        *(b"x-auth-token", b"x-access-token", b"sec-websocket-key", b"dpop"),
    )
)
"""Headers whose values are always hidden."""
COOKIES: Final = frozenset((b"cookie", b"set-cookie"))
_SCHEME: Final = re.compile(rb"([A-Za-z][A-Za-z0-9_-]*) +\S")
_CREDENTIALS: Final = re.compile(
    rb"passw|secret|credential|authorization|jwt|(?:api|private|access|signing)[-_]?key|session[-_]?(?:id|key)"
    rb"|token(?!s|[-_]?(?:type|url|uri|endpoint|count))",
    re.IGNORECASE,
)
"""Parts of the names of secrets. A missed secret is worse than a false match."""
_REMEMBERED: Final = 4096  # names, which peers choose; each has at most 128 bytes
_PART_HEAD: Final = re.compile(rb"\A(?>(?:[^\r\n]++\r\n)+)\r\n")
_PART_NAME: Final = re.compile(rb"""[;\s]name=(?:"([^"\r\n]*+)"|([^\s;]++))""", re.IGNORECASE)
_BOUNDARY: Final = re.compile(rb"""boundary=(?:"([^"]++)"|([^\s;"]++))""", re.IGNORECASE)
_TEXT: Final = re.compile(
    rb"(?:text/|application/(?:[\w.+-]*\b(?:json|xml|yaml|javascript|graphql|ndjson)\b))", re.IGNORECASE
)


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
        listed = tuple(names)
        self._secrets = SecretNames(listed)
        self._mask = self._secrets.mask
        self._headers = SECRET_HEADERS | {name.lower().encode() for name in listed}
        self._hides_member = lru_cache(_REMEMBERED)(self._find_member)

    def is_secret(self, name: bytes) -> bool:
        """Whether the value of this parameter, member or header is hidden."""
        return not self._secrets.none_in(name + b"=")

    def hides_header(self, name: bytes) -> bool:
        """Whether the value of a header is hidden, which has this name in lower case."""
        return name in self._headers or self.is_secret(name) or is_credential(name)

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
        lower = kind.lower()
        if lower.startswith(b"application/x-www-form-urlencoded"):
            return RedactedBody(b"&".join(self._mask(part) or b"" for part in body.split(b"&")), "", is_cut)
        shown = hide_members(kind, body, self._hides_member)
        if shown is None:
            return RedactedBody(b"", f"type {lower.partition(b';')[0].decode('latin-1')[:64] or 'unknown'}")
        return RedactedBody(shown, "", is_cut)

    def _find_member(self, name: bytes) -> bool:
        name = name.lower()
        return self.hides_header(name) or name in COOKIES


def is_credential(name: bytes) -> bool:
    """Whether a header or member with this name, in lower case, has a credential as its value."""
    return _CREDENTIALS.search(name) is not None and not name.startswith(b"access-control-")


def content_fields(fields: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Return the content type, and the content coding in lower case, of a message; b"": it has none."""
    kind = encoding = b""
    for name, value in fields:
        if name.lower() == b"content-type":
            kind = value
        elif name.lower() == b"content-encoding":
            encoding = value.strip().lower()
    return kind, encoding


def hide_members(kind: bytes, body: bytes, hides: Callable[[bytes], bool]) -> bytes | None:
    """Return a body without the values of the names that `hides` is true for. `kind`: its content type.

    None: it is of an unknown type that is not text, or a form without a boundary.
    """
    if kind.lower().startswith(b"multipart/form-data"):
        boundary = _BOUNDARY.search(kind)
        if boundary is None:
            return None
        limit = b"\r\n--" + (boundary[1] or boundary[2])
        return limit.join(_part(part, hides) for part in (b"\r\n" + body).split(limit))[2:]
    if _TEXT.match(kind) or (not kind and body.lstrip()[:1] in (b"{", b"[", b"<")):
        return without_secrets(body, hides)
    return None


def _part(part: bytes, hides: Callable[[bytes], bool]) -> bytes:
    """Return a part of a form, which begins behind the boundary, without secrets."""
    line_end, rest = part[:2], part[2:]
    head = _PART_HEAD.match(rest)
    if line_end != b"\r\n" or head is None:
        return part  # before the first or after the last part
    name = _PART_NAME.search(head[0])
    if name is None or hides(name[1] or name[2] or b""):
        return line_end + head[0] + HIDDEN
    return line_end + head[0] + without_secrets(rest[head.end() :], hides)


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
    hidden = first.partition(b"=")[0] + b"=" + HIDDEN
    if is_set:
        return b";".join((hidden, *rest))
    return b";".join((hidden, *(each.partition(b"=")[0] + b"=" + HIDDEN for each in rest)))


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
