"""Captured exchange as workers send it to the control process, and the order to capture exchanges."""

from typing import Any, Final, final

import msgspec

MOST_BODY: Final = 1024 * 1024
"""Maximum bytes of a body that can be captured."""


@final
class CaptureOrder(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Order to capture exchanges. Empty lists select all. A request that matches no route is not captured."""

    routes: tuple[str, ...] = ()
    methods: tuple[bytes, ...] = ()
    path_prefix: bytes = b""
    """Beginning of the path, as it was received."""
    statuses: tuple[str, ...] = ()
    """Statuses, such as `404`, and classes of them, such as `5xx`."""
    consumers: tuple[str, ...] = ()
    ratio: float = 1.0
    """Share of the selected requests that are captured."""
    rate: float = 100.0
    """Maximum number of exchanges per second of a worker; further ones are dropped."""
    body_bytes: int = 16 * 1024
    """Maximum bytes of each body; the rest is cut off. 0 = no bodies."""
    until_date: float = 0.0
    """When the capture ends, in epoch seconds, even without a request to end it."""


@final
class CapturedExchange(msgspec.Struct, kw_only=True):
    """Exchange that has ended. It contains credentials and other secrets: `redaction.redacted` before it is shown or
    kept. Statuses of exchanges without a response are 499.
    """

    date: float
    """End of the exchange, in epoch seconds."""
    duration_s: float
    listener: str
    route: str
    client_ip: str
    scheme: bytes
    method: bytes
    host: bytes
    path: bytes
    """Path as it was received."""
    query: bytes | None
    version: int
    """10, 11 or 20."""
    request_head: bytes
    """Request head as it was received, in the text of HTTP/1.1 also for HTTP/2; without the line that ends it."""
    request_body: bytes
    request_bytes: int
    """Length of the whole body."""
    request_complete: bool
    """Whether `request_body` is the whole body."""
    status: int
    response_fields: list[tuple[bytes, bytes]]
    """Header fields of the response after all filters."""
    response_body: bytes
    """Body of the response after all filters."""
    response_bytes: int
    response_complete: bool
    """Whether `response_body` is the whole body."""
    consumer: str = ""
    claims: dict[str, Any] | None = None
    """Verified claims of the client's token; None: there are none, or they cannot be encoded."""
    upstream: str = ""
    target: str = ""
    upstream_s: float = -1.0
    retries: int = 0
    fault: str = ""
    why: str = ""
    cache_result: str = ""
    grpc_status: str = ""
    shadowed: str = ""
    request_id: bytes = b""
    trace_id: bytes = b""


encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(CapturedExchange).decode


def matches_status(statuses: tuple[str, ...], status: int) -> bool:
    """Whether a status is one of these, or in one of these classes."""
    return not statuses or f"{status}" in statuses or f"{status // 100}xx" in statuses
