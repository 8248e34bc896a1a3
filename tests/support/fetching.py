"""A fetcher with its own worker loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.client.http_client import Fetcher


@asynccontextmanager
async def fetching() -> AsyncIterator[Fetcher]:
    worker_loop = WorkerLoop(asyncio.get_running_loop())
    worker_loop.start()
    fetcher = Fetcher(worker_loop)
    try:
        yield fetcher
    finally:
        fetcher.stop()
        worker_loop.close()
