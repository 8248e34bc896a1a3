"""A pool of connections that carry several streams at once: what is lent, what waits and what a connection takes along.

HTTP/1 has one stream on a connection, which the other tests of the pool are about.
"""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.upstream.connections.pool import Pool
from fastgw.upstream.targets.target import Target, build_targets
from tests.support.lending import Borrower, Connection, upstream
from tests.support.on_loop import on_loop, turns


class Stream:
    """A stream, and whether it was told that its connection has gone."""

    def __init__(self, connection: Shared, number: int) -> None:
        self.connection, self.number = connection, number
        self.failures = 0

    def __repr__(self) -> str:
        return f"<Stream {self.number}>"

    def release(self) -> None:
        self.connection.open.discard(self)
        self.connection.pool.give_back(self.connection)


class Shared(Connection):
    """A connection that carries some streams, which end with it."""

    carries = 3

    def __init__(self, pool: Any, target: Target) -> None:
        super().__init__(pool, target)
        self.capacity = self.carries
        self.open: set[Stream] = set()

    def open_stream(self) -> Any:
        stream = Stream(self, self.uses)
        self.open.add(stream)
        assert len(self.open) == self.streams <= self.capacity
        return stream

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        for stream in list(self.open):
            stream.failures += 1
            stream.release()


def make(*urls: str, **more: Any) -> Pool:
    configured = upstream(*urls, **more)
    return Pool(build_targets(configured), configured, Shared)


async def waiting(pool: Pool, count: int, target: Target | None = None, **more: Any) -> list[Any]:
    borrowers = [Borrower() for _ in range(count)]
    for borrower in borrowers:
        assert pool.lend(target or pool.targets[0], borrower, **more) is None
    await turns()
    return borrowers


def lent(borrowers: list[Any]) -> list[Any]:
    return [told for borrower in borrowers for told in borrower.told]


@on_loop
async def test_a_connection_is_lent_until_it_is_full_then_another_is_opened(dialer):
    pool = make()
    (target,) = pool.targets
    (first,) = await waiting(pool, 1)
    dialer.succeed()
    await turns()
    one = first.told[0]
    two, three = pool.try_lend(target), pool.lend(target, Borrower())
    assert one.connection is two.connection is three.connection
    assert [one.number, two.number, three.number] == [1, 2, 3]
    assert (one.connection.streams, one.connection.uses, target.places) == (3, 3, 1)
    assert pool.try_lend(target) is None
    await waiting(pool, 1)
    assert (len(dialer.openings), target.places) == (1, 2)
    pool.stop()
    await turns()


@on_loop
async def test_streams_that_are_over_make_room_and_the_connection_is_idle_with_the_last(dialer):
    pool = make()
    (target,) = pool.targets
    borrowers = await waiting(pool, 1)
    dialer.succeed()
    await turns()
    (one,) = lent(borrowers)
    two = pool.try_lend(target)
    one.release()
    assert (pool.idle_count, len(target.shared)) == (0, 1)
    two.release()
    assert (pool.idle_count, len(target.shared), two.connection.streams) == (1, 0, 0)
    assert pool.try_lend(target).connection is two.connection
    assert (pool.idle_count, len(target.shared)) == (0, 1)
    pool.stop()


@on_loop
async def test_the_connections_in_use_are_filled_before_an_idle_one(dialer):
    pool = make()
    (target,) = pool.targets
    borrowers = await waiting(pool, 2)
    dialer.succeed()
    dialer.succeed()
    await turns()
    one, two = lent(borrowers)  # the second connection was opened before it was known what the first one carries
    assert (one.connection is two.connection, pool.idle_count) == (True, 1)
    assert pool.try_lend(target).connection is one.connection
    assert pool.idle_count == 1
    assert pool.try_lend(target).connection is not one.connection
    assert pool.idle_count == 0
    pool.stop()


@on_loop
async def test_as_many_as_it_carries_get_a_new_connection_the_longest_waiting_first(dialer):
    """The first opening tells how many streams a connection carries; from then on no more are opened than it takes."""
    pool = make(max_connections=1)
    borrowers = await waiting(pool, 5)
    assert len(dialer.openings) == 1
    dialer.succeed()
    await turns()
    assert [len(each.told) for each in borrowers] == [1, 1, 1, 0, 0]
    assert len({stream.connection for stream in lent(borrowers)}) == 1
    borrowers[0].told[0].release()
    assert [len(each.told) for each in borrowers] == [1, 1, 1, 1, 0]
    assert len(dialer.openings) == 0
    pool.stop()
    assert borrowers[4].told == [Fault.POOL_TIMEOUT]


@on_loop
async def test_one_opening_is_begun_for_as_many_as_the_last_connection_could_carry(dialer):
    pool = make()
    (target,) = pool.targets
    borrowers = await waiting(pool, 1)
    dialer.succeed()
    await turns()
    lent(borrowers)[0].connection.close()
    pool.discard(lent(borrowers)[0].connection)
    borrowers = await waiting(pool, 4)
    assert (len(dialer.openings), target.places) == (2, 2)
    dialer.succeed()
    dialer.succeed()
    await turns()
    assert sorted(each.told[0].connection.streams for each in borrowers) == [1, 3, 3, 3]
    pool.stop()


@on_loop
async def test_an_opening_that_fails_is_told_to_all_it_was_there_for_and_to_each_once(dialer):
    pool = make()
    (target,) = pool.targets
    target.capacity = 3
    borrowers = await waiting(pool, 4)
    assert len(dialer.openings) == 2
    dialer.fail()
    await turns()
    assert sum(len(each.told) for each in borrowers) == 1  # the other opening has room for three
    dialer.fail()
    await turns()
    assert [each.told for each in borrowers] == [[Fault.CONNECT_REFUSED]] * 4
    assert (target.places, target.opening) == (0, 0)


@on_loop
async def test_who_waits_for_a_connection_that_carries_less_than_the_last_one_waits_on(dialer, monkeypatch):
    """As where a target speaks another protocol now."""
    pool = make()
    (target,) = pool.targets
    target.capacity = 3
    monkeypatch.setattr(Shared, "carries", 1)
    borrowers = await waiting(pool, 3)
    assert len(dialer.openings) == 1
    dialer.succeed()
    await turns()
    assert [len(each.told) for each in borrowers] == [1, 0, 0]
    assert (len(dialer.openings), target.places) == (2, 3)
    dialer.succeed()
    dialer.succeed()
    await turns()
    assert [len(each.told) for each in borrowers] == [1, 1, 1]
    pool.stop()


@on_loop
async def test_a_connection_that_dies_with_three_streams_fails_each_once_and_frees_one_place(dialer):
    pool = make(max_connections=1)
    (target,) = pool.targets
    borrowers = await waiting(pool, 3)
    dialer.succeed()
    await turns()
    streams = lent(borrowers)
    connection = streams[0].connection
    late = (await waiting(pool, 1))[0]
    assert len(dialer.openings) == 0
    connection.connection_lost(None)
    assert [stream.failures for stream in streams] == [1, 1, 1]
    assert (target.places, len(target.shared), connection.streams) == (1, 0, 0)  # that of the next opening
    await turns()
    dialer.succeed()
    await turns()
    assert late.told[0].connection is not connection
    pool.stop()


@on_loop
async def test_a_connection_that_is_lost_while_it_has_room_is_lent_no_more(dialer):
    pool = make()
    (target,) = pool.targets
    borrowers = await waiting(pool, 1)
    dialer.succeed()
    await turns()
    (one,) = lent(borrowers)
    one.connection.closed = True  # and those on it are not told yet
    assert pool.try_lend(target) is None
    one.release()
    assert (target.places, pool.idle_count) == (0, 0)


@on_loop
async def test_what_was_lent_so_often_is_closed_with_its_last_stream(dialer):
    pool = make(max_uses=2)
    (target,) = pool.targets
    borrowers = await waiting(pool, 1)
    dialer.succeed()
    await turns()
    (one,) = lent(borrowers)
    two = pool.try_lend(target)
    assert pool.try_lend(target) is None
    one.release()
    assert (pool.try_lend(target), one.connection.closed) == (None, False)
    two.release()
    assert (one.connection.closed, target.places) == (True, 0)


@on_loop
async def test_a_fresh_connection_is_for_one_who_asked_for_it_and_others_may_share_it(dialer):
    pool = make()
    used = await waiting(pool, 1)
    dialer.succeed()
    await turns()
    fresh = await waiting(pool, 2, fresh=True)
    assert len(dialer.openings) == 1  # it may carry both, as far as is known
    dialer.succeed()
    await turns()
    assert len(lent(fresh)) == 1  # but only the first is the first on it
    dialer.succeed()
    await turns()
    first, second = lent(fresh)
    assert len({first.connection, second.connection, *(each.connection for each in lent(used))}) == 3
    pool.stop()


@on_loop
@pytest.mark.parametrize("end", ["released", "stopped"])
async def test_a_target_that_leaves_ends_its_connections_with_their_last_streams(dialer, end):
    pool = make()
    (target,) = pool.targets
    borrowers = await waiting(pool, 1)
    dialer.succeed()
    await turns()
    (one,) = lent(borrowers)
    two = pool.try_lend(target)
    if end == "released":
        pool.release([target])
    else:
        pool.stop()
    one.release()
    assert (one.connection.closed, target.places) == (False, 1)
    two.release()
    assert (one.connection.closed, target.places) == (True, 0)


@on_loop
async def test_a_target_without_a_place_gets_that_of_a_busy_connection_when_its_streams_are_over(dialer):
    """One connection at a time is lent no more for that, or each stream that ends would cost another one."""
    pool = make("http://192.0.2.1:80", "http://192.0.2.2:80", max_connections=2)
    mine, theirs = pool.targets
    borrowers = await waiting(pool, 2, mine)
    dialer.succeed()
    dialer.succeed()
    await turns()
    first = lent(borrowers)[0].connection
    streams = lent(borrowers) + [pool.try_lend(mine) for _ in range(4)]
    second = streams[5].connection
    assert (first.streams, second.streams) == (3, 3)
    (late,) = await waiting(pool, 1, theirs)
    streams[0].release()
    streams[5].release()
    assert pool.try_lend(mine).connection is second
    streams[1].release()
    assert (first.closed, dialer.openings) == (False, [])
    streams[2].release()
    await turns()
    assert (first.closed, second.closed) == (True, False)
    dialer.succeed()
    await turns()
    assert late.told[0].connection.target is theirs
    pool.stop()
