"""Incremental cache: reuses objects of the last reading whose inputs are unchanged."""

from collections.abc import Hashable, Iterable
from itertools import chain
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class IncrementalCache(Generic[K, V]):
    """Cache bounded by one reading: objects that the last successful reading did not use are dropped.

    The key, or what the caller compares, must identify all inputs of the value.
    """

    def __init__(self) -> None:
        self._before: dict[K, V] = {}
        self._now: dict[K, V] = {}

    def __repr__(self) -> str:
        return f"<IncrementalCache: {len(self._before)}, {len(self._now)} asked for>"

    def find(self, key: K) -> V | None:
        """Return the object stored last under this key."""
        found = self._now.get(key)
        return self._before.get(key) if found is None else found

    def store(self, key: K, made: V) -> V:
        """Store an object, new or reused."""
        self._now[key] = made
        return made

    def items(self) -> Iterable[tuple[K, V]]:
        return chain(self._before.items(), self._now.items())

    def values(self) -> Iterable[V]:
        return chain(self._before.values(), self._now.values())

    def end_reading(self, succeeded: bool) -> None:
        """End a reading. A failed one drops its new objects, because its configuration is not in force."""
        if succeeded:
            self._before = self._now
        self._now = {}
