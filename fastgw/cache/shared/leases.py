"""Leases and marks of a shared store: one word each, in a hash table, changed by compare-and-swap only.

A word has 18 bits of the key's hash (with the bucket about 30), its owner, whether it is a mark, the lower bits of the
epoch, and the instant at which it ends. Another key with the same bits is taken for the same one: it then waits for the
other one's fetch, or is not stored for a while. A purge of a key ends its lease; other purges begin another epoch, in
which no earlier lease is waited for and no earlier mark counts, so they need no walk here.
"""

import math
from collections.abc import Callable
from typing import Final, final

from fastgw.cache.shared.index import KeyHash
from fastgw.cache.shared.layout import LEASE_BUCKET, CacheMemory

_TAG_AT: Final = 46
_OWNER_AT: Final = 38
_KIND_AT: Final = 37
_ENDS_MASK: Final = (1 << 26) - 1
TICKS: Final = 16
"""Parts of a second in which the end of a lease is counted."""
MOST_S: Final = 86_400.0
"""Maximum duration of a mark."""


@final
class Leases:
    """The leases, as one process sees them, but for taking and ending one, which is compiled (`Ordinary`). `clock`:
    monotonic seconds, one clock for all.
    """

    __slots__ = ("_count", "_first", "_swap", "_words", "clock")

    def __init__(self, memory: CacheMemory, clock: Callable[[], float]) -> None:
        self._words, self._swap = memory.words, memory.swap
        self.clock = clock
        self._first, self._count = memory.geometry.leases, memory.geometry.lease_count

    def ticks(self, seconds: float) -> tuple[int, int]:
        """Return the present instant, and a time, as ends of leases are counted."""
        return self._now(), math.ceil(seconds * TICKS)

    def forget(self, key: KeyHash, *, only_mark: bool = False) -> None:
        """Remove the lease and the mark of a key that is purged, or its mark alone. The lease's holder may go on."""
        first, tag = self._bucket(key), self._tag(key)
        for at, word in enumerate(self._words[first : first + LEASE_BUCKET].tolist(), first):
            if word and word >> _TAG_AT == tag and (not only_mark or word >> _KIND_AT & 1):
                self._swap(at, word, 0)

    def end_all(self, owner: int) -> None:
        """End the leases of a dead process."""
        for at, word in enumerate(self._words[self._first : self._first + self._count].tolist(), self._first):
            if word >> _OWNER_AT & 0xFF == owner and not word >> _KIND_AT & 1:
                self._swap(at, word, 0)

    def count(self) -> int:
        """Return the number of leases and marks that have not ended, for tests."""
        now = self._now()
        return sum(self._is_live(word, now) for word in self._words[self._first : self._first + self._count].tolist())

    def _bucket(self, key: KeyHash) -> int:
        return self._first + (key.hash >> 12 & self._count // LEASE_BUCKET - 1) * LEASE_BUCKET

    def _tag(self, key: KeyHash) -> int:
        return key.hash >> _TAG_AT

    def _is_live(self, word: int, now: int) -> bool:
        return bool(word) and 0 < _ticks_left(word, now) <= _ENDS_MASK >> 1

    def _now(self) -> int:
        return int(self.clock() * TICKS)


def _ticks_left(word: int, now: int) -> int:
    return ((word & _ENDS_MASK) - now) & _ENDS_MASK
