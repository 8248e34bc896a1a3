"""Body readers: by length, in chunks, or until the connection ends (RFC 9112 sections 6 and 7).

They hold only an incomplete chunk line or trailer section. llhttp reads the same bytes, and a body ends only where both
parsers agree.
"""

from typing import Final, final

from fastgw.http.http1.second_parser import SecondParser

LONGEST_EXTENSIONS: Final = 4096
"""Maximum number of bytes of chunk extensions in one body, in all chunks together. Extensions are read and dropped."""

class _Reader:
    done: bool
    rest: bytes
    trailers: tuple[tuple[bytes, bytes], ...]
    @property
    def assured(self) -> int: ...
    @property
    def in_line(self) -> bool: ...
    def feed(self, chunk: bytes) -> bytes: ...
    def eof(self) -> None: ...

@final
class LengthReader(_Reader):
    """A body of `length` bytes; with 0 there is no body, and no second parser."""

    def __init__(self, length: int, second_parser: SecondParser | None) -> None: ...

@final
class UntilCloseReader(_Reader):
    """A response body that ends with its connection."""

    def __init__(self, second_parser: SecondParser) -> None: ...

@final
class ChunkedReader(_Reader):
    """A body in chunks, with its trailers."""

    def __init__(self, second_parser: SecondParser, longest_trailers: int = ..., most_trailers: int = ...) -> None: ...
