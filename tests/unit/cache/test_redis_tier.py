"""The Redis tier of a store: several nodes share objects in a real Redis, and never anything wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import pytest

from fastgw.cache.shared.layout import CONTROL, REDIS_PENDING
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import Counting, RedisNumbers, Refusal, StoredObject
from fastgw.cache.tiers import redis_script, redis_tier
from fastgw.cache.tiers.node_stores import DiskSettings, NodeStores, StoreHandles, StoreSettings
from fastgw.redis.url import RedisSource
from tests.support.peer import DEADLINE
from tests.support.redis_server import RedisServer
from tests.unit.cache.nodes import leased, put, read

K, L, M = (bytes([each]) * 16 for each in b"KLM")
URL = b"http://a.test/x"
TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    server.ask("FLUSHALL")
    return server


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.002)


class SharingNode:
    """A node with one process. `expires`: see `DiskTier`."""

    def __init__(self, redis: RedisServer, disk: str | None = None) -> None:
        self.expires: Callable[[bytes], float] = lambda head: 0.0
        self.stores = NodeStores()
        settings = StoreSettings(1 << 20, 1 << 30, None if disk is None else DiskSettings(disk, 1 << 24), redis=True)
        self.stores.use_stores(self.stores.planned({"main": settings}))
        self.source = RedisSource(redis.url, "test", TIMEOUT_S)

    async def __aenter__(self) -> SharingNode:
        loop = asyncio.get_running_loop()
        self.handles = StoreHandles(CONTROL, loop, self.stores, {}, lambda head: self.expires(head))  # type: ignore[arg-type]
        self.handles.use_redis(self.source)
        store = self.handles.get("main")
        assert store.tiers is not None
        self.store = store
        assert store.tiers.redis is not None
        self.tier = store.tiers.redis
        await until(lambda: self.tier.position)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.handles.close()
        self.stores.close()
        await asyncio.sleep(0)

    async def settle(self) -> None:
        """Wait until Redis has answered everything so far, in order."""
        answered: list[object] = []
        assert self.tier._run_script([], b"n", [], answered.append)
        await until(lambda: answered)

    async def recall(self, key: bytes) -> tuple[bytes, bytes] | None:
        """Look for a key as a request does."""
        if (found := read(self.store, key)) is not None:
            return found
        called: list[StoredObject | None] = []
        if not self.store.recall([key], called.append):
            return None
        await until(lambda: called)
        assert called == [None]
        return read(self.store, key)

    def forget(self) -> None:
        """Remove everything from memory, as eviction does."""
        cells = self.store.cells
        for bucket in cells.entries():
            for position, entry in bucket:
                cells.replace(position, entry, 0)

    @property
    def numbers(self) -> RedisNumbers:
        numbers = self.store.numbers().redis
        assert numbers is not None
        return numbers


def play(scene: Callable[[SharingNode, SharingNode], Awaitable[None]], redis: RedisServer) -> None:
    async def run() -> None:
        async with SharingNode(redis) as a, SharingNode(redis) as b:
            await scene(a, b)

    asyncio.run(run())


def object_name(key: bytes) -> str:
    return f"test:cache:main:{key.hex()}"


def test_what_one_node_has_stored_another_finds(redis: RedisServer) -> None:
    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"body", b"a head", url=URL, tags=[b"t"])
        assert leased(a.store, L).store_head(b"variants", url=URL)
        await a.settle()
        assert await b.recall(K) == (b"a head", b"body")
        assert await b.recall(L) == (b"variants", b"")
        assert await b.recall(M) is None
        found = b.store.find(K)
        assert found is not None
        assert abs(found.stored_date - time.time()) < DEADLINE
        found.release()
        assert (a.numbers.written, b.numbers.hits, b.numbers.damaged) == (2, 2, 0)
        assert 0 < int(redis.ask("PTTL", object_name(K))[1:]) <= 86_400_000

    play(scene, redis)


PURGES: list[Callable[[SharedStore, bool], Counting]] = [
    lambda store, soft: store.purge("key", [K], soft=soft),
    lambda store, soft: store.purge("tag", [b"other", b"t"], soft=soft),
    lambda store, soft: store.purge("prefix", [b"http://a.test/"], soft=soft),
    lambda store, soft: store.purge("all", soft=soft),
]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("purge", range(len(PURGES)))
def test_a_purge_of_one_node_holds_for_what_others_find_later(redis: RedisServer, purge: int, soft: bool) -> None:
    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"old", url=URL, tags=[b"t"])
        put(a.store, M, b"other", url=b"http://b.test/", tags=[b"u"])
        await a.settle()
        late = leased(b.store, L)  # a fetch that began before the purge
        purged: list[None] = []
        PURGES[purge](a.store, soft)
        a.store.when_purged(lambda: purged.append(None))
        await until(lambda: purged)
        writer = late.store(b"head", url=URL, tags=[b"t"])
        assert writer is not None
        assert writer.complete()
        await b.settle()
        for node in (a, b):
            node.forget()
            assert await node.recall(K) is None  # also after a soft purge: memory has what is stale
            assert (await node.recall(M) is not None) is (purge != 3)
        assert not a.tier.purges.is_busy
        if purge and not soft:
            assert await a.recall(L) is None
        put(b.store, K, b"new", url=URL, tags=[b"t"])
        await b.settle()
        a.forget()
        assert await a.recall(K) == (b"head", b"new")

    play(scene, redis)


@pytest.mark.parametrize("purge", range(len(PURGES)))
def test_a_lease_that_is_taken_late_writes_nothing_that_another_node_has_purged_since(
    redis: RedisServer, purge: int
) -> None:
    async def scene(a: SharingNode, b: SharingNode) -> None:
        leased(b.store, K).give_up(mark_s=60.0)
        begun = b.store.present_moment()
        purged: list[None] = []
        PURGES[purge](a.store, False)
        a.store.when_purged(lambda: purged.append(None))
        await until(lambda: purged)
        await b.settle()  # it knows the position after the purge
        lease = b.store.lease(K, begun)
        assert not isinstance(lease, Refusal)
        lease.store_whole(b"head", b"of before the purge", url=URL, tags=[b"t"])
        await b.settle()
        assert await a.recall(K) is None
        assert redis.ask("EXISTS", object_name(K)) == b":0\r\n"

    play(scene, redis)


def test_a_purge_holds_on_its_node_before_redis_knows_it(redis: RedisServer) -> None:
    """A look-up that Redis answers before it knows a purge brings nothing back."""

    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"old", url=URL, tags=[b"t"])
        await a.settle()
        a.forget()
        with mock.patch.object(a.tier.purges, "_call", return_value=False):  # it is on its way
            a.store.purge("tag", [b"t"])
            assert await a.recall(K) is None
            assert a.tier.purges.is_busy
            assert await b.recall(K) == (b"head", b"old")
        a.tier.resume_after_connect()
        await until(lambda: not a.tier.purges.is_busy)
        b.forget()
        assert await b.recall(K) is None
        assert a.store.memory.words[a.store.counters + REDIS_PENDING] == 0

    play(scene, redis)


def test_purges_of_an_outage_reach_redis_after_it(redis: RedisServer) -> None:
    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"old", url=URL, tags=[b"t"])
        await a.settle()
        client = a.handles._client
        assert client is not None
        client._disconnect("a reason")
        purged: list[None] = []
        a.store.purge("tag", [b"t"])
        a.store.when_purged(lambda: purged.append(None))
        assert purged  # nobody waits for a Redis that is unreachable
        assert not a.store.recall([L], lambda found: None)
        await until(lambda: not a.tier.purges.is_busy)
        assert await b.recall(K) is None

    play(scene, redis)


def test_a_purge_outlives_a_failover_and_the_way_back(redis: RedisServer, tmp_path: Path) -> None:
    """The first Redis is reachable again, with the objects and the epoch of before, and lacks the purge."""

    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"old", url=URL, tags=[b"t"])
        await a.settle()
        with RedisServer(tmp_path) as replica:
            a.handles.use_redis(RedisSource(replica.url, "test", TIMEOUT_S))
            await until(lambda: a.tier.position)
            purged: list[None] = []
            a.store.purge("tag", [b"t"])
            await until(lambda: not a.tier.purges.is_busy)
            a.store.when_purged(lambda: purged.append(None))
            assert purged
            a.handles.use_redis(a.source)
            await until(lambda: a.tier.position and not a.tier.purges.is_busy)
            assert await b.recall(K) is None

    play(scene, redis)


def test_unconfirmed_purges_of_a_dead_process_purge_everything(redis: RedisServer) -> None:
    async def run() -> None:
        async with SharingNode(redis) as a:
            put(a.store, K, b"old", url=URL)
            await a.settle()
            a.store.memory.words[a.store.counters + REDIS_PENDING] = 1
            # Its successor in the column.
            loop = asyncio.get_running_loop()
            successor = StoreHandles(CONTROL, loop, a.stores, {}, a.expires)  # type: ignore[arg-type]
            successor.use_redis(a.source)
            words, word = a.store.memory.words, a.store.counters + REDIS_PENDING
            await until(lambda: not words[word])
            successor.close()
        async with SharingNode(redis) as b:
            assert await b.recall(K) is None

    asyncio.run(run())


@pytest.mark.parametrize("field", ["e", "b", "t", "u", "x", "v", "whole", "long", "type"])
def test_a_damaged_or_foreign_value_is_a_miss_and_deleted(redis: RedisServer, field: str) -> None:
    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"body", url=URL, tags=[b"t"])
        put(a.store, L, b"body", url=URL, tags=[b"t"])
        await a.settle()
        name = object_name(K)
        if field == "type":
            redis.ask("DEL", name)
            redis.ask("SET", name, "foreign")
        elif field == "whole":  # of another key
            redis.ask("COPY", object_name(L), name, "REPLACE")
        else:
            redis.ask("HSET", name, "v" if field == "long" else field, b"?" * (1 << 20 if field == "long" else 16))
        assert await b.recall(K) is None
        await b.settle()
        assert redis.ask("EXISTS", name) == b":0\r\n"
        assert await b.recall(L) == (b"head", b"body")
        put(b.store, K, b"again", url=URL)
        await b.settle()
        a.forget()
        assert await a.recall(K) == (b"head", b"again")

    play(scene, redis)


def test_a_validated_object_gets_its_new_head(redis: RedisServer) -> None:
    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"body", b"first", url=URL)
        await a.settle()
        assert await b.recall(K) == (b"first", b"body")
        found = a.store.find(K)
        assert found is not None
        assert leased(a.store, K).freshen(found, b"second")
        found.release()
        await a.settle()  # it was read
        await a.settle()  # and written
        b.forget()
        assert await b.recall(K) == (b"second", b"body")
        # One that another node has replaced meanwhile is left alone.
        put(b.store, K, b"newer", b"third", url=URL)
        await b.settle()
        found = a.store.find(K)
        assert found is not None
        assert leased(a.store, K).freshen(found, b"fourth")
        found.release()
        await a.settle()  # it was read
        await a.settle()  # and written
        b.forget()
        assert await b.recall(K) == (b"third", b"newer")

    play(scene, redis)


@pytest.mark.parametrize("meanwhile", ["nothing", "removed", "replaced"])
def test_what_another_node_changes_during_a_validation_is_left_alone(redis: RedisServer, meanwhile: str) -> None:
    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"body", b"first", url=URL)
        await a.settle()
        earlier = leased(b.store, K)
        found = a.store.find(K)
        assert found is not None
        run, held = a.tier._run_script, list[Callable[[], bool]]()

        def hold(
            keys: Sequence[bytes], what: bytes, arguments: Sequence[bytes], answered: Callable[[object], None]
        ) -> bool:
            if what != b"s":
                return run(keys, what, arguments, answered)
            held.append(lambda: run(keys, what, arguments, answered))
            return True

        with mock.patch.object(a.tier, "_run_script", hold):
            assert leased(a.store, K).freshen(found, b"second")
            await until(lambda: held)  # it was read
        found.release()
        if meanwhile == "removed":
            b.tier.remove(K)
        elif meanwhile == "replaced":
            assert earlier.store_whole(b"third", b"newer", URL, [])
        await b.settle()
        assert [write() for write in held] == [True]
        await a.settle()
        b.forget()
        expected = {"nothing": (b"second", b"body"), "removed": None, "replaced": (b"third", b"newer")}
        assert await b.recall(K) == expected[meanwhile]
        assert a.numbers.written == (2 if meanwhile == "nothing" else 1)

    play(scene, redis)


@pytest.mark.parametrize("busy", ["reads", "writes", "memory"])
def test_a_validated_object_that_cannot_be_written_again_stays_as_it_was(redis: RedisServer, busy: str) -> None:
    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"body", b"first", url=URL)
        await a.settle()
        found = a.store.find(K)
        assert found is not None
        redis.ask("CONFIG", "SET", "maxmemory", str(int(busy == "memory")))
        try:
            with (
                mock.patch.object(redis_tier, "MOST_READS", 0 if busy == "reads" else 1),
                mock.patch.object(redis_tier, "MOST_AHEAD", 3 if busy == "writes" else 4),
            ):
                assert leased(a.store, K).freshen(found, b"second")
                await a.settle()  # it was read
                await a.settle()  # and written, if it was
        finally:
            redis.ask("CONFIG", "SET", "maxmemory", "0")
        found.release()
        assert a.numbers.dropped == 1
        assert await b.recall(K) == (b"first", b"body")
        put(a.store, L, b"other", b"first", url=URL)
        await a.settle()
        found = a.store.find(L)
        assert found is not None
        with mock.patch.object(redis_tier, "MOST_READS", 1):
            assert leased(a.store, L).freshen(found, b"second")
        found.release()
        await a.settle()
        await a.settle()
        assert await b.recall(L) == (b"second", b"other")

    play(scene, redis)


def test_removed_expired_and_large_objects_are_not_found(redis: RedisServer) -> None:
    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"body", url=URL)
        put(a.store, L, b"body", url=URL)
        await a.settle()
        assert a.store.remove(K)
        await until(lambda: not a.tier.purges.is_busy)
        assert await b.recall(K) is None
        a.expires = lambda head: time.time() - 1
        put(a.store, M, b"body", url=URL)
        with mock.patch.object(redis_tier, "LONGEST", 3):
            put(a.store, L, b"long", url=URL)
        await a.settle()
        assert await b.recall(M) is None
        assert await b.recall(L) is None
        a.expires = lambda head: 0.0
        with mock.patch.object(redis_tier, "MOST_AHEAD", 6):
            put(a.store, K, b"one", url=URL)
            put(a.store, L, b"two", url=URL)
            put(a.store, M, b"too much", url=URL)
        await a.settle()
        assert [await b.recall(key) for key in (K, L, M)] == [(b"head", b"one"), (b"head", b"two"), None]
        assert a.numbers.dropped == 1

    play(scene, redis)


@pytest.mark.parametrize("loss", ["evicted", "prefixes", "tags"])
def test_lost_purges_cost_objects_and_bring_nothing_back(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    small = redis_script.SCRIPT.replace("= 32, 50000\n", "= 2, 16\n")
    assert small != redis_script.SCRIPT
    monkeypatch.setattr("fastgw.cache.tiers.redis_client.SCRIPT", small)

    async def scene(a: SharingNode, b: SharingNode) -> None:
        put(a.store, K, b"old", url=URL, tags=[b"t"])
        await a.settle()
        a.store.purge("tag", [b"t"]) if loss != "prefixes" else a.store.purge("prefix", [b"http://a.test/"])
        await until(lambda: not a.tier.purges.is_busy)
        if loss == "evicted":
            redis.ask("DEL", "test:cache:main:purges")
        for number in range(20):
            text = b"%d" % number
            a.store.purge("prefix", [text]) if loss == "prefixes" else a.store.purge("tag", [text])
        await until(lambda: not a.tier.purges.is_busy)
        assert await b.recall(K) is None
        await b.settle()
        put(b.store, L, b"new", url=URL, tags=[b"t"])
        await b.settle()
        assert await a.recall(L) == (b"head", b"new")

    play(scene, redis)


def test_another_process_of_redis_begins_anew(tmp_path: Path) -> None:
    """Its data may be those of before the last purges."""

    async def run(redis: RedisServer) -> None:
        async with SharingNode(redis) as a, SharingNode(redis) as b:
            put(a.store, K, b"old", url=URL)
            await a.settle()
            dump = redis.ask("DUMP", object_name(K))
            purges = redis.ask("DUMP", "test:cache:main:purges")
            redis.stop()
            await until(lambda: not a.store.recall([L], lambda found: None))
            redis.start()
            for name, dumped in ((object_name(K), dump), ("test:cache:main:purges", purges)):
                value = dumped.partition(b"\r\n")[2][:-2]
                assert redis.ask("RESTORE", name, "0", value, "REPLACE") == b"+OK\r\n"
            await until(lambda: b.handles._client is not None and b.handles._client.is_connected)
            await b.settle()
            assert await b.recall(K) is None
            put(b.store, L, b"new", url=URL)
            await b.settle()
            await until(lambda: a.handles._client is not None and a.handles._client.is_connected)
            await a.settle()
            assert await a.recall(L) == (b"head", b"new")

    with RedisServer(tmp_path) as redis:
        asyncio.run(run(redis))


def test_a_full_redis_costs_objects_only(tmp_path: Path) -> None:
    async def run(redis: RedisServer) -> None:
        async with SharingNode(redis) as a, SharingNode(redis) as b:
            put(a.store, K, b"old", url=URL, tags=[b"t"])
            await a.settle()
            redis.ask("CONFIG", "SET", "maxmemory", "1")
            put(a.store, L, b"new", url=URL)
            await a.settle()
            assert a.numbers.dropped == 1
            a.store.purge("tag", [b"t"])
            await until(lambda: not a.tier.purges.is_busy)
            assert await b.recall(K) is None
            redis.ask("CONFIG", "SET", "maxmemory", "0")
            await b.settle()
            assert await b.recall(K) is None
            put(b.store, M, b"new", url=URL)
            await b.settle()
            assert await a.recall(M) == (b"head", b"new")

    with RedisServer(tmp_path) as redis:
        asyncio.run(run(redis))


def test_disk_is_asked_first_and_both_are_written(redis: RedisServer, tmp_path: Path) -> None:
    async def run() -> None:
        async with SharingNode(redis, str(tmp_path / "cache")) as a, SharingNode(redis) as b:
            put(b.store, K, b"of another node", url=URL)
            await b.settle()
            put(a.store, L, b"own", url=URL)
            await a.settle()
            assert a.store.tiers.disk is not None
            disk = a.store.tiers.disk
            await until(lambda: not disk.is_busy)
            a.forget()
            assert await a.recall(L) == (b"head", b"own")
            assert (disk.numbers().hits, a.numbers.hits) == (1, 0)
            assert await a.recall(K) == (b"head", b"of another node")
            assert (disk.numbers().hits, a.numbers.hits) == (1, 1)
            assert await b.recall(L) == (b"head", b"own")
            purged: list[None] = []
            a.store.purge("all")
            a.store.when_purged(lambda: purged.append(None))
            await until(lambda: purged)
            b.forget()
            assert await b.recall(L) is None
            assert await a.recall(L) is None

    asyncio.run(run())
