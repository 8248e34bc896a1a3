"""Credential cache of a worker: results of verified credentials.

Credentials are looked up by a keyed 128-bit hash with a secret key, so neither they nor anything that helps to guess
them is stored (`_marks.h`). Each policy has its own cache.

PERF: a hit costs 0.16 us for a credential of 800 bytes, with the call (CPython 3.11, micro/tokens).
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar, final

from fastgw.http.messages import RequestHead

T = TypeVar("T")

HITS: Final = 0
MISSES: Final = 1
WORDS: Final = 2
"""Number of counter words, hits and misses, for all caches of a process."""

def count_in(words: memoryview) -> None:
    """Use these words for the counters from now on. A process has one column of them for all its caches."""

def uncollected(each: T) -> T:
    """Exclude a list or dictionary, and those in it, from the garbage collector: they contain no cycles.

    For caches with thousands of entries: the worker is stopped while the collector visits all of them.
    """

@final
class TokenCache(Generic[T]):
    """Cache of up to `most` credentials, each with its own expiry. A full cache evicts the oldest entry.

    `counted`: whether its hits and misses are counted. No value may refer to the cache: that would be a cycle.
    """

    def __init__(self, most: int, counted: bool = True) -> None: ...
    def __len__(self) -> int: ...
    def get(self, credential: bytes) -> T | None:
        """Return the cached value of a credential; None: there is none, or it has expired. Counts a hit or a miss."""

    def shown_by(self, head: RequestHead) -> T | None:
        """Return the cached value of the only `Authorization` header of a request; None also if there is not exactly
        one.
        """

    def store(self, credential: bytes, value: T, expires_at: float) -> None:
        """Store a value until `expires_at` (monotonic seconds), replacing an earlier one."""

    def forget(self, credential: bytes) -> bool:
        """Remove the value of a credential. Returns whether there was one."""

    def retain_only(self, is_wanted: Callable[[T], bool]) -> None:
        """Remove all entries that do not meet the condition. Visits all entries: for rare events."""
