"""WebSocket frames (RFC 6455): their names and limits, and a writer. `frame_reader` reads them."""

from os import urandom
from typing import Final, NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_CODE, NO_CLOSE, INVALID_TEXT = 1000, 1001, 1002, 1005, 1006, 1007
POLICY, TOO_BIG, UPSTREAM_LOST = 1008, 1009, 1011
INTERNAL_ERROR, TRY_AGAIN_LATER = 1011, 1013
_CODES: Final = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))
"""Close codes below 3000 that a peer may send (RFC 6455 section 7.4, and the IANA registry)."""
PIECE: Final = 65536
"""Number of bytes that are inflated at a time."""
INFLATED_PER_CALL: Final = 262_144
"""Inflated bytes after which a call of `FrameReader.feed` returns: less than a millisecond's worth. A received byte can
stand for a thousand.
"""
INFLATE_COST: Final = 1024
"""Inflated bytes that cost as much as a call of zlib does by itself."""
DEFLATE_TAIL: Final = b"\x00\x00\xff\xff"
"""End of each compressed message, which is not sent (RFC 7692 section 7.2.1)."""


class Violation(NamedTuple):
    """Violation for which a connection is closed: close code, and the reason for both sides."""

    code: int
    reason: str


class Deflate(NamedTuple):
    """Negotiated parameters for one direction of permessage-deflate (RFC 7692)."""

    window_bits: int = 15
    keeps_context: bool = True


class Refused(Exception):
    """An invalid frame. Raised and caught within a reader."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.violation = Violation(code, reason)


def unmask(payload: bytes, key: bytes, at: int) -> bytes:
    """Unmask payload (RFC 6455 section 5.3), or mask it. `at`: offset in the key at its start."""
    size = len(payload)
    turned = (key[at:] + key[:at]) * (size // 4 + 1)
    return (int.from_bytes(payload, "little") ^ int.from_bytes(turned[:size], "little")).to_bytes(size, "little")


def close_code(payload: bytes) -> int:
    """Return the code of a close frame, or `NO_CODE`. Raises `Refused` for a code or reason that may not be sent."""
    if not payload:
        return NO_CODE
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _CODES or 3000 <= code < 5000):
        raise Refused(PROTOCOL_ERROR, "invalid close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Refused(INVALID_TEXT, "reason of a close is not UTF-8") from None
    return code


def control_frame(opcode: int, payload: bytes, masked: bool) -> bytes:
    """Return a frame with at most 125 bytes of payload; `masked`: as sent by a client."""
    if not masked:
        return bytes((128 | opcode, len(payload))) + payload
    key = urandom(4)
    return bytes((128 | opcode, 128 | len(payload))) + key + unmask(payload, key, 0)


def close_frame(code: int, reason: str, masked: bool) -> bytes:
    return control_frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[:123], masked)


def message_frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole message of a server in one frame. `opcode`: `TEXT` or `BINARY`."""
    length = len(payload)
    if length < 126:
        return bytes((128 | opcode, length)) + payload
    if length < 65536:
        return bytes((128 | opcode, 126)) + length.to_bytes(2, "big") + payload
    return bytes((128 | opcode, 127)) + length.to_bytes(8, "big") + payload
