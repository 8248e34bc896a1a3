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
_RECORD_HEADER, _MESSAGE_HEADER = 5, 4
LONGEST_HELLO: Final = _RECORD_HEADER + LONGEST_RECORD
"""Maximum size of a ClientHello in bytes, with the headers of its records. Clients send 300 to 2,000; Envoy's limit is
the same.
"""
MOST_RECORDS: Final = 256
"""Maximum number of records of a ClientHello. OpenSSL uses as few as possible; some clients use a few more on
purpose.
"""
_CLIENT_HELLO: Final = 1


@final
class HelloBuffer:
    """Collects a ClientHello until it is complete, and holds only its bytes.

    PERF: OpenSSL holds 46 KiB for a connection that has begun with an incomplete one (OpenSSL 3.0, CPython 3.11;
    tests/e2e/test_handshake_memory.py).
    """

    __slots__ = ("_header", "_in_message", "_record_at", "_records", "received")

    def __init__(self) -> None:
        self.received = bytearray()
        self._record_at = 0  # offset of the first incomplete record
        self._records = 0
        self._header = b""  # of the message
        self._in_message = 0  # its bytes in the previous records

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes, and return whether `received` can go to OpenSSL: it contains the whole message, or bytes
        that OpenSSL rejects. Raises `Malformed` for a message that is longer than `LONGEST_HELLO`, or cut into more
        than `MOST_RECORDS` records.
        """
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
            self._records += 1
            if self._records == MOST_RECORDS:
                raise Malformed(f"the ClientHello is cut into more than {MOST_RECORDS} records")
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
