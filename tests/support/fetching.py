"""A fetcher on ground of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastgw.node.ground import Ground
from fastgw.upstream.fetch import Fetcher


@asynccontextmanager
async def fetching() -> AsyncIterator[Fetcher]:
    ground = Ground(asyncio.get_running_loop())
    ground.start()
    fetcher = Fetcher(ground)
    try:
        yield fetcher
    finally:
        fetcher.stop()
        ground.close()
