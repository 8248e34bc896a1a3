"""Purges in the control process: of stores, and over a Redis that nodes share."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from fastgw.admin.node_interface import CachePurged, PurgeNotRecorded
from fastgw.cache.shared.layout import DISK_FAILED, JOURNAL_ENDED, JOURNAL_LEFT
from fastgw.cache.shared.shared_store import own_store
from fastgw.cache.store import PurgeKind, Refusal
from fastgw.config import load_text
from fastgw.filters import TYPES
from fastgw.runtime.control.cache_purging import CachePurging
from fastgw.runtime.control.sharing.shared_stream import FIRST
from fastgw.runtime.ipc.channel import AnnouncePurge, PurgesAnnounced, PurgesSeen
from fastgw.runtime.node.purge_persistence import purge_file, restore_waiting
from fastgw.sync.cache_purges import PurgeOrder, PurgeTarget, url_tag
from fastgw.sync.purge_backlog import RECENT_S, PurgeBacklog
from tests.support.redis_server import RedisServer
from tests.unit.cache.nodes import TieredNode

DEADLINE_S = 30.0
URL = b"http://a.test/b"
OF_URL = PurgeOrder("main", PurgeTarget.URL, (URL,))
CONFIG = """
version: 1
listeners: {{main: {{address: "127.0.0.1:0"}}}}
caches: {{main: {{memory: 1MiB}}}}
upstreams: {{a: {{targets: ["http://127.0.0.1:1"]}}}}
routes: [{{name: a, paths: ["/*"], upstream: a, filters: {{cache: {{key: {{query: {query}}}}}}}}}]
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Node:
    """A node with a store of its own. `backlog`: of its supervisor."""

    def __init__(self, *, supervised: bool = True, run_key: bytes = b"", query: str = "all") -> None:
        """`run_key`: of a gateway that reads what waits, and has a state directory if there is one. `query`: rule of
        its cache keys."""
        self.configuration = load_text(CONFIG.format(query=query).encode(), "gateway.yaml", TYPES).config
        self.store = own_store(asyncio.get_running_loop())
        self.backlog, self.supervised, self.run_key = PurgeBacklog(), supervised, run_key
        if run_key:
            restore_waiting(self.backlog, ["main"], run_key)
        self.purging = self.control()

    def control(self) -> CachePurging:
        """Return a control process as it begins."""
        file = purge_file(self.run_key) if self.run_key else None
        return CachePurging(
            {"main": self.store}.get,
            lambda: ["main"],
            lambda: self.configuration,
            self.tell,
            copy.deepcopy(self.backlog),
            file,
        )

    def tell(self, message: AnnouncePurge | PurgesAnnounced | PurgesSeen) -> bool:
        if isinstance(message, PurgesAnnounced):
            self.backlog.confirm(message.ids, 0.0)
        elif isinstance(message, PurgesSeen):
            self.backlog.seen, self.backlog.seen_at = message.number, message.at
        elif self.supervised:
            self.backlog.add(message.order, 0.0)
        return self.supervised

    def fill(self, name: bytes = b"k", url: bytes = URL, *tags: bytes) -> None:
        lease = self.store.lease(name * 16)
        assert not isinstance(lease, Refusal)
        writer = lease.store(b"head", 0, url=url, tags=[url_tag(url), *tags])
        assert writer is not None
        assert writer.complete()

    def has(self, name: bytes = b"k") -> bool:
        found = self.store.find(name * 16)
        if found is not None:
            found.release()
        return found is not None


def play(act: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await act()

    asyncio.run(within())


async def until(fact: Callable[[], bool]) -> None:
    while not fact():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("order", "left"),
    [
        (OF_URL, [b"l", b"m"]),
        (PurgeOrder("main", PurgeTarget.PREFIX, (b"http://a.test/",)), [b"m"]),
        (PurgeOrder("main", PurgeTarget.TAGS, (b"red", b"blue")), [b"k"]),
        (PurgeOrder("main", PurgeTarget.ALL), []),
    ],
)
def test_an_order_purges_and_counts(order: PurgeOrder, left: list[bytes]) -> None:
    async def act() -> None:
        node = Node()
        node.fill()
        node.fill(b"l", b"http://a.test/c", b"red")
        node.fill(b"m", b"http://b.test/", b"blue")
        assert await node.purging.purge(order) == CachePurged(3 - len(left), "node")
        assert [name for name in (b"k", b"l", b"m") if node.has(name)] == left
        assert await node.purging.purge(PurgeOrder("other", PurgeTarget.ALL)) is None

    play(act)


def test_nodes_purge_what_others_purge_and_catch_up(redis: RedisServer) -> None:
    async def act() -> None:
        one, two, late = Node(), Node(), Node()
        state = redis.url, "purges"
        for node in (one, two):
            node.purging.use_state(state)
            node.fill()
        try:
            assert await one.purging.purge(OF_URL) is not None
            await until(lambda: not two.has())
            # Its own announcement does not purge what it has stored since.
            one.fill()
            seen = one.purging._replicator._seen
            assert await two.purging.purge(PurgeOrder("main", PurgeTarget.TAGS, (b"any",))) is not None
            await until(lambda: one.purging._replicator._seen != seen)
            assert one.has()
            assert not one.backlog.waiting
            late.fill()
            late.purging.use_state(state)
            await until(lambda: not late.has())
        finally:
            for node in (one, two, late):
                node.purging.stop()
            await asyncio.sleep(0)

    play(act)


def test_each_node_purges_what_its_own_rules_leave_of_a_url(redis: RedisServer) -> None:
    """Nodes may have different configurations: what is announced is the URL as it was given."""

    async def act() -> None:
        one, two, three = Node(query="none"), Node(query="{only: [id]}"), Node()
        nodes = {one: URL, two: URL + b"?id=1", three: URL + b"?id=1&x=2"}
        for node, url in nodes.items():
            node.purging.use_state((redis.url, "rules"))
            await until(lambda node=node: node.purging._replicator.is_there)
            node.fill(b"k", url)
            node.fill(b"l", URL + b"?id=2")
        try:
            order = PurgeOrder("main", PurgeTarget.URL, (URL + b"?id=1&x=2",))
            assert await one.purging.purge(order) == CachePurged(1, "shared", is_counted=False)
            await until(lambda: not (one.has() or two.has() or three.has()))
            assert [node.has(b"l") for node in nodes] == [True] * 3
        finally:
            for node in nodes:
                node.purging.stop()
            await asyncio.sleep(0)

    play(act)


def test_a_node_that_has_missed_more_than_is_kept_purges_everything(redis: RedisServer) -> None:
    async def act() -> None:
        node = Node()
        node.fill()
        node.purging.use_state((redis.url, "trimmed"))
        other = Node()
        other.purging.use_state((redis.url, "trimmed"))
        try:
            await until(lambda: node.purging._replicator.is_there)
            node.purging.stop()
            await asyncio.sleep(0)
            node.purging._replicator._seen = b"1-1"
            node.purging._replicator._seen_at = monotonic() - RECENT_S
            node.purging._replicator._source = None
            before = other.purging._replicator._seen
            await other.purging.purge(PurgeOrder("main", PurgeTarget.TAGS, (b"any",)))
            await until(lambda: other.purging._replicator._seen != before)
            assert before == FIRST
            node.purging.use_state((redis.url, "trimmed"))
            await until(lambda: not node.has())
        finally:
            node.purging.stop()
            other.purging.stop()
            await asyncio.sleep(0)

    play(act)


def test_a_purge_outlives_a_redis_that_has_lost_it(tmp_path: Path) -> None:
    """Redis has confirmed it and fails before another node has read it; each node carries it out once."""

    async def act() -> None:
        one, two, three = Node(), Node(), Node()
        nodes = one, two, three
        with RedisServer(tmp_path) as server:
            try:
                for node in (one, two):
                    node.purging.use_state((server.url, "lost"))
                    await until(lambda node=node: node.purging._replicator.is_there)
                    node.fill()
                three.fill()
                assert await one.purging.purge(OF_URL) == CachePurged(1, "shared", is_counted=False)
                await until(lambda: not two.has())
                server.stop()
                two.fill()  # since the purge
                two.fill(b"l", b"http://a.test/c")
                server.start()
                three.purging.use_state((server.url, "lost"))
                await until(lambda: not three.has())
                assert await two.purging.purge(PurgeOrder("main", PurgeTarget.TAGS, (b"any",))) is not None
                await until(lambda: two.purging._replicator.is_there and not two.backlog.waiting)
                assert (two.has(), two.has(b"l")) == (True, True)
            finally:
                for node in nodes:
                    node.purging.stop()
                await asyncio.sleep(0)

    play(act)


def test_a_purge_outlives_the_control_process_that_could_not_announce_it(tmp_path: Path) -> None:
    async def act() -> None:
        one, two = Node(), Node()
        with RedisServer(tmp_path) as server:
            server.stop()
            one.purging.use_state((server.url, "killed"))
            assert await one.purging.purge(OF_URL) == CachePurged(0, "away", is_counted=False)
            one.purging.stop()
            successor = one.control()
            successor.use_state((server.url, "killed"))
            server.start()
            two.fill()
            two.purging.use_state((server.url, "killed"))
            try:
                await until(lambda: not two.has())
                await until(lambda: not one.backlog.waiting)
            finally:
                successor.stop()
                two.purging.stop()
                await asyncio.sleep(0)

    play(act)


def test_a_purge_that_is_neither_announced_nor_recorded_is_an_error(tmp_path: Path) -> None:
    async def act() -> None:
        node = Node(supervised=False)
        node.fill()
        assert await node.purging.purge(OF_URL) == CachePurged(1, "node")  # alone, there is nobody to tell
        node.fill()
        node.purging.use_state(("redis://127.0.0.1:1", "none"))
        with pytest.raises(PurgeNotRecorded):
            await node.purging.purge(OF_URL)
        assert not node.has()
        node.purging.stop()
        await asyncio.sleep(0)

    play(act)


def test_what_is_purged_while_redis_is_unreachable_is_announced_afterwards(tmp_path: Path) -> None:
    async def act() -> None:
        one, two = Node(), Node()
        with RedisServer(tmp_path) as server:
            state = server.url, "later"
            one.purging.use_state((server.url.replace(str(server.port), "1"), "later"))
            assert await one.purging.purge(OF_URL) == CachePurged(0, "away", is_counted=False)
            two.fill()
            two.purging.use_state(state)
            one.purging.use_state(state)
            try:
                await until(lambda: not two.has())
            finally:
                one.purging.stop()
                two.purging.stop()
                await asyncio.sleep(0)

    play(act)


def test_a_purge_outlives_a_gateway_that_is_killed_before_redis_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    file = tmp_path / "purges"

    async def act() -> None:
        with RedisServer(tmp_path) as server:
            server.stop()
            state = server.url, "whole"
            killed = Node(run_key=b"killed")
            keeping = asyncio.create_task(killed.purging.run())
            killed.purging.use_state(state)
            assert await killed.purging.purge(OF_URL) == CachePurged(0, "away", is_counted=False)
            assert file.exists()
            keeping.cancel()
            killed.purging.stop()
            await asyncio.gather(keeping, return_exceptions=True)
            assert killed.purging._file is not None
            killed.purging._file.close()  # as the kernel does

            one, two = Node(run_key=b"next"), Node()
            for node in (one, two):
                node.fill()  # what it has kept elsewhere
            keeping = asyncio.create_task(one.purging.run())
            one.purging.use_state(state)
            two.purging.use_state(state)
            server.start()
            try:
                await until(lambda: not (one.has() or two.has() or file.exists()))
            finally:
                keeping.cancel()
                one.purging.stop()
                two.purging.stop()
                await asyncio.gather(keeping, return_exceptions=True)

    play(act)


def test_a_purge_that_a_restart_would_undo_says_so(tmp_path: Path) -> None:
    tiered = TieredNode(str(tmp_path / "cache"))

    async def act() -> None:
        node = Node()
        node.store = tiered.a  # type: ignore[assignment]
        node.purging = node.control()
        assert await node.purging.purge(OF_URL) == CachePurged(0, "node", is_counted=False)
        tiered.settle()
        tiered.memory.words[DISK_FAILED] = JOURNAL_LEFT
        assert await node.purging.purge(OF_URL) == CachePurged(0, "node", holds_after_restart=False, is_counted=False)
        tiered.memory.words[DISK_FAILED] = JOURNAL_ENDED
        assert await node.purging.purge(OF_URL) == CachePurged(0, "node", is_counted=False)

    tiered.loops[1].call_soon_threadsafe = lambda callback: callback()
    play(act)
    tiered.close()


def test_a_control_process_carries_out_no_purge_of_the_time_of_the_former_one(redis: RedisServer) -> None:
    async def act() -> None:
        one, two = Node(), Node()
        state = redis.url, "read once"
        two.purging.use_state(state)
        one.purging.use_state(state)
        one.fill()
        tag = PurgeOrder("main", PurgeTarget.TAGS, (b"any",))
        try:
            await two.purging.purge(OF_URL)
            await until(lambda: not one.has())
            await until(lambda: one.backlog.seen != FIRST)
            one.fill()  # since then
            one.purging.stop()
            await asyncio.sleep(0)
            one.purging = one.control()
            one.purging.use_state(state)
            seen = one.backlog.seen
            await two.purging.purge(tag)
            await until(lambda: one.backlog.seen != seen)
            assert one.has()
        finally:
            one.purging.stop()
            two.purging.stop()
            await asyncio.sleep(0)

    play(act)


def test_what_a_former_gateway_left_is_purged_once_also_if_the_loop_begins_again() -> None:
    async def act() -> None:
        node = Node()
        node.backlog.restore(PurgeOrder("main", PurgeTarget.ALL, id=b"1"), 0.0)
        node.backlog.restore(PurgeOrder("main", PurgeTarget.TAGS, (b"red",), id=b"2"), 0.0)
        purging, purges = node.control(), node.store.purges

        class WithoutMemory:
            def __getattr__(self, name: str) -> Any:
                return getattr(purges, name)

            def purge(self, kind: PurgeKind, values: Sequence[bytes], *, soft: bool) -> int:
                if kind == "tag":
                    raise MemoryError
                return purges.purge(kind, values, soft=soft)

        node.fill()
        node.store.purges = WithoutMemory()
        with pytest.raises(MemoryError):
            await purging.run()
        assert not node.has()
        node.store.purges = purges
        node.fill()
        node.fill(b"m", b"http://a.test/c", b"red")
        await purging.run()
        assert [name for name in (b"k", b"m") if node.has(name)] == [b"k"]
        node.fill(b"m", b"http://a.test/c", b"red")
        await purging.run()
        assert node.has(b"m")

    play(act)
