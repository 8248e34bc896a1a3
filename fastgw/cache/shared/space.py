"""Space for records: each process appends to segments of its own, and recycles the oldest ones when none is free.

Eviction is S3-FIFO by bytes (Yang et al., SOSP 2023), on whole segments as in Segcache (Yang et al., NSDI 2021). New
objects go to the small queue, a tenth of the memory; what was found there meanwhile moves to the main queue when its
segment is recycled, and stays in it as long as it is found between two passes. A key that was evicted lately goes to
the main queue at once.

A recycled segment is emptied in this order: its state, its entries in the index, its words. A process that dies in
between leaves entries without a record, which are the same as none.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, final

from fastgw.cache.shared import records as words_of
from fastgw.cache.shared.index import Location, ObjectIndex
from fastgw.cache.shared.layout import UNIT, CacheMemory
from fastgw.cache.shared.records import Records, rounded
from fastgw.cache.shared.segments import Queue, Segments, SegmentState, StateWord, state_of

if TYPE_CHECKING:
    from fastgw.cache.shared._ordinary import Ordinary

_TRIES: Final = 4
"""Segments that are looked at before everything in one is evicted."""
_SEARCHED: Final = 16
"""Segments of each queue that a search yields."""
_MOST_PINNED: Final = 128
"""Pinned segments that are passed over before all are taken for pinned."""


class Extent(NamedTuple):
    """Reserved space in an open segment. `offset`: in `UNIT`; `length`: in bytes."""

    segment: int
    offset: int
    length: int


class _Survivor(NamedTuple):
    entry: int
    image: memoryview | bytes
    hits: int


@final
class Space:
    """The segments that a process has open."""

    __slots__ = ("_index", "_memory", "_ordinary", "_records", "_segments", "_words", "opened")

    def __init__(
        self,
        memory: CacheMemory,
        index: ObjectIndex,
        segments: Segments,
        records: Records,
        ordinary: "Ordinary",
    ) -> None:
        self._ordinary = ordinary
        self._memory, self._words = memory, memory.words
        self._index, self._segments, self._records = index, segments, records
        self.opened: dict[Queue, int] = {}
        """The open segment of each queue, if there is one."""

    def reserve(self, queue: Queue, least: int, wanted: int) -> Extent | None:
        """Return space for `wanted` bytes, or for fewer, but at least for `least`; None: there is none. It is to be
        committed before anything else is reserved.
        """
        least, wanted = rounded(least), rounded(wanted)
        if wanted <= self._segments.size // 8:
            least = wanted  # not worth being divided
        segment = self.opened.get(queue)
        if segment is None or self._segments.size - self._segments.used(segment) < least:
            if least > self._segments.size or not self._open_next(queue, least):
                return None
            segment = self.opened[queue]
        used = self._segments.used(segment)
        return Extent(segment, used // UNIT, min(wanted, self._segments.size - used))

    def commit(self, extent: Extent) -> None:
        """Make reserved space used: its header is written."""
        self._segments.set_used(extent.segment, extent.offset * UNIT + extent.length)

    def resize(self, extent: Extent, at: int, count: int) -> Extent:
        """Make the last record of an open segment longer or shorter; return its extent, unchanged if it is not the
        last one. `at`: the first word of its header.
        """
        segment, ends = extent.segment, extent.offset * UNIT + extent.length
        if segment not in self.opened.values() or self._segments.used(segment) != ends:
            return extent
        count = min(rounded(count), self._segments.size - extent.offset * UNIT)
        changed = extent._replace(length=count)
        # What is used never ends behind the last record, or a walk would find bytes instead of a header.
        if count > extent.length:
            self._words[at + words_of.TOTAL] = count
            self.commit(changed)
        else:
            self.commit(changed)
            self._words[at + words_of.TOTAL] = count
        return changed

    def renew(self, queue: Queue, least: int) -> bool:
        """Open another segment for a queue. False: there is none."""
        return self._open_next(queue, rounded(least))

    # --- segments ---

    def _open_next(self, queue: Queue, least: int) -> bool:
        before = self.opened.pop(queue, None)
        if before is not None:
            self._segments.seal(before)
        for attempt in range(_TRIES):
            for segment, state in self._free_segments():
                if self._segments.open_segment(segment, state, queue):
                    self.opened[queue] = segment
                    return True
            if not self._recycle(forced=attempt == _TRIES - 2):
                return False
            if queue in self.opened:  # opened for what has moved
                return self._segments.size - self._segments.used(self.opened[queue]) >= least
        return False

    def _recycle(self, *, forced: bool) -> bool:
        """Recycle one segment, or give it another turn. False: all are in use. `forced`: evict everything in it."""
        segments = self._segments
        for segment, state in self._recyclable_segments():
            recycling = StateWord(state.generation, segments.owner, state.queue, SegmentState.RECYCLING)
            if not segments.change(segment, state, recycling):
                continue
            if segments.is_pinned(segment):
                segments.seal(segment)  # as the youngest: the next searches find others, however long it is read
                continue
            survivors = [] if forced or self._is_cold(segment, state) else self._survivors(segment, state)
            if survivors is None:
                self._retain_segment(segment, state)
            else:
                self._empty(segment, recycling, survivors)
            return True
        return False

    def _free_segments(self) -> Iterator[tuple[int, StateWord]]:
        segment = -1
        while (segment := self._ordinary.next_free(segment + 1)) >= 0:
            state = self._segments.state(segment)
            if state.state is SegmentState.FREE:  # it may have been opened meanwhile
                yield segment, state

    def _recyclable_segments(self) -> Iterator[tuple[int, StateWord]]:
        """Yield sealed segments, each of them once. Pinned ones are the youngest afterwards, so another search finds
        those behind them.
        """
        seen: set[int] = set()
        while len(seen) < _MOST_PINNED:
            found = [each for each in self._sealed_segments() if each[0] not in seen]
            if not found:
                return
            for each in found:
                seen.add(each[0])
                yield each

    def _sealed_segments(self) -> Iterator[tuple[int, StateWord]]:
        # PERF: 20 us with 124 segments (64 MiB), 111 us with 63,985 (64 GiB); in Python 65 us and 26 ms (CPython 3.11).
        return ((segment, state_of(word)) for segment, word in self._ordinary.sealed(_SEARCHED))

    def _is_cold(self, segment: int, state: StateWord) -> bool:
        """Whether a segment has no survivors; False also if that is not known."""
        return self._ordinary.is_cold(segment, state.generation)

    def _retain_segment(self, segment: int, state: StateWord) -> None:
        self._ordinary.retain(segment, state.generation, state.queue is Queue.MAIN)
        self._segments.seal(segment, Queue.MAIN)

    def _empty(self, segment: int, state: StateWord, survivors: list[_Survivor]) -> None:
        """Evict all but the survivors, which move to the main queue."""
        segments = self._segments
        main = self.opened.get(Queue.MAIN)
        needed = sum(rounded(len(each.image)) for each in survivors)
        fits = main is not None and segments.size - segments.used(main) >= needed
        if fits or not survivors:
            for each in survivors:
                self._move(each)
            self._evict(segment, state)
            self._give_free(segment, state)
            return
        # They move within the segment, which is the open one of the main queue then.
        copies = [each._replace(image=bytes(each.image)) for each in survivors]
        self._evict(segment, state, frozenset(each.entry for each in copies))
        if main is not None:
            segments.seal(main)
        if segments.open_segment(segment, state, Queue.MAIN):
            self.opened[Queue.MAIN] = segment
            for each in copies:
                self._move(each)

    def _give_free(self, segment: int, state: StateWord) -> None:
        self._segments.set_used(segment, 0)
        self._segments.change(segment, state, StateWord(state.generation + 1, 0, Queue.SMALL, SegmentState.FREE))

    def _survivors(self, segment: int, state: StateWord) -> list[_Survivor] | None:
        """Return the objects to keep; None: more than half of the segment belongs to such objects."""
        survivors: list[_Survivor] = []
        # PERF: 0.3 ms for a segment of 1 MiB with 1,300 objects, 25 in Python; to move a third of them takes 0.4 ms
        # more (CPython 3.11).
        found = self._ordinary.survivors(segment, state.generation, state.queue is Queue.MAIN)
        for number, first, hits, whole in found or ():
            if (image := self._image(first) if whole is None else whole) is not None:
                survivors.append(_Survivor(number, image, hits))
        return None if found is None else survivors

    def _image(self, at: int) -> memoryview | bytes | None:
        """Return a record with its whole body; None: it is too large to be moved."""
        words, data = self._words, self._memory.data
        length = words[at + words_of.LENGTH]
        begins, body = 8 * at, self._records.parts(at).body
        if words[at + words_of.NEXT] == 0:
            return data[begins : begins + body + length]
        if body + length > self._segments.size // 2:
            return None
        if (rest := self._records.gathered(at)) is None:
            return None
        return (bytes(data[begins : begins + body + words[at + words_of.CAPACITY]]) + rest)[: body + length]

    def _move(self, survivor: _Survivor) -> None:
        """Copy a record to the open segment of the main queue; the index points to the copy then."""
        image, opened = survivor.image, self.opened.get(Queue.MAIN)
        if (
            opened is not None
            and type(image) is bytes
            and self._ordinary.move(image, survivor.entry, survivor.hits, opened)
        ):
            return
        extent = self.reserve(Queue.MAIN, len(image), len(image))
        if extent is None:
            return
        at = self._records.at(extent.segment, extent.offset)
        self._memory.data[8 * at : 8 * at + len(image)] = image
        where = self.finish(extent, at, len(image))
        self._words[at + words_of.HITS] = survivor.hits
        self.commit(extent)
        key = self._records.key(at)
        for position, entry in self._index.candidates(key):
            if entry == survivor.entry:
                self._index.replace(position, entry, self._index.entry(key, where))

    def finish(self, extent: Extent, at: int, count: int) -> Location:
        """Write the words of a complete record that say where it is; return its location. `count`: all its bytes."""
        generation = self._segments.state(extent.segment).generation
        words = self._words
        words[at + words_of.TOTAL] = extent.length
        words[at + words_of.CAPACITY] = count - self._records.parts(at).body
        words[at + words_of.NEXT] = 0
        words[at + words_of.SEAL] = self._records.seal(generation, extent.segment, extent.offset)
        return Location(extent.segment, extent.offset, generation)

    def _evict(self, segment: int, state: StateWord, kept: frozenset[int] = frozenset()) -> None:
        """Remove the entries of a segment from the index, but for those that are kept."""
        # PERF: 1 us for each object in a flood of different ones, 13 in Python (CPython 3.11).
        self._ordinary.evict(segment, state.generation, state.queue is Queue.SMALL, kept)
