"""Threads for disk access, so that the event loop waits for no disk.

They are shared by all that a worker reads from disk while it serves. Jobs of filters (`asyncio.to_thread`) use other
threads, so files do not wait for them.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

DISK_THREADS: Final = ThreadPoolExecutor(8, "files")


def run_on_disk(
    loop: asyncio.AbstractEventLoop, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> "asyncio.Future[T]":
    """Run a job that may wait for the disk. It continues even if the future is cancelled."""
    return asyncio.wrap_future(DISK_THREADS.submit(job, *args, **kwargs), loop=loop)
