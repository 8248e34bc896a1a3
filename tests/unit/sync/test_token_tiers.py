"""Each cache of tokens is one of aiocache: its methods, serializers, times to live and plugins."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from aiocache.base import BaseCache
from aiocache.plugins import HitMissRatioPlugin

from fastgw.filters.policies.credentials.csrf_tokens import CSRF_TOKENS, CsrfToken
from fastgw.filters.policies.credentials.oauth_tokens import TOKENS, Token, TokenHolder
from fastgw.redis import encrypted_cache
from fastgw.redis.address import parse_redis
from fastgw.redis.encrypted_cache import EncryptedRedisCache, Kept
from fastgw.sync.credential_cache import HITS, MISSES, count_in
from fastgw.sync.worker_token_cache import WorkerTokenCache
from fastgw.token_tier import TokenSerializer, TokenTier
from tests.support.brokering import node_of, oauth2
from tests.support.issuer import Issuer
from tests.support.on_loop import on_loop, until
from tests.support.redis_server import RedisServer
from tests.support.table import for_each

Opened = AbstractAsyncContextManager[TokenTier]


@asynccontextmanager
async def in_memory(directory: Path) -> AsyncIterator[TokenTier]:
    yield WorkerTokenCache(10)


@asynccontextmanager
async def in_memory_as_bytes(directory: Path) -> AsyncIterator[TokenTier]:
    yield WorkerTokenCache(10, serializer=TokenSerializer(str.encode, bytes.decode))


@asynccontextmanager
async def in_redis(directory: Path) -> AsyncIterator[TokenTier]:
    with RedisServer(directory) as server:
        cache = EncryptedRedisCache(parse_redis(server.url), b"secret", b"test")
        cache.start()
        yield cache
        cache.stop()
        await until(lambda: not encrypted_cache._closing)


TIERS: list[tuple[Callable[[Path], Opened], Any, Any]] = [
    (in_memory, object(), object()),
    (in_memory_as_bytes, "one", "other"),
    (in_redis, Kept(b"one", time.time() + 3600), Kept(b"other", time.time() + 3600)),
]


@pytest.mark.parametrize(("opened", "one", "other"), TIERS, ids=lambda each: getattr(each, "__name__", ""))
@on_loop
async def test_a_tier_is_a_cache_of_aiocache(
    opened: Callable[[Path], Opened],
    one: Any,
    other: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And where aiocache logs the names of entries, no token is to be seen."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(encrypted_cache, "TIMEOUT_S", 15.0)
    async with opened(tmp_path) as cache:
        assert isinstance(cache, BaseCache)
        cache.plugins = [HitMissRatioPlugin()]
        assert await cache.get(b"a-token") is None
        assert await cache.set(b"a-token", one, ttl=3600) is True
        assert await cache.get(b"a-token") == one
        assert cache.hit_miss_ratio == {"total": 2, "hits": 1, "hit_ratio": 0.5}
        assert await cache.exists(b"a-token") is True
        with pytest.raises(ValueError, match="the entry exists"):
            await cache.add(b"a-token", other)
        await cache.multi_set([(b"b", other), (b"c", one)])
        assert await cache.multi_get([b"a-token", b"b", b"c", b"d"]) == [one, other, one, None]
        assert await cache.delete(b"a-token") == 1
        assert await cache.delete(b"a-token") == 0
        assert await cache.exists(b"a-token") is False
        assert await cache.get(b"a-token", default=7) == 7
    assert "a-token" not in caplog.text


def test_a_hit_of_a_worker_is_read_without_waiting_until_its_time_is_over() -> None:
    """And what is not to be counted is not; a full cache evicts the oldest."""
    words = memoryview(bytearray(16)).cast("Q")
    count_in(words)

    def run(setting: Any) -> Any:
        with pytest.raises(StopIteration) as ended:  # nothing in it waits
            setting.send(None)
        return ended.value.value

    cache: WorkerTokenCache[int] = WorkerTokenCache(2, ttl=3600)
    for number in range(3):
        run(cache.set(b"%d" % number, number))
    assert [cache.peek(b"%d" % number) for number in range(3)] == [None, 1, 2]
    run(cache.set(b"1", 1, ttl=-1))
    assert cache.peek(b"1") is None
    assert (words[HITS], words[MISSES]) == (2, 2)
    run(cache.clear())
    assert len(cache) == 0
    silent: WorkerTokenCache[int] = WorkerTokenCache(2, counted=False)
    run(silent.set(b"1", 1))
    assert [silent.peek(b"1"), silent.peek(b"2")] == [1, None]
    assert (words[HITS], words[MISSES]) == (2, 2)
    count_in(memoryview(bytearray(16)).cast("Q"))


@for_each(
    "serializer, value",
    [
        (TOKENS, Token(b"Authorization: Bearer x\r\n")),
        (CSRF_TOKENS, CsrfToken(b"x", ())),
        (CSRF_TOKENS, CsrfToken(b"x", ((b"a", b"1"), (b"b", b"\xff")))),
        (encrypted_cache._SERIALIZER, Kept(b"\0x", 4e9)),
    ],
)
def test_a_serializer_reads_what_it_writes(serializer: TokenSerializer, value: Any) -> None:
    assert serializer.loads(serializer.dumps(value)) == value
    assert serializer.loads(None) is None


@on_loop
async def test_the_fetched_token_of_a_worker_is_a_cache_of_aiocache_too() -> None:
    """`get` waits for the source, `set` gives a value to all workers, `delete` asks for another one."""
    with Issuer() as issuer:
        async with node_of(workers=2) as node:
            await use_fetched(*node.tokens(oauth2(issuer.url)))


async def use_fetched(one: TokenHolder, other: TokenHolder) -> None:
    assert isinstance(one, BaseCache)
    one.plugins = [HitMissRatioPlugin()]
    assert await one.get(one.key) == one.peek(monotonic())
    assert one.hit_miss_ratio["hits"] == 1
    assert await one.get("another source") is None
    given = Token(b"Authorization: Bearer given\r\n")
    assert await one.set(one.key, given, ttl=60) is True
    await until(lambda: other.peek(monotonic()) == given)
    assert one.peek(monotonic()) == given
    assert await one.exists(one.key)
    assert await one.delete(one.key) == 1
    await until(lambda: one.peek(monotonic()) not in (None, given))


def test_no_client_is_imported_before_somebody_reads_it_from_aiocache() -> None:
    program = (
        "import sys, fastgw.filters.built_in; from fastgw.token_tier import BaseCache;"
        "assert 'redis' not in sys.modules;"
        "import aiocache; assert issubclass(aiocache.RedisCache, BaseCache) and aiocache.base.BaseCache is BaseCache"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
