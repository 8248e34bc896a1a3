"""One end of a byte stream, played by hand: sent bytes are exactly the test's, received bytes are all kept.

Every wait has a deadline and fails the test after it; nothing sleeps. Reading is strict: a message that a careful
parser would reject fails the test.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

# Timeout of a wait in seconds, after which the test has failed. The machine may be busy. But a worker that hangs is
# killed after 10, which must not save a test that waits for its neighbour.
DEADLINE = 9.0

FIELD_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):"
    rb"[ \t]*([\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?[ \t]*"
)
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[^\r\n]*)?)")


class Unexpected(AssertionError):
    """The other end sent nothing, or something unexpected. The text has everything received."""


Line = tuple[bytes, bytes]


@dataclass
class Head:
    """A start line and its header lines, in order, unchanged."""

    raw: bytes
    start_line: bytes
    lines: list[Line]

    def get_all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.lines if key.lower() == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a header that occurs at most once."""
        values = self.get_all(name)
        if len(values) > 1:
            raise Unexpected(f"{name!r} is there {len(values)} times: {self.raw!r}")
        return values[0] if values else None

    def __contains__(self, name: bytes) -> bool:
        return bool(self.get_all(name))


def parse_head(raw: bytes) -> Head:
    """Parse a head. `raw` ends with its empty line."""
    if not raw.endswith(b"\r\n\r\n"):
        raise Unexpected(f"not a whole head: {raw!r}")
    start_line, *field_lines = raw[:-4].split(b"\r\n")
    lines = []
    for line in field_lines:
        found = FIELD_LINE.fullmatch(line)
        if found is None:
            raise Unexpected(f"not a field line: {line!r} in {raw!r}")
        lines.append((found[1], found[2] or b""))
    return Head(raw, start_line, lines)


@dataclass
class Message:
    """A head with its body. `raw_body`: with framing, as received; `body`: the content."""

    head: Head
    body: bytes = b""
    raw_body: bytes = b""
    trailers: list[Line] = field(default_factory=list)

    def get(self, name: bytes) -> bytes | None:
        return self.head.get(name)

    def get_all(self, name: bytes) -> list[bytes]:
        return self.head.get_all(name)

    def __contains__(self, name: bytes) -> bool:
        return name in self.head

    @property
    def raw(self) -> bytes:
        return self.head.raw + self.raw_body


class Peer:
    """A connected stream socket and everything received on it."""

    def __init__(self, sock: socket.socket, deadline: float = DEADLINE) -> None:
        self.sock = sock
        self.deadline = deadline
        self.received = b""  # all bytes, including those already read
        self.was_reset = False
        self._at = 0  # bytes of `received` that were read
        self.ended = False  # the other end has ended the stream
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} received={self.received!r} read={self._at} ended={self.ended}>"

    # --- sending ---

    def send(self, data: bytes) -> None:
        self.sock.settimeout(self.deadline)
        self.sock.sendall(data)

    def send_gently(self, data: bytes) -> None:
        """Send what the other end accepts: it may have rejected the message and closed before its end."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send(data)

    def send_until_held_back(self, unit: bytes = b"x", most: int = 64 * 1024 * 1024) -> int:
        """Send `unit` repeatedly until nothing was accepted for a while; return the number of accepted bytes.

        Fails at `most`, which is far more than sockets buffer: then the gateway buffers it.
        """
        left = block = unit * (65_536 // len(unit) + 1)
        sent = 0
        self.sock.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while sent < most:
                taken = self.sock.send(left)
                left = left[taken:] or block
                sent += taken
            raise Unexpected(f"{sent} bytes were taken although nobody read them")
        return sent

    def shutdown_write(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with RST; data in transit is lost (SO_LINGER 0)."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # --- receiving ---

    def _fill(self, until: float, wanted: str) -> bool:
        """Receive once. False: the other end has ended the stream."""
        if self.ended:
            return False
        self.sock.settimeout(max(until - time.monotonic(), 0.001))
        try:
            chunk = self.sock.recv(262_144)
        except TimeoutError:
            raise Unexpected(f"waited {self.deadline} s for {wanted}; unread: {self.unread!r}") from None
        except ConnectionResetError:
            self.was_reset = True
            chunk = b""
        self.received += chunk
        self.ended = not chunk
        return bool(chunk)

    def receive(self) -> bool:
        """Wait for the next bytes and keep them as unread. False: the other end has ended the stream."""
        return self._fill(time.monotonic() + self.deadline, "anything")

    def _take(self, length: int) -> bytes:
        taken = self.received[self._at : self._at + length]
        self._at += length
        return taken

    @property
    def unread(self) -> bytes:
        return self.received[self._at :]

    def read_until(self, mark: bytes, wanted: str = "") -> bytes:
        """Return everything up to and including `mark`."""
        until = time.monotonic() + self.deadline
        start = self._at
        while (found := self.received.find(mark, start)) < 0:
            start = max(self._at, len(self.received) - len(mark) + 1)
            if not self._fill(until, wanted or repr(mark)):
                raise Unexpected(f"the stream ended before {wanted or repr(mark)}; unread: {self.unread!r}")
        return self._take(found + len(mark) - self._at)

    def read_exactly(self, length: int) -> bytes:
        until = time.monotonic() + self.deadline
        while len(self.received) - self._at < length:
            if not self._fill(until, f"{length} bytes"):
                raise Unexpected(f"the stream ended before {length} bytes; unread: {self.unread!r}")
        return self._take(length)

    def read_to_end(self) -> bytes:
        """Return everything up to the end of the stream, within the deadline."""
        until = time.monotonic() + self.deadline
        while self._fill(until, "the end of the stream"):
            pass
        return self._take(len(self.received) - self._at)

    def assert_ended(self) -> None:
        """Assert that the other end closes within the deadline, and sends nothing more."""
        rest = self.read_to_end()
        if rest:
            raise Unexpected(f"expected the end of the stream, got {rest!r}")

    def assert_nothing_unread(self) -> None:
        """Assert that buffer and socket are empty. Call it only after an event that orders the expected input."""
        self.sock.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            self.received += self.sock.recv(65_536)
        if self.unread:
            raise Unexpected(f"expected nothing more, got {self.unread!r}")

    def read_raw_head(self) -> bytes:
        return self.read_until(b"\r\n\r\n", "the end of a head")

    def read_head(self) -> Head:
        return parse_head(self.read_raw_head())

    def read_chunk(self) -> bytes:
        """Return the bytes of one chunk; b"" for the last chunk, whose trailers are then unread."""
        size_line = self.read_until(b"\r\n", "a chunk size")
        found = CHUNK_SIZE.fullmatch(size_line[:-2])
        if found is None:
            raise Unexpected(f"not a chunk size: {size_line!r}")
        size = int(found[1], 16)
        if not size:
            return b""
        chunk = self.read_exactly(size)
        end = self.read_exactly(2)
        if end != b"\r\n":
            raise Unexpected(f"chunk data is followed by {end!r}")
        return chunk

    def read_trailers(self) -> list[Line]:
        """Return the trailer section, after the size line of the last chunk."""
        section = self.read_until(b"\r\n")
        while not section.endswith(b"\r\n\r\n") and section != b"\r\n":
            section += self.read_until(b"\r\n")
        return parse_head(b"-\r\n" + section).lines if section != b"\r\n" else []

    def read_chunked(self) -> tuple[bytes, list[Line]]:
        body = b""
        while chunk := self.read_chunk():
            body += chunk
        return body, self.read_trailers()

    def read_body(self, head: Head, until_close: bool) -> Message:
        """Return the body announced by `head` (RFC 9112 section 6.3). `until_close`: without framing, read to the
        end.
        """
        begin = self._at
        codings, lengths = head.get_all(b"Transfer-Encoding"), head.get_all(b"Content-Length")
        if codings and lengths:
            raise Unexpected(f"Transfer-Encoding and Content-Length in one message: {head.raw!r}")
        message = Message(head)
        if codings:
            if codings != [b"chunked"]:
                raise Unexpected(f"Transfer-Encoding {codings!r}: {head.raw!r}")
            message.body, message.trailers = self.read_chunked()
        elif lengths:
            if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
                raise Unexpected(f"Content-Length {lengths!r}: {head.raw!r}")
            message.body = self.read_exactly(int(lengths[0]))
        elif until_close:
            message.body = self.read_to_end()
        message.raw_body = self.received[begin : self._at]
        return message
