"""Validation (RFC 9111 section 4.3): conditional requests to the upstream, and those of clients."""

from collections.abc import Sequence
from typing import Final

from fastgw.http.byte_ranges import ByteRange, content_range, select_ranges
from fastgw.http.caching.freshness import may_have_default
from fastgw.http.caching.records import StoredHead
from fastgw.http.caching.storing import (
    NOT_STORED,
    RequestIdentity,
    StorePolicy,
    Times,
    Unstorable,
    decide_storing_for,
    find_etag,
    find_last_modified,
    stated_by,
    stated_lifetime,
)
from fastgw.http.dates import format_date
from fastgw.http.fields import Fields
from fastgw.http.http1.parser import parse_response
from fastgw.http.messages import RequestHead, ResponseHead
from fastgw.http.preconditions import (
    Validators,
    applicable_range,
    is_not_modified,
    is_strongly_equal,
    is_weakly_equal,
)

CONDITIONS: Final = (
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-range",
    b"range",
)
"""Fields of a client's request that are removed from the request that fills the cache or validates what is stored."""
FOR_ORIGIN: Final = (b"if-match", b"if-unmodified-since")
"""Conditions that only the origin server evaluates (section 4.3.2): such a request is forwarded as it is."""
_NOT_UPDATED: Final = NOT_STORED | {b"content-encoding", b"content-range", b"content-type", b"etag"}
"""Fields of a 304 that do not change the stored ones (section 3.2). Its `ETag` is the stored one, or is equal to that
but for `W/`: the stored body came with the stored one.
"""
_NOT_SHARED: Final = _NOT_UPDATED | {b"set-cookie"}
"""Fields that do not change those of a store without cookies: that of a 304 is for the client that it answers."""
KNOWN_OF_UNCHANGED: Final = frozenset((b"content-encoding", b"content-type"))
"""Fields that the client of a 304 does not get, but that say to filters what it stands for."""
_OF_CONTENT: Final = frozenset(
    b"accept-ranges content-digest content-language content-length content-md5 content-range digest last-modified "
    b"repr-digest".split()
)
"""The others that a 304 leaves out (RFC 9110 section 15.4.5)."""
_MOST_FIELDS: Final = 1 << 16
"""Of a stored head and a 304 together, each of which has kept to the limits."""
_CONDITIONAL: Final = (b"GET", b"HEAD")
"""Methods whose conditions and ranges are about the stored response (RFC 9110 sections 13.2 and 14.2)."""
_NOT_IN_PART: Final = frozenset((b"content-digest", b"content-md5", b"content-range"))
"""Fields that a 206 does not take over. The digests are of the content of one message, here of the whole; `Repr-Digest`
is that of the representation, whose parts have the same (RFC 9530 sections 2 and 3). `Content-Range` means nothing in a
200 (RFC 9110 section 14.4), and the 206 has its own.
"""


def has_any(head: RequestHead, names: Sequence[bytes]) -> bool:
    """Whether a request has one of these headers."""
    for name in names:  # noqa: SIM110 # a generator costs more than a search
        if head.first(name) is not None:
            return True
    return False


def make_conditions(stored: StoredHead) -> list[tuple[bytes, bytes]]:
    """Return the conditions of the request that validates a stored response (section 4.3.1); empty: it has no
    validator, so it can only be replaced.
    """
    conditions = []
    if stored.etag is not None:
        conditions.append((b"If-None-Match", stored.etag))
    if stored.last_modified is not None:
        conditions.append((b"If-Modified-Since", format_date(stored.last_modified)))
    return conditions


def freshen(
    stored: StoredHead,
    answer: ResponseHead,
    policy: StorePolicy,
    times: Times,
    identity: RequestIdentity,
    cookies: bool,
) -> StoredHead | Unstorable:
    """Return the stored response with what a 304 has changed (section 4.3.4), or why it must not be used any longer.

    `identity`, `cookies`: of the request that the 304 answers, as of `find_identity`: what a client with credentials
    has got is not for all because the response was stored for one without (section 3.5).
    After `Unstorable.OTHER_VALIDATOR` the 304 says nothing about the stored response: the request is repeated without
    conditions. Any other refusal: this response can still be sent, once, as of `merge_fields`.
    """
    if not _is_about(stored, answer, times.response_date):
        return Unstorable.OTHER_VALIDATOR
    fields = _merge(stored, answer, _NOT_UPDATED if policy.store_set_cookie else _NOT_SHARED)
    age = answer.first(b"age")
    raw = b"HTTP/1.1 %d %b\r\n%b" % (stored.status, stored.reason, fields.render())
    raw += b"\r\n" if age is None else b"Age: %b\r\n\r\n" % age
    merged = parse_response(raw, b"GET", _MOST_FIELDS)
    if cookies and b"cookie" not in stored.vary and not _states_freshness(stored.status, answer, policy, times):
        return Unstorable.COOKIE  # as a whole response with these fields
    stricter = max(RequestIdentity(stored.identity), identity)
    return decide_storing_for(stricter, stored.cookies or cookies, merged, policy, times)


def _is_about(stored: StoredHead, answer: ResponseHead, now: float) -> bool:
    """Whether a 304 is about the stored response that was validated (section 4.3.4): by `ETag`, without it by
    `Last-Modified`, which is a weak validator here; without both there is nothing that contradicts it.
    """
    etag = find_etag(answer)
    if etag is None:
        last_modified = find_last_modified(answer, now)
        return last_modified is None or last_modified == stored.last_modified
    if etag[:1] != b'"':
        return is_weakly_equal(etag, stored.etag)
    # A server that compresses while it sends weakens the tag of the 200 alone (nginx): its 304 has that of the file.
    return is_strongly_equal(etag, stored.etag) or (
        is_weakly_equal(etag, stored.etag) and stored.fields.get(b"content-encoding") is not None
    )


def _states_freshness(status: int, answer: ResponseHead, policy: StorePolicy, times: Times) -> bool:
    """Whether it is stated how long the response that a 304 confirms is fresh: by the 304, or for all."""
    stated = stated_by(answer, policy)
    return (
        (policy.override_ttl is not None and may_have_default(status, stated))
        or stated.no_cache
        or stated_lifetime(answer, stated, policy, times) is not None
    )


def merge_fields(stored: StoredHead, answer: ResponseHead) -> Fields:
    """Return the fields of the response to the client that a 304 answers: the stored ones, each replaced by those of
    the 304 with the same name (section 3.2), also by those that are not stored, such as `Set-Cookie`.

    Without `Date` in the 304 there is none: the store and the sender add when the 304 was received. `Last-Modified` is
    replaced only by that of the same strong `ETag`: with another one, `If-Range` would join parts of two contents.
    """
    return _merge(stored, answer, _NOT_UPDATED)


def _merge(stored: StoredHead, answer: ResponseHead, not_updated: frozenset[bytes]) -> Fields:
    merged, updated = stored.fields, set[bytes]()
    etag = find_etag(answer)
    keeps_date = etag is None or not is_strongly_equal(etag, stored.etag)
    if answer.first(b"date") is None:
        merged.remove(b"Date")
    for name, value in answer.fields():
        lower = name.lower()
        if lower in not_updated or (keeps_date and lower == b"last-modified"):
            continue
        if lower in updated:
            merged.add(name, value)
        else:
            updated.add(lower)
            merged.remove(name)
            merged.add(name, value)
    return merged


def validators_of(stored: StoredHead) -> Validators:
    """Return the validators of a stored response, with which the conditions of clients are compared."""
    date = stored.date if stored.date is not None else int(stored.stored_date) - stored.initial_age
    return Validators(stored.etag, stored.last_modified, date)


def is_unchanged_for(request: RequestHead, stored: StoredHead, now: float) -> bool:
    """Whether a GET or HEAD is answered with 304, because the client has what is stored (section 4.3.2).

    Without `Last-Modified` the response is as old as its `Date`.
    """
    if stored.status != 200 or request.method not in _CONDITIONAL:
        return False
    validators = validators_of(stored)
    if validators.last_modified is None:
        validators = validators._replace(last_modified=validators.date)
    return is_not_modified(request, validators, now)


def not_modified_lines(stored: StoredHead) -> bytes:
    """Return the field lines of the 304 for a client: without those that describe the content, but for
    `KNOWN_OF_UNCHANGED`, which the sender drops.
    """
    dropped = _OF_CONTENT if stored.etag is not None else _OF_CONTENT - {b"last-modified"}
    return stored.fields.render(dropped)


def find_part(request: RequestHead, stored: StoredHead, length: int, now: float) -> tuple[ByteRange, ...] | None:
    """Return the part of a stored response of `length` bytes that a request asks for (RFC 9110 section 14.2).

    None: the whole response is sent; also for several ranges, which clients must expect. Empty: 416.
    """
    if stored.status != 200 or request.method not in _CONDITIONAL:
        return None
    wanted = applicable_range(request, validators_of(stored), now)
    if wanted is None:
        return None
    ranges = select_ranges(wanted, length)
    return ranges if ranges is None or len(ranges) <= 1 else None


def part_lines(stored: StoredHead, part: ByteRange, complete: int) -> bytes:
    """Return the field lines of the 206 with a part of a stored response of `complete` bytes."""
    return b"%bContent-Range: %b\r\n" % (stored.fields.render(_NOT_IN_PART), content_range(part, complete))
