"""Incremental cache: objects of the last reading, used again where everything that they were made from is unchanged."""

from collections.abc import Hashable, Iterable
from itertools import chain
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class IncrementalCache(Generic[K, V]):
    """Rule: bounded by what one reading asks for. What the last one that succeeded did not ask for is forgotten.

    The key, or what is compared by who asks, has to tell all that the value was made from.
    """

    def __init__(self) -> None:
        self._before: dict[K, V] = {}
        self._now: dict[K, V] = {}

    def __repr__(self) -> str:
        return f"<IncrementalCache: {len(self._before)}, {len(self._now)} asked for>"

    def find(self, key: K) -> V | None:
        """Return the object kept last under this key."""
        found = self._now.get(key)
        return self._before.get(key) if found is None else found

    def store(self, key: K, made: V) -> V:
        """Keep an object that was made, or was found unchanged."""
        self._now[key] = made
        return made

    def values(self) -> Iterable[V]:
        return chain(self._before.values(), self._now.values())

    def end_reading(self, succeeded: bool) -> None:
        """A reading is over. What one that failed has made is not what is in force, and is forgotten."""
        if succeeded:
            self._before = self._now
        self._now = {}
