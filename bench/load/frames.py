"""WebSocket (RFC 6455): the opening handshake, and frames fast enough for a load generator in Python."""

import base64
import hashlib
import struct

TEXT, BINARY, CLOSE = 0x1, 0x2, 0x8
FINAL = 0x80
MASKED = 0x80
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class NotAFrame(Exception):
    """Bytes that are not a valid client frame."""


def opening(host: str, path: str, key: bytes) -> bytes:
    """Return an opening handshake (section 4.1). `key`: 16 bytes, in base64."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key.decode()}\r\n\r\n"
    ).encode()


def accept_of(key: bytes) -> bytes:
    """Return the response to `Sec-WebSocket-Key` (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def from_client(opcode: int, payload: bytes, key: bytes) -> bytes:
    """Return a message in one frame, masked with the four bytes of `key`."""
    return _head(opcode, len(payload), MASKED) + key + mask(payload, key)


def from_server(opcode: int, payload: bytes) -> bytes:
    """Return a message in one unmasked frame."""
    return _head(opcode, len(payload), 0) + payload


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask a payload (section 5.3)."""
    size = len(payload)
    stream = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def echo(received: bytes) -> tuple[bytes, int, bool]:
    """Return an echo server's response to the complete frames at the start of `received`.

    Returns the response, the length of the frames, and whether the last one is a close frame. Each message is one
    frame. Raises `NotAFrame`.
    """
    answers = []
    at, size = 0, len(received)
    while size - at >= 2:
        opcode, length = received[at] & 0x0F, received[at + 1] & 0x7F
        if not received[at] & FINAL or not received[at + 1] & MASKED or opcode not in (TEXT, BINARY, CLOSE):
            raise NotAFrame(f"0x{received[at : at + 2].hex()} at {at}; expected a whole and masked message")
        begin = at + 2
        if length > 125:
            wide = struct.Struct("!H" if length == 126 else "!Q")
            if size - begin < wide.size:
                break
            (length,) = wide.unpack_from(received, begin)
            begin += wide.size
        end = begin + 4 + length
        if end > size:
            break
        payload = mask(received[begin + 4 : end], received[begin : begin + 4])
        answers.append(from_server(opcode, payload))
        at = end
        if opcode == CLOSE:
            return b"".join(answers), at, True
    return b"".join(answers), at, False


def _head(opcode: int, length: int, masked: int) -> bytes:
    if length < 126:
        return bytes((FINAL | opcode, masked | length))
    if length < 1 << 16:
        return struct.pack("!BBH", FINAL | opcode, masked | 126, length)
    return struct.pack("!BBQ", FINAL | opcode, masked | 127, length)
