"""The shared cache store: cost of finding and of storing an object of 1 KB, with the compiled search and without."""

import asyncio
from collections.abc import Iterator

from bench.micro.timing import Room
from fastgw.cache.shared import shared_store
from fastgw.cache.shared.layout import CacheMemory
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import Refusal

KEYS = 1_000
MEMORY = 64 * 1024**2
BODY = bytes(1024)


def rooms() -> Iterator[Room]:
    twin = shared_store._twin
    for name, used in (("compiled", twin), ("plain", None)):
        if name == "compiled" and twin is None:
            continue
        shared_store._twin = used
        try:
            yield from of(name)
        finally:
            shared_store._twin = twin


def of(name: str) -> Iterator[Room]:
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
    yield Room(f"find and release, {name}", find, keys)
    yield Room(f"store, {name}", put, keys)
    loop.close()
