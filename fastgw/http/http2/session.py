"""HTTP/2 session of a connection, and the events that it returns."""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

from fastgw.http.http2._session import VERSION as LIBRARY_VERSION
from fastgw.http.http2._session import HeldBytes as HeldBytes
from fastgw.http.http2._session import Session as Session

Event = tuple[int, int, Any]
"""Kind, stream, and a value that depends on the kind."""


class EventKind(IntEnum):
    """Kinds of events: frames received from the peer, or the end of a stream."""

    HEAD = 0
    """A head as HTTP/1.1 text; a body or trailers follow."""
    DATA = 1
    END = 2
    """The peer has ended its side of the stream; the value is the lines of its trailers, or empty."""
    CLOSED = 3
    """The stream is closed; the value is an error code (RFC 9113 section 7), 0: both sides have ended it."""
    REFUSED = 4
    """A head that must not be served; the value is the reason."""
    GOAWAY = 5
    """The peer does not process streams above this one; the value is an error code."""
    INTERIM = 6
    """The head of an interim response, as in `HEAD`."""
    PONG = 7
    TOO_LONG = 8
    """A head above the limits. The value is as in `HEAD` what was read of a request until then, empty for a response,
    and None for trailers.
    """
    MALFORMED = 9
    """A head rejected by the library; the stream was reset. The value is the reason."""
    SENT = 10
    """Bytes of a body were sent, after `Session.held` was called for it."""
    WHOLE = 11
    """A head with which the peer has ended its side of the stream."""
    CONNECT = 12
    """The head of an extended CONNECT (RFC 8441): its protocol, its text without framing, and whether the stream ends
    with it.
    """
    SETTINGS = 13
    """A server has sent its SETTINGS."""
    BROKEN = 14
    """The stream was reset here, as the peer has broken the protocol on it. `CLOSED` follows."""
    REQUEST = 15
    """A request that was received in one piece: its head as HTTP/1.1 text, as in `HEAD`, and its body, not empty."""
    DISCARDED = 16
    """The stream was reset before all of its response was sent; the value is the number of bytes that were not.
    `CLOSED` follows.
    """


(
    HEAD,
    DATA,
    END,
    CLOSED,
    REFUSED,
    GOAWAY,
    INTERIM,
    PONG,
    TOO_LONG,
    MALFORMED,
    SENT,
    WHOLE,
    CONNECT,
    SETTINGS,
    BROKEN,
    REQUEST,
    DISCARDED,
) = map(int, EventKind)


class ErrorCode(IntEnum):
    """Error codes of RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def reset_reason(code: int) -> str:
    """Return the reason of a failure by RST_STREAM, for the log."""
    return f"reset: {ErrorCode(code).name if code <= ErrorCode.HTTP_1_1_REQUIRED else code}"


ENDING, IN_HEAD, HAS_OUTPUT, HOLDS, FULL = 1, 2, 4, 8, 16
"""Flags of `Session.state`."""
STALLED_S: Final = 1.0
"""Seconds in which a receiver may take nothing of a body while the process holds too many bytes of bodies."""
FRAME_HEADER: Final = 9
"""Bytes of a frame beside its payload."""
FEW_EVENTS: Final = 64
"""Events of one read above which their frames count as framing: they are small."""


def framing_bytes(events: list[Event]) -> int:
    """Return the bytes of framing in a read with these events; 0 for an ordinary one."""
    return FRAME_HEADER * len(events) if len(events) > FEW_EVENTS else 0


class Waiting(Protocol):
    """A stream with a received body."""

    waits_since: float
    """If its receiver takes nothing for now: when that began, in monotonic seconds; otherwise infinite."""

    @property
    def kept_bytes(self) -> int:
        """Number of bytes that were received, and not taken by their receiver."""


W = TypeVar("W", bound=Waiting)


def stalled_streams(session: "Session", streams: Iterable[W], now: float) -> Iterator[W]:
    """Yield streams to break off while the process holds too many bytes, and this session more than its share.

    Those that have waited longest are the first, from `STALLED_S` on. Together they have half of what it holds; those
    of which it holds nothing go on.
    """
    to_free = session.unconsumed // 2 if session.state() & FULL else 0
    if not to_free:
        return
    stalled = [stream for stream in streams if stream.waits_since <= now - STALLED_S and stream.kept_bytes]
    for stream in sorted(stalled, key=attrgetter("waits_since")):
        if to_free <= 0:
            return
        to_free -= stream.kept_bytes
        yield stream


def describe() -> str:
    """Describe the library for people."""
    return f"libnghttp2 {LIBRARY_VERSION}"


PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of every client (RFC 9113 section 3.4)."""
