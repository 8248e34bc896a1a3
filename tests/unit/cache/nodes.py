"""Nodes with a store, for tests of the interface: two workers' handles, one clock, and callbacks that run on demand."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.connection import wait
from queue import SimpleQueue

from fastgw.cache.shared.layout import COLUMNS, CacheMemory
from fastgw.cache.shared.lifecycle import SharedLease
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import Refusal, StoredObject, Writer
from fastgw.cache.tiers.disk_claims import DiskClaims, restore_purges
from fastgw.cache.tiers.disk_tier import DiskLocation, DiskTier
from fastgw.cache.tiers.slower_tiers import SlowerTiers


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Node:
    """A node without processes of its own: `a` and `b` are the handles of two workers."""

    a: SharedStore
    b: SharedStore

    def __init__(self) -> None:
        self.clock = Clock()
        self.date = Clock()
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def run(self) -> int:
        """Run what is scheduled, and return how many callbacks that were."""
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()
        return len(soon)

    def close(self) -> None:
        self.a.close()
        self.b.close()


class FakeLoop:
    """The part of an event loop that watches need. Timers do not run."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], None]) -> None:
        self.call_soon = call_soon
        self.readers: dict[int, Callable[[], None]] = {}
        self.later: list[FakeTimer] = []
        self.call_soon_threadsafe: Callable[[Callable[[], None]], object] = call_soon

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        self.later.append(FakeTimer(callback, self.later))
        return self.later[-1]

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]


class FakeTimer:
    def __init__(self, callback: Callable[[], None], timers: list[FakeTimer]) -> None:
        self.callback = callback
        self._timers = timers

    def cancel(self) -> None:
        self._timers.remove(self)


class SharedNode(Node):
    def __init__(self, memory: int = 1 << 20) -> None:
        super().__init__()
        self.memory = CacheMemory(memory)
        self.wakers = {column: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for column in (1, 2)}
        self.loops = {column: FakeLoop(self.call_soon) for column in (1, 2)}
        self.a, self.b = (self.open(column) for column in (1, 2))

    def open(self, column: int) -> SharedStore:
        store = SharedStore(
            self.memory, column, self.loops[column], self.wakers, 1 << 30, clock=self.clock, date=self.date
        )
        self.loops[column].add_reader(self.wakers[column], lambda: self._woken(column, store))
        return store

    def _woken(self, column: int, store: SharedStore) -> None:
        os.eventfd_read(self.wakers[column])
        store.watches.call_due()

    def run(self) -> int:
        for loop in self.loops.values():
            for fd, callback in list(loop.readers.items()):
                if wait([fd], 0):
                    self.call_soon(callback)
        return super().run()

    def close(self) -> None:
        super().close()
        for waker in self.wakers.values():
            os.close(waker)


class TieredNode(SharedNode):
    """A node with a disk tier. Threads call back when `run` or `settle` runs. `expires`: see `DiskTier`."""

    def __init__(
        self,
        path: str,
        memory: int = 1 << 20,
        size: int = 1 << 24,
        expires: Callable[[bytes], float] = lambda head: 0.0,
    ) -> None:
        self.path, self.size, self.expires = path, size, expires
        self.ready: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.claims = DiskClaims({})
        self.journal = self.claims.begin_run(path, 0.0)
        super().__init__(memory)

    def open(self, column: int) -> SharedStore:
        if column == 1:
            restore_purges(self.memory, self.journal)
        self.loops[column].call_soon_threadsafe = self.ready.put
        store = super().open(column)
        disk = DiskLocation(self.path, self.journal.id, self.size)
        tier = DiskTier(disk, store, self.loops[column], self.expires, self.date)
        store.tiers = SlowerTiers(store, 1 << 30, self.expires, tier)
        return store

    def run(self) -> int:
        count = super().run()
        while not self.ready.empty():
            self.ready.get()()
            count += 1
        return count

    def settle(self) -> None:
        """Run callbacks until no thread has anything to do."""
        while True:
            self.run()
            tiers = [each.tiers.disk for each in (self.a, self.b) if each.tiers is not None]
            if not any(each is not None and each.is_busy for each in tiers):
                return
            self.ready.get(timeout=60)()

    def recall(self, key: bytes, store: SharedStore | None = None) -> StoredObject | None:
        """Look for a key as a request does: in memory, then on disk, then in memory again."""
        store = store or self.a
        found: list[StoredObject | None] = []
        if (present := store.find(key)) is not None:
            return present
        if not store.recall([key], found.append):
            return None
        while not found:
            self.ready.get(timeout=60)()
        return found[0] or store.find(key)

    def forget(self) -> None:
        """Remove everything from memory, as eviction does."""
        for store in (self.a, self.b):
            for bucket in store.cells.entries():
                for position, entry in bucket:
                    store.cells.replace(position, entry, 0)

    def close(self) -> None:
        """End the node. Repeated calls do nothing."""
        if self.claims.held:
            super().close()
            self.claims.release()


def pins_in(memory: CacheMemory) -> int:
    """The pins of all processes."""
    count = memory.geometry.segments
    return sum(
        sum(memory.words[first : first + count].tolist())
        for first in (memory.pins(index) for index in range(memory.words[COLUMNS]))
    )


def objects_in(store: SharedStore) -> int:
    """The entries of the index whose records are there: what the counters should say."""
    count = 0
    for bucket in store.cells.entries():
        for position, entry in bucket:
            if (opened := store.cells.open_entry(None, position, entry)) is not None:
                store.cells.unpin(opened.segment)
                count += 1
    return count


def leases_in(store: SharedStore) -> int:
    """The leases and marks that have not ended."""
    parts, now = store.memory.geometry, int(store.clock() * 16)
    words = store.memory.words[parts.leases : parts.leases + parts.lease_count].tolist()
    return sum(word != 0 and 0 < (word - now) % (1 << 26) <= 1 << 25 for word in words)


def leased(store: SharedStore, key: bytes) -> SharedLease:
    lease = store.lease(key)
    assert not isinstance(lease, Refusal)
    return lease


def begin(store: SharedStore, key: bytes, head: bytes = b"head", size: int | None = None, **about: object) -> Writer:
    lease = leased(store, key)
    writer = lease.store(head, size, **about)  # type: ignore[arg-type]
    assert writer is not None, lease.why_not
    return writer


def put(store: SharedStore, key: bytes, body: bytes = b"", head: bytes = b"head", **about: object) -> None:
    writer = begin(store, key, head, len(body), **about)
    if body:
        assert writer.append(body)
    assert writer.complete()


def body_of(found: StoredObject, offset: int = 0) -> bytes:
    return b"".join(found.pieces(offset))


def read(store: SharedStore, key: bytes) -> tuple[bytes, bytes] | None:
    """Head and body of a complete object; None: there is none."""
    found = store.find(key)
    if found is None:
        return None
    assert found.key == key
    outcome = found.head, body_of(found)
    assert found.is_complete
    assert found.length == found.size == len(outcome[1])
    found.release()
    return outcome
