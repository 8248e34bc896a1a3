"""A composed exchange with `output: no-op`: it gets the response of its only part as it arrives.

Rule 1: no body is held: a client that does not read stops the part, and a part that does not read stops the client.
Rule 2: `timeout` counts until the response head; after that the timeouts of the upstream apply.
"""

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final, final

from fastgw.composition.part import CompiledPart
from fastgw.composition.templates import MissingValue, RequestValues
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Relay, Response, Trailers, problem
from fastgw.http.messages import ResponseHead
from fastgw.upstream.client.subrequest import Subrequest, SubrequestFailed, send_subrequest

if TYPE_CHECKING:
    from fastgw.composition.action import ComposeAction

_SAFE: Final = (b"GET", b"HEAD")


@final
class PassThrough:
    """Service side of the exchange, and listener to the response of the part."""

    __slots__ = ("_action", "_exchange", "_head", "_paused", "_sent", "_timer")

    def __init__(self, action: "ComposeAction", exchange: Exchange) -> None:
        self._action = action
        self._exchange: Exchange | None = exchange
        self._sent: Subrequest | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._head: ResponseHead | None = None  # of a response without a body, until its end

    def __repr__(self) -> str:
        return f"<PassThrough {self._sent!r}>"

    @property
    def _part(self) -> CompiledPart:
        return self._action.parts[0]

    def start(self) -> None:
        """Send the request of the part."""
        exchange, part = self._exchange, self._part
        assert exchange is not None
        try:
            request = part.request(RequestValues(exchange), b"")
        except MissingValue as missing:
            self._fail(SubrequestFailed(Fault.COMPOSITION_FAILED, str(missing)))
            return
        body: bytes | Relay | None = exchange.request_body if self._action.takes_body else request.body
        is_head = exchange.method == b"HEAD" and part.method in _SAFE
        loop = part.upstream.worker_loop.loop
        self._timer = loop.call_later(self._action.timeout, self._late)
        try:
            sent = send_subrequest(
                exchange,
                part.upstream,
                self,
                target=request.target,
                method=b"HEAD" if is_head else part.method,
                fields=request.fields,
                body=body,
                timeout=inf,
                forward=part.forward,
            )
        except ValueError as error:
            sent = SubrequestFailed(Fault.INTERNAL, str(error))
        if isinstance(sent, SubrequestFailed):
            self._fail(sent)
        elif self._exchange is not None:
            self._sent = sent
            if self._paused:
                sent.pause()

    def _late(self) -> None:
        self._timer = None
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.cancel()
        self._fail(SubrequestFailed(Fault.UPSTREAM_TIMEOUT, f"no response within {self._action.timeout:g} s"))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _fail(self, failure: SubrequestFailed) -> None:
        """Answer with a fault, or abort the response if it has begun."""
        self._stop_timer()
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.service = None
        why = f"part {self._part.name}: {failure.why or failure.fault.label}"
        if exchange.response is None:
            reply = problem(failure.fault, fields=((self._action.completed_name, b"false"),))
            exchange.fail_with(reply, failure.fault, why)
        else:
            exchange.fail(failure.fault, why=why)

    # calls of the exchange (`ServiceSide`)

    def pause(self) -> None:
        self._paused = True
        if self._sent is not None:
            self._sent.pause()

    def resume(self) -> None:
        self._paused = False
        if self._sent is not None:
            self._sent.resume()

    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        """End it: the response is not needed."""
        self._exchange = None
        self._stop_timer()
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.cancel()

    # calls of the sub-request

    def on_response(self, head: ResponseHead) -> None:
        self._stop_timer()
        exchange = self._exchange
        if exchange is None:
            return
        exchange.keep_no_body()
        exchange.response_bytes = 0
        if head.has_body:
            exchange.respond(self._response(head), b"", False)
        else:
            self._head = head

    def _response(self, head: ResponseHead) -> Response:
        action = self._action
        return Response(head.status, head, b"%b: true\r\n" % action.completed_name, action.replaced_names)

    def on_data(self, payload: bytes) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.response_bytes += len(payload)
            exchange.response_sink.feed(payload)

    def on_end(self, trailers: Trailers) -> None:
        self._sent = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.service = None
            if self._head is None:
                exchange.response_sink.end(trailers)
            else:
                exchange.respond(self._response(self._head), b"", True)

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._sent = None
        self._fail(failure)
