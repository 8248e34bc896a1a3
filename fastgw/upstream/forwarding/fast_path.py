"""The fast path: an ordinary request without special events, over an idle connection.

Most requests are ordinary. For them a `FastPath` replaces an `Exchange` and its `Forwarding`: nothing waits, a body is
sent with its head and not relayed, nothing is retried. If filters process the request or its response, there is an
`Exchange`, which is answered at the end. As soon as more is needed (no connection is idle, the response arrives in
pieces, the connection breaks, the client disconnects), `turn` creates both in their current state, and they continue.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import cython

from fastgw.errors import Fault
from fastgw.exchange import ClientSide, Relay, Response, Trailers
from fastgw.exchange.body_stages import ChangeWhole
from fastgw.exchange.chain import Chain
from fastgw.exchange.exchange import UNCHANGED_QUERY, Exchange, changed_values
from fastgw.exchange.exchange_counts import ExchangeCounts
from fastgw.exchange.fast_fetch import FastFetch
from fastgw.exchange.ready_answer import ReadyAnswer, ReadyRefusal
from fastgw.exchange.response_relay import tell_of_change
from fastgw.exchange.route import FastPathPlan, Route
from fastgw.exchange.sent_fields import NO_SENT_FIELDS, SentFields
from fastgw.exchange.states import ANSWER_BEGUN, FORWARDING
from fastgw.forwarded_headers import FAMILY, Peer, without_chosen
from fastgw.http.field_names import Names
from fastgw.http.grpc.calls import GRPC_TIMEOUT, timeout_line
from fastgw.http.grpc.status import check_trailers, outcome_of, parse_status, status_at_end
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import Http1RequestHead, Http1ResponseHead, has_field
from fastgw.http.messages import AS_DECLARED, ResponseHead
from fastgw.observe.tracing.tracer import Trace
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.typed_fields import expose_fields
from fastgw.upstream.connections.http1_connection import UpstreamConnection
from fastgw.upstream.connections.stream import UpstreamStream
from fastgw.upstream.forwarding.attempt import JUST_USED_S
from fastgw.upstream.forwarding.gateway_urls import HEADERS
from fastgw.upstream.forwarding.request_trailers import TE_TRAILERS
from fastgw.upstream.policies.retry import IDEMPOTENT
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptRecord
from fastgw.upstream.targets.target import Target

if TYPE_CHECKING:
    from fastgw.upstream.forwarding.attempt import Attempt
    from fastgw.upstream.forwarding.forward_action import Forward
    from fastgw.upstream.forwarding.forwarding import Forwarding
    from fastgw.upstream.upstream import Upstream


_LOCATION, _CONTENT_LOCATION, _REFRESH = HEADERS
NO_HEAD: Final = Http1RequestHead()
NO_ROUTE: Final = Route("", lambda exchange: None, Chain(()), ())


class FastPathClient(Protocol):
    """Interface of a client connection for the fast path."""

    @property
    def stream(self) -> ClientSide:
        """Return the client side of an exchange that leaves the fast path."""

    def answer_fast(
        self,
        head: Http1ResponseHead,
        exchange: Exchange | None,
        dropped: Names,
        added: bytes,
        request_id: bytes,
        changed: bytes | None = None,
    ) -> None:
        """Send a response that was received as a whole, with the header changes of filters, and end its exchange.

        None: there is only the fast path. `request_id`, `changed`: as in `serializer.whole`.
        """

    @property
    def counts(self) -> ExchangeCounts:
        """Counters of the worker."""

    @property
    def takes_trailers(self) -> bool:
        """Whether responses with trailers are sent to it by `answer_with_trailers`."""

    def answer_with_trailers(
        self,
        head: Http1ResponseHead,
        payload: bytes,
        trailers: Trailers,
        dropped: Names,
        request_id: bytes,
    ) -> None:
        """Send a response that was received as a whole, and end its exchange; there is only the fast path."""

    def leave_fast_path(self, exchange: Exchange) -> None:
        """Replace the fast path by this exchange."""


class FastPath:
    """Fast path of one client connection, for one request at a time: borrower of a stream.

    Its end is reported like that of an exchange (`observe.Ended`), unless there is one.
    """

    is_fast = True
    sends_client_authorization = False
    tunnel = None

    def __init__(self, client: FastPathClient, listener: Any, peer: Peer) -> None:
        self.client = client
        self._stream: UpstreamStream | None = None
        self._attempt: AttemptRecord | None = None  # if there are listeners
        self.listener = listener
        self.peer = peer
        self.client_ip = peer.ip
        self.scheme = peer.scheme
        self.response: Http1ResponseHead | Response | ReadyAnswer | ReadyRefusal | None = None
        self._exchange: Exchange | None = None  # the exchange on the fast path, if filters process it
        self._fetch: FastFetch | None = None  # of a filter that stores the response
        # Record of every request without an exchange:
        self.request_body = self.consumer = self.subrequests = None
        self.fault: Fault | None = None
        self.retries = 0
        self.trace: Trace | None = None
        self.call_due_at = inf
        """Deadline of the caller of a gRPC call, by the wheel's clock. The client calls `expire` then."""
        self.request_id, self.why, self.shadowed, self.cache_result, self.grpc_status = b"", "", "", "", ""
        self.upstream = self.target = ""
        self.head: Http1RequestHead = NO_HEAD
        self.route: Route = NO_ROUTE
        self._params: Mapping[str, bytes] = {}
        self.begun_at, self.upstream_s = 0.0, -1.0
        self.request_bytes = self.response_bytes = 0

    def __repr__(self) -> str:
        return f"<FastPath on {self._stream!r}>"

    @property
    def path(self) -> bytes:
        return self.head.path

    @property
    def raw_path(self) -> bytes:
        return self.head.raw_path

    @property
    def params(self) -> Mapping[str, bytes]:
        return self._params

    def current_values(self, name: bytes) -> list[bytes]:
        plan = self.route.fast_path
        sent = NO_SENT_FIELDS if plan is None else plan.sent_fields
        return changed_values(self.head, name, sent.added, sent.dropped)

    def begin_fetch(
        self, head: Http1RequestHead, route: Route, params: Mapping[str, bytes], plan: FastPathPlan
    ) -> bool:
        """Let a filter fetch the response to the next request, if it can be on the fast path. `plan`: the route's
        `chain.fetch_plan`.
        """
        self.head, self.route, self._params = head, route, params
        assert plan.fetch is not None
        self._fetch = plan.fetch(self, plan.forward)
        if self._fetch is None:
            self.forget()
            return False
        return True

    def send_request(self, head: Http1RequestHead, route: Route, params: Mapping[str, bytes]) -> None:
        """Send an ordinary request to the upstream of a route that has a `plan`."""
        self.begun_at = monotonic()
        self.head = head
        self.route = route
        self._params = params
        fetch = self._fetch
        chain: Chain = route.chain
        plan: FastPathPlan = route.fast_path if fetch is None else chain.fetch_plan
        id_of = plan.id_of
        self.request_id = b"" if id_of is None else id_of(head)
        forward: Forward = plan.forward
        upstream: Upstream = forward.upstream
        self.upstream = upstream.name
        target: Target | None = upstream.pick(self)
        upstream.active += 1
        if target is None:
            self.target = ""
            self._switch_to_forwarding(None).attempt(fresh=False, again=False)
            return
        self.target = target.label
        payload = head.payload
        assert payload is not None
        self.request_bytes = len(payload)
        if not self._lend(forward, upstream, target, head):
            return
        try:
            dropped = plan.sent_fields.dropped if fetch is None else fetch.dropped
            drop, added = self._forwarding_headers(self, forward, head, dropped)
            call_due_at = self.call_due_at
            if fetch is not None:
                drop = forward.joined(drop, dropped)
            elif call_due_at != inf:
                drop = forward.joined(drop, GRPC_TIMEOUT)
                added += timeout_line(call_due_at - upstream.worker_loop.wheel.now)
            elif dropped or forward.marks:
                drop = forward.joined(drop, dropped)
            added += plan.sent_fields.added
            self._send(forward, target, self, head, UNCHANGED_QUERY, drop, added, payload, self.request_id)
        except Exception:  # the edge of this exchange: an exception is answered with a fault
            log_event(OperatorEvent.DEFECT, "a defect while sending a request to %s", target.label, error=True)
            self.leave_fast_path().exchange.fail(Fault.INTERNAL)

    def _lend(self, forward: Forward, upstream: Upstream, target: Target, head: Http1RequestHead) -> bool:
        """Begin the attempt at a target on an idle connection. False: the forwarding waits for one."""
        exchange = self._exchange
        trace = self.trace if exchange is None else exchange.trace
        if upstream.attempt_listener is not None or (trace is not None and trace.is_sampled):
            asked: Any = self if exchange is None else exchange
            begun_at = self.begun_at if exchange is None else monotonic()
            self._attempt = AttemptRecord(asked, upstream, target, AttemptKind.FIRST, 1, begun_at).report_begun()
        may_repeat = head.method in IDEMPOTENT or forward.rules.any_method
        stream = upstream.pool.try_lend(target, inf if may_repeat else JUST_USED_S)
        self._stream = stream
        if stream is None:
            self._switch_to_forwarding(target).request_stream()
            return False
        if self._attempt is not None:
            self._attempt.connect(stream.reused, self._attempt.begun_at)
        return True

    def _forwarding_headers(
        self, asked: Any, forward: Forward, head: Http1RequestHead, dropped: Names
    ) -> tuple[frozenset[bytes], bytes]:
        """Return the changes of the forwarding headers, as `Forward.forwarding_headers` does."""
        peer: Peer = self.peer
        own_line = forward.own_line
        if own_line is None or peer.trusted:
            return forward.forwarding_headers(asked, peer, head, dropped)
        added = peer.set_lines(head.authority)
        if own_line:
            added += own_line
        return FAMILY, without_chosen(added, dropped) if dropped else added

    def _send(
        self,
        forward: Forward,
        target: Target,
        asked: Any,
        head: Http1RequestHead,
        query: bytes | None,
        drop: Names,
        added: bytes,
        payload: bytes,
        request_id: bytes,
    ) -> None:
        """Send the request. `asked`: the exchange, or this fast path."""
        stream, record = self._stream, self._attempt
        assert stream is not None
        trace = self.trace if self._exchange is None else self._exchange.trace
        if trace is not None:
            drop, added = trace.rewrite(drop, added, b"" if record is None else record.span_id)
        length = AS_DECLARED
        if head.http2:
            if head.accepts_trailers or forward.grpc:
                added += TE_TRAILERS
            if payload and not head.sized and stream.frames_bodies:
                length = len(payload)
        if forward.keeps_path and head.path_as_sent and query is UNCHANGED_QUERY:
            sent_target = None
        else:
            sent_target = forward.sent_target(asked, target, query)
        host = target.host_header
        if host is None and not head.authority:
            host = target.authority
        request = serializer.request(head, sent_target, host, drop, added, payload, request_id, length)
        if trace is not None and record is not None:
            record.trace_request(request)
        if isinstance(stream, UpstreamConnection):
            connection: UpstreamConnection = stream
            connection.send_request(self, request, head.method)
        else:
            stream.send_request(self, request, head.method)

    def begin_ready(self, head: Http1RequestHead, route: Route, answer: ReadyAnswer) -> bytes:
        """Record a request that is answered from memory. Returns its id; b"": it has none."""
        self.cache_result = answer.cache_result
        return self._begin_own(head, route, answer, 0, answer.length)

    def begin_refusal(self, head: Http1RequestHead, route: Route, refusal: ReadyRefusal) -> bytes:
        """Record a request that is refused without an exchange. Returns its id; b"": it has none."""
        self.fault, self.why = refusal.fault, refusal.why
        return self._begin_own(head, route, refusal, len(head.payload or b""), len(refusal.body))

    def _begin_own(
        self, head: Http1RequestHead, route: Route, response: Any, received: cython.Py_ssize_t, sent: cython.Py_ssize_t
    ) -> bytes:
        """Record a request that no upstream answers. `received`, `sent`: bytes of the bodies. Returns its id."""
        self.begun_at = monotonic()
        self.head, self.route = head, route
        self.request_bytes, self.response_bytes = received, sent
        self.upstream = self.target = ""
        self.upstream_s = -1.0
        chain: Chain = route.chain
        ids = chain.request_ids
        self.request_id = request_id = b"" if ids is None else ids.of(head)
        self.response = response  # last: with it, a defect cuts the connection instead of answering 500
        return request_id

    def end_refusal(self) -> None:
        """Release it, after it was recorded."""
        self.fault, self.why = None, ""
        self.forget()

    def send_fetch(self, exchange: Exchange, fetch: FastFetch) -> None:
        """Like `send_exchange`, for a filter that stores the response."""
        assert exchange.route is not None
        self._fetch, self.begun_at = fetch, monotonic()
        try:
            self.send_exchange(exchange, exchange.route)
        except Exception:  # the edge of the filter answers the exchange
            if self._exchange is exchange:
                self.become_exchange()
            raise

    def send_exchange(self, exchange: Exchange, route: Route) -> None:
        """Like `send_request`, for a request that filters have passed, or whose response they will process."""
        self._exchange = exchange
        self.route = route
        exchange.is_fast = True
        fetch = self._fetch
        plan: FastPathPlan | None = route.fast_path
        if fetch is None:
            assert plan is not None
            forward: Forward = plan.forward
        else:
            forward = fetch.forward
        upstream: Upstream = forward.upstream
        exchange.upstream = upstream.name
        target: Target | None = upstream.pick(exchange)
        upstream.active += 1
        if target is None:
            self._switch_to_forwarding(None).attempt(fresh=False, again=False)
            return
        exchange.target = target.label
        head: Http1RequestHead = cast(Any, exchange.head)  # others do not use the fast path
        payload = b"" if exchange.request_body is None else head.payload
        assert payload is not None
        if not self._lend(forward, upstream, target, head):
            return
        try:
            dropped = exchange.request_dropped
            if fetch is not None:
                dropped = dropped | fetch.dropped if dropped else fetch.dropped
            drop, added = self._forwarding_headers(exchange, forward, head, dropped)
            if dropped or forward.marks:
                drop = forward.joined(drop, dropped)
            if exchange.request_added:
                added += exchange.request_added
            self._send(forward, target, exchange, head, exchange.query_sent, drop, added, payload, b"")
        except Exception:  # the edge of this exchange: an exception is answered with a fault
            log_event(OperatorEvent.DEFECT, "a defect while sending a request to %s", target.label, error=True)
            self.leave_fast_path().exchange.fail(Fault.INTERNAL)

    def leave_fast_path(self) -> Attempt:
        """Create the exchange and its forwarding, whose attempt continues from here. This fast path has ended."""
        assert self._stream is not None
        attempt = self._switch_to_forwarding(self._stream.target).current
        assert attempt is not None
        return attempt

    def become_exchange(self) -> None:
        """Replace this fast path by an exchange at the client's side. If no stream was borrowed, because of a defect,
        the exchange is forwarded to no target.
        """
        if self._stream is not None:
            self.leave_fast_path()
            return
        self.target = ""
        exchange = self._exchange_so_far()
        self._exchange = self._fetch = self._attempt = None
        self.client.leave_fast_path(exchange)
        self.forget()

    def expire(self, now: float) -> None:
        """Handle the deadline of the caller: the exchange ends as on the full path."""
        if self._stream is not None and self.call_due_at <= now:
            self._switch_to_forwarding(self._stream.target).expire(now)

    def _switch_to_forwarding(self, target: Target | None) -> Forwarding:
        """Create them. `target`: None if none could be selected."""
        stream, self._stream = self._stream, None
        exchange = sent = self._exchange_so_far()
        fetch, self._fetch = self._fetch, None
        if fetch is None:
            forward: Forward = self.route.fast_path.forward
        else:
            forward = fetch.forward
            sent = fetch.leave_fast_path(exchange)
            sent.begun_at = self.begun_at
        record, self._attempt = self._attempt, None
        forwarding = forward.resumed(sent, target, stream, record, self.call_due_at)
        if stream is not None:
            sent.state, sent.sent = FORWARDING, True
            assert forwarding.current is not None
            stream.hand_over(forwarding.current)
        self.client.leave_fast_path(exchange)
        self._exchange = None
        self.forget()
        return forwarding

    def _exchange_so_far(self) -> Exchange:
        exchange = self._exchange
        if exchange is None:
            exchange = Exchange(self.head, self.client.stream, self.listener, self.peer, NO_ROUTE.chain)
            exchange.chain = self.route.chain
            exchange.begun_at, exchange.client_ip = self.begun_at, self.client_ip
            exchange.trace = self.trace
            exchange.route, exchange.params = self.route, self._params
            exchange.answered_by = None
            exchange.upstream, exchange.target = self.upstream, self.target
            if self.route.chain.request_ids is not None:
                self.route.chain.request_ids.resume(exchange, self.request_id)
            if self.route.fast_path is not None:
                exchange.request_dropped |= self.route.fast_path.sent_fields.dropped
                exchange.request_added += self.route.fast_path.sent_fields.added
            if self.head.payload:
                exchange.request_body = Relay.whole(
                    self.head.payload, len(self.head.payload) if self.head.sized else None
                )
        exchange.is_fast = False
        return exchange

    def forget(self) -> None:
        """Release a finished exchange: keep neither its bytes nor its route, which may be replaced before the next
        request.
        """
        self.response = None
        self.head = NO_HEAD
        self.route = NO_ROUTE
        self.grpc_status = self.cache_result = ""
        self.trace = None
        self.call_due_at = inf

    # calls of the stream (`HeadListener`)

    def take_message(self, head: Http1ResponseHead, payload: bytes, trailers: Trailers) -> bool:
        """Handle a response that was received as a whole and ends with trailers. False: the exchange has left the fast
        path; the head follows.
        """
        plan: FastPathPlan = self.route.fast_path
        looked_at = (
            self._exchange is not None or self._fetch is not None or (plan.looks_at is not None and plan.looks_at(head))
        )
        forward = plan.forward
        looked_at = looked_at or self._has_own_url(forward, head)
        changes_fields = plan.response_fields is not NO_SENT_FIELDS and not forward.grpc
        if looked_at or changes_fields or not self.client.takes_trailers:
            return False
        sent, _, why = check_trailers(trailers) if forward.grpc else (None, trailers, "")
        if why:
            return False
        now = monotonic()
        status = head.status
        if forward.grpc:
            sent = status_at_end(status, sent)
            if sent is not None:
                self.grpc_status = parse_status(sent).name
            status = outcome_of(status, sent, self.call_due_at != inf)
        self._end_attempt(forward, status, now)
        self.upstream_s = now - self.begun_at
        self.response = head
        self.response_bytes = len(payload)
        self.client.answer_with_trailers(head, payload, trailers, forward.marks, self.request_id)
        return True

    def on_head(self, head: Http1ResponseHead, payload: bytes | None, ended: bool) -> None:
        length, exchange, fetch = head.payload_length, self._exchange, self._fetch
        route: Route = self.route
        plan: FastPathPlan = route.fast_path if fetch is None else route.chain.fetch_plan
        forward: Forward = plan.forward if fetch is None else fetch.forward
        if forward.own_urls is not None and self._has_own_url(forward, head):
            self.leave_fast_path().on_head(head, payload, ended)
            return
        if fetch is not None:
            self._on_fetched(fetch, head, payload, ended)
            return
        if payload is not None or not length:
            self.leave_fast_path().on_head(head, payload, ended)
            return
        if plan.change_whole is not None and not self._may_be_sent_again(forward):
            self._answer_changed(plan.change_whole, head, forward)
            return
        fields = self._fields_for(plan)
        if fields is None or (plan.looks_at is not None and plan.looks_at(head)):
            if self._may_be_sent_again(forward):
                self.leave_fast_path().on_head(head, payload, ended)
            else:
                self._respond(head, forward)
            return
        now = monotonic()
        self._end_attempt(forward, head.status, now)
        if exchange is not None:
            exchange.upstream_s = now - exchange.begun_at
            self._answer_exchange(exchange, head, forward, plan.meets_answers, fields)
        else:
            self.upstream_s = now - self.begun_at
            self._answer_client(head, forward, fields, b"")

    def _has_own_url(self, forward: Forward, head: Http1ResponseHead) -> bool:
        """Whether a header of the response may have to be rewritten, which the forwarding does."""
        if not (has_field(head, _LOCATION) or has_field(head, _CONTENT_LOCATION) or has_field(head, _REFRESH)):
            return False
        if forward.own_urls is None or self._stream is None:
            return False
        return forward.own_urls.has_own(head, self._stream.target, self.peer)

    def _fields_for(self, plan: FastPathPlan) -> SentFields | None:
        """Return the headers of the response that filters change. None: their response steps have to run."""
        fields = plan.response_fields
        if type(fields) is SentFields or fields is None:
            return fields
        exchange = self._exchange
        return fields(self.head, self.peer) if exchange is None else fields(exchange.head, exchange.peer)

    def _answer_client(self, head: Http1ResponseHead, forward: Forward, fields: SentFields, added: bytes) -> None:
        """Answer without an exchange, with a response that was received as a whole, these changes, and lines."""
        dropped = forward.marks
        if fields is not NO_SENT_FIELDS:
            dropped, added = fields.dropped, fields.added + added
        if self.trace is not None:
            added = self.trace.response_line + added
        self.response = head if fields is NO_SENT_FIELDS else Response(head.status, head, added, dropped)
        self.response_bytes = head.payload_length
        self.client.answer_fast(head, None, dropped, added, self.request_id)

    def _answer_exchange(
        self,
        exchange: Exchange,
        head: Http1ResponseHead,
        forward: Forward,
        meets_answers: bool,
        fields: SentFields = NO_SENT_FIELDS,
    ) -> None:
        """Answer an exchange with a response that was received as a whole. `meets_answers`: response steps run.
        `fields`: headers that they would change.
        """
        self._exchange = None
        self.route = NO_ROUTE
        exchange.response_bytes = head.payload_length
        exchange.sent = True
        status = head.status
        response = Response(status, head, b"", forward.marks)
        if not meets_answers:
            exchange.state, exchange.response = ANSWER_BEGUN[exchange.state], response
            if exchange.trace is not None:
                response.added = exchange.trace.response_line
            if fields is not NO_SENT_FIELDS:
                response.added += fields.added
                response.dropped = fields.dropped
        else:
            if not exchange.pass_response_steps(response):
                self.client.leave_fast_path(exchange)
                exchange.answer_instead()
                return
            if response.status != status:
                assert head.payload is not None
                self.client.leave_fast_path(exchange)
                self.client.stream.answer(response, head.payload, True)
                return
        self.client.answer_fast(head, exchange, response.dropped, response.added, exchange.id_shown)

    def _answer_changed(self, change: ChangeWhole, head: Http1ResponseHead, forward: Forward) -> None:
        """Answer with a response that was received as a whole, and that a filter may change; no other sees it."""
        now, payload, exchange = monotonic(), head.payload, self._exchange
        assert payload is not None
        trace = self.trace if exchange is None else exchange.trace
        response = Response(head.status, head, b"" if trace is None else trace.response_line, forward.marks)
        response.whole_bytes = len(payload)
        try:
            changed = change(self if exchange is None else exchange, response, payload)
        except BaseException:  # the edge of a filter: it raises again on the full path, which handles that
            self._respond(head, forward)
            return
        if changed is not None:
            if type(changed) is not bytes:  # a stage
                self._respond(head, forward)
                return
            tell_of_change(response)
            response.body_length = len(changed)
        length = len(payload) if changed is None else len(changed)
        self._end_attempt(forward, head.status, now)
        if exchange is None:
            self.upstream_s = now - self.begun_at
            self.response, self.response_bytes = response, length
            shown = self.request_id
        else:
            self._exchange, self.route = None, NO_ROUTE
            exchange.state, exchange.response, exchange.sent = ANSWER_BEGUN[exchange.state], response, True
            exchange.upstream_s = now - exchange.begun_at
            exchange.response_bytes = length
            shown = exchange.id_shown
        self.client.answer_fast(head, exchange, response.dropped, response.added, shown, changed)

    def _may_be_sent_again(self, forward: Forward) -> bool:
        """Whether its response may cause another attempt, or has to be changed by the forwarding."""
        return bool(self.route.chain.renew_steps) or forward.upstream.cookies is not None or forward.grpc

    def _respond(self, head: Http1ResponseHead, forward: Forward) -> None:
        """Let filters process a response that was received as a whole: the exchange goes on without a forwarding, which
        would have nothing left to do.
        """
        now, payload = monotonic(), head.payload
        assert payload is not None
        exchange = self._exchange_so_far()
        self._end_attempt(forward, head.status, now)
        self._exchange = None
        exchange.state, exchange.sent = FORWARDING, True
        exchange.upstream_s = now - exchange.begun_at
        exchange.response_bytes = len(payload)
        self.client.leave_fast_path(exchange)
        self.forget()
        try:
            exchange.respond(Response(head.status, head, b"", forward.marks), payload, True)
        except Exception:  # the edge of this exchange: the connection calls no listener any more
            log_event(OperatorEvent.DEFECT, "a defect while taking the response of %s", exchange.target, error=True)
            exchange.fail(Fault.INTERNAL)

    def _end_attempt(self, forward: Forward, status: int, now: float) -> None:
        """End the attempt, whose response was received as a whole, and give the stream back to its pool."""
        stream, self._stream = self._stream, None
        assert stream is not None
        upstream: Upstream = forward.upstream
        upstream.active -= 1
        if self._attempt is not None:
            record, self._attempt = self._attempt, None
            record.answer(status, now)
            record.end(now)
        if isinstance(stream, UpstreamConnection):
            connection: UpstreamConnection = stream
            connection.release()
        else:
            stream.release()

    def _on_fetched(self, fetch: FastFetch, head: Http1ResponseHead, payload: bytes | None, ended: bool) -> None:
        """Handle the response to a request whose response a filter stores."""
        exchange, fields = self._exchange, None
        if exchange is None:
            fields = self._fields_for(self.route.chain.fetch_plan)
        is_whole = payload is None and head.payload_length and (exchange is not None or fields is not None)
        try:
            added = fetch.take_response(head) if is_whole else None
        except Exception:
            self._fail_fetch()
            return
        if added is None:
            self.leave_fast_path().on_head(head, payload, ended)
            return
        now = monotonic()
        forward = fetch.forward
        self._end_attempt(forward, head.status, now)
        self._fetch = None
        if fields is None:
            assert exchange is not None
            exchange.upstream_s = now - self.begun_at
            self._answer_exchange(exchange, head, forward, True)
            return
        self.upstream_s = now - self.begun_at
        self.cache_result = fetch.result
        self._answer_client(head, forward, fields, added)

    def _fail_fetch(self) -> None:
        """Answer 500 for a filter that raises: data that it could not check is not forwarded. Called by its handler."""
        log_event(OperatorEvent.FILTER_RAISED, "a fetch on the fast path", error=True)
        self.leave_fast_path().exchange.fail(Fault.INTERNAL, why="a filter could not take the response")

    def on_interim(self, head: ResponseHead) -> None:
        self.leave_fast_path().on_interim(head)

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        self.leave_fast_path().on_failure(fault, silent, why)


expose_fields(FastPath)
