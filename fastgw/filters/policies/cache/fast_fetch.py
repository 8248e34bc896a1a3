"""Fast fetch: a miss on the fast path, whose response is stored as it passes.

Only for routes on which no other filter has a step, and for what is simple: the URL is not in the store, no other
request fetches it, and the response was received as a whole (`whole_response`). Rule 1: what is decided is decided by
the same functions as on the full path (`CachedRequest`, `Fetch`). Rule 2: everything else leaves the fast path: a
`Fetch` goes on with the lease and with the request that was sent.

PERF: a miss of 1 KiB that is stored takes 62,000 instructions, in Python 228,000; one that is not takes 59,000, the
same request without a cache 48,000 (CPython 3.11, callgrind, micro/response_cache).
"""

from typing import TYPE_CHECKING, final

from fastgw.cache.store import Lease, Refusal, RefusedLease, begin_with
from fastgw.exchange import Exchange, Route
from fastgw.exchange.fast_fetch import FastFetch, FetchRequest
from fastgw.filters.policies.cache.cached_request import CachedRequest
from fastgw.filters.policies.cache.fetch import Fetch
from fastgw.filters.policies.cache.policy import CachePolicy, client_url, purge_origin
from fastgw.filters.policies.cache.ready_answers import ReadyAnswers
from fastgw.filters.policies.cache.whole_response import ExchangeFetch, take_whole
from fastgw.forwarded_headers import Peer
from fastgw.http.caching.cache_status import Forwarded
from fastgw.http.caching.directives import NO_REQUEST_DIRECTIVES
from fastgw.http.caching.keys import primary_key, search_key
from fastgw.http.caching.storing import Times, decide_storing
from fastgw.http.http1.parser import Http1ResponseHead
from fastgw.http.http1.serializer import end_to_end
from fastgw.http.messages import RequestHead

if TYPE_CHECKING:
    from fastgw.upstream.forwarding.forward_action import Forward


def begin_fetch(policy: CachePolicy, request: FetchRequest, forward: "Forward") -> "StoringFetch | None":
    """Begin to fetch the response to an ordinary GET without a body. None: the request takes the full path."""
    head, peer, ready = request.head, request.peer, policy.ready
    if ready is None or not policy.has_store or head.method != b"GET" or not policy.fetches_get:
        return None
    store = policy.store
    if store.has_slower_tiers or ready.needs_full_path(head, peer):
        return None
    query = head.query
    if query is not None and policy.query_rule is not None:
        return None
    origin = purge_origin(head, peer)
    resource = policy.resource_of(request, head, forward)
    key = primary_key(resource, query)
    if not (store.is_absent(key) and store.is_absent(search_key(resource))):
        return None
    asked = store.lease(key)
    if asked is Refusal.IN_FLIGHT:
        return None
    lease, refused = begin_with(asked, store)
    url = client_url(origin, request.path, query)
    return StoringFetch(policy, head, peer, request.route, forward, lease, refused, url, policy.clock())


@final
class StoringFetch:
    """Implements `exchange.fast_fetch.FastFetch`. `lease`: None if a mark refuses it, or there is no slot."""

    __slots__ = (
        "_head",
        "_is_authenticated",
        "_lease",
        "_policy",
        "_refused",
        "_request_date",
        "_route",
        "_url",
        "dropped",
        "forward",
        "result",
    )

    def __init__(
        self,
        policy: CachePolicy,
        head: RequestHead,
        peer: Peer,
        route: Route | None,
        forward: "Forward",
        lease: Lease | None,
        refused: RefusedLease | None,
        url: bytes,
        request_date: float,
    ) -> None:
        self._policy, self.forward, self._lease, self._refused, self._url = policy, forward, lease, refused, url
        self._head = head
        self._route = "" if route is None else route.name
        self._is_authenticated = peer.certificate is not None
        self._request_date = request_date
        self.dropped = policy.dropped
        self.result = "miss"

    def __repr__(self) -> str:
        return f"<StoringFetch of {self._url!r}>"

    def take_response(self, head: Http1ResponseHead) -> bytes | None:
        policy = self._policy
        judged = decide_storing(
            *(
                self._head,
                NO_REQUEST_DIRECTIVES,
                head,
                policy.storing_of(None, is_authenticated=self._is_authenticated),
            ),
            Times(self._request_date, policy.clock()),
            authenticated=self._is_authenticated,
            render=end_to_end,
        )
        status = take_whole(
            *(policy, self._lease, Forwarded.URI_MISS, judged, head),
            fields=self._head,
            url=self._url,
            route=self._route,
        )
        return None if status is None else b"Cache-Status: %b\r\n" % status

    def leave_fast_path(self, exchange: Exchange) -> Exchange:
        request = CachedRequest(self._policy, exchange, self.forward)
        fetch = Fetch(request, self._lease, self._refused, Forwarded.URI_MISS, None, None, has_client=True)
        return fetch.adopt_request(exchange, self._request_date)


def begin_exchange_fetch(policy: CachePolicy, exchange: Exchange, forward: "Forward") -> FastFetch | None:
    """Begin to fetch the response to an exchange on the fast path, in ordinary cases. None: `CachedRequest` decides,
    which begins an `ExchangeFetch` itself, so here there is none without the compiled module.
    """
    return None


if not TYPE_CHECKING:
    from fastgw.filters.policies.cache import _fast_fetch as _twin

    _twin.adopt(begin_fetch, StoringFetch, ExchangeFetch, CachedRequest, ReadyAnswers)
    begin_fetch = _twin.begin_fetch
    begin_exchange_fetch = _twin.begin_exchange_fetch
