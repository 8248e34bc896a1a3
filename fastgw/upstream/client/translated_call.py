"""Translated call: the request of an exchange as its upstream gets it, in a protocol that the client does not speak.

A filter with a `translate` hook takes an exchange over once all filters have let it pass, and sends the call
(`DetachedCall`), because its method, path, headers and bodies differ. Rule 1: log and metrics have the client's
exchange, with target, retries and time of the call. Rule 2: the call ends with the client's exchange. Rule 3: a fault
of the gateway ends the client's exchange; the listener gets what an upstream has sent.
"""

from typing import Protocol, final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Relay, Reply, Response, Trailers
from fastgw.exchange.states import ANSWERING
from fastgw.http.messages import RequestHead, ResponseHead
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.client.detached_call import DetachedCall
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
class TranslatedCall:
    """Service side of the client's exchange, and listener to its call."""

    def __init__(self, exchange: Exchange, forward: Forward, listener: CallListener) -> None:
        """`forward`: forward action of the route, or `unrewritten` if the route's path rewriting does not apply to the
        call.
        """
        self._exchange = exchange
        self._listener: CallListener | None = listener
        self._call = DetachedCall(exchange, forward, self)
        self._paused = self._on_hold = False
        exchange.service = self
        exchange.upstream = forward.upstream.name

    def __repr__(self) -> str:
        return f"<TranslatedCall {self._call!r}>"

    def send(self, head: RequestHead, body: Relay | None) -> None:
        """Send the request. `head`: with the end-to-end headers of the client's request. `body`: the call's own."""
        self._call.send_translated(self._exchange, head, body)

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
        if self._paused or self._on_hold:
            self._call.pause()
        else:
            self._call.resume()

    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        """Cancel the call, because its response is not needed. Does nothing after its end."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._call.cancel(self._exchange.fault or Fault.CLIENT_LEFT)
            self._call.report(self._exchange, with_fault=False)
            listener.on_cancel()

    def _end(self) -> CallListener | None:
        """End the service. Returns the listener to call; None: it had ended before."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._call.report(self._exchange, with_fault=False)
            self._exchange.service = None
        return listener

    # calls of the call (`DetachedListener`)

    def on_interim(self, head: ResponseHead) -> None: ...

    def on_response(self, response: Response, payload: bytes, ended: bool) -> None:
        self._call.report(self._exchange, with_fault=False)
        if self._listener is not None:
            self._listener.on_response(response)
        if payload:
            self.on_data(payload)
        if ended:
            self.on_end(())

    def on_data(self, payload: bytes) -> None:
        if self._listener is not None:
            self._listener.on_data(payload)

    def on_end(self, trailers: Trailers) -> None:
        listener = self._end()
        if listener is not None:
            listener.on_end(trailers)

    def on_failure(self, reply: Reply, fault: Fault, why: str) -> None:
        exchange, listener = self._exchange, self._end()
        if exchange.state is ANSWERING:
            exchange.fault, exchange.why = exchange.fault or fault, exchange.why or why
            if listener is not None and self._is_ended_by(listener, fault):
                return
        if listener is not None:
            listener.on_cancel()
        exchange.fail_with(reply, fault, why)

    def _is_ended_by(self, listener: CallListener, fault: Fault) -> bool:
        try:
            return fault is not Fault.INTERNAL and listener.on_abort(fault)
        except Exception:  # the edge of a filter: the connection's owner could not handle its exception
            log_event(OperatorEvent.FILTER_RAISED, "a listener to a call to %s", self._exchange.upstream, error=True)
            return False
