"""Calls: requests that a filter sends by the forward action of a route, on behalf of an exchange that it takes over.

A filter with a `translate` hook sends them: balancing, health checks, retries, deadlines and breakers apply as usual. A
call is an exchange of its own, whose client is the filter. It has the values of the exchange that variables stand for,
because the path of a route and the hooks that sign or renew credentials may contain them; the caller adds what it
sends: body, headers and query. Rule 1: the response is passed to a listener as the upstream sent it; of the filters of
the route only the `sign` and `renew` hooks run. Rule 2: the log of the exchange gets target, retries and time of the
call, as long as both last (`report`). Rule 3: the end of a call is reported once, unless it is cancelled.

A `DetachedCall` ends with its own response, and may outlive the exchange. A `TranslatedCall` is the request of the
exchange in a protocol that the client does not speak, and ends with it.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol, final

from fastgw.errors import Fault
from fastgw.exchange import CallSide, Chain, ClientSide, Exchange, Relay, Reply, Response, Route, Trailers, problem
from fastgw.exchange.action import Action
from fastgw.exchange.body_relay import whole_body
from fastgw.exchange.chain import FilterInstance
from fastgw.exchange.hooks import Hooks, TranslateHook
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.exchange.states import ANSWERING, ENDED
from fastgw.exchange.upstream_chains import NO_FILTERS
from fastgw.http.messages import RequestHead, ResponseHead
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.forwarding.forward_action import CallRecorder, Forward

if TYPE_CHECKING:
    from fastgw.upstream.client.response_action import ResponseAction

_NOBODY: Final = Nobody()


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
    """Service side of the client's exchange, and listener to its call. A fault of the gateway ends the exchange; the
    listener gets what an upstream has sent.
    """

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
            return listener.on_abort(fault)
        except Exception:  # the edge of a filter: the connection's owner could not handle its exception
            log_event(OperatorEvent.FILTER_RAISED, "a listener to a call to %s", self._exchange.upstream, error=True)
            return False


def derive_exchange(
    exchange: Exchange, head: RequestHead, client: ClientSide, chain: Chain, action: Action
) -> Exchange:
    """Return the exchange of such a request. `chain`: as of `call_chain` or `copy_chain`. `action`: sends it."""
    made = Exchange(head, client, exchange.listener, exchange.peer, chain)
    made.client_ip, made.params = exchange.client_ip, exchange.params
    made.consumer, made.claims = exchange.consumer, exchange.claims
    made.request_id, made.trace = exchange.request_id, exchange.trace
    route = exchange.route
    if route is not None:  # without its fallback, which is for the client
        made.route = Route(route.name, action, chain, (), filter_timeout=route.filter_timeout)
    made.answered_by = None
    return made


def end_call(call: Exchange) -> None:
    """End the exchange of a request that nobody waits for any more."""
    if call.state is not ENDED:
        call.finish()
    call.client = call.response_sink = _NOBODY  # avoids a reference cycle


def call_chain(chain: Chain) -> Chain:
    """Return the chain of a call: of these filters' hooks only those that sign or renew credentials."""
    made = chain.of_calls
    if made is None:
        made = chain.of_calls = _chain_of(
            (
                FilterInstance(link.use, hooks, False, link.level)
                for link in chain.links
                if (hooks := _hooks_of_calls(link.hooks)) is not None
            ),
            chain,
        )
    return made


def copy_chain(chain: Chain) -> Chain:
    """Return the chain of a copy: of these filters' hooks only those that translate copies."""
    made = chain.of_copies
    if made is None:
        made = chain.of_copies = _chain_of(
            (
                FilterInstance(link.use, Hooks(translate=TranslateHook(hook.of_copies)), False, link.level)
                for link in chain.links
                if (hook := link.hooks.translate) is not None and hook.of_copies is not None
            ),
            chain,
        )
    return made


def _hooks_of_calls(hooks: Hooks) -> Hooks | None:
    """Return the hooks of a filter that renew the credentials of calls, and sign their requests."""
    signing = hooks.translate if hooks.translate is not None and hooks.translate.signs else None
    return None if hooks.renew is None and signing is None else Hooks(renew=hooks.renew, translate=signing)


def _chain_of(links: Iterable[FilterInstance], chain: Chain) -> Chain:
    """Return a chain of these filters that finds the same maps."""
    held = tuple(links)
    return Chain(held, maps=chain.maps) if held or chain.maps else NO_FILTERS
