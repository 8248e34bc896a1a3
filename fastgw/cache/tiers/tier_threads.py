"""Threads of a tier: jobs that may wait for the disk, with their results in the event loop."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from typing import Final, Protocol, TypeVar, final

from fastgw.cache.shared.watches import WatchLoop

T = TypeVar("T")


class TierLoop(WatchLoop, Protocol):
    """The part of an event loop that a tier needs."""

    def call_soon_threadsafe(self, callback: Callable[[], None], /) -> object: ...


class Work(Enum):
    """Kind of a job; those of one kind do not wait for those of another."""

    READ = 4
    WRITE = 2
    PURGE = 1
    SCAN = 1.5


@final
class TierThreads:
    """Threads of one process, started when they are needed. `on_error`: called with what a job has raised."""

    def __init__(self, loop: TierLoop, on_error: Callable[[Exception], None]) -> None:
        self._loop, self._on_error = loop, on_error
        self._pools: Final[dict[Work, ThreadPoolExecutor]] = {}
        self.is_closing = False

    def run(self, work: Work, job: Callable[[], T], done: Callable[[T | None], None]) -> None:
        """Run a job in a thread, and `done` in the loop with its result; with None after a failure."""

        def in_thread() -> None:
            result: T | None = None
            try:
                result = job()
            except Exception as error:  # the edge of a tier: whatever fails, requests go on without it
                self._on_error(error)
            with suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(lambda: done(result))

        if not self.is_closing:
            pool = self._pools.get(work)
            if pool is None:
                pool = self._pools[work] = ThreadPoolExecutor(int(work.value), f"cache-{work.name.lower()}")
            pool.submit(in_thread)

    def close(self, *, wait: bool) -> None:
        """End the threads, once they have done what was asked for. `wait`: until then."""
        self.is_closing = True
        for pool in self._pools.values():
            pool.shutdown(wait=wait)
