"""The objects of a store that were found most often, for people."""

import heapq
from collections.abc import Generator
from typing import Final, NamedTuple

from fastgw.cache.shared._cells import COMPLETE, FOUND, SIZE, STATUS, Cells

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
    best: list[tuple[int, bytes, int]] = []  # found, URL and length
    for number, bucket in enumerate(cells.entries()):
        for position, entry in bucket:
            opened = cells.open_entry(None, position, entry)
            if opened is None:
                continue
            found, at = words[opened.at + FOUND], opened.at
            is_better = found > (best[0][0] if len(best) == most else 0)
            if is_better and words[at + STATUS] == COMPLETE and (url := cells.url(at)):
                add = heapq.heapreplace if len(best) == most else heapq.heappush
                add(best, (found, url, words[at + SIZE] - 1))
            cells.unpin(opened.segment)
        if not number % BUCKETS:
            yield
    return [PopularObject(url, found, length) for found, url, length in sorted(best, reverse=True)]
