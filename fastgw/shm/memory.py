"""Shared memory of a node: a column of 64-bit words for each process that writes, in a memory file.

Rule 1: a word has one writer, the process whose column it is in; all processes read. There are no locks, so a killed
process cannot keep one. (The supervisor clears the gauges in the column of a dead worker.) Rule 2: words are written
through `memoryview.cast("Q")`, which is one store. `struct.pack_into` writes byte by byte, so readers would see torn
values.
Rule 3: a value for the node is the sum over the columns (`SharedMemory.total`).
Rule 4: unused memory costs nothing. The file is sparse, and the layout has room for the largest node; but the first
read of a page allocates it like a write, so nothing may scan a whole column.

The file begins with a header, then the tables of limits by key (`cells`, `quotas`), then the columns, the supervisor's
first. Columns are page-aligned, so no cache line has two writers; in a column counters precede gauges. The file lives
as long as a process has its descriptor: after an upgrade, a new program with the same layout continues to use it.
"""

import mmap
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, final

from fastgw.kernel import memory_file
from fastgw.shm import quota_table, rate_limit_table
from fastgw.shm.held_body_budget import MOST_BYTES, HeldBodyBudget
from fastgw.shm.node_limits import UNLIMITED, AddressLimit, KeyCounts, MemoryFence, NodeLimit, Sketch, width_for

VERSION: Final = 5
FIRST_GAUGE: Final = 1 << 20
"""Index of the first gauge of a column; 8 MiB of counters precede it."""
LIMIT_CELLS: Final = 1 << 21
"""Cells of the rate limit table: enough for a million active keys, each with its own cell, at a load factor of one
half.

Only touched memory is allocated: 16 bytes per key, at most 32 MiB, for all limits except sliding windows; each key of a
sliding window takes 64 bytes more, in total at most 160 MiB.
"""
SKETCHED: Final = 65_536
"""Minimum number of connections that the sketch of client addresses is sized for."""
_WORD: Final = 8
_PAGE: Final = mmap.PAGESIZE
_MAGIC, _FINGERPRINT, _COLUMNS, _STRIDE, _WIDTH, _SECRET = range(6)  # words of the header; the secret takes four
_SECRET_BYTES: Final = 32
CELLS_AT: Final = _PAGE
"""Offset of the rate limit cells in the file."""
_QUOTAS_AT: Final = -(-(CELLS_AT + rate_limit_table.size(LIMIT_CELLS)) // _PAGE) * _PAGE
_FRONT: Final = _QUOTAS_AT + quota_table.size()


class OtherLayout(Exception):
    """The memory has the layout of another version and cannot be used."""


@dataclass(frozen=True, slots=True)
class Span:
    """Words of one name, at the same position in every column."""

    first: int
    count: int
    gauge: bool
    """True: a current value, cleared when its worker dies. False: a counter, which a replacement worker continues."""


class Layout:
    """Layout of a column: assigns words by name; equal names share a word."""

    def __init__(self) -> None:
        self._spans: dict[str, Span] = {}
        self._ends = {False: 0, True: FIRST_GAUGE}
        self.connections = SKETCHED
        """Number of connections that the sketch of client addresses is sized for; the largest number requested."""

    @property
    def spans(self) -> Mapping[str, Span]:
        return MappingProxyType(self._spans)

    @property
    def end(self) -> int:
        """Index after the last gauge."""
        return self._ends[True]

    @property
    def fingerprint(self) -> int:
        """Fingerprint, equal for equal layouts."""
        lines = "".join(f"{name} {span}\n" for name, span in self._spans.items())
        return int.from_bytes(blake2b(lines.encode(), digest_size=8).digest())

    def counter(self, name: str, count: int = 1) -> int:
        """Return the first of `count` words that only grow. They are kept when their worker dies."""
        return self._span(name, count, gauge=False)

    def gauge(self, name: str, count: int = 1) -> int:
        """Return the first of `count` words that rise and fall. They are cleared when their worker dies."""
        return self._span(name, count, gauge=True)

    def _span(self, name: str, count: int, gauge: bool) -> int:
        span = self._spans.get(name)
        if span is None:
            span = self._spans[name] = Span(self._ends[gauge], count, gauge)
            self._ends[gauge] += count
            if self._ends[False] > FIRST_GAUGE:
                raise ValueError("the counters reach into the gauges")
        elif (span.count, span.gauge) != (count, gauge):
            raise ValueError(f"shared word {name!r} is asked for again in another form")
        return span.first


class SharedMemory:
    """The mapped memory. The descriptor is closed with the object; the memory is unmapped with the last view."""

    def __init__(self, layout: Layout, columns: int, fd: int | None = None) -> None:
        """`columns`: number of workers. `fd`: descriptor of existing memory, see `attach`."""
        self.layout = layout
        if fd is None:
            width = width_for(layout.connections)
            stride = -(-(layout.end + 2 * Sketch(0, width).words) * _WORD // _PAGE) * _PAGE
            fd = memory_file("fastgw")
            head = (VERSION, layout.fingerprint, 0, stride // _WORD, width)
            # A random secret per run: clients cannot choose addresses that share cells of the sketch.
            os.write(fd, b"".join(word.to_bytes(_WORD, sys.byteorder) for word in head) + os.urandom(_SECRET_BYTES))
        self.fd = fd
        weakref.finalize(self, os.close, fd)
        if os.fstat(fd).st_size < _FRONT:
            os.ftruncate(fd, _FRONT)
        front = memoryview(mmap.mmap(fd, _FRONT))
        self._header = front[:CELLS_AT].cast("Q")
        if self._header[_MAGIC] != VERSION or self._header[_FINGERPRINT] != layout.fingerprint:
            raise OtherLayout("the shared memory was laid out by another version")
        try:
            self.cells = rate_limit_table.Cells(
                front[CELLS_AT : CELLS_AT + rate_limit_table.size(LIMIT_CELLS)], fd, CELLS_AT
            )
            self.quotas = quota_table.QuotaTable(front[_QUOTAS_AT:_FRONT], fd, _QUOTAS_AT)
        except ValueError as error:
            raise OtherLayout(str(error)) from error
        self._stride = self._header[_STRIDE] * _WORD
        self.sketch = Sketch(layout.end, self._header[_WIDTH])
        """Sketch of connections by address. It is followed by one of the same size for requests by key."""
        self._secret = bytes(front[_SECRET * _WORD : _SECRET * _WORD + _SECRET_BYTES])
        self._maps: list[tuple[mmap.mmap, int]] = []
        self._views: list[memoryview] = []  # grows in place, because limits sum over it
        self._all: list[Column] = []
        self.widen(max(columns, self._header[_COLUMNS]))

    @classmethod
    def create(cls, layout: Layout, columns: int) -> "SharedMemory":
        """Create memory for this many workers. Raises `OSError`, `OverflowError` or `MemoryError`."""
        return cls(layout, columns)

    @classmethod
    def attach(cls, fd: int, layout: Layout) -> "SharedMemory":
        """Map the memory that another program has created. Raises `OtherLayout`."""
        return cls(layout, 0, fd)

    def widen(self, count: int) -> None:
        """Add columns for this many workers, here and in existing limits.

        First in the supervisor, then in each running process; only then may a process use a new column, because a limit
        does not count columns that it does not know.
        """
        missing = count + 1 - len(self._all)
        if missing <= 0:
            return
        start = _FRONT + len(self._all) * self._stride
        length = missing * self._stride
        if os.fstat(self.fd).st_size < start + length:
            os.ftruncate(self.fd, start + length)
        mapped = mmap.mmap(self.fd, length, offset=start)
        memory = memoryview(mapped)
        for at in range(0, length, self._stride):
            own = memory[at : at + self._stride].cast("Q")
            self._maps.append((mapped, at))
            self._views.append(own)
            self._all.append(Column(own, self._views, self.sketch, self._secret))
        self._header[_COLUMNS] = max(count, self._header[_COLUMNS])

    @property
    def columns(self) -> "list[Column]":
        """Columns of the workers."""
        return self._all[1:]

    @property
    def identity(self) -> bytes:
        """Identity of this memory, which an upgrade keeps with it."""
        return blake2b(self._secret, digest_size=16, person=b"identity").digest()

    @property
    def supervisor(self) -> "Column":
        return self._all[0]

    @property
    def views(self) -> Sequence[memoryview]:
        """The words of all columns."""
        return self._views

    def total(self, word: int) -> int:
        """Return the word's sum over all columns."""
        return sum(view[word] for view in self._views)

    def clear_gauges(self, index: int) -> None:
        """Clear the gauges of a dead worker. Only after the process was reaped, when its words have no writer.

        The pages are returned to the system and read as zeros; unused pages are not touched.
        """
        mapped, at = self._maps[index + 1]
        start = FIRST_GAUGE * _WORD
        mapped.madvise(mmap.MADV_REMOVE, at + start, self._stride - start)


@final
class Column:
    """Column of one process, its only writer, with a view of all columns for limits."""

    __slots__ = ("_fence", "_secret", "_sketch", "_views", "words")

    def __init__(self, own: memoryview, views: list[memoryview], sketch: Sketch, secret: bytes) -> None:
        self.words: memoryview = own
        self._views = views
        self._sketch = sketch
        self._secret = secret
        self._fence = MemoryFence()

    @property
    def views(self) -> Sequence[memoryview]:
        """The words of all columns, the supervisor's first. The list grows when columns are added."""
        return self._views

    def fence(self) -> None:
        """Order earlier stores to this column before later loads, for all processes."""
        self._fence()

    def limit(self, word: int, most: int | None, counter: int | None = None) -> NodeLimit:
        """Return a limit of `most` (None: none) shared by all workers; `word`: a gauge of the layout.

        `counter`: a counter of the layout for the total number of permits that this worker has taken.
        """
        return NodeLimit(word, UNLIMITED if most is None else most, self.words, self._views, self._fence, counter)

    def address_limit(self, most: int, kind: bytes = b"", few: int = 0) -> AddressLimit:
        """Return a limit of `most` per client address, shared by all workers. `kind`, `few`: as of `AddressLimit`."""
        return AddressLimit(self._counts(self._sketch), most, kind, few)

    def held_body_budget(self, word: int, most: int = MOST_BYTES) -> HeldBodyBudget:
        """Return the memory budget for kept request bodies: `most` bytes for all workers; `word`: a gauge of the
        layout.
        """
        return HeldBodyBudget(word, self.words, self._views, self._fence, most, self._counts(self._sketch))

    def in_flight(self) -> KeyCounts:
        """Return the counts of requests in flight, by keys that filters choose."""
        first, width = self._sketch
        return self._counts(Sketch(first + self._sketch.words, width))

    def _counts(self, sketch: Sketch) -> KeyCounts:
        return KeyCounts(sketch, self.words, self._views, self._fence, self._secret)
