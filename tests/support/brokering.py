"""A node in one process: control with its sources, and workers, connected as by the supervisor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, NamedTuple, cast

from fastgw.config.base.settings_codec import encode_object
from fastgw.config.base.value_types import parse_endpoint
from fastgw.config.settings.credentials import Csrf, OAuth2
from fastgw.config.settings.secrets import Secret
from fastgw.filters.api import Feeds, FeedSource, Fetcher
from fastgw.filters.policies.credentials.control_fetcher import ControlFetch
from fastgw.filters.policies.credentials.csrf_tokens import CSRF_TOKENS, CsrfHolder, CsrfSource, Shown
from fastgw.filters.policies.credentials.messages import Unavailable
from fastgw.filters.policies.credentials.oauth_tokens import TOKENS, Token, TokenHolder, TokenSource
from fastgw.filters.policies.credentials.worker_cache import WorkerCache
from fastgw.runtime.control.feed_runner import FeedRunner
from fastgw.runtime.ipc.channel import FeedRefreshRequest, FeedUpdate
from fastgw.runtime.ipc.feed_values import read_memfd
from tests.support.fetching import fetching


def oauth2(url: str, **more: Any) -> OAuth2:
    settings: dict[str, Any] = {"client_id": Secret(text="app"), "client_secret": Secret(text="of-the-app")} | more
    return OAuth2(token_url=parse_endpoint(url), **settings)


class Around(NamedTuple):
    """Services of a worker."""

    fetcher: Fetcher
    feeds: Feeds
    node: Node

    def control_is_away(self) -> bool:
        return self.node.control is None

    def generation(self) -> int:
        return self.node.generation

    def feed_others(self, key: str, value: bytes) -> None:
        self.node.deliver(key, value)


class Node:
    """`hears`: whether a worker receives messages at once; `loses`: number of asks that are lost."""

    def __init__(self, fetcher: Fetcher, workers: int = 4) -> None:
        self.fetcher = fetcher
        self.generation = 1
        self.kept: dict[str, bytes] = {}
        self.sources: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.hears = [True] * workers
        self.loses = 0
        self.asks = 0
        self.control: FeedRunner | None = None
        self.workers = [Around(fetcher, Feeds({}, self._ask), self) for _ in range(workers)]
        self._holders: list[WorkerCache[Any]] = []

    def add_worker(self) -> None:
        self.workers.append(Around(self.fetcher, Feeds({}, self._ask), self))
        self.hears.append(True)

    def serve(self, source: FeedSource) -> None:
        self.sources[source.key] = encode_object(source)

    def start_control(self) -> FeedRunner:
        self.control = FeedRunner(cast(Any, self), self.fetcher, dict(self.kept))
        self.follow()
        return self.control

    def kill_control(self) -> None:
        assert self.control is not None
        self.control.stop()
        self.control = None

    def follow(self) -> None:
        """Make this the active configuration of control."""
        assert self.control is not None
        self.control.run_sources({}, dict(self.files), self.generation, dict(self.sources))

    def send(self, message: FeedUpdate, descriptors: list[int]) -> None:
        """Send on control's end of its channel."""
        self.deliver(message.key, read_memfd(os.dup(descriptors[0])))

    def deliver(self, key: str, value: bytes) -> None:
        if value:
            self.kept[key] = value
        for worker, hears in zip(self.workers, self.hears, strict=True):
            if hears:
                asyncio.get_running_loop().call_soon(worker.feeds.deliver, key, value)

    def _ask(self, key: str, seen: bytes) -> None:
        self.asks += 1
        if self.loses:
            self.loses -= 1
        elif self.control is not None:
            order = FeedRefreshRequest(generation=self.generation, key=key, seen=seen)
            asyncio.get_running_loop().call_soon(self.control.refresh_requested, order)

    def tokens(self, settings: OAuth2) -> list[TokenHolder]:
        """Return each worker's token of one source."""
        return self._held_by_each(TokenSource.of(settings), TOKENS)

    def csrf_tokens(self, settings: Csrf, shown: Shown) -> list[CsrfHolder]:
        if shown.oauth2 is not None:
            self.serve(TokenSource.of(shown.oauth2))
        return self._held_by_each(CsrfSource.of(settings, shown), CSRF_TOKENS)

    def _held_by_each(self, source: ControlFetch, serializer: Any) -> list[WorkerCache[Any]]:
        if source.key not in self.sources:
            self.serve(source)
            if self.control is not None:
                self.follow()
        held = []
        for worker in self.workers:
            holder = WorkerCache[Any](source.key, source.getter(self.files.__getitem__), serializer)
            holder.start(worker)
            held.append(holder)
        self._holders += held
        return held

    def stop(self) -> None:
        for holder in self._holders:
            holder.stop()
        if self.control is not None:
            self.control.stop()


@asynccontextmanager
async def node_of(workers: int = 4) -> AsyncIterator[Node]:
    async with fetching() as fetcher:
        node = Node(fetcher, workers)
        node.start_control()
        try:
            yield node
        finally:
            node.stop()


async def problem_of(holder: WorkerCache[Any], seen: Any = None) -> Unavailable:
    try:
        held = await holder.obtain(seen)
    except Unavailable as problem:
        return problem
    raise AssertionError(f"there is {held}")


def word(held: Token | None) -> str:
    """Return the token itself."""
    return "" if held is None else held.line.decode().removeprefix("Authorization: Bearer ").rstrip()


def held_now(holders: list[WorkerCache[Any]]) -> list[str]:
    return [word(holder.peek(monotonic())) for holder in holders]
