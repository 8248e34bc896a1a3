"""Sub-requests: requests of a filter to an upstream of the configuration on behalf of the exchange that it processes.

A sub-request is an exchange of its own whose client is the filter: the upstream's load balancing, health, retries,
breakers and limits all apply, and its attempts are reported like any others. Rule 1: only filters that add something
for its upstream run (`UpstreamChains`), mainly credentials, so it causes no further sub-requests. Rule 2: it ends with
its parent, or when its timeout or that of its parent's route expires, whichever comes first. Rule 3: the end of a
sub-request is reported once, unless it is cancelled. Rule 4: an exchange has `MOST_PER_EXCHANGE` of them at most.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from math import inf
from time import monotonic
from typing import Final, NamedTuple, Protocol, TypeVar, final

from fastgw.errors import Fault
from fastgw.exchange import (
    CallSide,
    Chain,
    ClientSide,
    Exchange,
    Outcome,
    Relay,
    Reply,
    Response,
    Trailers,
    problem,
    run_request,
)
from fastgw.exchange.body_relay import whole_body
from fastgw.exchange.exchange_counts import ExchangeCounts
from fastgw.exchange.filter_steps import LOG_EVERY_S
from fastgw.exchange.reply import body_at_once
from fastgw.exchange.request_stages import begin_request_stages
from fastgw.exchange.shadow_exchange import Nobody, ShadowExchange
from fastgw.exchange.states import ENDED, FORWARDING
from fastgw.exchange.upstream_chains import NO_FILTERS
from fastgw.forwarded_headers import reported_lines
from fastgw.http.built_request import BuiltRequestHead
from fastgw.http.field_names import HOP_BY_HOP
from fastgw.http.fields import Fields
from fastgw.http.messages import ResponseHead
from fastgw.observe.metrics.families import FilterEvent
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.shm.held_body_budget import HeldBodyBudget
from fastgw.upstream.client.subrequest_body import BodyFeeder
from fastgw.upstream.connections.stream import UpstreamStream
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.forwarding.forwarding import Forwarding
from fastgw.upstream.targets.attempt_listener import AttemptRecord
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream

MOST_PER_EXCHANGE: Final = 32
MOST: Final = 1024 * 1024
"""Default maximum of bytes of a response body that is returned as a whole."""
TIMEOUT: Final = 5.0
"""Default timeout for the whole sub-request, in seconds."""
CANCELLED: Final = "cancelled"
NOBODY: Final = Nobody()
_OVER: Final = "the exchange is over"
T = TypeVar("T")


class Subresponse(NamedTuple):
    """A whole response with any status."""

    status: int
    fields: Fields
    """End-to-end header fields."""
    body: bytes
    trailers: Trailers = ()


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


@final
class Subrequest(CallSide):
    """Client side of an exchange that the gateway makes itself. `asker`: the client side of its parent."""

    def __init__(self, listener: SubresponseListener, asker: ClientSide) -> None:
        self._listener: SubresponseListener | None = listener
        self._asker = asker
        self._siblings: Subrequests | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = inf  # monotonic seconds
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

    def send(self, exchange: Exchange, action: Forward, timeout: float, siblings: "Subrequests | None" = None) -> None:
        """Start, with a forward action. `timeout`: seconds for the whole sub-request; inf: only the upstream's timeouts
        apply.
        """
        self.exchange = exchange
        self._action = action
        self._siblings = siblings
        exchange.upstream = action.upstream.name
        if timeout != inf:
            self._until = monotonic() + timeout
            self._timer = self._loop.call_later(timeout, self._late, timeout)
        chain = exchange.chain
        self._run_outcome(run_request(chain.request_steps, exchange) if chain.request_steps else None)

    def adopt(self, exchange: Exchange, action: Forward, siblings: "Subrequests") -> None:
        """Continue a sub-request that was sent already, and has no timeout of its own."""
        self.exchange, self._action, self._siblings = exchange, action, siblings
        exchange.upstream = action.upstream.name

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
    def forward(self) -> Forward:
        """The forward action by which it is sent."""
        return self._action

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._action.upstream.worker_loop.loop

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
        if self._end(CANCELLED) is not None:
            self.exchange.cancel(Fault.CLIENT_LEFT)
            self._finish()

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

    def _waited(self, done: "asyncio.Future[Reply | None]") -> None:
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

    def _late(self, timeout: float) -> None:
        exchange = self.exchange
        if self._waiting is None:
            exchange.fail(Fault.UPSTREAM_TIMEOUT, why=f"the sub-request was not done within {timeout:g} s")
        else:
            name = exchange.chain.name_of(exchange.answered_by)
            self.counts.count_filter(name, FilterEvent.LATE)
            exchange.fail(Fault.FILTER_TIMEOUT, why=f"filter {name} timed out")

    def _end(self, outcome: str) -> SubresponseListener | None:
        """Release its resources. Returns the listener to call; None: it had ended before. `outcome`: for the log."""
        listener, self._listener = self._listener, None
        if listener is None:
            return None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._loop.call_soon(waiting.cancel)  # not before the wait has begun
        body, self._body = self._body, None
        if body is not None:
            body.cancel(self._loop)
        exchange = self.exchange
        borrowed, self._borrowed = self._borrowed, None
        if borrowed is not None:
            exchange.request_body = None  # its stages belong to the parent
            if borrowed.kept is not None:
                borrowed.detach()  # another receiver may follow
        if self._siblings is not None:
            self._siblings.end(self, exchange.upstream, exchange.target, outcome, monotonic() - exchange.begun_at)
        self.counts.count_subrequest(exchange, self.status if outcome.isdecimal() else 0)
        return listener

    def _fail(self, fault: Fault) -> None:
        listener = self._end(fault.label)
        if listener is not None:
            self._finish()
            self._notify(listener.on_failure, SubrequestFailed(fault, self.exchange.why))

    def _finish(self) -> None:
        exchange = self.exchange
        if exchange.state is not ENDED:
            exchange.finish()
        exchange.client = exchange.response_sink = NOBODY  # avoids a reference cycle

    def _notify(self, listen: Callable[[T], None], what: T) -> None:
        try:
            listen(what)
        except Exception:  # the edge of a filter: the owner of the connection could not handle its error
            log_raised(self.exchange)
            self.cancel()

    # calls of the exchange (`ClientSide`)

    def send_interim(self, head: ResponseHead | None) -> None: ...

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        listener = self._listener
        if listener is None:
            return
        head, exchange = response.head, self.exchange
        if head is None and not (self.takes_replies and exchange.fault is None):
            self._fail(exchange.fault or Fault.INTERNAL)  # a reply of the gateway: the fault contains its information
            return
        if head is not None:
            self.status = head.status
            self._notify(listener.on_response, head)
        else:  # of the filter that translates the response of the upstream
            self.status = response.status
            if exchange.method == b"HEAD":
                payload = b""
        if payload:
            self.feed(payload)
        if ended:
            self.end(())
        elif self._paused and self.exchange.service is not None:
            self.exchange.service.pause()

    def feed(self, payload: bytes) -> None:
        if self._listener is not None:
            self._notify(self._listener.on_data, payload)

    def end(self, trailers: Trailers) -> None:
        listener = self._end(str(self.status))
        if listener is not None:
            self._finish()
            self._notify(listener.on_end, trailers)

    def abort(self, fault: Fault) -> None:
        self._fail(fault)

    def tunnel(self, early: bytes, timeout: float) -> None:
        self.exchange.break_off()
        self._fail(Fault.UPGRADE_UNEXPECTED)

    def pause_tunnel(self) -> None: ...
    def resume_tunnel(self) -> None: ...

    @property
    def counts(self) -> ExchangeCounts:
        return self._asker.counts

    @property
    def held_body_budget(self) -> HeldBodyBudget:
        return self._asker.held_body_budget

    def filter_timeout(self) -> float:
        return min(max(self._until - monotonic(), 0.0), self._asker.filter_timeout())


class ActiveSubrequest(Protocol):
    """Sub-request that has not ended."""

    @property
    def on_abandoned(self) -> Callable[[], None] | None: ...
    def cancel(self) -> None: ...


@final
class Subrequests:
    """Sub-requests of one exchange. As text: those that have ended, in order of their ends, for the access log."""

    __slots__ = ("_earlier", "_ended", "active", "count")

    def __init__(self) -> None:
        self.active: set[ActiveSubrequest] = set()
        self.count = 0
        self._ended: deque[tuple[str, str, str | int, float]] = deque()
        self._earlier = 0  # ends that were dropped

    def __str__(self) -> str:
        ended = [f"{upstream} {target or '-'} {outcome} {took:.6f}" for upstream, target, outcome, took in self._ended]
        return ", ".join([f"({self._earlier} earlier)", *ended] if self._earlier else ended)

    def end(self, sent: ActiveSubrequest, upstream: str, target: str, outcome: str | int, seconds: float) -> None:
        """Note an end. `outcome`: status of the response, or the reason why there is none."""
        self.active.discard(sent)
        self._ended.append((upstream, target, outcome, seconds))

    def end_detached(self, upstream: str, target: str, outcome: str, seconds: float) -> None:
        """Note the end of a request that does not end with the exchange, and of which there may be any number: the last
        `MOST_PER_EXCHANGE` are kept.
        """
        if len(self._ended) >= MOST_PER_EXCHANGE:
            self._ended.popleft()
            self._earlier += 1
        self._ended.append((upstream, target, outcome, seconds))

    def log_of_another(self) -> "Subrequests":
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
    if type(parent.client) is Subrequest:  # `isinstance` asks the protocol
        raise ValueError("a sub-request asks nobody further")
    if isinstance(body, Relay) and body is not parent.request_body:
        raise ValueError("the body of another exchange; expected `exchange.request_body`")
    real = parent.real if isinstance(parent, ShadowExchange) else parent
    if real.state is ENDED:
        return SubrequestFailed(real.fault or Fault.CLIENT_LEFT, _OVER)
    if real is not parent and body is not None and body is parent.request_body:
        return SubrequestFailed(Fault.INTERNAL, "a filter in shadow does not get the body of the request")
    siblings: Subrequests | None = real.subrequests
    if siblings is None:
        siblings = real.subrequests = Subrequests()
    most = MOST_PER_EXCHANGE if most is None else most
    if siblings.count >= most:
        return SubrequestFailed(Fault.INTERNAL, f"an exchange may have {most} sub-requests")
    seconds = min(timeout, _time_left(parent))
    if seconds <= 0.0:
        return SubrequestFailed(Fault.UPSTREAM_TIMEOUT, "no time is left of the route's timeout")
    relay, feeder = _relay_of(body, body_length)
    if isinstance(body, Relay) and (body.sink is not None or body.kept is None):
        return SubrequestFailed(Fault.INTERNAL, "the body of the request is sent elsewhere")
    length = 0 if relay is None else relay.length
    if reported := reported_lines(parent.head, parent.peer):
        fields = [*fields]
        named = {name.lower() for name, _ in fields}
        fields += [line for line in reported if line[0] not in named]
    head = BuiltRequestHead(method, parent.authority, target, fields, length)
    sent = Subrequest(listener, real.client)
    chain: Chain = parent.listener.upstream_chains.chain_of(upstream.name)
    exchange = Exchange(head, sent, parent.listener, parent.peer, chain)
    exchange.client_ip, exchange.consumer, exchange.claims = parent.client_ip, parent.consumer, parent.claims
    exchange.answered_by = None
    exchange.trace = real.trace
    exchange.request_body = relay
    if isinstance(body, Relay) and chain.request_body_hooks:
        why = f"filters of upstream {upstream.name} read bodies, which the request's own does not pass twice"
        return SubrequestFailed(Fault.INTERNAL, why)
    siblings.count += 1
    siblings.active.add(sent)
    if isinstance(body, Relay):
        sent.borrow_body(body)
        if parent.head.expects_continue and not body.bytes and not body.ended:
            real.client.send_interim(None)
    sent.send(exchange, forward or _forward_like(parent, upstream, seconds), seconds, siblings)
    if feeder is not None:
        sent.feed_body(feeder)
    return sent


def adopt_subrequest(
    parent: Exchange,
    forward: Forward,
    listener: SubresponseListener,
    head: BuiltRequestHead,
    body: bytes,
    begun_at: float,
    target: Target | None,
    stream: UpstreamStream | None,
    record: AttemptRecord | None,
) -> tuple[Subrequest, Forwarding]:
    """Continue a direct sub-request (`direct_subrequest`), which its upstream has counted already, with an exchange.

    `target`, `stream`, `record`: of its attempt, as in `Forward.resumed`.
    """
    upstream, siblings = forward.upstream, parent.subrequests
    sent = Subrequest(listener, parent.client)
    chain = parent.listener.upstream_chains.chain_of(upstream.name)
    exchange = Exchange(head, sent, parent.listener, parent.peer, chain)
    exchange.client_ip, exchange.consumer, exchange.claims = parent.client_ip, parent.consumer, parent.claims
    exchange.answered_by = None
    exchange.begun_at = begun_at
    exchange.request_body = whole_body(body, len(body)) if body else None
    exchange.target = "" if target is None else target.label
    siblings.active.add(sent)
    sent.adopt(exchange, forward, siblings)
    forwarding = forward.resumed(exchange, target, stream, record)
    if stream is not None:
        exchange.state, exchange.sent = FORWARDING, True
        assert forwarding.current is not None
        stream.hand_over(forwarding.current)
    return sent, forwarding


def log_raised(exchange: "Exchange | RaisedIn") -> None:
    """Log the exception of a listener to a sub-request, once in a while for each upstream."""
    logged_at = NO_FILTERS.logged_at = NO_FILTERS.logged_at or {}
    if exchange.begun_at >= logged_at.get(exchange.upstream, -inf) + LOG_EVERY_S:
        logged_at[exchange.upstream] = exchange.begun_at
        log_event(OperatorEvent.FILTER_RAISED, "a listener to a sub-request to %s", exchange.upstream, error=True)


class RaisedIn(Protocol):
    """Sub-request without an exchange, for `log_raised`."""

    begun_at: float
    upstream: str


def _relay_of(
    body: bytes | AsyncIterable[bytes] | Relay | None, length: int | None
) -> tuple[Relay | None, BodyFeeder | None]:
    if body is None or isinstance(body, Relay):
        return body, None
    if isinstance(body, bytes):
        return whole_body(body, len(body)) if body else None, None
    if not isinstance(body, AsyncIterable):
        raise TypeError(f"the body is a {type(body).__name__}; expected bytes or an async iterator of bytes")
    feeder = BodyFeeder(body, length)
    return feeder.relay, feeder


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
        return Forward(upstream, None, None, (), timeout)
    via = not action.marks
    return Forward(
        *(upstream, None, action.forwarded, (), timeout, action.deadline_name),
        via=via,
        writes_forwarded=action.writes_forwarded,
    )


async def subrequest(
    parent: Exchange,
    upstream: Upstream,
    *,
    target: bytes,
    method: bytes = b"GET",
    fields: Iterable[tuple[bytes, bytes]] = (),
    body: bytes | AsyncIterable[bytes] | Relay | None = b"",
    body_length: int | None = None,
    timeout: float = TIMEOUT,
    most: int = MOST,
) -> Subresponse | SubrequestFailed:
    """Send a request as `send_subrequest` does, and return the whole response. `most`: maximum bytes of its body; a
    longer one fails.
    """
    whole = _WholeResponse(most)
    sent = send_subrequest(
        parent,
        upstream,
        whole,
        target=target,
        method=method,
        fields=fields,
        body=body,
        body_length=body_length,
        timeout=timeout,
    )
    if isinstance(sent, SubrequestFailed):
        return sent
    sent.on_abandoned = whole.abandon
    try:
        return await whole.result
    finally:
        sent.cancel()
        sent.on_abandoned = None  # avoids a reference cycle


@final
class _WholeResponse:
    """Listener that collects the response until it is complete."""

    __slots__ = ("_body", "_head", "_most", "result")

    def __init__(self, most: int) -> None:
        self._most = most
        self._head: ResponseHead | None = None
        self._body = bytearray()
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Subresponse | SubrequestFailed] = loop.create_future()

    def _settle(self, result: Subresponse | SubrequestFailed) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def on_response(self, head: ResponseHead) -> None:
        self._head = head

    def on_data(self, payload: bytes) -> None:
        self._body += payload
        if len(self._body) > self._most:  # the awaiting task cancels it in the next loop iteration
            self._settle(SubrequestFailed(Fault.RESPONSE_TOO_LARGE, f"the response has more than {self._most} bytes"))

    def on_end(self, trailers: Trailers) -> None:
        head = self._head
        assert head is not None
        fields = Fields(line for line in head.fields() if line[0].lower() not in HOP_BY_HOP)
        self._settle(Subresponse(head.status, fields, bytes(self._body), trailers))

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._settle(failure)

    def abandon(self) -> None:
        """Handle the end of the parent exchange."""
        self._settle(SubrequestFailed(Fault.CLIENT_LEFT, _OVER))
