"""The pool with real connections, and through lives at random."""

import asyncio
import random
import socket
import ssl
from typing import Any

import pytest

from fastgw.config.base.value_types import parse_url
from fastgw.errors import Fault
from fastgw.upstream.connections import pool as pooling
from fastgw.upstream.connections.pool import Pool
from fastgw.upstream.connections.pool_limit import LocalLimit
from fastgw.upstream.targets import dns
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import MOST_NAMES, Target
from tests.support.lending import Borrower, Connection, make, opened, upstream
from tests.support.on_loop import on_loop, sockets, turns, until


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


def follower() -> Target:
    """Return a target whose server name follows the Host of requests."""
    return Target(parse_url("https://192.0.2.1"), tls=ssl.create_default_context(), follows_host=True)


@on_loop
async def test_a_target_keeps_the_connections_of_each_server_name_and_forgets_unused_names(dialer):
    """A client can send any number of names: those without a connection are bounded, the others by the pool."""
    target = follower()
    pool: Pool = Pool((target,), upstream(max_connections=10), Connection)
    parts = [target.part_for(name) for name in (b"a.test", b"b.test")]
    a, b = [await opened(pool, dialer, part) for part in parts]
    assert (a.target, b.target) == (parts[0], parts[1])
    pool.give_back(a)
    assert pool.try_lend(parts[1]) is None
    for number in range(10 * MOST_NAMES):
        target.part_for(b"%d.test" % number)
    assert len(target.parts) == MOST_NAMES
    assert [target.part_for(name) for name in (b"a.test", b"b.test")] == parts
    assert pool.try_lend(target.part_for(b"a.test")) is a
    assert target.part_for(b"[::1]").server_name == "::1"
    for host in (b"a" * 64 + b".test", b"a." * 127 + b"test", b"a..test", b""):
        with pytest.raises(ValueError, match=r"^[a.tes]*$"):
            target.part_for(host)
    pool.give_back(a)
    pool.release([target])  # as if it was removed: neither idle connections are kept, nor those that come back
    assert a.closed
    assert not b.closed
    pool.give_back(b)
    assert b.closed
    assert (pool.idle_count, [part.places for part in parts]) == (0, [0, 0])


@on_loop
async def test_a_name_that_a_target_refuses_is_unknown_as_long_as_it_accepts_others(dialer):
    """Clients choose the name, so a handshake that fails says that the target is broken only if it is one of its names,
    or the first.
    """
    target = follower()
    pool: Pool = Pool((target,), upstream(), Connection)

    async def refused(name: bytes, fault: Fault = Fault.TLS_FAILED) -> Any:
        borrower = Borrower()
        assert pool.lend(target.part_for(name), borrower, fresh=True) is None
        await dialer.begun()
        dialer.fail(fault=fault)
        return await borrower.answer()

    assert await refused(b"a.test") is Fault.TLS_FAILED
    connection = await opened(pool, dialer, target.part_for(b"a.test"))
    assert [await refused(name) for name in (b"1.test", b"2.test", b"1.test")] == [Fault.MISDIRECTED] * 3
    assert await refused(b"1.test", Fault.CONNECT_REFUSED) is Fault.CONNECT_REFUSED
    assert await refused(b"a.test") is Fault.TLS_FAILED
    assert await refused(b"1.test") is Fault.TLS_FAILED
    pool.give_back(await opened(pool, dialer, target.part_for(b"b.test")))
    assert await refused(b"1.test") is Fault.MISDIRECTED
    pool.give_back(connection)
    pool.stop()


@on_loop
async def test_upgrades_of_a_target_that_negotiates_have_connections_of_their_own(dialer):
    """None of them is lent for other requests, nor the other way round; and none is forgotten while it is in use."""
    pool = make(upstream("https://192.0.2.1", "http://192.0.2.1"))
    target, plain = pool.targets
    assert plain.over_http1() is plain
    part = target.over_http1()
    assert (part.http1_only, part.negotiates, part.capacity, part.whole) == (True, False, 1, target)
    ordinary, upgraded = await opened(pool, dialer), await opened(pool, dialer, part)
    for number in range(2 * MOST_NAMES):
        target._known_part(f"{number}.test", f"{number}.test")
    assert target.over_http1() is part
    pool.give_back(ordinary)
    assert pool.try_lend(part) is None
    pool.give_back(upgraded)
    assert pool.try_lend(part) is upgraded
    assert pool.try_lend(target) is ordinary
    pool.give_back(upgraded)
    pool.give_back(ordinary)
    pool.stop()


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

        async def look_up(host: str, port: int) -> list[TargetAddress]:
            return [TargetAddress(socket.AF_INET, (answer[0], port))]

        monkeypatch.setattr(dns, "look_up", look_up)
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
        assert not pool._leaving
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
            max_idle=chance.choice([None, *range(most + 1)]),
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

        def failed(self, fault: Fault, why: str = "") -> None:
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
        assert places + outside == limit._taken <= most
        assert pool.idle_count == len(idle) <= pool._max_idle
        assert sum(len(target.waiting) for target in pool.targets) == len(waiting)
        assert not any(connection.closed for connection in idle)

    acts = [borrow, borrow, borrow, give_back, give_back, succeed, succeed, withdraw, discard, fail, lose]
    acts += [take_outside, free_outside, lambda: pool.share(chance.randint(1, 3))]
    retired_after = chance.choice([200, 400])
    for act in range(400):
        if act == retired_after:
            pool.retire()
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


@on_loop
async def test_a_target_that_is_released_keeps_nothing_and_the_others_keep_theirs():
    async with Origin("127.0.0.1") as staying, Origin("127.0.0.1") as going:
        pool = make(upstream(f"http://127.0.0.1:{staying.port}", f"http://127.0.0.1:{going.port}"))
        stays, goes = pool.targets

        async def lent(target: Target) -> Connection:
            borrower = Borrower()
            connection = pool.lend(target, borrower, fresh=True) or await borrower.answer()
            assert isinstance(connection, Connection)
            return connection

        idle, under_way, kept = await lent(goes), await lent(goes), await lent(stays)
        for connection in (idle, kept):
            pool.give_back(connection)
        pool.release([goes])
        pool.release([goes])
        assert (idle.closed, under_way.closed, kept.closed) == (True, False, False)
        assert (pool.targets, pool.idle_count) == ((stays,), 1)
        late = await lent(goes)  # somebody who came to it before
        for connection in (under_way, late):
            pool.give_back(connection)
            assert connection.closed
        assert (goes.places, stays.places, pool.idle_count) == (0, 1, 1)
        pool.stop()


@on_loop
async def test_a_target_that_is_added_is_one_like_the_others():
    async with Origin("127.0.0.1") as first, Origin("127.0.0.1") as second:
        pool = make(upstream(f"http://127.0.0.1:{first.port}"))
        added = Target(parse_url(f"http://127.0.0.1:{second.port}"))
        pool.add_targets([*pool.targets, added])
        pool.add_targets([added])
        assert len(pool.targets) == 2
        borrower = Borrower()
        connection = pool.lend(added, borrower) or await borrower.answer()
        assert isinstance(connection, Connection)
        pool.give_back(connection)
        assert (added.places, pool.idle_count) == (1, 1)
        pool.stop()
