"""ClientHello: its inspection before OpenSSL gets it (RFC 8446 sections 4.1.2 and 5.1)."""

from typing import Final, final

from fastgw.http.malformed import Malformed

NO_APPLICATION_PROTOCOL: Final = b"\x15\x03\x03\x00\x02\x02\x78"
"""Fatal alert (RFC 7301 section 3.2) in an unencrypted record, as the response to a ClientHello."""
DECODE_ERROR: Final = b"\x15\x03\x03\x00\x02\x02\x32"
"""TLS alert for a message whose length is incorrect (RFC 8446 section 6.2)."""
LONGEST_RECORD: Final = 16_384
"""Maximum content of a TLS record in bytes (RFC 8446 section 5.1)."""
HANDSHAKE: Final = 22
"""Content type of a client's first record."""
_RECORD_HEADER, _MESSAGE_HEADER, _VERSION_AND_RANDOM = 5, 4, 34
LONGEST_HELLO: Final = _RECORD_HEADER + LONGEST_RECORD
"""Maximum size of a ClientHello in bytes, with the headers of its records. Clients send 300 to 2,000; Envoy's limit is
the same.
"""
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16


@final
class HelloBuffer:
    """Collects a ClientHello until it is complete, and holds only its bytes.

    PERF: OpenSSL holds 46 KiB for a connection that has begun with an incomplete one (OpenSSL 3.0, CPython 3.11;
    tests/e2e/test_handshake_memory.py).
    """

    __slots__ = ("_header", "_in_message", "_record_at", "received")

    def __init__(self) -> None:
        self.received = bytearray()
        self._record_at = 0  # offset of the first incomplete record
        self._header = b""  # of the message
        self._in_message = 0  # its bytes in the previous records

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes, and return whether `received` can go to OpenSSL: it contains the whole message, or bytes
        that OpenSSL rejects. Raises `Malformed` for a message longer than `LONGEST_HELLO`."""
        received = self.received
        received += chunk
        while len(received) - self._record_at >= _RECORD_HEADER:
            start = self._record_at + _RECORD_HEADER
            kind, major, _, *length = received[self._record_at : start]
            size = int.from_bytes(length)
            if kind != HANDSHAKE or major != 3 or not 0 < size <= LONGEST_RECORD:
                return True
            end = start + size
            if len(received) < end:
                break
            self._header += received[start : min(end, start + _MESSAGE_HEADER - len(self._header))]
            self._in_message += size
            self._record_at = end
            if len(self._header) == _MESSAGE_HEADER and (
                self._header[0] != _CLIENT_HELLO
                or self._in_message >= _MESSAGE_HEADER + int.from_bytes(self._header[1:])
            ):
                return True
        if len(received) >= LONGEST_HELLO:
            raise Malformed(f"the ClientHello is longer than {LONGEST_HELLO} bytes")
        return False

    def message(self) -> bytes:
        """Return the received part of the message, without the headers of records."""
        fragments, at = [], 0
        while at < self._record_at:
            start = at + _RECORD_HEADER
            at = start + int.from_bytes(self.received[start - 2 : start])
            fragments.append(self.received[start:at])
        return b"".join(fragments)


def protocols_offered(message: bytes) -> list[bytes] | None:
    """Return the protocols that a client offers by ALPN (RFC 7301) in its ClientHello.

    None: it has no ALPN, or is not a ClientHello; then OpenSSL decides.
    """
    rest = _Reader(message[_MESSAGE_HEADER + _VERSION_AND_RANDOM :])
    try:
        rest.vector(1)  # session id
        rest.vector(2)  # ciphers
        rest.vector(1)  # compression
        extensions = _Reader(rest.vector(2))
        while extensions.left:
            kind = extensions.number(2)
            content = extensions.vector(2)
            if kind == _ALPN:
                names = _Reader(_Reader(content).vector(2))
                offered = []
                while names.left:
                    offered.append(names.vector(1))
                return offered
    except ValueError:
        pass
    return None


class _Reader:
    """Reader of a message's bytes. Raises `ValueError` if a length exceeds the available bytes."""

    def __init__(self, held: bytes) -> None:
        self.left = held

    def number(self, size: int) -> int:
        if len(self.left) < size:
            raise ValueError
        number = int.from_bytes(self.left[:size])
        self.left = self.left[size:]
        return number

    def vector(self, size: int) -> bytes:
        """Read bytes with a length prefix of this many bytes."""
        length = self.number(size)
        if len(self.left) < length:
            raise ValueError
        taken, self.left = self.left[:length], self.left[length:]
        return taken
