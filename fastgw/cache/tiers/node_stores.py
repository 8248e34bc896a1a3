"""The cache stores of a node: made by the supervisor, and handles of them in each process."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, final

from fastgw.cache.shared.layout import CONTROL, DISK_EVICTED, DISK_FAILED, JOURNAL_LEFT, MOST_COLUMNS, CacheMemory
from fastgw.cache.shared.popular import Popular, popular_objects
from fastgw.cache.shared.recovery import clean_up
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import StoreNumbers
from fastgw.cache.tiers.disk_claims import DiskClaims, UnusableDisk, restore_purges
from fastgw.cache.tiers.disk_tier import DiskLocation, DiskTier
from fastgw.cache.tiers.purge_journal import end_journal
from fastgw.cache.tiers.redis_purges import ALL
from fastgw.cache.tiers.redis_tier import RedisTier
from fastgw.cache.tiers.slower_tiers import SlowerTiers
from fastgw.cache.tiers.tier_threads import TierLoop
from fastgw.redis.url import RedisSource

if TYPE_CHECKING:
    from fastgw.cache.tiers.redis_client import CacheRedis


class NodeStore(NamedTuple):
    """One store of the node. `number`: another one after each change of its settings. `disk`: None: it has no disk
    tier.
    """

    number: int
    memory: CacheMemory
    most_bytes: int
    disk: DiskLocation | None = None
    redis: bool = False
    """Whether it has a Redis tier."""

    @property
    def settings(self) -> "StoreSettings":
        disk = None if self.disk is None else DiskSettings(self.disk.path, self.disk.most_bytes)
        return StoreSettings(self.memory.memory, self.most_bytes, disk, self.redis)

    def end_failed_journal(self) -> None:
        """End the journal of a disk tier that lacks a purge. Raises `OSError`."""
        if self.disk is not None and self.memory.words[DISK_FAILED] == JOURNAL_LEFT:
            end_journal(self.disk.path, self.disk.id)


class DiskSettings(NamedTuple):
    """Settings of a disk tier."""

    path: str
    most_bytes: int


class StoreSettings(NamedTuple):
    """Settings of a store that matter to its memory and its tiers."""

    memory: int
    most_bytes: int
    disk: DiskSettings | None = None
    redis: bool = False


@final
class NodeStores:
    """The stores as the supervisor keeps them; its children inherit them."""

    def __init__(self, claims: Mapping[str, int] | None = None) -> None:
        """`claims`: directories that the previous program has claimed, with descriptors of the claims."""
        self.claims = DiskClaims(claims or {})
        self.stores: dict[str, NodeStore] = {}
        self.next_number = 1

    def planned(self, settings: Mapping[str, StoreSettings], timeout: float = 0.0) -> dict[str, NodeStore]:
        """Return the stores for these settings: the present ones as far as they are the same. Raises `OSError` and
        `UnusableDisk`. `timeout`: seconds to wait for a gateway that is ending and uses the same directory.
        """
        found = {}
        for name, wanted in settings.items():
            store = self.stores.get(name)
            if store is None or store.settings != wanted:
                store = self._made(wanted, store, timeout)
                self.next_number += 1
            found[name] = store
        return found

    def use_stores(self, stores: Mapping[str, NodeStore]) -> None:
        """Make these the stores."""
        self.stores = dict(stores)
        self.claims.leave_others({each.disk.path for each in stores.values() if each.disk is not None})

    def _made(self, wanted: StoreSettings, before: NodeStore | None, timeout: float) -> NodeStore:
        former, disk = None if before is None else before.disk, wanted.disk
        if before is not None and before.memory.memory == wanted.memory:
            # Purges of one directory have numbers of one memory.
            if disk is None and former is None:
                return NodeStore(self.next_number, before.memory, wanted.most_bytes, None, wanted.redis)
            if disk is not None and former is not None and disk.path == former.path:
                used = former._replace(most_bytes=disk.most_bytes)
                return NodeStore(self.next_number, before.memory, wanted.most_bytes, used, wanted.redis)
        if before is not None and before.disk is not None:
            try:
                before.end_failed_journal()
            except OSError as error:
                if disk is not None and disk.path == before.disk.path:
                    why = f"a purge could not be written to {disk.path}: {error.strerror}"
                    raise UnusableDisk(f"cache: {why}") from error
        memory = CacheMemory(wanted.memory)
        if disk is None:
            return NodeStore(self.next_number, memory, wanted.most_bytes, None, wanted.redis)
        run = self.claims.begin_run(disk.path, timeout)
        restore_purges(memory, run)
        memory.add(memory.use_column(CONTROL) + DISK_EVICTED, run.evicted)
        used = DiskLocation(disk.path, run.id, disk.most_bytes)
        return NodeStore(self.next_number, memory, wanted.most_bytes, used, wanted.redis)

    def clean_up(self, column: int, wakers: Mapping[int, int]) -> None:
        """Put the column of a dead process in order, in all stores, and wake the others."""
        if column < MOST_COLUMNS:
            for memory in {id(store.memory): store.memory for store in self.stores.values()}.values():
                clean_up(memory, column, wakers)

    def close(self) -> None:
        """Release all directories."""
        for store in self.stores.values():
            with suppress(OSError):  # its processes have tried it as well, and said so
                store.end_failed_journal()
        self.claims.release()


@final
class StoreHandles:
    """Handles of one process. `column`: see `CacheMemory`; with one that the memory does not have there are none.
    `wakers`: see `shm.wakers`; the reader of this process's calls what is `due`. `expires`: see `DiskTier`.
    """

    def __init__(
        self,
        column: int,
        loop: TierLoop,
        stores: NodeStores,
        wakers: Mapping[int, int],
        expires: Callable[[bytes], float],
    ) -> None:
        self._column, self._loop, self._wakers, self._expires = column, loop, wakers, expires
        self._handles: dict[str, SharedStore] = {}
        self._former: list[SharedStore] = []  # tables from before a reload may still use them
        self._source: RedisSource | None = None
        self._client: CacheRedis | None = None
        self._redis_tiers: dict[str, tuple[int, RedisTier]] = {}  # with the inodes of their memory
        for name, store in stores.stores.items():
            self.open_store(name, store.memory, store.most_bytes, store.disk, redis=store.redis)

    def get(self, name: str) -> SharedStore | None:
        """Return the handle of a store; None: there is no such store."""
        return self._handles.get(name)

    def numbers(self, names: Iterable[str]) -> dict[str, StoreNumbers]:
        """Return the state of these stores, for all processes."""
        return {name: handle.numbers() for name in names if (handle := self._handles.get(name)) is not None}

    def popular(self, name: str, most: int) -> Popular | None:
        """Return the work that finds the objects in memory that were found most often; None: there is no such store."""
        handle = self._handles.get(name)
        return None if handle is None else popular_objects(handle.memory.words, handle.cells, most)

    def open_store(
        self, name: str, memory: CacheMemory, most_bytes: int, disk: DiskLocation | None = None, *, redis: bool = False
    ) -> None:
        """Use a store under a name, in place of another one."""
        if self._column >= MOST_COLUMNS:
            return
        store = SharedStore(memory, self._column, self._loop, self._wakers, most_bytes)
        disk_tier = None if disk is None else DiskTier(disk, store, self._loop, self._expires)
        redis_tier = self._redis_tier(name, store) if redis else None
        if disk_tier is not None or redis_tier is not None:
            store.tiers = SlowerTiers(store, most_bytes, self._expires, disk_tier, redis_tier)
        if disk_tier is not None and self._column == CONTROL:
            disk_tier.begin_scan()
            disk_tier.purges.begin_ending()
        if (before := self._handles.get(name)) is not None:
            for each in self._former[:-1]:
                if each.tiers is not None and each.tiers.disk is not None:
                    each.tiers.disk.close(wait=False)
            self._former = [*self._former[-1:], before]
            before.successor = store
        self._handles[name] = store

    def use_redis(self, source: RedisSource | None) -> None:
        """Use this Redis for the stores that have such a tier; None: there is none. Needs `fastgw[redis]`, and the
        running loop.
        """
        if source == self._source:
            return
        if self._client is not None:
            self._client.release()
        self._source, self._client = source, None
        if source is not None:
            from fastgw.cache.tiers.redis_client import CacheRedis  # it needs an extra

            self._client = CacheRedis(source, self._redis_connected)
            self._client.hold_connection()
        for _, tier in self._redis_tiers.values():
            tier.use_client(self._client)

    def _redis_connected(self) -> None:
        for _, tier in self._redis_tiers.values():
            tier.resume_after_connect()

    def _redis_tier(self, name: str, store: SharedStore) -> RedisTier:
        """Return the tier of a store; the same one as long as it has the same memory, with the purges that it has yet
        to send.
        """
        inode = os.fstat(store.memory.fd).st_ino
        known, tier = self._redis_tiers.get(name, (0, None))
        if tier is None or known != inode:
            former, tier = tier, RedisTier(name, store, self._loop, self._expires)
            if former is not None:
                if former.purges.is_busy:
                    tier.purges.announce_purge()
                    tier.purges.write([ALL])
                former.close()
            tier.use_client(self._client)
            self._redis_tiers[name] = inode, tier
            if self._client is not None:
                tier.resume_after_connect()
        return tier

    def close(self) -> None:
        """Close all handles."""
        for handle in (*self._handles.values(), *self._former):
            handle.close()
        if self._client is not None:
            self._client.release()

    def due(self) -> list[Callable[[], None]]:
        """Return what looks for what other processes have done: the handles."""
        return [handle.watches.call_due for handle in (*self._handles.values(), *self._former)]
