"""One limit for the pools of several workers: who gets a place that becomes free, and what happens to idle connections.

The workers are pools on one loop, with the shared memory and the eventfds of a node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.shm.memory import Layout, SharedMemory
from fastgw.shm.node_queue import NodeQueue, WorkerBell
from fastgw.shm.upstream_words import TargetWords
from fastgw.shm.wakers import WakeReader, WakeReason, close_wakers, open_wakers
from fastgw.upstream.connections import pool as pooling
from fastgw.upstream.connections.pool import Pool
from fastgw.upstream.targets.target import Target, build_targets
from tests.support.lending import Borrower, Connection, opened, upstream
from tests.support.on_loop import on_loop, turns, until

SLOT = 1
LATE = 3600.0


class Shared(Connection):
    """A connection that carries three streams at once."""

    def __init__(self, pool: Any, target: Target) -> None:
        super().__init__(pool, target)
        self.capacity = 3


class Node:
    """A node: `make` adds a worker's pool."""

    def __init__(self) -> None:
        layout = Layout()
        self.words = TargetWords(layout)
        self.shared = SharedMemory.create(layout, 3)
        self.wakers = open_wakers(3)
        self.pools: list[Pool] = []
        self.readers: list[WakeReader] = []
        self.bells: list[WorkerBell] = []

    def make(self, make: Any = Connection, rings: bool = True, worker: int | None = None, **numbers: Any) -> Pool:
        """`worker`: of an earlier pool, which this one replaces in a later configuration."""
        index = len(self.bells) if worker is None else worker
        column, configured = self.shared.columns[index], upstream(**numbers)
        most = configured.pool
        if worker is None:
            self.bells.append(WorkerBell(self.wakers if rings else {}))
        bell = self.bells[index]
        pool: Pool = Pool(
            build_targets(configured),
            configured,
            make,
            3,
            column.limit(self.words.connections + SLOT, most.most_connections()),
            column.limit(self.words.pending + SLOT, most.max_pending),
            queue=NodeQueue(self.words.queue(SLOT), most.most_connections(), most.pending_timeout, column, bell),
        )

        if worker is None:
            reader = WakeReader(index + 1, asyncio.get_running_loop(), self.wakers)
            reader.listen(WakeReason.POOL, bell.due)
            self.readers.append(reader)
        self.pools.append(pool)
        return pool

    @property
    def connections(self) -> int:
        return self.shared.total(self.words.connections + SLOT)

    def stop(self) -> None:
        for reader in self.readers:
            reader.close()
        for pool in self.pools:
            pool.stop()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """No pool looks at intervals: only bells are left."""
    monkeypatch.setattr(pooling, "TICK", LATE)
    monkeypatch.setattr(pooling, "SWEEP", LATE)
    made = Node()
    yield made
    close_wakers(made.wakers)


def come(pool: Pool, **more: Any) -> Borrower:
    """A borrower that finds no connection, and waits."""
    borrower = Borrower()
    assert pool.lend(pool.targets[0], borrower, **more) is None
    return borrower


async def served(borrower: Borrower, dialer: Any) -> Any:
    """The connection that is opened for it."""
    await dialer.begun()
    dialer.succeed()
    return await borrower.answer()


@on_loop
async def test_idle_connections_are_closed_for_requests_that_wait_at_other_workers(node, dialer):
    """One for each, those that were idle longest; connections in use are not."""
    one, other = node.make(max_connections=6), node.make(max_connections=6)
    held = [await opened(one, dialer) for _ in range(6)]
    for connection in held[:2]:
        one.give_back(connection)
    connection = await served(come(other), dialer)
    assert [each.closed for each in held] == [True, False, False, False, False, False]
    assert (one.idle_count, node.connections) == (1, 6)
    node.stop()
    for lent in held[2:]:
        one.give_back(lent)
    other.give_back(connection)
    assert node.connections == 0


@on_loop
async def test_a_connection_may_be_opened_while_there_is_a_place_and_nobody_waits_for_it(node, dialer):
    one, other = node.make(max_connections=3), node.make(max_connections=3)
    held = await opened(one, dialer)
    also_held = await opened(other, dialer)
    assert (one.may_open(), other.may_open()) == (True, True)
    await opened(other, dialer)
    assert (one.may_open(), other.may_open()) == (False, False)
    one.give_back(held)
    assert (one.may_open(), other.may_open()) == (True, False), "an idle one of the same worker could be closed"
    assert one.lend(one.targets[0], Borrower()) is held
    come(one)
    come(other)
    other.give_back(also_held)
    assert (one.may_open(), other.may_open()) == (False, False), "requests wait"
    node.stop()


@on_loop
async def test_idle_connections_of_other_workers_refuse_no_request(node, dialer):
    """Also if none may wait: a connection that nobody uses is closed for it."""
    one, other = (node.make(max_connections=2, max_pending=0) for _ in range(2))
    held = [await opened(one, dialer) for _ in range(2)]
    for connection in held:
        one.give_back(connection)
    waiting = [come(other), come(other)]
    assert other.lend(other.targets[0], Borrower()) is Fault.POOL_FULL, "there are only two connections"
    connections = [await served(borrower, dialer) for borrower in waiting]
    assert [each.closed for each in held] == [True, True]
    node.stop()
    for connection in connections:
        other.give_back(connection)
    assert (node.connections, node.shared.total(node.words.pending + SLOT)) == (0, 0)


@on_loop
async def test_no_request_waits_beyond_max_pending_for_connections_that_are_in_use(node, dialer, monkeypatch):
    one, other = (node.make(max_connections=1, max_pending=0) for _ in range(2))
    held = await opened(one, dialer)
    first = come(other)
    assert await first.answer() is Fault.POOL_FULL, "the other worker has looked"
    assert other.lend(other.targets[0], Borrower()) is Fault.POOL_FULL, "it has no idle connection"
    node.readers[0].close()
    for looks_late in (True, False):
        one._queue.watch(False)
        waits = come(other)
        first_look = other._ringer
        await until(lambda first_look=first_look: other._ringer is not first_look)
        assert waits.told == [], "it may have one"
        if looks_late:
            one.handle_bell()
        else:
            monkeypatch.setattr(pooling, "TICK", 0.0)
            other._tick()
        assert await waits.answer() is Fault.POOL_FULL
    assert not other._beyond
    node.stop()
    one.give_back(held)


@on_loop
@pytest.mark.parametrize("hangs", [False, True])
async def test_requests_for_which_the_queue_has_room_again_wait_as_the_others(node, dialer, monkeypatch, hangs):
    """The first of them, until `pending_timeout`; the last ones are still too many."""
    one, other = (node.make(max_connections=3, max_pending=1) for _ in range(2))
    held = [await opened(one, dialer) for _ in range(2)]
    used = await opened(other, dialer)
    if hangs:  # it never says that it has no idle connection
        node.readers[0].close()
    within, first, last = (come(other) for _ in range(3))
    other.give_back(used)
    assert within.told == [used]
    if hangs:
        monkeypatch.setattr(pooling, "TICK", 0.0)
        other._tick()
    assert await last.answer() is Fault.POOL_FULL
    monkeypatch.setattr(pooling, "TICK", 0.0)
    other._tick()
    assert (first.told, other.is_queued(first)) == ([], True)
    other.give_back(used)
    assert first.told == [used]
    node.stop()
    for connection in held:
        one.give_back(connection)
    other.give_back(used)


@on_loop
async def test_a_burst_on_one_worker_gets_all_connections_that_nobody_uses(node, dialer, monkeypatch):
    monkeypatch.setattr(pooling, "RING_EVERY", 0.001)
    one, other = node.make(max_connections=6), node.make(max_connections=6)
    held = [await opened(one, dialer) for _ in range(2)] + [await opened(other, dialer) for _ in range(2)]
    for pool, connection in zip((one, one, other, other), held, strict=True):
        pool.give_back(connection)
    lent = [other.try_lend(other.targets[0]) for _ in range(2)]
    assert all(lent)
    lent += [await served(come(other), dialer) for _ in range(4)]  # the last comes soon after a bell
    assert (node.connections, one.idle_count) == (6, 0)
    node.stop()
    for connection in lent:
        other.give_back(connection)


@on_loop
async def test_a_connection_that_no_request_of_its_worker_needs_goes_to_one_of_another(node, dialer):
    one, other = node.make(max_connections=3), node.make(max_connections=3)
    held = [await opened(one, dialer) for _ in range(3)]
    waiting = come(other)
    await turns()
    one.give_back(held[0])
    assert held[0].closed
    connection = await served(waiting, dialer)
    one.give_back(held[1])
    assert (one.idle_count, held[1].closed) == (1, False), "nobody waits any more"
    node.stop()
    one.give_back(held[2])
    other.give_back(connection)
    assert node.connections == 0


@on_loop
async def test_a_place_is_for_the_request_that_has_waited_longest_at_any_worker(node, dialer, monkeypatch):
    monkeypatch.setattr(pooling, "LEAD", 0.0)
    one, other, third = (node.make(max_connections=1) for _ in range(3))
    connection, owner = await opened(one, dialer), one
    waiting = [(pool, come(pool)) for pool in (other, one, third, one, other)]
    for pool, borrower in waiting:
        await turns()
        owner.give_back(connection)
        (connection,) = [await served(borrower, dialer)] if pool is not owner else borrower.told
        owner = pool
        assert node.connections == 1
    node.stop()
    owner.give_back(connection)


@on_loop
async def test_a_used_connection_serves_its_worker_while_others_have_not_waited_much_longer(node, dialer, monkeypatch):
    """Otherwise each request of a service with fewer connections than requests would open one."""
    monkeypatch.setattr(pooling, "LEAD", LATE)
    one, other = node.make(max_connections=1, pending_timeout=LATE), node.make(max_connections=1, pending_timeout=LATE)
    held = await opened(one, dialer)
    at_other, here = come(other), come(one)
    await turns()
    one.give_back(held)
    assert (here.told, held.closed) == ([held], False)
    one.give_back(held)  # no further request of this worker
    connection = await served(at_other, dialer)
    node.stop()
    other.give_back(connection)


@on_loop
async def test_a_request_that_comes_now_does_not_take_the_place_of_one_that_waits(node, dialer):
    one, other = node.make(max_connections=1), node.make(max_connections=1)
    held = await opened(one, dialer)
    waiting = come(other)
    one.discard(held)
    late = come(one)  # the other worker has not handled the bell yet
    assert (len(one._openings), one.is_queued(late)) == (0, True)
    assert not one.take_place(one.targets[0])
    connection = await served(waiting, dialer)
    other.give_back(connection)
    connection = await served(late, dialer)
    node.stop()
    one.give_back(connection)


@on_loop
async def test_a_worker_that_hangs_does_not_keep_a_place_from_the_others(node, dialer, monkeypatch):
    monkeypatch.setattr(pooling, "TICK", 0.001)
    one, hanging = node.make(max_connections=1), node.make(max_connections=1)
    held = await opened(one, dialer)
    waiting = come(hanging)
    node.readers[1].close()
    hanging._ticker.cancel()
    one.discard(held)
    for _ in range(2):
        borrower = come(one)
        assert one.is_queued(borrower)
        one.discard(await served(borrower, dialer))
    monkeypatch.setattr(pooling, "TICK", LATE)
    borrower = come(one)
    assert not one.is_queued(borrower), "it did not look in the time between two ticks"
    connection = await served(borrower, dialer)
    hanging.handle_bell()
    one.discard(connection)
    late = come(one)
    assert one.is_queued(late), "it looks again"
    hanging.handle_bell()
    connection = await served(waiting, dialer)
    hanging.give_back(connection)
    connection = await served(late, dialer)
    node.stop()
    one.give_back(connection)


@on_loop
async def test_a_worker_whose_request_needed_no_place_any_more_does_not_hang(node, dialer):
    """A place is left to its request, which gets a connection of its own before the worker has heard of it."""
    one, other = node.make(max_connections=3, rings=False), node.make(max_connections=3)
    held = await opened(one, dialer)
    own, used = await opened(other, dialer), await opened(other, dialer)
    at_other = come(other)
    await turns()
    here = come(one)
    one.discard(held)
    other.give_back(own)
    assert (at_other.told, one.is_queued(here)) == ([own], True)
    one._tick()
    connection = await served(here, dialer)
    waits = come(one)
    one._tick()
    one.withdraw(waits)
    one.give_back(connection)
    assert (one.idle_count, node.connections) == (1, 3)
    await until(lambda: other._ringer is None)
    late = come(other)
    await turns()
    assert (one.idle_count, connection.closed) == (0, True)
    other._tick()  # no bell of the first worker reaches it
    connection = await served(late, dialer)
    node.stop()
    for lent in (own, used, connection):
        other.give_back(lent)


@on_loop
async def test_without_a_bell_waiting_requests_are_found_by_the_sweep(node, dialer):
    one, other = node.make(max_connections=3), node.make(max_connections=3, rings=False)
    held = [await opened(one, dialer) for _ in range(3)]
    one.give_back(held[0])
    waiting = come(other)
    await turns(50)
    assert not held[0].closed
    one._sweep()
    assert held[0].closed
    connection = await served(waiting, dialer)
    node.stop()
    for lent in held[1:]:
        one.give_back(lent)
    other.give_back(connection)


@on_loop
async def test_of_two_connections_with_streams_one_is_drained_and_of_one_none(node, dialer, monkeypatch):
    """Its free capacity would be of no use to any worker until its last stream ends."""
    monkeypatch.setattr(pooling, "LEAD", -1.0)
    one, other = node.make(Shared, max_connections=2), node.make(Shared, max_connections=2)
    (target,) = one.targets
    first = await opened(one, dialer)
    assert [one.try_lend(target) for _ in range(2)] == [first, first]
    second = await opened(one, dialer)
    assert one.try_lend(target) is second
    waiting = come(other)
    await turns()
    one.give_back(first)  # it is drained
    assert first.streams == 2
    assert one.try_lend(target) is second
    one.give_back(first)
    one.give_back(first)
    assert first.closed
    connection = await served(waiting, dialer)
    again = come(other, fresh=True)
    await turns()
    one.give_back(second)
    assert one.try_lend(target) is second, "the only one is kept"
    node.stop()
    for _ in range(3):
        one.give_back(second)
    other.give_back(connection)
    assert again.told != []
    assert node.connections == 0


@on_loop
async def test_pools_that_share_a_limit_are_quiet_when_nothing_waits(node, dialer):
    one, other = node.make(max_connections=2), node.make(max_connections=2)
    held = await opened(one, dialer)
    waiting = come(other)
    connection = await served(waiting, dialer)
    one.give_back(held)
    other.give_back(connection)
    await until(lambda: not any(pool._placeless for pool in node.pools))
    assert node.shared.total(node.words.queued_since + SLOT) == 0
    node.stop()
    assert node.connections == 0


@on_loop
async def test_a_pool_that_has_nothing_is_kept_by_no_queue(node: Node, dialer: Any) -> None:
    """As after a reload that has removed the upstream: nobody rings."""
    pool = node.make(max_connections=2)
    bell = pool._queue._bell  # type: ignore[union-attr]
    connection = await opened(pool, dialer)
    waits = [come(pool), come(pool)]
    assert len(bell.listening) == 1
    for borrower in waits:
        pool.withdraw(borrower)
    pool.retire()
    pool.give_back(connection)
    assert node.connections == 1  # the opening that nobody waits for any more
    await dialer.begun()
    dialer.succeed()
    await until(lambda: node.connections == 0)
    assert bell.listening == {}
    node.stop()


@on_loop
async def test_places_that_become_free_at_once_are_all_taken(node: Node, dialer: Any) -> None:
    """Those who wait are at two workers in turn, so that each worker leaves places to the other."""
    holder, first, second = (node.make(max_connections=4) for _ in range(3))
    held = [await opened(holder, dialer) for _ in range(4)]
    for number in range(6):
        come((first, second)[number % 2])
        await turns(2)
    holder._stopped = True  # it gives all of them up in one turn of the loop
    for connection in held:
        holder.give_back(connection)
    await until(lambda: len(dialer.openings) == 4)
    assert node.connections == 4
    node.stop()


@on_loop
async def test_who_is_put_back_into_the_queue_is_known_to_the_other_workers(node: Node, dialer: Any) -> None:
    """An opening that was to serve five serves one: the other four need connections that another worker has idle."""
    keeper, other = node.make(max_connections=6), node.make(max_connections=6)
    kept = [await opened(keeper, dialer) for _ in range(5)]
    other.targets[0].capacity = 5
    waits = [come(other) for _ in range(5)]
    await dialer.begun()
    assert len(dialer.openings) == 1
    for connection in kept[:2]:
        keeper.give_back(connection)
    assert keeper.idle_count == 2
    dialer.succeed()
    await waits[0].answer()
    for idle in (1, 0):
        if other._ringer is not None:
            await until(lambda: other._ringer is None)
        other._tick()
        await until(lambda idle=idle: keeper.idle_count == idle)
        await dialer.begun(2 - idle)
    node.stop()


@on_loop
async def test_who_waits_in_a_pool_that_was_replaced_gets_the_places_of_the_new_limit(node: Node, dialer: Any) -> None:
    """Although the connections of the new pools exceed the limit under which they have come."""
    before = [node.make(max_connections=1) for _ in range(2)]
    await opened(before[0], dialer)
    waits = [come(before[1]) for _ in range(3)]
    after = [node.make(max_connections=5, worker=worker) for worker in range(2)]
    come(after[0])
    await dialer.begun()
    assert node.connections == 2
    for old, new in zip(before, after, strict=True):
        old.follow_limits(new)
        old.retire()
    await dialer.begun(4)
    for _ in range(4):
        dialer.succeed()
    assert all([isinstance(await borrower.answer(), Connection) for borrower in waits])
    assert node.connections == 5
    node.stop()
