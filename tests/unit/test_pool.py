"""Lending connections: at once, from the queue, within the limits, and never leaked."""

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest
import uvloop

from fastgw.config import settings
from fastgw.config.settings import Upstream, UpstreamTimeouts
from fastgw.config.values import parse_url
from fastgw.errors import Fault
from fastgw.upstream import pool as pooling
from fastgw.upstream import resolve
from fastgw.upstream.connect import ConnectFailed
from fastgw.upstream.pool import LocalLimit, Pool
from fastgw.upstream.resolve import Address
from fastgw.upstream.target import Target, build_targets


def sockets() -> set[str]:
    """The sockets this process holds."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the listing's own
    return {leads_to for leads_to in found if leads_to.startswith("socket:")}


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on uvloop, for 20 s at most. It must end with the sockets it began with."""

    async def limited(*args: Any, **named: Any) -> None:
        async with asyncio.timeout(20):
            before = sockets()
            await test(*args, **named)
            await until(lambda: sockets() <= before)

    @wraps(test)
    def run(*args: Any, **named: Any) -> None:
        uvloop.run(limited(*args, **named))

    return run


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def turns(count: int = 5) -> None:
    """Let the loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


class Connection(asyncio.Protocol):
    """As much of an upstream connection as the pool needs."""

    def __init__(self, pool: "Pool[Connection]", target: Target) -> None:
        self.pool = pool
        self.target = target
        self.idle_since = 0.0
        self.uses = 0
        self.closed = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.pool.forget(self)

    def close(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()


class Borrower:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Connection | Fault] = []

    def lent(self, connection: Connection) -> None:
        self.told.append(connection)

    def failed(self, fault: Fault) -> None:
        self.told.append(fault)

    async def answer(self) -> Connection | Fault:
        await until(lambda: bool(self.told))
        (told,) = self.told
        return told


class Dialer:
    """Stands in for `connect`: an opening is done when the test says so."""

    def __init__(self) -> None:
        self.openings: list[tuple[Target, asyncio.Future[Address]]] = []

    async def connect(self, target: Target, protocol: asyncio.BaseProtocol, timeout: float) -> Address:
        done: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
        self.openings.append((target, done))
        return await done

    async def begun(self, count: int = 1) -> None:
        await until(lambda: len(self.openings) >= count)

    def succeed(self, index: int = 0) -> None:
        target, done = self.openings.pop(index)
        done.set_result(Address(socket.AF_INET, (target.host, target.port)))

    def fail(self, index: int = 0, fault: Fault = Fault.CONNECT_REFUSED) -> None:
        self.openings.pop(index)[1].set_exception(ConnectFailed(fault, "said the test"))


@pytest.fixture
def dialer(monkeypatch):
    made = Dialer()
    monkeypatch.setattr(pooling, "connect", made.connect)
    return made


def upstream(*urls: str, connect: float = 10.0, **pool: Any) -> Upstream:
    return Upstream(
        targets=tuple(settings.Target(url=parse_url(url)) for url in urls or ("http://192.0.2.1:80",)),
        timeouts=UpstreamTimeouts(connect=connect),
        pool=settings.Pool(**pool),
    )


def make(configured: Upstream, **more: Any) -> "Pool[Connection]":
    return Pool(build_targets(configured), configured, Connection, **more)


async def opened(pool: "Pool[Connection]", dialer: Dialer, target: Target | None = None) -> Connection:
    """A connection that was opened and lent."""
    borrower = Borrower()
    assert pool.lend(target or pool.targets[0], borrower) is None
    await dialer.begun()
    dialer.succeed()
    connection = await borrower.answer()
    assert isinstance(connection, Connection)
    return connection


# Lending and giving back


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
    pool = make(upstream(max_connections=1, max_pending=3), workers=2)
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
    pool = make(upstream(max_connections=1, connect=0.02))
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
        def failed(self, fault: Fault) -> None:
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
    for index in range(4):
        pool.lend(other, for_other[index])
        pool.lend(one, for_one[index])
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


# Withdrawing


@on_loop
async def test_who_withdraws_while_its_connection_is_opened_leaves_it_to_the_next(dialer):
    pool = make(upstream())
    first, second = Borrower(), Borrower()
    pool.lend(pool.targets[0], first)
    await dialer.begun()
    pool.withdraw(first)
    pool.lend(pool.targets[0], second)
    await turns()
    assert len(dialer.openings) == 1
    dialer.succeed()
    connection = await second.answer()
    assert first.told == []
    pool.discard(connection)


@on_loop
async def test_an_opening_that_nobody_waits_for_any_more_is_kept(dialer):
    pool = make(upstream())
    borrower = Borrower()
    pool.lend(pool.targets[0], borrower)
    await dialer.begun()
    pool.withdraw(borrower)
    dialer.succeed()
    await until(lambda: pool.idle_count == 1)
    connection = pool.lend(pool.targets[0], borrower)
    assert isinstance(connection, Connection)
    assert connection.uses == 1
    assert borrower.told == []
    pool.discard(connection)


@on_loop
async def test_a_failed_opening_whose_borrower_has_gone_fails_nobody(dialer):
    pool = make(upstream())
    gone, waiting = Borrower(), Borrower()
    pool.lend(pool.targets[0], gone)
    pool.lend(pool.targets[0], waiting)
    await dialer.begun(2)
    pool.withdraw(gone)
    dialer.fail()
    await turns()
    assert waiting.told == []
    dialer.succeed()
    connection = await waiting.answer()
    assert isinstance(connection, Connection)
    pool.discard(connection)


@on_loop
async def test_withdrawing_without_waiting_does_nothing(dialer):
    pool = make(upstream())
    borrower = Borrower()
    pool.withdraw(borrower)
    pool.lend(pool.targets[0], borrower)
    await dialer.begun()
    dialer.fail()
    await borrower.answer()
    pool.withdraw(borrower)
    assert "0 opening, 0 waiting" in repr(pool)


# Failing


@on_loop
async def test_a_connection_that_is_closed_as_soon_as_it_is_open_is_a_fault(dialer, monkeypatch):
    made = []

    def factory(pool: "Pool[Connection]", target: Target) -> Connection:
        made.append(Connection(pool, target))
        return made[-1]

    configured = upstream()
    pool = Pool(build_targets(configured), configured, factory)
    borrower = Borrower()
    pool.lend(pool.targets[0], borrower)
    await dialer.begun()
    made[0].closed = True
    dialer.succeed()
    assert await borrower.answer() is Fault.UPSTREAM_UNREACHABLE
    assert pool.targets[0].places == 0


@on_loop
async def test_why_a_connect_failed_is_logged_once_a_second_for_each_target(dialer, caplog):
    pool = make(upstream("http://192.0.2.1:80", "http://192.0.2.2:80"))
    for target in pool.targets:
        for _ in range(3):
            borrower = Borrower()
            pool.lend(target, borrower)
            await dialer.begun()
            dialer.fail()
            await borrower.answer()
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"target 192.0.2.{number}:80: connect_refused: said the test") for number in (1, 2)
    ]


@on_loop
async def test_a_defect_while_opening_is_reported_and_fails_the_borrower(dialer):
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reported.append(report["exception"]))
    pool = make(upstream())
    borrower = Borrower()
    pool.lend(pool.targets[0], borrower)
    await dialer.begun()
    defect = ZeroDivisionError()
    dialer.openings.pop()[1].set_exception(defect)
    assert await borrower.answer() is Fault.INTERNAL
    assert reported == [defect]
    assert pool.targets[0].places == 0


@on_loop
async def test_without_descriptors_it_waits(dialer, monkeypatch):
    monkeypatch.setattr(pooling, "TICK", 0.001)
    pool = make(upstream())
    first, second = Borrower(), Borrower()
    pool.lend(pool.targets[0], first)
    pool.lend(pool.targets[0], second)
    for _ in range(3):
        await dialer.begun(2)
        dialer.fail(0, Fault.CONNECTIONS_EXHAUSTED)
        dialer.fail(0, Fault.CONNECTIONS_EXHAUSTED)
    await dialer.begun(2)
    dialer.succeed()
    dialer.succeed()
    for borrower in (first, second):
        connection = await borrower.answer()
        assert isinstance(connection, Connection)
        pool.discard(connection)


@on_loop
async def test_without_descriptors_the_last_one_waits_and_a_failure_still_finds_the_first(dialer, monkeypatch):
    monkeypatch.setattr(pooling, "TICK", 0.001)
    pool = make(upstream())
    first, second = Borrower(), Borrower()
    pool.lend(pool.targets[0], first)
    pool.lend(pool.targets[0], second)
    await dialer.begun(2)
    dialer.fail(0, Fault.CONNECTIONS_EXHAUSTED)
    dialer.fail(0, Fault.CONNECT_REFUSED)
    assert await first.answer() is Fault.CONNECT_REFUSED
    await dialer.begun()
    dialer.succeed()
    connection = await second.answer()
    assert isinstance(connection, Connection)
    pool.discard(connection)


@on_loop
async def test_without_descriptors_it_does_not_wait_for_ever(dialer, monkeypatch):
    monkeypatch.setattr(pooling, "TICK", 0.001)
    pool = make(upstream(connect=0.02))
    borrower = Borrower()
    pool.lend(pool.targets[0], borrower)
    while not borrower.told:
        if dialer.openings:
            dialer.fail(0, Fault.CONNECTIONS_EXHAUSTED)
        await asyncio.sleep(0)
    assert borrower.told == [Fault.POOL_TIMEOUT]
    assert pool.targets[0].places == 0


# Stopping


@on_loop
async def test_stop_ends_everything_but_what_is_lent(dialer):
    pool = make(upstream(max_connections=3))
    (target,) = pool.targets
    lent, idle = await opened(pool, dialer), await opened(pool, dialer)
    pool.give_back(idle)
    opening, queued = Borrower(), Borrower()
    pool.lend(target, opening, fresh=True)
    pool.lend(target, queued, fresh=True)
    await dialer.begun()
    pool.stop()
    await turns()
    assert (opening.told, queued.told) == ([Fault.POOL_TIMEOUT], [Fault.POOL_TIMEOUT])
    assert (lent.closed, idle.closed) == (False, True)
    pool.give_back(lent)
    assert lent.closed
    assert repr(pool) == "<Pool: 0 connections, 0 idle, 0 opening, 0 waiting>"
    assert repr(target) == "<Target 192.0.2.1:80: 0 places, 0 opening, 0 idle, 0 waiting>"
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Real sockets


class Origin:
    """A listener on a port, and the connections it took."""

    def __init__(self, host: str, port: int = 0) -> None:
        self.host = host
        self.wanted = port
        self.taken: list[Any] = []

    async def __aenter__(self) -> "Origin":
        taken = self.taken

        class Taking(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                taken.append(transport)

        self.server = await asyncio.get_running_loop().create_server(Taking, self.host, self.wanted)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in self.taken:
            transport.abort()
        self.server.close()
        await self.server.wait_closed()


@on_loop
async def test_with_real_connections_the_upstreams_close_is_noticed(monkeypatch):
    async with Origin("127.0.0.1") as origin:
        pool = make(upstream(f"http://127.0.0.1:{origin.port}"))
        borrower = Borrower()
        pool.lend(pool.targets[0], borrower)
        connection = await borrower.answer()
        assert isinstance(connection, Connection)
        pool.give_back(connection)
        await until(lambda: bool(origin.taken))
        origin.taken[0].close()
        await until(lambda: pool.idle_count == 0)
        assert connection.closed


@pytest.mark.parametrize("count", range(10))
@on_loop
async def test_whenever_it_is_stopped_no_socket_is_left(count):
    """Stopped after each number of turns of the loop."""
    async with Origin("127.0.0.1") as origin:
        before = sockets()
        pool = make(upstream(f"http://127.0.0.1:{origin.port}"))
        borrowers = [Borrower() for _ in range(3)]
        for borrower in borrowers:
            assert pool.lend(pool.targets[0], borrower) is None
        pool.withdraw(borrowers[0])
        await turns(count)
        pool.stop()
        for borrower in borrowers[1:]:
            (told,) = borrower.told
            if isinstance(told, Connection):
                pool.give_back(told)
        await turns()
        for transport in origin.taken:
            transport.abort()
        await until(lambda: sockets() <= before)


@on_loop
async def test_connections_follow_a_name_to_its_new_address(monkeypatch):
    async with Origin("127.0.0.1") as old, Origin("127.0.0.2", old.port) as new:
        answer = ["127.0.0.1"]

        async def look_up(host: str, port: int) -> list[Address]:
            return [Address(socket.AF_INET, (answer[0], port))]

        monkeypatch.setattr(resolve, "look_up", look_up)
        configured = upstream(f"http://users:{old.port}")
        target = Target(parse_url(f"http://users:{old.port}"), resolve_interval=0.001)
        pool = Pool([target], configured, Connection)
        borrowers = [Borrower(), Borrower()]
        for borrower in borrowers:
            pool.lend(target, borrower)
        idle, lent = [await borrower.answer() for borrower in borrowers]
        assert isinstance(idle, Connection)
        assert isinstance(lent, Connection)
        pool.give_back(idle)
        answer[0] = "127.0.0.2"
        while not idle.closed:
            await target.addresses()
            await asyncio.sleep(0)
        assert not lent.closed
        pool.give_back(lent)
        assert lent.closed
        again = Borrower()
        assert pool.lend(target, again) is None
        connection = await again.answer()
        assert isinstance(connection, Connection)
        await until(lambda: len(new.taken) == 1)
        assert len(old.taken) == 2
        pool.give_back(connection)
        assert pool.idle_count == 1
        pool.stop()


# All of it at random


@pytest.mark.parametrize("seed", range(40))
@on_loop
async def test_whatever_happens_the_counts_are_true_and_everyone_is_told_once(dialer, monkeypatch, seed):
    """A random life: kept counts equal counted ones after each step, and in the end nothing is left."""
    monkeypatch.setattr(pooling, "TICK", 0.0001)
    chance = random.Random(seed)
    most = chance.randint(1, 6)
    limit = LocalLimit(most)
    pool = make(
        upstream(
            *(f"http://192.0.2.{number}:80" for number in range(1, 1 + chance.randint(1, 3))),
            connect=chance.choice([0.001, 10.0]),
            max_connections=most,
            max_idle=chance.randint(0, most),
            max_pending=chance.randint(0, 4),
            max_uses=chance.choice([None, 3]),
        ),
        limit=limit,
    )
    lent: list[Connection] = []
    waiting: list[Borrower] = []
    outside = 0  # places that another worker has taken

    class Counting(Borrower):
        def lent(self, connection: Connection) -> None:
            waiting.remove(self)
            lent.append(connection)
            assert not connection.closed

        def failed(self, fault: Fault) -> None:
            waiting.remove(self)

    def borrow() -> None:
        borrower = Counting()
        target = chance.choice(pool.targets)
        waiting.append(borrower)  # it may be told only later, but a pool that told it at once would be seen
        answer = pool.lend(target, borrower, fresh=chance.random() < 0.3)
        if answer is not None:
            waiting.remove(borrower)
        if isinstance(answer, Connection):
            lent.append(answer)

    def withdraw() -> None:
        if waiting:
            pool.withdraw(waiting.pop(chance.randrange(len(waiting))))

    def give_back() -> None:
        if lent:
            pool.give_back(lent.pop(chance.randrange(len(lent))))

    def discard() -> None:
        if lent:
            pool.discard(lent.pop(chance.randrange(len(lent))))

    def succeed() -> None:
        if dialer.openings:
            dialer.succeed(chance.randrange(len(dialer.openings)))

    def fail() -> None:
        if dialer.openings:
            fault = chance.choice([Fault.CONNECT_REFUSED, Fault.CONNECTIONS_EXHAUSTED])
            dialer.fail(chance.randrange(len(dialer.openings)), fault)

    def lose() -> None:
        idle = [connection for target in pool.targets for connection in target.idle]
        if idle:
            connection = chance.choice(idle)
            connection.closed = True
            pool.forget(connection)

    def take_outside() -> None:
        nonlocal outside
        outside += limit.try_take()

    def free_outside() -> None:
        nonlocal outside
        if outside:
            outside -= 1
            limit.give_back()

    def check() -> None:
        places = sum(target.places for target in pool.targets)
        opening = sum(target.opening for target in pool.targets)
        idle = [connection for target in pool.targets for connection in target.idle]
        assert places == opening + len(idle) + len(lent)
        assert places + outside + limit._left == most
        assert pool.idle_count == len(idle)
        assert sum(len(target.waiting) for target in pool.targets) == len(waiting)
        assert not any(connection.closed for connection in idle)

    acts = [borrow, borrow, borrow, give_back, give_back, succeed, succeed, withdraw, discard, fail, lose]
    acts += [take_outside, free_outside]
    for _ in range(400):
        chance.choice(acts)()
        check()
        await turns(chance.randint(0, 3))
        check()
    while waiting or lent or dialer.openings:  # all is well from here on, so all who wait are served
        free_outside()
        give_back()
        succeed()
        await turns()
        check()
    pool.stop()
    await turns()
    check()
    assert repr(pool) == "<Pool: 0 connections, 0 idle, 0 opening, 0 waiting>"
