"""gRPC responses of the gateway itself: trailers-only, with status 200 and the reason in `grpc-status`."""

from collections.abc import Callable

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Response
from fastgw.exchange.grpc_status import message_of, status_of
from fastgw.http.field_names import HOP_BY_HOP
from fastgw.http.grpc.calls import is_grpc
from fastgw.http.grpc.status import GrpcStatus, status_lines
from fastgw.http.http1 import serializer

_ENTITY = frozenset((b"content-type", b"content-length", b"content-encoding", b"content-language"))


def answers_grpc(exchange: Exchange, response: Response, ended: bool) -> bool:
    """Whether a response of the gateway itself is sent as a gRPC status: to a call, whose method is POST. Without a
    route, the request's content type decides.
    """
    if not ended or response.status < 400 or exchange.head.method != b"POST":
        return False
    return exchange.is_call or (exchange.route is None and is_grpc(exchange.head))


def trailers_only(
    exchange: Exchange, response: Response, body: bytes, date_line: Callable[[], bytes], request_id: bytes
) -> bytes:
    """Serialize a response as headers that are also trailers ("Trailers-Only"); `body` is left out."""
    fault, dropped, lines = exchange.fault, response.dropped, response.added
    if request_id:
        lines += serializer.id_line(request_id)
        dropped |= serializer.REQUEST_IDS
    if b"date" not in response.headers:
        lines += date_line()
    message = message_of(fault, response.status, body)
    block = response.headers.render(dropped | HOP_BY_HOP | _ENTITY)
    status = status_of(fault, response.status, exchange.reset_code)
    exchange.grpc_status = status.name
    lines += b"content-type: application/grpc\r\n" + status_lines(status, message)
    return b"%b%b%b\r\n" % (serializer.status_line(200), block, lines)


def late_status(exchange: Exchange, fault: Fault) -> bytes | None:
    """Return the trailers that end a call whose response has begun; None: only a reset can report the failure."""
    response = exchange.response
    if response is None or response.head is None or not exchange.is_call:
        return None
    if response.head.first(b"content-length") is not None:
        exchange.grpc_status = GrpcStatus.INTERNAL.name  # what callers make of the reset, by its INTERNAL_ERROR
        return None
    status = status_of(fault, fault.status, exchange.reset_code)
    exchange.grpc_status = status.name
    return status_lines(status, fault.detail)
