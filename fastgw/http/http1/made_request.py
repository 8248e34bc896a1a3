"""Requests that the gateway makes itself: their heads are those of received requests, with the same meaning."""

from collections.abc import Iterable
from typing import TypeAlias

from fastgw.http.field_names import WRITTEN_HERE
from fastgw.http.fields import Fields
from fastgw.http.http1.parser import make_request
from fastgw.http.messages import RequestHead

Length: TypeAlias = int | None
_SIZED = (b"POST", b"PUT", b"PATCH")
"""Methods that anticipate a body: that there is none is stated (RFC 9110 section 8.6)."""


def build_request(
    method: bytes,
    authority: bytes,
    target: bytes,
    fields: Iterable[tuple[bytes, bytes]] = (),
    body_length: int | None = 0,
    accepts_trailers: bool = False,
) -> RequestHead:
    """Return the head of a request.

    `authority`: b"": that of the target which it is sent to. `target`: path and query. `body_length`: bytes of its
    body; None: unknown until its end. `accepts_trailers`: it is sent with `TE: trailers`. Raises `Malformed` or
    `ValueError` for an invalid method, authority, target or field, and for fields that the gateway sets itself.
    """
    lines = field_lines(fields) + framing_line(method, body_length)
    return make_request(method, target, authority, lines + b"TE: trailers\r\n" if accepts_trailers else lines)


def field_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the serialized lines of the fields of a request. Raises `ValueError`."""
    lines = Fields(fields)
    for name, _ in lines:
        if name.lower() in WRITTEN_HERE:
            raise ValueError(f"the header {name.decode('latin-1')} is written by the gateway")
    return lines.render()


def framing_line(method: bytes, body_length: Length) -> bytes:
    """Return the line that frames a body of this length, as in `build_request`; b"": it needs none."""
    if body_length is None:
        return b"Transfer-Encoding: chunked\r\n"
    return b"Content-Length: %d\r\n" % body_length if body_length or method in _SIZED else b""
