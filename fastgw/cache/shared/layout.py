"""The memory file of a shared cache store: its layout, and how it is created and mapped.

The file is made by the supervisor before the fork, has its final size from then on (it is sealed), and lives as long as
a process has its descriptor: the death of a worker, a reload or an upgrade does not touch it. Memory is allocated on
use, and all parts together take at most what is configured; the texts of purged prefixes come on top.

- The header: layout, secret, and words that all processes change by compare-and-swap.
- A column for control and for each worker, its only writer: pins, watches, numbers.
- The index, ghosts, leases and purges: see the modules of these names.
- The table of segments, and the segments.
"""

import fcntl
import mmap
import os
import weakref
from hashlib import blake2b
from typing import Final, NamedTuple, final

from fastgw.kernel import memory_file
from fastgw.shm.compare_and_swap import Words
from fastgw.shm.node_limits import MemoryFence

VERSION: Final = 4
"""A new number is due for a change of the layout, and of what the same words mean."""
LEAST_MEMORY: Final = 1 << 20
MOST_MEMORY: Final = 1 << 36
MOST_COLUMNS: Final = 254
"""Maximum number of columns: control and workers. Owners are numbered from 1 in eight bits."""
CONTROL: Final = 0
"""ObjectIndex of the column of the control process. A worker's is that in the node's shared memory, plus one."""
UNIT: Final = 64
"""Bytes: records begin at multiples of this."""
CLASSES: Final = 256
"""Number of classes of keys, by which watches and events are counted."""
PREFIXES: Final = 32
"""Number of the most recent purges by prefix whose text is kept."""
TAG_ROWS: Final = 4
"""Rows of words for purges by key and tag."""
PREFIX_BYTES: Final = 8 * 1024
BUCKET: Final = 16
"""Words of the index among which a key is looked for."""
LEASE_BUCKET: Final = 8

JOURNAL_LEFT: Final = 1
"""Value of `DISK_FAILED`: the journal is still valid, without that purge: the next start would undo it."""
JOURNAL_ENDED: Final = 2
"""Value of `DISK_FAILED`: there is no valid journal, so the next start begins with an empty directory."""

_PAGE: Final = mmap.PAGESIZE
_LEAST_SEGMENT: Final = 1 << 16
_MOST_SEGMENT: Final = 1 << 20
# Words of the header; those that are changed often are in cache lines of their own.
_VERSION, _LAYOUT, _SECRET = 0, 1, 4
PURGE_SEQUENCE: Final = 64
"""Number of the last purge."""
PURGE_FLOOR: Final = 65
"""Objects that were last checked before this purge sequence are not valid: a purge since then is no longer known."""
ALL_HARD: Final = 66
ALL_SOFT: Final = 67
"""Purge sequence of the last purge of everything, hard and soft."""
NEXT_PREFIX: Final = 68
LEASE_EPOCH: Final = 69
"""Number of purges other than of a key: leases and marks from before do not count."""
ORDER: Final = 80
"""Number of the last sealing of a segment: the order of the queues."""
COLUMNS: Final = 88
"""Number of columns in use."""
ALL_EVENTS: Final = 96
"""Number of events that concern all keys."""
DISK_FAILED: Final = 104
"""A purge could not be written to the disk tier, which is not used any more; see `JOURNAL_LEFT`."""
DISK_SHARD: Final = 112
"""Number for the turns over the directories of the disk tier."""
DISK_COUNTS: Final = 256
"""Words with the number and the bytes of the files in each directory of the disk tier."""

# Words of a column
INSERTED: Final = 0
REMOVED: Final = 1
"""Entries that this process has added to the index, and removed."""
EVICTED_FOR_CAPACITY: Final = 2
EVICTED_FROM_INDEX: Final = 3
DISK_HITS: Final = 4
"""Objects that were found on disk."""
DISK_WRITTEN: Final = 5
DISK_DROPPED: Final = 6
"""Objects that were not written, as too much was to be written already."""
DISK_ERRORS: Final = 7
"""Accesses to the disk that failed."""
DISK_EVICTED: Final = 8
DISK_DAMAGED: Final = 9
"""Files that were removed because they did not pass their check."""
REDIS_HITS: Final = 10
"""Objects that were found in Redis."""
REDIS_WRITTEN: Final = 11
REDIS_DROPPED: Final = 12
"""Objects that were not written to Redis, or were refused there."""
REDIS_DAMAGED: Final = 13
"""Objects that were removed from Redis because they did not pass their check."""
REDIS_PENDING: Final = 14
"""Purge sequence before the first purge of this process that Redis has not confirmed. 0: it has confirmed all."""
_WATCHES: Final = 64
_EVENTS: Final = _WATCHES + CLASSES
_PINS: Final = _EVENTS + CLASSES


class OtherCacheLayout(Exception):
    """The memory has another layout and cannot be used."""


class Geometry(NamedTuple):
    """Sizes and offsets of all parts, in words, but for `segment` and `data`, which are bytes."""

    segment: int
    segments: int
    column: int
    columns: int
    entries: int
    cells: int
    ghosts: int
    ghost_count: int
    leases: int
    lease_count: int
    tags: int
    tag_width: int
    prefixes: int
    states: int
    used: int
    orders: int
    origins: int
    data: int
    length: int

    @classmethod
    def of(cls, memory: int) -> "Geometry":
        """Return the geometry for this many bytes. Raises `ValueError`."""
        if not LEAST_MEMORY <= memory <= MOST_MEMORY:
            raise ValueError(f"the memory of a cache is between {LEAST_MEMORY} and {MOST_MEMORY} bytes")
        segment = min(max(_power(memory // 128), _LEAST_SEGMENT), _MOST_SEGMENT)
        cells = _power(memory // 512)
        leases = min(max(cells // 4, 1024), 1 << 14)
        tag_width = min(max(cells // 32, 256), 1 << 16)
        most = memory // segment
        column = _pages(_PINS + most)
        tables = cells + cells // 2 + leases + 2 * TAG_ROWS * tag_width + 12 * most
        segments = (memory - 8 * (tables + 8 * column) - 2 * _PAGE) // segment
        parts = {
            "columns": MOST_COLUMNS * column,
            "entries": cells,
            "ghosts": cells // 2,
            "leases": leases,
            "tags": 2 * TAG_ROWS * tag_width,
            "prefixes": PREFIXES * (PREFIX_BYTES // 8 + 8),
            "states": most,
            "used": most,
            "orders": most,
            "origins": 8 * most,
        }
        offsets, at = dict[str, int](), _PAGE // 8
        for name, words in parts.items():
            offsets[name], at = at, at + words
        data = _pages(at) * 8
        return cls(
            segment=segment,
            segments=segments,
            column=column,
            cells=cells,
            ghost_count=cells // 2,
            lease_count=leases,
            tag_width=tag_width,
            data=data,
            length=data + segments * segment,
            **offsets,
        )


@final
class CacheMemory:
    """The mapped memory file of one store. The descriptor is closed with the object; the memory is unmapped with the
    last view.
    """

    def __init__(self, memory: int, fd: int | None = None) -> None:
        """`fd`: descriptor of the memory that another program has created; None: it is made. Raises `OSError` and
        `OtherCacheLayout`.
        """
        self.memory = memory
        self.geometry = geometry = Geometry.of(memory)
        layout = int.from_bytes(blake2b(repr((geometry, memory)).encode(), digest_size=8).digest())
        made = fd is None
        if fd is None:
            fd = memory_file("fastgw-cache", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.fd = fd
        weakref.finalize(self, os.close, fd)
        if made:
            os.ftruncate(fd, geometry.length)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        elif os.fstat(fd).st_size != geometry.length:
            raise OtherCacheLayout("the cache memory has another size")
        self.data = memoryview(mmap.mmap(fd, geometry.length))
        self.words = self.data.cast("Q")
        words = self.words
        if made:
            words[_LAYOUT] = layout
            self.data[8 * _SECRET : 8 * _SECRET + 32] = os.urandom(32)
            words[PURGE_SEQUENCE] = words[PURGE_FLOOR] = 1
            words[_VERSION] = VERSION
        elif (words[_VERSION], words[_LAYOUT]) != (VERSION, layout):
            raise OtherCacheLayout("the cache memory was laid out by another version")
        self.secrets = tuple(each | 1 for each in words[_SECRET : _SECRET + 4].tolist())
        self.swap = Words(self.data).swap
        self.fence = MemoryFence()

    def add(self, at: int, count: int = 1) -> int:
        """Add to a word that several processes change; return the new value."""
        while True:
            value = self.words[at]
            if self.swap(at, value, value + count):
                return value + count

    def raise_to(self, at: int, wanted: int) -> None:
        """Raise a word that several processes change to at least this value."""
        while (value := self.words[at]) < wanted and not self.swap(at, value, wanted):
            pass

    def column(self, index: int) -> int:
        """Return the first word of a column."""
        return self.geometry.columns + index * self.geometry.column

    def use_column(self, index: int) -> int:
        """Return the first word of a column, which is in use from now on."""
        self.raise_to(COLUMNS, index + 1)
        return self.column(index)

    def pins(self, index: int) -> int:
        """Return the word of a column that counts the pins of the first segment; those of the others follow."""
        return self.column(index) + _PINS

    def watches(self, index: int) -> int:
        """Return the word of a column that counts the watches of the first class of keys; the others follow."""
        return self.column(index) + _WATCHES

    def events(self, index: int) -> int:
        """Return the word of a column that counts the events of the first class of keys; the others follow."""
        return self.column(index) + _EVENTS

    def total(self, word: int) -> int:
        """Return the sum of a word over all columns in use."""
        return sum(self.words[self.column(index) + word] for index in range(self.words[COLUMNS]))


def _power(value: int) -> int:
    """Return the largest power of two that is not above the value."""
    return 1 << max(0, value.bit_length() - 1)


def _pages(words: int) -> int:
    """Return the number of words rounded up to whole pages."""
    return -(-words * 8 // _PAGE) * _PAGE // 8
