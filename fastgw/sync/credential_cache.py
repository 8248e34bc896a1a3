"""Credential cache of a worker: results of verified credentials.

Credentials are looked up by a keyed 128-bit hash with a secret key, so neither they nor anything that helps to guess
them is stored (compiled: `_marks.h`). Each policy has its own cache.

`WorkerTokenCache` is the same with the interface of aiocache, for policies that wait for an answer about a credential.

PERF: a hit costs 0.16 us for a credential of 800 bytes compiled, 1.7 in plain Python, both with the call (CPython 3.11,
micro/tokens).
"""

import os
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from fastgw.http.messages import RequestHead
from fastgw.token_tier import UNCHANGED, TokenTier

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

    `counted`: whether its hits and misses are counted. No value may refer to the cache: that would be a cycle.
    """

    __slots__ = ("_counted", "_entries", "_key", "_most")

    def __init__(self, most: int, counted: bool = True) -> None:
        if most < 1:
            raise ValueError("a cache has room for one at least")
        self._entries: OrderedDict[bytes, tuple[T, float]] = OrderedDict()
        self._key = os.urandom(16)
        self._most = most
        self._counted = counted

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
                _counts[HITS] += self._counted
                return entry[0]
            del self._entries[mark]
        _counts[MISSES] += self._counted
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

    def forget(self, credential: bytes) -> bool:
        """Remove the value of a credential. Returns whether there was one."""
        return self._entries.pop(self._mark(credential), None) is not None

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
    from fastgw.sync._credential_cache import TokenCache as TokenCache
    from fastgw.sync._credential_cache import count_in as count_in
    from fastgw.sync._credential_cache import uncollected as uncollected


@final
class WorkerTokenCache(TokenTier, Generic[T]):
    """Cache of a worker with up to `entries` tokens, by the interface of aiocache; a full one evicts the oldest.

    `peek`: reads a hit without `await`, and counts it. `ttl`: seconds for which an entry is fresh by default; None =
    until it is evicted.
    """

    def __init__(
        self,
        entries: int,
        *,
        counted: bool = True,
        serializer: Any = UNCHANGED,
        plugins: Iterable[Any] = (),
        ttl: float | None = None,
    ) -> None:
        super().__init__(serializer=serializer, plugins=plugins, ttl=ttl)
        self._tokens: TokenCache[T] = TokenCache(entries, counted)
        if serializer is UNCHANGED:
            self.peek: Callable[[bytes], T | None] = self._tokens.get
        else:
            self.peek = lambda key: serializer.loads(self._tokens.get(key))

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return repr(self._tokens)

    async def _get(self, key: bytes, encoding: str | None = None, _conn: Any = None) -> T | None:
        return self._tokens.get(key)

    async def _set(
        self, key: bytes, value: T, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        self._tokens.store(key, value, inf if ttl is None else monotonic() + ttl)
        return True

    async def _delete(self, key: bytes, _conn: Any = None) -> int:
        return int(self._tokens.forget(key))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        self._tokens.retain_only(lambda value: False)
        return True
