"""One try at a target: it borrows a connection, sends the request on it, and takes what comes back.

What follows from how it went is decided by its `Forwarding`, which is told of it once: by `answered` when the head of
a response is there, or by `lost` when none will come. Whoever watches the upstream is told here (`AttemptListener`),
once of the beginning and once of the end.
"""

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final, final

from fastgw.errors import Fault, Retry
from fastgw.eventloop.timer_wheel import Timed
from fastgw.exchange import Relay, Trailers
from fastgw.exchange.states import CONNECTION_LENT, FORWARDING
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import Http1ResponseHead
from fastgw.http.messages import ResponseHead
from fastgw.operator_events import OperatorEvent, say
from fastgw.upstream.connections.http1_connection import UpstreamConnection
from fastgw.upstream.forwarding.request_trailers import sent_trailers
from fastgw.upstream.policies.retry import CONNECT_FAILURE, NEVER, PER_TRY_TIMEOUT, RESET
from fastgw.upstream.targets.target import Target

if TYPE_CHECKING:
    from fastgw.upstream.forwarding.forwarding import Forwarding


JUST_USED_S: Final = 1.0
"""Seconds since its last use in which an idle connection may carry a request that cannot be sent again; else such a
request takes a fresh one.
"""


@final
class Attempt(Timed):
    """Borrower of a connection to `target`, and the sink of the request body. Its deadline: `per_try_timeout`."""

    __slots__ = ("_begun_at", "_forwarding", "_upstream", "connection", "exchange", "target")

    def __init__(self, forwarding: "Forwarding", target: Target) -> None:
        self.deadline = self.filed_at = inf
        self._forwarding = forwarding
        self._upstream = forwarding.upstream
        self.exchange = forwarding.exchange
        self.target = target
        self.connection: UpstreamConnection | None = None
        self._begun_at = 0.0

    def __repr__(self) -> str:
        return f"<Attempt at {self.target!r} on {self.connection!r}>"

    def begin(self, fresh: bool) -> None:
        """The target was picked: ask for a connection. `fresh`: one that has carried no request."""
        upstream = self._upstream
        if upstream.watch is not None or upstream.hedging is not None:
            self._begun_at = monotonic()
            if upstream.watch is not None:
                upstream.watch.began(self.target)
        if upstream.rules.per_try is not inf and self.request_is_whole():
            self._limit_time()
        self.ask(fresh)

    def go_on(self, connection: UpstreamConnection | None, begun_at: float) -> None:
        """Continue an attempt that was begun on the fast path, then (monotonic seconds)."""
        self.connection = connection
        self._begun_at = begun_at
        body = self.exchange.request_body
        if connection is not None and body is not None:
            self._take(body)

    def ask(self, fresh: bool) -> None:
        exchange, target = self.exchange, self.target
        exchange.target = target.label
        if not target.minor and exchange.body_length is None:
            self._forwarding.fail(Fault.LENGTH_REQUIRED)  # HTTP/1.0 knows no chunks (RFC 9112 section 6.1)
            return
        # On a connection that the target may just be closing, a request that cannot be sent again could be lost.
        idle_at_most = inf if self._forwarding.is_replayable() else JUST_USED_S
        lent = self._upstream.pool.lend(target, self, fresh, idle_at_most)
        if type(lent) is UpstreamConnection:
            self.lent(lent)
        elif type(lent) is Fault:
            self.failed(lent)

    def _limit_time(self) -> None:
        """The request is whole, so from here on it is the target's time that passes. Only where another may follow."""
        if self._forwarding.is_replayable():
            wheel = self._upstream.ground.wheel
            wheel.watch(self, wheel.now + self._upstream.rules.per_try)

    def seconds_left(self) -> float:
        """How long the head of its response is waited for, from now on."""
        upstream, now = self._upstream, self._upstream.ground.wheel.now
        return min(upstream.settings.timeouts.response_headers, min(self.deadline, self._forwarding.head_due_at) - now)

    def seconds(self) -> float:
        """Since it began, where somebody wants to know."""
        return monotonic() - self._begun_at

    # what the pool tells

    def lent(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        exchange, forward = self.exchange, self._forwarding.forward
        try:
            exchange.sent = True
            if exchange.state is not FORWARDING:  # another attempt may be on its way as well
                exchange.state = CONNECTION_LENT[exchange.state]
            left = self.seconds_left() if forward.deadline_name else None
            body = exchange.request_body
            request = forward.request(exchange, connection.target, left, b"" if body is None else self._take(body))
            if exchange.ordinary:
                connection.begin(self, request, exchange.method)
            else:
                self._send_special(connection, request)
        except Exception:  # the edge of this exchange: who waits for a connection has no other way to hear of a defect
            say(OperatorEvent.DEFECT, "a defect while sending a request to %s", connection.target.label, error=True)
            exchange.fail(Fault.INTERNAL)

    def _take(self, body: Relay) -> bytes:
        """Take the present part of the body, framed. What comes is fed, and what was there is kept if it may be sent
        again.
        """
        exchange = self.exchange
        assert self.connection is not None
        exchange.client.body_goes_to = self.connection.fd
        held = body.attach(self)
        if not self._forwarding.keeps_body():
            body.kept = None
        if exchange.body_length is not None:
            return held
        last = serializer.last_chunk(sent_trailers(exchange, body.trailers)) if body.ended else b""
        return serializer.chunk(held) + last

    def _send_special(self, connection: UpstreamConnection, request: bytes) -> None:
        """Send a request whose body is still to come, or that asks for more than its resource."""
        exchange, forwarding = self.exchange, self._forwarding
        expects_continue = exchange.request_body is not None and exchange.head.expects_continue
        if expects_continue and connection.target.minor == 0:
            expects_continue = False
            if not forwarding.continued:
                forwarding.continued = True
                exchange.client.inform(None)
        connection.begin_special(
            self,
            request,
            exchange.method,
            forwarding.forward.asked_upgrade(exchange),
            whole=self.request_is_whole(),
            expects_continue=expects_continue,
        )

    def failed(self, fault: Fault, why: str = "") -> None:
        """No connection could be had."""
        forwarding = self._forwarding
        self._end(fault, why)
        forwarding.lost(self, fault, CONNECT_FAILURE if fault.retry is Retry.SAFE else NEVER, why)

    # what the connection tells

    def informed(self, head: ResponseHead) -> None:
        self._forwarding.informed(self, head)

    def answered(self, head: ResponseHead, payload: bytes, ended: bool) -> None:
        now = monotonic()
        watch = self._upstream.watch
        if watch is not None:
            watch.answered(self.target, head.status, now - self._begun_at)
        exchange = self.exchange
        try:
            self._forwarding.answered(self, head, payload, ended, now)
        except Exception:  # the edge of this exchange: the connection has done its part, and tells nobody any more
            say(OperatorEvent.DEFECT, "a defect while taking the response of %s", self.target.label, error=True)
            exchange.fail(Fault.INTERNAL)

    def answered_whole(self, head: Http1ResponseHead) -> None:
        self.answered(head, head.payload or b"", True)

    def received(self, payload: bytes) -> None:
        exchange = self.exchange
        exchange.response_bytes += len(payload)
        exchange.client.feed(payload)

    def ended(self, trailers: Trailers) -> None:
        client = self.exchange.client
        self._forwarding.done(self)
        client.end(trailers)

    def failed_on(self, fault: Fault, silent: bool, why: str) -> None:
        connection, forwarding = self.connection, self._forwarding
        assert connection is not None
        self.connection = None
        condition = NEVER
        if forwarding.is_replayable():
            if fault.retry is Retry.IF_REUSED and silent and connection.uses > 1:
                condition = RESET
            elif fault.retry is Retry.IF_ASKED:
                condition = PER_TRY_TIMEOUT
        pool = self._upstream.pool
        self._end(
            None if condition == RESET else fault, why
        )  # it may close what is idle: that is no sign of ill health
        pool.discard(connection)
        forwarding.lost(self, fault, condition, why)

    def switched(self, head: ResponseHead, early: bytes) -> None:
        connection, upstream = self.connection, self._upstream
        assert connection is not None
        if upstream.watch is not None:
            upstream.watch.answered(self.target, head.status, self.seconds())
        self.deadline = inf
        connection.idle_patience = upstream.settings.timeouts.tunnel_idle
        connection.ground.wheel.watch(connection, connection.ground.wheel.now + connection.idle_patience)
        self._forwarding.switched(self, head, early, connection.idle_patience)

    def received_raw(self, chunk: bytes) -> None:
        exchange = self.exchange
        exchange.response_bytes += len(chunk)
        exchange.client.feed(chunk)

    def ended_raw(self) -> None:
        self._half_closed()
        self.exchange.client.end(())

    def _half_closed(self) -> None:
        """One side has ended the tunnel. Most often it has gone altogether, so the other has less time to follow."""
        connection = self.connection
        if connection is not None:
            connection.idle_patience = self._upstream.settings.timeouts.idle
            connection.ground.wheel.watch(connection, connection.ground.wheel.now + connection.idle_patience)

    def pause_request(self) -> None:
        if self.exchange.request_body is not None:
            self.exchange.request_body.pause()
        else:
            self.exchange.client.pause_tunnel()

    def resume_request(self) -> None:
        if self.exchange.request_body is not None:
            self.exchange.request_body.resume()
        else:
            self.exchange.client.resume_tunnel()

    def request_is_whole(self) -> bool:
        body = self.exchange.request_body
        return body is None or body.ended

    # what the client's side asks

    def feed(self, payload: bytes) -> None:
        if self.connection is not None:
            self.connection.send(serializer.chunk(payload) if self.exchange.body_length is None else payload)

    def end(self, trailers: Trailers) -> None:
        if self.connection is not None:
            if self._upstream.rules.per_try is not inf:
                self._limit_time()
            exchange = self.exchange
            last = serializer.last_chunk(sent_trailers(exchange, trailers)) if exchange.body_length is None else b""
            self.connection.send_last(last)

    def feed_raw(self, chunk: bytes) -> None:
        connection = self.connection
        if connection is not None:
            connection.deadline = connection.ground.wheel.now + connection.idle_patience
            connection.write(chunk)

    def end_raw(self) -> None:
        connection = self.connection
        if connection is not None:
            self._half_closed()
            connection.transport.write_eof()

    # endings

    def expire(self, now: float) -> None:
        """`per_try_timeout` is over."""
        fault, forwarding = self.late_by(), self._forwarding
        self.give_up(fault)
        forwarding.lost(self, fault, PER_TRY_TIMEOUT)

    def late_by(self) -> Fault:
        """Fault of this attempt when time is up."""
        if self.connection is not None:
            return Fault.UPSTREAM_TIMEOUT
        return Fault.POOL_TIMEOUT if self._upstream.pool.is_queued(self) else Fault.CONNECT_TIMEOUT

    def give_up(self, fault: Fault | None = None) -> None:
        """Give up: no one waits for the attempt any more. `fault`: as it has failed."""
        connection, self.connection = self.connection, None
        pool = self._upstream.pool
        self._end(fault)
        if connection is not None:
            connection.close()
            pool.discard(connection)
        else:
            pool.withdraw(self)

    def release(self, whole: bool) -> None:
        """The response is in, or is not wanted (`whole`: all of it had come).

        The connection may serve again if the request, too, was sent whole.
        """
        connection, self.connection = self.connection, None
        assert connection is not None
        body, pool = self.exchange.request_body, self._upstream.pool
        self._end()
        sent = body is None or body.ended
        if whole and sent and connection.reusable and not connection.write_paused:
            pool.give_back(connection)
        else:
            connection.close()
            pool.discard(connection)

    def _end(self, fault: Fault | None = None, why: str = "") -> None:
        """End the attempt; `fault`: it was the service that failed, and this is how."""
        if self.filed_at != inf:
            self._upstream.ground.wheel.drop(self)
        watch = self._upstream.watch
        if fault is not None:
            self._upstream.count_failure(self.target, fault, why)
        if watch is not None:
            if fault is not None:
                watch.failed(self.target, fault, self.seconds())
            watch.ended(self.target)
        # The body's relay may have us until its end.
        del self.exchange, self._forwarding, self._upstream
