"""A composed exchange with `output: no-op`: it gets the response of its only part as it arrives.

Rule 1: no body is held: a client that does not read stops the part, and a part that does not read stops the client.
Rule 2: `timeout` counts until the response head; after that the timeouts of the upstream apply.
Rule 3: the head of the response is one for the method of the client, whatever the part was requested with: filters, a
cache and the client's side see from it whether there is a body.
"""

from typing import Final, final

from fastgw.composition.part import CompiledPart
from fastgw.composition.plan import CompositionPlan
from fastgw.composition.templates import MissingValue, RequestValues
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Relay, Response, Trailers, problem
from fastgw.exchange.reply import NO_CONTENT
from fastgw.http.field_names import DIGESTS
from fastgw.http.fields import Fields
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import parse_response, read_http2_response
from fastgw.http.messages import ResponseHead
from fastgw.upstream.client.response_action import is_for_cache
from fastgw.upstream.client.subrequest import SubrequestFailed
from fastgw.upstream.client.subrequest_service import SubrequestService

_SAFE: Final = (b"GET", b"HEAD")
_OF_THE_BODY: Final = DIGESTS | {b"content-encoding"}
"""Headers that would be wrong with an empty body in place of the one that they describe."""
_MOST_FIELDS: Final = 10_000  # they were within the limit of the upstream


@final
class PassThrough(SubrequestService):
    """Service side of the exchange, and listener to the response of the part."""

    __slots__ = ("_action", "_head")

    def __init__(self, action: CompositionPlan, exchange: Exchange) -> None:
        super().__init__(exchange)
        self._action = action
        self._head: ResponseHead | None = None  # of a response without a body for the client, until its end

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
            target, lines, payload = part.request(RequestValues(exchange), b"")
        except MissingValue as missing:
            self._fail(SubrequestFailed(Fault.COMPOSITION_FAILED, str(missing)))
            return
        body: bytes | Relay | None = exchange.request_body if self._action.takes_body else payload
        is_head = exchange.method == b"HEAD" and part.method in _SAFE
        self._send(
            exchange,
            self,
            part.forward,
            target=target,
            method=b"HEAD" if is_head else part.method,
            fields=Fields.parse(lines, 0),
            body=body,
            timeout=self._action.timeout,
            is_streamed=True,
        )

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

    def cancel(self) -> None:
        """End it: the response is not needed."""
        self._exchange = None
        self._stop_timer()
        self._cancel_sent()

    # calls of the sub-request

    def on_response(self, head: ResponseHead) -> None:
        self._stop_timer()
        exchange = self._exchange
        if exchange is None:
            return
        exchange.keep_no_body()
        exchange.response_bytes = 0
        head = self._head_for(exchange.method, head)
        if head.has_body:
            exchange.respond(self._response(exchange, head), b"", False)
        else:
            self._head = head

    def _head_for(self, method: bytes, head: ResponseHead) -> ResponseHead:
        """Return the head of the response to a client with this method."""
        if method == b"HEAD":
            return _remade(head, method, head.body_length) if head.has_body else head
        if self._part.method == b"HEAD" and head.status not in NO_CONTENT:
            return _remade(head, method, 0, _OF_THE_BODY)
        return head

    def _response(self, exchange: Exchange, head: ResponseHead) -> Response:
        action = self._action
        if is_for_cache(exchange):  # what is not in the head is not stored
            head.fields().set(action.completed_name, b"true")
            return Response(head.status, head, b"", self._part.forward.marks)
        return Response(head.status, head, b"%b: true\r\n" % action.completed_name, action.replaced_names)

    def on_data(self, payload: bytes) -> None:
        exchange = self._exchange
        if exchange is not None and self._head is None:
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
                exchange.respond(self._response(exchange, self._head), b"", True)

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._sent = None
        self._fail(failure)


def _remade(
    head: ResponseHead, method: bytes, length: int | None, dropped: frozenset[bytes] = frozenset()
) -> ResponseHead:
    """Return a head as that of the response to another method. `length`: that it declares; None: none."""
    lines = serializer.end_to_end(head, dropped)
    if length is not None:
        lines += b"Content-Length: %d\r\n" % length
    raw = b"%b%b\r\n" % (serializer.status_line(head.status, head.reason), lines)
    if head.version == 20:
        return read_http2_response(raw, len(raw), method, _MOST_FIELDS)
    return parse_response(raw, method, _MOST_FIELDS)
