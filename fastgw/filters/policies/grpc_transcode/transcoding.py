"""Transcoding of one exchange: a request with JSON becomes a call of gRPC, and its messages become the response.

Rule 1: a call that is not streamed is sent once its message is complete and valid, and answered once its status is
known. Rule 2: a streamed response begins with its first message; a status that follows it other than OK is the last
line. Rule 3: no message is longer than `message_bytes`, of JSON or of gRPC, declared or sent. Rule 4: what is not
converted yet pauses its source.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple, final

import orjson

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Relay, Reply, Response, Trailers
from fastgw.exchange.body_relay import BodySink, whole_body
from fastgw.exchange.grpc_status import status_of
from fastgw.exchange.reply import NO_NAMES, UNKNOWN, own_response
from fastgw.exchange.states import ANSWERING
from fastgw.filters.policies.grpc_transcode.conversions import AT_ONCE, Conversions, TooManyConversions
from fastgw.filters.policies.grpc_transcode.descriptors import Api, Binding
from fastgw.filters.policies.grpc_transcode.json_input import InvalidRequest
from fastgw.filters.policies.grpc_transcode.messages import (
    UNMEASURED,
    InvalidResponse,
    JsonFormat,
    RequestReader,
    ResponseTooLarge,
    ResponseWriter,
    status_details,
)
from fastgw.http.field_names import DIGESTS, HOP_BY_HOP, NOT_IN_TRAILERS, WRITTEN_HERE
from fastgw.http.grpc.calls import TIMEOUT, is_grpc, timeout_of
from fastgw.http.grpc.compression import IDENTITY, declared_bytes, decompress, is_known
from fastgw.http.grpc.frames import COMPRESSED, FrameError, FrameTooLarge, MessageReader, frame
from fastgw.http.grpc.status import (
    DETAILS,
    MESSAGE,
    OF_UPSTREAM,
    STATUS_FIELDS,
    TO_HTTP,
    GrpcStatus,
    check_trailers,
    decode_message,
    parse_status,
)
from fastgw.http.http1 import serializer
from fastgw.http.http1.made_request import build_request
from fastgw.upstream.client.call import CallListener, TranslatedCall
from fastgw.upstream.forwarding.forward_action import Forward

JSON: Final = b"application/json"
LINES: Final = b"application/x-ndjson"
_PROBLEM: Final = b"application/problem+json"
_NOT_SENT_RAW: Final = WRITTEN_HERE | DIGESTS.union(
    b"accept accept-charset accept-encoding accept-language content-encoding content-type expect if-match "
    b"if-modified-since if-none-match if-range if-unmodified-since range trailer".split()
)
"""Headers of the client that describe the resource over HTTP, or bytes that are framed in the call, where the body is
of any type.
"""
_NOT_SENT: Final = _NOT_SENT_RAW.union(b"content-disposition content-language content-location".split())
"""Headers of the client that describe JSON, or the resource over HTTP, and not the call."""
_NOT_SHOWN_RAW: Final = HOP_BY_HOP | frozenset((b"accept-encoding", b"content-type", b"trailer"))
"""Headers of the upstream that describe its message, and not the body of any type in it."""
_NOT_SHOWN: Final = _NOT_SHOWN_RAW | DIGESTS | {b"content-encoding"}
"""Headers of the upstream that describe its message."""
_RAW_PIECE: Final = 64 * 1024
"""Maximum bytes of a body of any type in a message of a stream, which is copied on the loop."""
_GRPC: Final = b"grpc-"
_CHALLENGE: Final = (b"WWW-Authenticate", b"Bearer")
_CALL: Final = ((b"Content-Type", b"application/grpc"), (b"Grpc-Accept-Encoding", b"identity"))


class TranscodingUse(NamedTuple):
    """A use of the filter."""

    api: Api
    format: JsonFormat
    message_bytes: int


class Status(NamedTuple):
    """Status that is not OK."""

    code: GrpcStatus
    message: str
    details: bytes | None = None

    def body(self, use: TranscodingUse) -> dict[str, Any]:
        """Return it as a problem (RFC 9457), with the members of google.rpc.Status."""
        name = self.code.name.lower()
        body: dict[str, Any] = {
            "type": f"urn:fastgw:grpc:{name}",
            "title": name.replace("_", " ").capitalize(),
            "status": TO_HTTP[self.code],
            "detail": self.message,
            "code": int(self.code),
            "message": self.message,
            "details": status_details(self.details, use.format, use.api),
        }
        if not self.message:
            del body["detail"]
        return body

    def reply(self, use: TranscodingUse, fault: Fault | None) -> Reply:
        """Return it as the response of the gateway to a call."""
        fields = [(b"Content-Type", _PROBLEM), (b"Grpc-Status", b"%d" % self.code)]
        if self.code is GrpcStatus.UNAUTHENTICATED:
            fields.append(_CHALLENGE)
        return Reply(TO_HTTP[self.code], orjson.dumps(self.body(use)), fields, fault)


@final
class Transcoding(BodySink, CallListener):
    """Sink of the request's body, source of the call's body, and listener to the call."""

    __slots__ = (
        "_begun",
        "_binding",
        "_body",
        "_call",
        "_content_type",
        "_conversions",
        "_deadline",
        "_exchange",
        "_frames",
        "_held",
        "_is_held",
        "_message",
        "_over",
        "_reader",
        "_response",
        "_sent",
        "_upstream",
        "_upstream_is_full",
        "_use",
        "_writer",
    )

    def __init__(
        self, use: TranscodingUse, binding: Binding, reader: RequestReader, exchange: Exchange, forward: Forward
    ) -> None:
        self._use, self._binding, self._reader, self._exchange = use, binding, reader, exchange
        self._writer = ResponseWriter(binding, use.format, use.api, use.message_bytes)
        self._call = TranslatedCall(exchange, forward.unrewritten(), self)
        self._conversions = Conversions(
            self._hold, self._is_needed, forward.upstream if isinstance(forward, Forward) else None
        )
        self._upstream = forward.upstream
        self._deadline: asyncio.TimerHandle | None = None  # of the call, while messages wait to be converted
        self._frames = MessageReader(use.message_bytes, COMPRESSED)
        self._body: Relay | None = None  # the request's, as long as more of it may come
        self._held = bytearray()  # bytes of the request's body that are not a message yet
        self._content_type: bytes | None = b""  # of the next message; None: it has none, because the first had it
        self._sent: Relay | None = None  # the call's, where messages are streamed
        self._response: Response | None = None
        self._message: tuple[bytes, bytes] | None = None  # the response's with its encoding, where it is only one
        self._begun: Response | None = None  # the client's response, where messages are streamed
        self._is_held = self._upstream_is_full = self._over = False

    def __repr__(self) -> str:
        return f"<Transcoding {self._binding.method.name}>"

    # the request

    def begin(self) -> None:
        exchange, body = self._exchange, self._exchange.request_body
        self._content_type = exchange.field(b"content-type") or b""
        if self._binding.method.client_streams:
            self._sent = Relay(self)
            self._send(self._sent)
            if self._over:
                return
        if body is None:
            self.end(())
            return
        if exchange.head.expects_continue and not body.bytes:
            exchange.client.send_interim(None)
        if not body.ended:
            self._body = body
        held = body.attach(self)
        if held:
            self.feed(held)
        if body.ended:
            self.end(())

    def _send(self, body: Relay) -> None:
        exchange, path = self._exchange, self._binding.method.path
        left_out = _NOT_SENT_RAW if self._reader.is_raw else _NOT_SENT
        fields = [(name, value) for name, value in exchange.headers if _is_metadata(name.lower(), left_out)]
        head = build_request(b"POST", exchange.authority, path, (*fields, *_CALL), body.length, accepts_trailers=True)
        self._call.send(head, body)

    def feed(self, payload: bytes) -> None:
        """Take a piece of the request's body."""
        if self._over:
            return
        held = self._held
        if self._sent is None:
            held += payload
            if len(held) > self._use.message_bytes:
                self._refuse_long()
            return
        if self._reader.is_raw:
            most = min(_RAW_PIECE, max(self._use.message_bytes // 2, 1))  # the message has other fields as well
            for start in range(0, len(payload), most):
                self._add_request(payload[start : start + most])
            return
        searched = len(held)
        held += payload
        start = 0
        while not self._over and (stop := held.find(b"\n", max(start, searched))) >= 0:
            self._read_line(bytes(held[start:stop]))
            start = stop + 1
        if not self._over:
            del held[:start]
            if len(held) > self._use.message_bytes:
                self._refuse_long()

    def end(self, trailers: Trailers) -> None:
        """Take the end of the request's body."""
        self._body = None
        if self._over:
            return
        rest = bytes(self._held)
        self._held.clear()
        if self._sent is None:
            self._add_request(rest)
            return
        if not self._reader.is_raw:
            self._read_line(rest)
        elif self._content_type is not None:  # an empty body
            self._add_request(b"")
        self._conversions.add(0, bool, lambda _: self._sent_all())

    def _refuse_long(self) -> None:
        most = self._use.message_bytes
        self._fail_request(Fault.BODY_TOO_LARGE, f"A message has more than {most} bytes.")

    def _read_line(self, line: bytes) -> None:
        line = line.strip(b" \t\r")
        if len(line) > self._use.message_bytes:
            self._refuse_long()
        elif line:
            self._add_request(line)

    def _add_request(self, body: bytes) -> None:
        reader = self._reader
        convert = partial(reader.read, body, self._content_type or b"")
        self._content_type = None
        self._conversions.add(reader.cost(body), convert, self._message_read, may_refuse=True)

    def _message_read(self, message: bytes | Exception) -> None:
        if self._over:
            return
        sent = self._sent
        if isinstance(message, InvalidRequest):
            self._fail_request(Fault.BAD_REQUEST, str(message))
        elif isinstance(message, TooManyConversions):
            self._fail_request(Fault.OVERLOADED, why="too many messages wait to be converted")
        elif isinstance(message, Exception):
            self._fail_request(Fault.INTERNAL, why=f"a request could not be converted: {message!r}")
        elif len(message) > self._use.message_bytes:
            self._refuse_long()
        elif sent is None:
            framed = frame(message)
            self._send(whole_body(framed, None))
        else:
            framed = frame(message)
            sent.bytes += len(framed)
            sent.feed(framed)

    def _fail_request(self, fault: Fault, detail: str | None = None, why: str = "") -> None:
        """End the exchange because of its request: by a reply, or by the last line of a stream that has begun."""
        exchange = self._exchange
        if exchange.state is not ANSWERING or not exchange.still_sends(self._begun) or self._writer.is_raw:
            exchange.fail(fault, detail, why)
            return
        exchange.fault, exchange.why = exchange.fault or fault, exchange.why or why or detail or ""
        is_invalid = fault is Fault.BAD_REQUEST
        code = GrpcStatus.INVALID_ARGUMENT if is_invalid else status_of(fault, fault.status)
        self._answer_status(Status(code, detail or fault.detail))

    def _sent_all(self) -> None:
        if self._sent is not None and not self._over:
            self._sent.end()

    # source of the call's body (`Relay`), and of what is converted

    def pause(self) -> None:
        self._upstream_is_full = True
        self._brake()

    def resume(self) -> None:
        self._upstream_is_full = False
        self._brake()

    def _hold(self, is_held: bool) -> None:
        """Pause both sides while messages wait to be converted. The call has no other deadline meanwhile."""
        self._is_held = is_held
        due_in = timeout_of(self._exchange.head)
        if is_held and due_in is not None and due_in != inf:
            left = self._exchange.begun_at + due_in - monotonic()
            self._deadline = self._upstream.worker_loop.loop.call_later(max(left, 0.0), self._expire)
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._call.hold_response(is_held)
        self._brake()

    def _expire(self) -> None:
        self._deadline = None
        if not self._is_needed():
            return
        exchange, fault, why = self._exchange, Fault.FILTER_TIMEOUT, "grpc-timeout of the call"
        if not self._may_say_late(fault):
            self._fail(fault, why)
        elif exchange.service is None:  # otherwise the call has the same deadline, and ends the response
            exchange.fault, exchange.why = fault, why
            self._answer_status(_late(fault))

    def _may_say_late(self, fault: Fault) -> bool:
        """Whether a response that this fault ends is a stream with a line for it."""
        is_late = status_of(fault, fault.status) is GrpcStatus.DEADLINE_EXCEEDED
        return is_late and self._begun is not None and not self._writer.is_raw

    def _is_needed(self) -> bool:
        """Whether messages are still needed: after the end of the call it is not cancelled if the client leaves."""
        if not self._over and not self._exchange.still_sends(self._begun):
            self.on_cancel()
        return not self._over

    def _brake(self) -> None:
        body = self._body
        if body is None:
            return
        if self._is_held or self._upstream_is_full:
            body.pause()
        else:
            body.resume()

    # the response (`CallListener`)

    def on_response(self, response: Response) -> None:
        head = response.head
        assert head is not None
        self._response = response
        if head.status == 200 and not is_grpc(head):
            self._fail(Fault.UPSTREAM_MALFORMED, "the response of the upstream is not one of gRPC")

    def on_data(self, payload: bytes) -> None:
        if self._over or self._response is None or self._status != 200:
            return
        try:
            messages = self._frames.feed(payload)
        except FrameTooLarge as error:
            self._fail(Fault.RESPONSE_TOO_LARGE, str(error))
            return
        except FrameError as error:
            self._fail(Fault.UPSTREAM_MALFORMED, str(error))
            return
        for flags, message in messages:
            if self._over:
                return
            encoding = self._encoding if flags & COMPRESSED else IDENTITY
            if encoding is None:
                self._fail(Fault.UPSTREAM_MALFORMED, "a message is compressed, in no known grpc-encoding")
            elif self._binding.method.server_streams:
                self._add_response(message, encoding, self._message_written)
            elif self._message is not None:
                self._fail(Fault.UPSTREAM_MALFORMED, "there is more than one message")
            else:
                self._message = message, encoding

    def on_end(self, trailers: Trailers) -> None:
        response = self._response
        if self._over or response is None:
            return
        try:
            if self._status == 200:
                self._frames.end()
        except FrameError as error:
            self._fail(Fault.UPSTREAM_MALFORMED, str(error))
            return
        status = self._status_in(trailers)
        if status is None:
            self._fail(Fault.UPSTREAM_MALFORMED, "the call ended without a status")
        elif status.code is not GrpcStatus.OK:
            self._conversions.add(0, bool, lambda _: self._answer_status(status))
        elif self._binding.method.server_streams:
            self._conversions.add(0, bool, lambda _: self._end_stream(trailers))
        elif self._message is None:
            self._fail(Fault.UPSTREAM_MALFORMED, "the call ended with the status OK, and without a message")
        else:
            self._add_response(*self._message, partial(self._answer_message, trailers))

    def _add_response(self, message: bytes, encoding: bytes, done: Callable[[Any], None]) -> None:
        if encoding == IDENTITY:
            cost = self._writer.cost(message)
        else:  # never on the loop: a few bytes may be a long message
            declared = min(declared_bytes(message, encoding), self._use.message_bytes)
            cost = max(AT_ONCE + 1, UNMEASURED * declared)
        self._conversions.add(cost, partial(self._written, message, encoding), done)

    def on_cancel(self) -> None:
        """Release the exchange and the call: they refer back here, and only the collector would find the cycle."""
        if not self._over:
            self._over = True
            self._body = self._sent = None
            self._conversions.cancel()
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            del self._exchange, self._call

    def on_abort(self, fault: Fault) -> bool:
        if self._over or not self._may_say_late(fault):
            return False
        self._answer_status(_late(fault))
        return True

    @property
    def _encoding(self) -> bytes | None:
        """The `grpc-encoding` of compressed messages, which some servers use though it was not offered; None: it is
        not known.
        """
        assert self._response is not None
        assert self._response.head is not None
        values = self._response.head.values(b"grpc-encoding")
        encoding = values[0].lower() if len(values) == 1 else b""
        return encoding if is_known(encoding) else None

    @property
    def _status(self) -> int:
        assert self._response is not None
        assert self._response.head is not None
        return self._response.head.status

    def _status_in(self, trailers: Trailers) -> Status | None:
        """Return the status of the call; None: there is none."""
        assert self._response is not None
        head = self._response.head
        assert head is not None
        status, told, _ = check_trailers(trailers)
        if status is None:
            in_head = [(name, value) for name in STATUS_FIELDS for value in head.values(name)]
            status, told, _ = check_trailers(tuple(in_head))
        if head.status != 200 and (status is None or parse_status(status) is GrpcStatus.OK):
            code = OF_UPSTREAM.get(head.status, GrpcStatus.UNKNOWN)
            return Status(code, f"The upstream service answered with the HTTP status {head.status}.")
        if status is None:
            return None
        fields = {name.lower(): value for name, value in told}
        return Status(parse_status(status), decode_message(fields.get(MESSAGE, b"")), fields.get(DETAILS))

    def _written(self, message: bytes, encoding: bytes) -> tuple[bytes, bytes]:
        """Return the content type and the bytes of a message."""
        if encoding != IDENTITY:
            message = decompress(message, encoding, self._use.message_bytes)
        writer, streams = self._writer, self._binding.method.server_streams
        if writer.is_raw:
            return writer.raw(message)
        return (LINES, writer.write(message) + b"\n") if streams else (JSON, writer.write(message))

    def _has_failed(self, written: tuple[bytes, bytes] | Exception) -> bool:
        if not self._is_needed():
            return True
        if isinstance(written, ResponseTooLarge | FrameTooLarge):
            self._fail(Fault.RESPONSE_TOO_LARGE, str(written))
        elif isinstance(written, InvalidResponse | FrameError):
            self._fail(Fault.UPSTREAM_MALFORMED, str(written))
        elif isinstance(written, Exception):
            self._fail(Fault.INTERNAL, f"a response could not be converted: {written!r}")
        return isinstance(written, Exception)

    def _fail(self, fault: Fault, why: str) -> None:
        self._exchange.fail(fault, why=why)
        self.on_cancel()

    def _answer_message(self, trailers: Trailers, written: tuple[bytes, bytes] | Exception) -> None:
        exchange = self._exchange
        if self._has_failed(written):
            return
        assert not isinstance(written, Exception)
        self.on_cancel()
        content_type, payload = written
        response = self._own_body(content_type)
        fields = _accepted(exchange, _metadata(trailers))
        if fields and exchange.method != b"HEAD":
            response.body_length = UNKNOWN
            exchange.response_bytes = len(payload)
            exchange.respond(response, payload, False)
            if exchange.still_sends(response):
                exchange.response_sink.end(fields)
        else:
            exchange.respond(response, payload, True)

    def _message_written(self, written: tuple[bytes, bytes] | Exception) -> None:
        exchange = self._exchange
        if self._has_failed(written):
            return
        assert not isinstance(written, Exception)
        content_type, payload = written
        if self._begun is None:
            self._begin(content_type)
        if payload and not self._over and exchange.still_sends(self._begun):
            exchange.response_bytes += len(payload)
            exchange.response_sink.feed(payload)

    def _begin(self, content_type: bytes) -> None:
        """Begin a streamed response."""
        self._begun = response = self._own_body(content_type)
        response.body_length = UNKNOWN
        exchange = self._exchange
        if exchange.method == b"HEAD":  # what would follow is not needed
            exchange.break_off()
            self.on_cancel()
        exchange.respond(response, b"", self._over)

    def _end_stream(self, trailers: Trailers) -> None:
        exchange = self._exchange
        if self._begun is None and exchange.still_sends(None):
            self._begin(b"" if self._writer.is_raw else LINES)
        if not self._over and exchange.still_sends(self._begun):
            exchange.response_sink.end(_accepted(exchange, _metadata(trailers)))
        self.on_cancel()

    def _answer_status(self, status: Status) -> None:
        """Answer with a status that is not OK: as a problem, or as the last line of a stream."""
        exchange, body = self._exchange, status.body(self._use)
        self.on_cancel()
        exchange.break_off()  # the call, unless it has ended
        if not exchange.still_sends(self._begun):
            return
        exchange.why = exchange.why or f"the call ended with {status.code.name}"
        exchange.grpc_status = status.code.name  # which stands for an HTTP status of the upstream, too
        if self._begun is None:
            fields = [(b"Content-Type", _PROBLEM), (b"Grpc-Status", b"%d" % status.code)]
            response = self._own(TO_HTTP[status.code], fields)
            if status.code is GrpcStatus.UNAUTHENTICATED and response.headers.get(b"www-authenticate") is None:
                response.headers.set(*_CHALLENGE)
            exchange.respond(response, orjson.dumps(body), True)
        elif self._writer.is_raw:
            exchange.fail(Fault.UPSTREAM_INCOMPLETE)  # bytes of any type have no place for an error
        else:
            line = orjson.dumps({"error": body}) + b"\n"
            exchange.response_bytes += len(line)
            exchange.response_sink.feed(line)
            if exchange.still_sends(self._begun):
                exchange.response_sink.end(_accepted(exchange, ((b"grpc-status", b"%d" % status.code),)))

    def _own_body(self, content_type: bytes) -> Response:
        """Return the response for messages, whose metadata describe them where they are a body of any type."""
        fields = ((b"Content-Type", content_type),) if content_type else ()
        return self._own(200, fields, _NOT_SHOWN_RAW if self._writer.is_raw else _NOT_SHOWN)

    def _own(
        self, status: int, fields: Iterable[tuple[bytes, bytes]], left_out: frozenset[bytes] = _NOT_SHOWN
    ) -> Response:
        """Return a response with the metadata that the upstream has sent at the beginning."""
        received = self._response
        assert received is not None
        assert received.head is not None
        there = [(name, value) for name, value in received.head.fields() if _is_metadata(name.lower(), left_out)]
        response = own_response(Reply(status, b"", (*there, *fields)))
        response.added, response.dropped = received.added, received.dropped or NO_NAMES
        if serializer.NO_VIA not in received.dropped:
            response.added += serializer.VIA[received.head.version]
        return response


def _late(fault: Fault) -> Status:
    return Status(GrpcStatus.DEADLINE_EXCEEDED, fault.detail)


def _is_metadata(name: bytes, left_out: frozenset[bytes]) -> bool:
    """Whether a header with this lower-case name is passed on between HTTP and gRPC."""
    return name not in left_out and (not name.startswith(_GRPC) or name == TIMEOUT)


def _metadata(trailers: Trailers) -> Trailers:
    """Return the trailers that are the method's own."""
    return tuple((name, value) for name, value in trailers if _is_metadata(name.lower(), NOT_IN_TRAILERS))


def _accepted(exchange: Exchange, trailers: Trailers) -> Trailers:
    """Return the trailers, or none if the client does not accept any (RFC 9110 section 6.5.1)."""
    return trailers if exchange.head.accepts_trailers else ()
