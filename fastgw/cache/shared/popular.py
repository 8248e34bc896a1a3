"""The objects of a store that were found most often, for people: read without pins but for those that are returned."""

import heapq
from collections.abc import Generator
from typing import Final, NamedTuple

from fastgw.cache.shared import records as words_of
from fastgw.cache.shared.index import ObjectIndex
from fastgw.cache.shared.records import Records, RecordStatus
from fastgw.cache.shared.segments import Segments

BUCKETS: Final = 32
"""Buckets of the index that are read in one step: up to 512 objects, well below 1 ms."""


class PopularObject(NamedTuple):
    """An object, and how often it was found since it was stored, as far as the processes have counted it."""

    url: bytes
    found: int
    length: int


Popular = Generator[None, None, list[PopularObject]]
"""Work in steps of well below 1 ms. It may be abandoned at any step."""


def popular_objects(words: memoryview, index: ObjectIndex, records: Records, segments: Segments, most: int) -> Popular:
    """Return the `most` objects that were found most often, in order. Objects without a URL were made of others."""
    best: list[tuple[int, int, int]] = []  # found, position and entry
    for number, bucket in enumerate(index.all()):
        for position, entry in bucket:
            at = records.peek(entry)
            if at is None or not (found := words[at + words_of.FOUND]) or not records.parts(at).url:
                continue
            if len(best) < most:
                heapq.heappush(best, (found, position, entry))
            elif found > best[0][0]:
                heapq.heapreplace(best, (found, position, entry))
        if not number % BUCKETS:
            yield
    objects = []
    for found, position, entry in sorted(best, reverse=True):
        opened = records.open_any(position, entry)
        if opened is None:
            continue
        if words[opened.at + words_of.STATUS] == RecordStatus.COMPLETE:
            length = words[opened.at + words_of.SIZE] - 1
            objects.append(PopularObject(records.url(opened.at), found, length))
        segments.unpin(opened.segment)
    return objects
