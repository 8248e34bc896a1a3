"""Record of a finished exchange: the one thing that counters and access logs are made from."""

from typing import Final

import msgspec

TCP: Final = 1
UDP: Final = 2
"""Values in place of a version of HTTP: a connection of a TCP listener, a session of a UDP listener."""


class Record(msgspec.Struct, gc=False):
    """One finished exchange. Bytes are the peer's, unjudged; `""`, `b""`, None and negative times: there was none."""

    ended_date: float
    """When the exchange ended, epoch seconds."""
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
    """Status that the client saw; 499: it left before it saw anything final."""
    request_bytes: int
    """Bytes of the request body."""
    response_bytes: int
    """Bytes of the response body."""
    duration_s: float
    """Seconds from the first byte of the request head to the end. Never negative."""
    consumer: str = ""
    """Name of the authenticated consumer."""
    route: str = ""
    upstream: str = ""
    target: str = ""
    """`host:port` that was tried last."""
    upstream_s: float = -1.0
    """Seconds until the upstream's response head was complete."""
    retries: int = 0
    fault: str = ""
    """Label of the fault that ended the exchange or made its answer."""
    fault_detail: str = ""
    """Detail of the fault, where more is known than the label says."""
    request_id: bytes = b""
    shadowed: str = ""
    """Effects that filters in shadow would have had, each by its name."""
    subrequests: str = ""
    """Sub-requests, in the order of their ends: of each its upstream, target, status or fault, and seconds."""
    user_agent: bytes | None = None
    referer: bytes | None = None
    connect_protocol: bytes = b""
    """Protocol of the tunnel that an extended CONNECT of HTTP/2 has asked for."""
    tunnel: dict[str, object] | None = None
    """Messages and the end of a WebSocket, where the route looks into it."""
