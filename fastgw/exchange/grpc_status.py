"""gRPC statuses for replies of the gateway itself: for a fault, or for a filter's reply."""

from typing import Final

import orjson

from fastgw.errors import Fault
from fastgw.http.grpc.status import OF_HTTP, GrpcStatus
from fastgw.http.http1.serializer_reference import PHRASES

_LATE: Final = frozenset((Fault.UPSTREAM_TIMEOUT, Fault.UPSTREAM_STALLED, Fault.FILTER_TIMEOUT))


def status_of(fault: Fault | None, status: int) -> GrpcStatus:
    """Return the gRPC status for a fault, or for the HTTP status of a filter's reply."""
    if fault in _LATE:
        return GrpcStatus.DEADLINE_EXCEEDED
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
