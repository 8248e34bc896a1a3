"""What nodes remember together, with a real Redis: it is found again, and Redis cannot read it nor change it."""

import asyncio
import builtins
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.redis import encrypted_cache
from fastgw.redis.address import parse_redis
from fastgw.redis.encrypted_cache import EncryptedRedisCache, Kept
from tests.support.on_loop import on_loop, until
from tests.support.redis_server import RedisServer

SECRET = b"the secret of the gateway"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(autouse=True)
def generous_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, what is there is found."""
    monkeypatch.setattr(encrypted_cache, "TIMEOUT_S", 15.0)


@asynccontextmanager
async def opened(
    redis: RedisServer, secret: bytes = SECRET, purpose: bytes = b"test"
) -> AsyncIterator[EncryptedRedisCache]:
    level = EncryptedRedisCache(parse_redis(redis.url), secret, purpose)
    level.start()
    try:
        yield level
    finally:
        level.stop()


@on_loop
async def test_what_one_node_puts_another_gets(redis: RedisServer) -> None:
    until_date = time.time() + 60
    async with opened(redis) as one, opened(redis) as other:
        await one.set(b"token", Kept(b"\x00\xff value", until_date))
        assert await other.get(b"token") == (b"\x00\xff value", until_date)
        assert await other.get(b"another") is None
        await other.set(b"token", Kept(b"", until_date))
        assert await one.get(b"token") == (b"", until_date)


@on_loop
async def test_redis_learns_nothing(redis: RedisServer) -> None:
    async with opened(redis) as level:
        await level.set(b"planted-token", Kept(b"planted-value", time.time() + 60))
        there = redis.everything()
        assert there
        assert b"planted" not in there
        assert SECRET not in there


@pytest.mark.parametrize(("secret", "purpose"), [(b"other", b"test"), (SECRET, b"other")])
@on_loop
async def test_who_has_another_secret_or_purpose_finds_nothing(
    redis: RedisServer, secret: bytes, purpose: bytes
) -> None:
    async with opened(redis) as one, opened(redis, secret, purpose) as other:
        await one.set(b"mine", Kept(b"value", time.time() + 60))
        assert await other.get(b"mine") is None


@on_loop
async def test_a_value_that_was_changed_or_put_in_anothers_place_is_none(redis: RedisServer) -> None:
    async with opened(redis) as level:
        redis.ask("FLUSHDB")
        await level.set(b"good", Kept(b"value", time.time() + 60))
        (name,) = redis.names()
        value = redis.ask("GET", name).partition(b"\r\n")[2][:-2]
        await level.set(b"evil", Kept(b"value", time.time() + 60))
        (evil,) = set(redis.names()) - {name}
        for forged in (value, value[:-1] + bytes([value[-1] ^ 1]), b"", b"x", b"x" * 12, b"x" * 200):
            redis.ask("SET", evil, forged)
            assert await level.get(b"evil") is None
        assert await level.get(b"good") is not None


@on_loop
async def test_nothing_outlives_its_time(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis drops it; and where it was kept from doing so, the value itself says that it is over."""
    async with opened(redis) as level:
        redis.ask("FLUSHDB")
        await level.set(b"past", Kept(b"value", time.time() - 1))
        assert redis.names() == []
        until_date = time.time() + 100
        await level.set(b"short", Kept(b"value", until_date))
        (name,) = redis.names()
        assert 99_000 < int(redis.ask("PTTL", name)[1:]) <= 100_000
        redis.ask("PERSIST", name)
        monkeypatch.setattr(encrypted_cache, "time", SimpleNamespace(**{**vars(time), "time": lambda: until_date}))
        assert await level.get(b"short") is None


@on_loop
async def test_a_redis_that_is_away_is_as_if_it_were_empty_and_is_used_again_when_it_is_back(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encrypted_cache, "AWAY_S", 0.05)
    with RedisServer(tmp_path) as redis:
        async with opened(redis) as level:
            await level.set(b"a", Kept(b"1", time.time() + 60))
            redis.stop()
            assert await level.get(b"a") is None
            await level.set(b"b", Kept(b"2", time.time() + 60))
            redis.start()
            while await level.get(b"c") is None:
                await level.set(b"c", Kept(b"3", time.time() + 60))
                await asyncio.sleep(0)
    away, back = [record.getMessage() for record in caplog.records]
    assert away.startswith("second level: 127.0.0.1 is unreachable: ")
    assert back == "second level: 127.0.0.1 is reachable again"


@on_loop
async def test_many_share_the_connections_and_the_trouble_of_one_redis(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path) as redis:
        before = redis.ask("CLIENT", "LIST").count(b"id=")
        levels = [EncryptedRedisCache(parse_redis(redis.url), SECRET, b"%d" % number) for number in range(50)]
        for level in levels:
            level.start()
            await level.set(b"a", Kept(b"1", time.time() + 60))
        assert redis.ask("CLIENT", "LIST").count(b"id=") == before + 1
        levels.pop().stop()
        assert await levels[0].get(b"a") is not None, "others use it still"
        redis.stop()
        for level in levels:
            assert await level.get(b"a") is None
        told = [record.getMessage() for record in caplog.records]
        assert 0 < len(told) == len({*told}) < 5, "not each by itself"
        for level in levels:
            level.stop()
        assert not encrypted_cache._known
        assert await levels[0].get(b"a") is None, "it is not connected to again"
        await until(lambda: not encrypted_cache._closing)


@on_loop
async def test_who_is_late_by_itself_keeps_nobody_else_away(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many may ask at once, and their machine be busy."""
    async with opened(redis) as late, opened(redis, purpose=b"other") as other:
        await other.set(b"a", Kept(b"1", time.time() + 60))
        os.kill(redis.pid, signal.SIGSTOP)
        with monkeypatch.context() as patched:
            patched.setattr(encrypted_cache, "TIMEOUT_S", 0.05)
            assert await late.get(b"a") is None
        os.kill(redis.pid, signal.SIGCONT)
        assert "away" in repr(late)
        assert await other.get(b"a") is not None


@on_loop
async def test_each_trouble_is_told_once_until_it_is_over(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a connection that was closed there may be a password that was changed."""
    monkeypatch.setattr(encrypted_cache, "AWAY_S", 0.0)
    with RedisServer(tmp_path) as redis:
        async with opened(redis) as level:
            for _ in range(2):
                redis.ask("REPLICAOF", "127.0.0.1", "1")
                for _ in range(3):
                    await level.set(b"a", Kept(b"1", time.time() + 60))
                redis.ask("REPLICAOF", "NO", "ONE")
                await level.set(b"a", Kept(b"1", time.time() + 60))
            redis.ask("REPLICAOF", "127.0.0.1", "1")
            await level.set(b"a", Kept(b"1", time.time() + 60))
            redis.stop()
            await level.set(b"a", Kept(b"1", time.time() + 60))
            await level.set(b"a", Kept(b"1", time.time() + 60))
    told = [record.getMessage().removeprefix("second level: 127.0.0.1 ") for record in caplog.records]
    replica, back = "is unreachable: it is a read-only replica", "is reachable again"
    assert told[:5] == [replica, back, replica, back, replica]
    assert len(told[5:]) == len({*told[5:]}) > 0
    assert replica not in told[5:]


@on_loop
async def test_nobody_waits_long_for_a_redis_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted_cache, "TIMEOUT_S", 0.02)
    taken: list[Any] = []
    server = await asyncio.start_server(lambda reader, writer: taken.append(writer), "127.0.0.1", 0)
    level = EncryptedRedisCache(parse_redis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"), SECRET, b"test")
    level.start()
    assert await level.get(b"a") is None
    assert "away" in repr(level)
    assert await level.get(b"a") is None, "it is not asked again so soon"
    assert len(taken) <= 1
    level.stop()
    server.close()
    for writer in taken:
        writer.close()
    await until(lambda: not encrypted_cache._closing)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://a", ("a", 6379, 0, False, "", "")),
        ("rediss://user:p%40ss@a.test:1/2", ("a.test", 1, 2, True, "user", "p@ss")),
        ("redis://:secret@[::1]:7", ("::1", 7, 0, False, "", "secret")),
    ],
)
def test_an_address_is_read(url: str, expected: tuple[Any, ...]) -> None:
    address = parse_redis(url)
    assert tuple(address) == expected
    assert "ss" not in repr(address).partition("at")[2].replace("[::1]", "")


@pytest.mark.parametrize(
    "url",
    ["", "secret", "http://a", "redis://", "redis://secret@a:x", "redis://a/b", "redis://a/-1", "redis://a?secret"],
)
def test_what_is_no_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="not a URL") as raised:
        parse_redis(url)
    assert "secret" not in str(raised.value)


def test_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *more: Any) -> Any:
        if name == "fastgw.redis" and more[2] == ("cache_client",):
            raise ModuleNotFoundError("No module named 'redis'", name="redis")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"redis is missing; pip install 'fastgw\[redis\]'"):
        EncryptedRedisCache(parse_redis("redis://a"), SECRET, b"")
