"""Objects of a shared store as one worker holds them: those that it has found, and those that it writes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, final

from fastgw.cache.shared import records as words_of
from fastgw.cache.shared.index import KeyHash, Location, ObjectIndex, location
from fastgw.cache.shared.layout import UNIT, CacheMemory
from fastgw.cache.shared.records import CHUNK_HEADER, Records, RecordStatus
from fastgw.cache.shared.segments import Queue, Segments
from fastgw.cache.shared.space import Extent, Space

if TYPE_CHECKING:
    from fastgw.cache.shared._ordinary import Ordinary

_LEAST_CHUNK: Final = 4096
_MOST_CHUNK: Final = 256 * 1024
"""Bytes of space that a body of unknown length asks for ahead, at most."""


class StoreParts(Protocol):
    """The parts of a store that objects need."""

    memory: CacheMemory
    segments: Segments
    records: Records
    space: Space
    most_bytes: int
    index: ObjectIndex
    ordinary: "Ordinary | None"

    def report(self, key: bytes) -> None:
        """Report a change of a key to all that watch it."""

    def remove_entry(self, hash_: KeyHash, where: Location) -> bool:
        """Remove an object from the index; False: it was not in it any more."""

    def holds(self, hash_: KeyHash, where: Location) -> bool:
        """Whether requests find this object."""


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
    """See `Writer`. The segment in which its record begins is pinned until the end."""

    def __init__(
        self,
        store: StoreParts,
        queue: Queue,
        extent: Extent,
        where: Location,
        key: bytes,
        body: int,
        size: int | None,
        ended: Callable[[], None],
    ) -> None:
        """`extent`: of the record. `body`: offset of the body from its start. `size`: of the body, as announced.
        `ended`: called at the end.
        """
        self._store, self._words, self._queue = store, store.memory.words, queue
        self._where, self._key, self._ended, self._announced = where, key, ended, size
        self._at = store.records.at(where.segment, where.offset)
        self._extent, self._extent_at = extent, self._at
        self._most = store.most_bytes if size is None else min(size, store.most_bytes)
        self._capacity_at, self._next_at = self._at + words_of.CAPACITY, self._at + words_of.NEXT
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
            and store.ordinary is not None
            and length <= self._most
            and store.ordinary.append(self._at, self._position, self._free, data, length)
        ):
            self._position, self._free, self._length = self._position + count, self._free - count, length
            store.report(self._key)
            return True
        view = memoryview(data).cast("B")
        length = self._length + len(view)
        if length > self._most:
            self.abort()
            return False
        while view:
            if not self._free and not self._grow(len(view)):
                self.abort()
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
        if store.ordinary is not None and free < UNIT and self._extent_at == self._at:
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
        """Return the object, pinned like one that was found. It does not count as one."""
        self._store.segments.pin(self._where.segment)
        return SharedObject(self._store, self._at, self._where.segment, key, is_soft_purged=False)

    def abort(self) -> None:
        if self._goes_on:
            self._words[self._at + words_of.STATUS] = RecordStatus.FAILED
            self._store.remove_entry(self._store.index.hash(self._key), self._where)
            self._end()

    def _end(self) -> None:
        self._goes_on = False
        self._store.segments.unpin(self._where.segment)
        self._ended()
        self._store.report(self._key)

    def _grow(self, count: int) -> bool:
        """Get space for more bytes, behind the present ones if nothing else is there."""
        ahead = min(max(self._length, _LEAST_CHUNK), _MOST_CHUNK)
        wanted = max(count, ahead) if self._announced is None else self._announced - self._length
        wanted = min(wanted, self._store.segments.size)
        longer = self._store.space.resize(self._extent, self._extent_at, self._extent.length + wanted)
        if longer.length > self._extent.length:
            self._free = longer.length - self._extent.length
            self._words[self._capacity_at] += self._free
            self._extent = longer
            return True
        return self._begin_chunk(wanted)

    def _begin_chunk(self, wanted: int) -> bool:
        store, words = self._store, self._words
        wanted = min(wanted, store.segments.size - CHUNK_HEADER)
        least = CHUNK_HEADER + min(wanted, _LEAST_CHUNK)
        for _ in range(2):
            extent = store.space.reserve(self._queue, least, CHUNK_HEADER + wanted)
            if extent is None:
                return False
            if store.segments.add_origin(extent.segment, self._where.segment):
                break
            if not store.space.renew(self._queue, least):
                return False
        else:
            return False
        generation = store.segments.state(extent.segment).generation
        at = store.records.at(extent.segment, extent.offset)
        words[at + words_of.CHUNK_RECORD] = self._where.word
        words[at + words_of.TOTAL] = extent.length
        words[at + words_of.CHUNK_CAPACITY] = extent.length - CHUNK_HEADER
        words[at + words_of.CHUNK_NEXT] = 0
        words[at] = store.records.seal(generation, extent.segment, extent.offset, chunk=True)
        store.space.commit(extent)
        store.memory.fence()
        words[self._next_at] = Location(extent.segment, extent.offset, generation).word
        self._extent, self._extent_at = extent, at
        self._capacity_at, self._next_at = at + words_of.CHUNK_CAPACITY, at + words_of.CHUNK_NEXT
        self._position, self._free = 8 * at + CHUNK_HEADER, extent.length - CHUNK_HEADER
        return True
