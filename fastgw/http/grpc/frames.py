"""gRPC message frames: a prefix of five bytes (flags and length), followed by a message.

gRPC-Web and streams of the Connect protocol use the same frames with further flags. `MessageReader` collects each
message; `FrameScanner` only tracks the frames of a body.
"""

from typing import Final, final

PREFIX: Final = 5
"""Bytes of a prefix: flags, and length in four bytes, big-endian."""
COMPRESSED: Final = 0x01
"""Flag of a message compressed by `grpc-encoding`."""
END_OF_STREAM: Final = 0x02
"""Flag of the last frame of a response of the Connect protocol."""
TRAILERS: Final = 0x80
"""Flag of the last frame of a response of gRPC-Web."""


class FrameError(ValueError):
    """Raised for invalid gRPC frames. The text is the error, for people."""


class FrameTooLarge(FrameError):
    """Raised for a message longer than allowed."""


def frame(message: bytes, flags: int = 0) -> bytes:
    """Return a message with its prefix. Raises `OverflowError` for more than 4 GiB."""
    return bytes((flags,)) + len(message).to_bytes(4, "big") + message


def parse_prefix(prefix: bytes | bytearray, allowed: int) -> tuple[int, int]:
    """Return the flags and the length of a message. `allowed`: all flags that may be set. Raises `FrameError`."""
    flags = prefix[0]
    if flags & ~allowed:
        raise FrameError(f"a message has the flags {flags:#04x}")
    return flags, int.from_bytes(prefix[1:PREFIX], "big")


@final
class MessageReader:
    """Reader that takes a body in pieces and returns its messages, each with its flags.

    `most`: maximum bytes of one message. The length in a prefix is checked before its message is buffered. `allowed`:
    all flags that may be set.
    """

    __slots__ = ("_allowed", "_flags", "_held", "_length", "_most")

    def __init__(self, most: int, allowed: int = COMPRESSED) -> None:
        self._most, self._allowed = most, allowed
        self._held = bytearray()
        self._flags = 0
        self._length = -1  # length of the current message; -1: its prefix is incomplete

    def feed(self, payload: bytes) -> list[tuple[int, bytes]]:
        """Return the flags and the bytes of each message that is complete now. Raises `FrameError`."""
        held, start, complete = self._held, 0, []
        held += payload
        while True:
            if self._length < 0:
                if len(held) - start < PREFIX:
                    break
                self._flags, length = parse_prefix(held[start : start + PREFIX], self._allowed)
                if length > self._most:
                    raise FrameTooLarge(f"a message of {length} bytes is longer than the {self._most} allowed")
                self._length = length
                start += PREFIX
            end = start + self._length
            if len(held) < end:
                break
            complete.append((self._flags, bytes(held[start:end])))
            start, self._length = end, -1
        del held[:start]
        return complete

    def end(self) -> None:
        """Handle the end of the body. Raises `FrameError` if it is within a message."""
        if self._held or self._length >= 0:
            raise FrameError("the body ends within a message")


@final
class FrameScanner:
    """Scanner that tracks the frames of a body and buffers none of their bytes.

    `most`: maximum bytes of one message. `allowed`: all flags that may be set. `messages`: number of complete messages.
    """

    __slots__ = ("_allowed", "_left", "_most", "_prefix", "messages")

    def __init__(self, most: int, allowed: int = COMPRESSED) -> None:
        self._most, self._allowed = most, allowed
        self._prefix = b""
        self._left = 0
        self.messages = 0

    @property
    def between_messages(self) -> bool:
        """Whether the last message is complete."""
        return not (self._left or self._prefix)

    def feed(self, payload: bytes) -> None:
        """Parse the next piece. Raises `FrameError`."""
        at, size = 0, len(payload)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                at += step
                self._left -= step
                self.messages += not self._left
                continue
            missing = PREFIX - len(self._prefix)
            self._prefix += payload[at : at + missing]
            at += missing
            if len(self._prefix) < PREFIX:
                return
            _, length = parse_prefix(self._prefix, self._allowed)
            if length > self._most:
                raise FrameTooLarge(f"a message of {length} bytes is longer than the {self._most} allowed")
            self._prefix, self._left = b"", length
            self.messages += not length

    def end(self) -> None:
        """Handle the end of the body. Raises `FrameError` if it is within a message."""
        if not self.between_messages:
            raise FrameError("the body ends within a message")
