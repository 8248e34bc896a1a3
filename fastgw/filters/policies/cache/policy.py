"""Compiled settings of one use of the filter, and the keys of requests."""

from collections.abc import Callable, Mapping
from time import time
from typing import Final, NamedTuple, final

from msgspec import structs

from fastgw.cache.store import Store
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.exchange.request_keys import cookies_named
from fastgw.filters.policies.cache.ready_answers import ReadyAnswers, ReadyMemory
from fastgw.forwarded_headers import client_authority, client_scheme
from fastgw.http.caching.keys import QueryRule, filter_query, resource_text
from fastgw.http.caching.storing import StorePolicy
from fastgw.http.caching.validation import CONDITIONS
from fastgw.http.caching.vary import normalized_value
from fastgw.http.fields import Fields
from fastgw.upstream.forwarding.forward_action import Forward

UNKEYED: Final = frozenset(
    b"x-forwarded-host x-forwarded-scheme x-forwarded-prefix x-forwarded-server x-forwarded-ssl x-forwarded-port "
    b"x-original-url x-original-host x-rewrite-url x-url-scheme x-host x-http-host-override x-http-method "
    b"x-http-method-override x-method-override front-end-https content-type content-encoding".split()
)
"""Headers of clients that change what an upstream answers without being in the key: with them one client could choose
what others get (cache poisoning). The last two describe a body, which is not forwarded either."""
_PORTS: Final[Mapping[bytes, bytes]] = {b"http": b":80", b"https": b":443"}


@final
class ForwardedFields:
    """Request headers as the upstream gets them: with the changes of filters. For the values that `Vary` names."""

    __slots__ = ("_added", "_exchange")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._added: Fields | None = None

    def first(self, name: bytes) -> bytes | None:
        values = self.values(name)
        return values[0] if values else None

    def values(self, name: bytes) -> list[bytes]:
        exchange = self._exchange
        values = [] if name in exchange.request_dropped else exchange.head.values(name)
        if exchange.request_added:
            if self._added is None:
                self._added = Fields.parse(exchange.request_added, 0)
            values += self._added.get_all(name)
        return values


@final
class CachePolicy:
    """Settings of a use of the filter in the form in which requests need them, and the resources of its worker."""

    __slots__ = (
        "_storing",
        "_storing_apart",
        "by_consumer",
        "bypass_header",
        "clock",
        "dropped",
        "has_store",
        "key_cookies",
        "key_headers",
        "lock_timeout",
        "max_variants",
        "methods",
        "query_rule",
        "ready",
        "store",
        "store_name",
        "tag_headers",
        "worker_loop",
    )

    store: Store
    worker_loop: WorkerLoop

    def __init__(
        self,
        *,
        store_name: str,
        storing: StorePolicy,
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
        self._storing = structs.replace(storing, identity_in_key=False)
        self._storing_apart = structs.replace(storing, identity_in_key=True)
        self.key_headers, self.key_cookies, self.by_consumer = key_headers, key_cookies, by_consumer
        self.methods, self.lock_timeout, self.max_variants = methods, lock_timeout, max_variants
        self.bypass_header, self.tag_headers = bypass_header, tag_headers
        self.has_store = False
        # None: the key has parts that are only known on the full path
        is_apart = key_cookies or by_consumer
        self.ready = None if is_apart else ReadyAnswers(ready_memory, bypass_header, key_headers, time)
        self.clock: Callable[[], float] = time  # epoch seconds
        self.dropped = (UNKEYED | frozenset(CONDITIONS)) - frozenset(key_headers)

    def storing_of(self, exchange: Exchange, *, is_authenticated: bool) -> StorePolicy:
        """Return the rules that decide whether the response to this request is stored.

        They are stricter unless the key has the identity of the client: the consumer, if the client is one, or the
        credentials of a client that the gateway has not authenticated. Tokens without a consumer are not in the key.
        """
        if is_authenticated:
            is_apart = self.by_consumer and exchange.consumer is not None
        else:
            is_apart = b"authorization" in self.key_headers
        return self._storing_apart if is_apart else self._storing

    def query_of(self, exchange: Exchange) -> bytes | None:
        """Return the query for the key and for the upstream."""
        sent = exchange.query_sent
        return filter_query(exchange.head.query if sent is UNCHANGED_QUERY else sent, self.query_rule)

    def resource_of(self, exchange: Exchange, forward: Forward, origin: "ClientOrigin") -> bytes:
        """Return what the keys of a request have in common: what was routed, and what is forwarded, but for the query.

        The filters of another route may send other headers to the same URL of the upstream, so its name is a part.
        """
        head, peer = exchange.head, exchange.peer
        route = exchange.route
        parts: list[bytes | None] = [None if route is None else route.name.encode()]
        if self.key_headers or self.key_cookies:
            fields = ForwardedFields(exchange)
            parts += (normalized_value(name, fields.values(name)) for name in self.key_headers)
            parts += (b"\n".join(cookies_named(head, name)) or None for name in self.key_cookies)
        if self.by_consumer:
            parts.append(None if exchange.consumer is None else exchange.consumer.name.encode())
        if peer.trusted and head.forwarded:  # they reach the upstream as the trusted proxy has sent them
            parts += (head.first(name) for name in (b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"))
        return resource_text(
            scheme=origin.scheme,
            authority=origin.authority,
            path=exchange.path if forward.path_of is None else forward.path_of(exchange),
            upstream=forward.upstream.name.encode(),
            parts=parts,
        )

    def url_of(self, exchange: Exchange, query: bytes | None) -> bytes:
        """Return the URL as clients see it, for purges: without the listener's port, the path in its normal form."""
        return client_url(client_origin(exchange), exchange.path, query)


class ClientOrigin(NamedTuple):
    """Origin that a client has requested. `authority`: without the port of the listener or the scheme."""

    scheme: bytes
    authority: bytes


def client_origin(exchange: Exchange) -> ClientOrigin:
    """Return the origin that the client has requested."""
    head, peer = exchange.head, exchange.peer
    scheme, authority = client_scheme(head, peer), client_authority(head, peer)
    if b":" not in authority:
        return ClientOrigin(scheme, authority)
    if authority.endswith(b":%d" % peer.server_port):
        return ClientOrigin(scheme, authority.rpartition(b":")[0])
    return ClientOrigin(scheme, authority.removesuffix(_PORTS[scheme]))


def client_url(origin: ClientOrigin, path: bytes, query: bytes | None) -> bytes:
    """Return the URL of a resource for purges. `path`: in its normal form."""
    url = b"%b://%b%b" % (origin.scheme, origin.authority, path)
    return url if query is None else b"%b?%b" % (url, query)
