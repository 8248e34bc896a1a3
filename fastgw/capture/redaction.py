"""Redaction of captured exchanges: credentials, cookies and secret parameters are hidden before it is shown.

Rule: a body that cannot be read cannot be redacted, so it is left out: one with an unknown content coding, or of an
unknown type that is not text.
"""

import re
import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple, final

from fastgw.capture.captured_exchange import CapturedExchange
from fastgw.observe.access_log.formats import SecretNames, masked_path, masked_words

HIDDEN: Final = b"***"
MOST_INFLATED: Final = 1024 * 1024
"""Maximum bytes of a compressed body after decompression."""
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
_JSON_MEMBER: Final = re.compile(
    rb'("((?>(?:[^"\\]|\\.){1,128}))"\s*+:\s*+)("(?>(?:[^"\\]|\\.)*)"?|[^\s\[{",}\]][^,}\]\s]*+|[\[{][^\[\]{}]*+[\]}]?)'
)
# JSON inside of a JSON string, and parameters inside of any text.
_ESCAPED_MEMBER: Final = re.compile(rb'(\\++"([\w.-]{1,128}+)\\++"\s*+:\s*+)(\\++"[^"\\]*+(?:\\++")?|[^\s,}\]"\\]++)')
_PARAMETER: Final = re.compile(rb"""((?:^|[?&;"'\s])([\w.%\[\]-]{1,128}+)=)([^&\s"'<>\\]++)""")
_XML_ELEMENT: Final = re.compile(rb"(<(?:[\w.-]{1,64}:)?([\w.-]{1,128})(?:\s[^<>]*+)?>)([^<]++)")
_FORM_PART: Final = re.compile(
    rb'(name="([^"\r\n]{0,128})"[^\r\n]*+(?>(?:\r\n[^\r\n]++)*)\r\n\r\n)((?>(?:(?!\r\n--).)*))', re.S
)
_TEXT: Final = re.compile(
    rb"(?:text/|application/(?:[\w.+-]*\b(?:json|xml|yaml|javascript|graphql|ndjson)\b))", re.IGNORECASE
)


class RedactedBody(NamedTuple):
    """Body of a message without secrets."""

    content: bytes
    omitted: str
    """Reason why the content is left out; "": it is not."""


@final
class Redaction:
    """Hides secrets. `names`: names of headers, parameters and cookies with secrets, in addition to well-known ones."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        listed = tuple(names)
        self._secrets = SecretNames(listed)
        self._mask = self._secrets.mask
        self._headers = SECRET_HEADERS | {name.lower().encode() for name in listed}

    def is_secret(self, name: bytes) -> bool:
        """Whether the value of this parameter, member or header is hidden."""
        return not self._secrets.none_in(name + b"=")

    def hides_header(self, name: bytes) -> bool:
        """Whether the value of a header is hidden, which has this name in lower case."""
        return name in self._headers or self.is_secret(name)

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

    def body(self, fields: Iterable[tuple[bytes, bytes]], body: bytes, is_complete: bool) -> RedactedBody:
        """Return a body without secrets. `fields`: the header fields of its message."""
        if not body:
            return RedactedBody(b"", "")
        kind = encoding = b""
        for name, value in fields:
            if name.lower() == b"content-type":
                kind = value.lower()
            elif name.lower() == b"content-encoding":
                encoding = value.strip().lower()
        if encoding not in (b"", b"identity"):
            inflated = _inflated(encoding, body)
            if inflated is None:
                return RedactedBody(b"", f"content coding {encoding.decode('latin-1')[:32]}")
            body = inflated
        if kind.startswith(b"application/x-www-form-urlencoded"):
            return RedactedBody(b"&".join(self._mask(part) or b"" for part in body.split(b"&")), "")
        if kind.startswith(b"multipart/form-data"):
            return RedactedBody(_FORM_PART.sub(self._without_value, body), "")
        if _TEXT.match(kind) or (not kind and body.lstrip()[:1] in (b"{", b"[", b"<")):
            body = _JSON_MEMBER.sub(self._without_string, body)
            for pattern in (_ESCAPED_MEMBER, _PARAMETER, _XML_ELEMENT):
                body = pattern.sub(self._without_value, body)
            return RedactedBody(body, "")
        return RedactedBody(b"", f"type {kind.partition(b';')[0].decode('latin-1')[:64] or 'unknown'}")

    def _without_string(self, found: re.Match[bytes]) -> bytes:
        return found[1] + b'"***"' if self.is_secret(found[2]) else found[0]

    def _without_value(self, found: re.Match[bytes]) -> bytes:
        return found[1] + HIDDEN if self.is_secret(found[2]) else found[0]


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


def _inflated(encoding: bytes, body: bytes) -> bytes | None:
    """Return the decompressed beginning of a body. None: the coding is unknown, or the body is damaged."""
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        return None
    try:
        return zlib.decompressobj(15 if encoding == b"deflate" else 31).decompress(body, MOST_INFLATED)
    except zlib.error:
        return None
