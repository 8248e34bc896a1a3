"""Mirrored request: a copy of a request whose response is measured and dropped; nothing waits for it."""

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final, NamedTuple, final

from fastgw.exchange import Chain, Exchange, Relay, Route, Trailers, new_exchange
from fastgw.exchange.chain import FilterInstance, Hooks
from fastgw.exchange.upstream_chains import NO_FILTERS
from fastgw.http.field_names import DIGESTS, EXPECT
from fastgw.http.messages import ResponseHead
from fastgw.upstream.client.subrequest import Subrequest, SubrequestFailed
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.upstream import Upstream

MOST_BYTES: Final = 64 * 1024 * 1024
"""Maximum bytes of a response body that are read for a copy."""
MOST_S: Final = 60.0
"""Maximum seconds for the response to a copy; without data it ends earlier, by the upstream's timeouts."""


class Answered(NamedTuple):
    """Result of a copy. `status`: 0 for no response, or an incomplete one."""

    status: int
    length: int
    """Bytes of the body."""


def send_copy(exchange: Exchange, body: bytes, upstream: Upstream, done: Callable[[Answered], None]) -> None:
    """Send the request of an exchange, with the changes of filters, to `upstream`, as its route would. `done`: called
    once, with the result.

    Additions for the route's own upstream are left out. A request that a filter translates is translated for
    `upstream`, too, and so is the response: the result is comparable. The exchange may end first: the copy continues.
    """
    action = exchange.route.action if exchange.route is not None else None
    path_of, forwarded = (action.path_of, action.forwarded) if isinstance(action, Forward) else (None, None)
    listener = _DiscardingListener(done)
    sent = listener.sent = Subrequest(listener, exchange.client)
    forward = Forward(upstream, path_of, forwarded, (), None)
    chain = _chain_of_copy(exchange.chain)
    copy = new_exchange(exchange.head, sent, exchange.listener, exchange.peer, chain)
    if chain is not NO_FILTERS and exchange.route is not None:
        copy.route = Route(exchange.route.name, forward, chain, ())
    copy.client_ip, copy.params, copy.path = exchange.client_ip, exchange.params, exchange.path
    copy.trace = exchange.trace
    copy.consumer, copy.claims = exchange.consumer, exchange.claims
    others = exchange.for_others or (exchange.request_added, exchange.request_dropped, exchange.query_sent)
    copy.request_added, dropped, copy.query_sent = others
    copy.request_dropped = dropped | EXPECT
    copy.answered_by = None
    if exchange.request_body is not None:
        declared = exchange.request_body.length
        copy.request_body = Relay.whole(body, None if declared is None else len(body))
        if exchange.request_body.changed:
            copy.request_dropped |= DIGESTS
    sent.takes_replies = chain is not NO_FILTERS
    sent.send(copy, forward, inf)


def _chain_of_copy(chain: Chain) -> Chain:
    """Return the chain of a copy: of the filters of its request only those that translate copies."""
    if not chain.translate_steps:
        return NO_FILTERS
    links = [
        FilterInstance(link.use, Hooks(translate=link.hooks.translate), False, link.level)
        for link in chain.links
        if link.hooks.translates_copies
    ]
    return Chain(links) if links else NO_FILTERS


@final
class _DiscardingListener:
    """Listener to the response to a copy; it counts the bytes."""

    __slots__ = ("_done", "_length", "sent")

    sent: Subrequest

    def __init__(self, done: Callable[[Answered], None]) -> None:
        self._done = done
        self._length = 0

    def on_response(self, head: ResponseHead) -> None: ...

    def on_data(self, payload: bytes) -> None:
        self._length += len(payload)
        if self._length > MOST_BYTES or monotonic() > self.sent.exchange.begun_at + MOST_S:
            self.sent.cancel()
            self._done(Answered(0, self._length))

    def on_end(self, trailers: Trailers) -> None:
        # A response that was translated may have been ended with the status of a fault.
        self._done(Answered(self.sent.status if self.sent.exchange.fault is None else 0, self._length))

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._done(Answered(0, self._length))
