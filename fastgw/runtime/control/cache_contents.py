"""Contents of the response cache, as the admin API shows them: stores, tiers, and the objects found most often."""

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

from fastgw.admin.node_interface import (
    MOST_CACHED_SHOWN,
    CachedObject,
    CacheInfo,
    CacheStoreInfo,
    DiskTierInfo,
    RedisTierInfo,
)
from fastgw.cache.shared.popular import PopularObject
from fastgw.cache.store import StoreNumbers
from fastgw.cache.tiers.node_stores import StoreHandles, StoreSettings
from fastgw.observe.access_log.formats import Mask

REST: Final = 20.0
"""The search takes at most this part of the time: a long one is repeated later."""


class CacheContents:
    """`settings`: returns the stores of the active configuration; `mask`: returns the masking of URLs."""

    def __init__(
        self, stores: StoreHandles, settings: Callable[[], Mapping[str, StoreSettings]], mask: Callable[[], Mask]
    ) -> None:
        self._stores, self._settings, self._mask = stores, settings, mask
        self._searching = asyncio.Lock()
        self._found: dict[str, list[PopularObject]] = {}
        self._next_at = 0.0

    async def read(self, most: int) -> CacheInfo:
        """Return the stores, and at most so many objects of each."""
        async with self._searching:
            if monotonic() >= self._next_at:
                await self._search()
        mask = self._mask()
        objects = [
            CachedObject(name, _shown(each.url, mask), each.found, each.length)
            for name, found in self._found.items()
            for each in found[:most]
        ]
        objects.sort(key=lambda each: each.found, reverse=True)
        return CacheInfo(self.stores(), objects)

    def stores(self) -> list[CacheStoreInfo]:
        settings = self._settings()
        """Return the state of all stores."""
        return [store_info(name, settings[name], numbers) for name, numbers in self._stores.numbers(settings).items()]

    async def _search(self) -> None:
        begun, found = monotonic(), {}
        for name in self._settings():
            if (search := self._stores.popular(name, MOST_CACHED_SHOWN)) is not None:
                while True:
                    try:
                        next(search)
                    except StopIteration as end:
                        found[name] = end.value
                        break
                    await asyncio.sleep(0)
        self._found = found
        self._next_at = monotonic() + REST * (monotonic() - begun)


def store_info(name: str, settings: StoreSettings, numbers: StoreNumbers) -> CacheStoreInfo:
    disk, redis = numbers.disk, numbers.redis
    return CacheStoreInfo(
        name=name,
        most_bytes=settings.memory,
        bytes=numbers.bytes,
        objects=numbers.objects,
        evicted=sum(numbers.evictions.values()),
        disk=None
        if disk is None or settings.disk is None
        else DiskTierInfo(
            path=settings.disk.path,
            most_bytes=disk.most_bytes,
            bytes=disk.bytes,
            objects=disk.objects,
            hits=disk.hits,
            written=disk.written,
            dropped=disk.dropped,
            evicted=disk.evicted,
            damaged=disk.damaged,
            errors=disk.errors,
            is_up=not disk.has_failed,
        ),
        redis=None if redis is None else RedisTierInfo(redis.hits, redis.written, redis.dropped, redis.damaged),
    )


def _shown(url: bytes, mask: Mask) -> str:
    """Return a URL as logs show it: secrets in the query are masked."""
    path, mark, query = url.partition(b"?")
    shown = path + mark + (mask(query) or b"" if mark else b"")
    return shown.decode("latin-1")
