"""A fetcher on ground of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.client.http_client import Fetcher


@asynccontextmanager
async def fetching() -> AsyncIterator[Fetcher]:
    ground = WorkerLoop(asyncio.get_running_loop())
    ground.start()
    fetcher = Fetcher(ground)
    try:
        yield fetcher
    finally:
        fetcher.stop()
        ground.close()
