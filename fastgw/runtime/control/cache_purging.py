"""Purges of the caches in the control process: those of the admin API, of workers, and of other nodes."""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.admin.node_interface import CachePurged
from fastgw.cache.store import Counting, Store
from fastgw.operator_events import OperatorEvent
from fastgw.runtime.control.shared_stream import FIRST, LOG_MOST, SharedStream, run_transaction
from fastgw.sync.cache_purges import PurgeOrder, PurgeTarget, all_of, tags_to_purge

if TYPE_CHECKING:
    from fastgw.redis.pipelined_connection import Pipe

DISK_S: Final = 5.0
"""Seconds that a purge waits for the disk."""
_NODE_BYTES: Final = 16
_STEPS: Final = 4
"""Steps of counting between two turns of the event loop."""


class PurgeReplicator(SharedStream[PurgeOrder]):
    """Purges of this node for the others. `take`: receives those of the others. `names`: returns the stores' names.

    A node that could not read the stream catches up with what it has missed; if Redis no longer has all of that, it
    purges everything.
    """

    def __init__(self, take: Callable[[PurgeOrder], object], names: Callable[[], Iterable[str]]) -> None:
        super().__init__(
            "purges",
            "purges are caught up with",
            "they reach only this node until then",
            OperatorEvent.PURGES_NOT_SHARED,
        )
        self._take, self._names = take, names
        self._node = os.urandom(_NODE_BYTES)
        self._seen = FIRST

    def publish(self, order: PurgeOrder) -> None:
        """Announce a purge to the other nodes."""
        if len(self._unsent) >= LOG_MOST:
            self._unsent.clear()
            self._unsent.extend(all_of(self._names()))
        else:
            self._unsent.append(order)
        self._wake.set()

    async def replicate(self, url: str, prefix: str) -> None:
        await self.run(url, f"{prefix}:cache:purges".encode())

    async def _join(self, redis: "Pipe") -> bytes:
        if self._seen != FIRST and _moment(self._seen) < _moment(await self._earliest(redis)):
            for order in all_of(self._names()):
                self._take(order)
            self._seen = await self._latest(redis)
        self.is_there = True
        return self._seen

    def _receive(self, number: bytes, fields: Mapping[bytes, bytes]) -> None:
        self._seen = number
        if fields.get(b"n") != self._node:
            try:
                order = msgspec.msgpack.decode(fields.get(b"p", b""), type=PurgeOrder)
            except msgspec.DecodeError:  # of another version: it may have purged anything
                for each in all_of(self._names()):
                    self._take(each)
            else:
                self._take(order)

    async def _write(self, redis: "Pipe", items: list[PurgeOrder]) -> None:
        commands = [self._adding(b"n", self._node, b"p", msgspec.msgpack.encode(order)) for order in items]
        await run_transaction(redis, commands)


class CachePurging:
    """Control's access to the stores. `store_of`: returns a store by its name; `names`: the names of all."""

    def __init__(self, store_of: Callable[[str], Store | None], names: Callable[[], Iterable[str]]) -> None:
        self._store_of = store_of
        self._replicator = PurgeReplicator(self._begin_purge, names)

    def use_state(self, source: tuple[str, str] | None) -> None:
        """Share purges over this Redis: its URL, and the prefix of names. None: this node is alone."""
        self._replicator.use_state(source)

    def stop(self) -> None:
        self._replicator.stop()

    async def purge(self, order: PurgeOrder) -> CachePurged | None:
        """Purge on this node, announce it to the others, and count the objects. None: there is no such store.

        The purge holds before the first step of counting, and also if the caller leaves.
        """
        counting = self._begin_purge(order)
        if counting is None:
            return None
        self._announce(order)
        count = await count_objects(counting)
        await self._wait_for_disk(order.store)
        return CachePurged(count, self._replicator.scope)

    async def _wait_for_disk(self, name: str) -> None:
        """Wait until the purges of a store would also hold after a restart, unless its disk hangs."""
        store, written = self._store_of(name), asyncio.Event()
        if store is not None:
            store.when_purged(written.set)
            with suppress(TimeoutError):
                async with asyncio.timeout(DISK_S):
                    await written.wait()

    def purged_by_worker(self, order: PurgeOrder) -> None:
        """Announce a purge of a worker, which has carried it out."""
        self._announce(order)

    def _announce(self, order: PurgeOrder) -> None:
        if not self._replicator.is_alone:
            self._replicator.publish(order)

    def _begin_purge(self, order: PurgeOrder) -> Counting | None:
        """Purge. Returns the count as work in steps; None: this node has no such store."""
        store = self._store_of(order.store)
        return None if store is None else begin_purge(store, order)


def begin_purge(store: Store, order: PurgeOrder) -> Counting:
    """Purge in one store of this node. It holds as soon as this returns."""
    if order.target is PurgeTarget.URL:
        return store.purge_tags([tag for url in order.values for tag in tags_to_purge(url)], soft=order.soft)
    if order.target is PurgeTarget.PREFIX:
        return store.purge_prefix(order.values[0], soft=order.soft)
    if order.target is PurgeTarget.TAGS:
        return store.purge_tags(order.values, soft=order.soft)
    return store.purge_all(soft=order.soft)


async def count_objects(counting: Counting) -> int:
    """Run the steps of a count, with turns of the event loop between them."""
    while True:
        for _ in range(_STEPS):
            try:
                next(counting)
            except StopIteration as end:
                return int(end.value)
        await asyncio.sleep(0)


def _moment(number: bytes) -> tuple[int, int]:
    """Return milliseconds and sequence of the number of an entry."""
    at, _, sequence = number.partition(b"-")
    return int(at), int(sequence or b"0")
