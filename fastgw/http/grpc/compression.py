"""Compressed gRPC messages: each is a complete stream of its `grpc-encoding`."""

import zlib
from types import MappingProxyType
from typing import Final

from fastgw.http.grpc.frames import FrameError, FrameTooLarge

IDENTITY: Final = b"identity"
_WINDOWS: Final = MappingProxyType({b"gzip": 31, b"deflate": 15})  # `deflate` has the format of zlib, as in HTTP


def is_known(encoding: bytes) -> bool:
    """Whether messages with this encoding can be decompressed. `encoding`: in lower case."""
    return encoding in _WINDOWS


def decompress(message: bytes, encoding: bytes, most: int) -> bytes:
    """Return the decompressed message, of at most `most` bytes. Raises `FrameError`."""
    inflater = zlib.decompressobj(_WINDOWS[encoding])
    try:
        inflated = inflater.decompress(message, most + 1)
    except zlib.error as error:
        raise FrameError(f"a message is not valid {encoding.decode()}") from error
    if len(inflated) > most:
        raise FrameTooLarge(f"a decompressed message is longer than the {most} bytes allowed")
    if not inflater.eof or inflater.unused_data:
        raise FrameError(f"a message is not one complete stream of {encoding.decode()}")
    return inflated


def declared_bytes(message: bytes, encoding: bytes) -> int:
    """Return how many bytes a compressed message has by its own statement (RFC 1952), or probably."""
    return int.from_bytes(message[-4:], "little") if encoding == b"gzip" else 4 * len(message)
