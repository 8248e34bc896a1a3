"""HTTP/2 frames (RFC 9113 section 4) and header blocks (RFC 7541), byte by byte, including invalid ones."""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Type(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9
    ALTSVC = 10
    PRIORITY_UPDATE = 16
    UNKNOWN = 0xBD


class Flag:
    ACK = END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Code(IntEnum):
    """Error codes (RFC 9113 section 7)."""

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


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    NO_RFC7540_PRIORITIES = 9


MAX_FRAME: Final = 16_384
MAX_WINDOW: Final = 2**31 - 1


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    """Return a frame. `length`: a length that differs from the payload's."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(*entries: tuple[int, int]) -> bytes:
    return frame(Type.SETTINGS, b"".join(struct.pack("!HI", *entry) for entry in entries))


SETTINGS_ACK: Final = frame(Type.SETTINGS, flags=Flag.ACK)
BEGINNING: Final = PREFACE + settings()


def headers(block: bytes, stream: int = 1, end: bool = True, whole: bool = True, flags: int = 0) -> bytes:
    """Return a HEADERS frame. `end`: END_STREAM. `whole`: END_HEADERS."""
    flags |= (Flag.END_STREAM if end else 0) | (Flag.END_HEADERS if whole else 0)
    return frame(Type.HEADERS, block, flags, stream)


def continuation(block: bytes, stream: int = 1, whole: bool = True) -> bytes:
    return frame(Type.CONTINUATION, block, Flag.END_HEADERS if whole else 0, stream)


def data(payload: bytes = b"", stream: int = 1, end: bool = True, padding: int | None = None) -> bytes:
    flags = Flag.END_STREAM if end else 0
    if padding is None:
        return frame(Type.DATA, payload, flags, stream)
    return frame(Type.DATA, bytes((padding,)) + payload + bytes(padding), flags | Flag.PADDED, stream)


def ping(payload: bytes = b"12345678", flags: int = 0, stream: int = 0) -> bytes:
    return frame(Type.PING, payload, flags, stream)


def reset(stream: int = 1, code: int = Code.CANCEL) -> bytes:
    return frame(Type.RST_STREAM, struct.pack("!I", code), 0, stream)


def window_update(increment: int, stream: int = 0) -> bytes:
    return frame(Type.WINDOW_UPDATE, struct.pack("!I", increment), 0, stream)


def priority(stream: int = 1, on: int = 0, weight: int = 15) -> bytes:
    return frame(Type.PRIORITY, struct.pack("!IB", on, weight), 0, stream)


def goaway(last: int = 0, code: int = 0, text: bytes = b"", stream: int = 0) -> bytes:
    return frame(Type.GOAWAY, struct.pack("!II", last, code) + text, 0, stream)


# --- header blocks: without the dynamic table, except where stated ---

Field = tuple[bytes, bytes]


def integer(value: int, prefix: int, first: int = 0) -> bytes:
    """Return an integer with a prefix of this many bits (RFC 7541 section 5.1); `first`: the bits above it."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((first | value,))
    out, value = bytearray((first | most,)), value - most
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    out.append(value)
    return bytes(out)


def string(text: bytes) -> bytes:
    return integer(len(text), 7) + text


def indexed(index: int) -> bytes:
    return integer(index, 7, 0x80)


def literal(name: bytes, value: bytes) -> bytes:
    """Return a field without indexing (section 6.2.2)."""
    return b"\x00" + string(name) + string(value)


def never_indexed(name: bytes, value: bytes) -> bytes:
    return b"\x10" + string(name) + string(value)


def added(name: bytes, value: bytes) -> bytes:
    """Return a field with incremental indexing (section 6.2.1)."""
    return b"\x40" + string(name) + string(value)


def table_size(size: int) -> bytes:
    return integer(size, 5, 0x20)


@lru_cache(256)  # floods are made of the same few, thousands of times
def block(*fields: Field) -> bytes:
    return b"".join(literal(*field) for field in fields)


def pseudo(
    method: bytes | None = b"GET",
    path: bytes | None = b"/",
    authority: bytes | None = b"a.test",
    scheme: bytes | None = b"http",
) -> list[Field]:
    """Return the pseudo-headers of a request; None leaves one out."""
    named = ((b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path))
    return [(name, value) for name, value in named if value is not None]


def get(*fields: Field, stream: int = 1, end: bool = True, path: bytes = b"/") -> bytes:
    return headers(block(*pseudo(path=path), *fields), stream, end)


def post(*fields: Field, stream: int = 1, end: bool = False, path: bytes = b"/") -> bytes:
    return headers(block(*pseudo(b"POST", path), *fields), stream, end)
