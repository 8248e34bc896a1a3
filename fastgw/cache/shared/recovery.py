"""Clean-up after the death of a process that used a shared store, by the supervisor once it has reaped the process.

Nothing wrong is served until then: objects that the process was writing only do not grow any more, and its segments and
pins are not used for anything else.
"""

from collections.abc import Mapping
from time import monotonic

from fastgw.cache.shared import records as words_of
from fastgw.cache.shared.index import KeyHash, Location, ObjectIndex, location
from fastgw.cache.shared.layout import CLASSES, REMOVED, CacheMemory
from fastgw.cache.shared.leases import Leases
from fastgw.cache.shared.records import Records, RecordStatus
from fastgw.cache.shared.segments import Queue, Segments, SegmentState, StateWord
from fastgw.cache.shared.watches import report_all

_UNFINISHED = (RecordStatus.RESERVING, RecordStatus.GROWING)


def clean_up(memory: CacheMemory, column: int, wakers: Mapping[int, int]) -> None:
    """Put the column of a dead process in order: fail the objects that it was writing, end its leases, seal or free its
    segments, remove its pins and watches, and wake all others.
    """
    index, segments = ObjectIndex(memory), Segments(memory, column)
    records = Records(memory, index, segments)
    words, pins = memory.words, memory.pins(column)
    recycling: list[tuple[int, StateWord]] = []
    for segment in range(segments.count):
        state = segments.state(segment)
        is_owned = state.owner == segments.owner
        if is_owned and state.state is SegmentState.RECYCLING:
            recycling.append((segment, state))
            continue
        if words[pins + segment] or (is_owned and state.state is SegmentState.OPEN):
            for record in records.walk(segment, state.generation):
                growing = not record.is_chunk and words[record.at + words_of.STATUS] in _UNFINISHED
                if growing and words[record.at + words_of.OWNER] == segments.owner:
                    words[record.at + words_of.STATUS] = RecordStatus.FAILED
                    _remove(
                        memory,
                        index,
                        column,
                        records.key(record.at),
                        Location(segment, record.offset, state.generation),
                    )
        if is_owned and state.state is SegmentState.OPEN:
            segments.seal(segment)
    Leases(memory, monotonic).end_all(segments.owner)
    for at in range(memory.watches(column), memory.watches(column) + CLASSES):
        words[at] = 0
    for at in range(pins, pins + segments.count):
        words[at] = 0
    for segment, state in recycling:
        _end_recycling(memory, index, segments, segment, state)
    report_all(memory, wakers)


def _end_recycling(memory: CacheMemory, index: ObjectIndex, segments: Segments, segment: int, state: StateWord) -> None:
    """Free a segment that was being recycled: remove the entries that still point to it. One that others read is sealed
    again: the process has died before it looked for their pins, and has not emptied anything.
    """
    if segments.used(segment) and segments.is_pinned(segment):
        segments.change(segment, state, StateWord(state.generation, 0, state.queue, SegmentState.SEALED))
        return
    counters = memory.column(segments.owner - 1)
    for bucket in index.all():
        for position, entry in bucket:
            where = location(entry)
            if where.segment == segment and index.replace(position, entry, 0):
                memory.words[counters + REMOVED] += 1
    segments.set_used(segment, 0)
    segments.change(segment, state, StateWord(state.generation + 1, 0, Queue.SMALL, SegmentState.FREE))


def _remove(memory: CacheMemory, index: ObjectIndex, column: int, key: KeyHash, where: Location) -> None:
    position = index.position(key, where.word)
    if position is not None and index.replace(position, index.entry(key, where), 0):
        memory.words[memory.column(column) + REMOVED] += 1
