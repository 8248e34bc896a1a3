"""Statuses of gRPC, on the wire and over HTTP.

After "gRPC over HTTP2" (PROTOCOL-HTTP2.md) and "HTTP to gRPC Status Code Mapping" of the gRPC project.
"""

import re
from collections.abc import Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

STATUS: Final = b"grpc-status"
MESSAGE: Final = b"grpc-message"
DETAILS: Final = b"grpc-status-details-bin"
STATUS_FIELDS: Final = frozenset((STATUS, MESSAGE, DETAILS))
_CODE: Final = re.compile(rb"[0-9]{1,10}")
Trailers = tuple[tuple[bytes, bytes], ...]
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


_BY_TEXT: Final[dict[bytes | None, GrpcStatus]] = {b"%d" % status: status for status in GrpcStatus}
_NAMES: Final = {text: status.name for text, status in _BY_TEXT.items()}
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
"""gRPC statuses for responses of the gateway itself, by HTTP status. If the upstream has timed out, it is
DEADLINE_EXCEEDED instead.
"""

OF_UPSTREAM: Final = MappingProxyType(
    {
        400: GrpcStatus.INTERNAL,
        401: GrpcStatus.UNAUTHENTICATED,
        403: GrpcStatus.PERMISSION_DENIED,
        404: GrpcStatus.UNIMPLEMENTED,
        429: GrpcStatus.UNAVAILABLE,
        502: GrpcStatus.UNAVAILABLE,
        503: GrpcStatus.UNAVAILABLE,
        504: GrpcStatus.UNAVAILABLE,
    }
)
"""gRPC statuses for responses of an upstream without one, by HTTP status; UNKNOWN for all others."""

TO_HTTP: Final = MappingProxyType(
    {
        GrpcStatus.OK: 200,
        GrpcStatus.CANCELLED: 499,
        GrpcStatus.UNKNOWN: 500,
        GrpcStatus.INVALID_ARGUMENT: 400,
        GrpcStatus.DEADLINE_EXCEEDED: 504,
        GrpcStatus.NOT_FOUND: 404,
        GrpcStatus.ALREADY_EXISTS: 409,
        GrpcStatus.PERMISSION_DENIED: 403,
        GrpcStatus.RESOURCE_EXHAUSTED: 429,
        GrpcStatus.FAILED_PRECONDITION: 400,
        GrpcStatus.ABORTED: 409,
        GrpcStatus.OUT_OF_RANGE: 400,
        GrpcStatus.UNIMPLEMENTED: 501,
        GrpcStatus.INTERNAL: 500,
        GrpcStatus.UNAVAILABLE: 503,
        GrpcStatus.DATA_LOSS: 500,
        GrpcStatus.UNAUTHENTICATED: 401,
    }
)
"""HTTP statuses for clients that do not use gRPC, as defined by google.rpc.Code and the Connect protocol."""

_TO_BLAME: Final = frozenset(
    (
        GrpcStatus.UNKNOWN,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.INTERNAL,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    )
)
"""Statuses that are faults of the target; the others are those of the caller."""


def parse_status(value: bytes | None) -> GrpcStatus:
    """Return the status that was sent; UNKNOWN if it is missing or not a gRPC status."""
    known = _BY_TEXT.get(value)
    if known is not None:
        return known
    if value is None or _CODE.fullmatch(value) is None or int(value) > GrpcStatus.UNAUTHENTICATED:
        return GrpcStatus.UNKNOWN
    return GrpcStatus(int(value))


def status_name(value: bytes) -> str:
    """Return the name of the status that was sent, as of `parse_status`."""
    return _NAMES.get(value) or parse_status(value).name


def check_status(values: Sequence[bytes]) -> tuple[bytes | None, str]:
    """Return the status of a call, and why it is not the one that was sent: UNKNOWN stands for an invalid one, as the
    specification requires. `values`: those of all lines of `grpc-status`. None: there is none.
    """
    if not values:
        return None, ""
    if len(values) == 1 and values[0] in _BY_TEXT:
        return values[0], ""
    if len(values) == 1 and _CODE.fullmatch(values[0]) is not None:
        return values[0], ""
    which = "an invalid" if len(values) == 1 else "more than one"
    return b"%d" % GrpcStatus.UNKNOWN, f"The upstream service has sent {which} status."


def check_trailers(trailers: Trailers) -> tuple[bytes | None, Trailers, str]:
    """Return the status in trailers, the trailers with UNKNOWN in place of an invalid status, and why."""
    values: list[bytes] = []
    for name, value in trailers:
        if name.lower() == STATUS:
            values.append(value)
    status, why = check_status(values)
    return status, replace_status(trailers, why) if why else trailers, why


def status_at_end(status: int, grpc_status: bytes | None) -> bytes | None:
    """Return the status of a call whose response has ended: UNKNOWN if none was sent with the HTTP status 200, as for
    every client. `grpc_status`: as of `check_status`. None: the HTTP status stands for it.
    """
    return b"%d" % GrpcStatus.UNKNOWN if grpc_status is None and status == 200 else grpc_status


def replace_status(trailers: Trailers, why: str) -> Trailers:
    """Return trailers with the status UNKNOWN in place of theirs."""
    kept = [line for line in trailers if line[0].lower() not in STATUS_FIELDS]
    return *kept, *status_trailers(GrpcStatus.UNKNOWN, why)


def outcome_of(status: int, grpc_status: bytes | None, own_deadline: bool = False) -> int:
    """Return the HTTP status for the outcome of a call. `grpc_status`: as of `status_at_end`; None also if it has not
    ended. `own_deadline`: the caller has set a deadline, which says nothing about the target if it has passed.
    """
    if grpc_status is None or status != 200:
        return status
    code = parse_status(grpc_status)
    if code not in _TO_BLAME or (own_deadline and code == GrpcStatus.DEADLINE_EXCEEDED):
        return 200
    return TO_HTTP[code]


def encode_message(text: str) -> bytes:
    """Encode the text of `grpc-message`: percent-encoded UTF-8, except printable ASCII."""
    return quote_from_bytes(text.encode(), _SAFE).encode()


def decode_message(value: bytes) -> str:
    """Decode `grpc-message`. Invalid encodings are kept as they are, as the specification requires."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


def status_trailers(code: int, message: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the trailers of a status. `message`: unencoded."""
    return (STATUS, b"%d" % code), (MESSAGE, encode_message(message))


def status_lines(code: int, message: str) -> bytes:
    """Return the header lines of a status. `message`: unencoded."""
    return b"".join(b"%b: %b\r\n" % line for line in status_trailers(code, message))
