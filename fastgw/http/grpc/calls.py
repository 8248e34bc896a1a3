"""Heads of gRPC calls: content type and deadline. Which requests are calls of gRPC, gRPC-Web or Connect."""

import re
from math import ceil, inf
from types import MappingProxyType
from typing import Final, Protocol

from fastgw.http.grpc import connect
from fastgw.http.grpc.web import parse_web_type

TIMEOUT: Final = b"grpc-timeout"
GRPC_TIMEOUT: Final = frozenset((TIMEOUT,))
_TYPE: Final = re.compile(rb"application/grpc(?:\+|[ \t]*;|$)", re.IGNORECASE)
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = MappingProxyType({b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9})
_WRITTEN: Final = tuple(b"u m S M H".split())
_MOST: Final = 99_999_999
"""Maximum of a timeout: eight digits."""
_INEXACT_S: Final = 1e-8
"""Seconds by which the difference of two times may be too large."""


class Fielded(Protocol):
    """Head of a message."""

    def first(self, name: bytes) -> bytes | None: ...


class QueryHead(Fielded, Protocol):
    """Head of a request with its query."""

    @property
    def method(self) -> bytes: ...
    @property
    def query(self) -> bytes | None: ...


class CallHead(Fielded, Protocol):
    """Head of a request."""

    @property
    def method(self) -> bytes: ...
    @property
    def version(self) -> int: ...


def is_grpc(head: Fielded) -> bool:
    """Whether a request is a gRPC call (not gRPC-Web)."""
    kind = head.first(b"content-type")
    return kind == b"application/grpc" or (kind is not None and _TYPE.match(kind) is not None)


def is_rpc(head: QueryHead) -> bool:
    """Whether a library of gRPC, gRPC-Web or Connect has sent the request, by its own statement."""
    kind = head.first(b"content-type")
    return (
        is_grpc(head)
        or parse_web_type(kind) is not None
        or connect.stream_codec(kind) is not None
        or head.first(connect.VERSION) is not None
        or (head.method == b"GET" and connect.asks_by_get(head.query))
    )


def timeout_of(head: Fielded) -> float | None:
    """Return the timeout of the caller in seconds; inf: none; None: it is invalid."""
    value = head.first(TIMEOUT)
    if value is None:
        return inf
    found = _TIMEOUT.fullmatch(value)
    return None if found is None else int(found[1]) * _UNITS[found[2]]


def timeout_of_call(head: CallHead) -> float | None:
    """Return the same for a gRPC call over HTTP/2; None also for any other request."""
    return timeout_of(head) if head.method == b"POST" and head.version == 20 and is_grpc(head) else None


def timeout_line(seconds: float) -> bytes:
    """Return the header line with the remaining seconds, in at most eight digits; never 0. They are rounded up to the
    smallest unit that has so many, so that the server's deadline is not before the caller's. A caller
    cannot say so long a time in a smaller unit but nanoseconds: the server gets no more than any other caller has said.
    """
    for unit in _WRITTEN:
        count = ceil((seconds - _INEXACT_S) / _UNITS[unit])
        if count <= _MOST:
            return b"Grpc-Timeout: %d%b\r\n" % (max(count, 1), unit)
    return b"Grpc-Timeout: %dH\r\n" % _MOST
