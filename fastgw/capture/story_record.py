"""Story of one failed or slow request, as workers send it to the control process, and the order to send stories."""

from typing import Final, final

import msgspec


@final
class StoryOrder(msgspec.Struct, frozen=True, tag=True):
    """Order to send stories."""

    slower_than: float
    """Seconds after which a request is slow."""
    rate: float = 50.0
    """Maximum number of stories per second of a worker; further ones are dropped and counted."""


@final
class DebugOrder(msgspec.Struct, frozen=True, tag=True):
    """Order to answer requests with a valid debug token with their stories, and to send these."""


@final
class StoryFilter(msgspec.Struct, frozen=True):
    """Filter of the route, and what it has decided about the request."""

    name: str
    type: str
    decision: str
    """`passed`, `answered`, or `not reached`."""
    detail: str = ""
    """Reason of the decision, as in `explain`."""
    waited_s: float | None = None
    """Seconds that the request has waited for it; null: it did not wait, or less than a millisecond."""


@final
class StoryAttempt(msgspec.Struct, frozen=True):
    """Attempt at a target. Times are seconds since the beginning of the request; null: it has not come so far, or the
    step was not needed.
    """

    upstream: str
    target: str
    kind: str
    """`first`, `retry` or `hedge`."""
    number: int
    reused: bool
    """Whether its connection had carried a request before."""
    status: int | None
    fault: str | None
    begun_s: float
    queue_left_s: float | None
    """When it left the queue for a place in the upstream's `pool`."""
    tcp_s: float | None
    """When the TCP connection was established."""
    tls_s: float | None
    """When the TLS handshake was completed."""
    sent_s: float | None
    """When it had a connection and the request was sent."""
    first_byte_s: float | None
    """When the head of the response was received."""
    ended_s: float | None


@final
class Story(msgspec.Struct, kw_only=True):
    """Story of one request."""

    date: float
    """End of the request, in epoch seconds."""
    duration_s: float
    reason: str
    """`error`: its status is 500 or above; `slow`; or `debug`: it had a debug token."""
    listener: str
    client: str
    consumer: str | None
    method: str
    scheme: str
    host: str
    path: str
    query: str | None
    protocol: int
    """HTTP version times ten: 10, 11 or 20."""
    status: int
    """Status of the response; 499: the client has left before."""
    route: str | None
    fault: str | None
    fault_detail: str | None
    upstream: str | None
    target: str | None
    upstream_s: float | None
    """Seconds until the head of the upstream's response."""
    retries: int
    cache: str | None
    grpc_status: str | None
    shadow: str | None
    """Decisions of filters in shadow mode."""
    subrequests: str | None
    request_bytes: int
    response_bytes: int
    request_id: str | None
    trace_id: str | None
    filters: list[StoryFilter]
    attempts: list[StoryAttempt]
    debug_id: str | None = None
    """`X-Fastgw-Debug-Story` of its response; null: it had no debug token."""
    number: int = 0
    """Number of the story, given by the control process."""


encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Story).decode
