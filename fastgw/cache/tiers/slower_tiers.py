"""The slower tiers of a store: a disk, Redis, or both. Everything complete is written to them; what memory has lost is
found there, on disk first.

Objects that are larger than memory takes are only on disk. An object without a URL is only in memory: it was made of
another one.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final, final

from fastgw.cache.shared.lifecycle import SharedLease
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import (
    MOST_HEAD,
    MOST_TAGS,
    MOST_URL,
    DiskNumbers,
    FetchBegin,
    NotStored,
    PurgeKind,
    PurgePosition,
    RedisNumbers,
    StoredObject,
    Writer,
)
from fastgw.cache.tiers.disk_object import DiskObject
from fastgw.cache.tiers.disk_tier import DiskTier
from fastgw.cache.tiers.disk_writer import DiskWriter
from fastgw.cache.tiers.object_file import ObjectRecord
from fastgw.cache.tiers.purge_journal import Purge

if TYPE_CHECKING:
    from fastgw.cache.tiers.redis_tier import RedisTier

MOST_RECALLS: Final = 256
"""Look-ups of a process at a time."""


@final
class SlowerTiers:
    """At least one tier, as one process uses it; `SharedStore` calls it. `store`: the memory. `most_bytes`: maximum
    bytes of a body; `expires`: see `DiskTier`.
    """

    def __init__(
        self,
        store: SharedStore,
        most_bytes: int,
        expires: Callable[[bytes], float],
        disk: DiskTier | None = None,
        redis: "RedisTier | None" = None,
    ) -> None:
        self._store, self.disk, self.redis, self.expires = store, disk, redis, expires
        self._recalls: dict[tuple[bytes, ...], list[Callable[[StoredObject | None], None]]] = {}
        self.most_bytes = 0 if disk is None else min(most_bytes, disk.disk.most_bytes // 8)
        """Maximum bytes of a body that is stored on disk alone."""

    def __repr__(self) -> str:
        return f"<SlowerTiers: {self.disk!r}, {self.redis!r}>"

    @property
    def position(self) -> PurgePosition | None:
        """State of the purges in Redis, for a fetch that begins now."""
        return None if self.redis is None else self.redis.position

    def recall(self, keys: Sequence[bytes], callback: Callable[[StoredObject | None], None]) -> bool:
        """See `SharedStore.recall`; equal look-ups are one. A tier puts what it has found into memory, or it calls back
        with an object that is sent from its file.
        """
        name = tuple(keys)
        callbacks = self._recalls.get(name)
        if callbacks is None:
            if len(self._recalls) >= MOST_RECALLS or not (self._ask_disk(name) or self._ask_redis(name)):
                return False
            callbacks = self._recalls[name] = []
        callbacks.append(callback)
        return True

    def _ask_disk(self, keys: tuple[bytes, ...]) -> bool:
        def done(found: DiskObject | None) -> None:
            if found is not None or self._has_any(keys) or not self._ask_redis(keys):
                self._end_recall(keys, found)

        return self.disk is not None and self.disk.recall(keys, done)

    def _ask_redis(self, keys: tuple[bytes, ...]) -> bool:
        return self.redis is not None and self.redis.recall(keys, lambda: self._end_recall(keys, None))

    def _end_recall(self, keys: tuple[bytes, ...], found: DiskObject | None) -> None:
        for callback in self._recalls.pop(keys):
            callback(None if found is None else found.copy())

    def _has_any(self, keys: Sequence[bytes]) -> bool:
        for key in keys:
            if (found := self._store.find(key)) is not None:
                found.release()
                return True
        return False

    # purges

    def announce_purge(self) -> None:
        """Announce a purge, before it holds in memory; `record_purge` has to follow."""
        if self.redis is not None:
            self.redis.purges.announce_purge()

    def record_purge(self, kind: PurgeKind, values: Sequence[bytes], number: int, *, soft: bool) -> None:
        """Let the tiers know a purge, which holds in memory with this number."""
        purges = [Purge(kind, number, soft, each) for each in values]
        if self.disk is not None:
            self.disk.purges.write(purges)
        if self.redis is not None:
            self.redis.purges.write(purges)

    def when_purged(self, callback: Callable[[], None]) -> None:
        """See `SharedStore.when_purged`."""
        disk, redis = self.disk, self.redis
        after_disk = callback if redis is None else lambda: redis.purges.when_written(callback)
        if disk is None:
            after_disk()
        else:
            disk.purges.when_written(after_disk)

    def remove(self, key: bytes) -> None:
        """Remove the object of a key, which is purged: Redis does so by the purge."""
        if self.disk is not None:
            self.disk.remove(key)

    # objects

    def write(
        self,
        fetched: FetchBegin,
        lease_key: bytes,
        key: bytes,
        head: bytes,
        url: bytes,
        tags: Collection[bytes],
        held: StoredObject | None = None,
    ) -> None:
        """Write a complete object. `held`: it in memory, released afterwards; None: it has no body."""
        record = self._record(fetched, lease_key, head, url, tags)
        if self.redis is not None:
            length, pieces = (0, []) if held is None else (held.length, held.pieces())
            self.redis.write(key, record, length, pieces, fetched.position)
        if self.disk is not None:
            self.disk.write(key, record, held)
        elif held is not None:
            held.release()

    def _record(
        self, fetched: FetchBegin, lease_key: bytes, head: bytes, url: bytes, tags: Collection[bytes]
    ) -> ObjectRecord:
        expires = self.expires(head)
        return ObjectRecord(fetched.began, fetched.date, expires, lease_key, url, (*dict.fromkeys(tags),), head)

    def freshen(self, key: bytes, before: bytes, head: bytes, fetched: FetchBegin) -> None:
        """Give an object another head, as memory has done. `before`: its former head."""
        if self.disk is not None:
            self.disk.replace_record(key, head, fetched, lambda: None)
        if self.redis is not None:
            self.redis.freshen(key, before, head, fetched)

    # objects that are on disk alone

    def freshen_on_disk(self, lease: SharedLease, found: StoredObject, head: bytes) -> bool:
        """See `SharedLease.freshen`; the lease ends when the disk has written."""
        assert isinstance(found, DiskObject)
        tier, fetched = self.disk, lease.fetched
        if tier is None or lease.is_pending or len(head) > MOST_HEAD:
            return False
        was, now = tier.check(found.key, found.record), tier.check(found.key, found.record, fetched.began)
        if was.is_purged or now.is_purged:
            return False
        lease.is_pending = tier.replace_record(found.key, head, fetched, lease.end_pending)
        return lease.is_pending

    def store_on_disk(
        self, lease: SharedLease, head: bytes, size: int, key: bytes, url: bytes, tags: Collection[bytes]
    ) -> Writer | NotStored:
        """See `SharedLease.store`; the lease ends when the disk has written. Returns why that is not possible."""
        tier, store, fetched = self.disk, self._store, lease.fetched
        assert tier is not None
        if lease.is_pending:
            return NotStored.EXPIRED
        record = self._record(fetched, lease.key, head, url, tags)
        if not url or len(head) > MOST_HEAD or len(url) > MOST_URL or len(record.tags) > MOST_TAGS:
            return NotStored.HEAD_SIZE
        if tier.check(key, record).is_purged:
            return NotStored.PURGED
        if not tier.can_write(0):
            return NotStored.DISK_BUSY
        store.remove_from_memory(key)  # an older one
        lease.is_pending = True
        return DiskWriter(tier, key, record, size, lease.end_pending, lambda: store.remove_older(key, fetched))

    def numbers(self) -> tuple[DiskNumbers | None, RedisNumbers | None]:
        return (
            None if self.disk is None else self.disk.numbers(),
            None if self.redis is None else self.redis.numbers(),
        )

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()
        if self.redis is not None:
            self.redis.close()
