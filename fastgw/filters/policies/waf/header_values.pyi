from collections.abc import Collection, Iterable
from typing import Protocol

FILENAME: bytes

class SearchedHeaders(Protocol):
    """Headers of a request: its head, or a copy of it."""

    def fields(self) -> Iterable[tuple[bytes, bytes]]: ...
    def values(self, name: bytes) -> list[bytes]: ...

def unknown_values(
    headers: SearchedHeaders,
    skipped: frozenset[bytes],
    of_files: frozenset[bytes],
    known: Collection[bytes],
    known_cookies: Collection[bytes],
) -> tuple[list[tuple[bytes, bytes]], list[bytes]]: ...
