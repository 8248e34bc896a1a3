"""Records of a shared store: how an object lies in a segment, and how one is opened for reading.

A record is a header of words, its tags and its URL (for purges), the head, and the first part of the body. The rest of
the body, if there is any, follows in chunks. Everything is written before the index points to it; afterwards only words
of the header change, each by itself.

The first word is a keyed hash of where the record is and of the segment's generation: bytes of a body, which a client
may have chosen, are never taken for a record.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple, final

from fastgw.cache.shared.index import GENERATION_MASK, KeyHash, Location, ObjectIndex, location
from fastgw.cache.shared.layout import UNIT, CacheMemory
from fastgw.cache.shared.segments import GENERATION_AT, Segments, SegmentState

HEADER: Final = 128
CHUNK_HEADER: Final = 64
# Words of the header of a record
SEAL: Final = 0
KEY_HIGH: Final = 1
KEY_LOW: Final = 2
TOTAL: Final = 3
"""Length in bytes, with all parts; also of a chunk."""
PARTS: Final = 4
"""Lengths of the tags, the URL and the head: 16, 16 and 32 bits."""
LENGTH: Final = 5
"""Number of readable bytes of the body. Written by one process, after the bytes."""
STATUS: Final = 6
SIZE: Final = 7
"""Announced or final number of bytes of the body, plus 1; 0: not known."""
BEGAN: Final = 8
"""Purge sequence at the lease."""
CHECKED: Final = 9
"""Purge sequence up to which the record is valid, times 2; plus 1 if it was soft-purged."""
DATE: Final = 10
"""Microseconds since 1970."""
HITS: Final = 11
"""How often it was found since it is in its queue, at most 3."""
CAPACITY: Final = 12
"""Number of bytes of the body that this record, or chunk, has space for."""
NEXT: Final = 13
"""Location of the next chunk; 0: there is none."""
OWNER: Final = 14
"""Owner of the process that writes the body."""
FOUND: Final = 15
"""How often it was found since it was stored. Processes count without a lock: a count may be lost."""
# Words of the header of a chunk, in addition to SEAL and TOTAL
CHUNK_RECORD: Final = 1
"""Location of the record."""
CHUNK_CAPACITY: Final = 4
CHUNK_NEXT: Final = 5

MOST_HITS: Final = 3
_READABLE: Final = (SegmentState.OPEN, SegmentState.SEALED)


class RecordStatus(IntEnum):
    """Progress of an object's body."""

    RESERVING = 0
    """Space for a body of known length is not complete yet: requests do not find it."""
    GROWING = 1
    COMPLETE = 2
    FAILED = 3


class RecordParts(NamedTuple):
    """Lengths of the parts of a record before its body, in bytes."""

    tags: int
    url: int
    head: int

    @property
    def word(self) -> int:
        return self.tags << 48 | self.url << 32 | self.head

    @property
    def body(self) -> int:
        """Offset of the body from the start of the record."""
        return HEADER + self.tags + self.url + self.head

    @classmethod
    def read(cls, word: int) -> "RecordParts":
        return cls(word >> 48, word >> 32 & 0xFFFF, word & 0xFFFFFFFF)


def rounded(count: int) -> int:
    """Return a number of bytes rounded up to whole units."""
    return -(-count // UNIT) * UNIT


class OpenRecord(NamedTuple):
    """A record in a segment that is pinned. `at`: the first word of its header."""

    at: int
    segment: int
    position: int
    """Position of its entry in the index."""
    entry: int


class RecordRange(NamedTuple):
    """A record or chunk in a segment, as a walk finds it."""

    at: int
    offset: int
    length: int
    is_chunk: bool


@final
class Records:
    """Access to records. Pins belong to this process."""

    def __init__(self, memory: CacheMemory, index: ObjectIndex, segments: Segments) -> None:
        self._memory, self._words, self._index, self._segments = memory, memory.words, index, segments

    def seal(self, generation: int, segment: int, offset: int, chunk: bool = False) -> int:
        """Return the first word of a record or chunk at this location."""
        return self._memory.mix(generation << 1 | chunk, segment << 32 | offset)

    def at(self, segment: int, offset: int) -> int:
        """Return the first word at a location."""
        return (self._segments.byte(segment) + offset * UNIT) // 8

    def walk(self, segment: int, generation: int) -> Iterator[RecordRange]:
        """Yield what is in a segment that does not change."""
        offset, used = 0, self._segments.used(segment)
        while offset * UNIT < used:
            at = self.at(segment, offset)
            first = self._words[at]
            is_chunk = first == self.seal(generation, segment, offset, True)
            if not is_chunk and first != self.seal(generation, segment, offset):
                return
            count = self._words[at + TOTAL]
            if not 0 < count <= self._segments.size - offset * UNIT or count % UNIT:
                return
            yield RecordRange(at, offset, count, is_chunk)
            offset += count // UNIT

    def is_sound(self, where: Location) -> bool:
        """Whether the location is one that the memory has."""
        return where.segment < self._segments.count and where.offset * UNIT <= self._segments.size - HEADER

    def open(self, key: KeyHash) -> OpenRecord | None:
        """Pin and return the record of a key; None: there is none. `Segments.unpin` ends the pin."""
        for position, entry in self._index.candidates(key):
            if (found := self.open_entry(key, position, entry)) is not None:
                return found
        return None

    def open_entry(self, key: KeyHash, position: int, entry: int) -> OpenRecord | None:
        """Pin and return the record of an entry; None: it is outdated, or of another key."""
        words, where = self._words, location(entry)
        if not self.is_sound(where):
            return None
        self._segments.pin(where.segment)
        if (
            (at := self.verify(where)) is not None
            and words[at + KEY_HIGH] == key.high
            and words[at + KEY_LOW] == key.low
        ):
            return OpenRecord(at, where.segment, position, entry)
        self._segments.unpin(where.segment)
        return None

    def may_be_of(self, key: KeyHash, entry: int) -> bool:
        """Whether an entry has a record of this key, also in a segment that is being recycled: that may be kept, or the
        record moved, and then found. Without a pin: good enough to remove the entry, which does no harm.
        """
        words, where = self._words, location(entry)
        if not self.is_sound(where):
            return False
        generation = words[self._segments.states + where.segment] >> GENERATION_AT
        if generation & GENERATION_MASK != where.generation:
            return True  # if it is moved within its segment, its entry changes last
        at = self.at(where.segment, where.offset)
        return (
            words[at] == self.seal(generation, where.segment, where.offset)
            and words[at + KEY_HIGH] == key.high
            and words[at + KEY_LOW] == key.low
        )

    def open_any(self, position: int, entry: int) -> OpenRecord | None:
        """Pin and return the record of an entry, whatever its key; None: it is outdated."""
        where = location(entry)
        if not self.is_sound(where):
            return None
        self._segments.pin(where.segment)
        if (at := self.verify(where)) is not None:
            return OpenRecord(at, where.segment, position, entry)
        self._segments.unpin(where.segment)
        return None

    def peek(self, entry: int) -> int | None:
        """Return the first word of an entry's record without a pin: what is read there is a hint; None: it is gone."""
        where = location(entry)
        return self.verify(where) if self.is_sound(where) else None

    def verify(self, where: Location, chunk: bool = False) -> int | None:
        """Return the first word of the record or chunk at a location whose segment is pinned; None: it is gone."""
        state = self._words[self._segments.states + where.segment]
        if state & 0xF not in _READABLE:
            return None
        generation = state >> GENERATION_AT
        if generation & GENERATION_MASK != where.generation:
            return None
        at = self.at(where.segment, where.offset)
        if self._words[at] != self.seal(generation, where.segment, where.offset, chunk):
            return None
        return at

    def gathered(self, at: int) -> bytes | None:
        """Return the bytes of all chunks of a record whose chunks are not pinned; None: one is gone."""
        found, following = [], self._words[at + NEXT]
        while following:
            chunk = self.verify(location(following), chunk=True)
            if chunk is None:
                return None
            begins = 8 * chunk + CHUNK_HEADER
            found.append(bytes(self._memory.data[begins : begins + self._words[chunk + CHUNK_CAPACITY]]))
            following = self._words[chunk + CHUNK_NEXT]
        return b"".join(found) if self.chunks_are_there(at) else None

    def chunks_are_there(self, at: int) -> bool:
        """Whether all chunks of a record are there: from then on they are as long as it is pinned."""
        return self.missing_chunk(at) is None

    def missing_chunk(self, at: int) -> Location | None:
        """Return the location of the first chunk of a record that is not there; None: all are."""
        following = self._words[at + NEXT]
        while following:
            where = location(following)
            chunk = self.verify(where, chunk=True)
            if chunk is None:
                return where
            following = self._words[chunk + CHUNK_NEXT]
        return None

    def is_overwritten(self, where: Location) -> bool:
        """Whether what is missing was recycled for good. A process that looks for space may just have its segment in
        hand, and leave it as it was.
        """
        return self._segments.state(where.segment).generation & GENERATION_MASK != where.generation

    def key(self, at: int) -> KeyHash:
        """Return the key of a record."""
        high, low = self._words[at + KEY_HIGH], self._words[at + KEY_LOW]
        return KeyHash(high, low, self._memory.mix(high, low))

    def parts(self, at: int) -> RecordParts:
        return RecordParts.read(self._words[at + PARTS])

    def tags(self, at: int) -> list[int]:
        """Return the hashes of the tags."""
        first = at + HEADER // 8
        return self._words[first : first + self.parts(at).tags // 8].tolist()

    def url(self, at: int) -> bytes:
        parts = self.parts(at)
        begins = 8 * at + HEADER + parts.tags
        return bytes(self._memory.data[begins : begins + parts.url])

    def head(self, at: int) -> bytes:
        parts = self.parts(at)
        begins = 8 * at + HEADER + parts.tags + parts.url
        return bytes(self._memory.data[begins : begins + parts.head])
