"""The pool when something goes wrong: borrowers that leave, openings that fail, the end."""

import asyncio
import logging
from typing import Any

from fastgw.errors import Fault
from fastgw.upstream.connections import pool as pooling
from fastgw.upstream.connections.pool import Pool
from fastgw.upstream.targets.target import Target, build_targets
from tests.support.lending import Borrower, Connection, make, opened, upstream
from tests.support.on_loop import on_loop, turns, until

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

    def factory(pool: Pool, target: Target) -> Connection:
        made.append(Connection(pool, target))
        return made[-1]

    configured = upstream()
    pool = Pool(build_targets(configured), configured, factory)
    borrower = Borrower()
    pool.lend(pool.targets[0], borrower)
    await dialer.begun()
    made[0].closed = True
    dialer.succeed()
    assert await borrower.answer() is Fault.CONNECT_REFUSED
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
    await dialer.begun(2)
    dialer.fail(0, Fault.CONNECTIONS_EXHAUSTED)
    dialer.fail(0, Fault.CONNECTIONS_EXHAUSTED)
    for _ in range(3):
        await dialer.begun()
        dialer.fail(0, Fault.CONNECTIONS_EXHAUSTED)
    for borrower in (first, second):
        await dialer.begun()
        dialer.succeed()
        connection = await borrower.answer()
        assert isinstance(connection, Connection)
        pool.discard(connection)


@on_loop
async def test_without_descriptors_one_is_opened_and_then_twice_as_many_with_each_tick(dialer, monkeypatch):
    """Not one for each that waits, whenever another comes: what finds no port has looked for one among all."""
    monkeypatch.setattr(pooling, "TICK", 3600.0)  # each tick is ours
    pool = make(upstream(max_connections=30))
    (target,) = pool.targets
    borrowers = [Borrower() for _ in range(10)]
    for borrower in borrowers[:8]:
        pool.lend(target, borrower)
    await dialer.begun(8)
    for _ in range(8):
        dialer.fail(0, Fault.CONNECTIONS_EXHAUSTED)
    await turns()
    for borrower in borrowers[8:]:
        pool.lend(target, borrower)
    for opened_at_once in (0, 1, 2, 4, 3):
        if opened_at_once:
            pool._tick()
        await turns()
        assert len(dialer.openings) == opened_at_once
        for _ in range(opened_at_once):
            dialer.succeed()
        await turns()
    for borrower in borrowers:
        pool.discard(await borrower.answer())
    assert repr(pool) == "<Pool: 0 connections, 0 idle, 0 opening, 0 waiting>"
    pool.stop()


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
    pool = make(upstream(pending_timeout=0.02))
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
