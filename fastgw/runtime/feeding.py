"""Control's part in what is fetched once per node: it runs the sources, and what they say goes to all workers."""

import asyncio
import os
import pickle
import time
from collections.abc import Mapping, Sequence
from typing import Final

from fastgw.admin.node import FeedInfo
from fastgw.filters.api import FeedSource
from fastgw.node.feeds import MOST_BYTES
from fastgw.runtime.channel import Ask, Channel, ChannelClosed, ChannelFull, Fed
from fastgw.runtime.notices import RareNotice, described
from fastgw.upstream.fetch import Fetcher

AGAIN_S: Final = 5.0
"""How long a source rests after it has raised something, or ended."""
SHOWN: Final = 100
"""Sources that are told of; of more the first."""
RETRY_S: Final = 0.05
"""How soon a value is sent once more that the supervisor could not take."""


def put(value: bytes) -> int:
    """A memory file that holds the value; its descriptor. Raises `OSError`."""
    descriptor = os.memfd_create("fastgw-feed", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(value)
    return descriptor


def taken(descriptor: int) -> bytes:
    """The value; the descriptor is closed."""
    try:
        return os.pread(descriptor, MOST_BYTES, 0)
    finally:
        os.close(descriptor)


class Feeding:
    """Runs the sources of the configuration in force, each in a task of its own."""

    def __init__(self, channel: Channel, fetcher: Fetcher) -> None:
        self._channel = channel
        self._fetcher = fetcher
        self._running: dict[str, _Source] = {}

    def follow(self, sources: Mapping[str, bytes], captured: Mapping[str, bytes], generation: int) -> None:
        """Run these from now on. One that is the same, and reads the same, goes on."""
        for key in [key for key, running in self._running.items() if not running.stays(sources.get(key), captured)]:
            self._running.pop(key).task.cancel()
        for key, pickled in sources.items():
            if key not in self._running:
                self._running[key] = _Source(self._channel, self._fetcher, pickled, captured, generation)

    def asked(self, order: Ask) -> None:
        """A worker takes what the source said for out of date."""
        running = self._running.get(order.key)
        if running is not None:
            running.wake.set()

    def told(self) -> Sequence[FeedInfo]:
        """How the sources fare. Those of one name, which are asked in several ways, are one here, by the worst."""
        found: dict[str, FeedInfo] = {}
        for running in self._running.values():
            each = running.info
            other = found.get(each.feed)
            if other is not None:
                dates = each.last_success_date, other.last_success_date
                oldest = None if None in dates else min(dates, key=lambda date: date or 0.0)
                each = FeedInfo(each.feed, oldest, each.problem or other.problem)
            elif len(found) == SHOWN:
                continue
            found[each.feed] = each
        return list(found.values())

    def stop(self) -> None:
        for running in self._running.values():
            running.task.cancel()
        self._running.clear()


class _Source:
    """One source that runs: its `NodeSide`."""

    def __init__(
        self, channel: Channel, fetcher: Fetcher, pickled: bytes, captured: Mapping[str, bytes], generation: int
    ) -> None:
        self.fetcher = fetcher
        self.wake = asyncio.Event()
        self._channel = channel
        self._pickled = pickled
        self._source: FeedSource = pickle.loads(pickled)
        self._captured = captured
        self._generation = generation
        self._read: dict[str, bytes] = {}
        self._complain = RareNotice()
        self._unsent: bytes | None = None
        self._says_how = False
        self.info = FeedInfo(self._source.name, None, "")
        self.task = asyncio.get_running_loop().create_task(self._run())

    def stays(self, pickled: bytes | None, captured: Mapping[str, bytes]) -> bool:
        return pickled == self._pickled and all(captured.get(path) == held for path, held in self._read.items())

    async def _run(self) -> None:
        while True:
            try:
                await self._source.run(self)
            except Exception as error:  # the edge of a source: its error is told, and it begins anew
                why = f"{error}" if isinstance(error, OSError) else described(error)
                self.info = FeedInfo(self.info.feed, self.info.last_success_date, why)
                self._complain(f"{self._source.key}: {why}")
            await asyncio.sleep(AGAIN_S)

    # what it has of the node (`NodeSide`)

    def read(self, path: str) -> bytes:
        content = self._read[path] = self._captured[path]
        return content

    def attempted(self, why: str = "") -> None:
        self._says_how = True
        self._note(why)

    def _note(self, why: str) -> None:
        self.info = FeedInfo(self.info.feed, self.info.last_success_date if why else time.time(), why)

    async def asked(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self.wake.wait()
        except TimeoutError:
            return False
        self.wake.clear()
        return True

    def publish(self, value: bytes) -> None:
        if len(value) > MOST_BYTES:
            raise OSError(f"a value of {len(value)} bytes; the most is {MOST_BYTES}")
        if value and not self._says_how:
            self._note("")
        waits, self._unsent = self._unsent is not None, value
        if not waits:
            self._send()

    def _send(self) -> None:
        value = self._unsent
        assert value is not None
        descriptor = put(value)
        try:
            self._channel.send(Fed(generation=self._generation, key=self._source.key), [descriptor])
            self._unsent = None
        except ChannelFull:
            asyncio.get_running_loop().call_later(RETRY_S, self._send)
        except ChannelClosed:
            self._unsent = None  # the supervisor is gone, and we go too
        finally:
            os.close(descriptor)
