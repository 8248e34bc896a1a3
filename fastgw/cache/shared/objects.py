"""Objects of a shared store as one worker holds them: those that it has found, and those that it writes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, final

from fastgw.cache.shared import records as words_of
from fastgw.cache.shared.index import KeyHash, Location, ObjectIndex, location
from fastgw.cache.shared.layout import UNIT, CacheMemory
from fastgw.cache.shared.records import CHUNK_HEADER, OpenRecord, Records, RecordStatus
from fastgw.cache.shared.segments import Queue, Segments
from fastgw.cache.shared.space import Extent, Space
from fastgw.cache.store import NotStored

if TYPE_CHECKING:
    from fastgw.cache.shared._ordinary import Ordinary

_LEAST_CHUNK: Final = 4096
_MOST_CHUNK: Final = 256 * 1024
"""Bytes of space that a body of unknown length asks for ahead, at most."""
_RESERVING_S: Final = 0.002
"""Time after which no more space is reserved in a turn of the event loop for a body of known length. The last
chunk may take longer by the opening of one segment: up to 5 ms with the smallest objects.
"""
_COPYING_S: Final = 0.008
"""Time for the space of a copy, which is made in one turn, or not at all."""


class StoreParts(Protocol):
    """The parts of a store that objects need."""

    memory: CacheMemory
    segments: Segments
    records: Records
    space: Space
    most_bytes: int
    index: ObjectIndex
    ordinary: "Ordinary"
    clock: Callable[[], float]
    date: Callable[[], float]

    def report(self, key: bytes) -> None:
        """Report a change of a key to all that watch it."""

    def insert(self, hash_: KeyHash, where: Location) -> int | None:
        """Add an object to the index; return the entry that it has replaced, 0: there was none. None: it was not added,
        as others were faster.
        """

    def remove_entry(self, hash_: KeyHash, where: Location) -> bool:
        """Remove an object from the index; False: it was not in it any more."""

    def put_back(self, hash_: KeyHash, where: Location, former: int) -> bool:
        """Put the entry that an object has replaced back in its place; False: that is not possible."""

    def holds(self, hash_: KeyHash, where: Location) -> bool:
        """Whether requests find this object."""

    def removals(self, hash_: KeyHash) -> int:
        """Return a number to ask `was_removed` with."""

    def was_removed(self, hash_: KeyHash, removals: int) -> bool:
        """Whether a key was removed since then, or several others that are counted with it."""


@final
class SharedObject:
    """See `StoredObject`. Its segment is pinned until the release."""

    __slots__ = ("_at", "_begins", "_chunks", "_segment", "_store", "_words", "head", "is_soft_purged", "key")

    def __init__(self, store: StoreParts, at: int, segment: int, key: bytes, is_soft_purged: bool) -> None:
        """`at`: first word of its record, in a segment that is pinned already."""
        self._store, self._words, self._at, self._segment = store, store.memory.words, at, segment
        self.key, self.is_soft_purged = key, is_soft_purged
        self.head = store.records.head(at)
        self._begins = 8 * at + store.records.parts(at).body
        self._chunks: list[tuple[int, int, int]] = []  # word, first byte in the memory, capacity

    def __repr__(self) -> str:
        state = "released" if self._at < 0 else RecordStatus(self._words[self._at + words_of.STATUS]).name.lower()
        return f"<SharedObject {self.key.hex()} {state} {self.length} bytes>"

    def __del__(self) -> None:
        self.release()

    @property
    def at(self) -> int:
        """First word of its record; -1: it was released."""
        return self._at

    @property
    def length(self) -> int:
        return 0 if self._at < 0 else self._words[self._at + words_of.LENGTH]

    @property
    def size(self) -> int | None:
        size = 0 if self._at < 0 else self._words[self._at + words_of.SIZE]
        return size - 1 if size else None

    @property
    def is_complete(self) -> bool:
        return self._at >= 0 and self._words[self._at + words_of.STATUS] == RecordStatus.COMPLETE

    @property
    def has_failed(self) -> bool:
        return self._at < 0 or self._words[self._at + words_of.STATUS] == RecordStatus.FAILED

    @property
    def stored_date(self) -> float:
        return 0.0 if self._at < 0 else self._words[self._at + words_of.DATE] / 1e6

    def pieces(self, offset: int = 0) -> list[memoryview]:
        if self._at < 0:
            return []
        data, left = self._store.memory.data, self.length
        self._store.memory.fence()
        capacity = min(self._words[self._at + words_of.CAPACITY], left)
        begins, found, number = self._begins, [], 0
        while True:
            if offset < capacity:
                found.append(data[begins + offset : begins + capacity].toreadonly())
            offset, left = max(0, offset - capacity), left - capacity
            if left <= 0:
                return found
            if number == len(self._chunks):
                self._chunks.append(self._next_chunk())
            _, begins, capacity = self._chunks[number]
            if number == len(self._chunks) - 1:  # the last one may have grown
                capacity = self._words[self._chunks[number][0] + words_of.CHUNK_CAPACITY]
                self._chunks[number] = (self._chunks[number][0], begins, capacity)
            capacity, number = min(capacity, left), number + 1

    def _next_chunk(self) -> tuple[int, int, int]:
        if self._chunks:
            following = self._words[self._chunks[-1][0] + words_of.CHUNK_NEXT]
        else:
            following = self._words[self._at + words_of.NEXT]
        where = location(following)
        at = self._store.records.at(where.segment, where.offset)
        return at, 8 * at + CHUNK_HEADER, 0

    def release(self) -> None:
        if self._at >= 0:
            self._at = -1
            self._store.segments.unpin(self._segment)


@final
class SharedWriter:
    """See `Writer`. The segment in which its record begins is pinned until the end.

    A body of known length that its record has no space for is added to the index once space for all of it is reserved:
    those that read along are never cut off for want of space. Chunks that were reserved in vain, also by a process that
    has died, are recycled with their segments, which no pin holds any more.
    """

    __slots__ = (
        "_announced",
        "_at",
        "_capacity_at",
        "_copied_up_to",
        "_ended",
        "_extent",
        "_extent_at",
        "_former",
        "_free",
        "_goes_on",
        "_key",
        "_last_next_at",
        "_lease_key",
        "_length",
        "_missing",
        "_most",
        "_next_at",
        "_old",
        "_position",
        "_queue",
        "_removals",
        "_replaced",
        "_store",
        "_where",
        "_words",
    )

    def __init__(
        self,
        store: StoreParts,
        queue: Queue,
        extent: Extent,
        where: Location,
        key: bytes,
        body: int,
        size: int | None,
        ended: Callable[[float], None],
        replaced: int | None,
    ) -> None:
        """`extent`: of the record. `body`: offset of the body from its start. `size`: of the body, as announced.
        `ended`: called at the end (`Lease.give_up`). `replaced`: entry of the index that comes back if it is aborted;
        0: there is none; None: the object is not in the index yet, see `begin_body`.
        """
        self._replaced = replaced
        self._store, self._words, self._queue = store, store.memory.words, queue
        self._where, self._key, self._ended, self._announced = where, key, ended, size
        self._at = store.records.at(where.segment, where.offset)
        self._extent, self._extent_at = extent, self._at
        self._most = store.most_bytes if size is None else min(size, store.most_bytes)
        self._copied_up_to = self._most if replaced is not None else -1  # a body up to this length is only copied
        self._capacity_at, self._next_at = self._at + words_of.CAPACITY, self._at + words_of.NEXT
        self._last_next_at = self._next_at  # of the last chunk that is reserved
        self._position = 8 * self._at + body
        self._free = extent.length - body
        self._length = 0
        self._goes_on = True

    def __del__(self) -> None:
        self.abort()

    def append(self, data: bytes | bytearray | memoryview) -> bool:
        if not self._goes_on:
            return False
        store = self._store
        count = len(data)
        length = self._length + count
        if (
            type(data) is bytes
            and length <= self._copied_up_to
            and store.ordinary.append(self._at, self._position, self._free, data, length)
        ):
            self._position, self._free, self._length = self._position + count, self._free - count, length
            store.report(self._key)
            return True
        view = memoryview(data).cast("B")
        length = self._length + len(view)
        if length > self._most or (self._replaced is None and self._reserve_more() is not None):
            self._fail()
            return False
        while view:
            if not self._free and not self._grow(len(view)):
                self._fail()
                return False
            count = min(self._free, len(view))
            self._store.memory.data[self._position : self._position + count] = view[:count]
            self._position, self._free = self._position + count, self._free - count
            view = view[count:]
        self._length = length
        self._store.memory.fence()
        self._words[self._at + words_of.LENGTH] = length
        self._store.report(self._key)
        return True

    def complete(self) -> bool:
        if not self._goes_on:
            return False
        if self._announced not in (None, self._length):
            self.abort()
            return False
        store, free = self._store, self._free
        if free < UNIT and self._extent_at == self._at:
            length, capacity = self._length, self._words[self._capacity_at] - free
            if store.ordinary.complete(self._at, self._key, self._where.word, length, capacity):
                self._end()
                return True
            free = 0
        if free:
            self._words[self._capacity_at] -= free
            store.space.resize(self._extent, self._extent_at, self._extent.length - free)
        self._words[self._at + words_of.SIZE] = self._length + 1
        self._store.memory.fence()
        self._words[self._at + words_of.STATUS] = RecordStatus.COMPLETE
        held = store.holds(store.index.hash(self._key), self._where)
        self._end()
        return held

    def hold(self, key: bytes) -> SharedObject:
        self._store.segments.pin(self._where.segment)
        return SharedObject(self._store, self._at, self._where.segment, key, is_soft_purged=False)

    def abort(self, mark_s: float = 0.0) -> None:
        if self._goes_on:
            self._fail(self._replaced or 0, mark_s)

    def _fail(self, former: int = 0, mark_s: float = 0.0) -> None:
        """`former`: entry of the index that comes back; 0: there is none, or it is outdated by a response that is whole
        but does not fit.
        """
        hash_ = self._store.index.hash(self._key)
        if self._replaced is not None and (not former or not self._store.put_back(hash_, self._where, former)):
            self._store.remove_entry(hash_, self._where)
        # Only now: a worker that is killed in between leaves no failed object that is found, see `recovery.clean_up`.
        self._words[self._at + words_of.STATUS] = RecordStatus.FAILED
        self._end(mark_s)

    def _end(self, mark_s: float = 0.0) -> None:
        self._goes_on = False
        self._store.segments.unpin(self._where.segment)
        self._ended(mark_s)
        self._store.report(self._key)

    # space

    def begin_body(self, lease_key: bytes, old: OpenRecord | None = None) -> NotStored | None:
        """Reserve space for the body, if the object is not in the index yet: all of it, or as much as there is time
        for; each `append` reserves more then. Returns why it cannot be stored; the writer has ended then, its lease has
        not. `lease_key`: of the lease; it is reported as well when the object is found. `old`: the object that this one
        is a copy of, and goes in the place of: at once, or not at all; None: it replaces whatever is there. Without
        time for a copy, `old` is removed and the lease ends.
        """
        store, hash_ = self._store, self._store.index.hash(self._key)
        self._lease_key, self._old, self._removals = lease_key, old, store.removals(hash_)
        former = store.records.open(hash_)
        self._former = 0 if former is None else former.entry
        if former is not None:
            store.segments.unpin(former.segment)
        self._missing = (self._announced or 0) - self._free  # bytes of the body without space
        why_not = self._reserve_more(_RESERVING_S if old is None else _COPYING_S)
        if why_not is None and old is not None and self._replaced is None:
            why_not = NotStored.FULL
            # Each use would try again and take space from others. The next fetch stores it, over several turns.
            if store.remove_entry(hash_, location(old.entry)):
                store.report(self._key)
            self._ended(0.0)
        if why_not is not None:
            self._words[self._at + words_of.STATUS] = RecordStatus.FAILED
            self._goes_on = False
            self._store.segments.unpin(self._where.segment)
        return why_not

    def _reserve_more(self, seconds: float = _RESERVING_S) -> NotStored | None:
        """Reserve space for a body of known length until the object is in the index, or so much time has passed.
        Returns why that cannot be done.
        """
        until = self._store.clock() + seconds
        while self._replaced is None:
            why_not = self._reserve_next()
            if why_not is not None or self._store.clock() >= until:
                return why_not
        return None

    def _reserve_next(self) -> NotStored | None:
        """Reserve one more chunk of a body of known length; with the last one, the object is added to the index.
        Returns why that cannot be done.
        """
        store, words = self._store, self._words
        at = self._reserve_chunk(self._missing)
        if at is None:
            return NotStored.FULL
        self._missing -= words[at + words_of.CHUNK_CAPACITY]
        if self._missing > 0:
            return None
        assert self._announced is not None
        words[self._at + words_of.SIZE] = self._announced + 1
        replaced = self._insert()
        if replaced is None:
            return NotStored.CONTESTED if self._old is None else NotStored.GONE
        self._replaced, self._copied_up_to = replaced, self._most
        if self._lease_key != self._key:
            store.report(self._lease_key)
        store.report(self._key)
        return None

    def _insert(self) -> int | None:
        """Add the object to the index; return the entry that it has replaced, 0: there was none. None: it was removed
        or replaced meanwhile, or others were faster.
        """
        store, words, hash_, old = self._store, self._words, self._store.index.hash(self._key), self._old
        replaced: int | None
        if old is not None:
            is_replaced = store.index.replace(old.position, old.entry, store.index.entry(hash_, self._where))
            replaced = old.entry if is_replaced else None
        else:
            replaced = None if self._is_outdated(hash_) else store.insert(hash_, self._where)
        if replaced is None:
            return None
        # Only now it is found. A removal counts first, and looks then: so one of both sees the other.
        store.memory.fence()
        if old is None and store.was_removed(hash_, self._removals):
            if not replaced or not store.put_back(hash_, self._where, replaced):
                store.remove_entry(hash_, self._where)
            return None
        words[self._at + words_of.STATUS] = RecordStatus.GROWING
        return replaced

    def _is_outdated(self, hash_: KeyHash) -> bool:
        """Whether a later response was stored meanwhile, as after a purge or the end of the lease. The former one is
        not later if it is dated in the future: the wall clock was set back.
        """
        store, words = self._store, self._words
        found = store.records.open(hash_)
        if found is None:
            return False
        date = words[found.at + words_of.DATE]
        store.segments.unpin(found.segment)
        was_set_back = found.entry == self._former and date > int(store.date() * 1e6)
        return date > words[self._at + words_of.DATE] and not was_set_back

    def _grow(self, count: int) -> bool:
        """Go on in the next chunk. That of a body of unknown length is reserved now, unless what follows the present
        bytes is free.
        """
        if self._announced is None:
            wanted = max(count, min(max(self._length, _LEAST_CHUNK), _MOST_CHUNK))
            if self._lengthen(wanted):
                return True
            if self._reserve_chunk(wanted) is None:
                return False
        elif not self._words[self._next_at] and self._reserve_next() is not None:
            return False
        self._begin_next_chunk()
        return True

    def _lengthen(self, wanted: int) -> bool:
        """Make the record or chunk longer. False: something follows it."""
        longer = self._store.space.resize(self._extent, self._extent_at, self._extent.length + wanted)
        if longer.length > self._extent.length:
            self._free = longer.length - self._extent.length
            self._words[self._capacity_at] += self._free
            self._extent = longer
            return True
        return False

    def _reserve_chunk(self, wanted: int) -> int | None:
        """Reserve a chunk of up to this many bytes behind the last one; return its first word. None: there is no space
        for it.
        """
        store, words = self._store, self._words
        wanted = min(wanted, store.segments.size - CHUNK_HEADER)
        least = CHUNK_HEADER + min(wanted, _LEAST_CHUNK)
        for _ in range(2):
            extent = store.space.reserve(self._queue, least, CHUNK_HEADER + wanted)
            if extent is None:
                return None
            if store.segments.add_origin(extent.segment, self._where.segment):
                break
            if not store.space.renew(self._queue, least):
                return None
        else:
            return None
        generation = store.segments.state(extent.segment).generation
        at = store.records.at(extent.segment, extent.offset)
        words[at + words_of.CHUNK_RECORD] = self._where.word
        words[at + words_of.TOTAL] = extent.length
        words[at + words_of.CHUNK_CAPACITY] = extent.length - CHUNK_HEADER
        words[at + words_of.CHUNK_NEXT] = 0
        words[at] = store.records.seal(generation, extent.segment, extent.offset, chunk=True)
        store.space.commit(extent)
        store.memory.fence()
        words[self._last_next_at] = Location(extent.segment, extent.offset, generation).word
        self._last_next_at = at + words_of.CHUNK_NEXT
        return at

    def _begin_next_chunk(self) -> None:
        where = location(self._words[self._next_at])
        at = self._store.records.at(where.segment, where.offset)
        self._extent, self._extent_at = Extent(where.segment, where.offset, self._words[at + words_of.TOTAL]), at
        self._capacity_at, self._next_at = at + words_of.CHUNK_CAPACITY, at + words_of.CHUNK_NEXT
        self._position, self._free = 8 * at + CHUNK_HEADER, self._extent.length - CHUNK_HEADER
