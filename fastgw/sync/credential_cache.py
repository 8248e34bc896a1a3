"""Credential cache of a worker: results of verified credentials.

Credentials are looked up by a keyed 128-bit hash with a secret key, so neither they nor anything that helps to guess
them is stored (compiled: `_marks.h`). Each policy has its own cache.

PERF: a hit costs 0.16 us for a credential of 800 bytes compiled, 1.7 in plain Python, both with the call (CPython 3.11,
micro/tokens).
"""

import os
from array import array
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from time import monotonic
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from fastgw.compiled import twin
from fastgw.http.messages import RequestHead

T = TypeVar("T")

HITS, MISSES = range(2)
WORDS: Final = 2
"""Number of counter words, hits and misses, for all caches of a process."""

_counts = memoryview(array("Q", [0] * WORDS))


def _count_in(words: memoryview) -> None:
    """Use these words for the counters from now on. A process has one column of them for all its caches."""
    global _counts
    if words.nbytes != WORDS * 8 or words.format != "Q":
        raise ValueError("hits and misses are two words")
    _counts = words


def _uncollected(each: T) -> T:
    """Exclude a list or dictionary, and those in it, from the garbage collector: they contain no cycles.

    For caches with thousands of entries: the worker is stopped while the collector visits all of them. No effect in
    plain Python.
    """
    return each


@final
class _TokenCache(Generic[T]):
    """Cache of up to `most` credentials, each with its own expiry. A full cache evicts the oldest entry.

    No value may refer to the cache: that would be a cycle.
    """

    __slots__ = ("_entries", "_key", "_most")

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError("a cache has room for one at least")
        self._entries: OrderedDict[bytes, tuple[T, float]] = OrderedDict()
        self._key = os.urandom(16)
        self._most = most

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<TokenCache {len(self._entries)} of {self._most}>"

    def _mark(self, credential: bytes) -> bytes:
        return blake2b(credential, digest_size=16, key=self._key).digest()

    def get(self, credential: bytes) -> T | None:
        """Return the cached value of a credential; None: there is none, or it has expired. Counts a hit or a miss."""
        mark = self._mark(credential)
        entry = self._entries.get(mark)
        if entry is not None:
            if monotonic() < entry[1]:
                _counts[HITS] += 1
                return entry[0]
            del self._entries[mark]
        _counts[MISSES] += 1
        return None

    def shown_by(self, head: RequestHead) -> T | None:
        """Return the cached value of the only `Authorization` header of a request; None also if there is not exactly
        one.
        """
        values = head.values(b"authorization")
        return self.get(values[0]) if len(values) == 1 else None

    def store(self, credential: bytes, value: T, expires_at: float) -> None:
        """Store a value until `expires_at` (monotonic seconds), replacing an earlier one."""
        mark = self._mark(credential)
        self._entries.pop(mark, None)
        if len(self._entries) >= self._most:
            self._entries.popitem(last=False)
        self._entries[mark] = value, expires_at

    def forget(self, credential: bytes) -> None:
        """Remove the value of a credential."""
        self._entries.pop(self._mark(credential), None)

    def retain_only(self, is_wanted: Callable[[T], bool]) -> None:
        """Remove all entries that do not meet the condition. Visits all entries: for rare events."""
        for mark, (value, _) in list(self._entries.items()):
            if not is_wanted(value):
                del self._entries[mark]


if TYPE_CHECKING:
    TokenCache = _TokenCache
    count_in = _count_in
    uncollected = _uncollected
else:
    _twin = twin("fastgw.sync._credential_cache")
    TokenCache = _TokenCache if _twin is None else _twin.TokenCache
    count_in = _count_in if _twin is None else _twin.count_in
    uncollected = _uncollected if _twin is None else _twin.uncollected
