"""The steps of the filter `cache` for requests and responses."""

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from typing import Final

import cython

from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import PURGE_WAIT_S, Counting, holds_after_restart
from fastgw.errors import Fault
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.reply import Reply, Response
from fastgw.exchange.shadow_exchange import ShadowExchange
from fastgw.filters.policies.cache.cached_request import CachedRequest
from fastgw.filters.policies.cache.fetch import explain_fetch, narrow_copy
from fastgw.filters.policies.cache.policy import CachePolicy, purge_url, whole_query_of
from fastgw.filters.policies.cache.ready_answers import ReadyAnswers
from fastgw.http.caching.cache_status import PURGE, Forwarded, forwarded_status
from fastgw.http.caching.invalidation import find_invalidated, invalidates
from fastgw.http.caching.validation import FOR_ORIGIN
from fastgw.http.http1.sought_names import SoughtNames
from fastgw.http.malformed import Malformed
from fastgw.http.messages import first_of
from fastgw.http.path_normalization import normalize
from fastgw.sync.cache_purges import PurgeOrder, PurgeTarget, tags_to_purge
from fastgw.upstream.client.response_action import ResponseAction
from fastgw.upstream.forwarding.forward_action import CallRecorder, Forward

_FOR_ORIGIN: Final = SoughtNames(FOR_ORIGIN)
_POST: Final = b"POST"
_SOFT_PURGE: Final = b"fastgw-soft-purge"
_COUNTED_AT_ONCE: Final = 4
"""Steps of counting between two turns of the event loop."""
_METHOD: Final = forwarded_status(Forwarded.METHOD)
_BYPASS: Final = forwarded_status(Forwarded.BYPASS)


@cython.cclass
class CacheSteps:
    """The steps of one use of the filter.

    `body_bytes`: maximum of a POST whose response is cached. `may_purge`: whether an address may send PURGE, and why
    not; None: the method is nothing special. `announce`: tells the other nodes of a purge.
    """

    announce: Callable[[PurgeOrder], None]

    def __init__(
        self,
        policy: CachePolicy,
        body_bytes: cython.Py_ssize_t,
        may_purge: Callable[[str], tuple[bool, str]] | None,
    ) -> None:
        self._policy, self._body_bytes, self._may_purge = policy, body_bytes, may_purge

    def translate(self, exchange: Exchange, forward: Forward | CallRecorder | ResponseAction) -> bool:
        policy = self._policy
        if exchange.cache_status:  # it is forwarded past the cache, or a fallback takes over
            return False
        if exchange.method not in policy.methods:
            if self._may_purge is not None and exchange.method == b"PURGE":
                self._purge(exchange, isinstance(forward, CallRecorder))
                return True
            policy.forward_past(exchange, _METHOD)
            return False
        body = None
        if exchange.method == _POST:
            body = _body_of(exchange, self._body_bytes) if isinstance(forward, Forward) else None
        if self._is_past(exchange, forward) or (exchange.method == _POST and body is None):
            policy.forward_past(exchange, _BYPASS)
            return False
        if isinstance(forward, Forward):
            if forward.refuse_path(exchange):
                return True
            if body is not None:
                return policy.has_store and CachedRequest(policy, exchange, forward, body).answer()
            ready: ReadyAnswers | None = policy.ready
            if policy.has_store and ready is not None and ready.answer(exchange, forward):
                return True
        elif isinstance(forward, CallRecorder):
            if not forward.action.refuse_path(exchange):
                explain_fetch(policy, exchange, forward)
            return True
        return policy.has_store and CachedRequest(policy, exchange, forward).answer()

    def translate_copy(self, copy: Exchange, forward: Forward | CallRecorder | ResponseAction) -> bool:
        # The mirror may be a service of the same kind, behind whose cache one client could choose what others get.
        self._policy.filter_sent_query(copy)
        if copy.method in self._policy.methods and copy.method != _POST and not self._is_past(copy, forward):
            narrow_copy(self._policy, copy)
        return False

    def _is_past(self, exchange: Exchange, forward: Forward | CallRecorder | ResponseAction) -> bool:
        """Whether a request with a method of the cache is forwarded past it."""
        head, bypass_header = exchange.head, self._policy.bypass_header
        return (
            (isinstance(forward, Forward) and forward.grpc)
            or bool(head.upgrade)
            or (bypass_header is not None and first_of(head, bypass_header) is not None)
            or _FOR_ORIGIN.occur_in(head)
        )

    def response(self, exchange: Exchange) -> None:
        answer: Response | None = exchange.response
        assert answer is not None
        if not exchange.cache_status:
            return
        answer.added = b"".join((answer.added, b"Cache-Status: ", exchange.cache_status, b"\r\n"))
        if (
            exchange.cache_result == "bypass"
            and exchange.method not in self._policy.methods
            and answer.head is not None
            and invalidates(exchange.method, answer.head.status)
            and not isinstance(exchange, ShadowExchange)  # its requests go past another cache, and this store stays
        ):
            _invalidate(self._policy, exchange)

    def _purge(self, exchange: Exchange, shown_only: bool) -> None:
        policy, may_purge = self._policy, self._may_purge
        assert may_purge is not None
        exchange.cache_status = PURGE
        passes, why = may_purge(exchange.client_ip)
        if not passes:
            exchange.fail(Fault.CLIENT_ADDRESS_DENIED, why=why)
        elif shown_only:
            exchange.reply(Reply(200, b""))
        elif not policy.has_store:
            exchange.fail(Fault.INTERNAL, why="there is no cache store")
        else:
            # Routes and nodes with other rules of `key.query` store more of the query.
            queries = whole_query_of(exchange), policy.query_of(exchange)
            urls = tuple(dict.fromkeys(purge_url(exchange, query) for query in queries))
            is_soft = exchange.head.first(_SOFT_PURGE) == b"1"
            counting = policy.store.purge("tag", [tag for url in urls for tag in tags_to_purge(url)], soft=is_soft)
            self.announce(PurgeOrder(policy.store_name, PurgeTarget.URL, urls, is_soft))
            exchange.service = waiting = _PurgeWait(exchange, policy.store, counting, policy.worker_loop.loop)
            waiting.start()


class _PurgeWait:
    """Service side of a request with PURGE, until its objects are counted and the purge holds over restarts, too, or
    the disk hangs.
    """

    def __init__(self, exchange: Exchange, store: SharedStore, counting: Counting, loop: AbstractEventLoop) -> None:
        self._exchange: Exchange | None = exchange
        self._store, self._counting, self._loop = store, counting, loop
        self._objects: int | None = None
        self._is_written = self._is_over = False
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        self._store.when_purged(self._note_written)
        if not self._is_written:
            self._timer = self._loop.call_later(PURGE_WAIT_S, self._note_end)
        self.count_next()

    def _note_written(self) -> None:
        self._is_written = True
        self._note_end()

    def _note_end(self) -> None:
        self._is_over = True
        self._stop_timer()
        self._answer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def count_next(self) -> None:
        """Count some objects, with turns of the event loop in between."""
        if self._exchange is None:
            return
        for _ in range(_COUNTED_AT_ONCE):
            try:
                next(self._counting)
            except StopIteration as end:
                self._objects = int(end.value)
                self._answer()
                return
        self._loop.call_soon(self.count_next)

    def _answer(self) -> None:
        exchange = self._exchange
        if exchange is not None and self._is_over and self._objects is not None:
            self._exchange = exchange.service = None
            is_kept = holds_after_restart(self._store.numbers().disk, is_written=self._is_written)
            more = b"" if is_kept else b',"holds_after_restart":false'
            body = b'{"objects":%d%b}' % (self._objects, more)
            exchange.reply(Reply(200, body, [(b"Content-Type", b"application/json")]))

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        self._exchange = None
        self._stop_timer()


def _body_of(exchange: Exchange, most: int) -> bytes | None:
    """Return the body of a request, as the upstream gets it; None: it is too long, or has trailers."""
    relay = exchange.request_body
    if relay is None:
        return b""
    body = relay.whole_payload() if relay.passed else None
    return None if body is None or len(body) > most else body


def _invalidate(policy: CachePolicy, exchange: Exchange) -> None:
    """Remove what is stored for the URL of a successful unsafe request, and for those that its response names."""
    answer = exchange.response
    assert answer is not None
    assert answer.head is not None
    url = purge_url(exchange, policy.query_of(exchange))
    origin, slashes, rest = url.partition(b"://")
    authority, slash, target = rest.partition(b"/")
    tags = tags_to_purge(url)
    own_port = exchange.peer.server_port
    for path, query in find_invalidated(origin, authority, slash + target, answer.head, own_port):
        try:
            named = b"%b%b%b%b" % (origin, slashes, authority, normalize(path))
        except Malformed:
            continue
        tags += tags_to_purge(named if query is None else b"%b?%b" % (named, query))
    policy.store.purge("tag", tags)
