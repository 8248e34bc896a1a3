"""Decision whether a response may be stored (RFC 9111 section 3), and the record that is stored.

Safe by default: a response that depends on the identity of its client (`Authorization`, an authenticated consumer,
`Set-Cookie`, cookies) is only stored for others if it says so, or if the key has that identity.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final, TypeAlias

import cython

from fastgw.http.caching.directives import (
    LONGEST,
    NO_RESPONSE_DIRECTIVES,
    TARGETS,
    RequestDirectives,
    ResponseDirectives,
    parse_response,
)
from fastgw.http.caching.freshness import (
    HEURISTIC,
    find_heuristic_lifetime,
    find_lifetime,
    initial_age,
    may_have_default,
    parse_age,
)
from fastgw.http.caching.records import StoredHead
from fastgw.http.caching.vary import find_varying
from fastgw.http.dates import format_date, parse_date
from fastgw.http.field_names import HOP_BY_HOP
from fastgw.http.http1.serializer import end_to_end
from fastgw.http.media_types import media_type_of, patterns_of
from fastgw.http.messages import RequestHead, ResponseHead, first_of, values_of
from fastgw.http.preconditions import is_entity_tag

NOT_STORED: Final = HOP_BY_HOP | {b"age", b"proxy-authentication-info", b"trailer"}
"""Fields of a response that are not stored (RFC 9111 section 3.1)."""
StatedSeconds: TypeAlias = int | None
UNDERSTOOD: Final = HEURISTIC | frozenset(
    (201, 202, 205, 207, 208, 302, 303, 307, 308, 400, 401, 402, 403, 406, 407, 408)
)
"""Statuses whose `no-store` is lifted by `must-understand` (section 5.2.2.3)."""


class Unstorable(bytes, Enum):
    """Reason why a response is not stored: the `detail` of `Cache-Status`."""

    METHOD = b"method"
    """Only responses to GET are stored."""
    REQUEST_NO_STORE = b"request-no-store"
    STATUS = b"status"
    """Partial response, or not a final one (206, 304)."""
    NO_STORE = b"no-store"
    PRIVATE = b"private"
    AUTHORIZATION = b"authorization"
    """The request had credentials, and the response is not said to be for all (section 3.5)."""
    SET_COOKIE = b"set-cookie"
    COOKIE = b"cookie"
    """The request had cookies, and the response states no freshness itself."""
    VARY = b"vary"
    """`Vary: *`, or too many names, or one that the gateway writes for each client."""
    CONTENT_TYPE = b"content-type"
    """The settings name other media types."""
    NO_FRESHNESS = b"no-freshness"
    """Neither the response nor the settings state how long it is fresh, and there is no heuristic."""
    STALE = b"stale"
    """Stale from the beginning, and without a validator with which it could be freshened."""
    OTHER_VALIDATOR = b"other-validator"
    """A 304 that is not about the stored response."""


@cython.cclass
class StorePolicy:
    """Settings of a cache that decide what is stored. Durations in whole seconds.

    `ttl`: lifetime of responses that state none, if `freshness.may_have_default`; `ttl_by_status`: the same by status,
    before `ttl`. `override_ttl`: lifetime in place of what responses state, if `freshness.may_have_default`.
    `stale_while_revalidate`, `stale_if_error`: for responses that do not have the directive themselves.
    `identity_in_key`: whether the key keeps those apart who authenticate: by consumer, or by `Authorization`.
    `content_types`: patterns of media types that are stored (`http.media_types`); empty: all are. `storage_ttl`:
    seconds after which a response is not used any more, from when it was received or last validated.
    `ignores_cache_control`: whether `Cache-Control` and `Expires` of responses are ignored, but for targeted fields.
    `targets`: targeted fields that are obeyed.
    """

    def __init__(
        self,
        *,
        ttl: int | None = None,
        ttl_by_status: Mapping[int, int] = MappingProxyType({}),
        override_ttl: int | None = None,
        stale_while_revalidate: int = 0,
        stale_if_error: int = 0,
        stale_when_unreachable: int = 0,
        store_set_cookie: bool = False,
        identity_in_key: bool = False,
        cookies_in_key: bool = False,
        content_types: frozenset[bytes] = frozenset(),
        storage_ttl: int | None = None,
        ignores_cache_control: bool = False,
        targets: tuple[bytes, ...] = TARGETS,
    ) -> None:
        self.ttl, self.ttl_by_status, self.override_ttl = ttl, ttl_by_status, override_ttl
        self.stale_while_revalidate, self.stale_if_error = stale_while_revalidate, stale_if_error
        self.stale_when_unreachable, self.store_set_cookie = stale_when_unreachable, store_set_cookie
        self.identity_in_key, self.cookies_in_key = identity_in_key, cookies_in_key
        self.content_types, self.storage_ttl = content_types, storage_ttl
        self.ignores_cache_control, self.targets = ignores_cache_control, targets


@cython.cclass
class Times:
    """When a response was requested and received. Epoch seconds.

    `request_date`: when the request was first sent, before any retry.
    """

    def __init__(self, request_date: float, response_date: float) -> None:
        self.request_date, self.response_date = request_date, response_date


class RequestIdentity(IntEnum):
    """Identity of the client that a response was made for, if it is not in the key."""

    NONE = 0
    AUTHORIZATION = 1
    """The request has `Authorization`, which no filter has verified, of the client itself or written for it."""
    CONSUMER = 2
    """A filter has authenticated the client."""


_NONE: Final = RequestIdentity.NONE


def decide_storing(
    request: RequestHead,
    directives: RequestDirectives,
    response: ResponseHead,
    policy: StorePolicy,
    times: Times,
    authenticated: bool = False,
    authorized: bool = False,
    body_in_key: bool = False,
) -> StoredHead | Unstorable:
    """Return the record to be stored for a response, or why it may not be stored.

    `request`: with the credentials of the client. `directives`: its own, as the client sent them. `response`: as the
    upstream sent it, before filters. `authenticated`, `authorized`: as in `find_identity`. `body_in_key`:
    whether a POST is stored, because its key has its body.
    """
    if request.method != b"GET" and not (body_in_key and request.method == b"POST"):
        return Unstorable.METHOD
    if directives.no_store:
        return Unstorable.REQUEST_NO_STORE
    identity, cookies = find_identity(request, policy, authenticated, authorized)
    return decide_storing_for(identity, cookies, response, policy, times)


def find_identity(
    request: RequestHead, policy: StorePolicy, authenticated: bool, authorized: bool
) -> tuple[RequestIdentity, bool]:
    """Return what a request has that the key does not have: an identity, and whether cookies.

    `authenticated`: whether a filter has authenticated the client. `authorized`: whether one has written an
    `Authorization` that depends on the client.
    """
    identity = _NONE
    if not policy.identity_in_key:
        if authenticated:
            identity = RequestIdentity.CONSUMER
        elif authorized or first_of(request, b"authorization") is not None:
            identity = RequestIdentity.AUTHORIZATION
    return identity, first_of(request, b"cookie") is not None and not policy.cookies_in_key


def decide_storing_for(
    identity: RequestIdentity,
    cookies: bool,
    response: ResponseHead,
    policy: StorePolicy,
    times: Times,
) -> StoredHead | Unstorable:
    """Return the record for a response, or why it may not be stored, if nothing in the request forbids it.

    `identity`: what the request had that the key does not have. `cookies`: whether it had cookies that the key does
    not have.
    """
    status, stated = response.status, stated_by(response, policy)
    if (refusal := _find_prohibition(response, stated, identity)) is not None:
        return refusal
    dropped = NOT_STORED.union(stated.no_cache_fields) if stated.no_cache_fields else NOT_STORED
    if not policy.store_set_cookie and b"set-cookie" not in dropped and first_of(response, b"set-cookie") is not None:
        return Unstorable.SET_COOKIE
    if policy.content_types and not _has_type(response, policy.content_types):
        return Unstorable.CONTENT_TYPE
    vary = find_varying(values_of(response, b"vary"))
    if vary is None:
        return Unstorable.VARY
    may_default = may_have_default(status, stated)
    lifetime = policy.override_ttl if may_default else None
    if lifetime is None:
        lifetime = stated_lifetime(response, stated, policy, times)
        if lifetime is not None and policy.override_ttl is not None:
            lifetime = min(lifetime, policy.override_ttl)
    if lifetime is None and stated.no_cache:
        lifetime = 0
    if lifetime is None:
        # It is not the response that says that it may be reused, so it must not have been made for one client.
        if cookies and b"cookie" not in vary:
            return Unstorable.COOKIE
        lifetime = policy.ttl_by_status.get(status, policy.ttl if may_default else None)
        if lifetime is None:
            lifetime = find_heuristic_lifetime(response, stated, times.response_date)
        if lifetime is None:
            return Unstorable.NO_FRESHNESS
    sent_date = first_of(response, b"date")
    date = None if sent_date is None else parse_date(sent_date, times.response_date)
    age = initial_age(parse_age(response), date, times.request_date, times.response_date)
    most_stale = LONGEST
    if policy.storage_ttl is not None:
        lifetime = min(lifetime, age + policy.storage_ttl)
        most_stale = age + policy.storage_ttl - lifetime
    etag, last_modified = find_etag(response), find_last_modified(response, times.response_date)
    begins_stale = stated.no_cache or lifetime <= age
    if begins_stale and etag is None and last_modified is None:
        return Unstorable.STALE
    lines = end_to_end(response, dropped)
    if sent_date is None:  # RFC 9110 section 6.6.1: the recipient adds when it has received the response
        date = int(times.response_date)
        lines += b"Date: %b\r\n" % format_date(date)
    must_revalidate = stated.must_revalidate or stated.proxy_revalidate or stated.no_cache
    # s-maxage implies proxy-revalidate (section 5.2.2.10), but the extensions of RFC 5861 beside it are meant.
    only_stated = must_revalidate or begins_stale or stated.s_maxage is not None
    return StoredHead(
        status,
        response.reason,
        lines,
        times.response_date,
        age,
        lifetime,
        min(
            most_stale,
            _extend(stated.stale_while_revalidate, policy.stale_while_revalidate, must_revalidate, only_stated),
        ),
        min(most_stale, _extend(stated.stale_if_error, policy.stale_if_error, must_revalidate, only_stated)),
        0 if only_stated else min(most_stale, policy.stale_when_unreachable),
        stated.no_cache,
        only_stated,
        etag,
        last_modified,
        date,
        vary,
        int(identity),
        cookies,
    )


def stated_by(response: ResponseHead, policy: StorePolicy) -> ResponseDirectives:
    """Return the directives of a response that are obeyed."""
    stated = parse_response(response, policy.targets)
    return NO_RESPONSE_DIRECTIVES if policy.ignores_cache_control and not stated.targeted else stated


def stated_lifetime(
    response: ResponseHead, stated: ResponseDirectives, policy: StorePolicy, times: Times
) -> int | None:
    """Return the freshness lifetime that a response states; None: it states none that is obeyed."""
    if policy.ignores_cache_control and not stated.targeted:
        return None
    return find_lifetime(response, stated, times.response_date)


def _has_type(response: ResponseHead, patterns: frozenset[bytes]) -> bool:
    """Whether a response has a media type that one of these patterns matches."""
    found = _only(values_of(response, b"content-type"))
    return found is not None and not patterns.isdisjoint(patterns_of(media_type_of(found)))


def _find_prohibition(
    response: ResponseHead, stated: ResponseDirectives, identity: RequestIdentity
) -> Unstorable | None:
    """Return which rule of RFC 9111 section 3 forbids a shared cache to store a response."""
    status = response.status
    if status < 200 or status in (206, 304):
        return Unstorable.STATUS
    if stated.must_understand:
        if status not in UNDERSTOOD:
            return Unstorable.STATUS
    elif stated.no_store:
        return Unstorable.NO_STORE
    if stated.private:
        return Unstorable.PRIVATE
    if identity is _NONE or stated.public or stated.s_maxage is not None:
        return None
    return None if identity is RequestIdentity.AUTHORIZATION and stated.must_revalidate else Unstorable.AUTHORIZATION


def _extend(stated: StatedSeconds, configured: cython.longlong, never: bool, only_stated: bool) -> cython.longlong:
    """Return for how many seconds a response may be sent stale."""
    return 0 if never else stated if stated is not None else 0 if only_stated else configured


def find_etag(response: ResponseHead) -> bytes | None:
    """Return the value of `ETag`; None: it is missing, repeated or invalid."""
    etag = _only(values_of(response, b"etag"))
    return etag if etag is not None and is_entity_tag(etag) else None


def find_last_modified(response: ResponseHead, now: float) -> int | None:
    """Return the value of `Last-Modified`; None: it is missing, repeated or invalid."""
    changed = _only(values_of(response, b"last-modified"))
    return None if changed is None else parse_date(changed, now)


def _only(values: Sequence[bytes]) -> bytes | None:
    """Return the value of a field that must have one line."""
    return values[0] if len(values) == 1 else None
