"""Credential cache of a worker: results of credentials that it has judged.

A credential is looked up by a hash of 128 bits under a key that nobody knows, so neither it nor anything that it could
be guessed from is kept (compiled: `_marks.h`). One cache serves one policy: what another accepts is in another cache.

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
"""Words of the counters, hits and misses, of all caches of a process."""

_counts = memoryview(array("Q", [0] * WORDS))


def _count_in(words: memoryview) -> None:
    """Count in these words from now on. A process has one column of them, and caches that live longer than any use."""
    global _counts
    if words.nbytes != WORDS * 8 or words.format != "Q":
        raise ValueError("hits and misses are two words")
    _counts = words


def _uncollected(each: T) -> T:
    """Let the collector of cycles pass over a list or dictionary, and those in it: they are in no cycle.

    For what is remembered by the thousand: a worker stands still while all that it holds is looked at. In plain Python
    it cannot be done.
    """
    return each


@final
class _TokenCache(Generic[T]):
    """Remembers up to `most` credentials, each until an instant of its own. A full cache forgets its oldest.

    No value may lead back to the cache: it would not be freed.
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
        """Return the value remembered for a credential; None when there is none, or it has expired. Counts a hit or a
        miss.
        """
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
        """Return the value remembered for the only `Authorization` header of a request; None also where there is not
        one.
        """
        values = head.values(b"authorization")
        return self.get(values[0]) if len(values) == 1 else None

    def put(self, credential: bytes, value: T, expires_at: float) -> None:
        """Remember this of it, in place of what was, until `expires_at` (monotonic seconds)."""
        mark = self._mark(credential)
        self._entries.pop(mark, None)
        if len(self._entries) >= self._most:
            self._entries.popitem(last=False)
        self._entries[mark] = value, expires_at

    def forget(self, credential: bytes) -> None:
        """Remember nothing of it."""
        self._entries.pop(self._mark(credential), None)

    def keep(self, is_wanted: Callable[[T], bool]) -> None:
        """Forget all of which this does not hold. Walks over everything: for what happens rarely."""
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
