"""A store with memory and slower tiers: a disk, Redis, or both. Everything complete is written to them; what memory has
lost is found there, on disk first.

Objects that are larger than memory takes are only on disk. An object without a URL is only in memory: it was made of
another one. See `Store` for the calls; all that concerns one object in memory is that of the memory.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, final

from fastgw.cache.shared.lifecycle import FetchBegin, SharedLease
from fastgw.cache.shared.objects import SharedObject, SharedWriter
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import (
    MOST_HEAD,
    MOST_TAGS,
    MOST_URL,
    Counting,
    FetchMoment,
    Lease,
    NotStored,
    PurgeKind,
    Refusal,
    StoredObject,
    StoreNumbers,
    Writer,
)
from fastgw.cache.tiers.disk_object import DiskObject
from fastgw.cache.tiers.disk_tier import DiskTier
from fastgw.cache.tiers.disk_writer import DiskWriter
from fastgw.cache.tiers.object_file import ObjectRecord
from fastgw.cache.tiers.purge_journal import Purge

if TYPE_CHECKING:
    from fastgw.cache.tiers.redis_tier import PurgePosition, RedisTier


@final
class TieredStore:
    """One process's handle, with at least one of the tiers. `most_bytes`: see `Store`; `expires`: see `DiskTier`."""

    has_slower_tiers = True

    def __init__(
        self,
        memory: SharedStore,
        most_bytes: int,
        expires: Callable[[bytes], float],
        disk: DiskTier | None = None,
        redis: "RedisTier | None" = None,
    ) -> None:
        self.memory, self.disk, self.redis, self.expires = memory, disk, redis, expires
        most_on_disk = 0 if disk is None else disk.disk.most_bytes // 8
        self.most_bytes = min(most_bytes, max(memory.most_bytes, most_on_disk))
        self.successor: TieredStore | None = None
        """The handle that has replaced this one, with another memory: purges concern it, too."""
        # Without a step between: these are called for each request.
        self.find, self.is_unchanged = memory.find, memory.is_unchanged
        self.popular = memory.popular
        self.watch, self.call_due = memory.watch, memory.call_due

    def __repr__(self) -> str:
        return f"<TieredStore: {self.memory!r}, {self.disk!r}, {self.redis!r}>"

    def lease(self, key: bytes, begun: FetchMoment | None = None) -> Lease | Refusal:
        assert begun is None or isinstance(begun, _TieredMoment)
        lease = self.memory.lease(key, None if begun is None else begun.memory)
        if isinstance(lease, Refusal):
            return lease
        return TieredLease(self, lease, self._position if begun is None else begun.position)

    def present_moment(self) -> FetchMoment:
        return _TieredMoment(self.memory.present_moment(), self._position)

    @property
    def _position(self) -> "PurgePosition | None":
        return None if self.redis is None else self.redis.position

    def stamp(self, found: StoredObject) -> object | None:
        return None if isinstance(found, DiskObject) else self.memory.stamp(found)

    def recall(self, keys: Sequence[bytes], callback: Callable[[StoredObject | None], None]) -> bool:
        disk, redis = self.disk, self.redis
        if redis is None:
            return disk is not None and disk.recall(keys, callback)
        if disk is None:
            return redis.recall(keys, callback)

        def go_on(found: StoredObject | None) -> None:
            if found is not None or self._has_any(keys) or not redis.recall(keys, callback):
                callback(found)

        return disk.recall(keys, go_on) or redis.recall(keys, callback)

    def _has_any(self, keys: Sequence[bytes]) -> bool:
        for key in keys:
            if (found := self.memory.find(key)) is not None:
                found.release()
                return True
        return False

    def when_purged(self, callback: Callable[[], None]) -> None:
        disk, redis = self.disk, self.redis
        after_disk = callback if redis is None else lambda: redis.purges.when_written(callback)
        if disk is None:
            after_disk()
        else:
            disk.purges.when_written(after_disk)

    def remove(self, key: bytes) -> bool:
        memory = self.memory
        self._begin_purge()
        was_there = memory.remove(key)
        # A purge as well: a look-up that has begun must not bring it back, nor may a restart.
        number = memory.purges.purge("key", [key], soft=False)
        self._record_purge("key", [key], number, soft=False)
        if self.disk is not None:
            self.disk.remove(key)
        return was_there

    def purge(self, kind: PurgeKind, values: Sequence[bytes] = (b"",), *, soft: bool = False) -> Counting:
        self._begin_purge()
        counting = self.memory.purge(kind, values, soft=soft)
        # The number of this purge, or a later one: then it covers more, never less.
        self._record_purge(kind, values, self.memory.cells.purge_sequence(), soft=soft)
        if self.successor is not None:
            self.successor.purge(kind, values, soft=soft)
        return counting

    def _begin_purge(self) -> None:
        if self.redis is not None:
            self.redis.purges.announce_purge()

    def _record_purge(self, kind: PurgeKind, values: Sequence[bytes], number: int, *, soft: bool) -> None:
        purges = [Purge(kind, number, soft, each) for each in values]
        if self.disk is not None:
            self.disk.purges.write(purges)
        if self.redis is not None:
            self.redis.purges.write(purges)

    # numbers

    def numbers(self) -> StoreNumbers:
        disk, redis = self.disk, self.redis
        return self.memory.numbers()._replace(
            disk=None if disk is None else disk.numbers(), redis=None if redis is None else redis.numbers()
        )

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()
        if self.redis is not None:
            self.redis.close()
        self.memory.close()


class _TieredMoment(NamedTuple):
    """See `FetchMoment`. `position`: of the purges in Redis."""

    memory: FetchBegin
    position: "PurgePosition | None"

    @property
    def date(self) -> float:
        return self.memory.date


@final
class TieredLease:
    """See `Lease`. `position`: of the purges in Redis as of the begin of the fetch."""

    def __init__(self, store: TieredStore, inner: SharedLease, position: "PurgePosition | None") -> None:
        self._store, self._inner, self._position = store, inner, position
        self._is_pending = False  # it ends when the disk has written

    def __repr__(self) -> str:
        return f"<TieredLease {self.key.hex()}>"

    @property
    def key(self) -> bytes:
        return self._inner.key

    @property
    def why_not(self) -> NotStored:
        return self._inner.why_not

    def store(
        self,
        head: bytes,
        size: int | None = None,
        *,
        key: bytes | None = None,
        url: bytes = b"",
        tags: Collection[bytes] = (),
    ) -> Writer | None:
        tags, key = (*dict.fromkeys(tags),), self.key if key is None else key
        store = self._store
        if store.disk is not None and size is not None and store.memory.most_bytes < size <= store.most_bytes:
            return self._store_on_disk(store.disk, head, size, key, url, tags)
        writer = self._inner.store(head, size, key=key, url=url, tags=tags)
        if writer is None or not url:
            return writer
        assert isinstance(writer, SharedWriter)
        return TieredWriter(self, writer, key, self._record(head, url, tags))

    def store_head(
        self, head: bytes, *, key: bytes | None = None, url: bytes = b"", tags: Collection[bytes] = ()
    ) -> bool:
        tags, key = (*dict.fromkeys(tags),), self.key if key is None else key
        is_stored = self._inner.store_head(head, key=key, url=url, tags=tags)
        if is_stored and url:
            self.write(key, self._record(head, url, tags))
        return is_stored

    def store_whole(
        self, head: bytes, body: bytes, *, key: bytes | None = None, url: bytes, tags: Collection[bytes]
    ) -> bool:
        writer = self.store(head, len(body), key=key, url=url, tags=tags)
        return writer is not None and writer.append(body) and writer.complete()

    def write(self, key: bytes, record: ObjectRecord, held: StoredObject | None = None) -> None:
        """Write a complete object to the slower tiers. `held`: it in memory, released afterwards; None: no body."""
        store = self._store
        if store.redis is not None:
            store.redis.write(key, record, held, self._position)
        if store.disk is not None:
            store.disk.write(key, record, held)
        elif held is not None:
            held.release()

    def freshen(self, found: StoredObject, head: bytes) -> bool:
        store, fetched = self._store, self._inner.fetched
        if isinstance(found, SharedObject):
            before = found.head
            is_fresh = self._inner.freshen(found, head)
            if is_fresh and store.disk is not None:
                store.disk.replace_record(found.key, head, fetched, lambda: None)
            if is_fresh and store.redis is not None:
                store.redis.freshen(found.key, before, head, fetched.date, self._position)
            return is_fresh
        assert isinstance(found, DiskObject)
        tier, record = store.disk, found.record
        if tier is None or self._is_pending or len(head) > MOST_HEAD:
            return False
        was, now = tier.check(found.key, record), tier.check(found.key, record, fetched.began)
        if was.is_purged or now.is_purged:
            return False
        self._is_pending = tier.replace_record(found.key, head, fetched, self._inner.give_up)
        return self._is_pending

    def give_up(self, mark_s: float = 0.0) -> None:
        if not self._is_pending:
            self._inner.give_up(mark_s)

    def _record(self, head: bytes, url: bytes, tags: tuple[bytes, ...]) -> ObjectRecord:
        began, date = self._inner.fetched
        return ObjectRecord(began, date, self._store.expires(head), self.key, url, tags, head)

    def _store_on_disk(
        self, tier: DiskTier, head: bytes, size: int, key: bytes, url: bytes, tags: tuple[bytes, ...]
    ) -> Writer | None:
        inner = self._inner
        if not url or len(head) > MOST_HEAD or len(url) > MOST_URL or len(tags) > MOST_TAGS or self._is_pending:
            inner.why_not = NotStored.EXPIRED if self._is_pending else NotStored.HEAD_SIZE
            return None
        record = self._record(head, url, tags)
        if tier.check(key, record).is_purged:
            inner.why_not = NotStored.PURGED
            return None
        if not tier.can_write(0):
            inner.why_not = NotStored.DISK_BUSY
            return None
        memory, fetched = self._store.memory, inner.fetched
        memory.remove(key)  # an older one

        def ended(mark_s: float) -> None:
            self._is_pending = False
            inner.give_up(mark_s)

        self._is_pending = True
        return DiskWriter(tier, key, record, size, ended, lambda: memory.remove_older(key, fetched))


@final
class TieredWriter:
    """Writes an object to memory, and the complete object to the slower tiers; see `Writer`."""

    def __init__(self, lease: TieredLease, inner: SharedWriter, key: bytes, record: ObjectRecord) -> None:
        self._lease, self._inner, self._key, self._record = lease, inner, key, record
        self.append: Callable[[bytes | bytearray | memoryview], bool] = inner.append
        self.abort: Callable[..., None] = inner.abort
        self.hold: Callable[[bytes], SharedObject] = inner.hold

    def complete(self) -> bool:
        held = self._inner.hold(self._key)
        if not self._inner.complete():
            held.release()
            return False
        self._lease.write(self._key, self._record, held)
        return True
