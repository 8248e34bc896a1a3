"""The first message of a TLS client, as far as it is looked into before OpenSSL has it (RFC 8446 section 4.1.2)."""

from typing import Final

NO_APPLICATION_PROTOCOL: Final = b"\x15\x03\x03\x00\x02\x02\x78"
"""A fatal alert (RFC 7301 section 3.2), in a record as it may answer the first message: nothing is encrypted yet."""
_RECORD_HEADER, _MESSAGE_HEADER, _VERSION_AND_RANDOM = 5, 4, 34
_ALPN: Final = 16


def protocols_offered(received: bytes) -> list[bytes] | None:
    """Which protocols a client would speak inside TLS (ALPN, RFC 7301), from the first bytes that it has sent.

    None: it does not say, or not in one record that is here already; then OpenSSL decides alone.
    """
    rest = _Reader(received[_RECORD_HEADER + _MESSAGE_HEADER + _VERSION_AND_RANDOM :])
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
    """Raises `ValueError` where something is longer than what is there."""

    def __init__(self, held: bytes) -> None:
        self.left = held

    def number(self, size: int) -> int:
        if len(self.left) < size:
            raise ValueError
        number = int.from_bytes(self.left[:size])
        self.left = self.left[size:]
        return number

    def vector(self, size: int) -> bytes:
        """What stands behind its length, which takes so many bytes."""
        length = self.number(size)
        if len(self.left) < length:
            raise ValueError
        taken, self.left = self.left[:length], self.left[length:]
        return taken
