"""A store with memory and a disk tier. Everything complete is written to disk; what memory has lost is found there.

Objects that are larger than memory takes are only on disk. An object without a URL is only in memory: it was made of
another one. See `Store` for the calls; all that concerns one object in memory is that of the memory.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import final

from fastgw.cache.shared.lifecycle import SharedLease
from fastgw.cache.shared.objects import SharedObject, SharedWriter
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import (
    MOST_HEAD,
    MOST_TAGS,
    MOST_URL,
    Counting,
    Lease,
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


@final
class TieredStore:
    """One process's handle. `most_bytes`: see `Store`."""

    has_slower_tiers = True

    def __init__(self, memory: SharedStore, tier: DiskTier, most_bytes: int) -> None:
        self.memory, self.tier = memory, tier
        self.most_bytes = min(most_bytes, max(memory.most_bytes, tier.disk.most_bytes // 8))
        self.successor: TieredStore | None = None
        """The handle that has replaced this one, with another memory: purges concern it, too."""
        # Without a step between: these are called for each request.
        self.find, self.is_unchanged = memory.find, memory.is_unchanged
        self.watch, self.call_due = memory.watch, memory.call_due
        self.recall, self.when_purged = tier.recall, tier.purges.when_written

    def __repr__(self) -> str:
        return f"<TieredStore: {self.memory!r}, {self.tier!r}>"

    def lease(self, key: bytes) -> Lease | Refusal:
        lease = self.memory.lease(key)
        return lease if isinstance(lease, Refusal) else TieredLease(self, lease)

    def stamp(self, found: StoredObject) -> object | None:
        return None if isinstance(found, DiskObject) else self.memory.stamp(found)

    def remove(self, key: bytes) -> bool:
        memory = self.memory
        was_there = memory.remove(key)
        # A purge as well: a look-up that has begun must not bring it back, nor may a restart.
        number = memory.purges.purge_key(memory.key_tag(key), soft=False)
        self.tier.purges.write([Purge("key", number, value=key)])
        self.tier.remove(key)
        return was_there

    # --- purges ---

    def purge_key(self, key: bytes, *, soft: bool = False) -> Counting:
        counting = self.memory.purge_key(key, soft=soft)
        self._record_purges("key", [key], soft=soft)
        if self.successor is not None:
            self.successor.purge_key(key, soft=soft)
        return counting

    def purge_tags(self, tags: Iterable[bytes], *, soft: bool = False) -> Counting:
        tags = [*tags]
        counting = self.memory.purge_tags(tags, soft=soft)
        self._record_purges("tag", tags, soft=soft)
        if self.successor is not None:
            self.successor.purge_tags(tags, soft=soft)
        return counting

    def purge_prefix(self, prefix: bytes, *, soft: bool = False) -> Counting:
        counting = self.memory.purge_prefix(prefix, soft=soft)
        self._record_purges("prefix", [prefix], soft=soft)
        if self.successor is not None:
            self.successor.purge_prefix(prefix, soft=soft)
        return counting

    def purge_all(self, *, soft: bool = False) -> Counting:
        counting = self.memory.purge_all(soft=soft)
        self._record_purges("all", [b""], soft=soft)
        if self.successor is not None:
            self.successor.purge_all(soft=soft)
        return counting

    def _record_purges(self, kind: str, values: Sequence[bytes], *, soft: bool) -> None:
        # The number of this purge, or a later one: then it covers more, never less.
        number = self.memory.purges.sequence
        self.tier.purges.write([Purge(kind, number, soft, each) for each in values])  # type: ignore[arg-type]

    # numbers

    def numbers(self) -> StoreNumbers:
        return self.memory.numbers()._replace(disk=self.tier.numbers())

    def close(self) -> None:
        self.tier.close()
        self.memory.close()


@final
class TieredLease:
    """See `Lease`."""

    def __init__(self, store: TieredStore, inner: SharedLease) -> None:
        self._store, self._inner = store, inner
        self._is_pending = False  # it ends when the disk has written

    def __repr__(self) -> str:
        return f"<TieredLease {self.key.hex()}>"

    @property
    def key(self) -> bytes:
        return self._inner.key

    @property
    def why_not(self) -> str:
        return self._inner.why_not

    def store(
        self,
        head: bytes,
        size: int | None = None,
        *,
        key: bytes | None = None,
        url: bytes = b"",
        tags: Iterable[bytes] = (),
    ) -> Writer | None:
        tags, key = (*dict.fromkeys(tags),), self.key if key is None else key
        store = self._store
        if size is not None and store.memory.most_bytes < size <= store.most_bytes:
            return self._store_on_disk(head, size, key, url, tags)
        writer = self._inner.store(head, size, key=key, url=url, tags=tags)
        if writer is None or not url:
            return writer
        assert isinstance(writer, SharedWriter)
        return TieredWriter(store, writer, key, self._record(head, url, tags))

    def store_head(
        self, head: bytes, *, key: bytes | None = None, url: bytes = b"", tags: Iterable[bytes] = ()
    ) -> bool:
        tags, key = (*dict.fromkeys(tags),), self.key if key is None else key
        is_stored = self._inner.store_head(head, key=key, url=url, tags=tags)
        if is_stored and url:
            self._store.tier.write(key, self._record(head, url, tags))
        return is_stored

    def freshen(self, found: StoredObject, head: bytes) -> bool:
        tier, fetched = self._store.tier, self._inner.fetched
        if isinstance(found, SharedObject):
            is_fresh = self._inner.freshen(found, head)
            if is_fresh:
                tier.replace_record(found.key, head, fetched, lambda: None)
            return is_fresh
        assert isinstance(found, DiskObject)
        before = found.record
        was = tier.check(found.key, before)
        now = tier.check(found.key, before, fetched.began)
        if was.is_purged or now.is_purged or self._is_pending or len(head) > MOST_HEAD:
            return False
        self._is_pending = tier.replace_record(found.key, head, fetched, self._inner.give_up)
        return self._is_pending

    def give_up(self, mark_s: float = 0.0) -> None:
        if not self._is_pending:
            self._inner.give_up(mark_s)

    def _record(self, head: bytes, url: bytes, tags: tuple[bytes, ...]) -> ObjectRecord:
        began, date = self._inner.fetched
        return ObjectRecord(began, date, self._store.tier.expires(head), self.key, url, tags, head)

    def _store_on_disk(self, head: bytes, size: int, key: bytes, url: bytes, tags: tuple[bytes, ...]) -> Writer | None:
        inner, tier = self._inner, self._store.tier
        if not url or len(head) > MOST_HEAD or len(url) > MOST_URL or len(tags) > MOST_TAGS or self._is_pending:
            inner.why_not = "the head, the URL or the tags are too long, or there is no URL"
            return None
        record = self._record(head, url, tags)
        if tier.check(key, record).is_purged:
            inner.why_not = "it was purged during the fetch"
            return None
        if not tier.can_write(0):
            inner.why_not = "the disk has too much to write"
            return None
        self._store.memory.remove(key)  # an older one

        def ended() -> None:
            self._is_pending = False
            inner.give_up()

        self._is_pending = True
        return DiskWriter(tier, key, record, size, ended)


@final
class TieredWriter:
    """Writes an object to memory, and the complete object to disk; see `Writer`."""

    def __init__(self, store: TieredStore, inner: SharedWriter, key: bytes, record: ObjectRecord) -> None:
        self._store, self._inner, self._key, self._record = store, inner, key, record
        self.append: Callable[[bytes | bytearray | memoryview], bool] = inner.append
        self.abort: Callable[[], None] = inner.abort

    def complete(self) -> bool:
        held = self._inner.hold(self._key)
        if not self._inner.complete():
            held.release()
            return False
        self._store.tier.write(self._key, self._record, held)
        return True
