"""The stores of a node: which memory a change of the settings keeps, and the handles of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fastgw.cache.shared.layout import CONTROL, MOST_COLUMNS, CacheMemory
from fastgw.cache.tiers.node_stores import NodeStores, StoreHandles, StoreSettings
from tests.unit.cache.nodes import FakeLoop, leased, pins_in, put, read

KEY = b"k" * 16
SMALL = StoreSettings(1 << 20, 1 << 16)


@pytest.fixture
def stores() -> Iterator[NodeStores]:
    stores = NodeStores()
    stores.stores = stores.planned({"main": SMALL})
    yield stores
    stores.close()


def handles(stores: NodeStores, column: int) -> StoreHandles:
    return StoreHandles(column, FakeLoop(lambda callback: None), stores, {}, lambda head: 0.0)


def test_a_change_keeps_what_it_can(stores: NodeStores) -> None:
    main = stores.stores["main"]
    assert stores.planned({"main": SMALL}) == stores.stores
    other = stores.planned({"main": SMALL._replace(most_bytes=1 << 10), "more": SMALL})
    assert other["main"].memory is main.memory
    assert other["more"].memory is not main.memory
    assert len({main.number, other["main"].number, other["more"].number}) == 3
    larger = stores.planned({"main": SMALL._replace(memory=2 << 20)})
    assert larger["main"].memory is not main.memory
    assert stores.stores == {"main": main}


def test_processes_share_a_store_and_one_that_joins_later_too(stores: NodeStores) -> None:
    control, worker = handles(stores, CONTROL), handles(stores, 1)
    there, here = control.get("main"), worker.get("main")
    assert there is not None
    assert here is not None
    assert worker.get("none") is None
    put(here, KEY, b"body")
    assert read(there, KEY) == (b"head", b"body")
    assert control.numbers(["main", "none"])["main"].objects == 1

    added = stores.planned({"more": SMALL})["more"]
    worker.open_store("more", CacheMemory(SMALL.memory, os.dup(added.memory.fd)), SMALL.most_bytes)
    more = worker.get("more")
    assert more is not None
    put(more, KEY, b"other")
    assert read(here, KEY) == (b"head", b"body")
    worker.close()
    control.close()


def test_a_purge_by_a_replaced_handle_reaches_its_successor(stores: NodeStores) -> None:
    worker = handles(stores, 1)
    before = worker.get("main")
    assert before is not None
    added = stores.planned({"main": SMALL._replace(memory=2 << 20)})["main"]
    worker.open_store("main", CacheMemory(2 << 20, os.dup(added.memory.fd)), SMALL.most_bytes)
    after = worker.get("main")
    assert after is not None
    assert after is not before
    put(after, KEY, b"body")
    before.purge("all")
    assert after.find(KEY) is None
    worker.close()


def test_the_column_of_a_dead_process_is_cleaned_up(stores: NodeStores) -> None:
    pid = os.fork()
    if pid == 0:
        store = handles(stores, 2).get("main")
        assert store is not None
        writer = leased(store, KEY).store(b"head")
        os._exit(writer is None)
    assert os.waitpid(pid, 0)[1] == 0
    memory = stores.stores["main"].memory
    assert pins_in(memory) == 1
    stores.clean_up(2, {})
    stores.clean_up(MOST_COLUMNS, {})
    assert pins_in(memory) == 0
    worker = handles(stores, 1)
    store = worker.get("main")
    assert store is not None
    put(store, KEY)
    worker.close()


def test_a_process_without_a_column_has_no_store(stores: NodeStores) -> None:
    worker = handles(stores, MOST_COLUMNS)
    assert worker.get("main") is None
    assert worker.numbers(["main"]) == {}
    worker.close()
