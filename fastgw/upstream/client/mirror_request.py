"""Mirrored request: a copy of a request whose response is measured and dropped; nothing waits for it."""

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final, NamedTuple, final

from fastgw.exchange import Exchange, Trailers
from fastgw.exchange.body_relay import whole_body
from fastgw.http.field_names import DIGESTS, EXPECT
from fastgw.http.messages import ResponseHead
from fastgw.upstream.client.call import copy_chain, derive_exchange
from fastgw.upstream.client.subrequest import Subrequest, SubrequestFailed
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.forwarding.forwarded_request import ForwardSettings
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
    listener = _DiscardingListener(done)
    sent = listener.sent = Subrequest(listener, exchange.client)
    forward = action.for_copies(upstream) if isinstance(action, Forward) else Forward(upstream, ForwardSettings())
    chain = copy_chain(exchange.chain)
    copy = derive_exchange(exchange, exchange.head, sent, chain, forward)
    copy.path = exchange.path
    copy.request_added, dropped, copy.query_sent = exchange.changes_for_others
    copy.request_dropped = dropped | EXPECT
    if exchange.request_body is not None:
        declared, trailers = exchange.request_body.length, exchange.request_body.trailers
        copy.request_body = whole_body(body, None if declared is None or trailers else len(body))
        copy.request_body.trailers = trailers  # checked again when they are sent: see `sent_trailers`
        if exchange.request_body.changed:
            copy.request_dropped |= DIGESTS
    sent.takes_replies = bool(chain.translate_steps)
    sent.send(copy, forward, inf)


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
