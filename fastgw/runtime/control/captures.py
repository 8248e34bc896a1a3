"""Captures of the control process: begun by clients of the admin API, on all workers, and ended with them.

Rule: what a client does not read in time is dropped and counted; workers and control never wait for it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final, final

import msgspec

from fastgw.admin.node_interface import TooManyCaptures
from fastgw.capture.captured_exchange import CapturedExchange, CaptureOrder, decode
from fastgw.runtime.ipc.channel import Capture, Channel, ChannelClosed, ChannelFull
from fastgw.runtime.ipc.feed_values import RETRY_S
from fastgw.runtime.ipc.sample_stream import Sample, SampleReader, sample_pair

MOST_SESSIONS: Final = 8
"""Maximum number of captures of clients at a time."""
MOST_S: Final = 24 * 3600.0
"""Maximum duration of a capture in seconds."""
MOST_QUEUED: Final = 8 * 1024 * 1024
"""Maximum bytes that wait for a client."""
_NUMBERS: Final = count(int(time.time()) << 20)  # other numbers than those of an earlier control process
_encode: Final = msgspec.msgpack.Encoder().encode


@final
class CaptureStream:
    """Captured exchanges for one client, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[Sample] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Number of exchanges that were dropped, by workers and here."""
        return self._dropped

    def add(self, sample: Sample) -> None:
        """Queue a sample, or drop it."""
        self._dropped += sample.dropped
        if self._bytes + len(sample.content) > MOST_QUEUED:
            self._dropped += 1
            return
        self._bytes += len(sample.content)
        self._waiting.append(sample)
        self._arrived.set()

    async def next(self, seconds: float) -> CapturedExchange | None:
        """Return the next exchange. None: none has come within this time."""
        if not self._waiting:
            self._arrived.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        sample = self._waiting.popleft()
        self._bytes -= len(sample.content)
        return decode(sample.content)


@final
class Captures:
    """Begins and ends captures. `generation`: returns the active one."""

    def __init__(self, channel: Channel, generation: Callable[[], int]) -> None:
        self._channel, self._generation = channel, generation
        self.sessions = 0
        """Number of captures of clients."""

    @asynccontextmanager
    async def capturing(self, order: CaptureOrder) -> AsyncIterator[CaptureStream]:
        """Capture exchanges on all workers. Raises `TooManyCaptures` and `OSError`."""
        if self.sessions >= MOST_SESSIONS:
            raise TooManyCaptures
        self.sessions += 1
        try:
            until = min(order.until_date or time.time() + MOST_S, time.time() + MOST_S)
            stream = CaptureStream()
            async with self.sampling(_encode(msgspec.structs.replace(order, until_date=until)), stream.add):
                yield stream
        finally:
            self.sessions -= 1

    @asynccontextmanager
    async def sampling(self, order: bytes, receive: Callable[[Sample], None]) -> AsyncIterator[None]:
        """Receive samples of all workers. Raises `OSError`."""
        number, loop = next(_NUMBERS), asyncio.get_running_loop()
        reading, writing = sample_pair()
        reader = SampleReader(reading, receive)
        loop.add_reader(reading, reader.read)
        try:
            try:
                await self._send(Capture(generation=self._generation(), number=number, order=order), writing.fileno())
            finally:
                writing.close()
            yield
        finally:
            loop.remove_reader(reading)
            reader.close()  # which ends it on the workers
            await self._send(Capture(generation=self._generation(), number=number), -1)

    async def _send(self, message: Capture, descriptor: int) -> None:
        while True:
            try:
                self._channel.send(message, () if descriptor < 0 else (descriptor,))
            except ChannelFull:
                await asyncio.sleep(RETRY_S)
            except ChannelClosed:
                return  # the supervisor has ended, so this process ends too
            else:
                return
