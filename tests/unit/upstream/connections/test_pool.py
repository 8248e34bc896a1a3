"""Lending connections: at once or from the queue, within the limits."""

import asyncio
import socket

import pytest
from msgspec.structs import replace

from fastgw.config.settings.gateway import Resolve
from fastgw.errors import Fault
from fastgw.shm.memory import Layout, SharedMemory
from fastgw.upstream.connections import pool as pooling
from fastgw.upstream.connections.pool import RECENT
from fastgw.upstream.connections.pool_limit import LocalLimit
from fastgw.upstream.targets import dns
from fastgw.upstream.targets.dns import TargetAddress
from tests.support.lending import Borrower, Connection, make, opened, upstream
from tests.support.on_loop import on_loop, turns, until


@on_loop
async def test_an_idle_connection_is_lent_at_once_the_one_used_last_first(dialer):
    pool = make(upstream())
    (target,) = pool.targets
    first, second = await opened(pool, dialer), await opened(pool, dialer)
    assert (first.uses, second.uses) == (1, 1)
    pool.give_back(first)
    pool.give_back(second)
    borrower = Borrower()
    assert pool.lend(target, borrower) is second
    assert pool.lend(target, borrower) is first
    assert (first.uses, second.uses) == (2, 2)
    assert (borrower.told, dialer.openings) == ([], [])
    pool.discard(first)
    pool.discard(second)


@on_loop
async def test_who_wants_a_fresh_connection_is_not_lent_a_used_one(dialer):
    pool = make(upstream())
    used = await opened(pool, dialer)
    pool.give_back(used)
    borrower = Borrower()
    assert pool.lend(pool.targets[0], borrower, fresh=True) is None
    await dialer.begun()
    dialer.succeed()
    connection = await borrower.answer()
    assert connection is not used
    assert connection.uses == 1
    pool.stop()
    pool.give_back(connection)


@on_loop
async def test_connections_are_lent_to_their_own_target_only(dialer):
    pool = make(upstream("http://192.0.2.1:80", "http://192.0.2.2:80"))
    connection = await opened(pool, dialer, pool.targets[0])
    pool.give_back(connection)
    borrower = Borrower()
    assert pool.lend(pool.targets[1], borrower) is None
    assert connection in pool.targets[0].idle
    pool.stop()
    assert borrower.told == [Fault.POOL_TIMEOUT]
    await turns()


@on_loop
async def test_a_connection_that_is_done_or_closed_is_not_kept(dialer):
    pool = make(upstream(max_uses=2))
    connection = await opened(pool, dialer)
    pool.give_back(connection)
    assert pool.lend(pool.targets[0], Borrower()) is connection
    pool.give_back(connection)
    assert connection.closed
    lost = await opened(pool, dialer)
    lost.closed = True
    pool.give_back(lost)
    assert "0 connections, 0 idle" in repr(pool)


@on_loop
async def test_an_idle_connection_that_the_upstream_closes_is_gone_at_once(dialer):
    pool = make(upstream())
    connection = await opened(pool, dialer)
    pool.forget(connection)
    assert "1 connections, 0 idle" in repr(pool)  # it is lent: who has it will see
    pool.give_back(connection)
    pool.forget(connection)
    assert "0 connections, 0 idle" in repr(pool)
    assert connection.closed


@on_loop
async def test_a_connection_is_discarded_once(dialer):
    limit = LocalLimit(1)
    pool = make(upstream(max_connections=1), limit=limit)
    connection = await opened(pool, dialer)
    for _ in range(3):
        pool.discard(connection)
    assert limit.try_take()
    assert not limit.try_take()


@on_loop
async def test_an_expired_connection_is_not_lent(dialer):
    pool = make(upstream(idle_timeout=5.0))
    connection = await opened(pool, dialer)
    pool.give_back(connection)
    connection.idle_since -= 6.0
    borrower = Borrower()
    assert pool.lend(pool.targets[0], borrower) is None
    assert connection.closed
    pool.stop()
    await turns()


@on_loop
async def test_who_may_not_lose_it_is_not_lent_what_was_idle_for_long(dialer):
    pool = make(upstream())
    connection = await opened(pool, dialer)
    pool.give_back(connection)
    connection.idle_since -= 2.0
    since = connection.idle_since
    borrower = Borrower()
    assert pool.lend(pool.targets[0], borrower, idle_at_most=1.0) is None
    assert (connection.idle_since, connection.uses, pool.idle_count) == (since, 1, 1)
    assert pool.lend(pool.targets[0], Borrower(), idle_at_most=3.0) is connection
    pool.give_back(connection)
    assert borrower.told == [connection]
    pool.stop()
    pool.give_back(connection)
    await turns()


@on_loop
async def test_the_sweep_closes_what_was_idle_too_long_and_nothing_else(dialer, monkeypatch):
    monkeypatch.setattr(pooling, "SWEEP", 0.001)
    pool = make(upstream(idle_timeout=1000.0))
    connections = [await opened(pool, dialer) for _ in range(4)]
    for connection in connections:
        pool.give_back(connection)
    for connection in connections[:2]:
        connection.idle_since -= 1001.0
    await until(lambda: pool.idle_count < 4)
    assert [connection.closed for connection in connections] == [True, True, False, False]
    for connection in connections[2:]:
        connection.idle_since -= 1001.0
    await until(lambda: pool.idle_count == 0)


@on_loop
async def test_beyond_max_idle_the_one_that_was_idle_longest_goes(dialer):
    pool = make(upstream("http://192.0.2.1:80", "http://192.0.2.2:80", max_idle=2))
    connections = [await opened(pool, dialer, pool.targets[index]) for index in (0, 1, 0)]
    for connection in connections:
        pool.give_back(connection)
    assert [connection.closed for connection in connections] == [True, False, False]
    assert pool.idle_count == 2
    pool.stop()


@on_loop
async def test_without_max_idle_connections_are_kept_while_the_load_needs_them(dialer, monkeypatch):
    """So that a load with more requests at once does not open a connection for each."""
    monkeypatch.setattr(pooling, "USUAL_IDLE", 2)
    pool = make(upstream("http://192.0.2.1:80", "http://192.0.2.2:80"))
    connections = [await opened(pool, dialer, pool.targets[index]) for index in (0, 1, 0, 1, 0)]
    for connection in connections:
        pool.give_back(connection)
    for connection in connections[:2]:
        connection.idle_since -= RECENT + 1.0
    assert pool.try_lend(pool.targets[1]) is connections[3]
    pool.give_back(connections[3])
    pool._sweep()
    assert [connection.closed for connection in connections] == [True, True, False, False, False]
    for connection in connections[2:]:
        connection.idle_since -= RECENT + 1.0
    pool._sweep()
    assert [connection.closed for connection in connections] == [True, True, True, False, False]
    pool.stop()


@on_loop
async def test_few_connections_that_the_load_needs_no_more_are_closed_at_once(dialer, monkeypatch):
    monkeypatch.setattr(pooling, "USUAL_IDLE", 1)
    monkeypatch.setattr(pooling, "CLOSED_PER_SWEEP", 3)
    pool = make(upstream())
    connections = [await opened(pool, dialer) for _ in range(6)]
    for connection in connections:
        pool.give_back(connection)
        connection.idle_since -= RECENT + 1.0
    left = []
    for _ in range(3):
        pool._sweep()
        left.append(pool.idle_count)
    assert left == [3, 1, 1]
    pool.stop()


@pytest.mark.parametrize(("workers", "recent", "kept"), [(1, 6, 2), (2, 3, 1), (7, 0, 0)])
@on_loop
async def test_without_max_idle_a_worker_keeps_its_share_of_all_connections(dialer, monkeypatch, workers, recent, kept):
    monkeypatch.setattr(pooling, "USUAL_IDLE", 2)
    pool = make(upstream(max_connections=6), workers=workers)
    connections = [await opened(pool, dialer) for _ in range(6)]
    for connection in connections:
        pool.give_back(connection)
    assert pool.idle_count == recent
    for connection in connections:
        connection.idle_since -= RECENT + 1.0
    pool._sweep()
    assert pool.idle_count == kept
    pool.stop()


@on_loop
async def test_with_other_workers_its_share_of_idle_connections_is_another(dialer):
    pool = make(upstream(max_idle=4))
    connections = [await opened(pool, dialer) for _ in range(4)]
    for connection in connections:
        pool.give_back(connection)
    pool.share(2)
    assert [connection.closed for connection in connections] == [True, True, False, False]
    pool.share(1)
    assert pool.idle_count == 2
    more = [pool.try_lend(pool.targets[0]) for _ in range(2)]
    more += [await opened(pool, dialer) for _ in range(2)]
    for connection in more:
        pool.give_back(connection)
    assert pool.idle_count == 4
    pool.stop()


@on_loop
async def test_a_retired_pool_keeps_nothing_and_still_lends_to_those_who_come(dialer):
    """Such as an exchange that was in a filter when its upstream was configured away, or that is tried again."""
    limit = LocalLimit(2)
    pool = make(upstream(max_connections=2), limit=limit)
    idle, lent = await opened(pool, dialer), await opened(pool, dialer)
    pool.give_back(idle)
    pool.retire()
    assert (idle.closed, lent.closed) == (True, False)
    late = await opened(pool, dialer)
    waiting = Borrower()
    assert pool.lend(pool.targets[0], waiting) is None
    pool.give_back(lent)
    assert await waiting.answer() is lent
    for connection in (lent, late):
        pool.give_back(connection)
        assert connection.closed
    assert (pool.idle_count, limit._taken) == (0, 0)


@on_loop
async def test_a_retired_pool_looks_up_no_names(monkeypatch, dialer):
    asked = []

    async def look_up(host, port):
        asked.append(host)
        return [TargetAddress(socket.AF_INET, ("192.0.2.1", port))]

    monkeypatch.setattr(dns, "look_up", look_up)
    configured = replace(upstream("http://users:80"), resolve=Resolve(interval=0.001))
    pool = make(configured)
    (target,) = pool.targets
    await target.addresses()
    pool.retire()
    count = len(asked)
    await asyncio.sleep(0.01)
    assert len(asked) == count
    assert repr(target._name).startswith("<Name users:80 lapsed")


class Names:
    """Answers of a resolver: one address of the name, which `last` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.last = 1
        monkeypatch.setattr(dns, "look_up", self._look_up)

    async def _look_up(self, host: str, port: int) -> list[TargetAddress]:
        return [self.address]

    @property
    def address(self) -> TargetAddress:
        return TargetAddress(socket.AF_INET, (f"192.0.2.{self.last}", 80))


@on_loop
async def test_while_connections_are_kept_the_name_is_looked_up_again(monkeypatch, dialer):
    names = Names(monkeypatch)
    pool = make(replace(upstream("http://users:80", idle_timeout=3600.0), resolve=Resolve(interval=0.001)))
    (target,) = pool.targets
    await target.addresses()
    connection = await opened(pool, dialer, address=names.address)
    await target.addresses()  # the interval may have passed meanwhile
    pool.give_back(connection)
    assert pool.lend(target, Borrower()) is connection
    pool.give_back(connection)
    names.last = 2
    await until(lambda: connection.closed)
    assert target.places == 0
    await until(lambda: "lapsed" in repr(target._name))  # nothing is open, and nobody asks
    pool.stop()


@on_loop
async def test_while_connections_are_lent_the_name_is_looked_up_again(monkeypatch, dialer):
    names = Names(monkeypatch)
    pool = make(replace(upstream("http://users:80"), resolve=Resolve(interval=0.001)))
    (target,) = pool.targets
    await target.addresses()
    connection = await opened(pool, dialer, address=names.address)
    await target.addresses()  # the interval may have passed meanwhile
    names.last = 2
    await until(lambda: target.has(names.address))
    assert not connection.closed
    pool.give_back(connection)
    assert connection.closed
    pool.stop()


@pytest.mark.parametrize("capacity", [1, 5])
@on_loop
async def test_a_connection_to_an_address_that_has_gone_meanwhile_serves_only_those_who_wait(
    monkeypatch, dialer, capacity
):
    names = Names(monkeypatch)
    monkeypatch.setattr(Connection, "capacity", capacity)
    pool = make(replace(upstream("http://users:80"), resolve=Resolve(interval=0.001)))
    (target,) = pool.targets
    target.capacity = capacity
    await target.addresses()
    old = names.address
    borrower = Borrower()
    pool.lend(target, borrower)
    await dialer.begun()
    names.last = 2
    while not target.has(names.address):
        await target.addresses()  # while no connection is open, the name is looked up for those who ask
        await asyncio.sleep(0)
    dialer.succeed(address=old)
    connection = await borrower.answer()
    later = Borrower()
    assert pool.lend(target, later) is None
    pool.give_back(connection)
    assert connection.closed
    await dialer.begun()
    dialer.succeed(address=names.address)
    assert await later.answer() is not connection
    pool.stop()


@on_loop
async def test_max_idle_0_keeps_none(dialer):
    pool = make(upstream(max_idle=0))
    connection = await opened(pool, dialer)
    pool.give_back(connection)
    assert connection.closed


@pytest.mark.parametrize(
    ("max_connections", "max_idle", "workers", "kept"), [(100, 5, 2, 3), (4, 64, 2, 2), (1, 64, 1, 1), (1, 64, 2, 0)]
)
@on_loop
async def test_a_worker_keeps_its_share_and_leaves_the_others_theirs(dialer, max_connections, max_idle, workers, kept):
    pool = make(upstream(max_connections=max_connections, max_idle=max_idle), workers=workers)
    connections = [await opened(pool, dialer) for _ in range(min(max_connections, 10))]
    for connection in connections:
        pool.give_back(connection)
    assert pool.idle_count == kept
    pool.stop()


# Waiting


@on_loop
async def test_max_connections_holds_and_those_who_wait_are_served_in_order(dialer):
    pool = make(upstream(max_connections=2))
    (target,) = pool.targets
    held = [await opened(pool, dialer) for _ in range(2)]
    waiting = [Borrower() for _ in range(3)]
    assert [pool.lend(target, borrower) for borrower in waiting] == [None] * 3
    await turns()
    assert dialer.openings == []
    pool.give_back(held[0])
    assert [borrower.told for borrower in waiting] == [[held[0]], [], []]
    pool.discard(held[1])  # its place is the next one's
    await dialer.begun()
    dialer.succeed()
    connection = await waiting[1].answer()
    assert connection not in held
    pool.give_back(held[0])
    assert waiting[2].told == [held[0]]
    pool.stop()
    for lent in (held[0], connection):
        pool.give_back(lent)


@on_loop
async def test_beyond_max_pending_the_pool_is_full(dialer):
    pool = make(upstream(max_connections=1, max_pending=2), workers=2)
    held = await opened(pool, dialer)
    waiting = [Borrower() for _ in range(3)]
    (target,) = pool.targets
    assert [pool.lend(target, borrower) for borrower in waiting] == [None, None, Fault.POOL_FULL]
    pool.withdraw(waiting[0])
    assert pool.lend(target, waiting[2]) is None
    pool.give_back(held)
    assert waiting[1].told == [held]
    assert waiting[0].told == []
    pool.stop()
    assert waiting[2].told == [Fault.POOL_TIMEOUT]
    pool.give_back(held)


@on_loop
async def test_waiting_for_a_place_ends(dialer, monkeypatch):
    monkeypatch.setattr(pooling, "TICK", 0.001)
    pool = make(upstream(max_connections=1, pending_timeout=0.02))
    held = await opened(pool, dialer)
    borrower = Borrower()
    assert pool.lend(pool.targets[0], borrower) is None
    assert await borrower.answer() is Fault.POOL_TIMEOUT
    pool.give_back(held)
    assert pool.idle_count == 1
    pool.stop()


@on_loop
async def test_a_failed_opening_fails_one_and_the_next_tries_anew(dialer):
    pool = make(upstream(max_connections=1))
    first, second = Borrower(), Borrower()
    pool.lend(pool.targets[0], first)
    pool.lend(pool.targets[0], second)
    await dialer.begun()
    dialer.fail(fault=Fault.TLS_FAILED)
    assert await first.answer() is Fault.TLS_FAILED
    assert second.told == []
    await dialer.begun()
    dialer.succeed()
    connection = await second.answer()
    assert isinstance(connection, Connection)
    pool.discard(connection)


@on_loop
async def test_a_borrower_may_call_back_into_the_pool(dialer):
    """Each one that fails asks again at once, for the other target."""
    pool = make(upstream("http://192.0.2.1:80", "http://192.0.2.2:80", max_connections=1))

    class Retrying(Borrower):
        def failed(self, fault: Fault, why: str = "") -> None:
            assert pool.lend(pool.targets[1], self) is None

    borrowers = [Retrying() for _ in range(3)]
    for borrower in borrowers:
        assert pool.lend(pool.targets[0], borrower) is None
    for _ in borrowers:
        await dialer.begun()
        dialer.fail()
        await turns()
    for borrower in borrowers:
        await dialer.begun()
        assert dialer.openings[0][0] is pool.targets[1]
        dialer.succeed()
        connection = await borrower.answer()
        assert isinstance(connection, Connection)
        pool.discard(connection)


@on_loop
async def test_a_connection_given_back_serves_who_waits_for_an_opening(dialer):
    """The opening is then one too many: the next to wait gets it, and else it is kept."""
    pool = make(upstream())
    (target,) = pool.targets
    held = await opened(pool, dialer)
    first, second = Borrower(), Borrower()
    pool.lend(target, first)
    await dialer.begun()
    pool.give_back(held)
    assert first.told == [held]
    pool.lend(target, second)
    await turns()
    assert len(dialer.openings) == 1  # no second one: that which runs is nobody's
    dialer.succeed()
    await second.answer()
    assert "2 connections, 0 idle, 0 opening, 0 waiting" in repr(pool)
    pool.stop()
    pool.give_back(held)
    pool.give_back(second.told[0])


@on_loop
async def test_a_fresh_connection_is_waited_for_in_turn(dialer):
    """When the pool is full, a used connection that comes back makes room for who wants a fresh one and was first."""
    pool = make(upstream(max_connections=1))
    (target,) = pool.targets
    held = await opened(pool, dialer)
    fresh, willing = Borrower(), Borrower()
    pool.lend(target, fresh, fresh=True)
    pool.lend(target, willing)
    pool.give_back(held)
    assert (fresh.told, willing.told, held.closed) == ([], [], True)
    await dialer.begun()
    dialer.succeed()
    connection = await fresh.answer()
    pool.give_back(connection)
    assert willing.told == [connection]
    pool.discard(connection)


@on_loop
async def test_a_target_that_is_back_gets_its_places_from_the_others(dialer):
    pool = make(upstream("http://192.0.2.1:80", "http://192.0.2.2:80", max_connections=4))
    one, other = pool.targets
    held = [await opened(pool, dialer, one) for _ in range(4)]
    for_other = [Borrower() for _ in range(4)]
    for_one = [Borrower() for _ in range(4)]
    for borrower in for_other:
        pool.lend(other, borrower)
    for borrower in for_one:
        pool.lend(one, borrower)
    for connection in held:
        pool.give_back(connection)
    await dialer.begun(2)
    assert (one.places, other.places) == (2, 2)
    assert [len(borrower.told) for borrower in for_one] == [1, 1, 0, 0]
    pool.stop()
    for borrower in for_one[:2]:
        pool.give_back(borrower.told[0])
    await turns()


@on_loop
async def test_an_idle_connection_of_another_target_makes_room(dialer):
    pool = make(upstream("http://192.0.2.1:80", "http://192.0.2.2:80", max_connections=1))
    idle = await opened(pool, dialer, pool.targets[0])
    pool.give_back(idle)
    connection = await opened(pool, dialer, pool.targets[1])
    assert idle.closed
    pool.discard(connection)


@on_loop
async def test_a_place_that_another_worker_gives_back_is_found_soon(dialer, monkeypatch):
    monkeypatch.setattr(pooling, "TICK", 0.001)
    limit = LocalLimit(1)
    assert limit.try_take()  # by another worker
    pool = make(upstream(max_connections=1), workers=2, limit=limit)
    borrower = Borrower()
    assert pool.lend(pool.targets[0], borrower) is None
    await turns(50)
    assert dialer.openings == []
    limit.give_back()
    await dialer.begun()
    dialer.succeed()
    connection = await borrower.answer()
    assert isinstance(connection, Connection)
    pool.discard(connection)
    assert limit.try_take()


@on_loop
async def test_max_connections_holds_for_all_workers_together(dialer, monkeypatch):
    """Two workers with one allowance of three; what one leaves idle does not keep the other from its own."""
    monkeypatch.setattr(pooling, "TICK", 0.001)
    layout = Layout()
    word = layout.gauge("upstream_connections:users")
    shared = SharedMemory.create(layout, columns=2)
    configured = upstream(max_connections=3)
    one, other = (make(configured, workers=2, limit=column.limit(word, 3)) for column in shared.columns[:2])
    held = [await opened(one, dialer) for _ in range(2)]
    held_by_other = await opened(other, dialer)
    waiting = Borrower()
    assert other.lend(other.targets[0], waiting) is None
    await turns(50)
    assert (dialer.openings, shared.total(word)) == ([], 3)
    for connection in held:
        one.give_back(connection)
    assert (one.idle_count, shared.total(word)) == (1, 2)
    await dialer.begun()
    dialer.succeed()
    connection = await waiting.answer()
    assert shared.total(word) == 3
    for pool, lent in ((other, held_by_other), (other, connection)):
        pool.discard(lent)
    one.stop()
    assert shared.total(word) == 0
