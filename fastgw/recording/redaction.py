"""Redaction of records: credentials are masked where they are known to stand, and then wherever their values occur.

An upstream may repeat a token in its response, and a filter may send it on in another header. So the values that were
masked are replaced elsewhere in the record, if they can hardly stand there by chance. Clients choose these values, and
their requests must remain ones that can be replayed. Rule 1: method, hosts, names of headers and the separators of the
request-target are never masked. Rule 2: elsewhere in heads, only values that look random are replaced (`_is_random`);
values of cookies and parameters, of which few are secrets, are replaced in bodies, too, only if they look random. In
bodies, only names are masked that can hardly be anything but credentials: what is masked is not compared by a replay.
"""

import json
import re
from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from fastgw.capture.redaction import (
    COOKIES,
    content_fields,
    hide_members,
    received_fields,
)
from fastgw.exchange import Trailers
from fastgw.jose import claim_json
from fastgw.observe.access_log.credential_names import (
    HINTS,
    HINTS_OF_HEADERS,
    is_credential_header,
    is_credential_member,
)
from fastgw.observe.access_log.formats import BETWEEN_WORDS, EQUALS, MAX_LINE
from fastgw.observe.access_log.secret_names import SecretNames, may_hide
from fastgw.recording.records import MASK, RecordedBody, RecordedRequest

SHORTEST_VALUE: Final = 6
"""Minimum bytes of the value of a header that is replaced in bodies."""
SHORTEST_RANDOM: Final = 8
"""Minimum bytes of a value with letters and digits that is replaced in heads as well."""
SHORTEST_COOKIE: Final = 16
"""Minimum bytes of such a value of a cookie whose name tells nothing, and of a value with letters of both cases."""
_CLASSES: Final = tuple(re.compile(each) for each in (rb"[0-9]", rb"[a-z]", rb"[A-Z]"))
_HOSTS: Final = frozenset((b"host", b"x-forwarded-host"))
"""Headers with the authority of the request, by which it is routed."""
_TARGET_AUTHORITY: Final = re.compile(rb"(?>(?:[A-Za-z][A-Za-z0-9+.-]*+://)?)[^/?#]*+")
_URL_AUTHORITIES: Final = re.compile(rb"""(://[^/?#\s,;"'<>]*+)""")
_NOT_IN_ENCODING: Final = rb"(?<!%)(?<!%[0-9A-Fa-f])"
_BETWEEN_SEPARATORS: Final = re.compile(rb"[^/?#&;=]++")
_HINTS: Final = (*HINTS, *HINTS_OF_HEADERS, b"\\u", *(b"%%%d" % each for each in range(4, 8)))
"""Parts of all names of credentials in lower case, and of escapes of letters that may be one."""
_REMEMBERED: Final = 1024
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
        self._credentials = SecretNames(names)
        self._hides_member = lru_cache(_REMEMBERED)(self._find_member)
        self._names = frozenset(name.lower().encode() for name in names)
        self._cookies = frozenset(name.encode() for name in names)
        self._hints = (*_HINTS, *self._names)
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

    def trailers(self, trailers: Trailers, found: set[bytes]) -> Trailers:
        """Return trailers with masked values, which are added to `found`. Raises `TooLongToMask`."""
        return tuple((name, self._value(name.lower(), value, found)) for name, value in trailers)

    def _line(self, line: bytes, found: set[bytes], also: frozenset[bytes]) -> bytes:
        name, colon, value = line.partition(b":")
        value = value.strip()
        masked = self._value(name.strip().lower(), value, found, also)
        return b"%b: %b" % (name, masked) if colon and masked != value else line

    def _value(self, name: bytes, value: bytes, found: set[bytes], also: frozenset[bytes] = frozenset()) -> bytes:
        """Return the value of a header or trailer, which has this name in lower case."""
        if name in _HOSTS:
            return value
        if name not in also and name in COOKIES:
            return self._cookie(value, name == b"set-cookie", found)
        if name in also or self._credentials.has_header(name):
            scheme, space, _ = value.partition(b" ")
            is_scheme = bool(space) and name in (b"authorization", b"proxy-authorization")
            _note_credential(value, found)
            return (scheme + b" " if is_scheme else b"") + MASK
        return self._url(value, found) if name in _URLS else self._words(value, found)

    def _cookie(self, value: bytes, is_set: bool, found: set[bytes]) -> bytes:
        pairs = value.split(b";")
        for at, pair in enumerate(pairs[:1] if is_set else pairs):
            name, equals, content = pair.partition(b"=")
            if not equals:  # a value without a name (RFC 6265bis section 5.6)
                content = name.lstrip()
                name = name[: len(name) - len(content)]
            is_checked = name.strip() in self._cookies
            if (equals or content) and (not self._keeps_cookies or is_checked):
                least = SHORTEST_RANDOM if is_checked or is_credential_header(name.strip().lower()) else SHORTEST_COOKIE
                _note_value(content.strip().strip(b'"'), least, found)
                pairs[at] = name + equals + MASK
        return b";".join(pairs)

    def _words(self, value: bytes, found: set[bytes]) -> bytes:
        """Return a value with masked URLs and parameters. A word that is too long to be searched is masked."""
        if EQUALS not in value and not may_hide(value):
            return value
        words = BETWEEN_WORDS.split(value)
        for at, word in enumerate(words):
            if EQUALS in word or may_hide(word):
                words[at] = MASK if len(word) > MAX_LINE else self._url(word, found)
        return b"".join(words)

    def _url(self, url: bytes, found: set[bytes]) -> bytes:
        if len(url) > MAX_LINE:
            raise TooLongToMask
        masked = self._credentials.mask(url) or b""
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
        secrets = _forms_of(each for each in found if len(each) >= SHORTEST_VALUE)
        if not secrets:
            return

        def clean_text(content: bytes) -> bytes:
            for secret in _forms_in(content, secrets):
                content = content.replace(secret, MASK)
            return content

        def clean_body(body: RecordedBody) -> None:
            cleaned = clean_text(body.content)
            body.length += len(cleaned) - len(body.content)
            body.content = cleaned

        clean_body(record.request_body)
        clean_body(record.response_body)
        record.why = clean_text(record.why.encode()).decode(errors="replace")
        record.identity.claims = _cleaned_json(record.identity.claims, clean_text)
        for call in record.calls:
            clean_body(call.request_body)
            clean_body(call.response_body)
        _clean_heads(record, found)

    def _find_member(self, name: bytes) -> bool:
        name = name.lower()
        return name in self._names or is_credential_member(name)

    def _may_hide(self, body: bytes) -> bool:
        # PERF: few bodies have one: 25 us for 2 KiB without, 600 with (CPython 3.11, timeit).
        low = body.lower()
        for each in self._hints:
            if each in low:
                return True
        return b"@" in low and (b"://" in low or b":\\" in low)

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
    for part, shown in zip(url.split(b"&"), masked.split(b"&"), strict=True):
        name = shown.removesuffix(MASK)
        if part != shown and part.startswith(name):
            _note_value(part.removeprefix(name), SHORTEST_RANDOM, found)


def _note_value(value: bytes, least: int, found: set[bytes]) -> None:
    """Add the value of a parameter or cookie as it is and decoded, if it looks random."""
    found.update(each for each in (value, unquote_to_bytes(value.replace(b"+", b" "))) if _is_random(each, least))


def _is_random(value: bytes, least: int) -> bool:
    """Whether a value can hardly be a word, a number or a date: it has letters and digits, and at least this number of
    bytes, or letters of both cases and is long.
    """
    digit, lower, upper = (each.search(value) is not None for each in _CLASSES)
    return (digit and (lower or upper) and len(value) >= least) or (lower and upper and len(value) >= SHORTEST_COOKIE)


def _forms_of(secrets: Iterable[bytes]) -> list[bytes]:
    """Return secrets as they are, percent-encoded, and with the escaped slashes of JSON, the longest first."""
    forms = {
        form for each in secrets for form in (each, quote_from_bytes(each, b"").encode(), each.replace(b"/", b"\\/"))
    }
    return sorted(forms, key=len, reverse=True)


def _forms_in(content: bytes, forms: Sequence[bytes]) -> Sequence[bytes]:
    """Return the forms that the content may have: few have encodings, and clients choose how many forms there are."""
    for each in (b"%", b"\\/"):
        if each not in content:
            forms = [form for form in forms if each not in form]
    return forms


def _clean_heads(record: RecordedRequest, found: set[bytes]) -> None:
    """Replace secrets in the values of all heads and trailers, and in request-targets."""
    secrets = _forms_of(each for each in found if _is_random(each, SHORTEST_RANDOM))
    if not secrets:
        return

    def clean_value(value: bytes, secrets: Iterable[bytes]) -> bytes:
        pieces = _URL_AUTHORITIES.split(value)
        for each in secrets:
            pieces[::2] = [piece.replace(each, MASK) for piece in pieces[::2]]
        return b"".join(pieces)

    def clean_line(line: bytes, secrets: Iterable[bytes]) -> bytes:
        name, colon, value = line.partition(b":")
        return line if name.lower() in _HOSTS else name + colon + clean_value(value, secrets)

    def clean(head: bytes) -> bytes:
        contained = [each for each in _forms_in(head, secrets) if each in head]
        if not contained:
            return head
        first, *lines = head.split(b"\r\n")
        words = first.split(b" ")
        if len(words) == 3 and not first.startswith(b"HTTP/"):
            words[1] = _cleaned_target(words[1], contained)
        return b"\r\n".join((b" ".join(words), *(clean_line(line, contained) for line in lines)))

    def clean_trailers(trailers: Trailers) -> Trailers:
        return tuple((name, clean_value(value, secrets)) for name, value in trailers)

    record.request, record.response = clean(record.request), clean(record.response)
    record.trailers, record.request_trailers = clean_trailers(record.trailers), clean_trailers(record.request_trailers)
    for call in record.calls:
        call.request, call.response = clean(call.request), clean(call.response)
        call.trailers = clean_trailers(call.trailers)


def _cleaned_target(target: bytes, secrets: Iterable[bytes]) -> bytes:
    """Return a request-target with its authority, its separators and whole percent-encodings."""
    authority = _TARGET_AUTHORITY.match(target)
    assert authority is not None  # it matches the empty text
    rest = target[authority.end() :]
    for each in secrets:
        if each in rest:
            rest = re.sub(_NOT_IN_ENCODING + re.escape(each), _BETWEEN_SEPARATORS.sub(MASK, each), rest)
    return authority[0] + rest


def _cleaned_json(document: bytes, clean: Callable[[bytes], bytes]) -> bytes:
    """Return JSON with secrets replaced in its strings, apart from names."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, str):
            return clean(value.encode()).decode(errors="replace")
        if isinstance(value, list):
            return list(map(cleaned, value))
        return {name: cleaned(each) for name, each in value.items()} if isinstance(value, dict) else value

    return claim_json(cleaned(json.loads(document))) if document else b""
