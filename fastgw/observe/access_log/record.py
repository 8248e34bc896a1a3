"""Record of a finished exchange, from which access log lines are made."""

from typing import Any, Final, Protocol

import msgspec

TCP: Final = 1
UDP: Final = 2
"""Protocol in place of an HTTP version: a connection of a TCP listener, a session of a UDP listener."""
_SWITCHING_PROTOCOLS: Final = 101


class LoggedExchange(Protocol):
    """Exchange, as far as lines show more of it than its record has. The types are those of higher packages."""

    @property
    def head(self) -> Any:
        """Request head, which has `received_fields`; that of a connection has no headers."""

    @property
    def response(self) -> object:
        """Response or response head, which has `values`, or a ready answer, which is bytes; None: there was none."""


class LoggedBodies(Protocol):
    """Bodies of an exchange, as far as they were collected: their beginnings. `redact`: names of parameters, members
    and headers whose values are masked, in addition to well-known ones.
    """

    def request_text(self, redact: tuple[str, ...]) -> str | None:
        """Return the body of the request without secrets; None: it has none."""

    def response_text(self, redact: tuple[str, ...]) -> str | None:
        """Return the body of the response without secrets; None: it has none."""


class Record(msgspec.Struct, gc=False):
    """One finished exchange. Bytes come from the peer, unvalidated. Not available: `""`, `b""`, None, or a negative
    time.
    """

    ended_date: float
    """End of the exchange, in epoch seconds."""
    client: str
    """Address of the client, without port."""
    listener: str
    method: bytes
    scheme: bytes
    host: bytes
    """Host of the request, or the server name (SNI) of a TCP connection."""
    path: bytes
    """Path as the client sent it (`raw_path`)."""
    query: bytes | None
    """Query without the `?`. None: the request target had no `?`."""
    version: int
    """HTTP version of the request times ten: 10, 11; or `TCP` or `UDP`."""
    status: int
    """Status sent to the client; 499: the client left before a final response."""
    request_bytes: int
    """Bytes of the request body."""
    response_bytes: int
    """Bytes of the response body."""
    duration_s: float
    """Seconds from the first byte of the request head to the end of the exchange. Never negative."""
    consumer: str = ""
    """Name of the authenticated consumer."""
    route: str = ""
    upstream: str = ""
    target: str = ""
    """`host:port` of the last attempt."""
    upstream_s: float = -1.0
    """Seconds from the same instant until the upstream's response head was complete; negative: it never was."""
    retries: int = 0
    fault: str = ""
    """Label of the fault that ended the exchange or caused its response."""
    fault_detail: str = ""
    """Detail of the fault; "" = none."""
    request_id: bytes = b""
    cache: str = ""
    """Result of the route's cache; "" = the route has none, or it was not asked."""
    grpc_status: str = ""
    """Name of the status of a gRPC call; "" = no call, or it has ended without one."""
    shadowed: str = ""
    """Effects that filters in shadow mode would have had, by filter name."""
    subrequests: str = ""
    """Sub-requests, in the order of their completion: upstream, target, status or fault, and seconds."""
    user_agent: bytes | None = None
    referer: bytes | None = None
    connect_protocol: bytes = b""
    """Protocol of an extended CONNECT over HTTP/2."""
    tunnel: dict[str, object] | None = None
    """Message counts and close code of a WebSocket, if the route inspects it."""
    trace_id: bytes = b""
    """Trace of the request, 32 hexadecimal digits; b"" = requests are not traced."""
    span_id: bytes = b""
    """Span of the request in it, 16 hexadecimal digits."""
    exchange: LoggedExchange | None = None
    """The exchange itself, for the headers that a log shows."""
    bodies: LoggedBodies | None = None
    """Bodies of the exchange, for the logs that show them; None: no log does, or the request matched no route."""

    @property
    def is_tunnel(self) -> bool:
        """Whether the request has become a tunnel: its duration is that of the tunnel. Over HTTP/2 that is a 2xx to an
        extended CONNECT (RFC 8441 section 5).
        """
        return self.status == _SWITCHING_PROTOCOLS or (bool(self.connect_protocol) and 200 <= self.status < 300)
