"""The session of one HTTP/2 connection: the compiled module where it is there, and what it tells of."""

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from fastgw.compiled import PURE

_library: str | None = None
_why_missing: str | None = None
if TYPE_CHECKING:
    from fastgw.http.http2._session import Session as Session
elif PURE:
    Session, _why_missing = None, "FASTGW_PURE_PYTHON is set"
else:
    try:
        from fastgw.http.http2._session import VERSION as _library
        from fastgw.http.http2._session import Session
    except ImportError as error:  # not compiled, or the library of the system is missing
        Session, _why_missing = None, str(error)

Event = tuple[int, int, Any]
"""Kind, stream, and a value by the kind."""


class EventKind(IntEnum):
    """Kinds of events: bytes that a peer has sent, or the end of a stream."""

    HEAD = 0
    """A head, in the text of HTTP/1.1; a body or trailers follow."""
    DATA = 1
    END = 2
    """The peer ends its side of the stream; the value is the lines of its trailers, or empty."""
    CLOSED = 3
    """The stream is over; the value is an error code (RFC 9113 section 7), 0: both sides have ended."""
    REFUSED = 4
    """A head that must not be served; the value says why."""
    GOAWAY = 5
    """The peer takes no streams above this one; the value is an error code."""
    INTERIM = 6
    """The head of an interim response, as in `HEAD`."""
    PONG = 7
    TOO_LONG = 8
    """A head above the bounds; the value is its path, as far as it was read."""
    MALFORMED = 9
    """A head that the library has refused; the stream was reset. The value says why."""
    SENT = 10
    """Bytes of a body have been sent, of which it was asked how many are held (`Session.held`)."""
    WHOLE = 11
    """A head with which the peer ends its side of the stream."""
    CONNECT = 12
    """The head of an extended CONNECT (RFC 8441): its protocol, its text, without framing, and whether the stream ends
    with it."""
    SETTINGS = 13
    """A server has said what it allows."""
    BROKEN = 14
    """The stream was reset here, as the peer has broken the protocol on it. `CLOSED` follows."""


HEAD, DATA, END, CLOSED, REFUSED, GOAWAY, INTERIM, PONG, TOO_LONG, MALFORMED, SENT, WHOLE, CONNECT, SETTINGS, BROKEN = (
    map(int, EventKind)
)


class ErrorCode(IntEnum):
    """Error codes of RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    REFUSED_STREAM = 7
    CANCEL = 8
    ENHANCE_YOUR_CALM = 11


def describe() -> str:
    """Describe the library for people, or why there is none."""
    return f"libnghttp2 {_library}" if _why_missing is None else f"not offered: {_why_missing}"


def why_missing() -> str | None:
    """Return why HTTP/2 is not offered; None: it is."""
    return _why_missing


PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of every client (RFC 9113 section 3.4)."""
