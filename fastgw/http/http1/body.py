"""Body readers: by length, in chunks, or until the connection ends (RFC 9112 sections 6 and 7).

They do no I/O: bytes in, payload out; they hold only an incomplete chunk line or trailer section. llhttp reads the same
bytes, and a body ends only where both parsers agree.
"""

import re
from typing import Final, Protocol, final

from fastgw.http.field_names import NOT_IN_TRAILERS
from fastgw.http.fields import Fields, folded
from fastgw.http.grammar import TOKEN, VALUE, check_fields
from fastgw.http.http1.llhttp import SecondParser
from fastgw.http.malformed import Malformed

ENDLESS: Final = 1 << 62
"""Number of bytes in a body of unknown length that is all payload."""


class BodyReader(Protocol):
    """Interface of all body readers."""

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


@final
class LengthReader:
    """A body of `length` bytes; with 0 there is no body, and no second parser."""

    in_line = False

    __slots__ = ("_left", "_second_parser", "done", "rest")

    trailers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, length: int, second_parser: SecondParser | None) -> None:
        self._left = length
        self._second_parser = second_parser
        self.done = length == 0
        self.rest = b""

    @property
    def assured(self) -> int:
        return self._left

    def feed(self, chunk: bytes) -> bytes:
        if self.done or self._second_parser is None:
            self.rest += chunk
            return b""
        if len(chunk) < self._left:
            self._second_parser.body(chunk)
            self._left -= len(chunk)
            return chunk
        payload = chunk[: self._left]
        self._second_parser.last(payload)
        self._left = 0
        self.done = True
        self.rest = chunk[len(payload) :]
        return payload

    def eof(self) -> None:
        if not self.done:
            raise Malformed("The connection was closed before the body was complete.")


@final
class UntilCloseReader:
    """A response body that ends with its connection."""

    in_line = False

    __slots__ = ("_second_parser", "done")

    rest = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    assured = ENDLESS

    def __init__(self, second_parser: SecondParser) -> None:
        self._second_parser = second_parser
        self.done = False

    def feed(self, chunk: bytes) -> bytes:
        self._second_parser.body(chunk)
        return chunk

    def eof(self) -> None:
        self.done = True


LONGEST_EXTENSIONS: Final = 4096
"""Maximum number of bytes of chunk extensions in one body, in all chunks together. Extensions are read and dropped."""
LONGEST_TRAILERS: Final = 65536
"""Maximum number of bytes of a response's trailer section, as of its head. `limits` has the values for requests."""
MOST_TRAILERS: Final = 100
TRAILERS_TOO_LARGE: Final = "The trailers are too large or too many."

_QUOTED: Final = rb'"(?>(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\' + VALUE + rb')*)"'
# Sizes of at most 16 digits fit 64 bits and leave no room for a flood of zeros. White space around the semicolon is
# legal but obsolete (RFC 9112 section 7.1.1), and llhttp refuses it as well.
_SIZE_LINE: Final = (
    rb"([0-9A-Fa-f]{1,16}+)((?>(?:;" + TOKEN + rb"++(?>(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?))*))\r\n"
)
_SIZE_LINE_BEGUN: Final = rb"[0-9A-Fa-f]{1,16}+(?>(?:;[^\r\n]{0,%d}+)?)\r?" % LONGEST_EXTENSIONS

# The bytes before the payload of a chunk, and the pattern for an incomplete part of them.
_FIRST_CHUNK: Final = re.compile(_SIZE_LINE), re.compile(_SIZE_LINE_BEGUN)
_NEXT_CHUNK: Final = re.compile(rb"\r\n" + _SIZE_LINE), re.compile(rb"\r(?:\n(?:" + _SIZE_LINE_BEGUN + rb")?)?")
_PLAIN_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)\r\n")


def parse_trailers(
    section: bytes, longest: int = LONGEST_TRAILERS, most: int = MOST_TRAILERS
) -> tuple[tuple[bytes, bytes], ...]:
    """Parse trailers: from the line end before them to the empty line after them. Raises `Malformed`."""
    if len(section) > longest or section.count(b"\n", 2) - 1 > most:
        raise Malformed(TRAILERS_TOO_LARGE, 431)
    check_fields(section, 2, most)
    trailers = Fields.parse(section, 2)
    for name, _ in trailers:
        lower = folded(name)
        if lower in NOT_IN_TRAILERS or (lower.startswith(b"content-") and lower != b"content-digest"):
            raise Malformed("A trailer has a header that is not allowed in trailers.")
    return tuple(trailers)


def plain_payload(received: bytes, at: int) -> bytes | None:
    """Return the payload of a chunked body that begins at `at` and ends exactly at the end of the received bytes.

    None: it ends elsewhere, or has extensions or trailers. This is the first parser only: llhttp has to accept it as
    well.
    """
    pieces: list[bytes] = []
    if not received.endswith(b"0\r\n\r\n", at):  # detects most incomplete bodies
        return None
    while line := _PLAIN_SIZE_LINE.match(received, at):
        size, start = int(line[1], 16), line.end()
        at = start + size + 2  # after the last chunk, of 0 bytes, there is an empty line in place of this line end
        if received[at - 2 : at] != b"\r\n":
            return None
        if not size:
            return b"".join(pieces) if at == len(received) else None
        pieces.append(received[start : at - 2])
    return None


@final
class ChunkedReader:
    """A body in chunks, with its trailers."""

    assured = 0  # the next bytes may be framing

    __slots__ = (
        "_extensions",
        "_held",
        "_left",
        "_line",
        "_line_begun",
        "_longest_trailers",
        "_most_trailers",
        "_second_parser",
        "done",
        "in_trailers",
        "rest",
        "trailers",
    )

    def __init__(
        self,
        second_parser: SecondParser,
        longest_trailers: int = LONGEST_TRAILERS,
        most_trailers: int = MOST_TRAILERS,
    ) -> None:
        self._second_parser = second_parser
        self._longest_trailers, self._most_trailers = longest_trailers, most_trailers
        self._left = 0  # remaining payload bytes of the current chunk
        self._line, self._line_begun = _FIRST_CHUNK
        self.in_trailers = False
        self._extensions = 0
        self._held = b""  # an incomplete size line or trailer section
        self.done = False
        self.rest = b""
        self.trailers: tuple[tuple[bytes, bytes], ...] = ()

    def feed(self, chunk: bytes) -> bytes:
        if self.done:
            self.rest += chunk
            return b""
        held = len(self._held)
        buffer = self._held + chunk if held else chunk
        payload: list[bytes] = []
        at = 0
        while at < len(buffer):
            if self._left:
                piece = buffer[at : at + self._left]
                payload.append(piece)
                self._left -= len(piece)
                at += len(piece)
            elif not self.in_trailers:
                line = self._line.match(buffer, at)
                if line is None:
                    if self._line_begun.fullmatch(buffer, at) is None:
                        raise Malformed(
                            "A chunk is malformed: its size is invalid, or its data does not have that size."
                        )
                    break
                at = self._open_chunk(line)
            else:
                end = buffer.find(b"\r\n\r\n", max(at, held - 3)) + 4  # what is held was searched before
                if end < 4:
                    if len(buffer) - at > self._longest_trailers:
                        raise Malformed(TRAILERS_TOO_LARGE, 431)
                    break
                self.trailers = parse_trailers(buffer[at:end], self._longest_trailers, self._most_trailers)
                self.rest = buffer[end:]
                self._second_parser.last(buffer[held:end])
                self.done = True
                self._held = b""
                return b"".join(payload)
        self._second_parser.body(chunk)
        self._held = buffer[at:]
        return b"".join(payload)

    @property
    def in_line(self) -> bool:
        return self.in_trailers or self._held.strip(b"\r\n") != b""  # the line end of a chunk belongs to it

    def eof(self) -> None:
        if not self.done:
            raise Malformed("The connection was closed before the last chunk.")

    # for the compiled module, which reads plain chunks and leaves others to this reader

    def chunk_bytes_left(self) -> int | None:
        """Remaining payload bytes of the current chunk. None: in the middle of a line, which this reader has to
        continue.
        """
        return None if self._held or self.in_trailers or self.done else self._left

    def skip_chunks(self, line_end: bool) -> None:
        """Skip complete chunks that the compiled module has read. `line_end`: the last line end is still to come."""
        self._left = 0
        self._line, self._line_begun = _NEXT_CHUNK if line_end else _FIRST_CHUNK

    def _open_chunk(self, line: re.Match[bytes]) -> int:
        """Read a size line and return the position after it."""
        self._extensions += len(line[2])
        if self._extensions > LONGEST_EXTENSIONS:
            raise Malformed("The chunk extensions are too long.")
        self._left = int(line[1], 16)
        self._line, self._line_begun = _NEXT_CHUNK
        if self._left:
            return line.end()
        self.in_trailers = True
        return line.end() - 2  # the trailer section ends with an empty line, and may be that line alone
