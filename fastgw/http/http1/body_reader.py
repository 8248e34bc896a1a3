"""Interface of body readers."""

from typing import Protocol


class BodyReader(Protocol):
    """Interface of all body readers: bytes in, payload out, no I/O."""

    done: bool
    """Whether the last byte of the message was fed."""
    rest: bytes
    """Bytes fed after the last byte of the message."""

    trailers: tuple[tuple[bytes, bytes], ...]

    @property
    def assured(self) -> int:
        """Minimum number of further bytes that are payload."""

    @property
    def in_line(self) -> bool:
        """Whether the line before a chunk, or the trailers, have begun and are incomplete."""

    def feed(self, chunk: bytes) -> bytes:
        """Read the next bytes of the connection and return the payload in them, if any. Raises `Malformed`."""

    def eof(self) -> None:
        """Handle the end of the connection. Raises `Malformed` if the body is incomplete."""
