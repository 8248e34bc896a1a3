"""The pipelined connection with a real Redis: many ask at a time, and a transaction is whole or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import hiredis
import pytest

from fastgw.redis.pipelined_connection import Pipe, opened
from tests.support.redis_server import RedisServer

DEADLINE = 30.0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def played(redis: RedisServer, play: Callable[[Pipe], Awaitable[None]]) -> None:
    async def with_pipe() -> None:
        pipe = await opened(redis.url, DEADLINE, lambda why: None)
        try:
            await asyncio.wait_for(play(pipe), DEADLINE)
        finally:
            pipe.close()

    asyncio.run(with_pipe())


def test_many_ask_at_a_time_and_each_gets_its_own_answer(redis: RedisServer) -> None:
    async def play(pipe: Pipe) -> None:
        words = [b"%d" % number for number in range(500)]
        assert await asyncio.gather(*(pipe.execute(b"ECHO", word) for word in words)) == words

    played(redis, play)


def test_one_who_waits_no_longer_takes_nobodys_answer(redis: RedisServer) -> None:
    async def play(pipe: Pipe) -> None:
        late = asyncio.create_task(pipe.execute(b"ECHO", b"late"))
        after = asyncio.create_task(pipe.execute(b"ECHO", b"after"))
        await asyncio.sleep(0)
        late.cancel()
        assert await after == b"after"
        assert late.cancelled()

    played(redis, play)


def test_an_error_is_raised_for_who_asked_and_the_connection_goes_on(redis: RedisServer) -> None:
    async def play(pipe: Pipe) -> None:
        wrong, right = await asyncio.gather(
            pipe.execute(b"NOTHING"), pipe.execute(b"ECHO", b"a"), return_exceptions=True
        )
        assert (type(wrong), right) == (hiredis.ReplyError, b"a")
        assert await pipe.execute(b"ECHO", b"b") == b"b"

    played(redis, play)


def test_a_transaction_is_executed_as_a_whole(redis: RedisServer) -> None:
    async def play(pipe: Pipe) -> None:
        await pipe.execute(b"DEL", b"n")
        steps = [(b"INCR", b"n")] * 3
        runs = await asyncio.gather(*(pipe.execute_transaction(*steps) for _ in range(20)))
        assert [[*each] for each in runs] == [[at, at + 1, at + 2] for at in range(1, 61, 3)]

    played(redis, play)


@pytest.mark.parametrize(
    ("wrong", "left"),
    [
        ((b"NOTHING", b"a"), b"0"),  # refused before anything was executed
        ((b"LPUSH", b"n", b"a"), b"2"),  # Redis takes nothing back
    ],
)
def test_a_transaction_with_an_error_is_raised(redis: RedisServer, wrong: tuple[bytes, ...], left: bytes) -> None:
    async def play(pipe: Pipe) -> None:
        await pipe.execute(b"SET", b"n", b"0")
        with pytest.raises(hiredis.ReplyError):
            await pipe.execute_transaction((b"INCR", b"n"), wrong, (b"INCR", b"n"))
        assert await pipe.execute(b"GET", b"n") == left
        assert await pipe.execute_transaction((b"GET", b"n")) == [left]

    played(redis, play)


def test_all_who_ask_are_told_when_the_connection_is_lost(redis: RedisServer) -> None:
    async def play(pipe: Pipe) -> None:
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        pipe.lost = lost.set_result
        number = b"%d" % await pipe.execute(b"CLIENT", b"ID")
        other = await opened(redis.url, DEADLINE, lambda why: None)
        waiting = [
            asyncio.create_task(pipe.execute(b"BLPOP", b"nobody", b"0")),
            asyncio.create_task(pipe.execute(b"PING")),
        ]
        waiting.append(asyncio.create_task(pipe.execute_transaction((b"PING",))))
        await asyncio.sleep(0)
        while not await other.execute(b"CLIENT", b"KILL", b"ID", number):
            await asyncio.sleep(0)
        assert await lost == "the connection was closed"
        options = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in options] == [ConnectionResetError] * 3
        with pytest.raises(ConnectionResetError):
            await pipe.execute(b"PING")
        other.close()

    played(redis, play)
