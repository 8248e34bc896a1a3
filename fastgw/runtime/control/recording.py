"""Recording of requests in control: it takes the records of all workers, and gives them to the client of the admin API.

Rule 1: there is one recording at a time. Rule 2: records wait in bounded memory, and nowhere else; those that do not
fit are dropped and counted. Rule 3: a recording ends when its client has not fetched for `FETCHED_EVERY_S`, or after
the number of requests or the time that the client has set.
"""

import asyncio
import os
import secrets
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, final

import msgspec

from fastgw import VERSION
from fastgw.admin.node_interface import RecordingBegun, RecordingEnded, RecordingWanted
from fastgw.admin.tapped_request import check_status
from fastgw.config.settings.gateway import Config
from fastgw.gateway.compiler import secret_names_of
from fastgw.runtime.ipc.channel import Channel
from fastgw.runtime.ipc.published_feed import PublishedFeed
from fastgw.sync.recordings import DROPPED, FEED, NOTHING, RECORD, TOKEN_BYTES, RecordBatch, RecordingOrder, written

FETCHED_EVERY_S: Final = 30.0
BEGIN_S: Final = 2.0
"""Seconds within which all workers should have begun to record; the others do so later."""
WAIT_S: Final = 5.0
"""Seconds that a fetch waits for records."""
MOST_WAITING: Final = 32 * 1024 * 1024
"""Maximum bytes of records that wait for the client."""
MOST_FETCHED: Final = 4 * 1024 * 1024
"""Bytes after which a fetch returns."""
MOST_REQUESTS: Final = 1_000_000
MOST_SECONDS: Final = 86_400.0
MOST_BODY: Final = 1024 * 1024
MOST_MESSAGE: Final = 256 * 1024 * 1024
MOST_NAMES: Final = 1000
_CREDENTIALS: Final = struct.Struct("3i")


@final
class RecordingHub:
    """`config_in_use`: returns the settings, `generation_in_use`: their generation."""

    def __init__(
        self, channel: Channel, config_in_use: Callable[[], Config], generation_in_use: Callable[[], int]
    ) -> None:
        self._config, self._generation = config_in_use, generation_in_use
        self._current: _Recording | None = None
        self._order = NOTHING
        self._feed = PublishedFeed(channel, FEED, generation_in_use, lambda: written(self._order))

    def start(self, left: bytes) -> None:
        """`left`: order of the previous process, whose recording has ended with it."""
        if left:
            self._feed.publish()

    def stop(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            current.close()
            self._order = NOTHING
            self._feed.publish()

    async def begin_recording(self, wanted: RecordingWanted, workers: int) -> RecordingBegun | None:
        """Begin a recording, and wait a little until all workers record. None: there is one already. Raises
        `ValueError` for invalid bounds.
        """
        if not 1 <= wanted.requests <= MOST_REQUESTS:
            raise ValueError(f"requests is {wanted.requests}; expected 1 to {MOST_REQUESTS}")
        if not 0.0 < wanted.seconds <= MOST_SECONDS:
            raise ValueError(f"seconds is {wanted.seconds:g}; expected more than 0, and at most {MOST_SECONDS:g}")
        if not 0.0 < wanted.ratio <= 1.0:
            raise ValueError(f"ratio is {wanted.ratio:g}; expected more than 0, and at most 1")
        if not 0 <= wanted.body_bytes <= MOST_BODY:
            raise ValueError(f"body_bytes is {wanted.body_bytes}; expected 0 to {MOST_BODY}")
        if max(map(len, (wanted.routes, wanted.statuses, wanted.redact))) > MOST_NAMES:
            raise ValueError(f"expected at most {MOST_NAMES} names")
        for status in wanted.statuses:
            check_status(status)
        if self._current is not None:
            return None
        recording = self._current = _Recording(wanted, self._is_over)
        self._order = self._order_of(recording)
        self._feed.publish()
        await recording.wait_for(workers)
        return RecordingBegun(recording.token.hex(), VERSION, self._generation())

    def use_configuration(self) -> None:
        """Mask the secrets of the current filters and access logs."""
        if self._current is not None and (order := self._order_of(self._current)) != self._order:
            self._order = order
            self._feed.publish()

    async def fetch(self, recording: str) -> bytes | None:
        """Return `RecordBatch`. None: there is no such recording."""
        current = self._current
        if current is None or not secrets.compare_digest(recording.encode(), current.token.hex().encode()):
            return None
        return await current.fetch()

    def end(self, recording: str) -> RecordingEnded | None:
        current = self._current
        if current is None or not secrets.compare_digest(recording.encode(), current.token.hex().encode()):
            return None
        self.stop()
        return RecordingEnded(current.requests, current.dropped)

    def _order_of(self, recording: "_Recording") -> RecordingOrder:
        wanted = recording.wanted
        return RecordingOrder(
            recording.address,
            recording.token.hex(),
            wanted.ratio,
            tuple(wanted.routes),
            tuple(wanted.statuses),
            wanted.body_bytes,
            tuple(sorted({*secret_names_of(self._config()), *wanted.redact})),
            wanted.keep_cookies,
        )

    def _is_over(self, recording: "_Recording", abandoned: bool) -> None:
        """Handle the end of a recording, whose last records may still be fetched unless it is `abandoned`."""
        if recording is self._current:
            self._order = NOTHING
            self._feed.publish()
            if abandoned:
                self._current = None


@final
class _Recording:
    """A recording, and the socket that workers send its records to."""

    def __init__(self, wanted: RecordingWanted, over: "Callable[[_Recording, bool], None]") -> None:
        self.wanted = wanted
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self.address = f"fastgw-recording-{secrets.token_hex(16)}"
        self.requests = self.dropped = 0
        self._over = over
        self._waiting: deque[bytes] = deque()
        self._bytes = self._known = 0
        self._is_over = False
        self._there = asyncio.Event()
        self._until = time.monotonic() + wanted.seconds
        self._connections: set[_WorkerRecords] = set()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(FETCHED_EVERY_S, self._abandon)
        self._late = self._loop.call_later(wanted.seconds, self._finish)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listening.bind("\0" + self.address)
        listening.listen(64)
        self._listening = listening
        self._loop.add_reader(listening, self._accept)

    def __repr__(self) -> str:
        return f"<_Recording requests={self.requests} of {self.wanted.requests}>"

    def _accept(self) -> None:
        with suppress(BlockingIOError, OSError):
            accepted, _ = self._listening.accept()
            _, uid, _ = _CREDENTIALS.unpack(
                accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if uid != os.getuid():
                accepted.close()
                return
            accepted.setblocking(False)
            self._connections.add(_WorkerRecords(self._loop, accepted, self))

    async def wait_for(self, workers: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_S):
                while self._known < workers and not self._is_over:
                    self._there.clear()
                    await self._there.wait()

    def worker_is_known(self) -> None:
        self._known += 1
        self._there.set()

    def forget(self, connection: "_WorkerRecords") -> None:
        self._connections.discard(connection)

    def add(self, record: bytes) -> None:
        if self._is_over:
            return
        if self._bytes + len(record) > MOST_WAITING:
            self.dropped += 1
            return
        self.requests += 1
        self._waiting.append(record)
        self._bytes += len(record)
        self._there.set()
        if self.requests >= self.wanted.requests:
            self._finish()

    def _finish(self) -> None:
        """Record no more; what waits may still be fetched."""
        if not self._is_over:
            self._is_over = True
            self._there.set()
            self._close_sockets()
            self._over(self, False)

    def _abandon(self) -> None:
        """End, because the client is gone."""
        self.close()
        self._over(self, True)

    def close(self) -> None:
        self._is_over = True
        self._there.set()
        self._timer.cancel()
        self._waiting.clear()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._late.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()
        for connection in tuple(self._connections):
            connection.close()

    async def fetch(self) -> bytes:
        self._timer.cancel()
        try:
            if not self._waiting and not self._is_over:
                self._there.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(WAIT_S):
                        await self._there.wait()
            fetched: list[bytes] = []
            size = 0
            while self._waiting and size < MOST_FETCHED:
                record = self._waiting.popleft()
                size += len(record)
                fetched.append(record)
            self._bytes -= size
        finally:
            self._timer.cancel()
            self._timer = self._loop.call_later(FETCHED_EVERY_S, self._abandon)
        return msgspec.msgpack.encode(RecordBatch(self._is_over and not self._waiting, self.dropped, fetched))


@final
class _WorkerRecords:
    """Connection of a worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, recording: _Recording) -> None:
        self._loop, self._socket, self._recording = loop, sock, recording
        self._received = bytearray()
        self._is_known = False
        loop.add_reader(sock, self._read)

    def _read(self) -> None:
        try:
            piece = self._socket.recv(256 * 1024)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self.close()
            return
        self._received += piece
        if not self._is_known:
            if len(self._received) < TOKEN_BYTES:
                return
            if not secrets.compare_digest(bytes(self._received[:TOKEN_BYTES]), self._recording.token):
                self.close()
                return
            self._is_known = True
            self._recording.worker_is_known()
            del self._received[:TOKEN_BYTES]
        self._take_messages()

    def _take_messages(self) -> None:
        received, at = self._received, 0
        while len(received) >= at + 5:
            length = int.from_bytes(received[at : at + 4], "big")
            if length > MOST_MESSAGE:
                self.close()
                return
            if len(received) < at + 4 + length:
                break
            kind, content = received[at + 4 : at + 5], bytes(received[at + 5 : at + 4 + length])
            at += 4 + length
            if kind == RECORD:
                self._recording.add(content)
            elif kind == DROPPED:
                self._recording.dropped += int.from_bytes(content, "big")
        del received[:at]

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self._recording.forget(self)
