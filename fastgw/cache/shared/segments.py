"""Segments of a shared store: their states, and the pins of those that read them.

A segment is free, open (one process appends records to it), sealed, or being recycled. That, its owner, its queue and
its generation are one word, changed by compare-and-swap. A recycled segment has another generation, so that nothing
that points to its former contents is followed.

Rule 1: a process that reads or writes records of a segment has a pin on it, a word of its own column. It pins first,
and then looks whether the segment is still there; a process that recycles changes the state first, and then looks for
pins. Of the two, the later one sees the other. Rule 2: a record that does not fit goes on in chunks, in other segments.
These are recycled only while no segment is pinned in which such a record begins (its `origins`), so that a pin of that
segment is enough.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple, final

from fastgw.cache.shared.layout import COLUMNS, ORDER, CacheMemory

ORIGINS: Final = 8
"""Maximum number of segments whose records go on in one segment; with more, another segment is opened."""
GENERATION_AT: Final = 16
_OWNER_AT: Final = 8
_QUEUE_AT: Final = 4
_ORIGIN_AT: Final = 16


class SegmentState(IntEnum):
    """Use of a segment."""

    FREE = 0
    OPEN = 1
    SEALED = 2
    RECYCLING = 3


class Queue(IntEnum):
    """Queue of S3-FIFO: new objects, and those that were asked for again."""

    SMALL = 0
    MAIN = 1


class StateWord(NamedTuple):
    """The parts of a segment's state. `owner`: column of the process that appends or recycles, plus 1; 0: none."""

    generation: int
    owner: int
    queue: Queue
    state: SegmentState

    @property
    def word(self) -> int:
        return self.generation << GENERATION_AT | self.owner << _OWNER_AT | self.queue << _QUEUE_AT | self.state


def state_of(word: int) -> StateWord:
    """Return the parts of a state."""
    return StateWord(
        word >> GENERATION_AT, word >> _OWNER_AT & 0xFF, Queue(word >> _QUEUE_AT & 1), SegmentState(word & 0xF)
    )


@final
class Segments:
    """The segments, as one process sees them, but for its pins and what is in them (`Cells`). `column`: index of its
    column.
    """

    def __init__(self, memory: CacheMemory, column: int) -> None:
        self._memory = memory
        self._words, self._swap = memory.words, memory.swap
        geometry = memory.geometry
        self.count, self.size = geometry.segments, geometry.segment
        self.states = geometry.states
        """The word of the first segment's state."""
        self.owner = column + 1
        self._used, self.orders, self._origins = geometry.used, geometry.orders, geometry.origins

    def state(self, segment: int) -> StateWord:
        return state_of(self._words[self.states + segment])

    def change(self, segment: int, seen: StateWord, wanted: StateWord) -> bool:
        """Change a state. False: it is not the one seen."""
        return self._swap(self.states + segment, seen.word, wanted.word)

    def is_pinned(self, segment: int) -> bool:
        """Whether a process has a pin on it, or on a segment whose records go on here."""
        words, memory = self._words, self._memory
        memory.fence()
        pins = [memory.pins(index) for index in range(words[COLUMNS])]
        for each in (segment, *self._origins_of(segment)):
            for first in pins:
                if words[first + each]:
                    return True
        return False

    def add_origin(self, segment: int, origin: int) -> bool:
        """Record that a record that begins in the segment `origin` goes on in this one, which is open. False: there are
        too many.
        """
        if origin == segment:
            return True
        first = self._origins + ORIGINS * segment
        wanted = self.state(origin).generation << _ORIGIN_AT | origin + 1
        for at in range(first, first + ORIGINS):
            if self._words[at] == wanted:
                return True
            if not self._words[at]:
                self._words[at] = wanted
                return True
        return False

    def _origins_of(self, segment: int) -> Iterator[int]:
        first = self._origins + ORIGINS * segment
        for word in self._words[first : first + ORIGINS].tolist():
            if word:
                origin = (word & (1 << _ORIGIN_AT) - 1) - 1
                if self.state(origin).generation == word >> _ORIGIN_AT:
                    yield origin

    def bytes_in_use(self) -> int:
        return sum(self._words[self._used : self._used + self.count].tolist())

    def open_segment(self, segment: int, seen: StateWord, queue: Queue) -> bool:
        """Open an empty or recycled segment, with the next generation. False: another process was faster."""
        if seen.state is SegmentState.FREE:
            # Claimed first: its words have one writer only then.
            claimed = StateWord(seen.generation, self.owner, queue, SegmentState.RECYCLING)
            if not self.change(segment, seen, claimed):
                return False
            seen = claimed
        self._words[self._used + segment] = 0
        first = self._origins + ORIGINS * segment
        for at in range(first, first + ORIGINS):
            self._words[at] = 0
        return self.change(segment, seen, StateWord(seen.generation + 1, self.owner, queue, SegmentState.OPEN))

    def seal(self, segment: int, queue: Queue | None = None) -> None:
        """Seal a segment that this process has open or is recycling: it is the youngest of its queue now."""
        seen = self.state(segment)
        self._words[self.orders + segment] = self._memory.add(ORDER)
        queue = seen.queue if queue is None else queue
        self.change(segment, seen, StateWord(seen.generation, 0, queue, SegmentState.SEALED))
