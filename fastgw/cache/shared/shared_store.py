"""The store that all workers of a node share, as one worker, or the control process, uses it. See `Store`."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import Final

import cython

from fastgw.cache.shared import records as words_of
from fastgw.cache.shared._ordinary import Ordinary
from fastgw.cache.shared.index import KeyHash, Location, ObjectIndex, location
from fastgw.cache.shared.layout import (
    EVICTED_FOR_CAPACITY,
    EVICTED_FROM_INDEX,
    INSERTED,
    PURGE_SEQUENCE,
    REMOVAL_CLASSES,
    REMOVALS,
    REMOVED,
    CacheMemory,
)
from fastgw.cache.shared.leases import MOST_S, TICKS, Leases
from fastgw.cache.shared.lifecycle import FetchBegin, SharedLease
from fastgw.cache.shared.objects import SharedObject
from fastgw.cache.shared.popular import Popular, popular_objects
from fastgw.cache.shared.purges import Purges
from fastgw.cache.shared.records import MOST_HITS, OpenRecord, Records, RecordStatus
from fastgw.cache.shared.segments import Segments
from fastgw.cache.shared.space import Space
from fastgw.cache.shared.watches import Watches, WatchLoop
from fastgw.cache.store import (
    LEASE_S,
    MOST_URL,
    Counting,
    Eviction,
    FetchMoment,
    KeyWatch,
    Refusal,
    Store,
    StoredObject,
    StoreNumbers,
)

_MISS: Final = -1
_LEASE_TICKS: Final = ceil(LEASE_S * TICKS)
_REFUSALS: Final[Mapping[int, Refusal]] = {
    -1: Refusal.IN_FLIGHT,
    -3: Refusal.UNCACHEABLE,
    -4: Refusal.NO_SLOT,
    -5: Refusal.OUTGROWN,
}
"""Refusals of `Ordinary.take_lease`."""
_TRIES: Final = 8
_FOUND_AGAIN: Final = 64
"""Every so many calls of `is_unchanged` one counts as a `find`, which shows what is popular."""
_LAST: Final = 0xFFFFFFFF
"""Part of a word of `REMOVALS` that tells the last key; the other one is the number."""
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


def _ordinary_cases(memory: CacheMemory, column: int, owner: int) -> Ordinary:
    """Return the compiled ordinary cases."""
    first = memory.column(column)
    offsets = memory.pins(column) - first, memory.watches(column) - first, memory.events(column) - first
    return Ordinary(memory, memory.secrets, memory.geometry, first, owner, *offsets)


@cython.cclass
class SharedStore:
    """One process's handle of a shared store. `column`: see `CacheMemory`; no other living process has it."""

    has_slower_tiers = False

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
        self.index = ObjectIndex(memory)
        self.segments = Segments(memory, column)
        self.records = Records(memory, self.index, self.segments)
        self.purges = Purges(memory)
        self.leases = Leases(memory, clock)
        self.ordinary = _ordinary_cases(memory, column, self.segments.owner)
        self.space = Space(memory, self.index, self.segments, self.records, self.ordinary)
        self._watches = Watches(memory, column, loop, wakers)
        self._asked = 0

    def __repr__(self) -> str:
        numbers = self.numbers()
        return f"<SharedStore: {numbers.objects} objects, {numbers.bytes} bytes>"

    # requests

    def find(self, key: bytes) -> StoredObject | None:
        # PERF: 2 us with the compiled search, 7 without (CPython 3.11, micro/cache_store).
        at = self.ordinary.find(key)
        if at >= 0:
            segment = self.segments.segment_at(at)
            return SharedObject(self, at, segment, key, bool(self._words[at + words_of.CHECKED] & 1))
        if at == _MISS:
            return None
        hash_ = self.index.hash(key)
        found = self.records.open(hash_)
        if found is None:
            return None
        words = self._words
        checked = words[found.at + words_of.CHECKED]
        if checked >> 1 != words[PURGE_SEQUENCE] and (checked := self._check(found)) < 0:
            self._drop(found)
            return None
        if words[found.at + words_of.STATUS] == RecordStatus.RESERVING:
            self.segments.unpin(found.segment)
            return None
        if words[found.at + words_of.NEXT] and (missing := self.records.missing_chunk(found.at)) is not None:
            if self.records.is_overwritten(missing):
                self._drop(found)
            else:
                self.segments.unpin(found.segment)
            return None
        if (hits := words[found.at + words_of.HITS]) < MOST_HITS:
            words[found.at + words_of.HITS] = hits + 1
        words[found.at + words_of.FOUND] += 1
        return SharedObject(self, found.at, found.segment, key, bool(checked & 1))

    def stamp(self, found: StoredObject) -> object | None:
        assert isinstance(found, SharedObject)
        sequence = self._words[PURGE_SEQUENCE]
        if found.at < 0 or self._words[found.at + words_of.CHECKED] != sequence << 1:
            return None
        for position, entry in self.index.candidates(self.index.hash(found.key)):
            where = location(entry)
            if self.records.is_sound(where) and self.records.at(where.segment, where.offset) == found.at:
                return _Stamp(self.memory, found.key, position, entry, sequence)
        return None

    def is_unchanged(self, stamp: object) -> bool:
        seen: _Stamp = cython.cast(_Stamp, stamp, typecheck=True)
        ordinary = self.ordinary
        if seen.memory is not self.memory:
            return False
        self._asked += 1
        # PERF: counted here every so many calls, 500 instructions of each less than by a `find` (CPython 3.11,
        # callgrind, micro/response_cache).
        if self._asked % _FOUND_AGAIN == 0 and not (
            ordinary.holds(seen.position, seen.entry) and ordinary.count_found(seen.key, seen.entry, _FOUND_AGAIN)
        ):
            self._count_found(seen.key)
        return ordinary.holds(seen.position, seen.entry) and ordinary.holds(PURGE_SEQUENCE, seen.sequence)

    def _count_found(self, key: bytes) -> None:
        """Count an object as found so many times, so that what is popular stays in the store."""
        if (found := self.find(key)) is not None:
            if isinstance(found, SharedObject) and found.at >= 0:
                self._words[found.at + words_of.FOUND] += _FOUND_AGAIN - 1
            found.release()

    def lease(self, key: bytes, begun: FetchMoment | None = None) -> SharedLease | Refusal:
        assert begun is None or isinstance(begun, FetchBegin)
        if begun is not None:
            self.leases.forget(self.index.hash(key), only_mark=True)
        ordinary = self.ordinary
        now: cython.double = self.leases.clock()
        at: cython.longlong = ordinary.take_lease(key, cython.cast(cython.ulonglong, now * TICKS), _LEASE_TICKS)
        if at >= 0:
            return SharedLease(self, key, at, ordinary.lease_word, begun)
        return _REFUSALS[at]

    def present_moment(self) -> FetchBegin:
        return FetchBegin(self.purges.sequence, self.date())

    def recall(self, keys: Sequence[bytes], callback: Callable[[StoredObject | None], None]) -> bool:
        return False

    def restore(self, lease_key: bytes, former: FetchBegin) -> SharedLease:
        """Return a lease to store an object as if a former fetch under a lease of this key had just ended."""
        return SharedLease(self, lease_key, -1, 0, former)

    def watch(self, key: bytes, callback: Callable[[], None]) -> KeyWatch:
        return self._watches.add(self.index.hash(key), callback)

    def remove(self, key: bytes) -> bool:
        hash_ = self.index.hash(key)
        self._count_removal(hash_)  # also for an object that is not in the index yet
        was_there = is_changed = False
        # Again, if another process has changed the entry meanwhile: what it has put there may be the same object with
        # another head or in another segment, or one that breaks off, so that the object comes back.
        while (seen := self._entry_of(hash_)) is not None:
            found = self.records.open_entry(hash_, *seen)
            is_valid = found is None or self._check(found) >= 0
            removed = self._drop_entry(*seen) if found is None else self._drop(found)
            was_there, is_changed = was_there or (removed and is_valid), is_changed or removed
        if is_changed:
            self.report(key)
        return was_there

    def remove_older(self, key: bytes, than: FetchBegin) -> None:
        """Remove the object of a key, unless its fetch has begun later, and keep away what is being recalled of it."""
        found, is_later = self.records.open(self.index.hash(key)), False
        if found is not None:
            began, date = self._words[found.at + words_of.BEGAN], self._words[found.at + words_of.DATE]
            is_later = (began, date) > (than.began, int(than.date * 1e6))
            self.segments.unpin(found.segment)
        if not is_later:
            self.remove(key)

    def _entry_of(self, hash_: KeyHash) -> tuple[int, int] | None:
        """Return position and entry of the first record of a key, also in a segment that is being recycled."""
        for position, entry in self.index.candidates(hash_):
            if self.records.may_be_of(hash_, entry):
                return position, entry
        return None

    # --- purges ---

    def purge_key(self, key: bytes, *, soft: bool = False) -> Counting:
        hash_, tag = self.index.hash(key), self.key_tag(key)
        number = self.purges.purge_key(tag, soft=soft)
        self.leases.forget(hash_)
        self.report(key)
        return self._sweep(number, lambda at: tag in self.records.tags(at))

    def purge_tags(self, tags: Iterable[bytes], *, soft: bool = False) -> Counting:
        hashes = {self.name_tag(tag) for tag in tags}
        number = self.purges.purge_tags(hashes, soft=soft)
        self._watches.report_all()
        return self._sweep(number, lambda at: not hashes.isdisjoint(self.records.tags(at)))

    def purge_prefix(self, *prefixes: bytes, soft: bool = False) -> Counting:
        if max(map(len, prefixes)) > MOST_URL:
            raise ValueError(f"a prefix has at most {MOST_URL} bytes")
        number = max([self.purges.purge_prefix(each, soft=soft) for each in prefixes])
        self._watches.report_all()
        return self._sweep(number, lambda at: bool(url := self.records.url(at)) and url.startswith(prefixes))

    def purge_all(self, *, soft: bool = False) -> Counting:
        number = self.purges.purge_all(soft=soft)
        self._watches.report_all()
        return self._sweep(number, lambda at: True)

    def popular(self, most: int) -> Popular:
        """Return the `most` objects that were found most often, in steps."""
        return popular_objects(self._words, self.index, self.records, self.segments, most)

    def _sweep(self, number: int, matches: Callable[[int], bool]) -> Counting:
        """Check all objects, remove purged ones, and count those of before this purge that it matches."""
        count = 0
        for bucket in self.index.all():
            if not bucket:
                continue
            for position, entry in bucket:
                found = self.records.open_any(position, entry)
                if found is None:
                    continue
                is_hit = self._words[found.at + words_of.BEGAN] < number and matches(found.at)
                if self._check(found) < 0:
                    is_hit = self._drop(found) and is_hit
                else:
                    self.segments.unpin(found.segment)
                count += is_hit
            yield
        return count

    def _check(self, found: OpenRecord) -> int:
        """Check a pinned record against the purges; return its new `CHECKED` word. -1: it was purged."""
        words, at = self._words, found.at
        checked = words[at + words_of.CHECKED]
        validity = self.purges.check(
            words[at + words_of.BEGAN], checked >> 1, self.records.tags(at), lambda: self.records.url(at)
        )
        if validity.is_purged:
            return -1
        checked = validity.sequence << 1 | checked & 1 | validity.is_soft_purged
        words[at + words_of.CHECKED] = checked
        return checked

    def when_purged(self, callback: Callable[[], None]) -> None:
        callback()

    # numbers

    def numbers(self) -> StoreNumbers:
        total = self.memory.total
        evictions = {
            Eviction.CAPACITY: total(EVICTED_FOR_CAPACITY),
            Eviction.INDEX: total(EVICTED_FROM_INDEX),
        }
        return StoreNumbers(max(0, total(INSERTED) - total(REMOVED)), self.segments.bytes_in_use(), evictions)

    def close(self) -> None:
        self._watches.close()

    def call_due(self) -> None:
        """Call the callbacks of what has happened: the worker's eventfd is readable."""
        self._watches.call_due()

    # for leases and writers

    def report(self, key: bytes) -> None:
        """Report a change of a key to all that watch it."""
        if self.ordinary.report(key):
            self._watches.wake_watchers(self.index.hash(key))

    def end_lease(self, at: cython.longlong, word: cython.ulonglong, mark_s: float) -> None:
        """End a lease, with a mark for so many seconds, unless another process has taken it."""
        if mark_s > 0:
            now, ticks = self.leases.ticks(min(mark_s, MOST_S))
            self.ordinary.end_lease(at, word, now, ticks)
        else:
            self.ordinary.end_lease(at, word, 0, 0)

    def key_tag(self, key: bytes) -> int:
        """Return the hash by which a purge of a key finds its objects, as those of a tag."""
        return self.ordinary.key_tag(key)

    def name_tag(self, tag: bytes) -> int:
        """Return the hash by which a purge of a tag finds its objects."""
        return self.ordinary.name_tag(tag)

    def insert(self, hash_: KeyHash, where: Location) -> int | None:
        """Add a record to the index, in place of another one of its key. Returns the entry that it has replaced, 0:
        there was none. None: others were always faster.
        """
        index, entry = self.index, self.index.entry(hash_, where)
        for _ in range(_TRIES):
            before = self.records.open(hash_)
            if before is not None:
                self.segments.unpin(before.segment)
                if index.replace(before.position, before.entry, entry):
                    return before.entry
                continue
            for position, seen in index.slots(hash_, self._coldness):
                is_eviction = seen != 0 and self._coldness(seen) >= 0
                if not index.replace(position, seen, entry):
                    continue
                self._words[self.counters + INSERTED] += 1
                if is_eviction:
                    self._words[self.counters + REMOVED] += 1
                    self._words[self.counters + EVICTED_FROM_INDEX] += 1
                return 0 if self._settle(hash_, position, entry) else None
        return None

    def settle(self, hash_: KeyHash, where: Location) -> bool:
        """Leave one of two entries of a key, one of which is of this record. False: it is the other one."""
        position = self.index.position(hash_, where.word)
        return position is not None and self._settle(hash_, position, self.index.entry(hash_, where))

    def _settle(self, hash_: KeyHash, position: int, entry: int) -> bool:
        """Leave one of two entries that two processes have added for a key at the same time: the first one."""
        for other, seen in self.index.candidates(hash_):
            if other == position:
                continue
            found = self.records.open_entry(hash_, other, seen)
            if found is None:
                # In a segment that another process recycles it may be kept, and would hide the new one then.
                if self.records.may_be_of(hash_, seen) and not self._drop_entry(other, seen):
                    return self._settle(hash_, position, entry)
                continue
            self.segments.unpin(found.segment)
            first, loser = (other, (position, entry)) if other < position else (position, (other, seen))
            if self.index.replace(*loser, 0):
                self._words[self.counters + REMOVED] += 1
            if first != position:
                return False
        return True

    def holds(self, hash_: KeyHash, where: Location) -> bool:
        """Whether requests find this record."""
        position = self.index.position(hash_, where.word)
        if position is None:
            return False
        found = self.records.open_entry(hash_, position, self.index.entry(hash_, where))
        if found is None:
            return False
        if self._check(found) < 0:
            self._drop(found)
            return False
        self.segments.unpin(found.segment)
        return True

    def removals(self, hash_: KeyHash) -> int:
        """Return a number to ask `was_removed` with."""
        return self._words[REMOVALS + hash_.hash % REMOVAL_CLASSES]

    def was_removed(self, hash_: KeyHash, removals: int) -> bool:
        """Whether `remove` was called for a key since then, or several times for others that are counted with it."""
        now = self.removals(hash_)
        is_one_other = (now >> 32) - (removals >> 32) == 1 and now & _LAST != hash_.hash >> 32
        return now != removals and not is_one_other

    def _count_removal(self, hash_: KeyHash) -> None:
        at = REMOVALS + hash_.hash % REMOVAL_CLASSES
        while True:
            seen = self._words[at]
            if self.memory.swap(at, seen, ((seen >> 32) + 1 & _LAST) << 32 | hash_.hash >> 32):
                return

    def remove_entry(self, hash_: KeyHash, where: Location) -> bool:
        """Remove a record from the index. False: it was not in it any more."""
        position = self.index.position(hash_, where.word)
        if position is None or not self.index.replace(position, self.index.entry(hash_, where), 0):
            return False
        self._words[self.counters + REMOVED] += 1
        return True

    def put_back(self, hash_: KeyHash, where: Location, former: int) -> bool:
        """Put the entry that a record has replaced back in its place. False: the record that it points to is gone, or
        the new one was removed meanwhile. Purges since then are checked when it is found.
        """
        position, found = self.index.position(hash_, where.word), None
        if position is not None:
            found = self.records.open_entry(hash_, position, former)
        if found is None:
            return False
        is_complete = self._words[found.at + words_of.STATUS] == RecordStatus.COMPLETE
        is_back = is_complete and self.index.replace(found.position, self.index.entry(hash_, where), former)
        self.segments.unpin(found.segment)
        return is_back

    def _drop(self, found: OpenRecord) -> bool:
        """Remove a pinned record from the index, and unpin it."""
        removed = self._drop_entry(found.position, found.entry)
        self.segments.unpin(found.segment)
        return removed

    def _drop_entry(self, position: int, entry: int) -> bool:
        """Remove an entry from the index. False: it was changed meanwhile."""
        removed = self.index.replace(position, entry, 0)
        self._words[self.counters + REMOVED] += removed
        return removed

    def _coldness(self, entry: int) -> int:
        """Return how often a record was found, or more if it grows; -1: it is not there."""
        at = self.records.peek(entry)
        if at is None:
            return -1
        growing = self._words[at + words_of.STATUS] == RecordStatus.GROWING
        return self._words[at + words_of.HITS] + (MOST_HITS + 1 if growing else 0)


def is_unchanged_in(store: Store, stamp: object) -> bool:
    """Return `store.is_unchanged(stamp)`; of a shared store by few instructions."""
    if isinstance(store, SharedStore):
        return store.is_unchanged(stamp)
    return store.is_unchanged(stamp)
