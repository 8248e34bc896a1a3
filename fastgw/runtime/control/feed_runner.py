"""Feed runner: runs the sources of data that is fetched once per node, and sends their values to all workers."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from fastgw.admin.node_interface import FeedInfo
from fastgw.config.base.settings_codec import decode_object
from fastgw.filters.api import FeedSource
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice, described
from fastgw.runtime.ipc.channel import Channel, ChannelClosed, ChannelFull, FeedRefreshRequest, FeedUpdate
from fastgw.runtime.ipc.feed_values import RETRY_S, write_memfd
from fastgw.runtime.node.config_snapshot import Users
from fastgw.sync.feeds import MOST_BYTES, Feeds, mark_of
from fastgw.upstream.client.http_client import Fetcher

AGAIN_S: Final = 5.0
"""Seconds until a source that has raised an exception, or ended, is restarted."""
SHOWN: Final = 100
"""Maximum number of sources that are reported one by one; above it only those with errors are; the others are
aggregated by name.
"""
MOST_SEEN: Final = 100
"""Maximum number of outdated values that are recorded; above it any value may be outdated."""
MOST_EARLY: Final = 100_000
"""Maximum number of requests for sources that are not known yet."""
ANY: Final = b""


class FeedRunner:
    """Runs the sources of the active configuration, each in a task of its own; a lazy one only while it is requested.

    One that is not requested costs nothing here. `values`: the last values of the sources, from the previous process.
    """

    def __init__(self, channel: Channel, fetcher: Fetcher, values: Mapping[str, bytes] = MappingProxyType({})) -> None:
        self.fetcher = fetcher
        self.channel = channel
        self.feeds = Feeds(values, self._request_refresh, lasting=True)
        self.look_at_files: Callable[[], Awaitable[None]] = _nothing_to_look_at
        self.captured: Mapping[str, bytes] = {}
        self.generation = 0
        self._lazy: Mapping[str, bytes] = {}
        self._users: Mapping[str, Users] = {}
        self._running: dict[str, _Source] = {}
        self._rested: dict[str, FeedInfo] = {}  # the last states of lazy sources that are idle now
        self._early: dict[str, FeedRefreshRequest] = {}

    def run_sources(
        self,
        sources: Mapping[str, bytes],
        captured: Mapping[str, bytes],
        generation: int,
        lazy: Mapping[str, bytes] = MappingProxyType({}),
        users: Mapping[str, Users] = MappingProxyType({}),
    ) -> None:
        """Run these from now on. Unchanged sources with unchanged files continue."""
        self.captured, self.generation, self._lazy, self._users = captured, generation, lazy, users
        for key, running in list(self._running.items()):
            if not running.is_unchanged(sources.get(key) or lazy.get(key), captured):
                self._running.pop(key).stop()
        for key in [key for key in self._rested if key not in lazy]:
            del self._rested[key]
        self.feeds.retain_keys(_Either(sources, lazy))
        for key, encoded in sources.items():
            if key not in self._running:
                self._running[key] = _Source(self, encoded)
        early, self._early = self._early, {}
        for order in early.values():
            self.refresh_requested(order)

    def refresh_requested(self, order: FeedRefreshRequest) -> None:
        """Handle a worker's report that the value of a source is outdated.

        A worker that already has a newer configuration refers to the sources of that one.
        """
        if order.generation > self.generation:
            if len(self._early) < MOST_EARLY:
                self._early[order.key] = order
            return
        running = self._running.get(order.key)
        if running is None and (encoded := self._lazy.get(order.key)) is not None:
            running = self._running[order.key] = _Source(self, encoded)
        if running is not None:
            running.request_refresh(order.seen)

    def _request_refresh(self, key: str, seen: bytes) -> None:
        """Request one source from another."""
        self.refresh_requested(FeedRefreshRequest(generation=self.generation, key=key, seen=seen))

    def rest(self, source: "_Source", key: str) -> None:
        """Stop a lazy source until it is requested again."""
        del self._running[key]
        self._rested[key] = source.info

    def resumed(self, source: FeedSource) -> FeedInfo:
        """Return the state of a feed that resumes after a pause."""
        return self._rested.pop(source.key, FeedInfo(source.name, None, ""))

    def feed_infos(self) -> Sequence[FeedInfo]:
        """Return the states of the feeds, without those never requested. If there are too many, those with errors are
        reported one by one; the others are aggregated by name.
        """
        running = {key: each.info for key, each in self._running.items()}
        found = [self._with_users(key, info) for key, info in {**running, **self._rested}.items()]
        if len(found) <= SHOWN:
            return found
        by_name: dict[str, list[FeedInfo]] = {}
        for each in found:
            if not each.problem:
                by_name.setdefault(each.feed, []).append(each)
        failing = [each for each in found if each.problem]
        return [*failing, *(_as_one(alike) for alike in by_name.values())][:SHOWN]

    def _with_users(self, key: str, info: FeedInfo) -> FeedInfo:
        first, count = self._users.get(key, ("", 1))
        return FeedInfo(info.feed, info.last_success_date, info.problem, first, count)

    def used_by(self, key: str) -> str:
        """Describe the users of a source, for people."""
        first, count = self._users.get(key, ("", 1))
        return f"{first} and {count - 1} more" if count > 1 else first

    def stop(self) -> None:
        for running in self._running.values():
            running.stop()
        self._running.clear()


def _as_one(alike: Sequence[FeedInfo]) -> FeedInfo:
    """Summarize several healthy feeds of one name, under the date of the oldest value."""
    dates = [each.last_success_date for each in alike]
    oldest = None if None in dates else min(date for date in dates if date is not None)
    return FeedInfo(alike[0].feed, oldest, "", users=sum(each.users for each in alike))


async def _nothing_to_look_at() -> None: ...


class _Either(Container[str]):
    def __init__(self, *those: Container[str]) -> None:
        self._those = those

    def __contains__(self, key: object) -> bool:
        return any(key in each for each in self._those)


class _Source:
    """One running source: its `NodeSide`."""

    def __init__(self, feeding: FeedRunner, encoded: bytes) -> None:
        self.fetcher = feeding.fetcher
        self.feeds = feeding.feeds
        self._feeding = feeding
        self._wake = asyncio.Event()
        self._encoded = encoded
        self._source: FeedSource = decode_object(encoded, FeedSource)
        self._captured = feeding.captured
        self._read: dict[str, bytes] = {}
        self._outdated: set[bytes] = set()
        self._complain = RareNotice()
        self._unsent: bytes | None = None
        self._says_how = False
        self.info = feeding.resumed(self._source)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def is_unchanged(self, encoded: bytes | None, captured: Mapping[str, bytes]) -> bool:
        return encoded == self._encoded and all(captured.get(path) == held for path, held in self._read.items())

    def stop(self) -> None:
        self._task.cancel()
        self._unsent = None

    def request_refresh(self, seen: bytes) -> None:
        """Request a newer value than the one with this mark, which was reported as outdated."""
        self._outdated.add(seen if len(self._outdated) < MOST_SEEN else ANY)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._source.run(self)
            except Exception as error:  # the edge of a source: its error is reported, and it is restarted
                why = f"{error}" if isinstance(error, OSError) else described(error)
                self._note(why)
                used_by = f" for {self.used_by}" if self.used_by else ""
                self._complain(OperatorEvent.FEED_FAILED, f"{self.info.feed}{used_by}: {why}")
            else:
                if self._source.lazy:
                    if self._wake.is_set():
                        continue
                    self._feeding.rest(self, self._source.key)
                    return
            await asyncio.sleep(AGAIN_S)

    # interface of the node (`NodeSide`)

    @property
    def generation(self) -> int:
        return self._feeding.generation

    @property
    def used_by(self) -> str:
        return self._feeding.used_by(self._source.key)

    def read(self, path: str) -> bytes:
        content = self._read[path] = self._captured[path]
        return content

    async def look_at_files(self) -> None:
        await self._feeding.look_at_files()

    def attempted(self, why: str = "") -> None:
        self._says_how = True
        self._note(why)

    def _note(self, why: str) -> None:
        self.info = FeedInfo(self.info.feed, self.info.last_success_date if why else time.time(), why)

    async def asked(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            if not self._wake.is_set():  # a request may arrive just before the timeout
                return False
        self._wake.clear()
        return True

    def is_outdated(self, value: bytes) -> bool:
        return ANY in self._outdated or mark_of(value) in self._outdated

    def publish(self, value: bytes) -> None:
        if len(value) > MOST_BYTES:
            raise OSError(f"a value of {len(value)} bytes; the most is {MOST_BYTES}")
        if value and not self._says_how:
            self._note("")
        self._outdated.clear()
        self.feeds.deliver(self._source.key, value)
        waits, self._unsent = self._unsent is not None, value
        if not waits:
            self._send()

    def _send(self) -> None:
        value = self._unsent
        if value is None:
            return  # it was replaced in between
        try:
            descriptor = write_memfd(value)
            try:
                self._feeding.channel.send(FeedUpdate(generation=self.generation, key=self._source.key), [descriptor])
            finally:
                os.close(descriptor)
            self._unsent = None
        except (ChannelFull, OSError):  # OSError: too many open files, for example
            asyncio.get_running_loop().call_later(RETRY_S, self._send)
        except ChannelClosed:
            self._unsent = None  # the supervisor has ended, so this process ends too
