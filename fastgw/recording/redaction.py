"""Redaction of records: credentials are masked where they are known to stand, and then wherever their values occur.

An upstream may repeat a token in its response, and a filter may send it on in another header. So the values that were
masked are replaced in all heads and bodies of the request, if they are long enough not to occur by chance. In bodies,
only names are masked that can hardly be anything but credentials: what is masked is not compared by a replay.
"""

from base64 import b64decode
from binascii import Error
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, final
from urllib.parse import unquote_to_bytes

from fastgw.capture.redaction import (
    COOKIES,
    Redaction,
    content_fields,
    hide_members,
    is_credential,
    received_fields,
)
from fastgw.observe.access_log.formats import MAX_LINE, SecretNames
from fastgw.recording.records import MASK, RecordedBody, RecordedRequest

SHORTEST_VALUE: Final = 6
"""Minimum bytes of a masked value that is replaced elsewhere too."""
_HINTS: Final = (
    *(b"passw", b"secret", b"credential", b"authorization", b"jwt", b"key", b"session", b"token"),
    *(b"\\u", *(b"%%%d" % each for each in range(4, 8))),
)
"""Parts of all names of credentials in lower case, and of escapes of letters that may be one."""
_REMEMBERED: Final = 1024
_KEPT_HEADERS: Final = frozenset((b"sec-websocket-key",))
"""Headers that taps hide, and that a handshake needs to be replayed."""
_URLS: Final = frozenset((b"referer", b"location", b"content-location"))


class TooLongToMask(Exception):
    """A URL is longer than what is searched for secrets: the request is not recorded."""


@final
class RecordRedaction:
    """Masks records. `names`: of headers, query parameters and cookies with secrets. `keeps_cookies`: whether values of
    other cookies are recorded.
    """

    def __init__(self, names: Iterable[str], keeps_cookies: bool = False) -> None:
        names = [*names]
        self._hides_header = Redaction(names).hides_header
        self._hides_member = lru_cache(_REMEMBERED)(self._find_member)
        self._names = frozenset(name.lower().encode() for name in names)
        self._cookies = frozenset(name.encode() for name in names)
        self._secrets = SecretNames(names)
        self._keeps_cookies = keeps_cookies

    def head(self, head: bytes, found: set[bytes], also: frozenset[bytes] = frozenset()) -> bytes:
        """Return a head with masked values, which are added to `found`. `also`: further names of headers to mask.

        Raises `TooLongToMask`.
        """
        first, *lines = head.split(b"\r\n")
        words = first.split(b" ")
        if len(words) == 3 and not first.startswith(b"HTTP/"):
            words[1] = self._url(words[1], found)
        return b"\r\n".join((b" ".join(words), *(self._line(line, found, also) for line in lines)))

    def _line(self, line: bytes, found: set[bytes], also: frozenset[bytes]) -> bytes:
        name, colon, value = line.partition(b":")
        low = name.strip().lower()
        if not colon:
            return line
        if low in also or (self._hides_header(low) and low not in _KEPT_HEADERS):
            value = value.strip()
            scheme, space, _ = value.partition(b" ")
            is_scheme = bool(space) and low in (b"authorization", b"proxy-authorization")
            _note_credential(value, found)
            return b"%b: %b%b" % (name, scheme + b" " if is_scheme else b"", MASK)
        if low in COOKIES:
            return b"%b: %b" % (name, self._cookie(value.strip(), low == b"set-cookie", found))
        if low in _URLS:
            return b"%b: %b" % (name, self._url(value.strip(), found))
        return line

    def _cookie(self, value: bytes, is_set: bool, found: set[bytes]) -> bytes:
        pairs = value.split(b";")
        for at, pair in enumerate(pairs[:1] if is_set else pairs):
            name, equals, content = pair.partition(b"=")
            if equals and (not self._keeps_cookies or name.strip() in self._cookies):
                found.add(content.strip().strip(b'"'))
                pairs[at] = b"%b=%b" % (name, MASK)
        return b";".join(pairs)

    def _url(self, url: bytes, found: set[bytes]) -> bytes:
        if len(url) > MAX_LINE:
            raise TooLongToMask
        masked = self._secrets.mask(url) or b""
        if masked != url:
            _note_masked(url, masked, found)
        return masked

    def request(self, record: RecordedRequest, found: set[bytes]) -> None:
        """Mask the bodies of a record, and replace the values that were masked in all parts of it."""
        self._mask_body(record.request, record.request_body)
        self._mask_body(record.response, record.response_body)
        for call in record.calls:
            self._mask_body(call.request, call.request_body)
            self._mask_body(call.response, call.response_body)
        secrets = sorted((each for each in found if len(each) >= SHORTEST_VALUE), key=len, reverse=True)
        if not secrets:
            return

        def clean(content: bytes) -> bytes:
            for secret in secrets:
                content = content.replace(secret, MASK)
            return content

        def clean_body(body: RecordedBody) -> None:
            cleaned = clean(body.content)
            body.length += len(cleaned) - len(body.content)
            body.content = cleaned

        record.request, record.response = clean(record.request), clean(record.response)
        clean_body(record.request_body)
        clean_body(record.response_body)
        record.trailers = tuple((name, clean(value)) for name, value in record.trailers)
        record.request_trailers = tuple((name, clean(value)) for name, value in record.request_trailers)
        record.why = clean(record.why.encode()).decode(errors="replace")
        record.identity.claims = clean(record.identity.claims)
        for call in record.calls:
            call.request, call.response = clean(call.request), clean(call.response)
            clean_body(call.request_body)
            clean_body(call.response_body)
            call.trailers = tuple((name, clean(value)) for name, value in call.trailers)

    def _find_member(self, name: bytes) -> bool:
        name = name.lower()
        return name in self._names or is_credential(name)

    def _may_hide(self, body: bytes) -> bool:
        # PERF: few bodies have one: 25 us for 2 KiB without, 600 with (CPython 3.11, timeit).
        low = body.lower()
        return any(each in low for each in (*_HINTS, *self._names)) or (b"@" in low and b"://" in low)

    def _mask_body(self, head: bytes, body: RecordedBody) -> None:
        """Mask a body that is text and not compressed."""
        kind, encoding = content_fields(received_fields(head))
        if encoding not in (b"", b"identity") or not self._may_hide(body.content):
            return
        masked = hide_members(kind, body.content, self._hides_member)
        if masked is not None:
            body.length += len(masked) - len(body.content)
            body.content = masked


def _note_credential(value: bytes, found: set[bytes]) -> None:
    """Add the forms in which a credential may occur: with its scheme, without, and the password of Basic."""
    found.add(value)
    scheme, _, token = value.partition(b" ")
    token = token.strip()
    if not token:
        return
    found.add(token)
    if scheme.lower() == b"basic":
        try:
            pair = b64decode(token, validate=True)
        except Error:
            return
        found.update((pair, pair.partition(b":")[2]))


def _note_masked(url: bytes, masked: bytes, found: set[bytes]) -> None:
    """Add the values of the parameters that are masked."""
    for part, shown in zip(url.partition(b"?")[2].split(b"&"), masked.partition(b"?")[2].split(b"&"), strict=False):
        if part != shown:
            value = part.partition(b"=")[2]
            found.update((value, unquote_to_bytes(value.replace(b"+", b" "))))
