"""Objects of a shared store as one worker holds them: those that it has found, and those that it writes."""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, final

from fastgw.cache.shared._cells import (
    CAPACITY,
    CHUNK_CAPACITY,
    CHUNK_HEADER,
    CHUNK_NEXT,
    COMPLETE,
    DATE,
    FAILED,
    GROWING,
    LENGTH,
    NEXT,
    SIZE,
    STATUS,
    OpenRecord,
)
from fastgw.cache.shared.space import Extent
from fastgw.cache.store import NotStored

if TYPE_CHECKING:
    from fastgw.cache.shared.lifecycle import WrittenRecord
    from fastgw.cache.shared.shared_store import SharedStore

_LEAST_CHUNK: Final = 4096
_MOST_CHUNK: Final = 256 * 1024
"""Bytes of space that a body of unknown length asks for ahead, at most."""
_RESERVING_S: Final = 0.002
"""Time after which no more space is reserved in a turn of the event loop for a body of known length. The last
chunk may take longer by the opening of one segment: up to 5 ms with the smallest objects.
"""


@final
class SharedObject:
    """See `StoredObject`. Its segment is pinned until the release."""

    __slots__ = ("_at", "_begins", "_chunks", "_segment", "_store", "_words", "head", "is_soft_purged", "key")

    def __init__(self, store: "SharedStore", at: int, segment: int, key: bytes, is_soft_purged: bool) -> None:
        """`at`: first word of its record, in a segment that is pinned already."""
        self._store, self._words, self._at, self._segment = store, store.memory.words, at, segment
        self.key, self.is_soft_purged = key, is_soft_purged
        self.head = store.cells.head(at)
        self._begins = 8 * at + store.cells.body_offset(at)
        self._chunks: list[tuple[int, int, int]] = []  # word, first byte in the memory, capacity

    def __repr__(self) -> str:
        state = "complete" if self.is_complete else "failed" if self.has_failed else "growing"
        return f"<SharedObject {self.key.hex()} {state} {self.length} bytes>"

    def __del__(self) -> None:
        self.release()

    @property
    def at(self) -> int:
        """First word of its record; -1: it was released."""
        return self._at

    @property
    def length(self) -> int:
        return 0 if self._at < 0 else self._words[self._at + LENGTH]

    @property
    def size(self) -> int | None:
        size = 0 if self._at < 0 else self._words[self._at + SIZE]
        return size - 1 if size else None

    @property
    def is_complete(self) -> bool:
        return self._at >= 0 and self._words[self._at + STATUS] == COMPLETE

    @property
    def has_failed(self) -> bool:
        return self._at < 0 or self._words[self._at + STATUS] == FAILED

    @property
    def stored_date(self) -> float:
        return 0.0 if self._at < 0 else self._words[self._at + DATE] / 1e6

    def pieces(self, offset: int = 0) -> list[memoryview]:
        if self._at < 0:
            return []
        data, left = self._store.memory.data, self.length
        self._store.memory.fence()
        capacity = min(self._words[self._at + CAPACITY], left)
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
                capacity = self._words[self._chunks[number][0] + CHUNK_CAPACITY]
                self._chunks[number] = (self._chunks[number][0], begins, capacity)
            capacity, number = min(capacity, left), number + 1

    def _next_chunk(self) -> tuple[int, int, int]:
        if self._chunks:
            following = self._words[self._chunks[-1][0] + CHUNK_NEXT]
        else:
            following = self._words[self._at + NEXT]
        at = self._store.cells.word_at(following)
        return at, 8 * at + CHUNK_HEADER, 0

    def release(self) -> None:
        if self._at >= 0:
            self._at = -1
            self._store.cells.unpin(self._segment)


@final
class SharedWriter:
    """See `Writer`. The segment in which its record begins is pinned until the end.

    A body of known length that its record has no space for is added to the index once space for all of it is reserved:
    those that read along are never cut off for want of space. Chunks that were reserved in vain, also by a process that
    has died, are recycled with their segments, which no pin holds any more.
    """

    def __init__(
        self, store: "SharedStore", written: "WrittenRecord", size: int | None, ended: Callable[[float], None]
    ) -> None:
        """`size`: of the body, as announced. `ended`: called at the end (`SharedLease.give_up`)."""
        self._replaced = written.replaced if written.is_found else None
        """Entry of the index that comes back if it is aborted; 0: there is none; None: the object is not in the index
        yet, see `begin_body`.
        """
        self.stored: Callable[[SharedObject], None] | None = None
        """Called with the object, which it has to release, once it is in the store."""
        self._store, self._cells, self._words, self._queue = store, store.cells, store.memory.words, written.queue
        self._location, self._key, self._ended, self._announced = written.location, written.key, ended, size
        self._at = self._extent_at = at = written.at
        self._extent, self._segment = written.extent, written.extent.segment
        self._most = store.most_bytes if size is None else min(size, store.most_bytes)
        self._capacity_at = at + CAPACITY
        self._last_next_at = at + NEXT  # of the last chunk that is reserved
        self._reserved: deque[tuple[Extent, int]] | None = None  # chunks with their first words, not begun yet
        self._position = 8 * at + written.body
        self._free = written.extent.length - written.body
        self._length = 0
        self._goes_on = True

    def __del__(self) -> None:
        self.abort()

    def append(self, data: bytes | bytearray | memoryview) -> bool:
        if not self._goes_on:
            return False
        count = len(data) if type(data) is bytes else memoryview(data).nbytes
        length, taken = self._length + count, 0
        if length > self._most or (self._replaced is None and self._reserve_more() is not None):
            self._fail()
            return False
        while taken < count:
            if not self._free and not self._grow(count - taken):
                self._fail()
                return False
            piece = self._cells.fill(self._position, self._free, data, taken)
            self._position, self._free, taken = self._position + piece, self._free - piece, taken + piece
        self._length = length
        self._cells.grown(self._at, length)
        self._store.report(self._key)
        return True

    def complete(self) -> bool:
        if not self._goes_on:
            return False
        if self._announced not in (None, self._length):
            self.abort()
            return False
        store, free, stored = self._store, self._free, self.stored
        held = None if stored is None else self.hold(self._key)
        if free:
            self._words[self._capacity_at] -= free
            store.space.resize(self._extent, self._extent_at, self._extent.length - free)
        self._cells.completed(self._at, self._length)
        is_stored = store.holds(self._key, self._at)
        self._end()
        if held is not None and not is_stored:
            held.release()
        elif held is not None and stored is not None:
            stored(held)
        return is_stored

    def hold(self, key: bytes) -> SharedObject:
        self._cells.pin(self._segment)
        return SharedObject(self._store, self._at, self._segment, key, is_soft_purged=False)

    def abort(self, mark_s: float = 0.0) -> None:
        if self._goes_on:
            self._fail(self._replaced or 0, mark_s)

    def _fail(self, former: int = 0, mark_s: float = 0.0) -> None:
        """`former`: entry of the index that comes back; 0: there is none, or it is outdated by a response that is whole
        but does not fit.
        """
        store, key = self._store, self._key
        if self._replaced is not None and (not former or not store.put_back(key, self._location, former)):
            store.remove_entry(key, self._cells.entry(key, self._location))
        # Only now: a worker that is killed in between leaves no failed object that is found, see `recovery.clean_up`.
        self._words[self._at + STATUS] = FAILED
        self._end(mark_s)

    def _end(self, mark_s: float = 0.0) -> None:
        self._goes_on = False
        self._cells.unpin(self._segment)
        self._ended(mark_s)
        self._store.report(self._key)

    # space

    def begin_body(self, lease_key: bytes, old: OpenRecord | None = None) -> NotStored | None:
        """Reserve space for the body of an object that is not in the index yet: all of it, or as much as there is time
        for; each `append` reserves more then. Returns why it cannot be stored; the writer has ended then, its lease has
        not. `lease_key`: of the lease; it is reported as well when the object is found. `old`: the record, held by a
        pin of the caller, that this one is a copy of: this one goes in its place now, or not at all, if it was removed
        or replaced meanwhile.
        """
        self._lease_key, self._old, key = lease_key, old, self._key
        former = self._cells.open(key)
        self._former = 0 if former is None else former.entry
        if former is not None:
            self._cells.unpin(former.segment)
        self._missing = (self._announced or 0) - self._free  # bytes of the body without space
        why_not = self._reserve_more(_RESERVING_S if old is None else inf)
        if why_not is not None:
            self._words[self._at + STATUS] = FAILED
            self._goes_on = False
            self._cells.unpin(self._segment)
        return why_not

    def _reserve_more(self, seconds: float = _RESERVING_S) -> NotStored | None:
        """Reserve space for a body of known length until the object is in the index, or so much time has passed.
        Returns why that cannot be done.
        """
        until = self._store.clock() + seconds
        while self._replaced is None:
            why_not = self._reserve_next() if self._missing > 0 else self._insert()
            if why_not is not None or self._store.clock() >= until:
                return why_not
        return None

    def _reserve_next(self) -> NotStored | None:
        """Reserve one more chunk of a body of known length; with the last one, the object is added to the index.
        Returns why that cannot be done.
        """
        at = self._reserve_chunk(self._missing)
        if at is None:
            return NotStored.FULL
        self._missing -= self._words[at + CHUNK_CAPACITY]
        return None if self._missing > 0 else self._insert()

    def _insert(self) -> NotStored | None:
        """Add the object, for which there is space, to the index. Returns why that cannot be done."""
        store, words, old = self._store, self._words, self._old
        assert self._announced is not None
        words[self._at + SIZE] = self._announced + 1
        if old is None:
            replaced = None if self._is_outdated() else store.insert(self._key, self._location)
        else:
            entry = self._cells.entry(self._key, self._location)
            replaced = old.entry if self._cells.replace(old.position, old.entry, entry) else None
        if replaced is None:
            return NotStored.CONTESTED if old is None else NotStored.GONE  # the former also if others were faster
        words[self._at + STATUS] = GROWING  # only now it is found
        self._replaced = replaced
        if self._lease_key != self._key:
            store.report(self._lease_key)
        store.report(self._key)
        return None

    def _is_outdated(self) -> bool:
        """Whether a later response was stored meanwhile, as after a purge or the end of the lease. The former one is
        not later if it is dated in the future: the wall clock was set back.
        """
        words, found = self._words, self._cells.open(self._key)
        if found is None:
            return False
        date = words[found.at + DATE]
        self._cells.unpin(found.segment)
        was_set_back = found.entry == self._former and date > int(self._store.date() * 1e6)
        return date > words[self._at + DATE] and not was_set_back

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
        elif not self._reserved and self._reserve_next() is not None:
            return False
        self._begin_next_chunk()
        return True

    def _lengthen(self, wanted: int) -> bool:
        """Make the record or chunk longer. False: something follows it."""
        extent = self._extent
        before = extent.length
        if not self._store.space.resize(extent, self._extent_at, before + wanted):
            return False
        self._free = extent.length - before
        self._words[self._capacity_at] += self._free
        return True

    def _reserve_chunk(self, wanted: int) -> int | None:
        """Reserve a chunk of up to this many bytes behind the last one; return its first word. None: there is no space
        for it.
        """
        store, cells = self._store, self._cells
        wanted = min(wanted, store.segments.size - CHUNK_HEADER)
        least = CHUNK_HEADER + min(wanted, _LEAST_CHUNK)
        for _ in range(2):
            extent = store.space.reserve(self._queue, least, CHUNK_HEADER + wanted)
            if extent is None:
                return None
            if store.segments.add_origin(extent.segment, self._segment):
                break
            if not store.space.renew(self._queue, least):
                return None
        else:
            return None
        at = cells.write_chunk(self._location, extent.segment, extent.offset, extent.length)
        self._words[self._last_next_at] = cells.location(extent.segment, extent.offset)
        self._last_next_at = at + CHUNK_NEXT
        self._reserved = deque() if self._reserved is None else self._reserved
        self._reserved.append((extent, at))
        return at

    def _begin_next_chunk(self) -> None:
        assert self._reserved is not None
        self._extent, self._extent_at = self._reserved.popleft()
        self._capacity_at = self._extent_at + CHUNK_CAPACITY
        self._position, self._free = 8 * self._extent_at + CHUNK_HEADER, self._extent.length - CHUNK_HEADER
