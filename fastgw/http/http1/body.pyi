"""Body readers: by length, in chunks, or until the connection ends (RFC 9112 sections 6 and 7).

They hold only an incomplete chunk line or trailer section. llhttp reads the same chunks, and they end only where both
parsers agree.
"""

from typing import Final

from fastgw.http.http1.second_parser import SecondParser
from fastgw.http.messages import RequestHead, ResponseHead

LONGEST_EXTENSIONS: Final = 4096
"""Maximum number of bytes of chunk extensions in one body, in all chunks together. Extensions are read and dropped."""

class BodyReader:
    """Reader of a body: bytes in, payload out, no I/O."""

    done: bool
    """Whether the last byte of the message was fed."""
    rest: bytes
    """Bytes fed after the last byte of the message."""
    trailers: tuple[tuple[bytes, bytes], ...]

    def bytes_assured(self) -> int:
        """Return the minimum number of further bytes that are payload."""

    def is_in_line(self) -> bool:
        """Whether the line before a chunk, or the trailers, have begun and are incomplete."""

    def feed(self, chunk: bytes) -> bytes:
        """Read the next bytes of the connection and return the payload in them, if any. Raises `Malformed`."""

    def eof(self) -> None:
        """Handle the end of the connection. Raises `Malformed` if the body is incomplete."""

class LengthReader(BodyReader):
    """A body of `length` bytes; with 0 there is no body."""

    def __init__(self, length: int) -> None: ...

class UntilCloseReader(BodyReader):
    """A response body that ends with its connection."""

class ChunkedReader(BodyReader):
    """A body in chunks, with its trailers."""

    def __init__(self, second_parser: SecondParser, longest_trailers: int = ..., most_trailers: int = ...) -> None: ...

def body_reader(head: RequestHead | ResponseHead, longest_trailers: int = ..., most_trailers: int = ...) -> BodyReader:
    """Return the reader for the bytes after a head whose `payload` is None. Call it once: that of chunks continues the
    second parser.
    """
