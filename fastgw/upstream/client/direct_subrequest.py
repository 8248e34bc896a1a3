"""Direct sub-requests: ordinary sub-requests over an idle connection, without an exchange of their own.

Nothing waits and nothing is retried. As soon as more is needed (no connection is idle, the response arrives in pieces,
the connection breaks), the sub-request becomes one with an exchange (`subrequest`), which continues in its current
state. Until then its end is counted and logged like that of any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

import cython

from fastgw.errors import Fault
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.states import ENDED
from fastgw.forwarded_headers import FAMILY, Peer, fields_for_upstream, reported_lines
from fastgw.http.built_request import BuiltRequestHead
from fastgw.http.http1 import serializer
from fastgw.http.messages import ResponseHead
from fastgw.typed_fields import expose_fields
from fastgw.upstream.client.subrequest import (
    Subrequest,
    Subrequests,
    SubresponseListener,
    adopt_subrequest,
    log_raised,
)
from fastgw.upstream.connections.http1_connection import UpstreamConnection
from fastgw.upstream.connections.stream import ResponseListener, UpstreamStream
from fastgw.upstream.forwarding.attempt import JUST_USED_S
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.policies.retry import IDEMPOTENT
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptRecord
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream

if TYPE_CHECKING:
    from fastgw.upstream.forwarding.attempt import Attempt
    from fastgw.upstream.forwarding.forwarding import Forwarding

_NO_PARAMS: Final[Mapping[str, bytes]] = {}
_OF_VERSION: Final = serializer.VIA[BuiltRequestHead.version]
Lines = Iterable[tuple[bytes, bytes]]


class WholeListener(SubresponseListener, Protocol):
    """Listener that also gets a response in one call, if it was received as a whole."""

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        """Handle the response: no other call follows."""


class RequestPlan:
    """Part of a request that is the same each time: `method`, and header lines that have no variables.

    `fields`: these lines; None: they differ from request to request. `forward`: by which it is sent.
    """

    def __init__(self, forward: Forward, method: bytes, fields: Lines | None) -> None:
        self.forward, self.method = forward, method
        upstream = forward.upstream
        self.allowed = forward.takes_first_response and not forward.grpc and upstream.cookies is None
        self._begin = method + b" "
        self._sized = method in (b"POST", b"PUT", b"PATCH")
        self._via = b"" if forward.marks else _OF_VERSION
        self._end: bytes | None = None
        if fields is not None:
            head = BuiltRequestHead(method, b"localhost", b"/", fields)
            self._end = serializer.end_to_end(head, FAMILY | forward.marks)

    def render(self, sent: DirectSubrequest, target: Target) -> bytes:
        """Return the request for a target, as `Forward.request` does."""
        forward, body = self.forward, sent.body
        peer: Peer = sent.peer
        if self._end is not None and not peer.trusted:
            host = target.host_header or sent.authority or target.authority
            length = b"Content-Length: %d\r\n" % len(body) if body or self._sized else b""
            return b"".join(
                (self._begin, target.base_path, sent.sent_target, b" HTTP/1.1\r\nHost: ", host, b"\r\n",
                 self._end, peer.set_lines(sent.authority), length, self._via, b"\r\n", body)
            )  # fmt: skip
        head = sent.head
        drop, added = fields_for_upstream(None, peer, head, sent.client_ip)
        if forward.marks:
            drop |= forward.marks
        target_sent = target.base_path + sent.sent_target
        return serializer.request(head, target_sent, forward.host_header(target, head), drop, added, body)


class DirectSubrequest(ResponseListener):
    """Borrower of a stream for one sub-request. To observers it looks like a finished exchange."""

    params = _NO_PARAMS
    retries = 0
    on_abandoned = None
    trace = None  # a request that is traced is sent with an exchange

    def __init__(
        self, parent: Exchange, plan: RequestPlan, listener: WholeListener, target: bytes, fields: Lines, body: bytes
    ) -> None:
        self._parent = parent
        self._plan = plan
        self._listener: WholeListener | None = listener
        self.sent_target, self._fields, self.body = target, fields, body
        self.peer, self.client_ip, self.consumer = parent.peer, parent.client_ip, parent.consumer
        self.authority = parent.authority
        self.upstream = plan.forward.upstream.name
        self.target = ""
        self.begun_at = monotonic()
        self.upstream_s = -1.0
        self._head: BuiltRequestHead | None = None
        self._stream: UpstreamStream | None = None
        self._record: AttemptRecord | None = None  # if there are listeners
        self._sent: Subrequest | None = None  # what it has become
        self._siblings: Subrequests

    def __repr__(self) -> str:
        return f"<DirectSubrequest on {self._stream!r}>"

    # attributes of the request, for balancers (`BalancingRequest`)

    @property
    def head(self) -> BuiltRequestHead:
        head = self._head
        if head is None:
            length = len(self.body)
            fields = [*self._fields, *reported_lines(self._parent.head, self.peer)]
            head = BuiltRequestHead(self._plan.method, self.authority, self.sent_target, fields, length)
            self._head = head
        return head

    @property
    def path(self) -> bytes:
        return self.head.path

    @property
    def raw_path(self) -> bytes:
        return self.head.raw_path

    def current_values(self, name: bytes) -> list[bytes]:
        return self.head.values(name)

    def start(self, siblings: Subrequests) -> None:
        """Send it, or continue as a sub-request with an exchange."""
        self._siblings = siblings
        siblings.active.add(self)
        plan, forward = self._plan, self._plan.forward
        upstream: Upstream = forward.upstream
        upstream.active += 1
        target: Target | None = upstream.pick(self)
        if target is None:
            self._become_subrequest(None).attempt(fresh=False, again=False)
            return
        self.target = target.label
        if upstream.attempt_listener is not None:
            exchange: Any = self  # with the attributes that listeners to attempts use
            record = AttemptRecord(exchange, upstream, target, AttemptKind.FIRST, 1, self.begun_at)
            self._record = record.report_begun()
        may_repeat = plan.method in IDEMPOTENT or forward.rules.any_method
        stream = self._stream = upstream.pool.try_lend(target, inf if may_repeat else JUST_USED_S)
        if stream is None:
            self._become_subrequest(target).request_stream()
            return
        if self._record is not None:
            self._record.connect(stream.reused, self.begun_at)
        try:
            request = plan.render(self, target)
            if isinstance(stream, UpstreamConnection):
                connection: UpstreamConnection = stream
                connection.send_request(self, request, plan.method)
            else:
                stream.send_request(self, request, plan.method)
        except Exception:  # the edge of this sub-request: an exception is reported as a fault
            log_raised(self)
            self._leave().exchange.fail(Fault.INTERNAL)

    def cancel(self) -> None:
        """Cancel it: the listener is not called any more. Does nothing after its end."""
        if self._sent is not None:
            self._sent.cancel()
        elif self._listener is not None:
            self._leave()
            assert self._sent is not None
            self._sent.cancel()

    # becoming a sub-request with an exchange

    def _leave(self) -> Attempt:
        assert self._stream is not None
        attempt = self._become_subrequest(self._stream.target).current
        assert attempt is not None
        return attempt

    def _become_subrequest(self, target: Target | None) -> Forwarding:
        """Return the forwarding of the exchange by which it continues. `target`: None if none could be selected."""
        stream, self._stream = self._stream, None
        record, self._record = self._record, None
        listener, self._listener = self._listener, None
        siblings = self._siblings
        siblings.active.discard(self)
        assert listener is not None
        self._sent, forwarding = adopt_subrequest(
            self._parent, self._plan.forward, listener, self.head, self.body, self.begun_at, target, stream, record
        )
        return forwarding

    # calls of the stream

    def on_head(self, head: ResponseHead, payload: bytes | None, ended: bool) -> None:
        body = head.payload
        if payload is not None or not body:
            self._leave().on_head(head, payload, ended)
            return
        now = monotonic()
        stream, listener, upstream = self._stream, self._listener, self._plan.forward.upstream
        assert stream is not None
        assert listener is not None
        upstream.active -= 1
        status = head.status
        if self._record is not None:
            record, self._record = self._record, None
            record.answer(status, now)
            record.end(now)
        self._stream = self._listener = None
        stream.release()
        self.upstream_s = now - self.begun_at
        self._siblings.end(self, self.upstream, self.target, status, now - self.begun_at)
        finished: Any = self  # with the attributes that are counted
        self._parent.client.counts.count_subrequest(finished, status)
        try:
            listener.on_whole(head, body)
        except Exception:  # the edge of a filter: the owner of the connection could not handle its error
            log_raised(self)

    def on_interim(self, head: ResponseHead) -> None:
        self._leave().on_interim(head)

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        self._leave().on_failure(fault, silent, why)


def send_direct(
    parent: Exchange,
    plan: RequestPlan,
    listener: WholeListener,
    target: bytes,
    fields: Lines,
    body: bytes,
    most: cython.int,
) -> DirectSubrequest | None:
    """Send a sub-request without a timeout of its own directly; None: it needs an exchange (`send_subrequest`).

    `target`: path in normal form, and query, in printable ASCII. `fields`: valid header lines. `most`: as in
    `send_subrequest`.
    """
    if not plan.allowed or type(parent) is not Exchange or parent.state is ENDED or parent.trace is not None:
        return None
    if parent.listener.upstream_chains.chain_of(plan.forward.upstream.name).links:
        return None
    route = parent.route
    if route is not None and route.filter_timeout is not None:
        return None
    siblings: Subrequests | None = parent.subrequests
    if siblings is None:
        siblings = parent.subrequests = Subrequests()
    if siblings.count >= most:
        return None
    siblings.count += 1
    sent = DirectSubrequest(parent, plan, listener, target, fields, body)
    sent.start(siblings)
    return sent


expose_fields(DirectSubrequest)
