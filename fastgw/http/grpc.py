"""gRPC over HTTP/2, as far as a gateway has to do with it: statuses, deadlines and the addresses of methods.

What is here follows "gRPC over HTTP2" (PROTOCOL-HTTP2.md) and "HTTP to gRPC Status Code Mapping" of the gRPC project.
"""

import re
from enum import IntEnum
from math import inf
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import quote_from_bytes

TIMEOUT: Final = b"grpc-timeout"
STATUS: Final = b"grpc-status"
_TYPE: Final = re.compile(rb"application/grpc(?:[+;]|$)", re.IGNORECASE)
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = MappingProxyType({b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9})
_MOST: Final = 99_999_999
"""A timeout has eight digits at most."""
_SAFE: Final = bytes(code for code in range(0x20, 0x7F) if code != 0x25)
"""Characters of a message that are not encoded."""


class GrpcStatus(IntEnum):
    """Status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


OF_HTTP: Final = MappingProxyType(
    {
        400: GrpcStatus.INTERNAL,
        401: GrpcStatus.UNAUTHENTICATED,
        403: GrpcStatus.PERMISSION_DENIED,
        404: GrpcStatus.UNIMPLEMENTED,
        405: GrpcStatus.UNIMPLEMENTED,
        408: GrpcStatus.DEADLINE_EXCEEDED,
        413: GrpcStatus.RESOURCE_EXHAUSTED,
        414: GrpcStatus.RESOURCE_EXHAUSTED,
        422: GrpcStatus.INVALID_ARGUMENT,
        429: GrpcStatus.RESOURCE_EXHAUSTED,
        431: GrpcStatus.RESOURCE_EXHAUSTED,
        499: GrpcStatus.CANCELLED,
        500: GrpcStatus.INTERNAL,
        501: GrpcStatus.UNIMPLEMENTED,
        502: GrpcStatus.UNAVAILABLE,
        503: GrpcStatus.UNAVAILABLE,
        504: GrpcStatus.UNAVAILABLE,
    }
)
"""Statuses of gRPC for answers of the gateway's own. Where the upstream was late, it is DEADLINE_EXCEEDED instead."""

TO_HTTP: Final = MappingProxyType(
    {
        GrpcStatus.UNKNOWN: 500,
        GrpcStatus.DEADLINE_EXCEEDED: 504,
        GrpcStatus.INTERNAL: 500,
        GrpcStatus.UNAVAILABLE: 503,
        GrpcStatus.DATA_LOSS: 500,
    }
)
"""Statuses that say as much over HTTP, of those for which the target is to blame; the others are the caller's."""


class Fielded(Protocol):
    """Head of a message."""

    def first(self, name: bytes) -> bytes | None: ...


def is_grpc(head: Fielded) -> bool:
    """Whether a request is a call of gRPC; not of gRPC-Web."""
    kind = head.first(b"content-type")
    return kind is not None and _TYPE.match(kind) is not None


def timeout_of(head: Fielded) -> float | None:
    """Return the seconds that the caller waits; inf: as long as it takes; None: they cannot be read."""
    value = head.first(TIMEOUT)
    if value is None:
        return inf
    found = _TIMEOUT.fullmatch(value)
    return None if found is None else int(found[1]) * _UNITS[found[2]]


def timeout_line(seconds: float) -> bytes:
    """Return the line that says how many seconds are left, in eight digits at most; never none."""
    for unit in (b"m", b"S", b"H"):
        count = int(seconds / _UNITS[unit])
        if count <= _MOST:
            return b"Grpc-Timeout: %d%b\r\n" % (max(count, 1), unit)
    return b"Grpc-Timeout: %dH\r\n" % _MOST


def outcome_of(status: int, grpc_status: bytes | None) -> int:
    """Return the HTTP status that stands for the outcome of a call. `grpc_status`: as sent; None: there is none."""
    if grpc_status is None or status != 200:
        return status
    code = int(grpc_status) if grpc_status.isdigit() and len(grpc_status) < 3 else GrpcStatus.UNKNOWN
    return TO_HTTP.get(code, 200)  # type: ignore[call-overload, no-any-return]  # an IntEnum is an int


def status_lines(code: int, message: str) -> bytes:
    """Return the lines of a status. `message`: percent-encoded, but for printable ASCII."""
    encoded = quote_from_bytes(message.encode(), _SAFE).encode()
    return b"grpc-status: %d\r\ngrpc-message: %b\r\n" % (code, encoded)
