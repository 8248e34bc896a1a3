"""Frames of gRPC: five bytes of prefix, which are flags and a length, and then a message.

gRPC-Web and streams of the Connect protocol have the same frames with flags of their own. `MessageReader` collects each
message; `FrameScanner` only follows the frames of a body that passes.
"""

from typing import Final, final

PREFIX: Final = 5
"""Bytes in front of a message: its flags, and its length in four bytes, big-endian."""
COMPRESSED: Final = 0x01
"""Flag of a message that is compressed as `grpc-encoding` says."""
END_OF_STREAM: Final = 0x02
"""Flag of the last frame of a response of the Connect protocol."""
TRAILERS: Final = 0x80
"""Flag of the last frame of a response of gRPC-Web."""


class FrameError(ValueError):
    """Raised for frames that are not those of gRPC. The text says what is wrong, for people."""


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

    `most`: bytes of one message at most. The length that a prefix declares is judged before any byte of its message is
    held. `allowed`: all flags that may be set.
    """

    __slots__ = ("_allowed", "_flags", "_held", "_length", "_most")

    def __init__(self, most: int, allowed: int = COMPRESSED) -> None:
        self._most, self._allowed = most, allowed
        self._held = bytearray()
        self._flags = 0
        self._length = -1  # of the message that is being read; -1: its prefix is not complete

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
        """Take the end of the body. Raises `FrameError` if it is within a message."""
        if self._held or self._length >= 0:
            raise FrameError("the body ends within a message")


@final
class FrameScanner:
    """Scanner that follows the frames of a body and holds none of their bytes.

    `most`: bytes of one message at most. `allowed`: all flags that may be set. `messages`: how many were complete.
    """

    __slots__ = ("_allowed", "_left", "_most", "_prefix", "messages")

    def __init__(self, most: int, allowed: int = COMPRESSED) -> None:
        self._most, self._allowed = most, allowed
        self._prefix = b""
        self._left = 0
        self.messages = 0

    @property
    def between_messages(self) -> bool:
        """Whether the last message was whole."""
        return not (self._left or self._prefix)

    def feed(self, payload: bytes) -> None:
        """Take the next piece. Raises `FrameError`."""
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
        """Take the end of the body. Raises `FrameError` if it is within a message."""
        if not self.between_messages:
            raise FrameError("the body ends within a message")
