"""The straight way: an ordinary request on a route that nobody looks at, over a connection that is at hand.

Most requests are such. For them a `Passage` does what an `Exchange` and its `Forwarding` do when nothing happens on
the way: no step runs, nothing waits, no body is relayed, nothing is tried again. As soon as more is needed (no
connection is at hand, the answer comes in pieces, the connection breaks, the client leaves), `turn` makes the two as
they would stand by now, and they go on.
"""

import logging
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from fastgw.errors import Fault
from fastgw.exchange import ClientSide, Exchange, Route, Trailers
from fastgw.exchange.states import FORWARDING
from fastgw.forwarded import Peer, fields_for_upstream
from fastgw.upstream.connection import UpstreamConnection
from fastgw.upstream.target import Target
from fastgw.wire import render
from fastgw.wire.framing import RequestHead, ResponseHead

if TYPE_CHECKING:
    from fastgw.upstream.forward import Forward, Forwarding
    from fastgw.upstream.group import Upstream

log = logging.getLogger("fastgw.upstream")

MOST_RESTED: Final = 256
"""Passages of one upstream that are kept for the next requests."""


class StraightClient(ClientSide, Protocol):
    """What a passage asks of the connection that the client is on."""

    def answer_straight(self, passage: "Passage", head: ResponseHead, payload: bytes) -> None:
        """Send this answer, the whole of it. The passage is over."""

    def turn(self, exchange: Exchange) -> None:
        """In place of the passage there is now this exchange."""


@final
class Passage:
    """One request on the straight way: borrower of a connection; what is told of an exchange (`observe.Ended`).

    Kept by its upstream for another request when it is over.
    """

    __slots__ = (
        "_connection",
        "_target",
        "_upstream",
        "begun_at",
        "client",
        "client_ip",
        "fault",
        "forward",
        "head",
        "listener",
        "params",
        "peer",
        "request_body",
        "request_bytes",
        "request_id",
        "response",
        "response_bytes",
        "retries",
        "route",
        "scheme",
        "target",
        "upstream",
        "upstream_s",
        "why",
    )

    client: StraightClient
    head: RequestHead
    listener: Any
    peer: Peer
    route: Route
    params: Mapping[str, bytes]
    client_ip: str
    scheme: bytes
    begun_at: float
    target: str
    response: ResponseHead | None
    response_bytes: int
    upstream_s: float
    forward: "Forward"
    _target: Target

    def __init__(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        self._connection: UpstreamConnection | None = None
        # What stays as it is as long as nothing happens on the way:
        self.upstream = upstream.name
        self.request_body = self.fault = None
        self.request_bytes = self.retries = 0
        self.request_id, self.why = b"", ""

    def __repr__(self) -> str:
        return f"<Passage to {self.upstream} on {self._connection!r}>"

    @property
    def path(self) -> bytes:
        return self.head.path

    @property
    def raw_path(self) -> bytes:
        return self.head.raw_path

    def begin(self) -> None:
        """Send the request. `Forward.straight` has told whose, and what it is."""
        self.begun_at = monotonic()
        upstream, forward, head = self._upstream, self.forward, self.head
        target = self._target = upstream.balancer.pick()
        self.target = target.label
        upstream.active += 1
        connection = self._connection = upstream.pool.idle(target)
        if connection is None:
            self.turn().ask(target, fresh=False)
            return
        try:
            drop, added = fields_for_upstream(forward.forwarded, self.peer, head, self.client_ip)
            request = render.request(head, forward.sent_target(self, target), target.host_header, drop, added)
            connection.begin(self, request, head.method)
        except Exception:  # the edge of this exchange: a defect is its answer
            log.exception("a defect while sending a request to %s", target.label)
            self.turn().exchange.fail(Fault.INTERNAL)

    def turn(self) -> "Forwarding":
        """Make the exchange and its forwarding, which go on from here. This passage is over."""
        connection, self._connection = self._connection, None
        exchange = Exchange(self.head, self.client, self.listener, self.peer, self.route.chain)
        exchange.begun_at, exchange.client_ip = self.begun_at, self.client_ip
        exchange.route, exchange.params = self.route, self.params
        exchange.upstream, exchange.target = self.upstream, self.target
        exchange.answered_by = None
        forwarding = self.forward.resumed(exchange, self._target, connection)
        if connection is not None:
            exchange.state = FORWARDING
            if connection.borrower is self:
                connection.borrower = forwarding
        self.client.turn(exchange)
        self.rest()
        return forwarding

    def rest(self) -> None:
        """It is over and nobody knows of it any more: it may serve another request."""
        self.response = None
        rested = self._upstream.rested
        if len(rested) < MOST_RESTED:
            rested.append(self)

    # what the connection tells

    def answered(self, head: ResponseHead, payload: bytes, ended: bool) -> None:
        if not (ended and payload):
            self.turn().answered(head, payload, ended)
            return
        self.upstream_s = monotonic() - self.begun_at
        self.response = head
        self.response_bytes = len(payload)
        connection, upstream = self._connection, self._upstream
        assert connection is not None
        upstream.active -= 1
        if connection.reusable and not connection.write_paused:
            upstream.pool.give_back(connection)
        else:
            connection.close()
            upstream.pool.discard(connection)
        self._connection = None
        self.client.answer_straight(self, head, payload)

    def informed(self, head: ResponseHead) -> None:
        self.turn().informed(head)

    def failed_on(self, fault: Fault, silent: bool, why: str) -> None:
        self.turn().failed_on(fault, silent, why)

    def pause_request(self) -> None:
        self.client.pause_tunnel()

    def resume_request(self) -> None:
        self.client.resume_tunnel()

    def request_is_whole(self) -> bool:
        return True

    # told only behind `answered`, by when there is a forwarding, or to who has asked to upgrade

    def received(self, payload: bytes) -> None:
        raise NotImplementedError

    def ended(self, trailers: Trailers) -> None:
        raise NotImplementedError

    def switched(self, head: ResponseHead, early: bytes) -> None:
        raise NotImplementedError

    def received_raw(self, chunk: bytes) -> None:
        raise NotImplementedError

    def ended_raw(self) -> None:
        raise NotImplementedError
