"""Compiled ordinary cases of a shared store."""

from typing import Any

from fastgw.cache.shared.layout import CacheMemory, Geometry

def adopt_store(store_class: type, stamp_class: type[Any], found_again: int) -> None: ...

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
        memory: CacheMemory,
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
    def survivors(
        self, segment: int, generation: int, is_main: bool, /
    ) -> list[tuple[int, int, int, bytes | None]] | None: ...
    def retain(self, segment: int, generation: int, is_main: bool, /) -> None: ...
    def move(self, image: bytes, entry: int, hits: int, segment: int, /) -> bool: ...
    def evict(self, segment: int, generation: int, is_small: bool, kept: frozenset[int], /) -> None: ...
    def append(self, at: int, position: int, free: int, data: bytes, length: int, /) -> bool: ...
    def complete(self, at: int, key: bytes, entry_location: int, length: int, capacity: int, /) -> bool: ...

def is_unchanged(store: object, stamp: object) -> bool:
    """Return what `SharedStore.is_unchanged` returns."""

def is_unchanged_in(store: object, stamp: object) -> bool:
    """Return what `Store.is_unchanged` returns, whatever the class of the store is."""
