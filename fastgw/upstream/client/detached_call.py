"""Detached call: a request that a filter sends by the forward action of a route, and that may outlive its exchange.

A filter with a `translate` hook takes an exchange over, and sends the call: balancing, health checks, retries,
deadlines and breakers apply as usual. The call is an exchange of its own, whose client is the filter; unlike a
`translated_call` it ends with its own response, not with the exchange. Rule 1: its response is passed to a listener
as the upstream sent it; of the filters of the route only the `sign` and `renew` hooks run. Rule 2: the log of the
exchange gets its target, retries and time, as long as both last (`report`). Rule 3: its end is reported once, unless it
is cancelled.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, final

from fastgw.errors import Fault
from fastgw.exchange import CallSide, Exchange, Relay, Reply, Response, Trailers, problem
from fastgw.exchange.body_relay import whole_body
from fastgw.http.messages import RequestHead, ResponseHead
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.client.derived_exchange import call_chain, derive_exchange, end_call
from fastgw.upstream.forwarding.forward_action import CallRecorder, Forward

if TYPE_CHECKING:
    from fastgw.upstream.client.response_action import ResponseAction


class DetachedListener(Protocol):
    """Listener to the response of a call. An exception in it cancels the call and is reported by `on_failure`."""

    def on_interim(self, head: ResponseHead) -> None: ...

    def on_response(self, response: Response, payload: bytes, ended: bool) -> None:
        """Handle the head of the upstream's response (`response.head`), with the gateway's additions, and the first
        part of the body. `ended`: it is the whole body, and nothing else is called.
        """

    def on_data(self, payload: bytes) -> None: ...

    def on_end(self, trailers: Trailers) -> None:
        """Handle the end of the response."""

    def on_failure(self, reply: Reply, fault: Fault, why: str) -> None:
        """Handle a failure before the response, or of an incomplete one. `reply`: the answer to a client; `why`: for
        the log.
        """


@final
class DetachedCall(CallSide):
    """Client side of the call."""

    def __init__(
        self, exchange: Exchange, forward: "Forward | CallRecorder | ResponseAction", listener: DetachedListener
    ) -> None:
        """`exchange`: that of the client for whom it is sent."""
        self._listener: DetachedListener | None = listener
        self._forward = forward
        self.asker = exchange.client  # it counts events also after the end of its exchange
        self._paused = False
        self._call: Exchange | None = None

    def __repr__(self) -> str:
        return f"<DetachedCall {self._call!r}>"

    @property
    def is_copy(self) -> bool:
        """Whether it is sent for the copy of a request (`Subrequest.is_copy`)."""
        return bool(getattr(self.asker, "is_copy", False))

    def send(
        self,
        exchange: Exchange,
        head: RequestHead,
        query: bytes | None,
        dropped: frozenset[bytes],
        added: bytes,
        body: bytes = b"",
    ) -> None:
        """Send a request with the data of the gateway that the exchange has been given so far. See `prepare`."""
        call = self.prepare(exchange, head, query, dropped, added)
        if body:
            call.request_body = whole_body(body, len(body))
        self._forward.begin(call)

    def send_translated(self, exchange: Exchange, head: RequestHead, body: Relay | None) -> None:
        """Send a request with a path and a body of its own, and with the data of the gateway as it is."""
        call = self._derive(exchange, head)
        call.begun_at = exchange.begun_at
        call.request_added, call.request_dropped = exchange.request_added, exchange.request_dropped
        call.for_others = exchange.for_others
        call.query_sent = head.query
        call.request_body = body
        self._forward.begin(call)

    def prepare(
        self, exchange: Exchange, head: RequestHead, query: bytes | None, dropped: frozenset[bytes], added: bytes
    ) -> Exchange:
        """Return the exchange of the call, which the caller forwards.

        `query`: as in `Exchange.query_sent`. `dropped`: lower-case names of headers of `head` that are not sent,
        in addition to those of the exchange. `added`: serialized header lines.
        """
        call = self._derive(exchange, head)
        call.path = exchange.path
        call.request_added = exchange.request_added + added
        call.request_dropped = exchange.request_dropped | dropped if exchange.request_dropped else dropped
        call.query_sent = query
        others = exchange.for_others
        call.for_others = None if others is None else (others[0] + added, others[1] | dropped, query)
        return call

    def _derive(self, exchange: Exchange, head: RequestHead) -> Exchange:
        self._call = call = derive_exchange(exchange, head, self, call_chain(exchange.chain), self._forward)
        return call

    def report(self, exchange: Exchange, with_fault: bool = True) -> None:
        """Update the exchange of a client, for its log and its fallback, with the state of the call."""
        call = self._call
        if call is None:
            return
        if with_fault:
            exchange.fault, exchange.why = exchange.fault or call.fault, exchange.why or call.why
        exchange.target, exchange.upstream_s, exchange.retries = call.target, call.upstream_s, call.retries
        exchange.sent, exchange.grpc_status, exchange.reset_code = call.sent, call.grpc_status, call.reset_code
        if exchange.subrequests is None and call.subrequests is not None:
            exchange.subrequests = call.subrequests.log_of_another()  # some may go on, and outlive this exchange

    def pause(self) -> None:
        self._paused = True
        if self._call is not None and self._call.service is not None:
            self._call.service.pause()

    def resume(self) -> None:
        self._paused = False
        if self._call is not None and self._call.service is not None:
            self._call.service.resume()

    def cancel(self, fault: Fault = Fault.CLIENT_LEFT) -> None:
        """Cancel the call, because its response is not needed. Does nothing after its end."""
        listener, self._listener = self._listener, None
        if listener is not None and self._call is not None:
            self._call.cancel(fault)
            end_call(self._call)

    # endings

    def _end(self) -> DetachedListener | None:
        listener, self._listener = self._listener, None
        if listener is not None and self._call is not None:
            end_call(self._call)
        return listener

    def _fail(self, reply: Reply, fault: Fault) -> None:
        listener = self._end()
        if listener is not None and self._call is not None:
            listener.on_failure(reply, fault, self._call.why)

    def _notify(self, listener: DetachedListener, listen: Callable[[], None]) -> None:
        try:
            listen()
        except Exception:  # the edge of a filter: the connection's owner could not handle its exception
            upstream = "" if self._call is None else self._call.upstream
            log_event(OperatorEvent.FILTER_RAISED, "a listener to a call to %s", upstream, error=True)
            self.cancel()
            listener.on_failure(problem(Fault.INTERNAL), Fault.INTERNAL, "a filter could not take the response")

    # calls of the call's exchange (`ClientSide`)

    def send_interim(self, head: ResponseHead | None) -> None:
        listener = self._listener
        if listener is not None and head is not None:
            self._notify(listener, lambda: listener.on_interim(head))

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        listener, call = self._listener, self._call
        if listener is None or call is None:
            return
        if response.head is None:  # of the gateway itself
            fault = call.fault or Fault.INTERNAL
            self._fail(Reply(response.status, payload, tuple(response.headers), fault), fault)
            return
        if ended:
            self._end()
        self._notify(listener, lambda: listener.on_response(response, payload, ended))
        if self._paused and call.service is not None:
            call.service.pause()

    def feed(self, payload: bytes) -> None:
        listener = self._listener
        if listener is not None:
            self._notify(listener, lambda: listener.on_data(payload))

    def end(self, trailers: Trailers) -> None:
        listener = self._end()
        if listener is not None:
            self._notify(listener, lambda: listener.on_end(trailers))

    def abort(self, fault: Fault) -> None:
        self._fail(problem(fault), fault)

    def tunnel(self, early: bytes, timeout: float) -> None:
        if self._call is not None:
            self._call.break_off()
        self.abort(Fault.UPGRADE_UNEXPECTED)
