"""grpc_web: gRPC-Web for browsers (PROTOCOL-WEB.md of the gRPC project)."""

from collections.abc import Iterable
from typing import ClassVar, Final, final

from fastgw.errors import Fault
from fastgw.exchange import Response
from fastgw.exchange.grpc_status import message_of, status_of
from fastgw.exchange.hooks import TranslateHook
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase, Reply, WarningContext
from fastgw.filters.policies.grpc_bridges.bridge import (
    KEPT_OF_REPLIES,
    MOST,
    CallBridge,
    CallStatus,
    protocol_warnings,
    returned_fields,
)
from fastgw.http.grpc.frames import FrameError, FrameScanner
from fastgw.http.grpc.status import GrpcStatus, status_trailers
from fastgw.http.grpc.web import TextDecoder, WebResponse, WebType, parse_web_type, response_type
from fastgw.upstream.forwarding.forward_action import CallRecorder, Forward

_DROPPED: Final = frozenset((b"x-grpc-web",))


class GrpcWeb(Filter, name="grpc_web", phase=Phase.TRANSFORM, order=10):  # type: ignore[literal-required]  # order: ours
    """Let browsers call the gRPC services behind this route by gRPC-Web, over HTTP/1.1 and HTTP/2.

    Requests with the content type `application/grpc-web` or `application/grpc-web-text` (Base64), with or without
    `+proto`, `+json` and the like, become calls of gRPC. In responses the trailers follow the last message as a frame
    of the body; so do errors of the gateway itself, which have the HTTP status 200 and a `grpc-status`. Messages pass
    one by one in both directions and are not decoded. Other requests, plain gRPC among them, pass unchanged.

    The upstream needs `protocol: grpc`. Pages of other origins need the filter `cors` as well.
    """

    stands_anywhere: ClassVar[bool] = True

    def warnings(self, context: WarningContext) -> Iterable[str]:
        return protocol_warnings(context)

    @property
    def unknown_in_shadow(self) -> str:
        return "translated requests"

    def build(self, env: Env) -> Hooks:
        return Hooks(
            request=_pass, translate=TranslateHook(_translate, of_copies=_translate), reply=_reply, explain=_explain
        )


def _web_type_of(exchange: Exchange) -> WebType | None:
    return parse_web_type(exchange.field(b"content-type")) if exchange.method == b"POST" else None


def _pass(exchange: Exchange) -> None:
    """Let the request pass: `explain` has a line for filters with a request step only."""


def _translate(exchange: Exchange, forward: Forward) -> bool:
    kind = _web_type_of(exchange)
    if kind is None or not isinstance(forward, Forward | CallRecorder):
        return False
    WebBridge(exchange, forward, kind).send_call(kind.codec, (), _DROPPED, None)
    return True


def _reply(exchange: Exchange, reply: Reply) -> Reply:
    kind = _web_type_of(exchange)
    if kind is None or reply.status < 400 or not isinstance(reply.body, bytes):
        return reply
    fields = [line for line in reply.fields if line[0].lower() not in KEPT_OF_REPLIES]
    message = message_of(reply.fault, reply.status, reply.body)
    code = reply.grpc_status
    if code is None:
        code = status_of(reply.fault, reply.status, exchange.reset_code)
    exchange.grpc_status = code.name
    return _status_reply(exchange, kind, code, message, fields, reply.fault)


def _explain(exchange: Exchange) -> str:
    kind = _web_type_of(exchange)
    if kind is None:
        return "not a call of gRPC-Web"
    return f"a call of gRPC-Web in {'text' if kind.is_text else 'binary'} form: becomes a call of gRPC"


def _status_reply(
    exchange: Exchange,
    kind: WebType,
    code: GrpcStatus,
    message: str,
    fields: list[tuple[bytes, bytes]],
    fault: Fault | None,
) -> Reply:
    """Return a response whose body is a frame with the status."""
    kind = response_type(kind, exchange.values(b"accept"))
    body = WebResponse(kind.is_text, MOST).end(status_trailers(code, message))
    return Reply(200, body, [(b"Content-Type", kind.line()), *fields], fault)


@final
class WebBridge(CallBridge):
    """Bridge of a gRPC-Web call."""

    def __init__(self, exchange: Exchange, forward: Forward, kind: WebType) -> None:
        super().__init__(exchange, forward)
        self._kind = kind
        self._decoder = TextDecoder() if kind.is_text else None
        self._scanner = FrameScanner(MOST)
        answered = response_type(kind, exchange.values(b"accept"))
        self._answered = answered
        self._response = WebResponse(answered.is_text, MOST)

    def convert(self, payload: bytes) -> bytes:
        if self._decoder is not None:
            payload = self._decoder.feed(payload)
        self._scanner.feed(payload)
        return payload

    def convert_end(self) -> bytes:
        if self._decoder is not None:
            self._decoder.end()
        self._scanner.end()
        return b""

    def begin_response(self, response: Response) -> None:
        self.respond(200, [(b"Content-Type", self._answered.line()), *returned_fields(response)], response)

    def on_data(self, payload: bytes) -> None:
        try:
            piece = self._response.feed(payload)
        except FrameError as error:
            self.break_off(Fault.UPSTREAM_MALFORMED, Fault.UPSTREAM_MALFORMED.detail, str(error))
            return
        self.send(piece)

    def end_response(self, status: CallStatus) -> None:
        try:
            last = self._response.end(self.without_taken(status.fields))
        except FrameError as error:
            self.break_off(Fault.UPSTREAM_INCOMPLETE, Fault.UPSTREAM_INCOMPLETE.detail, str(error))
            return
        self.finish(last)

    def end_with_fault(self, fault: Fault, detail: str) -> bool:
        if not self._response.between_messages:
            return False
        code = status_of(fault, fault.status, self.exchange.reset_code)
        self.exchange.grpc_status = code.name
        self.finish(self._response.end(status_trailers(code, detail)))
        return True

    def status_reply(self, code: GrpcStatus, message: str) -> Reply:
        return _status_reply(self.exchange, self._kind, code, message, [], None)
