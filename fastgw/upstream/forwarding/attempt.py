"""Attempt at a target: it borrows a connection, sends the request on it, and receives the response.

Its `Forwarding` decides what follows; the attempt reports its result once: by `response_received` when the head of
a response was received, or by `attempt_lost` when there will be none. Listeners to the upstream's attempts get its
record (`AttemptRecord`): it has one only if there are listeners, or if there is something to count.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from fastgw.errors import Fault, Retry
from fastgw.eventloop.timer_wheel import Timed, Wheel
from fastgw.exchange import Trailers
from fastgw.exchange.body_relay import Relay
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter_steps import rejects_credentials
from fastgw.exchange.states import CONNECTION_LENT, FORWARDING
from fastgw.http.field_names import EXPECT
from fastgw.http.grpc.status import STATUS, check_status, check_trailers, outcome_of, status_at_end, status_name
from fastgw.http.http1 import serializer
from fastgw.http.http2.session import ErrorCode
from fastgw.http.malformed import Malformed
from fastgw.http.messages import ResponseHead, payload_of
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.recording.tap import RecordedTrace, TappedListener
from fastgw.upstream.connections.http2_connection import NEEDS_HTTP1
from fastgw.upstream.connections.stream import ResponseListener, UpstreamStream
from fastgw.upstream.forwarding.forwarded_request import ForwardedRequest, sent_trailers
from fastgw.upstream.policies.retry import CONNECT_FAILURE, IDEMPOTENT, LOST, NEVER, PER_TRY_TIMEOUT, REFUSED, RESET
from fastgw.upstream.targets.attempt_listener import FIRST, AttemptKind, AttemptRecord
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream

if TYPE_CHECKING:
    from fastgw.upstream.forwarding.forwarding import Forwarding

JUST_USED_S: Final = 1.0
"""Maximum seconds since its last use for an idle connection to carry a request that cannot be sent again; otherwise
such a request gets a fresh connection.
"""
EARLY_S: Final = 0.02
"""Maximum seconds by which the clock of a target may be ahead when it ends a call at the caller's deadline."""
EARLY_SHARE: Final = 0.1
"""Share of the time that the caller has given, for short calls: all of them would be at their deadline otherwise."""


class Attempts(Timed):
    """The part of a `Forwarding` that its attempts use in C. `begun`: their number. `head_due_at`, `call_due_at`:
    deadlines of the response head and of a gRPC call, by the wheel's clock. `needs_http1`: a target has refused the
    request over HTTP/2. `continued`: the client has got 100 Continue, of a target or of the gateway in its place.
    """

    def _begin(self, forward: ForwardedRequest, exchange: Exchange) -> None:
        self.forward = forward
        self.upstream: Upstream = forward.upstream
        self.exchange = exchange
        self.head_due_at = self.call_due_at = inf
        self.needs_http1 = self.continued = False
        self.begun = 0

    def is_replayable(self) -> bool:
        """Whether the request itself allows that it is sent again."""
        exchange = self.exchange
        method: bytes = exchange.method
        if method != b"GET" and method not in IDEMPOTENT and not self.forward.any_method:
            return False
        return exchange.is_still_there()

    def response_received(self, attempt: Attempt, head: ResponseHead, payload: bytes, ended: bool) -> None:
        """Handle the head of a response, with the first part of the body; `ended`: it is the whole body."""
        raise NotImplementedError

    def done(self, attempt: Attempt) -> None:
        """Handle the complete response."""
        raise NotImplementedError


class Attempt(ResponseListener):
    """Borrower of a stream to `target`, and the sink of the request body. Its deadline: `per_try_timeout`.

    `head_at`: monotonic seconds of the response head. `grpc_status`, `invalid_status`: the status in the head of a gRPC
    call, as of `check_status`.
    """

    def _begin(self, forwarding: Attempts, target: Target) -> None:
        self._forwarding: Forwarding = forwarding  # type: ignore[assignment]  # there are no other `Attempts`
        self._upstream: Upstream = forwarding.upstream
        self.exchange: Exchange = forwarding.exchange
        self.target = target
        self.stream: UpstreamStream | None = None
        self.head_at = 0.0
        self.grpc_status: bytes | None = None
        self.invalid_status = ""
        self._begun_at = 0.0  # if hedging is configured
        self._status = 0  # HTTP status of the response to a gRPC call
        self._answered_at = 0.0  # time of the response head of a gRPC call whose outcome is still unknown
        self._body_begun_at = self._body_ended_at = 0.0  # by the wheel's clock; the end: if it came later
        self._full_at = 0.0  # since when the target accepts no more of the body
        self._record: AttemptRecord | None = None
        self._tap: TappedListener | None = None  # if the exchange is recorded

    def __repr__(self) -> str:
        return f"<Attempt at {self.target!r} on {self.stream!r}>"

    def start_attempt(self, fresh: bool, kind: AttemptKind) -> None:
        """Request a stream to the selected target. `fresh`: on a connection that has not carried a request."""
        upstream = self._upstream
        if upstream.hedging is not None:
            self._begun_at = monotonic()
        trace = self.exchange.trace
        is_traced = trace is not None and trace.is_sampled
        if upstream.attempt_listeners or kind is not FIRST or is_traced:
            self._record = self._new_record(kind, monotonic()).report_begun()
        if self._forwarding.forward.per_try != inf and self._request_is_whole():
            self._limit_time()
        self._request_stream(fresh)

    def _new_record(self, kind: AttemptKind, begun_at: float) -> AttemptRecord:
        forwarding = self._forwarding
        return AttemptRecord(self.exchange, forwarding.upstream, self.target, kind, forwarding.begun, begun_at)

    def hand_response_to(self, listener: ResponseListener) -> None:
        """Pass the rest of the response to this listener."""
        assert self.stream is not None
        if self._tap is None:
            self.stream.hand_over(listener)
        else:
            self._tap.inner = listener

    def hand_over(self, exchange: Exchange) -> None:
        """Continue for another exchange, whose request this is from now on."""
        self.exchange = exchange
        if self._record is not None:
            self._record.exchange = exchange

    def _request_stream(self, fresh: bool) -> None:
        exchange = self.exchange
        target: Target = self.target
        exchange.target = target.label
        body: Relay | None = exchange.request_body
        if not target.minor and (exchange.body_length if body is None else body.length) is None:
            self._forwarding.fail(Fault.LENGTH_REQUIRED)  # HTTP/1.0 does not support chunks (RFC 9112 section 6.1)
            return
        # A request that cannot be sent again could be lost on a connection that the target is closing.
        idle_at_most: float = inf if self._forwarding.is_replayable() else JUST_USED_S
        http1 = self._forwarding.needs_http1 or (
            target.negotiates and not exchange.head.plain and bool(self._forwarding.forward.asked_upgrade(exchange))
        )
        if target.follows_host:
            try:
                target = self._forwarding.forward.part_for(exchange, target)
            except (ValueError, Malformed):
                self._forwarding.fail(Fault.MISDIRECTED, "the host is no server name for TLS")
                return
        if http1 or (target.negotiates and not fresh and target.rests_over_http1()):
            target = target.over_http1()
        pool = self._upstream.pool  # it stays until its method returns
        lent = pool.lend(target, self, fresh, idle_at_most)
        if isinstance(lent, UpstreamStream):
            self.lent(lent)
        elif lent is not None:
            self.failed(lent)

    def _limit_time(self) -> None:
        """Start `per_try_timeout` once the request is complete. Only if another attempt may follow."""
        if self._forwarding.is_replayable():
            wheel = self._upstream.worker_loop.wheel
            wheel.watch(self, wheel.now + self._forwarding.forward.per_try)

    def seconds_left(self) -> float:
        """Seconds in which the response head has to arrive, from now on."""
        forwarding, now = self._forwarding, self._upstream.worker_loop.wheel.now
        return min(forwarding.forward.timeouts.response_headers, min(self.deadline, forwarding.head_due_at) - now)

    def seconds(self) -> float:
        """Seconds since it began, or since the request was complete, if hedging is configured."""
        return monotonic() - self._begun_at

    # calls of the pool

    def queue_left(self) -> None:
        if self._record is None:
            self._record = self._new_record(FIRST, self.exchange.begun_at)  # for the story of the request
        self._record.queue_left_at = monotonic()

    def lent(self, stream: UpstreamStream) -> None:
        self.stream = stream
        exchange, forward = self.exchange, self._forwarding.forward
        if forward.own_timeouts is not None:
            stream.limit_times(forward.timeouts.response_headers, forward.timeouts.idle)
        reused = stream.reused
        if self._record is None and not reused:
            self._record = self._new_record(FIRST, exchange.begun_at)  # for the story of the request
        if self._record is not None:
            self._record.connect(reused, monotonic())
            if not reused:
                self._record.established = stream.established
        try:
            exchange.sent = True
            if exchange.state is not FORWARDING:  # another attempt may be in flight as well
                exchange.state = CONNECTION_LENT[exchange.state]
            body: Relay | None = exchange.request_body
            call_left: float = self._forwarding.call_due_at
            if call_left != inf:
                call_left -= self._upstream.worker_loop.wheel.now
            taken = b"" if body is None else self._take_body(body)
            left = self.seconds_left() if forward.deadline_name else None
            record = self._record
            span_id = b"" if record is None else record.span_id
            request = forward.request(exchange, self.target, left, taken, call_left, span_id)
            listener: ResponseListener = self
            if record is not None and span_id:
                record.trace_request(request)
                trace: object = exchange.trace
                if type(trace) is RecordedTrace:
                    self._tap = trace.tap(self, stream, record, request, self._request_is_whole())
                    if self._tap is not None:
                        listener = self._tap
            if exchange.head.ordinary and (body is None or not body.trailers or stream.frames_bodies):
                stream.send_request(listener, request, exchange.method)
            else:
                self._send_special(stream, listener, request)
        except Exception:  # the edge of this exchange: there is no caller for the exception
            log_event(OperatorEvent.DEFECT, "a defect while sending a request to %s", self.target.label, error=True)
            exchange.fail(Fault.INTERNAL)

    def _take_body(self, body: Relay) -> bytes:
        """Take the received part of the body, framed. Later parts are fed; earlier ones are kept if the request may be
        sent again.
        """
        exchange, stream = self.exchange, self.stream
        assert stream is not None
        stream.take_body_from(exchange.client)
        frames_bodies: bool = stream.frames_bodies
        wheel: Wheel = self._upstream.worker_loop.wheel
        self._body_begun_at = wheel.now
        if self._forwarding.begun > 1 and body.bytes and exchange.head.expects_continue:
            exchange.drop_everywhere(EXPECT)  # the client has not waited, and the body is there
        held = body.attach(self)
        may_renew = bool(exchange.chain.renew_steps) and not exchange.renewed
        # Otherwise it may have to be sent again; over HTTP/2 also because it was refused unprocessed.
        if frames_bodies and not may_renew and not self._forwarding.is_replayable():
            body.keep_no_more()
        if body.kept is None:  # no other attempt can follow
            self.deadline = inf
        if body.length is not None or not frames_bodies:
            return held
        if body.ended and not body.trailers and exchange.head.version == 20:
            body.length = len(held)  # HTTP/2 need not declare it
            return held
        last = serializer.last_chunk(sent_trailers(exchange, body.trailers)) if body.ended else b""
        return serializer.chunk(held) + last

    def _send_special(self, stream: UpstreamStream, listener: ResponseListener, request: bytes) -> None:
        """Send a request whose body is incomplete, or that has an expectation or offers an upgrade."""
        exchange, forwarding = self.exchange, self._forwarding
        body = exchange.request_body
        expects_continue = body is not None and exchange.head.expects_continue
        if exchange.request_dropped >= EXPECT:
            expects_continue = False
        if expects_continue and self.target.minor == 0:
            expects_continue = False
            if not forwarding.continued:
                forwarding.continued = True
                exchange.client.send_interim(None)
        trailers = () if body is None or not body.ended or stream.frames_bodies else body.trailers
        stream.begin_special(
            listener,
            request,
            exchange.method,
            whole=self._request_is_whole() and not trailers,
            chunked=body is not None and body.length is None,
            source=body,
            expects_continue=expects_continue,
            upgrade=forwarding.forward.asked_upgrade(exchange),
        )
        if trailers and self.stream is stream:
            stream.end_body(sent_trailers(exchange, trailers))

    def failed(self, fault: Fault, why: str = "") -> None:
        """Handle the failure to get a connection."""
        forwarding = self._forwarding
        self._give_up(fault, why)
        forwarding.attempt_lost(self, fault, CONNECT_FAILURE if fault.retry is Retry.SAFE else NEVER, why)

    def _request_is_whole(self) -> bool:
        body: Relay | None = self.exchange.request_body
        return body is None or bool(body.ended)

    # calls of the stream

    def on_interim(self, head: ResponseHead) -> None:
        forwarding = self._forwarding
        forwarding.informed(self, head)

    def on_head(self, head: ResponseHead, payload: bytes | None, ended: bool) -> None:
        if payload is None:
            payload = payload_of(head) or b""
        self.head_at = now = monotonic()
        forwarding = self._forwarding  # it stays until its method returns, though this attempt may end in it
        if forwarding.forward.grpc:
            self._status = head.status
            if ended:
                status, self.invalid_status = check_status(head.values(STATUS))
                self.grpc_status = self._take_status(status, self.invalid_status)
        if self._record is not None:
            if not forwarding.forward.grpc:
                self._record.answer(head.status, now)
            elif ended:
                self._record.answer(self._outcome(head.status, self.grpc_status), now)
            else:
                self._record.status, self._record.head_at = head.status, now
                self._answered_at = now  # the listeners hear the outcome at the end
                if payload:
                    self._message_received()
        exchange = self.exchange
        try:
            forwarding.response_received(self, head, payload, ended)
        except Exception:  # the edge of this exchange: the connection calls no listener any more
            log_event(OperatorEvent.DEFECT, "a defect while taking the response of %s", self.target.label, error=True)
            exchange.fail(Fault.INTERNAL)

    def on_data(self, payload: bytes) -> None:
        exchange = self.exchange
        exchange.response_bytes += len(payload)
        if self._answered_at:
            self._message_received()
        exchange.response_sink.feed(payload)

    def on_end(self, trailers: Trailers) -> None:
        sink, forwarding = self.exchange.response_sink, self._forwarding
        if forwarding.forward.grpc:
            status, trailers, why = check_trailers(trailers)
            status = self._take_status(status, why)
            if self._answered_at:
                self._tell_outcome(status)
            if self.exchange.chain.renew_steps and rejects_credentials(self._status, status):
                forwarding.renew_for_others()
        forwarding.done(self)
        sink.end(trailers)

    def _message_received(self) -> None:
        """Report a success of the target if the breaker waits for one: the stream itself may last."""
        if self._upstream.is_recovering:
            self._tell_outcome(b"0")

    def _tell_outcome(self, grpc_status: bytes | None) -> None:
        """Report the outcome of a gRPC call, whose response head was received before, to the listeners."""
        if self._record is not None:
            self._record.answer(self._outcome(self._status, grpc_status), self._answered_at)
        self._answered_at = 0.0

    def _take_status(self, grpc_status: bytes | None, why: str) -> bytes | None:
        """Note the status of a call that has ended, and return it: UNKNOWN in place of a missing one. `why`: the reason
        why it is not the one that was sent.
        """
        grpc_status = status_at_end(self._status, grpc_status)
        if grpc_status is not None:
            self.exchange.grpc_status = status_name(grpc_status)
        if why:
            self.exchange.why = self.exchange.why or why
        return grpc_status

    def _outcome(self, status: int, grpc_status: bytes | None) -> int:
        return outcome_of(status, grpc_status, self._forwarding.call_due_at != inf)

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        stream, forwarding = self.stream, self._forwarding
        assert stream is not None
        if self._is_at_deadline(fault, stream.reset_code):
            forwarding.expire(forwarding.call_due_at)
            return
        if self._answered_at:
            self._tell_outcome(None)
        self.stream = None
        condition = NEVER
        if fault is Fault.STREAM_REFUSED and self.exchange.may_be_sent_again:
            condition = REFUSED
            forwarding.needs_http1 |= why == NEEDS_HTTP1
        elif forwarding.is_replayable():
            if fault.retry is Retry.IF_REUSED and silent and stream.reused:
                condition = RESET
            elif fault.retry is Retry.IF_REUSED and silent and forwarding.forward.rules.retries_lost:
                condition = LOST
            elif fault.retry is Retry.IF_ASKED:
                condition = PER_TRY_TIMEOUT
        # A target may close idle connections, and refuse unprocessed requests: these are not failures.
        unprocessed, record = condition in (RESET, REFUSED), self._record
        is_probe = unprocessed and record is not None and self._upstream.is_probe(record.begun_at)
        self._give_up(None if unprocessed else fault, why, stream)
        forwarding.attempt_lost(self, fault, condition, why, stream.reset_code, is_probe)

    def _is_at_deadline(self, fault: Fault, reset_code: int | None) -> bool:
        """Whether a failure is the end of the call at the caller's deadline, which the target has noticed first: it
        has cancelled the stream, or closed a connection that it drains.
        """
        due_at = self._forwarding.call_due_at
        if due_at == inf or fault not in (Fault.CONNECTION_LOST, Fault.UPSTREAM_INCOMPLETE):
            return False
        early = min(EARLY_S, (due_at - self.exchange.begun_at) * EARLY_SHARE)
        return reset_code in (None, ErrorCode.CANCEL) and due_at - monotonic() <= early

    # calls of a tunnel

    def on_switch(self, head: ResponseHead, early: bytes) -> None:
        stream = self.stream
        assert stream is not None
        if self._record is not None:
            self._record.answer(head.status, monotonic())
        self.deadline = inf
        timeout = self._forwarding.forward.timeouts.tunnel_idle
        stream.limit_silence(timeout)
        stream.attach_source(self)
        self._forwarding.switched(self, head, early, timeout)

    def on_tunnel_data(self, chunk: bytes) -> None:
        exchange = self.exchange
        exchange.response_bytes += len(chunk)
        exchange.response_sink.feed(chunk)

    def on_tunnel_end(self) -> None:
        self._half_closed()
        self.exchange.response_sink.end(())

    def on_tunnel_idle(self) -> None:
        if self.exchange.tunnel is not None:
            self.exchange.tunnel.end_idle()
        elif self.stream is not None:
            self.stream.cancel()
            self.on_failure(Fault.TUNNEL_IDLE, False, "")

    # source of a tunnel's data for the target (`RequestSource`): its client, or the filter that inspects the data

    def pause(self) -> None:
        exchange = self.exchange
        if exchange.tunnel is None:
            exchange.client.pause_tunnel()
        else:
            exchange.tunnel.pause_client()

    def resume(self) -> None:
        exchange = self.exchange
        if exchange.tunnel is None:
            exchange.client.resume_tunnel()
        else:
            exchange.tunnel.resume_client()

    def _half_closed(self) -> None:
        """Handle the end of one direction of the tunnel. Usually that side has closed, so the timeout of the other is
        shortened.
        """
        if self.stream is not None:
            self.stream.limit_silence(self._forwarding.forward.timeouts.idle)

    # calls of the client's side

    def feed(self, payload: bytes) -> None:
        stream = self.stream
        if stream is None:
            return
        if self._full_at:
            self._count_wait()
        if self._tap is not None:
            self._tap.add_request_body(payload)
        stream.send_body(payload)
        if stream.write_paused and self.stream is stream:
            self._full_at = self._upstream.worker_loop.wheel.now

    def _count_wait(self) -> None:
        """Count the time in which the target accepted no more of the body: the client was not read meanwhile."""
        if self._full_at:
            self._body_begun_at += self._upstream.worker_loop.wheel.now - self._full_at
            self._full_at = 0.0

    def end(self, trailers: Trailers) -> None:
        if self.stream is not None:
            self._count_wait()
            self._body_ended_at = self._upstream.worker_loop.wheel.now
            if self._record is not None:
                self._record.sent_at = monotonic()
            if self._upstream.hedging is not None:
                self._begun_at = monotonic()
            if self._forwarding.forward.per_try != inf:
                self._limit_time()
            if self._tap is not None:
                self._tap.end_request()
            self.stream.end_body(sent_trailers(self.exchange, trailers))

    def feed_raw(self, chunk: bytes) -> None:
        if self.stream is not None:
            self.stream.send_raw(chunk)

    def end_raw(self) -> None:
        if self.stream is not None:
            self._half_closed()
            self.stream.end_raw()

    # endings

    def expire(self, now: float) -> None:
        """Handle the end of `per_try_timeout`."""
        fault, forwarding = self.late_by(), self._forwarding
        self.give_up(fault)
        forwarding.attempt_lost(self, fault, PER_TRY_TIMEOUT)

    def late_by(self) -> Fault:
        """Fault of this attempt after a timeout."""
        if self.stream is not None:
            return Fault.UPSTREAM_TIMEOUT
        return Fault.POOL_TIMEOUT if self._upstream.pool.is_queued(self) else Fault.CONNECT_TIMEOUT

    def clients_fault(self, now: float) -> Fault | None:
        """Return the fault of the client if it has used up the time, and not the target: it reads slowly, or it took
        longer for the rest of the request than the target since then. None: it has not.
        """
        if self.stream is None:
            return None
        if self.stream.paused:
            return Fault.CLIENT_STALLED
        took = self._body_ended_at - self._body_begun_at
        is_late = not self.stream.awaits_target or now - self._body_ended_at < took
        return Fault.REQUEST_TIMEOUT if is_late else None

    def give_up(self, fault: Fault | None = None) -> None:
        """Cancel the attempt, which is no longer needed. `fault`: the reason, if it has failed."""
        stream, self.stream = self.stream, None
        pool = self._upstream.pool
        self._give_up(fault, stream=stream)
        if stream is not None:
            stream.cancel()
        else:
            pool.withdraw(self)

    def release(self) -> None:
        """End the attempt after the complete response."""
        stream, self.stream = self.stream, None
        assert stream is not None
        if self._record is not None:
            self._record.end(monotonic())
        self._end()
        stream.release()

    def refuse(self, status: int) -> None:
        """Drop the response with this status in favour of another attempt."""
        stream, self.stream = self.stream, None
        assert stream is not None
        record = self._record = self._record or self._new_record(FIRST, self.exchange.begun_at)
        record.status, record.refused = status, True
        self._give_up(None)
        stream.release()

    def _give_up(self, fault: Fault | None, why: str = "", stream: UpstreamStream | None = None) -> None:
        """End the attempt without a response, or with an incomplete one, and call the listeners. `stream`: its stream,
        if the response has not ended.
        """
        record, now = self._record, 0.0
        if record is None:
            if fault is not None:
                record = self._new_record(FIRST, self.exchange.begun_at)
        else:
            now = monotonic()
        if record is not None:
            if stream is not None and not stream.awaits_target and not self._request_is_whole():
                record.sent_at = now  # the time until here was the client's
            if fault is None and record.status == 101:
                record.end(now)
            else:
                record.give_up(fault, why, now)
        self._end()

    def _end(self) -> None:
        if self.filed_at != inf:
            self._upstream.worker_loop.wheel.drop(self)
        # The relay of the body may refer to this attempt until its end.
        self.exchange = self._forwarding = self._upstream = self._record = None  # type: ignore[assignment]
        self._tap = None


def new_attempt(forwarding: Attempts, target: Target) -> Attempt:
    """Return an attempt that has not begun."""
    attempt: Attempt = Attempt.__new__(Attempt)
    attempt._begin(forwarding, target)
    return attempt
