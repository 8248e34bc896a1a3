"""The shared cache store: cost of finding and of storing an object of 1 KB."""

import asyncio
from collections.abc import Iterator

from bench.micro.timing import Room
from fastgw.cache.shared.layout import CacheMemory
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import Refusal

KEYS = 1_000
MEMORY = 64 * 1024**2
BODY = bytes(1024)


def rooms() -> Iterator[Room]:
    loop = asyncio.new_event_loop()
    store = SharedStore(CacheMemory(MEMORY), 1, loop, {}, MEMORY)
    keys = [b"%016d" % number for number in range(KEYS)]

    def put(key: bytes) -> None:
        lease = store.lease(key)
        assert not isinstance(lease, Refusal)
        writer = lease.store(b"head", len(BODY))
        assert writer is not None
        writer.append(BODY)
        writer.complete()

    def find(key: bytes) -> None:
        found = store.find(key)
        assert found is not None
        found.release()

    for key in keys:
        put(key)
    yield Room("find and release", find, keys)
    yield Room("store", put, keys)
    loop.close()
