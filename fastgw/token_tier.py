"""Base class of the caches of tokens: aiocache's interface, with its serializers, times to live and plugins.

The backends are `sync.worker_token_cache.WorkerTokenCache`, the credentials that a worker has fetched
(`filters.policies.credentials.worker_cache`), and the Redis of all nodes (`redis.encrypted_cache`).
"""

import logging
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any, Final


def _defer_clients(name: str) -> None:
    """Run the `__init__` of a package when something is read from it, and not when one of its modules is imported.

    That of aiocache imports every client that is installed: redis-py takes 45 ms and 5 MiB (CPython 3.11).
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.loader is None:
        return
    loader, package = spec.loader, module_from_spec(spec)

    def load(attribute: str) -> Any:
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = load
    sys.modules[name] = package


_defer_clients("aiocache")
_serializers = import_module("aiocache.serializers")  # first: aiocache.base reads it from the package
_base = import_module("aiocache.base")
# At DEBUG it writes the names of entries, which are tokens.
logging.getLogger(_base.__name__).setLevel(logging.INFO)

BaseCache: Any = _base.BaseCache
BaseSerializer: Any = _serializers.BaseSerializer
UNCHANGED: Final[Any] = _serializers.NullSerializer(encoding=None)


class TokenSerializer(BaseSerializer):  # type: ignore[misc]
    """Serializer of two functions: a value to its stored bytes, and back."""

    DEFAULT_ENCODING = None

    def __init__(self, dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any]) -> None:
        super().__init__()
        self.dumps = dumps
        self._loads = loads

    def loads(self, stored: bytes | None) -> Any:
        return None if stored is None else self._loads(stored)


def _same(key: bytes | str, namespace: str | None = None) -> bytes | str:
    return key


class TokenTier(BaseCache):  # type: ignore[misc]
    """A cache of tokens. Backends have `_get` and `_set`, and `_delete` if entries can be removed.

    Those in memory have a method without `await` for hits as well. Plugins run for the methods of aiocache only.
    """

    def __init__(
        self,
        *,
        serializer: Any = UNCHANGED,
        plugins: Iterable[Any] = (),
        ttl: float | None = None,
        key_builder: Callable[..., Any] = _same,
    ) -> None:
        super().__init__(serializer=serializer, key_builder=key_builder, timeout=None, ttl=ttl)
        self.plugins = tuple(plugins)

    async def _exists(self, key: Any, _conn: Any = None) -> bool:
        return await self._get(key) is not None

    async def _add(self, key: Any, value: Any, ttl: float | None = None, _conn: Any = None) -> None:
        if await self._exists(key):
            raise ValueError("the entry exists; expected `set` to replace it")
        await self._set(key, value, ttl=ttl)

    async def _multi_get(self, keys: Iterable[Any], encoding: str | None = None, _conn: Any = None) -> list[Any]:
        return [await self._get(key) for key in keys]

    async def _multi_set(self, pairs: Iterable[tuple[Any, Any]], ttl: float | None = None, _conn: Any = None) -> None:
        for key, value in pairs:
            await self._set(key, value, ttl=ttl)
