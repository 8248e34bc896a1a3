"""Sub-requests: requests of a filter to an upstream of the configuration on behalf of the exchange that it processes.

A sub-request is an exchange of its own whose client is the filter: the upstream's load balancing, health, retries,
breakers and limits all apply, and its attempts are reported like any others. Rule 1: only filters that add something
for its upstream run (`UpstreamChains`), mainly credentials, so it causes no further sub-requests. Rule 2: it ends with
its parent, or when its timeout or that of its parent's route expires, whichever comes first. Rule 3: the end of a
sub-request is reported once, unless it is cancelled. Rule 4: an exchange has `MOST_PER_EXCHANGE` of them at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import cython

from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.exchange import Outcome, Reply, Trailers, problem, run_request
from fastgw.exchange.body_relay import Relay, whole_body
from fastgw.exchange.chain import Chain
from fastgw.exchange.exchange import CallSide, ClientSide, Exchange, begin_exchange
from fastgw.exchange.filter_steps import LOG_EVERY_S
from fastgw.exchange.reply import Response, body_at_once
from fastgw.exchange.shadow_exchange import ShadowExchange
from fastgw.exchange.staged_body import begin_request_stages
from fastgw.exchange.states import ENDED
from fastgw.exchange.upstream_chains import NO_FILTERS, UpstreamChains
from fastgw.forwarded_headers import Peer, reported_lines
from fastgw.http.fields import Fields
from fastgw.http.http1.made_request import field_lines, framing_line
from fastgw.http.http1.parser import make_request
from fastgw.http.messages import RequestHead, ResponseHead
from fastgw.observe.metrics.families import FilterEvent
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.client.call import end_call
from fastgw.upstream.client.subrequest_body import BodyFeeder
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.forwarding.forwarded_request import ForwardSettings
from fastgw.upstream.upstream import Upstream

MOST_PER_EXCHANGE: Final = 32
TIMEOUT: Final = 5.0
"""Default timeout for the whole sub-request, in seconds."""
CANCELLED: Final = "cancelled"
OVER: Final = "the exchange is over"
T = TypeVar("T")


class SubrequestFailed(NamedTuple):
    """Failure of a sub-request: no response, or an incomplete one. `why`: for the log; may be empty."""

    fault: Fault
    why: str


class SubresponseListener(Protocol):
    """Listener to the response to one sub-request, as it arrives. An exception in it cancels the sub-request."""

    def on_response(self, head: ResponseHead) -> None: ...
    def on_data(self, payload: bytes) -> None: ...

    def on_end(self, trailers: Trailers) -> None:
        """Handle the end of the response."""

    def on_failure(self, failure: SubrequestFailed) -> None:
        """Handle a failure: there is no response, or it is incomplete."""


class WholeListener:
    """Listener to a sub-request, a `SubresponseListener`, that gets a response in one call if it was received as a
    whole: `on_whole` in place of the others.
    """

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        raise NotImplementedError


class Subrequest(CallSide):
    """Client side of an exchange that the gateway makes itself. `asker`: the client side of its parent. Its deadline:
    that of the whole sub-request.
    """

    def __init__(self, listener: SubresponseListener, asker: ClientSide) -> None:
        self._begin(listener, asker)

    def _begin(self, listener: SubresponseListener, asker: ClientSide) -> None:
        self._listener: SubresponseListener | None = listener
        self.asker = asker
        self._siblings: Subrequests | None = None
        self._timeout = self._due_at = inf  # seconds for the whole; its end, by the wheel's clock
        self._waiting: asyncio.Future[Reply | None] | None = None  # while a filter of its upstream waits
        self._body: BodyFeeder | None = None
        self._borrowed: Relay | None = None  # body of the parent's request
        self.status = 0  # of the response; 0: there is none yet
        self.takes_replies = False  # responses without a head: of a filter that translates its request
        self._paused = False
        self.on_abandoned: Callable[[], None] | None = None  # called when the parent's end cancels it
        self._action: Forward
        self.exchange: Exchange

    def __repr__(self) -> str:
        return f"<Subrequest of {self.exchange!r}>"

    def send(self, exchange: Exchange, action: Forward, timeout: float, siblings: Subrequests | None = None) -> None:
        """Start, with a forward action. `timeout`: seconds for the whole sub-request; inf: only the upstream's timeouts
        apply.
        """
        self.exchange = exchange
        self._action = action
        self._siblings = siblings
        upstream: Upstream = action.upstream
        exchange.upstream = upstream.name
        if timeout != inf:
            wheel: Wheel = upstream.worker_loop.wheel
            self._timeout, self._due_at = timeout, wheel.now + timeout
            wheel.watch(self, self._due_at)
        chain: Chain = exchange.chain
        self._run_outcome(run_request(chain.request_steps, exchange) if chain.request_steps else None)

    def feed_body(self, feeder: BodyFeeder) -> None:
        """Send a body that is produced in pieces."""
        if self._listener is not None:
            self._body = feeder
            feeder.start_feeding(self.exchange, self._loop)

    def borrow_body(self, body: Relay) -> None:
        """Send the body of the parent's request, which has no other receiver until the end."""
        self._borrowed = body

    @property
    def is_copy(self) -> bool:
        """Whether no exchange waits for it: it is the copy of a request."""
        return self._siblings is None

    @property
    def is_over(self) -> bool:
        return self._listener is None

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._action.upstream.worker_loop.loop

    @property
    def _now(self) -> float:
        return self._action.upstream.worker_loop.wheel.now

    def pause(self) -> None:
        """Pause the response."""
        self._paused = True
        if self.exchange.service is not None:
            self.exchange.service.pause()

    def resume(self) -> None:
        self._paused = False
        if self.exchange.service is not None:
            self.exchange.service.resume()

    def cancel(self) -> None:
        """Cancel it: the listener is not called any more. Does nothing after its end."""
        if self._listener is not None:
            self._end(CANCELLED, 0)
            self.exchange.cancel(Fault.CLIENT_LEFT)
            end_call(self.exchange)

    # the filters of its upstream

    def _run_outcome(self, outcome: Outcome) -> None:
        exchange = self.exchange
        if outcome is None:
            if not exchange.chain.treats_bodies or begin_request_stages(exchange, self._action):
                self._action.begin(exchange)
        elif isinstance(outcome, Reply):
            exchange.reply(outcome)
        else:
            self._waiting = asyncio.ensure_future(outcome, loop=self._loop)
            self._waiting.add_done_callback(self._waited)

    def _waited(self, done: asyncio.Future[Reply | None]) -> None:
        error = None if done.cancelled() else done.exception()
        if self._waiting is not done:  # it has ended
            if not done.cancelled() and error is None and (late := done.result()) is not None:
                body_at_once(late)  # it will not be sent
            return
        self._waiting = None
        if done.cancelled() or error is not None:
            log_event(OperatorEvent.DEFECT, "the operation that a filter awaited failed", error=error or False)
            self._run_outcome(problem(Fault.INTERNAL))
        else:
            self._run_outcome(done.result())

    # endings

    def expire(self, now: float) -> None:
        """Handle the end of its timeout."""
        exchange = self.exchange
        if self._waiting is None:
            exchange.fail(Fault.UPSTREAM_TIMEOUT)
        else:
            name = exchange.chain.name_of(exchange.answered_by)
            self.counts.count_filter(name, FilterEvent.LATE)
            exchange.fail(Fault.FILTER_TIMEOUT, why=f"filter {name} timed out")

    def _end(self, outcome: object, status: Any) -> None:
        """Release its resources: no listener is called any more. `outcome`: for the log. `status`: of a response that
        is complete, otherwise 0.
        """
        exchange = self.exchange
        self._listener = None
        if self.filed_at != inf:
            self._action.upstream.worker_loop.wheel.drop(self)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._loop.call_soon(waiting.cancel)  # not before the wait has begun
        if self._body is not None:
            body, self._body = self._body, None
            body.cancel(self._loop)
        if self._borrowed is not None:
            borrowed, self._borrowed = self._borrowed, None
            exchange.request_body = None  # its stages belong to the parent
            if borrowed.kept is not None:
                borrowed.detach()  # another receiver may follow
        if self._siblings is not None:
            self._siblings.end(self, exchange.upstream, exchange.target, outcome, monotonic() - exchange.begun_at)
        self.asker.counts.count_subrequest(exchange, status)

    def _fail(self, fault: Fault) -> None:
        listener = self._listener
        if listener is None:
            return
        self._end(fault.label, 0)
        end_call(self.exchange)
        why = self.exchange.why
        if not why and fault is Fault.UPSTREAM_TIMEOUT and self._due_at <= self._now:
            why = f"the sub-request was not done within {self._timeout:g} s"
        self._notify(listener.on_failure, SubrequestFailed(fault, why))

    def _notify(self, listen: Callable[[T], None], what: T) -> None:
        try:
            listen(what)
        except Exception:  # the edge of a filter: the owner of the connection could not handle its error
            self._raised()

    def _raised(self) -> None:
        """Handle an exception of the listener, once in a while also by the log."""
        exchange = self.exchange
        logged_at = NO_FILTERS.logged_at = NO_FILTERS.logged_at or {}
        if exchange.begun_at >= logged_at.get(exchange.upstream, -inf) + LOG_EVERY_S:
            logged_at[exchange.upstream] = exchange.begun_at
            log_event(OperatorEvent.FILTER_RAISED, "a listener to a sub-request to %s", exchange.upstream, error=True)
        self.cancel()

    # calls of the exchange (`ClientSide`)

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        listener = self._listener
        if listener is None:
            return
        exchange = self.exchange
        head = response.head
        if head is None and not (self.takes_replies and exchange.fault is None):
            self._fail(exchange.fault or Fault.INTERNAL)  # a reply of the gateway: the fault contains its information
            return
        self.status = response.status if head is None else head.status
        if head is None:  # of the filter that translates the response of the upstream
            if exchange.method == b"HEAD":
                payload = b""
        elif ended and isinstance(listener, WholeListener):
            self._end(self.status, self.status)
            end_call(self.exchange)
            whole: WholeListener = listener
            try:
                whole.on_whole(head, payload)
            except Exception:  # likewise
                self._raised()
            return
        else:
            self._notify(listener.on_response, head)
        if payload:
            self.feed(payload)
        if ended:
            self.end(())
        elif self._paused and exchange.service is not None:
            exchange.service.pause()

    def feed(self, payload: bytes) -> None:
        if self._listener is not None:
            self._notify(self._listener.on_data, payload)

    def end(self, trailers: Trailers) -> None:
        listener = self._listener
        if listener is None:
            return
        self._end(self.status, self.status)
        end_call(self.exchange)
        self._notify(listener.on_end, trailers)

    def abort(self, fault: Fault) -> None:
        self._fail(fault)

    def tunnel(self, early: bytes, timeout: float) -> None:
        self.exchange.break_off()
        self._fail(Fault.UPGRADE_UNEXPECTED)

    def filter_timeout(self) -> float:
        return min(max(self._due_at - self._now, 0.0), self.asker.filter_timeout())


class Subrequests:
    """Sub-requests of one exchange. As text: those that have ended, in order of their ends, for the access log."""

    def __init__(self) -> None:
        self.active: set[Subrequest] = set()
        self.count = 0
        self._ended: list[tuple[str, str, object, float]] = []
        self._earlier = 0  # ends that were dropped

    def __str__(self) -> str:
        ended = [f"{upstream} {target or '-'} {outcome} {took:.6f}" for upstream, target, outcome, took in self._ended]
        return ", ".join([f"({self._earlier} earlier)", *ended] if self._earlier else ended)

    def end(self, sent: Subrequest, upstream: str, target: str, outcome: object, seconds: float) -> None:
        """Note an end. `outcome`: status of the response, or the reason why there is none."""
        self.active.discard(sent)
        self._ended.append((upstream, target, outcome, seconds))

    def end_detached(self, upstream: str, target: str, outcome: str, seconds: float) -> None:
        """Note the end of a request that does not end with the exchange, and of which there may be any number: the last
        `MOST_PER_EXCHANGE` are kept.
        """
        if len(self._ended) >= MOST_PER_EXCHANGE:
            del self._ended[0]
            self._earlier += 1
        self._ended.append((upstream, target, outcome, seconds))

    def log_of_another(self) -> Subrequests:
        """Return an object for another exchange, which lists the ends of these sub-requests, also later ones, but does
        not cancel them.
        """
        made = Subrequests()
        made._ended = self._ended
        return made

    def cancel(self) -> None:
        for each in tuple(self.active):
            each.cancel()
            if each.on_abandoned is not None:
                each.on_abandoned()


def send_subrequest(
    parent: Exchange,
    upstream: Upstream,
    listener: SubresponseListener,
    *,
    target: bytes,
    method: bytes = b"GET",
    fields: Iterable[tuple[bytes, bytes]] = (),
    body: bytes | AsyncIterable[bytes] | Relay | None = b"",
    body_length: int | None = None,
    timeout: float = TIMEOUT,
    most: int | None = None,
    forward: Forward | None = None,
) -> Subrequest | SubrequestFailed:
    """Send a request to an upstream (`Services.upstreams`); the listener is called with the response, perhaps before
    this returns.

    It carries the same data of the gateway as any request to this upstream: the credentials that the filters of the
    upstream, gateway and listener add, which are renewed after a 401 or 403.

    `target`: path and query. `body`: the whole body; or an async iterator of its pieces, which is read only as fast as
    the upstream accepts them and is closed at the end (`body_length`: their total number of bytes, if known); or the
    body of the request itself, `exchange.request_body`, as it arrives from the client: then the caller has to answer
    the exchange, because no upstream gets the body afterwards. `timeout`: seconds for the whole sub-request; the
    route's `timeout` or the upstream's `total` may end it earlier. `most`: number of sub-requests that the exchange may
    have; None = `MOST_PER_EXCHANGE`. `forward`: a compiled forward action to this upstream; None: one is made, with the
    settings of the exchange's route. A failure that is returned is not reported to the listener. Raises `ValueError`
    for invalid headers, for the body of another exchange, or for a parent that is a sub-request itself, and
    `Malformed`, a subclass, for a target or method that cannot be sent.
    """
    feeder: BodyFeeder | None = None
    relay: Relay | None = None
    if isinstance(body, bytes):
        if body:
            relay = whole_body(body, len(body))
    elif body is None or isinstance(body, Relay):
        relay = body
        if relay is not None and relay is not parent.request_body:
            raise ValueError("the body of another exchange; expected `exchange.request_body`")
    elif isinstance(body, AsyncIterable):
        feeder = BodyFeeder(body, body_length)
        relay = feeder.relay
    else:
        raise TypeError(f"the body is a {type(body).__name__}; expected bytes or an async iterator of bytes")
    lines = field_lines(fields)
    count = MOST_PER_EXCHANGE if most is None else most
    sent = send_lines(parent, upstream, forward, listener, method, target, lines, relay, timeout, count)
    if feeder is not None and isinstance(sent, Subrequest):
        sent.feed_body(feeder)
    return sent


def send_lines(
    parent: Exchange,
    upstream: Upstream,
    forward: Forward | None,
    listener: SubresponseListener,
    method: bytes,
    target: bytes,
    lines: bytes,
    body: Relay | None,
    timeout: float,
    most: cython.int,
) -> Subrequest | SubrequestFailed:
    """Send a request with these header lines, as `field_lines` makes them; see `send_subrequest`."""
    if isinstance(parent.client, Subrequest):
        raise ValueError("a sub-request asks nobody further")
    real: Exchange = parent.real if isinstance(parent, ShadowExchange) else parent
    if real.state is ENDED:
        return SubrequestFailed(real.fault or Fault.CLIENT_LEFT, OVER)
    is_borrowed = body is not None and body is parent.request_body
    if is_borrowed and real is not parent:
        return SubrequestFailed(Fault.INTERNAL, "a filter in shadow does not get the body of the request")
    siblings: Subrequests | None = real.subrequests
    if siblings is None:
        siblings = real.subrequests = Subrequests()
    if siblings.count >= most:
        return SubrequestFailed(Fault.INTERNAL, f"an exchange may have {most} sub-requests")
    timeout = min(timeout, _time_left(parent))
    if timeout <= 0.0:
        return SubrequestFailed(Fault.UPSTREAM_TIMEOUT, "no time is left of the route's timeout")
    chains: UpstreamChains = parent.listener.upstream_chains
    chain: Chain = chains.chain_of(upstream.name)
    if body is not None and is_borrowed:
        if body.sink is not None or body.kept is None:
            return SubrequestFailed(Fault.INTERNAL, "the body of the request is sent elsewhere")
        if chain.request_body_hooks:
            why = f"filters of upstream {upstream.name} read bodies, which the request's own does not pass twice"
            return SubrequestFailed(Fault.INTERNAL, why)
    peer: Peer = parent.peer
    if peer.trusted and (reported := reported_lines(parent.head, peer)):
        named = {name.lower() for name, _ in Fields.parse(lines, 0)}
        lines += field_lines([line for line in reported if line[0] not in named])
    lines += framing_line(method, 0 if body is None else body.length)
    head: RequestHead = make_request(method, target, parent.head.authority, lines)
    sent: Subrequest = Subrequest.__new__(Subrequest)
    sent._begin(listener, real.client)
    exchange: Exchange = begin_exchange(head, sent, parent.listener, peer, chain)
    exchange.client_ip, exchange.consumer, exchange.claims = parent.client_ip, parent.consumer, parent.claims
    exchange.answered_by = None
    exchange.trace = real.trace
    exchange.request_body = body
    siblings.count += 1
    siblings.active.add(sent)
    if body is not None and is_borrowed:
        sent.borrow_body(body)
        if parent.head.expects_continue and not body.bytes and not body.ended:
            real.client.send_interim(None)
    sent.send(exchange, _forward_like(parent, upstream, timeout) if forward is None else forward, timeout, siblings)
    return sent


def _time_left(parent: Exchange) -> float:
    """Seconds left of the route's timeout for an exchange; inf: it has none."""
    route = parent.route
    if route is None:
        return inf
    limit = route.action.timeout if isinstance(route.action, Forward) else route.filter_timeout
    return inf if limit is None else parent.begun_at + limit - monotonic()


def _forward_like(parent: Exchange, upstream: Upstream, timeout: float) -> Forward:
    """Return the forward action to an upstream, with the settings of the parent's route."""
    action = None if parent.route is None else parent.route.action
    if not isinstance(action, Forward):
        return Forward(upstream, ForwardSettings(timeout=timeout))
    how: ForwardSettings = action.how
    kept = ForwardSettings(deadline_name=how.deadline_name, via=how.via, writes_forwarded=how.writes_forwarded)
    return Forward(upstream, kept._replace(forwarded=how.forwarded, timeout=timeout))
