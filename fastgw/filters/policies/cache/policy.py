"""Compiled settings of one use of the filter, and the keys of requests."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from time import time
from typing import Final
from urllib.parse import unquote_to_bytes

import cython

from fastgw.cache.shared.shared_store import SharedStore
from fastgw.consumers.index import Consumer
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange.exchange import UNCHANGED_QUERY, Exchange
from fastgw.exchange.route import Route
from fastgw.filters.policies.cache.ready_answers import ReadyAnswers, ReadyMemory
from fastgw.forwarded_headers import client_authority, client_origin, client_scheme
from fastgw.http.caching.cache_status import Detail
from fastgw.http.caching.keys import QueryRule, filter_query, resource_text
from fastgw.http.caching.storing import StorePolicy
from fastgw.http.caching.validation import CONDITIONS
from fastgw.http.caching.vary import RequestFields, normalized_value
from fastgw.http.fields import folded
from fastgw.http.messages import ResponseHead, values_of
from fastgw.routing.requirements import cookies_named
from fastgw.upstream.client.response_action import ResponseAction
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.upstream import Upstream

MARK_S: Final = 1.0
"""Seconds for which requests do not wait for each other after a response that was not stored."""
OUTGROWN_MARK_S: Final = 60.0
"""The same after a response of unknown length that the store could not take as a whole: those that have read it from
the store did not get the rest."""
MOST_TAGS: Final = 500
"""Maximum number of tags of a response; one with more is not stored, because purges would not find it."""
UNKEYED: Final = frozenset(
    b"forwarded x-forwarded-proto x-forwarded-host x-forwarded-scheme x-forwarded-server x-forwarded-ssl "
    b"x-forwarded-port x-original-host x-host x-host-override x-http-host-override x-backend-host x-proxy-host "
    b"proxy-host x-url-scheme front-end-https "
    b"x-forwarded-prefix x-forwarded-uri x-forwarded-url x-forwarded-path x-forwarded-context x-original-url "
    b"x-original-uri x-original-path x-rewrite-url x-replaced-path x-script-name x-http-path-override "
    b"x-http-destinationurl x-envoy-original-path x-matched-path x-base-url x-proxy-url base-url http-url proxy-url "
    b"request-uri uri url "
    b"x-forwarded-method x-original-method x-http-method x-http-method-override x-method-override x-method "
    b"x-invoke-status x-middleware-prefetch x-middleware-rewrite x-middleware-subrequest "
    b"content-type content-encoding".split()
)
"""Headers of clients that change what an upstream answers without being in the key: with them one client could choose
what others get (cache poisoning). The last two describe a body, which is not forwarded either."""
DESCRIBE_BODY: Final = frozenset((b"content-encoding", b"content-language", b"content-type"))
"""Headers that are part of the key of a POST whose body is, and are forwarded with it."""
_CONDITIONS: Final = frozenset(CONDITIONS)
_PRESENT: Final = b""
"""Part of the key of requests of which something holds that does not hold of others, whose key has None there."""
_ESCAPED_NAME: Final = re.compile(rb"(?:^|;)[^=;]*%").search
_BESIDE_QUOTES: Final = re.compile(rb'(?:"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[^;"])+', re.DOTALL).findall
_WITH_COMMAS: Final = re.compile(rb"[^;,]+").findall
MOST_COOKIES: Final = 200
"""Maximum number of cookies that are compared by name. All cookies of a request with more are a part of the key."""
_PAIRS: Final = re.compile(rb"[^;]+").findall
_BESIDE_NAMES: Final = bytes({*range(0x20), *b'"', *range(0x7F, 0x100)})
"""Bytes that some server does not take for a part of a cookie's name: Django removes a no-break space."""
_FOLDING: Final = bytes.maketrans(b" .+[ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"____abcdefghijklmnopqrstuvwxyz")
_COLON: Final = 0x3A
_PORTS: Final[Mapping[bytes, bytes]] = {b"http": b":80", b"https": b":443"}


@lru_cache(maxsize=64)
def dropped_with(key_headers: tuple[bytes, ...]) -> frozenset[bytes]:
    """Return the headers that are not forwarded, the same object for all uses with these headers in the key."""
    return (UNKEYED | frozenset(CONDITIONS)) - frozenset(key_headers)


@cython.cclass
class CachePolicy:
    """Settings of a use of the filter in the form in which requests need them, and the resources of its worker.

    `key_names`: kinds and names of the values that these settings add to the key, in order: the store outlives a reload
    with others, after which no value may pass for that of another kind or name. None: they add none. `ready`: None: the
    key has cookies.
    """

    store: SharedStore
    worker_loop: WorkerLoop
    count: Callable[[str, str], None]

    def __init__(
        self,
        *,
        store_name: str,
        storing: StorePolicy,
        storing_apart: StorePolicy,
        query_rule: QueryRule | None,
        key_headers: tuple[bytes, ...],
        key_cookies: tuple[bytes, ...],
        by_consumer: bool,
        methods: frozenset[bytes],
        lock_timeout: float,
        max_variants: int,
        bypass_header: bytes | None,
        tag_headers: tuple[bytes, ...],
        ready_memory: ReadyMemory,
    ) -> None:
        self.store_name, self.query_rule = store_name, query_rule
        self._storing, self._storing_apart = storing, storing_apart
        self.storage_ttl = storing.storage_ttl
        self.key_headers, self.key_cookies, self.by_consumer = key_headers, key_cookies, by_consumer
        self.methods, self.lock_timeout, self.max_variants = methods, lock_timeout, max_variants
        names = [b"header:%b" % name for name in key_headers] + [b"cookie:%b" % name for name in key_cookies]
        if by_consumer:
            names.append(b"consumer")
        self.key_names = b" ".join(names) or None
        self.bypass_header, self.tag_headers = bypass_header, tag_headers
        self.has_store = False
        self.ready: ReadyAnswers | None = None
        if not key_cookies:
            self.ready = ReadyAnswers(ready_memory, bypass_header, key_headers, by_consumer, time)
        self.clock: Callable[[], float] = time  # epoch seconds
        self.dropped = dropped_with(key_headers)

    def storing_of(self, consumer: Consumer | None, is_authenticated: bool) -> StorePolicy:
        """Return the rules that decide whether the response to this request is stored.

        They are stricter unless the key has the identity of the client: the consumer, if the client is one, or the
        credentials of a client that the gateway has not authenticated. Tokens without a consumer are not in the key.
        """
        if is_authenticated:
            is_apart = self.by_consumer and consumer is not None
        else:
            is_apart = b"authorization" in self.key_headers
        return self._storing_apart if is_apart else self._storing

    def count_miss(self, route: str, detail: Detail) -> None:
        """Count a response that was fetched. `detail`: why it was not stored; None: it was."""
        self.count(route, "stored" if detail is None else detail.decode())

    def tags_of(self, head: ResponseHead) -> list[bytes]:
        """Return the tags of a response, for purges."""
        tags: list[bytes] = []
        for name in self.tag_headers:
            for line in values_of(head, name):
                tags += line.replace(b",", b" ").split()
        return [*dict.fromkeys(tags)] if tags else tags

    def query_of(self, exchange: Exchange) -> bytes | None:
        """Return the query for the key and for the upstream."""
        return filter_query(whole_query_of(exchange), self.query_rule)

    def forward_past(self, exchange: Exchange, status: bytes) -> None:
        """Let a request be forwarded past the cache, with the query that all requests of the route have. `status`:
        value of `Cache-Status`.
        """
        exchange.cache_result, exchange.cache_status = "bypass", status
        if self.query_rule is not None:
            self.filter_sent_query(exchange)

    def filter_sent_query(self, exchange: Exchange) -> None:
        """Leave out parameters that are not part of the key, for another upstream as well (`Exchange.for_others`)."""
        rule = self.query_rule
        if rule is None:
            return
        exchange.query_sent = self.query_of(exchange)
        if exchange.for_others is not None:
            added, dropped, query = exchange.for_others
            query = filter_query(exchange.head.query if query is UNCHANGED_QUERY else query, rule)
            exchange.for_others = added, dropped, query

    def resource_of(
        self,
        request: Exchange,
        fields: RequestFields,
        forward: Forward | ResponseAction,
    ) -> bytes:
        """Return what the keys of a request have in common: what was routed, and what is forwarded, but for the query.

        `fields`: its headers as the upstream gets them. The authority has the port that the client has sent, and the
        endpoint that of the listener. The filters of another route, of another variant of the route, or of another
        listener with the same port, may send other headers to the same URL of the upstream, so they are a part.
        """
        head, peer = request.head, request.peer
        route = request.route
        is_reported = peer.trusted and head.forwarded
        # The first four say how many values follow, and of which kinds.
        parts: list[bytes | None] = [
            None if route is None else route_part(route),
            self.key_names,
            # no client gets what the upstream has sent for another identity
            _PRESENT if request.sends_client_authorization else None,
            _PRESENT if is_reported else None,
        ]
        for name in self.key_headers:
            parts.append(normalized_value(name, fields.values(name)))
        for name in self.key_cookies:
            parts.append(_cookie_part(head.values(b"cookie"), name))
        if self.by_consumer:
            parts.append(None if request.consumer is None else request.consumer.name.encode())
        authority = head.authority
        if is_reported:  # the upstream gets the origin that the trusted proxy has reported
            origin = client_origin(head, peer)
            authority = origin.authority
            parts += (*origin, head.authority)
        sent_path = None
        if isinstance(forward, Forward):
            path_of = forward.path_of
            if path_of is not None:
                sent_path = path_of(request)
                if sent_path == request.path:
                    sent_path = None
        else:
            parts += forward.key_values(request)
        return resource_text(peer.endpoint, authority, request.path, sent_path, name_of(forward).encode(), parts)


def whole_query_of(exchange: Exchange) -> bytes | None:
    """Return the query with the parameters that are not in the key."""
    sent: bytes | None = exchange.query_sent
    return exchange.head.query if sent is UNCHANGED_QUERY else sent


def _cookie_part(lines: list[bytes], name: bytes) -> bytes | None:
    """Return the values of a cookie as a part of a key. One without characters is not a missing one.

    Servers that take `;` in quotes for a part of a value, a comma for a separator (RFC 2109), or that decode, unquote
    or fold names (ASP.NET Core ignores case, PHP makes `_` of some signs) may find other values. Where they do, all
    cookies are the part: otherwise a client could store what it gets for one value under the key of another.
    """
    values = cookies_named(name, lines)
    if _reads_otherwise(lines, name, values):
        return b"\r" + b"\n".join(lines)  # no value begins so
    return b"\n".join(values) if values else None


def _reads_otherwise(lines: list[bytes], name: bytes, values: list[bytes]) -> bool:
    """Whether another server may find other values of a cookie, or whether there are too many cookies to know."""
    wanted = _fold(_plain(name))
    # PERF: a name that some server takes for it is seen in the folded line: 2 us for a usual line; 60 ms for 16,000
    # cookies if each name were folded, which one client could send again and again (CPython 3.11).
    if not any(map(_may_differ, lines)) and sum(_fold(line).count(wanted) for line in lines) == len(values):
        return False
    if sum(line.count(b";") + line.count(b",") for line in lines) > MOST_COOKIES:
        return True
    for pattern in (_PAIRS, _BESIDE_QUOTES, _WITH_COMMAS):
        found = []
        for line in lines:
            for pair in pattern(line):
                key, _, value = pair.partition(b"=")
                plain = _plain(key)
                if wanted in (_fold(plain), _fold(plain.partition(b"[")[0])):
                    found.append(value.strip())
        if found != values:
            return True
    return False


def _may_differ(line: bytes) -> bool:
    """Whether a line of cookies has what servers read differently, beside names that they fold."""
    return b'"' in line or b"," in line or (b"%" in line and _ESCAPED_NAME(line) is not None)


def _plain(name: bytes) -> bytes:
    """Return the name of a cookie, decoded, and without what some server does not take for a part of it."""
    decoded = unquote_to_bytes(name.replace(b"+", b" ")).partition(b"\0")[0]
    return decoded.translate(None, _BESIDE_NAMES).strip(b" ")


def _fold(text: bytes) -> bytes:
    """Return a name in the form that is the same for all names that some server takes for it."""
    return text.translate(_FOLDING, _BESIDE_NAMES)


def route_part(route: Route) -> bytes:
    """Return what keys have of a route: its name, and by what the requests that it sends for this listener, or for this
    variant, differ from its others.
    """
    settings = route.chain.sent_settings
    name = route.name.encode()
    return b"%b\xff%b" % (name, settings) if settings else name  # no text in UTF-8 has this byte


def is_authenticated(exchange: Exchange) -> bool:
    """Whether the gateway knows who the client is: by a filter, or by its certificate."""
    return (
        exchange.consumer is not None
        or exchange.is_authenticated
        or bool(exchange.claims)
        or exchange.peer.certificate is not None
    )


def name_of(forward: Forward | ResponseAction) -> str:
    """Return the name of the upstream; "" for several ones."""
    if not isinstance(forward, Forward):
        return ""
    upstream: Upstream = forward.upstream
    return upstream.name


def dropped_for(
    policy: CachePolicy, exchange: Exchange, with_conditions: bool = False, with_body: bool = False
) -> frozenset[bytes]:
    """Return the names of headers of the client that are not sent. A header that a filter has set or removed is not
    the client's. `with_conditions`: the response is for its client alone, so the upstream may evaluate its conditions.
    """
    dropped = policy.dropped - _CONDITIONS if with_conditions else policy.dropped
    if with_body:
        dropped -= DESCRIBE_BODY
    edited = exchange.head.edited()
    if edited is None or not edited.taken:
        return dropped
    return frozenset([name for name in dropped if name in _CONDITIONS or folded(name) not in edited.taken])


def purge_url(exchange: Exchange, query: bytes | None) -> bytes:
    """Return the URL as the client sees it, for purges: without the port of the listener, or of the scheme, and with
    the path in its normal form.
    """
    head, peer = exchange.head, exchange.peer
    scheme, authority = client_scheme(head, peer), client_authority(head, peer)
    if _has_port(authority):
        if authority.endswith(b":%d" % peer.server_port):
            authority = authority.rpartition(b":")[0]
        else:
            authority = authority.removesuffix(_PORTS[scheme])
    url = b"".join((scheme, b"://", authority, exchange.path))
    return url if query is None else b"".join((url, b"?", query))


def _has_port(authority: bytes) -> bool:
    each: cython.uchar
    for each in authority:  # noqa: SIM110 (a loop over bytes, without calls)
        if each == _COLON:
            return True
    return False
