"""Bridge: a client's exchange in another RPC protocol on one side, a gRPC call on the other.

Rule 1: bodies are forwarded in pieces both ways, with the backpressure of the receiver; only a bridge that has to know
the end of a response before its beginning buffers it, within a limit. Rule 2: malformed data is never forwarded: the
call is ended. Rule 3: a response that has begun always ends with a status, if its last message is complete.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Relay, Response, Trailers
from fastgw.exchange.body_relay import BodySink, whole_body
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.exchange.reply import UNKNOWN, Reply
from fastgw.exchange.states import ANSWERING, ENDED
from fastgw.filters.api import WarningContext
from fastgw.http.field_names import DIGESTS, WRITTEN_HERE
from fastgw.http.fields import Fields, folded
from fastgw.http.grpc.calls import is_grpc, timeout_line
from fastgw.http.grpc.frames import FrameError, FrameTooLarge
from fastgw.http.grpc.status import (
    DETAILS,
    MESSAGE,
    OF_UPSTREAM,
    STATUS,
    STATUS_FIELDS,
    GrpcStatus,
    check_trailers,
    decode_message,
    parse_status,
    replace_status,
)
from fastgw.http.http1 import serializer
from fastgw.http.http1.made_request import build_request
from fastgw.http.http1.serializer import names_alike
from fastgw.upstream.client.call import CallListener, TranslatedCall
from fastgw.upstream.forwarding.forward_action import Forward

MOST: Final = 2**32 - 1
"""Maximum bytes of a message that is not buffered: a length of four bytes."""
_NOT_SENT: Final = WRITTEN_HERE | DIGESTS | {b"content-type", b"expect", b"trailer", b"accept"}
_NOT_RETURNED: Final = WRITTEN_HERE | DIGESTS | STATUS_FIELDS | {b"content-type", b"trailer", b"accept-ranges"}
_OF_HTTP: Final = frozenset(
    b"age alt-svc cache-control date expires pragma proxy-status retry-after server set-cookie "
    b"strict-transport-security vary via www-authenticate".split()
)
"""Headers that mean something over HTTP, also where all others of a head are trailers."""
KEPT_OF_REPLIES: Final = WRITTEN_HERE | {b"content-type", b"content-encoding", b"content-language"}
"""Headers of a reply that describe its body, which is left out."""


class NoMemoryLeft(FrameError):
    """Raised if there is no memory left for messages that have to be held."""


class CallStatus:
    """Status of a call, sent by the upstream or set by the bridge."""

    __slots__ = ("code", "details", "fields")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """`fields`: the trailers of the response."""
        status, self.fields, _ = check_trailers(tuple(fields))
        if status is None:
            self.fields = replace_status(self.fields, "The upstream service has sent no status.")
        self.code = parse_status(status)
        self.details = next((value for name, value in self.fields if name.lower() == DETAILS), None)

    @property
    def message(self) -> str:
        return next((decode_message(value) for name, value in self.fields if name.lower() == MESSAGE), "")

    @property
    def metadata(self) -> Trailers:
        """The trailers except the status."""
        return tuple(line for line in self.fields if not line[0].lower().startswith(b"grpc-"))


class CallBridge(CallListener, BodySink):
    """Bridge of one exchange: sink of the client's request body, source of the call's, and listener to its response.

    Subclasses convert the bodies and the response.
    """

    def __init__(self, exchange: Exchange, forward: Forward) -> None:
        self.exchange = exchange
        self._forward = forward
        self._relay: Relay | None = None  # body of the call's request, until its end
        self._over = False
        self._begun: Response | None = None  # the client's response, where it is sent in pieces
        self._ended_in_head: Trailers = ()  # a status in the head, after which no trailers follow ("Trailers-Only")

    # methods for subclasses

    def convert(self, payload: bytes) -> bytes:
        """Return the call's bytes for a piece of the client's body. Raises `FrameError`."""
        raise NotImplementedError

    def convert_end(self) -> bytes:
        """Return the call's final bytes. Raises `FrameError`."""
        raise NotImplementedError

    def begin_response(self, response: Response) -> None:
        """Handle the head of a gRPC response."""
        raise NotImplementedError

    def end_response(self, status: CallStatus) -> None:
        """Handle the end of the response."""
        raise NotImplementedError

    def status_reply(self, code: GrpcStatus, message: str) -> Reply:
        """Return a response that contains only a status."""
        raise NotImplementedError

    def respond(self, status: int, fields: Iterable[tuple[bytes, bytes]], response: Response) -> None:
        """Send the head to the client. `response`: the upstream's, with the gateway's additions."""
        self._begun = _own(status, fields, response, UNKNOWN)
        self.exchange.respond(self._begun, b"", False)

    def answer_at_once(
        self,
        status: int,
        fields: Iterable[tuple[bytes, bytes]],
        body: bytes,
        response: Response,
        complete: Callable[[Response], None],
    ) -> None:
        """Send a whole response to the client. `complete`: changes it when the response steps have run."""
        self.exchange.response_bytes = len(body)
        self.exchange.respond_at_once(_own(status, fields, response, len(body)), body, complete)

    def without_taken(self, lines: Trailers) -> Trailers:
        """Return the lines at the end of a call that the client gets.

        Lines of a head with a status are headers over gRPC: they stay out if a response step has set or removed headers
        of their names.
        """
        response = self.exchange.response
        if not self._ended_in_head or response is None:
            return lines
        taken = response.headers.taken | names_alike(response.dropped)
        return tuple(line for line in lines if line[0].lower() in STATUS_FIELDS or folded(line[0]) not in taken)

    def send(self, payload: bytes) -> None:
        if payload and self._is_open:
            self.exchange.response_bytes += len(payload)
            self.exchange.response_sink.feed(payload)

    def finish(self, payload: bytes) -> None:
        """Send the end of the response."""
        self.send(payload)
        if self._is_open:
            self.exchange.response_sink.end(())

    @property
    def _is_open(self) -> bool:
        return self._begun is not None and self.exchange.still_sends(self._begun)

    def answer_status(self, code: GrpcStatus, message: str) -> None:
        """Answer with a status instead of the response, which has not begun. The call is cancelled."""
        exchange = self.exchange
        exchange.why = exchange.why or message
        exchange.break_off()  # first: the call reports the status that the upstream has sent, if any
        exchange.grpc_status = code.name
        exchange.refuse_late(self.status_reply(code, message))

    # request

    def send_call(
        self, codec: bytes, fields: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes], timeout: float | None
    ) -> None:
        """Send the call, with the client's headers except those in `dropped`.

        `codec`: suffix of the content type, including the plus. `timeout`: timeout of the caller in seconds; None: that
        of its `grpc-timeout`.
        """
        exchange = self.exchange
        body = exchange.request_body
        call = TranslatedCall(exchange, self._forward, self)  # not kept: it has the relay, whose source we are
        try:
            whole = self._whole(body)
        except FrameError as error:
            exchange.fail(_fault_of(error), _sentence(error))
            return
        dropped |= _NOT_SENT
        sent = exchange.headers.without(dropped)
        sent.append((b"Content-Type", b"application/grpc" + codec))
        sent += fields
        if timeout is not None:
            name, _, value = timeout_line(timeout).partition(b": ")
            sent.append((name, value.rstrip()))
        length = None if whole is None else len(whole)
        head = build_request(b"POST", exchange.authority, self.target(), sent, length, True)
        if whole is not None:
            call.send(head, whole_body(whole, len(whole)) if whole else None)
            return
        assert body is not None
        if exchange.head.expects_continue and not body.bytes:
            exchange.client.send_interim(None)
        self._relay = relay = Relay(self)
        held = body.attach(self)
        if held:
            self.feed(held)
        if not self._over:
            call.send(head, relay)

    def target(self) -> bytes:
        """Path and query of the call."""
        exchange = self.exchange
        query = exchange.query if exchange.query_sent is UNCHANGED_QUERY else exchange.query_sent
        return exchange.head.raw_path if query is None else b"%b?%b" % (exchange.head.raw_path, query)

    def _whole(self, body: Relay | None) -> bytes | None:
        """Return the request's body if it was received completely, otherwise None. Raises `FrameError`."""
        if body is None:
            return self.convert_end()
        if not body.ended:
            return None
        assert body.kept is not None
        held = b"".join(body.kept)
        return (self.convert(held) if held else b"") + self.convert_end()

    # sink of the client's body (`BodySink`), and source of the call's (`BodySource`)

    def feed(self, payload: bytes) -> None:
        self._feed_call(lambda: self.convert(payload), False)

    def end(self, trailers: Trailers) -> None:
        self._feed_call(self.convert_end, True)

    def _feed_call(self, convert: Callable[[], bytes], ended: bool) -> None:
        relay = self._relay
        if self._over or relay is None:
            return
        try:
            piece = convert()
        except FrameError as error:
            self.break_off(_fault_of(error), _sentence(error))
            return
        if piece:
            relay.bytes += len(piece)
            if ended:
                relay.last(piece)
            else:
                relay.feed(piece)
        if ended and not self._over:
            relay.end()

    def break_off(self, fault: Fault, detail: str, why: str = "") -> None:
        """End the call for a fault: the client gets it as its response, or as the end of one that has begun.

        `detail`: for the client. `why`: for the log.
        """
        exchange = self.exchange
        if exchange.state is not ANSWERING:
            exchange.fail(fault, detail, why)
            return
        exchange.fault, exchange.why = exchange.fault or fault, exchange.why or why or detail
        exchange.break_off()
        if not self.end_with_fault(fault, detail):
            exchange.grpc_status = ""  # the client gets none
            exchange.fail(fault)

    def end_with_fault(self, fault: Fault, detail: str) -> bool:
        """End a response that has begun. False: it is within a message, and can only be aborted."""
        return False

    def pause(self) -> None:
        body = self.exchange.request_body
        if body is not None and not self._over:
            body.pause()

    def resume(self) -> None:
        body = self.exchange.request_body
        if body is not None and not self._over:
            body.resume()

    # response (`CallListener`)

    def on_response(self, response: Response) -> None:
        head = response.head
        assert head is not None
        if head.status != 200 or not is_grpc(head):
            self._answer_foreign(head.status)
            return
        if head.first(STATUS) is not None:
            dropped = (_NOT_RETURNED - STATUS_FIELDS) | _OF_HTTP
            self._ended_in_head = tuple(line for line in head.fields() if line[0].lower() not in dropped)
        self.begin_response(response)

    def _answer_foreign(self, status: int) -> None:
        """Handle a response that is not gRPC, for example of a proxy before the upstream."""
        code = OF_UPSTREAM.get(status, GrpcStatus.UNKNOWN)
        self.answer_status(code, f"The upstream service has not answered with gRPC, but with HTTP status {status}.")

    def on_end(self, trailers: Trailers) -> None:
        if self._over:
            return
        self._let_go()
        told = any(name.lower() == STATUS for name, _ in trailers)
        self.end_response(CallStatus(trailers if told else (*trailers, *self._ended_in_head)))

    def on_cancel(self) -> None:
        self._let_go()

    def on_abort(self, fault: Fault) -> bool:
        self._let_go()
        return self.end_with_fault(fault, fault.detail)

    def _let_go(self) -> None:
        """Release the request, which is no longer needed."""
        self._over = True
        body, self._relay = self.exchange.request_body, None
        if body is not None and body.sink is self:
            body.sink = None
            if body.kept is not None and self.exchange.state is not ENDED:
                body.detach()  # a fallback may send it again


def _own(status: int, fields: Iterable[tuple[bytes, bytes]], response: Response, length: int) -> Response:
    """Return a response of the gateway's own, with what it adds to that of the upstream."""
    added = response.added
    if response.head is not None and serializer.NO_VIA not in response.dropped:
        added += serializer.VIA[response.head.version]
    return Response(status, None, added, response.dropped, length, Fields(fields))


def protocol_warnings(context: WarningContext) -> Iterator[str]:
    """Yield a warning if no upstream behind the filter speaks gRPC."""
    if context.protocols and "grpc" not in context.protocols:
        yield "no upstream behind it speaks gRPC; expected `protocol: grpc` of the upstream"


def returned_fields(response: Response) -> list[tuple[bytes, bytes]]:
    """Return the headers of the upstream's response that the client gets, but for the content type.

    Where there is nothing but a status, all but those of HTTP are trailers ("Trailers-Only").
    """
    head = response.head
    assert head is not None
    dropped = _NOT_RETURNED | response.dropped
    fields = [line for line in head.fields() if line[0].lower() not in dropped]
    if head.first(STATUS) is None:
        return fields
    return [line for line in fields if line[0].lower() in _OF_HTTP]


def _fault_of(error: FrameError) -> Fault:
    if isinstance(error, NoMemoryLeft):
        return Fault.TOO_MANY_AT_ONCE
    return Fault.BODY_TOO_LARGE if isinstance(error, FrameTooLarge) else Fault.BAD_REQUEST


def _sentence(error: FrameError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
