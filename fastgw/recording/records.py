"""Records of requests: a request with its response, and the exchanges with upstreams that it has caused.

Heads are in the text of HTTP/1.1, whatever the version; bodies are without framing. A body is cut at the recording's
limit, which is marked. Credentials are masked before a record leaves the worker.
"""

from typing import Final

import msgspec

MASK: Final = b"***"
"""Replacement of masked values."""


class RecordedBody(msgspec.Struct, array_like=True):
    """Beginning of a body. `length`: bytes of the whole body."""

    content: bytes = b""
    length: int = 0
    is_cut: bool = False
    """Whether it was longer than the limit, or did not end."""


class RecordedCall(msgspec.Struct, array_like=True):
    """Attempt at a target: the request as it was sent, and the response as it was received."""

    upstream: str
    target: str
    request: bytes
    """Head of the request."""
    request_body: RecordedBody
    status: int = 0
    """0: there was no response."""
    response: bytes = b""
    """Head of the response."""
    response_body: RecordedBody = msgspec.field(default_factory=RecordedBody)
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    fault: str = ""
    """Label of the fault that has ended the attempt."""
    is_over: bool = False
    """Whether the response was received to its end."""
    seconds: float = 0.0
    """Seconds until the response head."""


class RecordedIdentity(msgspec.Struct, array_like=True):
    """Client as the filters have authenticated it."""

    consumer: str = ""
    groups: tuple[str, ...] = ()
    claims: bytes = b""
    """Verified claims of a token, as JSON; b"": none."""
    is_authenticated: bool = False
    """Whether a filter has authenticated the client, with or without a name."""


class RecordedRequest(msgspec.Struct, array_like=True):
    """A request of a client with everything that has become of it."""

    date: float
    """Epoch seconds of its end."""
    seconds: float
    """Duration until the end of the response."""
    listener: str
    scheme: bytes
    peer_ip: str
    peer_port: int
    server_port: int
    is_trusted: bool
    """Whether the peer is a trusted proxy."""
    client_ip: str
    version: int
    """HTTP version times ten."""
    request: bytes
    """Head of the request."""
    request_body: RecordedBody
    request_trailers: tuple[tuple[bytes, bytes], ...]
    identity: RecordedIdentity
    route: str
    """Name of the route; "": none was found."""
    status: int
    """0: the client has got no response."""
    response: bytes
    """Head of the response."""
    response_body: RecordedBody
    trailers: tuple[tuple[bytes, bytes], ...]
    fault: str
    """Label of the fault; "": none."""
    why: str
    """Detail of the fault."""
    answered_by: str
    """Name of the filter that has answered; "": none."""
    shadowed: str
    """Decisions of filters in shadow mode, as in the log."""
    cache_result: str
    calls: tuple[RecordedCall, ...]
    sender: str | None = None
    """Address of the sender of its PROXY header; null: there was none."""


class RecordingBegin(msgspec.Struct, array_like=True):
    """First entry of a recording."""

    version: str
    """Version of fastgw."""
    generation: int
    """Generation of the configuration at the beginning."""
    date: float


class RecordingEnd(msgspec.Struct, array_like=True):
    """Last entry of a recording."""

    requests: int
    dropped: int
    """Requests that were not recorded because a bound was reached."""


def encode(entry: RecordedRequest | RecordingBegin | RecordingEnd) -> bytes:
    return msgspec.msgpack.encode(entry)


decode_request: Final = msgspec.msgpack.Decoder(RecordedRequest).decode
decode_begin: Final = msgspec.msgpack.Decoder(RecordingBegin).decode
decode_end: Final = msgspec.msgpack.Decoder(RecordingEnd).decode
