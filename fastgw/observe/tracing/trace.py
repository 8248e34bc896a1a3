"""What a trace records until the end of its request: attempts at targets, and waits for filters."""

from typing import Final, NamedTuple

ERRORS: Final = 500
"""Responses from this status on are errors."""


class EndedAttempt(NamedTuple):
    """One attempt at a target that has ended. Times are monotonic seconds; 0.0 for steps that it has not reached."""

    span_id: bytes
    upstream: str
    """Name of the upstream; "": a service that a filter has asked by a URL of its own."""
    target: str
    """`host:port`, or `unix:` and the path of a socket."""
    scheme: bytes
    kind: str
    """`first`, `retry` or `hedge`."""
    number: int
    reused: bool
    status: int
    """Status of the response; 0: there was none."""
    fault: str
    begun_at: float
    connected_at: float
    """When a stream of a connection was lent."""
    head_at: float
    ended_at: float
    request_line: bytes
    """First line of the request that was sent; with `is_as_received`, its method and target."""
    tcp_at: float = 0.0
    """When the TCP connection was established, if this attempt has waited for it."""
    tls_at: float = 0.0
    """When the TLS handshake was completed."""
    grpc_status: str = ""
    queue_left_at: float = 0.0
    """When it left the queue for a place in the upstream's `pool`, if it was in it."""
    is_call: bool = False
    """Whether it is a gRPC call."""
    is_as_received: bool = False
    """Whether it is a client's request of which nothing was sent, or not recorded."""


class EndedWait(NamedTuple):
    """A filter that the request has waited for. Times are monotonic seconds."""

    name: str
    begun_at: float
    ended_at: float


MOST_ATTEMPTS: Final = 256
"""Maximum number of attempts with a span: a connection may cause requests for as long as it lives. Further ones belong
to the trace too: their targets get the server span as parent.
"""
MOST_TIMELINE: Final = 32
"""Maximum number of attempts and waits that an exchange without a trace keeps."""
