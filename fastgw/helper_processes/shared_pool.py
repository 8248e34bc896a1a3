"""Shared pool: the helper processes of a program in one worker, for all filters that use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from msgspec.structs import replace

from fastgw.errors import Fault
from fastgw.helper_processes.pool import HelperBusy, HelperDied, HelperError, HelperLate, HelperPool, nothing_to_close
from fastgw.helper_processes.program import Program
from fastgw.observe.metrics.families import FilterEvent


def share_of(processes: int, workers: int, slot: int) -> int:
    """Return the number of processes of one worker: equal shares of those of the node, and at least one. `slot`: number
    of the worker, from 0: the first ones have what does not divide.
    """
    workers = max(workers, 1)
    return max(processes // workers + (slot % workers < processes % workers), 1)


@final
class SharedPool:
    """Processes of a program that start with the first use, or its first request, and end with the last use, once its
    requests are completed. `processes`: of the node, at least one for each worker.
    """

    def __init__(self, program: Program, processes: int = 1) -> None:
        self._program, self._processes = program, processes
        self._pool: HelperPool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._share = 1
        self._make_room: Callable[[], bool] = nothing_to_close
        self._uses = 0
        self._requests = 0  # in flight

    def __repr__(self) -> str:
        return f"<SharedPool {self._program.name}: {self._uses} uses, {self._pool}>"

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        workers: int,
        slot: int,
        wait_for: Callable[[asyncio.Future[None]], None] | None,
        make_room: Callable[[], bool] = nothing_to_close,
    ) -> None:
        """Begin a use by this worker (`share_of`). `wait_for`: called with the future of the start of the processes
        (`HelperPool.started`); None: they start with the first request. `make_room`: see `HelperPool`.
        """
        self._uses += 1
        self._loop, self._share = loop, share_of(self._processes, workers, slot)
        self._make_room = make_room
        if wait_for is not None:
            if self._pool is None:
                self._pool = self._started(loop)
            wait_for(self._pool.started)

    def stop(self) -> None:
        """End a use. Requests of its exchanges may still come: they start the processes again."""
        self._uses -= 1
        self._close_unused()

    def close(self) -> None:
        """End the processes. Requests fail."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _close_unused(self) -> None:
        if not self._uses and not self._requests:
            self.close()

    def _started(self, loop: asyncio.AbstractEventLoop) -> HelperPool:
        pool = HelperPool(loop, replace(self._program, processes=self._share), self._make_room)
        pool.start()
        return pool

    async def run_request(self, request: bytes, deadline_s: float | None = None) -> bytes:
        """Return the result for a request, as `HelperPool.run_request`. Raises `HelperError`."""
        if self._pool is None:
            if self._loop is None:
                raise HelperBusy("there is no process")
            self._pool = self._started(self._loop)
        self._requests += 1
        try:
            return await self._pool.run_request(request, deadline_s)
        finally:
            self._requests -= 1
            self._close_unused()


def event_of(error: HelperError) -> FilterEvent:
    """Return how a failed request to a helper process is counted."""
    if isinstance(error, HelperLate):
        return FilterEvent.HELPER_LATE
    return FilterEvent.HELPER_BUSY if isinstance(error, HelperBusy) else FilterEvent.HELPER_FAILED


def fault_of(error: HelperError) -> Fault:
    """Return the fault of an exchange that needs the result of a failed request."""
    if isinstance(error, HelperLate | HelperDied):
        return Fault.FILTER_TIMEOUT
    return Fault.OVERLOADED if isinstance(error, HelperBusy) else Fault.INTERNAL
