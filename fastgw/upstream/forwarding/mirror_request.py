"""A request sent once more, to somebody who is not waited for: what comes back is looked at and dropped."""

from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple, final

from fastgw.errors import Fault
from fastgw.exchange import Chain, ClientSide, Exchange, Relay, Response, Trailers, begin
from fastgw.exchange.states import ENDED
from fastgw.http.field_names import EXPECT
from fastgw.http.messages import ResponseHead
from fastgw.observe.metrics.families import FilterEvent
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.upstream import Upstream

MOST_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of a response body that are taken of a copy."""
MOST_S: Final = 60.0
"""Seconds from its beginning in which a copy may go on answering; one that says nothing ends by its timeouts."""

_NO_FILTERS: Final = Chain(())


class Answered(NamedTuple):
    """Result of a copy. `status`: 0 for nothing, or not all of it."""

    status: int
    length: int
    """Bytes of the body."""


def send_copy(exchange: Exchange, body: bytes, upstream: Upstream, done: Callable[[Answered], None]) -> None:
    """Send the request of an exchange, as filters have left it, to `upstream`, as its route would. `done`: once.

    What is for the upstream of its route alone stays behind.
    """
    action = exchange.route.action if exchange.route is not None else None
    path_of, forwarded = (action.path_of, action.forwarded) if isinstance(action, Forward) else (None, None)
    copy = begin(exchange.head, _DiscardingClient(done), exchange.listener, exchange.peer, _NO_FILTERS)
    copy.client_ip, copy.params, copy.path = exchange.client_ip, exchange.params, exchange.path
    copy.consumer, copy.claims = exchange.consumer, exchange.claims
    others = exchange.for_others or (exchange.request_added, exchange.request_dropped, exchange.query_sent)
    copy.request_added, dropped, copy.query_sent = others
    copy.request_dropped = dropped | EXPECT
    copy.answered_by = None
    if exchange.request_body is not None:
        declared = exchange.request_body.length
        copy.request_body = Relay.whole(body, None if declared is None else len(body))
    assert isinstance(copy.client, _DiscardingClient)
    copy.client.exchange = copy
    Forward(upstream, path_of, forwarded, (), None)(copy)


@final
class _DiscardingClient(ClientSide):
    """The client of a copy."""

    exchange: Exchange
    fd = body_goes_to = -1

    def __init__(self, done: Callable[[Answered], None]) -> None:
        self._done = done
        self._status = self._length = 0

    def inform(self, head: ResponseHead | None) -> None: ...

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        if response.head is not None:  # not a fault of ours
            self._status = response.status
        self.feed(payload)
        if ended:
            self.end(())  # a second time for one that was broken off

    def feed(self, payload: bytes) -> None:
        self._length += len(payload)
        if self._length > MOST_BYTES or monotonic() > self.exchange.begun_at + MOST_S:
            self.exchange.break_off()
            self.abort(Fault.UPSTREAM_INCOMPLETE)

    def end(self, trailers: Trailers) -> None:
        if self.exchange.state is not ENDED:
            self.exchange.finish()
            self._done(Answered(self._status, self._length))

    def abort(self, fault: Fault) -> None:
        self._status = 0
        self.end(())

    def tunnel(self, early: bytes, patience: float) -> None:
        self.exchange.break_off()
        self.abort(Fault.UPGRADE_UNEXPECTED)

    def pause_tunnel(self) -> None: ...
    def resume_tunnel(self) -> None: ...
    def count_filter(self, instance: str, event: FilterEvent) -> None: ...

    def patience_with_filters(self) -> float:
        return 0.0  # it meets none
