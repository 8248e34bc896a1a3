"""Serializer of HTTP/1: heads and chunks are re-serialized from parsed messages."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from fastgw.http.http1 import serializer_reference
from fastgw.http.http1.serializer_reference import (
    CHUNKED_LINE,
    IN_CHUNKS,
    NO_VIA,
    REQUEST_IDS,
    UNFRAMED,
    VIA,
    id_line,
    names_alike,
    own_lines,
    status_line,
)

__all__ = [
    "CHUNKED_LINE",
    "IN_CHUNKS",
    "LAST_CHUNK",
    "NO_VIA",
    "REQUEST_IDS",
    "UNFRAMED",
    "VIA",
    "chunk",
    "end_to_end",
    "id_line",
    "last_chunk",
    "names_alike",
    "own_lines",
    "request",
    "response",
    "status_line",
    "whole",
]

if TYPE_CHECKING:
    _splicer = serializer_reference
else:
    from fastgw.http.http1 import _serializer as _splicer

end_to_end = _splicer.end_to_end
request = _splicer.request
response = _splicer.response
whole = _splicer.whole

LAST_CHUNK: Final = b"0\r\n\r\n"


def chunk(payload: bytes) -> bytes:
    """Return one chunk; empty for an empty payload, because an empty chunk would be the last one."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def last_chunk(trailers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Return the last chunk, with the trailers."""
    return b"0\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % line for line in trailers)
