"""Purges of the caches in the control process: those of the admin API, of workers, and of other nodes."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.admin.node_interface import CachePurged, PurgeNotRecorded
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import PURGE_WAIT_S, Counting, holds_after_restart
from fastgw.config.settings.gateway import Config
from fastgw.filters.policies.cache.filter import Cache, CacheKey
from fastgw.gateway.compiler import uses
from fastgw.http.caching.keys import QueryRule, filter_query
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.runtime.control.sharing.shared_stream import FIRST, LOG_MOST, SharedStream, run_command, run_transaction
from fastgw.runtime.ipc.channel import MESSAGE_MAX, AnnouncePurge, PurgesAnnounced, PurgesSeen
from fastgw.runtime.ipc.feed_values import RETRY_S
from fastgw.runtime.node.purge_persistence import PurgeFile
from fastgw.shm.quota_store import CannotKeep
from fastgw.sync.cache_purges import PurgeOrder, PurgeTarget, all_of, identified, tags_to_purge
from fastgw.sync.purge_backlog import RECENT_S, PurgeBacklog

if TYPE_CHECKING:
    from fastgw.redis.pipelined_connection import Pipe

ANNOUNCED_S: Final = 3.0
"""Seconds that a purge waits for Redis."""
_RECONNECT_S: Final = 60.0
"""Seconds that other nodes may take to announce their recent purges again."""
_SEEN_AGAIN_S: Final = 60.0
"""Seconds after which the next control process gets a later time at which everything was read, if there was nothing."""
_STEPS: Final = 4
"""Steps of counting between two turns of the event loop."""


class PurgeReplicator(SharedStream[PurgeOrder]):
    """Purges of this node for the others. `take`: receives those of the others. `names`: returns the stores' names.
    `announced`: gets the identities of those that Redis has. `has_seen`: gets the number of the last entry that was
    read, and when; returns False if it has to get it again.

    Rule 1: each node carries a purge out once, so announcing it again costs nothing. A node whose last purge is not in
    the stream any more (Redis has failed over, or lost its data) announces all recent ones again. Rule 2: a node that
    could not read the stream catches up with what it has missed. If Redis no longer has all of that, and it may be too
    old to be announced again, the node purges everything.
    """

    def __init__(
        self,
        take: Callable[[PurgeOrder], object],
        names: Callable[[], Iterable[str]],
        announced: Callable[[list[bytes]], None],
        has_seen: Callable[[bytes, float], bool],
        backlog: PurgeBacklog,
    ) -> None:
        super().__init__(
            "purges",
            "purges are caught up with",
            "they reach only this node until then",
            OperatorEvent.PURGES_NOT_SHARED,
        )
        self._take, self._names, self._announced, self._has_seen = take, names, announced, has_seen
        self.backlog = backlog
        self._written = FIRST  # number of the last entry of this node
        self._seen, self._seen_at = backlog.seen, backlog.seen_at  # of the former control process
        self._reported = self._seen, self._seen_at
        # Identities of purges that are carried out.
        self._done: dict[bytes, None] = {each.id: None for each in (*backlog.announced, *backlog.waiting)}

    def publish(self, order: PurgeOrder) -> None:
        """Announce a purge, which is carried out, to the other nodes."""
        self.backlog.add(order, monotonic())
        self._is_new(order.id)
        if self.backlog.is_waiting(order.id):
            self._unsent.append(order)
            self._wake.set()
        else:  # it is part of a larger one now
            self._announce_again()

    def _announce_again(self) -> None:
        self._unsent.clear()
        self._unsent.extend((*self.backlog.announced, *self.backlog.waiting))
        if self._unsent:
            self._wake.set()

    def _is_new(self, id_: bytes) -> bool:
        """Whether a purge is not carried out yet; from now on it is."""
        if not id_:
            return True
        if id_ in self._done:
            return False
        self._done[id_] = None
        if len(self._done) > 2 * LOG_MOST:
            del self._done[next(iter(self._done))]
        return True

    async def replicate(self, url: str, prefix: str) -> None:
        await self.run(url, f"{prefix}:cache:purges".encode())

    async def _join(self, redis: "Pipe") -> bytes:
        alone_s = monotonic() - self._seen_at
        if not await self._has(redis, self._seen):
            length = await run_command(redis, b"XLEN", self._stream)
            is_trimmed = isinstance(length, int) and length >= LOG_MOST
            if is_trimmed or alone_s > RECENT_S - _RECONNECT_S:
                self._seen = await self._latest(redis)  # first: later entries are read, and not part of this purge
                self._purge_everything()
            else:
                self._seen = FIRST  # entries of another Redis may have any number
        if self._written == FIRST or not await self._has(redis, self._written):
            self._announce_again()
        self.is_there = True
        return self._seen

    async def _has(self, redis: "Pipe", number: bytes) -> bool:
        """Whether an entry is in the stream, and with it all before it but for those that were trimmed."""
        if number == FIRST:
            return self._seen_at == inf  # nothing was read so far, and nothing is missing
        return bool(await run_command(redis, b"XRANGE", self._stream, number, number))

    def _purge_everything(self) -> None:
        for each in all_of(self._names()):
            self._take(each)

    async def _pass_time(self, redis: "Pipe") -> None:
        self._seen_at = now = monotonic()
        self.backlog.forget_old(now)
        number, at = self._reported
        if (self._seen != number or not now - at < _SEEN_AGAIN_S) and self._has_seen(self._seen, now):
            self._reported = self._seen, now

    def _receive(self, number: bytes, fields: Mapping[bytes, bytes]) -> None:
        self._seen = number
        try:
            order = msgspec.msgpack.decode(fields.get(b"p", b""), type=PurgeOrder)
        except msgspec.DecodeError:  # of another version: it may have purged anything
            self._purge_everything()
        else:
            if self._is_new(order.id):
                self._take(order)

    async def _write(self, redis: "Pipe", items: list[PurgeOrder]) -> None:
        commands = [self._adding(b"p", msgspec.msgpack.encode(order)) for order in items]
        self._written = bytes(memoryview((await run_transaction(redis, commands))[-1]))
        ids = [order.id for order in items]
        self.backlog.confirm(ids, monotonic())
        self._announced(ids)


class KeyQueries:
    """Query rules of a configuration's cache keys, by store. An object has the URL of a client that its rule leaves.

    Each node applies its own, to what is purged anywhere: an announced purge has the URLs that it was asked for.
    """

    def __init__(self, configuration: Config | None) -> None:
        self.configuration = configuration
        self._rules: dict[str, dict[CacheKey, QueryRule]] = {}
        for use in () if configuration is None else uses(configuration):
            if isinstance(cache := use.settings, Cache) and (rule := cache.key.query_rule()) is not None:
                self._rules.setdefault(cache.store, {})[CacheKey(query=cache.key.query)] = rule

    def with_stored_urls(self, order: PurgeOrder) -> PurgeOrder:
        """Return a purge of the URL that clients see as one of the URLs of the objects that are sent for it, too."""
        if order.target is not PurgeTarget.URL:
            return order
        urls = dict.fromkeys(order.values)
        for url in order.values:
            resource, mark, query = url.partition(b"?")
            for rule in self._rules.get(order.store, {}).values() if mark else ():
                kept = filter_query(query, rule)
                urls[resource if kept is None else b"%b?%b" % (resource, kept)] = None
        return msgspec.structs.replace(order, values=tuple(urls))


class CachePurging:
    """Control's access to the stores. `store_of`: returns a store by its name; `names`: the names of all;
    `configuration`: returns the current one; `tell`: sends a message to the supervisor, and returns False if that is
    not possible now; `backlog`: of the supervisor, as of the fork; `file`: for purges that Redis does not have, None:
    they are lost when the gateway ends.
    """

    def __init__(
        self,
        store_of: Callable[[str], SharedStore | None],
        names: Callable[[], Iterable[str]],
        configuration: Callable[[], Config | None],
        tell: Callable[[AnnouncePurge | PurgesAnnounced | PurgesSeen], bool],
        backlog: PurgeBacklog,
        file: PurgeFile | None,
    ) -> None:
        self._store_of, self._tell, self._file = store_of, tell, file
        self._configuration, self._key_queries = configuration, KeyQueries(None)
        self._replicator = PurgeReplicator(self._begin_purge, names, self._are_announced, self._has_seen, backlog)
        self._waiters: dict[bytes, asyncio.Event] = {}
        self._kept: list[bytes] | None = None  # identities of those in the file; None: not known
        self._keep_now = asyncio.Event()
        self._keepers: list[asyncio.Event] = []

    def use_state(self, source: tuple[str, str] | None) -> None:
        """Share purges over this Redis: its URL, and the prefix of names. None: this node is alone."""
        self._replicator.use_state(source)
        if source is None:
            ids = [each.id for each in self._replicator.backlog.waiting]
            self._replicator.backlog.confirm(ids, monotonic())
            self._are_announced(ids)

    def stop(self) -> None:
        self._replicator.stop()

    async def run(self) -> None:
        """Carry out what a former gateway could not announce, and keep the file up to date, until cancelled."""
        restored = self._replicator.backlog.restored
        while restored:  # each once, also if this begins again after an exception
            self._begin_purge(restored[0])
            del restored[0]
        if self._file is None:
            return
        has_failed = False
        while True:
            self._keep_now.clear()
            keepers, self._keepers = self._keepers, []
            waiting = self._replicator.backlog.waiting
            if (ids := [each.id for each in waiting]) != self._kept:
                self._kept = None  # what is confirmed meanwhile has to be removed
                try:
                    await asyncio.to_thread(self._file.write, waiting)
                except CannotKeep as error:
                    if not has_failed:
                        log_event(
                            OperatorEvent.PURGES_NOT_KEPT,
                            "purges: %s; those that wait for Redis are lost if the gateway is killed",
                            error,
                        )
                    has_failed = True
                    self._keep_later(RETRY_S)
                else:
                    self._kept, has_failed = ids, False
            for each in keepers:
                each.set()
            await self._keep_now.wait()

    def _keep_later(self, seconds: float) -> None:
        if self._file is not None:
            asyncio.get_running_loop().call_later(seconds, self._keep_now.set)

    def _publish(self, order: PurgeOrder) -> None:
        self._replicator.publish(order)
        self._keep_later(ANNOUNCED_S if self._replicator.is_there else 0.0)  # Redis nearly always has it by then

    async def _wait_for_file(self) -> None:
        """Wait until all purges that wait for Redis are in the file, unless its disk hangs."""
        if self._file is None:
            return
        kept = asyncio.Event()
        self._keepers.append(kept)
        self._keep_now.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(PURGE_WAIT_S):
                await kept.wait()

    async def purge(self, order: PurgeOrder) -> CachePurged | None:
        """Purge on this node, announce it to the others, and count the objects. None: there is no such store.

        The purge holds before the first step of counting, and also if the caller leaves. It is announced, or recorded
        where the next control process finds it, before this returns; otherwise it raises `PurgeNotRecorded`.
        """
        order = identified(order)
        counting = self._begin_purge(order)
        if counting is None:
            return None
        if self._replicator.is_alone:
            count = await count_objects(counting)
            is_kept = await self._wait_for_disk(order.store)
            return CachePurged(count, "node", is_kept, is_counted=self._is_in_memory_alone(order.store))
        announced = self._waiters[order.id] = asyncio.Event()
        try:
            is_recorded = self._tell(AnnouncePurge(generation=0, order=_recordable(order)))
            self._publish(order)
            count = await count_objects(counting)
            is_kept = await self._wait_for_disk(order.store)
            with suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCED_S if self._replicator.is_there else 0.0):
                    await announced.wait()
            if not announced.is_set():
                await self._wait_for_file()
        finally:
            del self._waiters[order.id]
        if not (is_recorded or announced.is_set()):
            raise PurgeNotRecorded
        return CachePurged(count, "shared" if announced.is_set() else "away", is_kept, is_counted=False)

    def _is_in_memory_alone(self, name: str) -> bool:
        store = self._store_of(name)
        return store is None or store.numbers().disk is None

    async def _wait_for_disk(self, name: str) -> bool:
        """Wait until the purges of a store would also hold after a restart. False: its disk hangs, or the purge could
        not be written and the journal without it is valid yet.
        """
        store, written = self._store_of(name), asyncio.Event()
        if store is None:
            return True
        store.when_purged(written.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(PURGE_WAIT_S):
                await written.wait()
        return holds_after_restart(store.numbers().disk, is_written=written.is_set())

    def purge_recorded(self, message: AnnouncePurge) -> None:
        """Announce a purge that a worker has carried out."""
        if self._replicator.is_alone:
            self._are_announced([message.order.id])
        else:
            self._publish(message.order)

    def _are_announced(self, ids: list[bytes]) -> None:
        for each in ids:
            if (waiter := self._waiters.get(each)) is not None:
                waiter.set()
        if self._kept != []:
            self._keep_now.set()
        if ids and not self._tell(PurgesAnnounced(generation=0, ids=ids)):
            asyncio.get_running_loop().call_later(RETRY_S, self._are_announced, ids)

    def _has_seen(self, number: bytes, at: float) -> bool:
        return self._tell(PurgesSeen(generation=0, number=number, at=at))

    def _begin_purge(self, order: PurgeOrder) -> Counting | None:
        """Purge. Returns the count as work in steps; None: this node has no such store."""
        store = self._store_of(order.store)
        if store is None:
            return None
        if self._key_queries.configuration is not (configuration := self._configuration()):
            self._key_queries = KeyQueries(configuration)
        return begin_purge(store, self._key_queries.with_stored_urls(order))


def begin_purge(store: SharedStore, order: PurgeOrder) -> Counting:
    """Purge in one store of this node. It holds as soon as this returns."""
    if order.target is PurgeTarget.URL:
        return store.purge("tag", [tag for url in order.values for tag in tags_to_purge(url)], soft=order.soft)
    if order.target is PurgeTarget.PREFIX:
        return store.purge("prefix", order.values, soft=order.soft)
    if order.target is PurgeTarget.TAGS:
        return store.purge("tag", order.values, soft=order.soft)
    return store.purge("all", soft=order.soft)


async def count_objects(counting: Counting) -> int:
    """Run the steps of a count, with turns of the event loop between them."""
    while True:
        for _ in range(_STEPS):
            try:
                next(counting)
            except StopIteration as end:
                return int(end.value)
        await asyncio.sleep(0)


def _recordable(order: PurgeOrder) -> PurgeOrder:
    """Return a purge that fits into a message: the same one, or one of everything."""
    if sum(map(len, order.values)) + 8 * len(order.values) <= MESSAGE_MAX // 2:
        return order
    return PurgeOrder(order.store, PurgeTarget.ALL, soft=order.soft, id=order.id)
