"""A thousand configurations one after the other, each with every filter changed: a worker's part of them takes no more
memory than the first few did."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastgw.config import Loaded, load_text
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.filters import TYPES
from fastgw.filters.api import Services
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import Gateway
from fastgw.routing.table import Steps
from fastgw.runtime.ipc.channel import Prepare
from fastgw.runtime.node.config_snapshot import PreviousGeneration, accept, seal
from fastgw.runtime.worker.sliced_work import Slices
from fastgw.runtime.worker.table_swap import TableSwap
from fastgw.shm.memory import SharedMemory
from fastgw.shm.node_limits import own_counts
from fastgw.shm.rate_limit_table import own_table
from fastgw.sync.feeds import Feeds
from fastgw.upstream.client.http_client import Fetcher
from tests.support.memory import SERVICE
from tests.support.on_loop import until
from tests.unit.filters.test_reference_circles import GENERATED, SAMPLES, sample_files, settled

RELOADS = 1000
WARM = 200
MIB = 1 << 20


class Mallinfo(ctypes.Structure):
    """mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


def in_use() -> tuple[int, int]:
    """Objects of Python's, and bytes of the C library's, where what OpenSSL and patterns hold is.

    To collect empties the lists of objects to be used again; circles that were frozen stay.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo
    told = libc.mallinfo2()
    return sys.getallocatedblocks(), told.uordblks + told.hblkhd


def every_filter(folder: Path, changed: bool) -> Loaded:
    """A route for each sample of each filter; `changed` changes them all."""
    routes = [
        {
            "name": f"{name}-{number}",
            "paths": [f"/{name}/{number}/{{id}}"],
            "upstream": "u",
            "filters": {name: settled(settings, folder) | {"shadow": changed}},
        }
        for name, samples in SAMPLES.items()
        for number, settings in enumerate(samples)
        # What is made of an OpenAPI document is not here; and a process for each generation would take minutes.
        if GENERATED not in settings.values() and "crs" not in settings
    ]
    consumers: list[dict[str, Any]] = [
        {"name": "alice", "groups": ["staff"], "key_auth": [{"key": f"k{changed}"}]},
        {"name": "bob", "basic_auth": [{"username": "bob", "password": f"p{changed}"}]},
    ]
    document = {**SERVICE, "consumers": consumers, "routes": routes}
    return load_text(json.dumps(document).encode(), str(folder / "gateway.json"), TYPES)


class Worker:
    """What changes its tables, and what they are started with."""

    def __init__(self, documents: list[Loaded]) -> None:
        loop = asyncio.get_running_loop()
        self.documents = documents
        self.worker_loop = WorkerLoop(loop)
        self.worker_loop.start()
        self.services = Services(
            self.worker_loop, Fetcher(self.worker_loop), Feeds({}, lambda key, seen: None), own_table(), own_counts()
        )
        first = documents[0]
        gateway = compile(first.config, 1, first.captured)
        self.slot_table = gateway.slot_table
        self.column = SharedMemory(gateway.layout, 1).columns[0]
        gateway.start(self.services, self.column)
        self.before = accept(
            first, generation=1, date=1.0, source="api", slot_table=self.slot_table, workers=1, base=None
        )
        self.ready = 0
        self.changing = TableSwap(Slices(loop), gateway, 1, self._starting, self._prepared, self._refused)

    def _starting(self, gateway: Gateway) -> Steps[None]:
        return gateway.starting(self.services, self.column)

    def _prepared(self, generation: int) -> None:
        self.ready = generation

    def _refused(self, generation: int, why: str, passing: bool) -> None:
        raise AssertionError(why)

    async def reload(self, generation: int) -> None:
        self.before = accept(
            self.documents[(generation - 1) % len(self.documents)],
            generation=generation,
            date=1.0,
            source="api",
            slot_table=self.slot_table,
            workers=1,
            base=PreviousGeneration(self.before, self.before.config()),
        )
        self.changing.prepare(Prepare(generation=generation, listeners=[]), seal(self.before))
        await until(lambda: self.ready == generation)
        before = self.changing.gateway
        committed = self.changing.commit(generation)
        assert committed is not None
        assert not set(map(id, before.routes)) & set(map(id, committed[0].routes))

    async def settle(self) -> None:
        """Until all old tables are free: who is taken out of the queue last is taken apart in slices."""
        await until(lambda: not self.changing._old and self.changing._clearing is None)

    def end(self) -> None:
        self.changing.gateway.stop()
        self.services.fetcher.stop()
        self.worker_loop.close()


async def reloaded(documents: list[Loaded]) -> list[tuple[int, int]]:
    """What is in use after each hundred."""
    worker = Worker(documents)
    told = []
    try:
        for generation in range(2, RELOADS + 2):
            await worker.reload(generation)
            if generation % 100 == 1:
                await worker.settle()
                told.append(in_use())
    finally:
        await worker.settle()
        worker.end()
    return told


@pytest.mark.extended
def test_a_thousand_reloads_with_every_filter_changed(tmp_path: Path) -> None:
    """Who leaves a circle leaves it for ever: what serves is frozen, and no collector sees it."""
    sample_files(tmp_path)
    documents = [every_filter(tmp_path, changed) for changed in (False, True)]
    gc.collect()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            told = runner.run(reloaded(documents))
    finally:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
    blocks, octets = zip(*told[WARM // 100 :], strict=True)
    # What is in use goes up and down by what the collector has not seen yet; what leaks is in the least of it, too.
    half = len(blocks) // 2
    assert min(blocks[half:]) - min(blocks[:half]) < RELOADS // 4, told  # a circle is some objects for each
    assert min(octets[half:]) - min(octets[:half]) < MIB, told
