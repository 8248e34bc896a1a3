"""A worker's part of a reload: whatever becomes of it, the collector is on again, and nothing of it is left."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Iterator

import pytest

from fastgw.config import load_text
from fastgw.exchange import Route
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError, Gateway
from fastgw.routing.table import Steps
from fastgw.runtime.ipc.channel import Prepare
from fastgw.runtime.node.config_snapshot import ConfigSnapshot, PreviousGeneration, accept, seal
from fastgw.runtime.worker.sliced_work import Slices
from fastgw.runtime.worker.table_swap import TableSwap
from tests.support.on_loop import on_loop, turns, until

ROUTES = 300


def accepted(generation: int, base: ConfigSnapshot | None = None) -> ConfigSnapshot:
    """Some routes are the same in each generation, the others have another path."""
    lines = ["version: 1", "listeners: {main: {address: 127.0.0.1:0}}", "routes:"]
    for number in range(ROUTES):
        path = f"/{number}/{generation if number % 2 else ''}"
        lines.append(f"  - {{name: r{number}, paths: ['{path}'], respond: {{body: g{generation * (number % 2)}}}}}")
    loaded = load_text("\n".join(lines).encode(), "/nowhere/gateway.yaml", TYPES)
    slot_table = compile(loaded.config, 1).slot_table
    before = None if base is None else PreviousGeneration(base, base.config())
    return accept(loaded, generation=generation, date=1.0, source="api", slot_table=slot_table, workers=1, base=before)


class Worker:
    """What `TableSwap` tells, and generations to give it."""

    def __init__(self) -> None:
        self.first = accepted(1)
        gateway = compile(self.first.config(), 1)
        self.told: list[tuple[str, int]] = []
        self.broken = False
        self.awaited: list[asyncio.Future[None]] = []
        self.changing = TableSwap(
            Slices(asyncio.get_running_loop()), gateway, 1, self._starting, self._prepared, self._refused
        )

    def _starting(self, gateway: Gateway) -> Steps[None]:
        yield
        for future in self.awaited:
            self.changing.wait_for(future)
        if self.broken:
            raise CompileError("broken")

    def _prepared(self, generation: int) -> None:
        self.told.append(("prepared", generation))

    def _refused(self, generation: int, why: str, passing: bool) -> None:
        self.told.append((why, generation))

    def prepare(self, generation: int, base: ConfigSnapshot | None = None) -> ConfigSnapshot:
        made = accepted(generation, base or self.first)
        self.changing.prepare(Prepare(generation=generation, listeners=[]), seal(made))
        return made


def snapshots() -> set[tuple[str, str]]:
    """Configurations that this process holds open; other tests may have left some behind."""
    listed = [(each, f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
    held = {(each, os.readlink(path)) for each, path in listed if os.path.islink(path)}
    return {(each, leads_to) for each, leads_to in held if "accepted" in leads_to}


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    before = snapshots()
    yield
    assert gc.isenabled()
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # what was collected, as before
    assert snapshots() <= before


async def prepared(worker: Worker, generation: int) -> None:
    await until(lambda: ("prepared", generation) in worker.told)


def routes() -> int:
    """How many routes there are: each refers to its class. The collector would walk all that the tests hold."""
    return sys.getrefcount(Route)


@on_loop
async def test_while_tables_are_built_the_collector_is_off_and_then_they_are_frozen():
    worker = Worker()
    gc.unfreeze()
    worker.prepare(2)
    assert not gc.isenabled()
    await prepared(worker, 2)
    assert gc.isenabled()
    assert gc.get_freeze_count() > ROUTES
    assert worker.changing.commit(2) is not None


@on_loop
async def test_a_refusal_switches_it_on_again():
    worker = Worker()
    worker.broken = True
    worker.prepare(2)
    await until(lambda: ("broken", 2) in worker.told)
    assert gc.isenabled()
    assert worker.changing.commit(2) is None


@on_loop
async def test_what_is_not_wanted_any_more_is_built_to_its_end_and_freed():
    worker = Worker()
    before = routes()
    worker.prepare(2)
    worker.changing.abort()
    assert not gc.isenabled()
    await until(gc.isenabled)
    await until(lambda: routes() <= before)
    assert worker.told == []


@on_loop
async def test_tables_are_prepared_once_all_that_they_wait_for_is_done():
    worker = Worker()
    awaited = [asyncio.get_running_loop().create_future() for _ in range(2)]
    worker.awaited = awaited
    worker.prepare(2)
    await until(gc.isenabled)
    for future in awaited:
        await turns()
        assert worker.told == []
        future.set_result(None)
    await prepared(worker, 2)
    assert worker.told == [("prepared", 2)]
    assert worker.changing.commit(2) is not None


@on_loop
async def test_what_is_not_wanted_any_more_is_waited_for_no_longer():
    worker = Worker()
    before = routes()
    worker.awaited = [asyncio.get_running_loop().create_future()]
    worker.prepare(2)
    await until(gc.isenabled)
    worker.prepare(3)
    await until(gc.isenabled)
    worker.awaited[0].set_result(None)
    await prepared(worker, 3)
    assert worker.told == [("prepared", 3)]
    assert worker.changing.commit(3) is not None
    await until(lambda: routes() <= before)


@on_loop
async def test_of_two_that_overlap_the_later_is_prepared_and_the_earlier_is_freed():
    worker = Worker()
    before = routes()
    worker.prepare(2)
    worker.prepare(3)
    await prepared(worker, 3)
    assert worker.told == [("prepared", 3)]
    assert worker.changing.commit(2) is None
    assert worker.changing.commit(3) is not None
    await until(lambda: routes() <= before)
    assert gc.isenabled()


@on_loop
async def test_tables_that_are_still_asked_are_freed_later_and_those_after_them_too(monkeypatch):
    """What two generations have in common goes with the younger one, however long the older one is asked."""
    worker = Worker()
    before, oldest, made = routes(), worker.changing.gateway, worker.first
    (router,) = [table.router for table in oldest.tables.values()]
    router.await_request()
    for generation in (2, 3):
        made = worker.prepare(generation, made)
        await prepared(worker, generation)
        worker.changing.commit(generation)
    looked = []
    in_use = Gateway.in_use
    monkeypatch.setattr(Gateway, "in_use", property(lambda self: looked.append(self) or in_use.fget(self)))
    await until(lambda: len(looked) == 2)
    assert looked == [oldest, oldest]
    assert len(oldest.routes) == ROUTES
    router.count_down_request(None)
    await until(lambda routes=oldest.routes: not routes)
    del oldest, router
    looked.clear()
    await until(lambda: routes() <= before)
