"""Sub-requests: what a filter asks of an upstream of the configuration on behalf of the exchange that it looks at.

A sub-request is an exchange of its own whose client is the filter: the upstream's balancing, health, retries, breakers
and limits all hold, and its attempts are told of as any. Rule 1: it has no filters, so that it asks nobody further.
Rule 2: it is over when its parent is, or when its time is up, whatever comes first. Rule 3: one that was begun is told
once how it ended, unless it is cancelled. Rule 4: an exchange has `MOST_PER_EXCHANGE` of them at most.
"""

import asyncio
from collections.abc import Callable, Iterable
from math import inf
from typing import Final, NamedTuple, Protocol, TypeVar, final

from fastgw.errors import Fault
from fastgw.exchange import Chain, ClientSide, Exchange, Relay, Response, Trailers, begin
from fastgw.exchange.chain import TOLD_EVERY_S
from fastgw.exchange.states import ENDED
from fastgw.http.built_request import BuiltRequestHead
from fastgw.http.field_names import HOP_BY_HOP
from fastgw.http.fields import Fields
from fastgw.http.messages import ResponseHead
from fastgw.observe.metrics.families import FilterEvent
from fastgw.operator_events import OperatorEvent, say
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.upstream import Upstream

MOST_PER_EXCHANGE: Final = 32
MOST: Final = 1024 * 1024
"""Bytes of a response body that is taken as a whole, unless who asks says otherwise."""
TIMEOUT: Final = 5.0
"""Seconds for the whole, unless who asks says otherwise."""
NO_FILTERS: Final = Chain(())
T = TypeVar("T")


class Subresponse(NamedTuple):
    """A whole response, whatever its status."""

    status: int
    fields: Fields
    """Header fields that are not for the connection alone."""
    body: bytes
    trailers: Trailers = ()


class SubrequestFailed(NamedTuple):
    """Failure of a sub-request: no response, or not all of one. `why`: for the log; may be empty."""

    fault: Fault
    why: str


class SubresponseListener(Protocol):
    """Listener to the response to one sub-request, as it comes. Where it raises the sub-request is cancelled."""

    def on_response(self, head: ResponseHead) -> None: ...
    def on_data(self, payload: bytes) -> None: ...

    def on_end(self, trailers: Trailers) -> None:
        """All of it has come."""

    def on_failure(self, failure: SubrequestFailed) -> None:
        """No response comes, or it broke off."""


@final
class Subrequest(ClientSide):
    """Client's side of an exchange that the gateway makes itself."""

    fd = body_goes_to = -1

    def __init__(self, listener: SubresponseListener) -> None:
        self._listener: SubresponseListener | None = listener
        self._siblings: _Subrequests | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self.exchange: Exchange

    def __repr__(self) -> str:
        return f"<Subrequest of {self.exchange!r}>"

    def send(self, exchange: Exchange, action: Forward, timeout: float, siblings: "_Subrequests | None" = None) -> None:
        """Begin, by a way to an upstream. `timeout`: seconds for the whole; inf: the upstream's alone count."""
        self.exchange = exchange
        self._siblings = siblings
        if timeout != inf:
            self._timer = action.upstream.worker_loop.loop.call_later(timeout, self._late, timeout)
        action(exchange)

    @property
    def over(self) -> bool:
        return self._listener is None

    def pause(self) -> None:
        """Take no more of the response for now."""
        self._paused = True
        if self.exchange.service is not None:
            self.exchange.service.pause()

    def resume(self) -> None:
        self._paused = False
        if self.exchange.service is not None:
            self.exchange.service.resume()

    def cancel(self) -> None:
        """Give it up: nothing more is told. Does nothing when it is over."""
        if self._end() is not None:
            self.exchange.cancel(Fault.CLIENT_LEFT)
            self.exchange.finish()

    def _late(self, timeout: float) -> None:
        self.exchange.fail(Fault.UPSTREAM_TIMEOUT, why=f"the sub-request was not done within {timeout:g} s")

    def _end(self) -> SubresponseListener | None:
        listener, self._listener = self._listener, None
        if listener is not None:
            if self._timer is not None:
                self._timer.cancel()
            if self._siblings is not None:
                self._siblings.active.discard(self)
        return listener

    def _fail(self, fault: Fault) -> None:
        listener = self._end()
        if listener is not None:
            exchange = self.exchange
            if exchange.state is not ENDED:
                exchange.finish()
            self._tell(listener.on_failure, SubrequestFailed(fault, exchange.why))

    def _tell(self, listen: Callable[[T], None], what: T) -> None:
        try:
            listen(what)
        except Exception:  # the edge of a filter: whose connection it is would not know what to do about it
            exchange = self.exchange
            told_at = NO_FILTERS.told_at = NO_FILTERS.told_at or {}
            if exchange.begun_at >= told_at.get(exchange.upstream, -inf) + TOLD_EVERY_S:
                told_at[exchange.upstream] = exchange.begun_at
                say(OperatorEvent.FILTER_RAISED, "a listener to a sub-request to %s", exchange.upstream, error=True)
            self.cancel()

    # what the exchange tells (`ClientSide`)

    def inform(self, head: ResponseHead | None) -> None: ...

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        listener = self._listener
        if listener is None:
            return
        if response.head is None:  # of our own: what it says is said by the fault
            self._fail(self.exchange.fault or Fault.INTERNAL)
            return
        self._tell(listener.on_response, response.head)
        if payload:
            self.feed(payload)
        if ended:
            self.end(())
        elif self._paused and self.exchange.service is not None:
            self.exchange.service.pause()

    def feed(self, payload: bytes) -> None:
        if self._listener is not None:
            self._tell(self._listener.on_data, payload)

    def end(self, trailers: Trailers) -> None:
        listener = self._end()
        if listener is not None:
            self.exchange.finish()
            self._tell(listener.on_end, trailers)

    def abort(self, fault: Fault) -> None:
        self._fail(fault)

    def tunnel(self, early: bytes, timeout: float) -> None:
        self.exchange.break_off()
        self._fail(Fault.UPGRADE_UNEXPECTED)

    def pause_tunnel(self) -> None: ...
    def resume_tunnel(self) -> None: ...
    def count_filter(self, instance: str, event: FilterEvent) -> None: ...

    def filter_timeout(self) -> float:
        return 0.0  # it meets none


@final
class _Subrequests:
    """Sub-requests of one exchange."""

    __slots__ = ("active", "count")

    def __init__(self) -> None:
        self.active: set[Subrequest] = set()
        self.count = 0

    def cancel(self) -> None:
        for each in tuple(self.active):
            each.cancel()


def send_subrequest(
    parent: Exchange,
    upstream: Upstream,
    listener: SubresponseListener,
    *,
    target: bytes,
    method: bytes = b"GET",
    fields: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    timeout: float = TIMEOUT,
) -> Subrequest | SubrequestFailed:
    """Ask an upstream (`Services.upstreams`); the listener is told what comes, perhaps before this returns.

    `target`: path and query. `timeout`: seconds for everything; no more than the parent's filters have. A failure that
    is returned is told to nobody. Raises `ValueError` for what no request may have, or for a parent that is a
    sub-request itself, and `Malformed`, which is one, for a target or method that cannot be sent.
    """
    if isinstance(parent.client, Subrequest):
        raise ValueError("a sub-request asks nobody further")
    if parent.state is ENDED:
        return SubrequestFailed(parent.fault or Fault.CLIENT_LEFT, "the exchange is over")
    siblings = parent.subrequests
    if siblings is None:
        siblings = parent.subrequests = _Subrequests()
    if siblings.count >= MOST_PER_EXCHANGE:
        return SubrequestFailed(Fault.INTERNAL, f"an exchange may have {MOST_PER_EXCHANGE} sub-requests")
    seconds = min(timeout, parent.client.filter_timeout())
    head = BuiltRequestHead(method, parent.authority or b"localhost", target, fields, len(body))
    sent = Subrequest(listener)
    exchange = begin(head, sent, parent.listener, parent.peer, NO_FILTERS)
    exchange.client_ip, exchange.consumer, exchange.claims = parent.client_ip, parent.consumer, parent.claims
    exchange.answered_by = None
    if body:
        exchange.request_body = Relay.whole(body, len(body))
    siblings.count += 1
    siblings.active.add(sent)
    sent.send(exchange, Forward(upstream, None, None, (), seconds), seconds, siblings)
    return sent


async def subrequest(
    parent: Exchange,
    upstream: Upstream,
    *,
    target: bytes,
    method: bytes = b"GET",
    fields: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    timeout: float = TIMEOUT,
    most: int = MOST,
) -> Subresponse | SubrequestFailed:
    """Ask as `send_subrequest` does, and return the whole response. `most`: bytes of its body; a longer one fails."""
    whole = _WholeResponse(most)
    sent = send_subrequest(
        parent, upstream, whole, target=target, method=method, fields=fields, body=body, timeout=timeout
    )
    if isinstance(sent, SubrequestFailed):
        return sent
    whole.sent = sent
    try:
        return await whole.result
    finally:
        sent.cancel()


@final
class _WholeResponse:
    """Listener that keeps the response until it is whole."""

    __slots__ = ("_body", "_head", "_most", "result", "sent")

    def __init__(self, most: int) -> None:
        self._most = most
        self._head: ResponseHead | None = None
        self._body = bytearray()
        self.sent: Subrequest | None = None
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Subresponse | SubrequestFailed] = loop.create_future()

    def _settle(self, result: Subresponse | SubrequestFailed) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def on_response(self, head: ResponseHead) -> None:
        self._head = head

    def on_data(self, payload: bytes) -> None:
        if self.result.done():
            return
        self._body += payload
        if len(self._body) > self._most:
            self._settle(SubrequestFailed(Fault.RESPONSE_TOO_LARGE, f"the response has more than {self._most} bytes"))
            if self.sent is not None:
                self.sent.cancel()

    def on_end(self, trailers: Trailers) -> None:
        head = self._head
        assert head is not None
        fields = Fields(line for line in head.fields() if line[0].lower() not in HOP_BY_HOP)
        self._settle(Subresponse(head.status, fields, bytes(self._body), trailers))

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._settle(failure)
