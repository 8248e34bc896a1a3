"""The store that all workers of a node share, as one worker, or the control process, uses it.

No call blocks, waits for another process or raises because the store is full or damaged: the caller then goes on
without the store. All calls are made from the thread of the worker's event loop.

Purges are ordered by a number, the *purge sequence*, and not by clocks: a fetch remembers the number at its lease, and
every later purge has a higher one. A fetch without a lease remembers it in a `FetchBegin`, for a lease that it takes
later. An object is valid while no purge of its key, its tags, its URL's prefixes or of everything is newer than its
fetch. A fetch in flight at the time of a purge is not joined afterwards.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Final, TypeAlias

import cython

from fastgw.cache.shared._cells import (
    BEGAN,
    CHECKED,
    COMPLETE,
    DATE,
    FOUND,
    IN_FLIGHT,
    NO_SLOT,
    OUTGROWN,
    RESERVING,
    STATUS,
    UNCACHEABLE,
    Cells,
    OpenRecord,
)
from fastgw.cache.shared.layout import (
    CLASSES,
    EVICTED_FOR_CAPACITY,
    EVICTED_FROM_INDEX,
    INSERTED,
    PURGE_SEQUENCE,
    REMOVED,
    CacheMemory,
)
from fastgw.cache.shared.lifecycle import SharedLease
from fastgw.cache.shared.objects import SharedObject
from fastgw.cache.shared.purges import Purges
from fastgw.cache.shared.segments import Segments
from fastgw.cache.shared.space import Space
from fastgw.cache.shared.watches import KeyWatch, Watches, WatchLoop
from fastgw.cache.store import (
    LEASE_S,
    MOST_URL,
    Counting,
    Eviction,
    FetchBegin,
    PurgeKind,
    Refusal,
    StoredObject,
    StoreNumbers,
)

if TYPE_CHECKING:
    from fastgw.cache.tiers.slower_tiers import SlowerTiers

Begun: TypeAlias = FetchBegin | None
_TICKS: Final = 16
"""Parts of a second in which the end of a lease is counted."""
_LEASE_TICKS: Final = ceil(LEASE_S * _TICKS)
_MOST_MARK_S: Final = 86_400.0
_REFUSALS: Final[Mapping[int, Refusal]] = {
    IN_FLIGHT: Refusal.IN_FLIGHT,
    UNCACHEABLE: Refusal.UNCACHEABLE,
    NO_SLOT: Refusal.NO_SLOT,
    OUTGROWN: Refusal.OUTGROWN,
}
_FOUND_AGAIN: Final = 64
"""Every so many calls of `is_unchanged` one counts as a `find`, which shows what is popular."""
_EVERYTHING: Final = (b"",)
"""Value of a purge of everything."""
OWN_BYTES: Final = 16 * 1024**2
_SHARE: Final = 8
"""An object takes at most this fraction of the memory."""


@cython.cclass
class _Stamp:
    """An entry of the index, and the purge sequence at which it was valid."""

    def __init__(
        self,
        memory: CacheMemory,
        key: bytes,
        position: cython.longlong,
        entry: cython.ulonglong,
        sequence: cython.ulonglong,
    ) -> None:
        self.memory, self.key, self.position, self.entry, self.sequence = memory, key, position, entry, sequence


@cython.cclass
class SharedStore:
    """One process's handle of a shared store. `column`: see `CacheMemory`; no other living process has it.
    `most_bytes`: maximum number of body bytes of an object in memory.
    """

    def __init__(
        self,
        memory: CacheMemory,
        column: int,
        loop: WatchLoop,
        wakers: Mapping[int, int],
        most_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        date: Callable[[], float] = time.time,
    ) -> None:
        self.memory, self.clock, self.date = memory, clock, date
        self.most_bytes = min(most_bytes, memory.geometry.segments * memory.geometry.segment // _SHARE)
        self._words = memory.words
        self.counters = memory.use_column(column)
        self.cells = Cells(memory, column)
        self.segments = Segments(memory, column)
        self.purges = Purges(memory, self.cells)
        self.space = Space(memory, self.segments, self.cells)
        self.watches = Watches(memory, column, loop, wakers)
        self._asked = 0
        self.tiers: SlowerTiers | None = None
        self.successor: SharedStore | None = None
        """The handle that has replaced this one, with other settings: purges concern it, too."""

    def __repr__(self) -> str:
        numbers = self.numbers()
        return f"<SharedStore: {numbers.objects} objects, {numbers.bytes} bytes>"

    # requests

    def find(self, key: bytes) -> StoredObject | None:
        """Return the valid object of this key, complete or growing; the caller has to release it."""
        cells = self.cells
        found = cells.open(key)
        if found is None or not (cells.is_current(found.at) or self._is_whole(found)):
            return None
        cells.count_found(found.at)
        return SharedObject(self, found.at, found.segment, key, bool(self._words[found.at + CHECKED] & 1))

    def _is_whole(self, found: OpenRecord) -> bool:
        """Whether a pinned record was not purged, and has space for its body; otherwise it is unpinned, and removed if
        nobody will find it.
        """
        cells, words = self.cells, self._words
        is_purged = words[found.at + CHECKED] >> 1 != words[PURGE_SEQUENCE] and self._check(found) < 0
        missing = 2 if is_purged else cells.missing(found.at)
        if missing == 2:
            self._drop(found)
        elif missing or words[found.at + STATUS] == RESERVING:
            cells.unpin(found.segment)
        else:
            return True
        return False

    def stamp(self, found: StoredObject) -> object | None:
        """Return a value with which `is_unchanged` recognizes this object after its release; None: it is not valid any
        more, or only a slower tier has it.
        """
        if not isinstance(found, SharedObject):
            return None
        sequence = self._words[PURGE_SEQUENCE]
        if found.at < 0 or self._words[found.at + CHECKED] != sequence << 1:
            return None
        now = self.cells.open(found.key)
        if now is None:
            return None
        self.cells.unpin(now.segment)
        return _Stamp(self.memory, found.key, now.position, now.entry, sequence) if now.at == found.at else None

    def is_unchanged(self, stamp: object) -> bool:
        """Whether `find` would return the object of a stamp, unchanged. Cheaper than `find`; False also after a purge
        of something else. Some of the calls count as a `find`, which shows which objects are popular.
        """
        seen: _Stamp = cython.cast(_Stamp, stamp, typecheck=True)
        cells = self.cells
        if seen.memory is not self.memory:
            return False
        self._asked += 1
        # PERF: counted here every so many calls, 500 instructions of each less than by a `find` (CPython 3.11,
        # callgrind, micro/response_cache).
        if self._asked % _FOUND_AGAIN == 0:
            self._count_found(seen.key)
        return cells.holds(seen.position, seen.entry) and cells.holds(PURGE_SEQUENCE, seen.sequence)

    def _count_found(self, key: bytes) -> None:
        """Count an object as found so many times, so that what is popular stays in the store."""
        if (found := self.find(key)) is not None:
            if isinstance(found, SharedObject) and found.at >= 0:
                self._words[found.at + FOUND] += _FOUND_AGAIN - 1
            found.release()

    def lease(self, key: bytes, begun: Begun = None) -> SharedLease | Refusal:
        """Ask for the right to fetch a key, whether there is an object or not.

        `begun`: of `present_moment`: the fetch has begun then without a lease, and its response may be stored. The mark
        of the key ends. Objects of this lease are as old as the fetch, so purges since then concern them.
        """
        cells = self.cells
        at: cython.longlong = cells.take_lease(key, self._now(), _LEASE_TICKS, begun is not None)
        if at >= 0:
            return SharedLease(self, key, at, cells.lease_word, begun)
        return _REFUSALS[at]

    def _now(self) -> cython.ulonglong:
        """Return the present instant, as ends of leases are counted."""
        now: cython.double = self.clock()
        return cython.cast(cython.ulonglong, now * _TICKS)

    def present_moment(self) -> FetchBegin:
        """Return the moment for a fetch that begins now."""
        position = None if self.tiers is None else self.tiers.position
        return FetchBegin(self.cells.purge_sequence(), self.date(), position)

    def recall(self, keys: Sequence[bytes], callback: Callable[[StoredObject | None], None]) -> bool:
        """Look for the first of these keys that a slower tier has, after `find` has not found it. False: there is no
        such tier, or it is busy; there is no call then.

        The callback is called once, from the event loop: with an object that is only there, and that the caller has to
        release; or with None: `find` finds it now, or it was not found in time.
        """
        return self.tiers is not None and self.tiers.recall(keys, callback)

    def restore(self, lease_key: bytes, former: FetchBegin) -> SharedLease:
        """Return a lease to store an object as if a former fetch under a lease of this key had just ended."""
        return SharedLease(self, lease_key, -1, 0, former)

    def watch(self, key: bytes, callback: Callable[[], None]) -> KeyWatch:
        """Call back from the event loop whenever the object of a key, or the fetch of it, may have changed: it has
        appeared, grown, ended or failed, or its lease has ended. Calls may be spurious, and changes may be merged.
        """
        return self.watches.add(self.cells.hash(key) % CLASSES, callback)

    def remove(self, key: bytes) -> bool:
        """Remove the object of a key; return whether memory had one, also one that was purged and not swept yet. A
        fetch in flight is not affected, unless there are slower tiers: then it is as after a purge.
        """
        was_there = self.remove_from_memory(key)
        if self.tiers is not None:
            # A purge as well: a look-up that has begun must not bring it back, nor may a restart.
            self._mark_purge("key", (key,), soft=False)
            self.tiers.remove(key)
        return was_there

    def remove_from_memory(self, key: bytes) -> bool:
        """Remove the object of a key from memory alone."""
        was_there = self.cells.remove(key)
        if was_there:
            self.report(key)
        return was_there

    def remove_older(self, key: bytes, than: FetchBegin) -> None:
        """Remove the object of a key from memory, unless its fetch has begun later.

        An older one that a look-up has read from disk already is put into memory after this (`DiskTier.recall`).
        """
        found, is_later = self.cells.open(key), False
        if found is not None:
            began, date = self._words[found.at + BEGAN], self._words[found.at + DATE]
            is_later = (began, date) > (than.began, int(than.date * 1e6))
            self.cells.unpin(found.segment)
        if not is_later:
            self.remove_from_memory(key)

    # --- purges ---

    def purge(self, kind: PurgeKind, values: Sequence[bytes] = _EVERYTHING, *, soft: bool = False) -> Counting:
        """Purge all objects that have at least one of these tags, or whose URL begins with one of these prefixes, or
        all; or those of a key, of which a fetch in flight may still be joined. Raises `ValueError` for a prefix of more
        than `MOST_URL` bytes.

        A purge holds as soon as this returns; run the steps for the number of purged objects. `soft`: the objects
        stay, and `is_soft_purged`.
        """
        if kind == "prefix" and max(map(len, values)) > MOST_URL:
            raise ValueError(f"a prefix has at most {MOST_URL} bytes")
        number = self._mark_purge(kind, values, soft=soft)
        self.watches.report_all()
        if self.successor is not None:
            self.successor.purge(kind, values, soft=soft)
        return self._sweep(number, self._matcher(kind, values))

    def _mark_purge(self, kind: PurgeKind, values: Sequence[bytes], *, soft: bool) -> int:
        """Purge in all tiers; return the number of the purge."""
        tiers = self.tiers
        if tiers is not None:
            tiers.announce_purge()
        number = self.purges.purge(kind, values, soft=soft)
        if tiers is not None:
            tiers.record_purge(kind, values, number, soft=soft)
        return number

    def _matcher(self, kind: PurgeKind, values: Sequence[bytes]) -> Callable[[int], bool]:
        """Return what tells whether a purge concerns a record, by its first word."""
        cells = self.cells
        if kind == "prefix":
            prefixes = tuple(values)
            return lambda at: bool(url := cells.url(at)) and url.startswith(prefixes)
        hashes = self.purges.hashes_of(kind, values)
        return lambda at: kind == "all" or not hashes.isdisjoint(cells.tags(at))

    def _sweep(self, number: int, matches: Callable[[int], bool]) -> Counting:
        """Check all objects, remove purged ones, and count those of before this purge that it matches."""
        count = 0
        for bucket in self.cells.entries():
            if not bucket:
                continue
            for position, entry in bucket:
                found = self.cells.open_entry(None, position, entry)
                if found is None:
                    continue
                is_hit = self._words[found.at + BEGAN] < number and matches(found.at)
                if self._check(found) < 0:
                    is_hit = self._drop(found) and is_hit
                else:
                    self.cells.unpin(found.segment)
                count += is_hit
            yield
        return count

    def _check(self, found: OpenRecord) -> int:
        """Check a pinned record against the purges; return its new `CHECKED` word. -1: it was purged."""
        words, at = self._words, found.at
        checked = words[at + CHECKED]
        validity = self.purges.check(words[at + BEGAN], checked >> 1, self.cells.tags(at), lambda: self.cells.url(at))
        if validity.is_purged:
            return -1
        checked = validity.sequence << 1 | checked & 1 | validity.is_soft_purged
        words[at + CHECKED] = checked
        return checked

    def when_purged(self, callback: Callable[[], None]) -> None:
        """Call back once the purges of this handle so far would also hold after a restart."""
        if self.tiers is None:
            callback()
        else:
            self.tiers.when_purged(callback)

    # numbers

    def numbers(self) -> StoreNumbers:
        """Return the state of the whole store, for all workers."""
        total = self.memory.total
        evictions = {
            Eviction.CAPACITY: total(EVICTED_FOR_CAPACITY),
            Eviction.INDEX: total(EVICTED_FROM_INDEX),
        }
        disk, redis = (None, None) if self.tiers is None else self.tiers.numbers()
        objects = max(0, total(INSERTED) - total(REMOVED))
        return StoreNumbers(objects, self.segments.bytes_in_use(), evictions, disk, redis)

    def close(self) -> None:
        """End all watches of this handle, and its tiers. Objects that were found stay valid until their release."""
        if self.tiers is not None:
            self.tiers.close()
        self.watches.close()

    # for leases and writers

    def report(self, key: bytes) -> None:
        """Report a change of a key to all that watch it."""
        if self.cells.report(key):
            self.watches.wake_watchers(self.cells.hash(key) % CLASSES)

    def end_lease(self, at: cython.longlong, word: cython.ulonglong, mark_s: float) -> None:
        """End a lease, with a mark for so many seconds, unless another process has taken it."""
        if mark_s > 0:
            self.cells.end_lease(at, word, self._now(), ceil(min(mark_s, _MOST_MARK_S) * _TICKS))
        else:
            self.cells.end_lease(at, word, 0, 0)

    def insert(self, key: bytes, location: int) -> int | None:
        """Add a record to the index, in place of another one of its key. Returns the entry that it has replaced, 0:
        there was none. None: others were always faster.
        """
        return self.cells.replaced if self.cells.insert(key, location) else None

    def holds(self, key: bytes, at: cython.longlong) -> bool:
        """Whether requests find this record. `at`: its first word."""
        found = self.cells.open(key)
        if found is None or not self._is_whole(found):
            return False
        self.cells.unpin(found.segment)
        return bool(found.at == at)

    def remove_entry(self, key: bytes, entry: int) -> bool:
        """Remove an entry from the index. False: it was not in it any more."""
        position = self.cells.position(key, entry)
        return position >= 0 and self.cells.drop(position, entry)

    def put_back(self, key: bytes, location: int, former: int) -> bool:
        """Put the entry that a record has replaced back in its place. False: the record that it points to is gone, or
        the new one was removed meanwhile. Purges since then are checked when it is found.
        """
        cells = self.cells
        entry = cells.entry(key, location)
        position = cells.position(key, entry)
        found = None if position < 0 else cells.open_entry(key, position, former)
        if found is None:
            return False
        is_complete = self._words[found.at + STATUS] == COMPLETE
        is_back = is_complete and cells.replace(found.position, entry, former)
        cells.unpin(found.segment)
        return is_back

    def _drop(self, found: OpenRecord) -> bool:
        """Remove a pinned record from the index, and unpin it."""
        removed = self.cells.drop(found.position, found.entry)
        self.cells.unpin(found.segment)
        return removed


def own_store(loop: WatchLoop, memory: int = OWN_BYTES) -> SharedStore:
    """Return a store of this process alone, for replays and tests. `memory`: bytes, allocated on use."""
    return SharedStore(CacheMemory(memory), 1, loop, {}, memory)
