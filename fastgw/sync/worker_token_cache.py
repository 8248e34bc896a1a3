"""Credential cache of a worker with the interface of aiocache, for policies that wait for an answer on a credential."""

from collections.abc import Callable, Iterable
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar, final

from fastgw.sync.credential_cache import TokenCache
from fastgw.token_tier import UNCHANGED, TokenTier

T = TypeVar("T")


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
