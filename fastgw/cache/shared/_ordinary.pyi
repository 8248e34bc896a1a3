"""Compiled ordinary cases of a shared store."""

from fastgw.cache.shared.layout import Geometry

class Ordinary:
    lease_word: int
    is_inserted: bool
    is_disputed: bool
    replaced: int
    queue: int
    segment: int
    offset: int
    total: int
    body: int
    generation: int
    def __init__(
        self,
        memory: memoryview,
        secrets: tuple[int, ...],
        parts: Geometry,
        column: int,
        owner: int,
        pins: int,
        watches: int,
        events: int,
    ) -> None: ...
    def key_tag(self, key: bytes, /) -> int: ...
    def name_tag(self, tag: bytes, /) -> int: ...
    def find(self, key: bytes, /) -> int: ...
    def is_absent(self, key: bytes, /) -> bool: ...
    def take_lease(self, key: bytes, now: int, ticks: int, /) -> int: ...
    def end_lease(self, at: int, word: int, now: int, ticks: int, /) -> None: ...
    def report(self, key: bytes, /) -> bool: ...
    def write(
        self,
        key: bytes,
        head: bytes,
        url: bytes,
        tags: tuple[int, ...],
        size: int,
        began: int,
        date: int,
        status: int,
        small: int,
        main: int,
        whole: bytes | None,
        /,
    ) -> int: ...
    def next_free(self, begin: int, /) -> int: ...
    def sealed(self, most: int, /) -> list[tuple[int, int]]: ...
    def is_cold(self, segment: int, generation: int, /) -> bool: ...
    def evict(self, segment: int, generation: int, is_small: bool, /) -> None: ...
    def append(self, at: int, position: int, free: int, data: bytes, length: int, /) -> bool: ...
    def complete(self, at: int, key: bytes, entry_location: int, length: int, capacity: int, /) -> bool: ...
