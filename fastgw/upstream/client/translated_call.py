"""Translated call: the request of an exchange as its upstream gets it, in a protocol that the client does not speak.

A filter with a `translate` hook takes an exchange over once all filters have let it pass, and sends the call by the
forward action of the route, so balancing, health checks, retries, deadlines and breakers apply as usual. The call is an
exchange of its own, because its method, path, headers and bodies differ: its client is the filter. Rule 1: log and
metrics have the client's exchange, with target, retries and time of the call. Rule 2: the call ends with the client's
exchange. Rule 3: a fault of the gateway ends the client's exchange; the listener gets what an upstream has sent.
Rule 4: filters have processed the client's exchange; for the call only their `sign` and `renew` hooks run.
"""

from collections.abc import Callable
from typing import Protocol, final

from fastgw.errors import Fault
from fastgw.exchange import CallSide, Exchange, Relay, Reply, Response, Trailers
from fastgw.exchange.states import ANSWERING
from fastgw.http.messages import RequestHead
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.client.derived_exchange import call_chain, derive_exchange, end_call
from fastgw.upstream.forwarding.forward_action import Forward


class CallListener(Protocol):
    """Listener to the response of a call. If it raises, the exchange is answered 500, or its response is aborted."""

    def on_response(self, response: Response) -> None:
        """Handle the head of the upstream's response (`response.head`), with the gateway's additions."""

    def on_data(self, payload: bytes) -> None: ...

    def on_end(self, trailers: Trailers) -> None:
        """Handle the end of the response."""

    def on_cancel(self) -> None:
        """Handle the end of the exchange before the end of the response."""

    def on_abort(self, fault: Fault) -> bool:
        """Handle a response that is aborted. True: the listener has ended the client's response, and the client can
        detect that it is incomplete. False: it is aborted.
        """
        return False


@final
class TranslatedCall(CallSide):
    """Service side of the client's exchange, and client side of the call."""

    def __init__(self, exchange: Exchange, forward: Forward, listener: CallListener) -> None:
        """`forward`: forward action of the route, or `unrewritten` if the route's path rewriting does not apply to the
        call.
        """
        self._exchange, self.asker = exchange, exchange.client
        self._forward = forward
        self._listener: CallListener | None = listener
        self._call: Exchange | None = None
        self._paused = self._on_hold = False
        exchange.service = self
        exchange.upstream = forward.upstream.name

    def __repr__(self) -> str:
        return f"<TranslatedCall {self._call!r}>"

    @property
    def is_copy(self) -> bool:
        """Whether it is the call of a copy (`Subrequest.is_copy`)."""
        return bool(getattr(self._exchange.client, "is_copy", False))

    def send(self, head: RequestHead, body: Relay | None) -> None:
        """Send the request. `head`: with the end-to-end headers of the client's request. `body`: the call's own."""
        exchange = self._exchange
        call = derive_exchange(exchange, head, self, call_chain(exchange.chain), self._forward)
        call.begun_at = exchange.begun_at
        call.request_added, call.request_dropped = exchange.request_added, exchange.request_dropped
        call.for_others = exchange.for_others
        call.query_sent = head.query
        call.request_body = body
        self._call = call
        self._forward.begin(call)

    # calls of the client side (`ServiceSide`)

    def pause(self) -> None:
        self._paused = True
        self._brake()

    def resume(self) -> None:
        self._paused = False
        self._brake()

    def hold_response(self, is_held: bool) -> None:
        """Pause the response for the listener, independent of the client, or resume it."""
        self._on_hold = is_held
        self._brake()

    def _brake(self) -> None:
        service = None if self._call is None else self._call.service
        if service is None:
            return
        if self._paused or self._on_hold:
            service.pause()
        else:
            service.resume()

    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        """Cancel the call, because its response is not needed. Does nothing after its end."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if self._call is not None:
            self._call.cancel(self._exchange.fault or Fault.CLIENT_LEFT)
            self._finish(self._call)
        listener.on_cancel()

    # endings

    def _end(self) -> CallListener | None:
        """End the call. Returns the listener to call; None: it had ended before."""
        listener, self._listener = self._listener, None
        if listener is not None:
            assert self._call is not None
            self._finish(self._call)
            self._exchange.service = None
        return listener

    def _finish(self, call: Exchange) -> None:
        self._report(call)
        end_call(call)

    def _report(self, call: Exchange) -> None:
        """Update the client's exchange, for the log and the fallback, with the state of the call."""
        exchange = self._exchange
        exchange.target, exchange.upstream_s, exchange.retries = call.target, call.upstream_s, call.retries
        exchange.sent, exchange.grpc_status, exchange.reset_code = call.sent, call.grpc_status, call.reset_code

    def _fail(self, reply: Reply, fault: Fault) -> None:
        listener = self._end()
        if listener is not None:
            assert self._call is not None
            listener.on_cancel()
            self._exchange.fail_with(reply, fault, self._call.why)

    def _call_listener(self, listen: Callable[[], None]) -> None:
        try:
            listen()
        except Exception:  # the edge of a filter: the connection's owner could not handle its exception
            exchange = self._exchange
            log_event(OperatorEvent.FILTER_RAISED, "a listener to a call to %s", exchange.upstream, error=True)
            exchange.fail(Fault.INTERNAL, why="a filter could not translate the response")

    # calls of the call's exchange (`ClientSide`)

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        listener, call = self._listener, self._call
        if listener is None or call is None:
            return
        self._report(call)
        if response.head is None:  # of the gateway itself
            fault = call.fault or Fault.INTERNAL
            self._fail(Reply(response.status, payload, tuple(response.headers), fault), fault)
            return
        self._call_listener(lambda: listener.on_response(response))
        if payload:
            self.feed(payload)
        if ended:
            self.end(())
        elif self._paused or self._on_hold:
            self._brake()

    def feed(self, payload: bytes) -> None:
        listener = self._listener
        if listener is not None:
            self._call_listener(lambda: listener.on_data(payload))

    def end(self, trailers: Trailers) -> None:
        listener = self._end()
        if listener is not None:
            self._call_listener(lambda: listener.on_end(trailers))

    def abort(self, fault: Fault) -> None:
        listener, call, exchange = self._end(), self._call, self._exchange
        if listener is None or call is None:
            return
        exchange.fault, exchange.why = exchange.fault or fault, exchange.why or call.why
        if exchange.state is ANSWERING and self._is_ended_by(listener, fault):
            return
        listener.on_cancel()
        exchange.fail(fault)

    def _is_ended_by(self, listener: CallListener, fault: Fault) -> bool:
        try:
            return listener.on_abort(fault)
        except Exception:  # the edge of a filter, as in `_call_listener`
            log_event(OperatorEvent.FILTER_RAISED, "a listener to a call to %s", self._exchange.upstream, error=True)
            return False

    def tunnel(self, early: bytes, timeout: float) -> None:
        if self._call is not None:
            self._call.break_off()
        self.abort(Fault.UPGRADE_UNEXPECTED)
