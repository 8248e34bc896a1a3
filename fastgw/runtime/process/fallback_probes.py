"""Fallback probes: a worker serves `/livez`, `/readyz` and `/metrics` on the status listener's socket while control is
unavailable.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from functools import partial

from fastgw.admin.status_server import Metrics, StatusConnection, StatusPages
from fastgw.config.settings.gateway import Status
from fastgw.eventloop.socket_server import serve_on


class Probes:
    """Serves while it has a socket.

    Metrics are collected in a thread: with many routes that takes longer than requests should wait. Metrics that only
    control has, about health, feeds and certificates, are missing.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        is_ready: Callable[[], bool],
        metrics: Metrics,
        settings: Callable[[], Status | None],
    ) -> None:
        self._loop = loop
        self._pages = StatusPages(is_ready, lambda accept: loop.run_in_executor(None, metrics, accept), settings)
        self._serving: asyncio.Task[None] | None = None

    def watch(self, descriptors: Sequence[int]) -> None:
        """Serve on this listening socket, which is now owned here; None: stop serving."""
        if self._serving is not None:
            self._serving.cancel()
            self._serving = None
        for descriptor in descriptors:
            self._serving = self._loop.create_task(self._serve(socket.socket(fileno=descriptor)))

    async def _serve(self, listening: socket.socket) -> None:
        async with await status_server(listening, self._pages) as server:
            await server.serve_forever()


async def status_server(listening: socket.socket, pages: StatusPages) -> asyncio.Server:
    """Answer on a listening socket. Closing the server closes the socket."""
    return await serve_on(listening, partial(StatusConnection, pages))
