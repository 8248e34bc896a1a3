"""Body of a response from a file: pieces of it, with bytes before and after them (multipart/byteranges).

Rule 1: it is read only as fast as the client reads. Rule 2: the loop reads what the page cache has; the rest is read in
a thread. Rule 3: a file that no longer has the content that was promised ends the connection, not the body. A limit of
sendfile: the kernel sends from the page cache, so an overwrite also changes bytes that the socket holds unsent, and one
after the last call is noticed by no check.

PERF: sendfile where the transport is a plain socket and the page cache has the piece: 208 us of CPU for 1 MiB, read and
sent 281, nginx 258 (Linux 6.18, CPython 3.11, 8 connections). TLS, HTTP/2 and filters get pieces that were read.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, final

from fastgw.errors import Fault
from fastgw.eventloop.disk_threads import run_on_disk
from fastgw.exchange import Exchange
from fastgw.exchange.reply import ReplyBody
from fastgw.files.beneath import read_at_once
from fastgw.http.byte_ranges import ByteRange

PIECE: Final = 65_536
"""Bytes that are read at once."""
SMALL_PIECE: Final = 16_384
"""Bytes that are read for a plain socket that accepts nothing now: its transport tells when they were sent."""
LARGE_PIECE: Final = 524_288
"""Most bytes that sendfile gets at once."""
PER_TURN: Final = 1_048_576
"""Bytes of one body that are sent in one turn of the loop; then other connections are served. Filters of the body get
`PIECE` bytes in a turn: they may compress them."""

_CHANGED: Final = "the file was truncated or overwritten while it was sent"


class SendableFile(Protocol):
    """An open file, closed with the last reference."""

    @property
    def fd(self) -> int: ...

    @property
    def is_intact(self) -> bool:
        """Whether the content of the opening is still there: more may have been appended."""


class FilePart(NamedTuple):
    """Bytes that are sent before a range of the file, and the range. None: there is none, at the end."""

    before: bytes
    range: ByteRange | None


@final
class FileBody(ReplyBody):
    """Body of a reply: parts of an open file, in their order."""

    length: int

    def __init__(self, file: SendableFile, parts: Sequence[FilePart]) -> None:
        self._file: SendableFile | None = file
        self._parts = parts
        self.length = sum(len(each.before) + (0 if each.range is None else each.range.length) for each in parts)

    def service(self, exchange: Exchange) -> "_FileSender":
        file, self._file = self._file, None
        if file is None:
            raise ValueError("the body of a reply was sent or closed before")
        return _FileSender(exchange, file, self._parts)

    def close(self) -> None:
        self._file = None


@final
class _FileSender:
    """Sends a file (`exchange.reply.BodySender`)."""

    __slots__ = ("_at", "_exchange", "_file", "_left", "_loop", "_parts", "_paused", "_scheduled")

    def __init__(self, exchange: Exchange, file: SendableFile, parts: Sequence[FilePart]) -> None:
        self._exchange: Exchange | None = exchange
        self._file: SendableFile | None = file
        self._parts = list(reversed(parts))
        self._at = self._left = 0
        self._paused = self._scheduled = False
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<FileSender of {self._file!r} left={self._left}>"

    def start_sending(self) -> None:
        self._schedule()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._schedule()

    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        self._exchange = self._file = None

    def _schedule(self) -> None:
        """Continue in the next turn of the loop. While a thread reads, this is scheduled."""
        if not self._scheduled and self._exchange is not None:
            self._scheduled = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        exchange = self._exchange
        if exchange is None:
            return
        budget = PER_TURN if exchange.response_sink is exchange.client else PIECE
        while not self._paused and self._exchange is not None and self._file is not None:
            if not self._left and not self._take_part():
                self._finish(self._exchange)
                return
            if not self._left:
                continue
            if budget <= 0:
                self._schedule()
                return
            given = self._give_to_kernel(self._exchange, self._file)
            if given is None:
                return
            if given:
                budget -= given
                continue
            count = min(self._left, budget, SMALL_PIECE if _is_plain(self._exchange) else PIECE)
            piece = read_at_once(self._file.fd, count, self._at)
            if piece is None:
                self._scheduled = True
                run_on_disk(self._loop, self._read, self._file, count, self._at).add_done_callback(self._was_read)
                return
            budget -= len(piece)
            if not self._pass(piece, self._left == len(piece) and not self._file.is_intact):
                return

    def _give_to_kernel(self, exchange: Exchange, file: SendableFile) -> int | None:
        """Send from the page cache to a plain socket. 0: that is not possible now; None: the response was aborted.

        A piece whose last page is cached counts as cached: files are read ahead, and dropped from the cache, in order.
        """
        if not _is_plain(exchange):
            return 0
        count = min(self._left, LARGE_PIECE)
        if read_at_once(file.fd, 1, self._at + count - 1) is None:
            return 0
        if count == self._left and not file.is_intact:
            self._fail(_CHANGED)
            return None
        try:
            sent = os.sendfile(exchange.client.fd, file.fd, self._at, count)
        except OSError:  # the socket accepts nothing now, or is lost: its transport is asked
            return 0
        if not sent:
            self._fail(_CHANGED)
            return None
        self._at += sent
        self._left -= sent
        exchange.response_bytes += sent
        return sent

    def _take_part(self) -> bool:
        """Begin the next part. False: there is none."""
        if not self._parts:
            return False
        part = self._parts.pop()
        if part.range is not None:
            self._at, self._left = part.range.first, part.range.length
        if part.before:
            self._feed(part.before)
        return True

    @staticmethod
    def _read(file: SendableFile, count: int, at: int) -> tuple[bytes, bool]:
        """Read in a thread. Returns the piece, and whether the file has lost content."""
        piece = os.pread(file.fd, count, at)
        return piece, not file.is_intact

    def _was_read(self, reading: "asyncio.Future[tuple[bytes, bool]]") -> None:
        self._scheduled = False
        error = None if reading.cancelled() else reading.exception()
        if self._exchange is None or reading.cancelled():
            return
        if error is not None:
            self._fail(f"the file cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}")
            return
        piece, changed = reading.result()
        if self._pass(piece, changed):
            self._schedule()

    def _pass(self, piece: bytes, changed: bool) -> bool:
        """Send a piece. False: the response was aborted instead."""
        if not piece or changed:
            self._fail(_CHANGED)
            return False
        self._at += len(piece)
        self._left -= len(piece)
        self._feed(piece)
        return self._exchange is not None

    def _feed(self, payload: bytes) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.response_bytes += len(payload)
            exchange.response_sink.feed(payload)

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = self._file = None
        exchange.service = None
        exchange.response_sink.end(())

    def _fail(self, why: str) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.fail(Fault.FILE_UNREADABLE, why=why)


def _is_plain(exchange: Exchange) -> bool:
    """Whether the body goes as it is to a plain socket."""
    return exchange.client.fd >= 0 and exchange.response_sink is exchange.client
