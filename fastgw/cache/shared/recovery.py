"""Clean-up after the death of a process that used a shared store, by the supervisor once it has reaped the process.

Nothing wrong is served until then: objects that the process was writing only do not grow any more, and its segments and
pins are not used for anything else.
"""

from collections.abc import Mapping

from fastgw.cache.shared._cells import FAILED, GROWING, OWNER, RESERVING, STATUS, Cells, segment_of
from fastgw.cache.shared.layout import CLASSES, CacheMemory
from fastgw.cache.shared.segments import Queue, Segments, SegmentState, StateWord
from fastgw.cache.shared.watches import report_all


def clean_up(memory: CacheMemory, column: int, wakers: Mapping[int, int]) -> None:
    """Put the column of a dead process in order: fail the objects that it was writing, end its leases, seal or free its
    segments, remove its pins and watches, and wake all others.
    """
    cells, segments = Cells(memory, column), Segments(memory, column)
    words, pins = memory.words, memory.pins(column)
    recycling: list[tuple[int, StateWord]] = []
    for segment in range(segments.count):
        state = segments.state(segment)
        is_owned = state.owner == segments.owner
        if is_owned and state.state is SegmentState.RECYCLING:
            recycling.append((segment, state))
            continue
        if words[pins + segment] or (is_owned and state.state is SegmentState.OPEN):
            for location, at in cells.walk(segment, state.generation):
                if words[at + STATUS] in (RESERVING, GROWING) and words[at + OWNER] == segments.owner:
                    words[at + STATUS] = FAILED
                    key = cells.key(at)
                    entry = cells.entry(key, location)
                    if (position := cells.position(key, entry)) >= 0:
                        cells.drop(position, entry)
        if is_owned and state.state is SegmentState.OPEN:
            segments.seal(segment)
    cells.end_leases()
    for at in range(memory.watches(column), memory.watches(column) + CLASSES):
        words[at] = 0
    for at in range(pins, pins + segments.count):
        words[at] = 0
    for segment, state in recycling:
        _end_recycling(cells, segments, segment, state)
    report_all(memory, wakers)


def _end_recycling(cells: Cells, segments: Segments, segment: int, state: StateWord) -> None:
    """Free a segment that was being recycled: remove the entries that still point to it. One that others read is sealed
    again: the process has died before it looked for their pins, and has not emptied anything.
    """
    if cells.used(segment) and segments.is_pinned(segment):
        segments.change(segment, state, StateWord(state.generation, 0, state.queue, SegmentState.SEALED))
        return
    for bucket in cells.entries():
        for position, entry in bucket:
            if segment_of(entry) == segment:
                cells.drop(position, entry)
    cells.set_used(segment, 0)
    segments.change(segment, state, StateWord(state.generation + 1, 0, Queue.SMALL, SegmentState.FREE))
