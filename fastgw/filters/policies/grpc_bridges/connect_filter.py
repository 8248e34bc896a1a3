"""connect_rpc: clients of the Connect protocol call services of gRPC (connectrpc.com/docs/protocol)."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, NamedTuple, final

import orjson
from msgspec import Meta

from fastgw.config.base.value_types import Size
from fastgw.config.settings.gateway import Some
from fastgw.errors import Fault
from fastgw.exchange import MAX_KEPT, Response
from fastgw.exchange.grpc_status import message_of, status_of
from fastgw.exchange.hooks import TranslateHook
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase, Reply, WarningContext
from fastgw.filters.policies.grpc_bridges.bridge import (
    KEPT_OF_REPLIES,
    MOST,
    CallBridge,
    CallStatus,
    NoMemoryLeft,
    protocol_warnings,
    returned_fields,
)
from fastgw.http.grpc import connect
from fastgw.http.grpc.details import read_details
from fastgw.http.grpc.frames import COMPRESSED, PREFIX, FrameError, FrameScanner, FrameTooLarge, MessageReader, frame
from fastgw.http.grpc.status import TO_HTTP, GrpcStatus
from fastgw.shm.held_body_budget import WHY_NOT_HELD
from fastgw.upstream.forwarding.forward_action import CallRecorder, Forward

_JSON: Final = b"application/json"
_DROPPED: Final = frozenset(
    (
        *(connect.VERSION, connect.TIMEOUT, connect.STREAM_ENCODING, connect.STREAM_ACCEPT),
        *(b"content-encoding", b"accept-encoding", b"grpc-encoding", b"grpc-accept-encoding", b"grpc-timeout"),
    )
)
_ENCODINGS: Final = frozenset((b"grpc-encoding", b"grpc-accept-encoding", b"content-encoding", b"accept-encoding"))

MethodName = Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_.]*/)?[A-Za-z_][A-Za-z0-9_]*$")]


class ConnectRpc(Filter, name="connect_rpc", phase=Phase.TRANSFORM, order=11):  # type: ignore[literal-required]  # order: ours
    """Connect protocol: let its clients call the gRPC services behind this route, over HTTP/1.1 and HTTP/2.

    Unary calls are POST requests with `Connect-Protocol-Version: 1`, and GET requests with `connect=v1` in the query;
    streams have the content type `application/connect+proto`, `application/connect+json` and the like. Errors, those of
    the gateway itself included, are JSON with `code`, `message` and `details`; trailers become headers
    (`Trailer-…`) or metadata at the end of a stream. Other requests, plain gRPC among them, pass unchanged.

    Messages are not decoded: the upstream has to know their encoding, and only few gRPC servers know JSON
    (`application/grpc+json`). The upstream needs `protocol: grpc`. Pages of other origins need the filter `cors`, too.
    """

    stands_anywhere: ClassVar[bool] = True

    message_bytes: Size = 4 * 1024 * 1024
    """Maximum size of the response message of a unary call, and of the request message if its length is not declared:
    they are held, as their status or length comes first. Messages of streams pass at once. Held messages share the
    memory of bodies kept for retries (64 MiB on the node, 64 KiB of each call not counted; `fastgw_kept_body_bytes`);
    if it is used up, a call is answered `resource_exhausted` (429)."""
    get: Some[MethodName] = ()
    """Methods without side effects, which clients may call by GET: `GetFeature`, or `routeguide.RouteGuide/GetFeature`
    for those of one service. Any page can make browsers send GET requests, so no method is allowed by default. The
    route has to match GET, too."""

    def warnings(self, context: WarningContext) -> Iterable[str]:
        return protocol_warnings(context)

    @property
    def unknown_in_shadow(self) -> str:
        return "translated requests"

    def build(self, env: Env) -> Hooks:
        names = frozenset(b"/" + name.encode() for name in self.get)
        most = self.message_bytes

        def request(exchange: Exchange) -> Reply | None:
            call = _call_of(exchange)
            return None if call is None else _fault_in(exchange, call, names)

        def translate(exchange: Exchange, forward: Forward) -> bool:
            call = _call_of(exchange)
            if call is None or not isinstance(forward, Forward | CallRecorder):
                return False
            if call.is_stream:
                StreamBridge(exchange, forward, call).begin(_stream_encodings(exchange))
            else:
                UnaryBridge(exchange, forward, call, most).begin(_unary_encodings(exchange, call))
            return True

        return Hooks(
            request=request, translate=TranslateHook(translate, of_copies=translate), reply=_reply, explain=_explain
        )


class ConnectCall(NamedTuple):
    """A request of the Connect protocol. `codec`: the encoding of its messages."""

    codec: bytes
    is_stream: bool
    by_get: bool = False

    @property
    def content_type(self) -> bytes:
        return b"application/%b%b" % (b"connect+" if self.is_stream else b"", self.codec)


def _call_of(exchange: Exchange) -> ConnectCall | None:
    if exchange.method == b"GET":
        return ConnectCall(b"", False, True) if connect.asks_by_get(exchange.query) else None
    if exchange.method != b"POST":
        return None
    kind = exchange.field(b"content-type")
    codec = connect.stream_codec(kind)
    if codec is not None:
        return ConnectCall(codec, True)
    if exchange.field(connect.VERSION) is None:
        return None
    codec = connect.unary_codec(kind)
    return None if codec is None else ConnectCall(codec, False)


def _fault_in(exchange: Exchange, call: ConnectCall, names: frozenset[bytes]) -> Reply | None:
    """Return the refusal of a request that is not one of the protocol; None: it is."""
    if exchange.values(connect.VERSION) not in ([], [b"1"]):
        return exchange.refuse(Fault.BAD_REQUEST, "Connect-Protocol-Version is not 1.")
    timeouts = exchange.values(connect.TIMEOUT)
    if timeouts and (len(timeouts) > 1 or connect.timeout_seconds(timeouts[0]) is None):
        return exchange.refuse(Fault.BAD_REQUEST, "Connect-Timeout-Ms is not a number of at most ten digits.")
    encodings = exchange.kept_values(connect.STREAM_ENCODING if call.is_stream else b"content-encoding")
    if len(encodings) > 1 or not all(connect.is_coding(each.lower()) for each in encodings):
        return exchange.refuse(Fault.BAD_REQUEST, "The compression of the request is not a single one.")
    if not call.is_stream and (exchange.body_length or 0) > MOST:
        return exchange.refuse(Fault.BODY_TOO_LARGE, f"The message is longer than the {MOST} bytes of a gRPC message.")
    if call.by_get:
        service, _, method = exchange.path.rpartition(b"/")
        named = b"%b/%b" % (service[service.rfind(b"/") :], method)
        if b"/" + method not in names and named not in names:
            return exchange.refuse(Fault.METHOD_NOT_ALLOWED, fields=((b"Allow", b"POST"),))
        if exchange.request_body is not None:
            return exchange.refuse(Fault.BAD_REQUEST, "A call by GET has a body.")
        try:
            connect.parse_get(exchange.query or b"")
        except ValueError as error:
            return exchange.refuse(Fault.BAD_REQUEST, str(error))
    return None


def _explain(exchange: Exchange) -> str:
    call = _call_of(exchange)
    if call is None:
        return "not a call of the Connect protocol"
    kind = "a stream" if call.is_stream else "a unary call by GET" if call.by_get else "a unary call"
    return f"{kind} of the Connect protocol: becomes a call of gRPC"


def _reply(exchange: Exchange, reply: Reply) -> Reply:
    call = _call_of(exchange)
    if call is None or reply.status < 400 or not isinstance(reply.body, bytes):
        return reply
    if _is_error(reply.body):
        return reply
    fields = [line for line in reply.fields if line[0].lower() not in KEPT_OF_REPLIES]
    code = reply.grpc_status
    if code is None:
        code = _code_of(reply.fault, reply.status, exchange.reset_code)
    # The protocol has one status for each code, but 405 for a method that is not called by GET.
    status = reply.status if reply.fault is Fault.METHOD_NOT_ALLOWED else TO_HTTP[code]
    exchange.grpc_status = code.name
    error = connect.error_of(code, message_of(reply.fault, reply.status, reply.body))
    return _error_reply(call, status, error, fields, reply.fault)


def _is_error(body: bytes) -> bool:
    """Whether a body is an error of the protocol already."""
    try:
        return isinstance(orjson.loads(body).get("code"), str)
    except (orjson.JSONDecodeError, AttributeError):
        return False


def _code_of(fault: Fault | None, status: int, reset_code: int | None) -> GrpcStatus:
    """Return the code for a reply of the gateway: 400 means the request, as it says over HTTP."""
    return GrpcStatus.INVALID_ARGUMENT if status == 400 else status_of(fault, status, reset_code)


def _error_reply(
    call: ConnectCall, status: int, error: dict[str, Any], fields: list[tuple[bytes, bytes]], fault: Fault | None
) -> Reply:
    """Return a response with nothing but an error: of a stream its end, with the status 200."""
    if call.is_stream:
        return Reply(200, connect.end_of_stream(error), [(b"Content-Type", call.content_type), *fields], fault)
    return Reply(status, orjson.dumps(error), [(b"Content-Type", _JSON), *fields], fault)


def _listed(exchange: Exchange, name: bytes) -> list[bytes]:
    """Compressions in a header, without parameters and without those that the client refuses."""
    found = []
    for value in exchange.values(name):
        for each in value.lower().split(b","):
            coding, _, weight = each.strip(b" \t").partition(b";")
            coding = coding.strip(b" \t")
            if connect.is_coding(coding) and weight.strip(b" \t") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"):
                found.append(coding)
    return found


def _unary_encoding(exchange: Exchange) -> bytes:
    return next(iter(exchange.kept_values(b"content-encoding")), b"identity").lower()


def _unary_encodings(exchange: Exchange, call: ConnectCall) -> list[tuple[bytes, bytes]]:
    encoding = _unary_encoding(exchange)
    if call.by_get:
        encoding = connect.parse_get(exchange.query or b"").encoding or b"identity"
    return _encodings(encoding, _listed(exchange, b"accept-encoding"))


def _stream_encodings(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    encoding = (exchange.field(connect.STREAM_ENCODING) or b"identity").lower()
    return _encodings(encoding, _listed(exchange, connect.STREAM_ACCEPT))


def _encodings(encoding: bytes, accepted: list[bytes]) -> list[tuple[bytes, bytes]]:
    if not accepted and encoding != b"identity":
        accepted = [encoding]
    lines = [(b"Grpc-Accept-Encoding", b",".join([*accepted, b"identity"]))]
    return lines if encoding == b"identity" else [(b"Grpc-Encoding", encoding), *lines]


class ConnectBridge(CallBridge):
    """Bridge of a call by the Connect protocol."""

    def __init__(self, exchange: Exchange, forward: Forward, call: ConnectCall) -> None:
        super().__init__(exchange, forward)
        self._connect = call

    def begin(self, encodings: list[tuple[bytes, bytes]]) -> None:
        value = self.exchange.field(connect.TIMEOUT)
        timeout = None if value is None else connect.timeout_seconds(value)
        self.send_call(b"+" + self._connect.codec, encodings, _DROPPED, timeout)

    def status_reply(self, code: GrpcStatus, message: str) -> Reply:
        return _error_reply(self._connect, TO_HTTP[code], connect.error_of(code, message), [], None)

    def refuse_encoding(self) -> None:
        """Answer instead of a response whose `grpc-encoding` is not a single compression."""
        self.answer_status(GrpcStatus.INTERNAL, "The upstream service has not named a single compression.")


def _error_in(status: CallStatus) -> dict[str, Any] | None:
    """Return the error of a call; None: it has succeeded."""
    if status.code is GrpcStatus.OK:
        return None
    return connect.error_of(status.code, status.message, read_details(status.details))


def _encoding_of(response: Response) -> bytes | None:
    """Return the compression that an upstream names, `identity` for none; None: it is not a single name."""
    assert response.head is not None
    encodings = response.head.values(b"grpc-encoding") or [b"identity"]
    encoding = encodings[0].lower()
    return encoding if len(encodings) == 1 and connect.is_coding(encoding) else None


@final
class StreamBridge(ConnectBridge):
    """Bridge of a stream: its frames are those of gRPC, and the status is the last one."""

    def __init__(self, exchange: Exchange, forward: Forward, call: ConnectCall) -> None:
        super().__init__(exchange, forward, call)
        self._asked, self._answered = FrameScanner(MOST), FrameScanner(MOST)
        self._between_messages = True  # the last message that was passed on is whole

    def convert(self, payload: bytes) -> bytes:
        self._asked.feed(payload)
        return payload

    def convert_end(self) -> bytes:
        self._asked.end()
        return b""

    def begin_response(self, response: Response) -> None:
        assert response.head is not None
        fields = [line for line in returned_fields(response) if line[0].lower() not in _ENCODINGS]
        encoding = _encoding_of(response)
        if encoding is None:
            self.refuse_encoding()
            return
        if encoding != b"identity":
            fields.append((b"Connect-Content-Encoding", encoding))
        self.respond(200, [(b"Content-Type", self._connect.content_type), *fields], response)

    def on_data(self, payload: bytes) -> None:
        try:
            self._answered.feed(payload)
        except FrameError as error:
            self.break_off(Fault.UPSTREAM_MALFORMED, Fault.UPSTREAM_MALFORMED.detail, str(error))
            return
        self._between_messages = self._answered.between_messages
        self.send(payload)

    def end_response(self, status: CallStatus) -> None:
        if not self._between_messages:
            self.break_off(Fault.UPSTREAM_INCOMPLETE, Fault.UPSTREAM_INCOMPLETE.detail, "it ends within a message")
            return
        self.finish(connect.end_of_stream(_error_in(status), self.without_taken(status.metadata)))

    def end_with_fault(self, fault: Fault, detail: str) -> bool:
        if self._between_messages:
            code = _code_of(fault, fault.status, self.exchange.reset_code)
            self.exchange.grpc_status = code.name
            self.finish(connect.end_of_stream(connect.error_of(code, detail)))
        return self._between_messages


@final
class UnaryBridge(ConnectBridge):
    """Bridge of a unary call: its bodies are messages without frames, and its status comes first.

    A request whose length is declared passes as it comes. Otherwise at most `most` bytes are held, as of the response;
    until the end of the call they are counted in the memory limit, as the upstream may not take them at once.
    """

    def __init__(self, exchange: Exchange, forward: Forward, call: ConnectCall, most: int) -> None:
        self._upstream, self._taken = forward.upstream, 0
        encoding: bytes | None = _unary_encoding(exchange)
        self._message: bytes | None = None
        if call.by_get:
            asked = connect.parse_get(exchange.query or b"")
            call, self._message, encoding = call._replace(codec=asked.codec), asked.message, asked.encoding
        super().__init__(exchange, forward, call)
        self._flags = COMPRESSED if encoding not in (b"", b"identity") else 0
        self._most = most
        body = exchange.request_body
        self._length = 0 if body is None else body.length  # None: it is not declared, and the message is held
        self._held = bytearray()
        self._bytes = self._response_bytes = 0
        self._reader = MessageReader(most)
        self._response: Response | None = None
        self._messages: list[tuple[int, bytes]] = []

    def __del__(self) -> None:
        self._release_memory()

    def _release_memory(self) -> None:
        """Return the memory to the budget."""
        taken, self._taken = self._taken, 0
        if taken:
            self._upstream.worker_loop.held_body_budget.give_back(taken)

    def target(self) -> bytes:
        return self.exchange.head.raw_path if self._connect.by_get else super().target()

    # the request

    def convert(self, payload: bytes) -> bytes:
        first, self._bytes = not self._bytes, self._bytes + len(payload)
        if self._length is not None:
            return self._prefix(self._length) + payload if first else payload
        if self._bytes > self._most:
            raise FrameTooLarge(f"the message is longer than the {self._most} bytes allowed")
        if not self._may_hold(self._bytes):
            raise NoMemoryLeft("too many messages of undeclared length are held: declare it by content-length")
        self._held += payload
        return b""

    def _may_hold(self, count: int) -> bool:
        """Reserve memory for these bytes of a message, of which the first are free."""
        wanted = count - MAX_KEPT - self._taken
        if wanted > 0:
            if not self._upstream.worker_loop.held_body_budget.try_take(wanted):
                return False
            self._taken += wanted
        return True

    def convert_end(self) -> bytes:
        if self._message is not None:
            return frame(self._message, self._flags if self._message else 0)
        if self._length is not None and self._bytes:
            return b""
        message, self._held = bytes(self._held), bytearray()
        return frame(message, self._flags if message else 0)

    def _prefix(self, length: int) -> bytes:
        return bytes((self._flags,)) + length.to_bytes(PREFIX - 1, "big")

    # the response

    def begin_response(self, response: Response) -> None:
        self._response = response

    def on_data(self, payload: bytes) -> None:
        if self._response is None:
            return
        self._response_bytes += len(payload)
        if not self._may_hold(self._response_bytes):
            fault = Fault.TOO_MANY_AT_ONCE
            self.break_off(fault, fault.detail, WHY_NOT_HELD)
            return
        try:
            self._messages += self._reader.feed(payload)
        except FrameTooLarge as error:
            self.break_off(Fault.RESPONSE_TOO_LARGE, Fault.RESPONSE_TOO_LARGE.detail, str(error))
        except FrameError as error:
            self.break_off(Fault.UPSTREAM_MALFORMED, Fault.UPSTREAM_MALFORMED.detail, str(error))
        else:
            if len(self._messages) > 1:
                self._refuse_stream("more than one message")

    def end_response(self, status: CallStatus) -> None:
        response = self._response
        assert response is not None
        assert response.head is not None
        fields = [line for line in returned_fields(response) if line[0].lower() not in _ENCODINGS]
        fields += [(b"Trailer-" + name, value) for name, value in status.metadata]
        error = _error_in(status)

        def drop_taken(sent: Response) -> None:
            for name, _ in set(status.metadata).difference(self.without_taken(status.metadata)):
                sent.headers.remove(b"Trailer-" + name)

        if error is not None:
            fields.insert(0, (b"Content-Type", _JSON))
            self.answer_at_once(TO_HTTP[status.code], fields, orjson.dumps(error), response, drop_taken)
            return
        try:
            self._reader.end()
        except FrameError as malformed:
            self.break_off(Fault.UPSTREAM_INCOMPLETE, Fault.UPSTREAM_INCOMPLETE.detail, str(malformed))
            return
        if not self._messages:
            self._refuse_stream("no message")
            return
        ((flags, message),) = self._messages
        if flags & COMPRESSED:
            encoding = _encoding_of(response)
            if encoding is None:
                self.refuse_encoding()
                return
            if encoding == b"identity":
                self.break_off(
                    Fault.UPSTREAM_MALFORMED,
                    Fault.UPSTREAM_MALFORMED.detail,
                    "a compressed message without grpc-encoding",
                )
                return
            fields.append((b"Content-Encoding", encoding))
        fields.insert(0, (b"Content-Type", self._connect.content_type))
        self._release_memory()  # the exchange takes it while the client has not read the message
        self.answer_at_once(200, fields, message, response, drop_taken)

    def _refuse_stream(self, what: str) -> None:
        told = f"The upstream service has answered a unary call with {what}."
        self.answer_status(GrpcStatus.UNIMPLEMENTED, told)
