"""Table swap of a worker during a reload: build the new tables, swap them between two requests, free the old ones.

All of it is done in slices, so that no request waits for it. While tables are built the garbage collector is off,
because it would traverse them again and again; then they are frozen, as the first ones were before the fork. They have
no reference cycles: old tables are freed as soon as nothing refers to them.
"""

import asyncio
import errno
import gc
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Final, NamedTuple

from fastgw.config.sources.followed_files import use_contents
from fastgw.gateway.compiler import building
from fastgw.gateway.tables import CompileError, Gateway, dismantling
from fastgw.operator_log import described
from fastgw.routing.table import Steps
from fastgw.runtime.ipc.channel import Prepare
from fastgw.runtime.node.config_snapshot import unsealing
from fastgw.runtime.process.machine_capacity import file_limit
from fastgw.runtime.process.transient_errors import is_passing
from fastgw.runtime.worker.sliced_work import Slices

IN_USE_S: Final = 0.2
"""Seconds between two checks whether old tables are still in use."""


class RetiredTables(NamedTuple):
    """Tables that were replaced."""

    gateway: Gateway
    due_at: float
    """When to check whether they are still in use, by the loop's clock."""


class TableSwap:
    """`gateway`: the tables in use, of `generation`. `starting`: further steps to start new tables."""

    def __init__(
        self,
        slices: Slices,
        gateway: Gateway,
        generation: int,
        starting: Callable[[Gateway], Steps[None]],
        prepared: Callable[[int], None],
        refused: Callable[[int, str, bool], None],
    ) -> None:
        self.gateway = gateway
        self.generation = generation
        self._slices = slices
        self._starting = starting
        self._prepared = prepared
        self._refused = refused
        self._wanted: Prepare | None = None
        self._built: Gateway | None = None
        self._under_way = 0  # builds, including those that are no longer needed
        self._awaited: set[asyncio.Future[None]] = set()
        self._old: deque[RetiredTables] = deque()  # the oldest first
        self._clearing: asyncio.TimerHandle | None = None

    def gateways(self) -> Iterator[Gateway]:
        """The tables in use, previous ones that may still be in use, and prepared ones."""
        yield self.gateway
        yield from (old.gateway for old in self._old)
        if self._built is not None:
            yield self._built

    def prepare(self, message: Prepare, descriptor: int) -> None:
        """Begin to build. A previously prepared generation is discarded."""
        self.abort()
        self._wanted = message
        self._under_way += 1
        gc.disable()
        self._slices.run(self._building(descriptor), partial(self._finish, message), partial(self._fail, message))

    def abort(self) -> None:
        """Discard prepared tables. A running build is finished first, because dropping it half built would be one long
        step.
        """
        self._wanted = None
        if self._built is not None:
            built, self._built = self._built, None
            self._discard(built)

    def wait_for(self, future: "asyncio.Future[None]") -> None:
        """Tables that are started now are ready once this future is done, too: the helper processes of their filters
        are ready, for example.
        """
        self._awaited.add(future)

    def once_ready(self, then: Callable[[], None]) -> None:
        """Call this after all futures that tables wait for."""
        self._awaited = {future for future in self._awaited if not future.done()}
        if self._awaited:
            next(iter(self._awaited)).add_done_callback(lambda _: self.once_ready(then))
        else:
            then()

    def commit(self, generation: int) -> tuple[Gateway, Prepare] | None:
        """Put the tables of this generation in use. None: they were not prepared."""
        message, gateway = self._wanted, self._built
        if message is None or gateway is None or message.generation != generation:
            return None
        self._wanted = self._built = None
        before, self.gateway, self.generation = self.gateway, gateway, generation
        # Requests may still use them for routing: a connection just accepted, or a request that waits in a filter.
        self._old.append(RetiredTables(before, asyncio.get_running_loop().time() + IN_USE_S))
        if self._clearing is None:
            self._clear_later()
        return gateway, message

    def _building(self, descriptor: int) -> Generator[None, None, Gateway]:
        try:
            accepted = yield from unsealing(descriptor, sources=False)
        finally:
            os.close(descriptor)
        use_contents(accepted.captured)
        base = self.gateway if accepted.base == self.generation else None
        gateway = yield from building(accepted.plan, accepted.workers, base)
        gateway.slot_table = accepted.slot_table
        yield from self._starting(gateway)
        yield from accepted.emptying()
        return gateway

    def _finish(self, message: Prepare, gateway: Gateway) -> None:
        self._settle()
        if message is self._wanted:
            self._built = gateway
            self.once_ready(partial(self._tell_prepared, message))
        else:
            self._discard(gateway)

    def _tell_prepared(self, message: Prepare) -> None:
        if message is self._wanted:
            self._prepared(message.generation)

    def _fail(self, message: Prepare, error: Exception) -> None:
        self._settle()
        if message is self._wanted:
            self._wanted = None
            reason = str(error) if isinstance(error, CompileError | OSError) else described(error)
            if isinstance(error, OSError) and error.errno == errno.EMFILE:
                reason = f"{error.strerror}: {file_limit()} are too few (ulimit -n); raise it"
            self._refused(message.generation, reason, is_passing(error))

    def _settle(self) -> None:
        """Handle the end of a build."""
        self._under_way -= 1
        if not self._under_way:
            gc.freeze()
            gc.enable()

    # --- freeing ---

    def _discard(self, built: Gateway) -> None:
        """Free tables that were never in use, except for the parts that they share with those in use."""
        self._slices.run(self._discarding(built, self.gateway), lambda _: None, _raise)

    def _discarding(self, built: Gateway, lender: Gateway) -> Steps[None]:
        yield from built.retiring(lender)
        yield from dismantling(built, lender)

    def _clear_later(self) -> None:
        """Start the one timer that clears until nothing is left."""
        self._clearing = asyncio.get_running_loop().call_later(IN_USE_S, self._clear)

    def _clear(self) -> None:
        self._slices.run(self._clear_due(), lambda _: self._go_on_clearing(), _raise)

    def _go_on_clearing(self) -> None:
        self._clearing = None
        if self._old:
            self._clear_later()

    def _clear_due(self) -> Steps[None]:
        """Free the parts that only old tables refer to, one table after another, because each shares parts with the
        next.
        """
        now = asyncio.get_running_loop().time()
        for old in [each for each in self._old if each.due_at <= now]:
            yield from old.gateway.retiring(self.gateway)
        while self._old and self._old[0].due_at <= now and not self._old[0].gateway.in_use:
            oldest = self._old.popleft().gateway
            yield from dismantling(oldest, self._old[0].gateway if self._old else self.gateway)


def _raise(error: Exception) -> None:
    raise error
