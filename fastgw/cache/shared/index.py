"""The index of a shared store: a hash table of words, one for each object, changed by compare-and-swap only.

An entry is the location of a record, beside 16 bits of its key's hash. It may be outdated at any time; `Records.open`
decides whether the record is still there and the right one. So an entry whose segment is used for something else does
no harm, and its word may be used for another key.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, final

from fastgw.cache.shared.layout import BUCKET, CLASSES, CacheMemory

_TAG_AT: Final = 48
_GENERATION_AT: Final = 34
_SEGMENT_AT: Final = 18
_OFFSET_AT: Final = 2
_PRESENT: Final = 1
GENERATION_MASK: Final = 0x3FFF
_LOCATION_MASK: Final = (1 << _TAG_AT) - 1


class Location(NamedTuple):
    """Location of a record. `offset`: in `UNIT`; `generation`: its lower 14 bits."""

    segment: int
    offset: int
    generation: int

    @property
    def word(self) -> int:
        return (
            (self.generation & GENERATION_MASK) << _GENERATION_AT
            | self.segment << _SEGMENT_AT
            | self.offset << _OFFSET_AT
            | _PRESENT
        )


def location(word: int) -> Location:
    """Return the location in an entry."""
    return Location(word >> _SEGMENT_AT & 0xFFFF, word >> _OFFSET_AT & 0xFFFF, word >> _GENERATION_AT & GENERATION_MASK)


class KeyHash(NamedTuple):
    """A key as the index, the leases and the watches use it."""

    high: int
    low: int
    hash: int

    @property
    def tag(self) -> int:
        return self.hash >> 48

    @property
    def class_(self) -> int:
        """The class by which its watches and events are counted."""
        return self.hash % CLASSES


@final
class ObjectIndex:
    """The entries. Callers count what they add and remove."""

    def __init__(self, memory: CacheMemory) -> None:
        self._memory = memory
        self._words, self._swap = memory.words, memory.swap
        geometry = memory.geometry
        self._first, self._mask = geometry.entries, geometry.cells // BUCKET - 1
        self._ghosts, self._ghost_mask = geometry.ghosts, geometry.ghost_count - 1

    def hash(self, key: bytes) -> KeyHash:
        """Return the words of a key of 16 bytes."""
        high, low = int.from_bytes(key[:8], sys.byteorder), int.from_bytes(key[8:], sys.byteorder)
        return KeyHash(high, low, self._memory.mix(high, low))

    def candidates(self, key: KeyHash) -> list[tuple[int, int]]:
        """Return the entries that may be of this key: position and entry, in the order of precedence."""
        at = self._first + (key.hash >> 16 & self._mask) * BUCKET
        tag = key.tag
        return [
            (at + number, entry)
            for number, entry in enumerate(self._words[at : at + BUCKET].tolist())
            if entry >> _TAG_AT == tag and entry
        ]

    def entry(self, key: KeyHash, where: Location) -> int:
        """Return the entry for a record of this key."""
        return key.tag << _TAG_AT | where.word

    def replace(self, at: int, seen: int, wanted: int) -> bool:
        """Replace an entry by another, 0 for none. False: it was changed meanwhile."""
        return self._swap(at, seen, wanted)

    def position(self, key: KeyHash, where: int) -> int | None:
        """Return the position of the entry of this key with the location `where` (a word); None: there is none."""
        for at, entry in self.candidates(key):
            if entry & _LOCATION_MASK == where:
                return at
        return None

    def slots(self, key: KeyHash, coldness: Callable[[int], int]) -> Iterator[tuple[int, int]]:
        """Yield positions and entries that a new entry of this key may replace: empty ones, then the coldest.
        `coldness`: of an entry; -1: it is outdated.
        """
        at = self._first + (key.hash >> 16 & self._mask) * BUCKET
        entries = list(enumerate(self._words[at : at + BUCKET].tolist(), at))
        yield from (each for each in entries if not each[1])
        yield from sorted(entries, key=lambda each: coldness(each[1]))

    def all(self) -> Iterator[list[tuple[int, int]]]:
        """Yield all entries with their positions, by bucket."""
        for at in range(self._first, self._first + (self._mask + 1) * BUCKET, BUCKET):
            yield [(at + number, entry) for number, entry in enumerate(self._words[at : at + BUCKET].tolist()) if entry]

    # keys that were evicted lately

    def remember(self, key: KeyHash) -> None:
        """Remember that an object of this key was evicted without having been asked for again."""
        self._words[self._ghosts + (key.hash >> 20 & self._ghost_mask)] = key.hash

    def is_remembered(self, key: KeyHash) -> bool:
        """Whether an object of this key was evicted lately: it is asked for more often than its eviction assumed."""
        return self._words[self._ghosts + (key.hash >> 20 & self._ghost_mask)] == key.hash
