"""Responses that were received as a whole: stored at once as they pass, or not at all.

Rule: what is decided is decided by the same functions as in `Fetch`, which does everything else.
"""

from typing import TYPE_CHECKING, final

from fastgw.cache.store import Lease, NotStored, RefusedLease
from fastgw.exchange import Exchange
from fastgw.filters.policies.cache.fetch import Fetch, dropped_for
from fastgw.filters.policies.cache.policy import MARK_S, MOST_TAGS, CachePolicy
from fastgw.http.caching.cache_status import Forwarded, forwarded_status
from fastgw.http.caching.freshness import corrected_age
from fastgw.http.caching.records import StoredHead, VariantsRecord, encode_record
from fastgw.http.caching.storing import Times, Unstorable, decide_storing
from fastgw.http.caching.vary import RequestFields, variant_key
from fastgw.http.http1.parser import Http1ResponseHead
from fastgw.http.http1.serializer import end_to_end
from fastgw.sync.cache_purges import url_tag

if TYPE_CHECKING:
    from fastgw.filters.policies.cache.cached_request import CachedRequest


def take_whole(
    policy: CachePolicy,
    lease: Lease | None,
    why: Forwarded,
    judged: StoredHead | Unstorable,
    head: Http1ResponseHead,
    *,
    fields: RequestFields,
    url: bytes,
    route: str,
) -> bytes | None:
    """Store a response, or end its lease with a mark. Returns the value of `Cache-Status`; None: nothing was done, and
    a `Fetch` has to go on.

    `lease`: of the primary key of a resource of which nothing is stored; None: there is none. `fields`: the request as
    the upstream has got it.
    """
    if corrected_age(head) is not None:
        return None
    if isinstance(judged, Unstorable):
        return _end_unstored(policy, lease, why, route, judged.value)
    payload = head.payload
    if lease is None or payload is None or head.first(b"no-vary-search") is not None:
        return None
    tags = policy.tags_of(head)
    if len(tags) > MOST_TAGS:
        return _end_unstored(policy, lease, why, route, NotStored.TAGS.value)
    of_url = url_tag(url)
    tags.append(of_url)
    key = lease.key
    if judged.vary:
        key = variant_key(lease.key, judged.vary, fields)
        listed = encode_record(VariantsRecord(judged.vary, (key,)))
        if not lease.store_head(listed, key=lease.key, url=url, tags=(of_url,)):
            return _end_unstored(policy, lease, why, route, lease.why_not.value)
    if not lease.store_whole(encode_record(judged), payload, key=key, url=url, tags=tags):
        return _end_unstored(policy, lease, why, route, lease.why_not.value)
    policy.count_miss(route, None)
    return forwarded_status(why, stored=True, ttl=judged.lifetime - judged.initial_age)


def _end_unstored(policy: CachePolicy, lease: Lease | None, why: Forwarded, route: str, detail: bytes) -> bytes:
    if lease is not None:
        lease.give_up(MARK_S)
    policy.count_miss(route, detail)
    return forwarded_status(why, detail=detail)


@final
class ExchangeFetch:
    """A miss whose request is forwarded as it is. Implements `exchange.response_taker.ResponseTaker`.

    `lease`: None if another request has it, a mark refuses it, or there is no slot.
    """

    __slots__ = ("_lease", "_refused", "_request", "_request_date", "_why", "dropped")

    def __init__(
        self,
        request: "CachedRequest",
        lease: Lease | None,
        refused: RefusedLease | None,
        why: Forwarded,
        request_date: float,
    ) -> None:
        self._request, self._lease, self._refused, self._why = request, lease, refused, why
        self.dropped = dropped_for(request.policy, request.exchange)
        self._request_date = request_date

    def __repr__(self) -> str:
        return f"<ExchangeFetch of {self._request.url!r}>"

    def take_response(self, head: Http1ResponseHead) -> bool:
        request, policy = self._request, self._request.policy
        exchange, is_authenticated = request.exchange, request.is_authenticated
        judged = decide_storing(
            *(exchange.head, request.directives, head),
            policy.storing_of(exchange.consumer, is_authenticated=is_authenticated),
            Times(self._request_date, policy.clock()),
            authenticated=is_authenticated,
            authorized=exchange.sends_client_authorization,
            render=end_to_end,
        )
        if isinstance(judged, StoredHead) and (request.variants is not None or request.rule is not None):
            return False
        status = take_whole(
            *(policy, self._lease, self._why, judged, head),
            fields=request.fields,
            url=request.url,
            route="" if exchange.route is None else exchange.route.name,
        )
        if status is None:
            return False
        exchange.cache_result, exchange.cache_status = "miss", status  # the response step of the filter adds it
        return True

    def take_over(self, exchange: Exchange) -> Exchange:
        fetch = Fetch(self._request, self._lease, self._refused, self._why, None, None, has_client=True)
        return fetch.adopt_request(exchange, self._request_date)
