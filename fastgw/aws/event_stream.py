"""Messages of `application/vnd.amazon.eventstream`: framing, checksums and string headers.

Source: "Event stream encoding" of the Amazon Transcribe developer guide, and `eventstream.py` of botocore,
read as facts.
"""

from binascii import crc32
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple, final

MOST_MESSAGE: Final = 1024 * 1024
"""Maximum bytes of a message; Lambda sends pieces of a stream in messages that are much shorter."""
MOST_HEADERS: Final = 16 * 1024
"""Maximum bytes of the headers of a message."""
_PRELUDE: Final = Struct(">III")
_CRC: Final = Struct(">I")
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of the values of a fixed size, by the type of a header; types 6 and 7 are byte and text strings."""
_TEXT: Final = 7
_STRINGS: Final = (6, _TEXT)


class InvalidEventStream(ValueError):
    """A stream that does not follow the format. The text has nothing of its contents."""


class StreamMessage(NamedTuple):
    """One message. `headers`: those with a text, such as `:event-type`."""

    headers: dict[str, str]
    payload: bytes


@final
class EventStreamParser:
    """Parser of one stream. Holds at most one message."""

    __slots__ = ("_buffer", "_needed")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = _PRELUDE.size

    @property
    def is_between(self) -> bool:
        """Whether the last message is complete."""
        return not self._buffer

    def feed(self, data: bytes) -> Iterator[StreamMessage]:
        """Yield the messages that end in these bytes. Raises `InvalidEventStream`."""
        self._buffer += data
        while len(self._buffer) >= self._needed:
            if self._needed == _PRELUDE.size:
                self._needed = self._checked_length()
                continue
            message = bytes(self._buffer[: self._needed])
            del self._buffer[: self._needed]
            self._needed = _PRELUDE.size
            yield _parsed(message)

    def _checked_length(self) -> int:
        """Return the length of the message that begins the buffer."""
        prelude = bytes(self._buffer[: _PRELUDE.size])
        length, of_headers, checksum = _PRELUDE.unpack(prelude)
        if crc32(prelude[:8]) != checksum:
            raise InvalidEventStream("the checksum of a prelude is wrong")
        if not _PRELUDE.size + of_headers + _CRC.size <= length <= MOST_MESSAGE or of_headers > MOST_HEADERS:
            raise InvalidEventStream("a message has an invalid length")
        return int(length)


def _parsed(message: bytes) -> StreamMessage:
    if crc32(message[: -_CRC.size]) != _CRC.unpack(message[-_CRC.size :])[0]:
        raise InvalidEventStream("the checksum of a message is wrong")
    end = _PRELUDE.size + _PRELUDE.unpack(message[: _PRELUDE.size])[1]
    return StreamMessage(_headers(message[_PRELUDE.size : end]), message[end : -_CRC.size])


def _headers(block: bytes) -> dict[str, str]:
    """Return the headers with a text; the others are checked and left out."""
    found: dict[str, str] = {}
    at = 0
    while at < len(block):
        name_at, name_end = at + 1, at + 1 + block[at]
        kind = block[name_end] if name_end < len(block) else -1
        at = name_end + 1
        if kind in _STRINGS and at + 2 <= len(block):
            size = int.from_bytes(block[at : at + 2])
            at += 2
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise InvalidEventStream("a header is malformed")
        if at + size > len(block):
            raise InvalidEventStream("a header is malformed")
        if kind == _TEXT:
            try:
                found[block[name_at:name_end].decode()] = block[at : at + size].decode()
            except UnicodeDecodeError:
                raise InvalidEventStream("a header is no UTF-8") from None
        at += size
    return found
