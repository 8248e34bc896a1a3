"""A worker's part of a reload: build the new tables beside those in use, swap between two requests, free the old ones.

All of it in slices, so that no request waits for it. The collector is kept away meanwhile, for a full collection walks
all tables; then what is here is frozen, as it was before the fork. The tables have no cycles: the old ones go as soon
as nobody refers to them.
"""

import asyncio
import gc
import os
from collections.abc import Callable, Generator
from typing import Final

from fastgw.compile import CompileError, Gateway, building, dismantling
from fastgw.runtime.accepted import unseal
from fastgw.runtime.channel import Prepare
from fastgw.runtime.notices import described
from fastgw.runtime.slices import Slices, Steps

IN_USE_S: Final = 1.0
"""How long to wait before looking whether old tables are still asked."""


class Changing:
    """`gateway`: the tables in use, of `generation`. `starting`: what new tables need besides being built."""

    def __init__(
        self,
        slices: Slices,
        gateway: Gateway,
        generation: int,
        starting: Callable[[Gateway], Steps],
        prepared: Callable[[int], None],
        refused: Callable[[int, str], None],
    ) -> None:
        self.gateway = gateway
        self.generation = generation
        self._slices = slices
        self._starting = starting
        self._prepared = prepared
        self._refused = refused
        self._wanted: Prepare | None = None
        self._steps: Steps | None = None  # while it is being built
        self._built: Gateway | None = None

    def prepare(self, message: Prepare, descriptor: int) -> None:
        """Begin to build. A generation that was prepared before is forgotten."""
        self.abort()
        gc.disable()
        self._wanted = message
        self._steps = self._building(descriptor)
        self._slices.run(self._steps, self._finish, self._fail)

    def abort(self) -> None:
        """Forget what is being built, or was."""
        self._wanted = None
        if self._steps is not None:
            self._slices.drop(self._steps)
            self._steps = None
            gc.enable()
        if self._built is not None:
            built, self._built = self._built, None
            self._dismantle(built)

    def commit(self, generation: int) -> tuple[Gateway, Prepare] | None:
        """Make the tables of this generation those in use. None: they were not prepared."""
        message, gateway = self._wanted, self._built
        if message is None or gateway is None or message.generation != generation:
            return None
        self._wanted = self._built = None
        before, self.gateway, self.generation = self.gateway, gateway, generation
        self._dismantle_later(before)
        return gateway, message

    def _building(self, descriptor: int) -> Generator[None, None, Gateway]:
        try:
            accepted = unseal(descriptor)
        finally:
            os.close(descriptor)
        yield
        base = self.gateway if accepted.base == self.generation else None
        gateway = yield from building(accepted.plan, accepted.workers, base)
        gateway.places = accepted.places
        yield from self._starting(gateway)
        return gateway

    def _finish(self, gateway: Gateway) -> None:
        assert self._wanted is not None
        self._steps = None
        self._built = gateway
        self._prepared(self._wanted.generation)

    def _fail(self, error: Exception) -> None:
        assert self._wanted is not None
        generation, self._wanted, self._steps = self._wanted.generation, None, None
        gc.enable()
        self._refused(generation, str(error) if isinstance(error, CompileError | OSError) else described(error))

    def _dismantle_later(self, old: Gateway) -> None:
        """Requests may still look for their route there: of a connection just accepted, or that wait in a filter."""
        asyncio.get_running_loop().call_later(IN_USE_S, self._dismantle, old)

    def _dismantle(self, old: Gateway) -> None:
        """Free what only the old tables hold."""
        self._slices.run(self._dismantling(old), lambda _: self._settle(), self._give_up)

    def _dismantling(self, old: Gateway) -> Steps:
        yield from old.retiring(self.gateway)
        if old.in_use:
            self._dismantle_later(old)
        else:
            yield from dismantling(old, self.gateway)

    def _settle(self) -> None:
        if self._steps is None:
            gc.freeze()
            gc.enable()

    def _give_up(self, error: Exception) -> None:
        self._settle()
        raise error
