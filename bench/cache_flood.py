"""Flood of a cache store with different objects, each stored once: memory, and CPU per object.

    python -m bench.cache_flood --objects 1000000

Some objects are found again and again meanwhile. Exit code 1: the memory has grown beyond its limit by more than 5 %,
or most popular objects were evicted for those that are found only once.
"""

import asyncio
import os
import sys
import time
from hashlib import blake2b
from typing import Annotated, Final

import typer

from fastgw.cache.shared.layout import CacheMemory
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import Eviction, Refusal

SLACK: Final = 1.05
POPULAR: Final = 100
FOUND_EVERY: Final = 500
"""Objects of the flood between two uses of the popular ones."""
STEPS: Final = 10


def key_of(number: int) -> bytes:
    return blake2b(b"%d" % number, digest_size=16).digest()


def put(store: SharedStore, number: int, body: bytes) -> None:
    """Store an object."""
    lease = store.lease(key_of(number))
    if isinstance(lease, Refusal):
        raise SystemExit(f"object {number}: {lease.value}")
    url = b"https://www.example.com/items/%d" % number
    writer = lease.store(b"h" * 400, len(body), url=url, tags=(b"\0" + url,))
    if writer is None or not writer.append(body) or not writer.complete():
        raise SystemExit(f"object {number} was not stored: {lease.why_not.name}")


def is_found(store: SharedStore, number: int) -> bool:
    """Whether the store finds an object."""
    found = store.find(key_of(number))
    if found is None:
        return False
    found.release()
    return True


def flood(objects: int, memory: int, length: int) -> bool:
    """Store this many objects of `length` bytes; return whether memory and popular objects have stayed."""
    loop = asyncio.new_event_loop()
    held = CacheMemory(memory)
    store = SharedStore(held, 1, loop, {}, memory)
    body = os.urandom(length)
    for number in range(POPULAR):
        put(store, number, body)
        is_found(store, number)
    most = 0
    for step in range(STEPS):
        begun = time.thread_time()
        for number in range(objects * step // STEPS, objects * (step + 1) // STEPS):
            if number % FOUND_EVERY == 0:
                for popular in range(POPULAR):
                    is_found(store, popular)
            put(store, POPULAR + number, body)
        seconds = time.thread_time() - begun
        most = max(most, os.fstat(held.fd).st_blocks * 512)
        numbers = store.numbers()
        print(
            f"{objects * (step + 1) // STEPS:>9,} stored: {most / memory:6.1%} of the memory, {numbers.objects:,} "
            f"objects, {numbers.evictions[Eviction.CAPACITY]:,} evicted, {seconds * STEPS / objects * 1e6:.1f} us each",
            flush=True,
        )
    left = sum(is_found(store, number) for number in range(POPULAR))
    print(f"{left} of {POPULAR} popular objects are there")
    store.close()
    loop.close()
    return most <= SLACK * memory and left >= POPULAR / 2


def main(
    objects: Annotated[int, typer.Option(min=STEPS, help="Different objects.")] = 1_000_000,
    mebibytes: Annotated[int, typer.Option("--memory", min=1, help="Memory of the store in MiB.")] = 64,
    length: Annotated[int, typer.Option(min=0, help="Bytes of each body.")] = 1024,
) -> None:
    """Flood a cache store with objects that are not found again."""
    sys.exit(0 if flood(objects, mebibytes << 20, length) else 1)


if __name__ == "__main__":
    typer.run(main)
