"""Tap: records one request without changing it, on its way through the gateway.

It stands in three places: as the trace of the exchange, which all attempts and sub-requests share; between the exchange
and its client; and between each stream and its attempt, as the listener to the response. Rule 1: everything is passed
on at once and unchanged, and no more than the limit of a body is kept. Rule 2: the record is complete when the exchange
ends; what comes later (copies of a mirror, refreshes of a cache) is not part of it. Rule 3: the references to the
exchange end with it.
"""

from collections.abc import Callable
from contextlib import suppress
from time import monotonic, time
from typing import Any, Final, Protocol, final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Response, Trailers
from fastgw.exchange.client_wrapper import ClientWrapper
from fastgw.http.field_names import HOP_BY_HOP
from fastgw.http.http1 import serializer
from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import find_head_end, parse_request
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead, ResponseHead
from fastgw.jose import claim_json
from fastgw.observe.access_log.finished_exchange import first_byte_at
from fastgw.observe.tracing.trace import MOST_ATTEMPTS, EndedAttempt, EndedWait
from fastgw.observe.tracing.tracer import Trace
from fastgw.recording.records import RecordedBody, RecordedCall, RecordedIdentity, RecordedRequest
from fastgw.recording.redaction import RecordRedaction, TooLongToMask
from fastgw.upstream.connections.stream import ResponseListener, UpstreamStream

MOST_CALLS: Final = 64
"""Maximum number of attempts and sub-requests that are recorded of a request."""


class _Body:
    """Beginning of a body, up to the limit."""

    __slots__ = ("_most", "is_over", "length", "pieces", "size")

    def __init__(self, most: int) -> None:
        self._most = most
        self.pieces: list[bytes] = []
        self.size = self.length = 0
        self.is_over = False

    def add(self, payload: bytes) -> None:
        self.length += len(payload)
        if self.size < self._most and payload:
            piece = bytes(payload[: self._most - self.size])
            self.pieces.append(piece)
            self.size += len(piece)

    def recorded(self) -> RecordedBody:
        return RecordedBody(b"".join(self.pieces), self.length, self.length > self.size or not self.is_over)


@final
class _Call:
    """One attempt at a target."""

    __slots__ = ("also", "begun_at", "call", "request_body", "response_body")

    def __init__(self, call: RecordedCall, also: frozenset[bytes], most: int) -> None:
        self.call, self.also = call, also
        self.request_body, self.response_body = _Body(most), _Body(most)
        self.begun_at = monotonic()

    def finished(self) -> RecordedCall:
        call = self.call
        call.request_body, call.response_body = self.request_body.recorded(), self.response_body.recorded()
        call.is_over = self.response_body.is_over
        return call


class TracedRecord(Protocol):
    """Record of an attempt (`AttemptRecord`)."""

    exchange: Any

    @property
    def upstream(self) -> str: ...


Finished = Callable[[RecordedRequest], None]
"""Takes a record once its request has ended."""


@final
class RecordedTrace:
    """Trace of a request that is recorded, in place of its own trace, which goes on unchanged."""

    __slots__ = ("_calls", "_finished", "_left", "_most", "_redaction", "attempts", "exchange", "inner", "is_discarded",
                 "request_body", "response", "response_body", "status", "trailers", "waits")  # fmt: skip

    is_sampled: Final = True  # attempts have to tell of themselves

    def __init__(
        self,
        exchange: Exchange,
        most_body: int,
        redaction: RecordRedaction,
        finished: Finished,
        left: Callable[[], None],
    ) -> None:
        """`left`: called when the exchange is left, recorded or not."""
        self.inner: Trace | None = exchange.trace
        self.exchange: Exchange | None = exchange
        self._most, self._redaction, self._finished, self._left = most_body, redaction, finished, left
        self._calls: list[_Call] = []
        self.attempts: list[EndedAttempt] = [] if self.inner is None else self.inner.attempts
        self.waits: list[EndedWait] = [] if self.inner is None else self.inner.waits
        self.request_body = _Body(most_body)
        self.response_body = _Body(most_body)
        self.response = b""
        self.status = 0
        self.trailers: Trailers = ()
        self.is_discarded = False  # it is no request with one response
        exchange.trace = self  # type: ignore[assignment]  # it stands in for a trace
        client = RecordedClient(self, exchange)
        exchange.client = exchange.response_sink = client

    def __repr__(self) -> str:
        return f"<RecordedTrace calls={len(self._calls)} of {self.exchange!r}>"

    # interface of a trace

    @property
    def trace_id(self) -> bytes:
        return b"" if self.inner is None else self.inner.trace_id

    @property
    def span_id(self) -> bytes:
        return b"" if self.inner is None else self.inner.span_id

    def new_span_id(self) -> bytes:
        return (b"" if self.inner is None else self.inner.new_span_id()) or b"0" * 16

    def add_attempt(self, attempt: EndedAttempt) -> None:
        inner = self.inner
        if inner is not None:
            inner.add_attempt(attempt if inner.is_sampled else attempt._replace(span_id=b""))
        elif len(self.attempts) < MOST_ATTEMPTS:
            self.attempts.append(attempt)

    def rewrite(self, drop: frozenset[bytes], added: bytes, span_id: bytes = b"") -> tuple[frozenset[bytes], bytes]:
        inner = self.inner
        if inner is None:
            return drop, added
        return inner.rewrite(drop, added, span_id if inner.is_sampled else b"")

    @property
    def response_line(self) -> bytes:
        return b"" if self.inner is None else self.inner.response_line

    # attempts

    def tap(
        self, listener: ResponseListener, stream: UpstreamStream, record: TracedRecord, request: bytes, whole: bool
    ) -> "TappedListener | None":
        """Return the listener to the response for an attempt, which sends `request`: the head, and the first part of
        the body, or the `whole` of it. None: its request has ended, or no exchange waits for the response.
        """
        exchange: Exchange = record.exchange
        if self.exchange is None or is_copy(exchange) or len(self._calls) >= MOST_CALLS:
            return None
        end = find_head_end(request)
        call = RecordedCall(record.upstream, stream.target.label, request[:end], RecordedBody())
        kept = _Call(call, _private_names(exchange), self._most)
        self._calls.append(kept)
        kept.request_body.add(_unframed(request, end) if stream.frames_bodies else request[end:])
        kept.request_body.is_over = whole
        return TappedListener(listener, kept)

    # the exchange

    def discard(self) -> None:
        """Record nothing of the request."""
        self.is_discarded = True

    def detach(self) -> Exchange | None:
        """Leave the exchange as it would be without the tap. None: it was left before."""
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return None
        client = exchange.client
        if type(client) is RecordedClient:
            if exchange.response_sink is client:
                exchange.response_sink = client.inner
            exchange.client = client.inner
        exchange.trace = self.inner
        self._left()
        return exchange

    def finish(self) -> None:
        """Complete the record: the exchange has ended."""
        exchange = self.detach()
        if exchange is not None and not self.is_discarded:
            with suppress(TooLongToMask):  # such a request is not recorded
                self._finished(self._record(exchange))

    def _record(self, exchange: Exchange) -> RecordedRequest:
        head, peer, route, found = exchange.head, exchange.peer, exchange.route, set[bytes]()
        masked = self._redaction.head
        body, taken = exchange.request_body, self.request_body
        if body is not None and not taken.length and body.kept:
            taken.add(b"".join(body.kept))  # answered before a filter could see it
        taken.is_over = body is None or (body.ended and taken.length == body.bytes)
        calls = []
        for each in self._calls_in_order():
            call = each.finished()
            call.request = masked(call.request, found, each.also)
            call.response = masked(call.response, found)
            call.trailers = self._redaction.trailers(call.trailers, found)
            calls.append(call)
        answered_by = exchange.answered_by
        by = exchange.chain.name_of(answered_by) if answered_by is not None else ""
        record = RecordedRequest(
            time(),
            monotonic() - first_byte_at(exchange),
            exchange.listener.name,
            exchange.scheme,
            peer.ip,
            peer.port,
            peer.server_port,
            peer.trusted,
            exchange.client_ip,
            head.version,
            masked(_received_head(head), found),
            self.request_body.recorded(),
            () if body is None else self._redaction.trailers(body.trailers, found),
            _identity_of(exchange),
            "" if route is None else route.name,
            self.status,
            masked(self.response, found),
            self.response_body.recorded(),
            self._redaction.trailers(self.trailers, found),
            "" if exchange.fault is None else exchange.fault.label,
            exchange.why,
            "" if by == "?" else by,
            exchange.shadowed,
            exchange.cache_result,
            tuple(calls),
            peer.sender,
        )
        self._redaction.request(record, found)
        return record

    def _calls_in_order(self) -> list[_Call]:
        """Return the attempts, with those that have got no connection."""
        calls = self._calls
        for each in self.attempts:
            if each.upstream and not each.connected_at and each.fault and len(calls) < MOST_CALLS:
                unsent = RecordedCall(each.upstream, each.target, b"", RecordedBody(), fault=each.fault)
                calls.append(_Call(unsent, frozenset(), 0))
                calls[-1].begun_at = each.begun_at
        return sorted(calls, key=lambda call: call.begun_at)


def is_copy(exchange: Exchange) -> bool:
    """Whether it is the copy of a request that a mirror sends."""
    return bool(getattr(exchange.client, "is_copy", False))


def _received_head(head: RequestHead) -> bytes:
    version = b"1.0" if head.version == 10 else b"1.1"
    return b"%b %b HTTP/%b\r\n%b\r\n" % (head.method, head.request_target, version, head.received_fields().render())


def _identity_of(exchange: Exchange) -> RecordedIdentity:
    consumer, claims = exchange.consumer, exchange.claims
    try:
        encoded = claim_json(dict(claims)) if claims else b""
    except (TypeError, ValueError):
        encoded = b""
    return RecordedIdentity(
        "" if consumer is None else consumer.name,
        () if consumer is None else tuple(sorted(consumer.groups)),
        encoded,
        consumer is not None or bool(claims) or exchange.is_authenticated,
    )


def _private_names(exchange: Exchange) -> frozenset[bytes]:
    """Return the names of the headers that filters have added for the upstream of the route only: credentials."""
    others = exchange.for_others
    if others is None:
        return frozenset()
    added = exchange.request_added.removeprefix(others[0])
    return frozenset(line.partition(b":")[0].strip().lower() for line in added.split(b"\r\n") if line)


def _unframed(request: bytes, end: int) -> bytes:
    """Return the first part of the body behind a head that ends at `end`."""
    rest = request[end:]
    if not rest:
        return b""
    try:
        return body_reader(parse_request(request[:end])).feed(rest)
    except Malformed:
        return rest


def response_head(exchange: Exchange, response: Response) -> bytes:
    """Return the head of a response as the client gets it, without framing and `Date` of the gateway."""
    head, dropped, shown = response.head, response.dropped, exchange.id_shown
    if head is not None:
        return serializer.response(head, response.status, dropped, response.added, b"", -1, None, b"", shown)
    lines = response.added
    if shown:
        lines += serializer.id_line(shown)
        dropped |= serializer.REQUEST_IDS
    block = serializer.own_lines(response.status, response.headers, dropped)
    return b"%b%b%b\r\n" % (serializer.status_line(response.status), block, lines)


@final
class RecordedClient(ClientWrapper):
    """Client side of an exchange that is recorded."""

    __slots__ = ("_exchange", "_trace")

    def __init__(self, trace: RecordedTrace, exchange: Exchange) -> None:
        super().__init__(exchange.client)
        self._trace, self._exchange = trace, exchange

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        trace, exchange = self._trace, self._exchange
        trace.status, trace.response = response.status, response_head(exchange, response)
        head = response.head
        if exchange.method != b"HEAD" and (head is None or head.has_body):
            trace.response_body.add(payload)
        trace.response_body.is_over = ended
        self.inner.answer(response, payload, ended)

    def feed(self, payload: bytes) -> None:
        self._trace.response_body.add(payload)
        self.inner.feed(payload)

    def end(self, trailers: Trailers) -> None:
        self._trace.response_body.is_over, self._trace.trailers = True, trailers
        self.inner.end(trailers)

    def tunnel(self, early: bytes, timeout: float) -> None:
        self._trace.discard()
        self.inner.tunnel(early, timeout)


@final
class TappedListener(ResponseListener):
    """Listener to the response of an attempt that is recorded. `inner`: the listener itself, first the attempt."""

    __slots__ = ("_kept", "inner")

    def __init__(self, inner: Any, kept: _Call) -> None:
        self.inner, self._kept = inner, kept

    def add_request_body(self, payload: bytes) -> None:
        """Record a further piece of the request's body."""
        self._kept.request_body.add(payload)

    def end_request(self) -> None:
        self._kept.request_body.is_over = True

    def on_interim(self, head: ResponseHead) -> None:
        self.inner.on_interim(head)

    def on_head(self, head: ResponseHead, payload: bytes | None, ended: bool) -> None:
        kept = self._kept
        call = kept.call
        call.status, call.seconds = head.status, monotonic() - kept.begun_at
        call.response = b"%b%b\r\n" % (serializer.status_line(head.status), head.fields().render(HOP_BY_HOP, ()))
        kept.response_body.add((head.payload or b"") if payload is None else payload)
        kept.response_body.is_over = ended
        self.inner.on_head(head, payload, ended)

    def on_data(self, payload: bytes) -> None:
        self._kept.response_body.add(payload)
        self.inner.on_data(payload)

    def on_end(self, trailers: Trailers) -> None:
        self._kept.response_body.is_over, self._kept.call.trailers = True, trailers
        self.inner.on_end(trailers)

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        self._kept.call.fault = fault.label
        self.inner.on_failure(fault, silent, why)

    def on_switch(self, head: ResponseHead, early: bytes) -> None:
        self.inner.on_switch(head, early)

    def on_tunnel_data(self, chunk: bytes) -> None:
        self.inner.on_tunnel_data(chunk)

    def on_tunnel_end(self) -> None:
        self.inner.on_tunnel_end()

    def on_tunnel_idle(self) -> None:
        self.inner.on_tunnel_idle()
