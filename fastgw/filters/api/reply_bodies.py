"""Streamed bodies of replies: pieces that a filter creates, and ranges of files.

Rule 1: a body is created or read only as fast as the client reads. Rule 2: disk access runs in a thread, not in the
event loop. Rule 3: if a body is shorter or longer than declared, the response is aborted, so that the client can detect
it.
"""

import asyncio
import os
from collections.abc import AsyncIterable, Callable
from concurrent.futures import Future
from stat import S_ISREG
from typing import Any, Final, TypeAlias, final

from fastgw.errors import Fault
from fastgw.eventloop.body_iterator import close_iterator
from fastgw.eventloop.disk_threads import DISK_THREADS
from fastgw.exchange import Exchange
from fastgw.exchange.reply import ReplyBody
from fastgw.operator_events import OperatorEvent, log_event

FilePath: TypeAlias = str | bytes | os.PathLike[str]
PIECE: Final = 65536
"""Bytes of a file that are read at once."""
SENT_AT_ONCE: Final = 1024 * 1024
"""Bytes of a file that are passed to `sendfile` at once."""
_SENT_BEFORE: Final = "the body of a reply was sent or closed before; expected one that is made for each reply"


@final
class Pieces(ReplyBody):
    """Body in pieces. `pieces`: an async iterator of bytes, which is closed when the client leaves. `length`: total
    number of bytes; None: unknown, and the body is sent chunked."""

    def __init__(self, pieces: AsyncIterable[bytes], length: int | None = None) -> None:
        if not isinstance(pieces, AsyncIterable):
            raise TypeError(f"pieces of a body by a {type(pieces).__name__}; expected an async iterator of bytes")
        if length is not None and length < 0:
            raise ValueError(f"a body of {length} bytes")
        self.length = length
        self._pieces: AsyncIterable[bytes] | None = pieces

    def service(self, exchange: Exchange) -> "_PieceSender":
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            raise ValueError(_SENT_BEFORE)
        return _PieceSender(exchange, pieces, self.length)

    def close(self) -> None:
        pass  # an iterator that was not started has nothing to close


@final
class FileRange(ReplyBody):
    """Range of an open file, sent by the kernel (`sendfile`) if the client's connection is a plain socket.

    `fd`: descriptor of a regular file; it is always closed, also if the reply is not sent. `offset`, `length`: in
    bytes.
    """

    length: int

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self._fd, self._offset, self.length = fd, offset, length

    def __del__(self) -> None:
        self.close()

    @classmethod
    async def open(cls, path: FilePath, offset: int = 0, length: int | None = None) -> "FileRange":
        """Open a file in a thread. `length` None: to the end of the file. Raises `OSError`, and `ValueError` if it is
        not a regular file or does not have this range."""
        opening = DISK_THREADS.submit(_opened, path)
        try:
            fd, size = await asyncio.shield(asyncio.wrap_future(opening))
        except asyncio.CancelledError:
            if not opening.cancel():  # a thread is using it
                opening.add_done_callback(_close_again)
            raise
        made = cls(fd, offset, 0)  # closes it in every case
        made.length = max(size - offset, 0) if length is None else length
        if offset < 0 or made.length < 0 or offset + made.length > size:
            raise ValueError(f"a range from {offset} to {offset + made.length} of a file of {size} bytes")
        return made

    def service(self, exchange: Exchange) -> "_FileSender":
        fd, self._fd = self._fd, -1
        if fd < 0:
            raise ValueError(_SENT_BEFORE)
        return _FileSender(exchange, fd, self._offset, self.length)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _close_again(opening: "Future[tuple[int, int]]") -> None:
    """Close a file that was opened after its caller was cancelled."""
    if opening.exception() is None:
        os.close(opening.result()[0])


def _opened(path: FilePath) -> tuple[int, int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # also returns at once for a pipe
    status = os.fstat(fd)
    if not S_ISREG(status.st_mode):
        os.close(fd)
        raise ValueError(f"{os.fsdecode(path)} is no regular file")
    return fd, status.st_size


class _Sender:
    """Sends the body of a reply in a separate task (`exchange.reply.BodySender`)."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange: Exchange | None = exchange
        self._task: asyncio.Task[None] | None = None
        self._paused = False
        self._resumed: asyncio.Future[None] | None = None

    def start_sending(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        self._exchange = None
        if self._task is None:
            self._let_go()
        else:
            self._task.get_loop().call_soon(self._task.cancel)  # not before the task has begun; it may be the caller

    async def _room(self) -> None:
        """Yield to other tasks, and wait until the client reads more."""
        await asyncio.sleep(0)
        while self._paused:
            self._resumed = asyncio.get_running_loop().create_future()
            await self._resumed

    def _feed(self, payload: bytes) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.response_bytes += len(payload)
            exchange.response_sink.feed(payload)

    async def _run(self) -> None:
        try:
            why = await self._send()
        except BaseException as error:  # the edge of a filter: its exception ends this response
            if self._exchange is None and isinstance(error, asyncio.CancelledError):
                return
            log_event(OperatorEvent.FILTER_RAISED, "the body of a reply raised", error=error)
            why = f"the body of a reply raised {type(error).__name__}"
        finally:
            self._let_go()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.service = None
            if why:
                exchange.fail(Fault.INTERNAL, why=why)
            else:
                exchange.response_sink.end(())

    async def _send(self) -> str:
        """Send the whole body. Returns the error, or ""."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """Close the resources of the body."""


@final
class _PieceSender(_Sender):
    def __init__(self, exchange: Exchange, pieces: AsyncIterable[bytes], length: int | None) -> None:
        super().__init__(exchange)
        self._pieces, self._length = pieces, length

    async def _send(self) -> str:
        sent, pieces = 0, aiter(self._pieces)
        try:
            async for piece in pieces:
                if self._exchange is None:  # the task ignored its cancellation
                    return ""
                if not isinstance(piece, bytes):
                    raise TypeError(f"a piece of a body is a {type(piece).__name__}; expected bytes")
                sent += len(piece)
                if self._length is not None and sent > self._length:
                    return f"the body of a reply has more than the {self._length} bytes that it should have"
                if piece:
                    self._feed(piece)
                await self._room()
        finally:
            close_iterator(pieces, asyncio.get_running_loop())
        if self._length is not None and sent < self._length:
            return f"the body of a reply has {sent} bytes, and should have {self._length}"
        return ""


@final
class _FileSender(_Sender):
    def __init__(self, exchange: Exchange, fd: int, offset: int, length: int) -> None:
        super().__init__(exchange)
        self._fd, self._at, self._left = fd, offset, length
        self._socket = -1
        self._working: Future[Any] | None = None  # job in a thread that uses the descriptors

    async def _run_in_thread(self, step: Callable[..., Any], *given: Any) -> Any:
        """Run a step that may wait for the disk in a thread. It continues even if the task is cancelled."""
        self._working = working = DISK_THREADS.submit(step, *given)
        return await asyncio.shield(asyncio.wrap_future(working))

    async def _send(self) -> str:
        await self._room()
        exchange = self._exchange
        if exchange is not None and exchange.response_sink is exchange.client and exchange.client.fd >= 0:
            self._socket = os.dup(exchange.client.fd)  # a duplicate, so that the descriptor stays open during the send
        while self._left and self._exchange is not None:
            if self._socket >= 0:
                sent: int = await self._run_in_thread(self._give_to_kernel)
                if sent < 0:
                    return "a file has become shorter while it was sent"
                self._advance(sent)
                if self._exchange is not None:
                    self._exchange.response_bytes += sent
                if sent:
                    continue
            # The socket accepts nothing now: pass a piece to the transport, which reports when it is writable.
            piece = await self._read(min(self._left, PIECE))
            if not piece:
                return "a file has become shorter while it was sent"
            self._advance(len(piece))
            self._feed(piece)
            await self._room()
        return ""

    def _advance(self, count: int) -> None:
        self._at += count
        self._left -= count

    def _give_to_kernel(self) -> int:
        """Send as much as the socket accepts, in a thread. 0: it accepts nothing now; -1: the end of the file."""
        try:
            return os.sendfile(self._socket, self._fd, self._at, min(self._left, SENT_AT_ONCE)) or -1
        except OSError:  # including a lost connection, which the transport reports
            return 0

    async def _read(self, count: int) -> bytes:
        """Read from the page cache, or in a thread if the data is not there."""
        buffer = bytearray(count)
        try:
            read = os.preadv(self._fd, [buffer], self._at, os.RWF_NOWAIT)
        except OSError:
            read = 0
        if read:
            return bytes(buffer[:read])
        piece: bytes = await self._run_in_thread(os.pread, self._fd, count, self._at)
        return piece

    def _let_go(self) -> None:
        working = self._working
        if working is None or working.done() or working.cancel():  # otherwise it no longer waits for a thread
            self._close()
        else:  # a descriptor closed during the job could be reused by another connection
            working.add_done_callback(self._close)

    def _close(self, done: "Future[Any] | None" = None) -> None:
        for fd in (self._fd, self._socket):
            if fd >= 0:
                os.close(fd)
        self._fd = self._socket = -1
