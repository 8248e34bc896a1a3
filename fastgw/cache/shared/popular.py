"""The objects of a store that were found most often, for people: read without pins but for those that are returned."""

import heapq
from collections.abc import Generator
from typing import Final, NamedTuple

from fastgw.cache.shared._cells import COMPLETE, FOUND, PARTS, SIZE, STATUS, Cells

BUCKETS: Final = 32
"""Buckets of the index that are read in one step: up to 512 objects, well below 1 ms."""


class PopularObject(NamedTuple):
    """An object, and how often it was found since it was stored, as far as the processes have counted it."""

    url: bytes
    found: int
    length: int


Popular = Generator[None, None, list[PopularObject]]
"""Work in steps of well below 1 ms. It may be abandoned at any step."""


def popular_objects(words: memoryview, cells: Cells, most: int) -> Popular:
    """Return the `most` objects that were found most often, in order. Objects without a URL were made of others."""
    best: list[tuple[int, int, int]] = []  # found, position and entry
    for number, bucket in enumerate(cells.entries()):
        for position, entry in bucket:
            at = cells.record_at(entry)
            if at < 0 or not (found := words[at + FOUND]) or not words[at + PARTS] >> 32 & 0xFFFF:
                continue
            if len(best) < most:
                heapq.heappush(best, (found, position, entry))
            elif found > best[0][0]:
                heapq.heapreplace(best, (found, position, entry))
        if not number % BUCKETS:
            yield
    objects = []
    for found, position, entry in sorted(best, reverse=True):
        opened = cells.open_entry(None, position, entry)
        if opened is None:
            continue
        if words[opened.at + STATUS] == COMPLETE:
            objects.append(PopularObject(cells.url(opened.at), found, words[opened.at + SIZE] - 1))
        cells.unpin(opened.segment)
    return objects
