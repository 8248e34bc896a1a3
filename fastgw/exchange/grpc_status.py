"""gRPC statuses for replies of the gateway itself: for a fault, or for a filter's reply."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import orjson

from fastgw.errors import Fault
from fastgw.http.grpc.status import OF_HTTP, GrpcStatus
from fastgw.http.http2.session import ErrorCode
from fastgw.http.reason_phrases import PHRASES

_LATE: Final = frozenset((Fault.UPSTREAM_TIMEOUT, Fault.UPSTREAM_STALLED, Fault.FILTER_TIMEOUT))
_OF_RESETS: Final[Mapping[int, GrpcStatus]] = MappingProxyType(
    {
        ErrorCode.STREAM_CLOSED: GrpcStatus.UNAVAILABLE,  # the specification has none
        ErrorCode.REFUSED_STREAM: GrpcStatus.UNAVAILABLE,
        ErrorCode.CANCEL: GrpcStatus.CANCELLED,
        ErrorCode.ENHANCE_YOUR_CALM: GrpcStatus.RESOURCE_EXHAUSTED,
        ErrorCode.INADEQUATE_SECURITY: GrpcStatus.PERMISSION_DENIED,
        ErrorCode.HTTP_1_1_REQUIRED: GrpcStatus.UNAVAILABLE,  # nothing was processed
    }
)
"""Statuses for the codes of RST_STREAM ("gRPC over HTTP2", Errors); INTERNAL for all others: the server may have
processed the call, and UNAVAILABLE invites clients to repeat it.
"""


def status_of(fault: Fault | None, status: int, reset_code: int | None = None) -> GrpcStatus:
    """Return the gRPC status for a fault, or for the HTTP status of a filter's reply. `reset_code`: as of the
    exchange.
    """
    if fault in _LATE:
        return GrpcStatus.DEADLINE_EXCEEDED
    if fault in (Fault.CONNECTION_LOST, Fault.UPSTREAM_INCOMPLETE) and reset_code is not None:
        return _OF_RESETS.get(reset_code, GrpcStatus.INTERNAL)
    return OF_HTTP.get(status, GrpcStatus.UNKNOWN)


def message_of(fault: Fault | None, status: int, body: bytes = b"") -> str:
    """Return the `grpc-message` for a fault or a status: the detail of the HTTP response. `body`: of the reply."""
    if fault is None:
        return PHRASES.get(status, "")
    try:
        detail = orjson.loads(body)["detail"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return fault.detail
    return detail if isinstance(detail, str) else fault.detail
