"""What a route does with an upstream: pick a target, send the rewritten request, try again where that is safe.

`Forward` is the route's part, compiled once; `Forwarding` is one exchange's way through it. What may be sent again is
decided in `_may_retry` alone, by the fault's row in `errors.py` and the contract's "Retry and reuse".
"""

import logging
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final, final

from fastgw.errors import Fault, Retry
from fastgw.exchange import Exchange, Relay, Response, Trailers
from fastgw.exchange.exchange import AS_ASKED
from fastgw.exchange.states import ANSWERING, ATTEMPT_FAILED, CONNECTION_LENT, NEXT
from fastgw.forwarded import Policy, fields_for_upstream
from fastgw.node.timers import Timed
from fastgw.upstream.balance import Asked
from fastgw.upstream.connection import UpstreamConnection
from fastgw.upstream.group import Upstream
from fastgw.upstream.target import Target
from fastgw.wire import render
from fastgw.wire.framing import ResponseHead

log = logging.getLogger("fastgw.upstream")

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
"""RFC 9110 section 9.2.2."""
JUST_USED_S: Final = 1.0
"""What cannot be sent again goes only on a connection that was in use this recently, or on a fresh one."""
_EXPECT: Final = frozenset((b"expect",))


@final
class Forward:
    """A route's action: forward to `upstream`. `path_of` gives the path to send; None: that of the request.

    `timeout`: seconds until the response head.
    """

    __slots__ = ("forwarded", "keeps_path", "path_of", "patience", "upgrade", "upstream")

    def __init__(
        self,
        upstream: Upstream,
        path_of: Callable[[Asked], bytes] | None,
        forwarded: Policy | None,
        upgrade: tuple[bytes, ...],
        timeout: float | None,
    ) -> None:
        self.upstream = upstream
        self.path_of = path_of
        self.forwarded: Policy | None = forwarded
        self.upgrade = upgrade
        self.patience = min(timeout or inf, upstream.patience)
        self.keeps_path = path_of is None and not any(target.base_path for target in upstream.targets)

    def __call__(self, exchange: Exchange) -> None:
        upstream = self.upstream
        forwarding = Forwarding(self, exchange)
        exchange.service = forwarding
        exchange.upstream = upstream.name
        upstream.active += 1
        if self.patience is not inf:
            forwarding.limit_time()
        forwarding.attempt(fresh=False)

    def resumed(
        self, exchange: Exchange, target: Target | None, connection: UpstreamConnection | None, begun_at: float
    ) -> "Forwarding":
        """The forwarding of an exchange that was on its straight way; counted among the upstream's already.

        `begun_at`: when its attempt at `target` began, monotonic seconds.
        """
        forwarding = Forwarding(self, exchange)
        exchange.service = forwarding
        forwarding.go_on(target, connection, begun_at)
        return forwarding

    def sent_target(self, asked: Asked, target: Target, query: bytes | None = AS_ASKED) -> bytes | None:
        """The request target that is sent; None: the one that the client sent."""
        head = asked.head
        if query is AS_ASKED:
            if self.keeps_path and head.path_as_sent and not head.scheme:
                return None
            query = head.query
        path = asked.path if self.path_of is None else self.path_of(asked)
        if path == b"*":
            return path
        where = target.base_path + path
        return where if query is None else where + b"?" + query

    def request_head(self, exchange: Exchange, target: Target) -> bytes:
        """The head that the target is sent: framed anew, hop-by-hop fields gone, the forwarding family ours."""
        head = exchange.head
        drop, added = fields_for_upstream(self.forwarded, exchange.peer, head, exchange.client_ip)
        if exchange.request_dropped:
            drop |= exchange.request_dropped
        if exchange.request_added:
            added += exchange.request_added
        if not exchange.ordinary:
            added += self._special_lines(exchange)
            if head.expects_continue and target.minor == 0:
                drop |= _EXPECT  # HTTP/1.0 knows no 100: we have answered it ourselves
        return render.request(
            head, self.sent_target(exchange, target, exchange.query_sent), target.host_header, drop, added
        )

    def _special_lines(self, exchange: Exchange) -> bytes:
        """Framing, and what is asked of the next peer alone."""
        head, lines = exchange.head, b""
        if head.chunked:
            lines = b"Transfer-Encoding: chunked\r\n"
        elif b"content-length" in head.known:
            lines = b"Content-Length: %d\r\n" % head.length
        upgrade = self.asked_upgrade(exchange)
        if upgrade:
            lines += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % b", ".join(upgrade)
        elif head.te_trailers:
            lines += b"Connection: TE\r\nTE: trailers\r\n"
        return lines

    def asked_upgrade(self, exchange: Exchange) -> tuple[bytes, ...]:
        """The protocols that the client offers and the route allows. A body and an upgrade do not go together."""
        offered = exchange.head.upgrade
        if not offered or exchange.request_body is not None:
            return ()
        return tuple(protocol for protocol in offered if protocol in self.upgrade)


class Forwarding(Timed):
    """One exchange on its way to an upstream and back: borrower of a connection, sink of the request body."""

    __slots__ = (
        "_attempt_at",
        "_attempting",
        "_connection",
        "_continued",
        "_forward",
        "_over",
        "_retrying",
        "_target",
        "_total_at",
        "_tried",
        "_upstream",
        "exchange",
    )

    def __init__(self, forward: Forward, exchange: Exchange) -> None:
        self.deadline = self.filed_at = inf
        self._forward = forward
        self._upstream = forward.upstream
        self.exchange = exchange
        self._connection: UpstreamConnection | None = None
        self._target: Target | None = None
        self._attempting = False  # an attempt is under way, and watched if the upstream is
        self._attempt_at = 0.0
        self._total_at = inf
        self._tried: tuple[Target, ...] = ()
        self._continued = False  # we have told the client to go on, in place of a target that cannot
        self._retrying = False
        self._over = False

    def __repr__(self) -> str:
        return f"<Forwarding to {self._target!r} on {self._connection!r}>"

    def limit_time(self) -> None:
        """Begin the time that the route gives until the response head, and the upstream for the whole."""
        upstream = self._upstream
        wheel = upstream.ground.wheel
        self._total_at = wheel.now + upstream.patience
        wheel.watch(self, wheel.now + self._forward.patience)

    def go_on(self, target: Target | None, connection: UpstreamConnection | None, begun_at: float) -> None:
        """The request is on its way to `target`, if there is a connection."""
        self._target, self._connection = target, connection
        self._attempting = target is not None
        self._attempt_at = begun_at

    def attempt(self, fresh: bool) -> None:
        """Pick a target and ask for a connection to it. `fresh`: one that has carried no request."""
        upstream = self._upstream
        target = upstream.balancer.pick(self.exchange, self._tried)
        if target is None:
            self._fail(upstream.unavailable(), wait=upstream.wait())
            return
        if upstream.watch is not None:
            self._attempting = True
            self._attempt_at = monotonic()
            upstream.watch.began(target)
        self.ask(target, fresh)

    def ask(self, target: Target, fresh: bool) -> None:
        """Ask for a connection to `target`, to which an attempt has begun."""
        exchange, upstream = self.exchange, self._upstream
        self._target = target
        exchange.target = target.label
        if not target.minor and exchange.head.chunked:
            self._fail(Fault.LENGTH_REQUIRED)  # HTTP/1.0 knows no chunks (RFC 9112 section 6.1)
            return
        # On a connection that the target may just be closing, a request that cannot be sent again could be lost.
        idle_at_most = inf if self._replayable() else JUST_USED_S
        lent = upstream.pool.lend(target, self, fresh, idle_at_most)
        if type(lent) is UpstreamConnection:
            self.lent(lent)
        elif type(lent) is Fault:
            self.failed(lent)

    def _replayable(self) -> bool:
        exchange = self.exchange
        if exchange.method not in IDEMPOTENT and not self._upstream.settings.retries.non_idempotent:
            return False
        body = exchange.request_body
        return body is None or body.kept is not None

    # what the pool tells

    def lent(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        exchange, forward = self.exchange, self._forward
        try:
            exchange.state = NEXT[exchange.state][CONNECTION_LENT]
            request = forward.request_head(exchange, connection.target)
            if exchange.ordinary:
                connection.begin(self, request, exchange.method)
            else:
                self._send_special(connection, request)
        except Exception:  # the edge of this exchange: who waits for a connection has no other way to hear of a defect
            log.exception("a defect while sending a request to %s", connection.target.label)
            exchange.fail(Fault.INTERNAL)

    def _send_special(self, connection: UpstreamConnection, request: bytes) -> None:
        """Send a request that has a body, or that asks for more than its resource."""
        exchange = self.exchange
        head, body = exchange.head, exchange.request_body
        expects_continue = body is not None and head.expects_continue
        if expects_continue and connection.target.minor == 0:
            expects_continue = False
            if not self._continued:
                self._continued = True
                exchange.client.inform(None)
        if body is not None:
            held = body.attach(self)
            if not self._replayable():
                body.kept = None
            if held:
                request += render.chunk(held) if head.chunked else held
            if body.ended and head.chunked:
                request += render.last_chunk(body.trailers)
        connection.begin_special(
            self,
            request,
            exchange.method,
            self._forward.asked_upgrade(exchange),
            whole=self.request_is_whole(),
            expects_continue=expects_continue,
        )

    def failed(self, fault: Fault) -> None:
        """No connection could be had."""
        self._end_attempt(fault)
        if self._target is not None:
            self._tried += (self._target,)
        if fault.retry is Retry.SAFE and self._may_retry("connect_failure"):
            self._again(fresh=False)
        else:
            self._fail(fault)

    # what the connection tells

    def informed(self, head: ResponseHead) -> None:
        self.exchange.client.inform(head)

    def answered(self, head: ResponseHead, payload: bytes, ended: bool) -> None:
        exchange = self.exchange
        now = monotonic()
        exchange.upstream_s = now - exchange.begun_at
        exchange.response_bytes = len(payload)
        watch = self._upstream.watch
        if watch is not None and self._attempting:
            assert self._target is not None
            watch.answered(self._target, head.status, now - self._attempt_at)
        cookie = self._cookie()
        if ended:
            self._done()
        else:
            self.deadline = self._total_at  # the route's `timeout` counts until the response head
            body = exchange.request_body
            if body is not None:
                body.kept = None  # nothing is sent again from here on
        response = Response(head.status, head)
        if cookie:
            response.added = cookie
        exchange.respond(response, payload, ended)

    def answered_whole(self, head: ResponseHead) -> None:
        self.answered(head, head.payload or b"", True)

    def received(self, payload: bytes) -> None:
        self.exchange.response_bytes += len(payload)
        self.exchange.client.feed(payload)

    def ended(self, trailers: Trailers) -> None:
        client = self.exchange.client
        self._done()
        client.end(trailers)

    def failed_on(self, fault: Fault, silent: bool, why: str) -> None:
        connection = self._connection
        assert connection is not None
        self._connection = None
        reused = connection.uses > 1
        self._upstream.pool.discard(connection)
        if (
            silent
            and reused
            and fault.retry is Retry.IF_REUSED
            and self._replayable()
            and self._may_retry("reset_before_response")
        ):
            self._end_attempt()  # a target may close what is idle: that is no sign of ill health
            body = self.exchange.request_body
            if body is not None:
                body.detach()
            self.exchange.state = NEXT[self.exchange.state][ATTEMPT_FAILED]
            self._again(fresh=True)
        else:
            self._end_attempt(fault)
            self._fail(fault, why)

    def switched(self, head: ResponseHead, early: bytes) -> None:
        exchange, connection = self.exchange, self._connection
        assert connection is not None
        now = monotonic()
        exchange.upstream_s = now - exchange.begun_at
        watch = self._upstream.watch
        if watch is not None and self._attempting:
            assert self._target is not None
            watch.answered(self._target, head.status, now - self._attempt_at)
        self.deadline = inf
        connection.idle_patience = self._upstream.settings.timeouts.tunnel_idle
        connection.ground.wheel.watch(connection, connection.ground.wheel.now + connection.idle_patience)
        response = Response(101, head)
        response.added = self._cookie()
        exchange.switch(response, early, connection.idle_patience)

    def _cookie(self) -> bytes:
        """The line by which the client stays with its target, if there is to be one."""
        upstream, exchange = self._upstream, self.exchange
        if upstream.cookies is None or self._target is None:
            return b""
        return upstream.cookies.line_for(exchange.head, exchange.peer, self._target)

    def received_raw(self, chunk: bytes) -> None:
        self.exchange.response_bytes += len(chunk)
        self.exchange.client.feed(chunk)

    def ended_raw(self) -> None:
        assert self._connection is not None
        if self._connection.transport.can_write_eof():
            self._half_closed()
            self.exchange.client.end(())
        else:
            self.exchange.client.end_tunnel()

    def _half_closed(self) -> None:
        """One side has ended the tunnel. Most often it has gone altogether, so the other has less time to follow."""
        connection = self._connection
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
        if self._connection is not None:
            self._connection.send(render.chunk(payload) if self.exchange.head.chunked else payload)

    def end(self, trailers: Trailers) -> None:
        if self._connection is not None:
            self._connection.send_last(render.last_chunk(trailers) if self.exchange.head.chunked else b"")

    def feed_raw(self, chunk: bytes) -> None:
        connection = self._connection
        if connection is not None:
            connection.deadline = connection.ground.wheel.now + connection.idle_patience
            connection.write(chunk)

    def end_raw(self) -> None:
        connection = self._connection
        if connection is not None:
            self._half_closed()
            if connection.transport.can_write_eof():
                connection.transport.write_eof()
            else:  # TLS cannot say "no more" one way
                self.exchange.client.end_tunnel()

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def cancel(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._upstream.pool.discard(connection)
        elif not self._over:
            self._upstream.pool.withdraw(self)
        self._end()

    def expire(self, now: float) -> None:
        """The time for the whole is up: the route's `timeout` or the upstream's `total`."""
        exchange = self.exchange
        if exchange.state is ANSWERING:
            fault = Fault.UPSTREAM_STALLED
        elif self._connection is not None:
            fault = Fault.UPSTREAM_TIMEOUT
        elif self._upstream.pool.is_queued(self):
            fault = Fault.POOL_TIMEOUT
        else:
            fault = Fault.CONNECT_TIMEOUT
        self._end_attempt(fault)
        exchange.fail(fault)  # which cancels us

    # endings

    def _end_attempt(self, fault: Fault | None = None) -> None:
        """The attempt is over; `fault`: it was the service that failed, and this is how."""
        if self._attempting:
            self._attempting = False
            watch, target = self._upstream.watch, self._target
            if watch is not None and target is not None:
                if fault is not None:
                    watch.failed(target, fault, monotonic() - self._attempt_at)
                watch.ended(target)

    def _may_retry(self, condition: str) -> bool:
        """Whether the configuration leaves room for one more attempt. Whether it is *safe* is the caller's to know."""
        upstream = self._upstream
        retries = upstream.settings.retries
        return (
            self.exchange.retries < retries.max
            and condition in retries.conditions
            and (self._retrying or upstream.may_retry())
        )

    def _again(self, fresh: bool) -> None:
        self.exchange.retries += 1
        if not self._retrying:
            self._retrying = True
            self._upstream.retrying += 1
        self.attempt(fresh)

    def _done(self) -> None:
        """The response is in. The connection may serve again if the request, too, was sent whole."""
        connection, self._connection = self._connection, None
        assert connection is not None
        exchange, upstream = self.exchange, self._upstream
        body: Relay | None = exchange.request_body
        if body is not None:
            body.kept = None  # nothing is sent again from here on
            if not body.ended:
                body.sink = None
                connection.reusable = False
        if connection.reusable and not connection.write_paused:
            upstream.pool.give_back(connection)
        else:
            connection.close()
            upstream.pool.discard(connection)
        self._end()
        exchange.service = None

    def _fail(self, fault: Fault, why: str = "", wait: float = 0.0) -> None:
        """`wait`: seconds after which it is worth while to ask again, where that is known."""
        exchange = self.exchange
        self._end()
        exchange.service = None
        exchange.fail(fault, why=why, wait=wait)

    def _end(self) -> None:
        if not self._over:
            self._end_attempt()
            self._over = True
            self.deadline = inf
            upstream = self._upstream
            upstream.active -= 1
            if self._retrying:
                upstream.retrying -= 1
            # The wheel may have us for as long as we were given, which is longer than anybody needs these.
            del self.exchange, self._forward, self._upstream
