"""Space for records: each process appends to segments of its own, and recycles the oldest ones when none is free.

Eviction is S3-FIFO by bytes (Yang et al., SOSP 2023), on whole segments as in Segcache (Yang et al., NSDI 2021). New
objects go to the small queue, a tenth of the memory; what was found there meanwhile moves to the main queue when its
segment is recycled, and stays in it as long as it is found between two passes. A key that was evicted lately goes to
the main queue at once.

A recycled segment is emptied in this order: its state, its entries in the index, its words. A process that dies in
between leaves entries without a record, which are the same as none.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

import cython

from fastgw.cache.shared._cells import TOTAL, Cells
from fastgw.cache.shared.layout import ORDER, UNIT, CacheMemory
from fastgw.cache.shared.segments import Queue, Segments, SegmentState, StateWord, state_of

_TRIES: Final = 4
"""Segments that are looked at before everything in one is evicted."""
_MOST_PINNED: Final = 128
"""Pinned segments that are passed over before all are taken for pinned."""
_NONE: Final = -1
Survivor: TypeAlias = tuple[int, int, bytes]
"""Entry of an object that is kept, its hits, and its record with its body."""


@cython.cclass
class Extent:
    """Reserved space in an open segment. `offset`: in `UNIT`; `length`: in bytes."""

    segment: cython.longlong
    offset: cython.longlong
    length: cython.longlong


@cython.cclass
class Space:
    """The segments that a process has open."""

    def __init__(self, memory: CacheMemory, segments: Segments, cells: Cells) -> None:
        self._memory, self._words, self._segments, self._cells = memory, memory.words, segments, cells
        self._size = segments.size
        self._small = self._main = _NONE

    def opened(self, queue: cython.int) -> cython.longlong:
        """Return the open segment of a queue; -1: there is none."""
        return self._main if queue else self._small

    def _set_opened(self, queue: cython.int, segment: cython.longlong) -> None:
        if queue:
            self._main = segment
        else:
            self._small = segment

    def reserve(self, queue: cython.int, least: cython.longlong, wanted: cython.longlong) -> Extent | None:
        """Return space for `wanted` bytes, or for fewer, but at least for `least`; None: there is none. It is to be
        written (`Cells`) before anything else is reserved. `queue`: of `Queue`.
        """
        size: cython.longlong = self._size
        least, wanted = rounded(least), rounded(wanted)
        if wanted <= size // 8:
            least = wanted  # not worth being divided
        segment: cython.longlong = self.opened(queue)
        if segment < 0 or size - self._cells.used(segment) < least:
            if least > size or not self._open_next(queue, least):
                return None
            segment = self.opened(queue)
        used: cython.longlong = self._cells.used(segment)
        extent = Extent()
        extent.segment, extent.offset, extent.length = segment, used // UNIT, min(wanted, size - used)
        return extent

    def resize(self, extent: Extent, at: cython.longlong, count: cython.longlong) -> bool:
        """Make the last record of an open segment longer or shorter. False: it is as long as before. `at`: the first
        word of its header.
        """
        cells = self._cells
        segment: cython.longlong = extent.segment
        begins: cython.longlong = extent.offset * UNIT
        if segment not in (self._small, self._main) or cells.used(segment) != begins + extent.length:
            return False
        count = min(rounded(count), self._size - begins)
        if count == extent.length:
            return False
        # What is used never ends behind the last record, or a walk would find bytes instead of a header.
        if count > extent.length:
            self._words[at + TOTAL] = count
            cells.set_used(segment, begins + count)
        else:
            cells.set_used(segment, begins + count)
            self._words[at + TOTAL] = count
        extent.length = count
        return True

    def renew(self, queue: int, least: int) -> bool:
        """Open another segment for a queue. False: there is none."""
        return self._open_next(queue, rounded(least))

    # --- segments ---

    def _open_next(self, queue: int, least: int) -> bool:
        before = self.opened(queue)
        if before >= 0:
            self._set_opened(queue, _NONE)
            self._segments.seal(before)
        for attempt in range(_TRIES):
            for segment, state in self._free_segments():
                if self._segments.open_segment(segment, state, Queue(queue)):
                    self._set_opened(queue, segment)
                    return True
            if not self._recycle(forced=attempt == _TRIES - 2):
                return False
            if self.opened(queue) >= 0:  # opened for what has moved
                return bool(self._size - self._cells.used(self.opened(queue)) >= least)
        return False

    def _recycle(self, *, forced: bool) -> bool:
        """Recycle one segment, or give it another turn. False: all are in use. `forced`: evict everything in it."""
        segments = self._segments
        until = self._words[ORDER]
        for _ in range(_MOST_PINNED):
            # PERF: 20 us with 124 segments (64 MiB), 111 us with 63,985 (64 GiB); in Python 65 us and 26 ms (CPython
            # 3.11).
            found = self._cells.oldest(until)
            if found is None:
                return False
            segment, state = found[0], state_of(found[1])
            recycling = StateWord(state.generation, segments.owner, state.queue, SegmentState.RECYCLING)
            if not segments.change(segment, state, recycling):
                continue
            if segments.is_pinned(segment):
                segments.seal(segment)  # as the youngest: others are found next, however long it is read
                continue
            is_main = state.queue is Queue.MAIN
            # PERF: 0.3 ms for a segment of 1 MiB with 1,300 objects, 25 in Python; to move a third of them takes 0.4 ms
            # more (CPython 3.11).
            survivors = [] if forced else self._cells.survivors(segment, state.generation, is_main)
            if survivors is None:
                self._retain_segment(segment, state)
            else:
                self._empty(segment, recycling, survivors)
            return True
        return False

    def _free_segments(self) -> Iterator[tuple[int, StateWord]]:
        segment = -1
        while (segment := self._cells.next_free(segment + 1)) >= 0:
            state = self._segments.state(segment)
            if state.state is SegmentState.FREE:  # it may have been opened meanwhile
                yield segment, state

    def _retain_segment(self, segment: int, state: StateWord) -> None:
        self._cells.retain(segment, state.generation, state.queue is Queue.MAIN)
        self._segments.seal(segment, Queue.MAIN)

    def _empty(self, segment: int, state: StateWord, survivors: list[Survivor]) -> None:
        """Evict all but the survivors, which move to the main queue."""
        segments, main = self._segments, self._main
        needed = sum([rounded(len(image)) for _, _, image in survivors])
        if not survivors or (main >= 0 and self._size - self._cells.used(main) >= needed):
            self._move(survivors)
            self._evict(segment, state)
            self._cells.set_used(segment, 0)
            segments.change(segment, state, StateWord(state.generation + 1, 0, Queue.SMALL, SegmentState.FREE))
            return
        # They move within the segment, which is the open one of the main queue then.
        self._evict(segment, state, frozenset([entry for entry, _, _ in survivors]))
        if main >= 0:
            segments.seal(main)
        if segments.open_segment(segment, state, Queue.MAIN):
            self._main = segment
            self._move(survivors)

    def _move(self, survivors: list[Survivor]) -> None:
        """Copy records to the open segment of the main queue; the index points to the copies then."""
        for entry, hits, image in survivors:
            extent = self.reserve(Queue.MAIN, len(image), len(image))
            if extent is not None:
                self._cells.move(image, entry, hits, extent.segment, extent.offset, extent.length)

    def _evict(self, segment: int, state: StateWord, kept: frozenset[int] = frozenset()) -> None:
        """Remove the entries of a segment from the index, but for those that are kept."""
        # PERF: 1 us for each object in a flood of different ones, 13 in Python (CPython 3.11).
        self._cells.evict(segment, state.generation, state.queue is Queue.SMALL, kept)


def rounded(count: cython.longlong) -> cython.longlong:
    """Return a number of bytes rounded up to whole units."""
    return (count + UNIT - 1) // UNIT * UNIT
