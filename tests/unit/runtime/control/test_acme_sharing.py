"""Shared issuing: nodes with one Redis order a certificate once, answer challenges together, and survive each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fastgw.acme.messages import Failed, Issued, Job, Renewal, ToAnswer
from fastgw.acme.storage import read_state, state_file, write
from fastgw.config.settings.acme import Acme, AcmeCertificate
from fastgw.config.settings.secrets import Secret
from fastgw.runtime.control.acme import kept_certificate, shared_issuing
from fastgw.runtime.control.acme.kept_certificate import IssuingParts, KeptCertificate
from fastgw.runtime.control.acme.schedule import Held
from fastgw.runtime.control.acme.shared_issuing import ALONE_S, SharedIssuing, may_order_alone
from tests.support.certificates import Certificates
from tests.support.redis_server import RedisServer

DEADLINE_S = 30.0
SECRET = "a secret that all of the nodes have"
CHALLENGES = ToAnswer(http={"the-token": "the-answer"})


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Board:
    """What the workers of a node answer, once they hear."""

    def __init__(self) -> None:
        self.posted: dict[str, ToAnswer] = {}
        self.hears = asyncio.Event()
        self.hears.set()

    async def post(self, file: str, challenges: ToAnswer) -> None:
        await self.hears.wait()
        self.posted[file] = challenges

    def remove(self, file: str) -> None:
        self.posted.pop(file, None)


class Node:
    """A node with a storage of its own, which keeps a certificate for `a.test`."""

    def __init__(self, folder: Path, url: str, prefix: str, secret: str = SECRET) -> None:
        self.board, self.looks = Board(), 0
        directory: Any = "https://a.test/d"
        self.acme = Acme(directory=directory, agree=True, storage=str(folder), shared_secret=Secret(text=secret))
        self.certificate = AcmeCertificate(domains=("a.test",), storage=str(folder))
        board: Any = self.board
        self.shared = SharedIssuing(board)
        accepted: Any = SimpleNamespace(settings=SimpleNamespace(acme=self.acme), captured={})
        self.shared.use_configuration(accepted, (url, prefix))
        parts = IssuingParts(board, self.shared, self._look, lambda succeeded: None)
        turns = asyncio.Semaphore(1)
        self.kept = KeptCertificate(parts, turns, self.certificate.file, self.acme, self.certificate, {})
        self.file = Path(self.kept.info.certificate)

    async def _look(self) -> None:
        self.looks += 1

    @property
    def content(self) -> bytes:
        return self.file.read_bytes() if self.file.exists() else b""

    def stop(self) -> None:
        """End as a killed process does: nothing more is sent."""
        self.shared.stop()
        self.kept.stop()


class Cluster:
    """Nodes, and the process that talks to the issuer, of each of them."""

    def __init__(self, folder: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.redis, self.authority = folder, redis, Certificates(folder)
        self.nodes: list[Node] = []
        self.jobs: list[Job] = []
        self.fails, self.may_end = False, asyncio.Event()
        self.may_end.set()
        self.answered: list[int] = []  # number of nodes that answer when the issuer is asked to verify
        monkeypatch.setattr(kept_certificate, "run_job", self._run_job)

    def add(self, folder: Path | None = None, **more: Any) -> Node:
        """Start a node. `folder`: storage of one that has ended."""
        folder = folder or self.folder / f"node{len(self.nodes)}"
        self.nodes.append(node := Node(folder, self.redis.url, self.folder.name, **more))
        return node

    async def _run_job(self, job: Job, answer: Callable[[ToAnswer], Awaitable[None]]) -> Issued | Failed | Renewal:
        if job.asks:
            return Renewal(0.0, time.time() + 3600)
        self.jobs.append(job)
        await answer(CHALLENGES)
        self.answered.append(sum(CHALLENGES in node.board.posted.values() for node in self.nodes))
        await self.may_end.wait()
        if self.fails:
            return Failed("it refuses")
        certificate, key = self.authority.issue(job.domains[0], days=90)
        write(Path(job.file), Path(certificate).read_bytes() + Path(key).read_bytes())
        return Issued("https://a.test/d")

    def ordered_by(self) -> list[str]:
        return sorted(node.kept.info.ordered_by for node in self.nodes)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


async def until(fact: Callable[[], bool]) -> None:
    while not fact():
        await asyncio.sleep(0.01)


async def stored(node: Node) -> bytes:
    """The record of its certificate as Redis sees it, once it is written."""
    key = node.shared._key(b"certificate", node.kept._shared_name)
    while not isinstance(sealed := await node.shared._execute(b"GET", key), bytes):
        await asyncio.sleep(0.01)
    return sealed


def play(
    folder: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, act: Callable[[Cluster], Awaitable[None]]
) -> None:
    async def within() -> None:
        cluster = Cluster(folder, redis, monkeypatch)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await act(cluster)
        finally:
            cluster.stop()
            await asyncio.sleep(0)

    asyncio.run(within())


def test_one_node_orders_and_all_have_the_certificate(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(cluster: Cluster) -> None:
        cluster.may_end.clear()
        one, two, three = cluster.add(), cluster.add(), cluster.add()
        await until(lambda: bool(cluster.answered))
        (posted,) = await one.shared._execute(b"HVALS", one.shared._key(b"challenges"))
        assert len(posted) > len(b"the-answer")
        assert b"the-answer" not in posted
        await until(lambda: cluster.ordered_by() == ["another_node", "another_node", "this_node"])
        cluster.may_end.set()
        await until(lambda: bool(one.content) and one.content == two.content == three.content)
        await until(lambda: all(node.looks for node in cluster.nodes))
        assert len(cluster.jobs) == 1
        await until(lambda: cluster.ordered_by() == ["", "", ""])
        await until(lambda: not any(node.board.posted for node in cluster.nodes))
        # A node that comes later gets it as well, and Redis sees neither key nor certificate.
        late = cluster.add()
        await until(lambda: late.content == one.content)
        assert len(cluster.jobs) == 1
        sealed = await stored(one)
        assert len(sealed) > len(one.content)
        assert b"PRIVATE KEY" not in sealed
        assert b"BEGIN CERTIFICATE" not in sealed

    play(tmp_path, redis, monkeypatch, act)


def test_all_live_nodes_answer_before_the_issuer_verifies(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(cluster: Cluster) -> None:
        cluster.may_end.clear()
        one, two = cluster.add(), cluster.add()
        await until(lambda: one.shared.is_there and two.shared.is_there and bool(cluster.jobs))
        # The next order begins while both live, and one of them is slow.
        slow = two if Path(cluster.jobs[0].storage) == one.file.parent.parent else one
        await until(lambda: bool(cluster.answered))
        slow.board.hears.clear()
        fast = one if slow is two else two
        posting = asyncio.get_running_loop().create_task(fast.shared.post("another", CHALLENGES))
        posted = await fast.shared._execute(b"HKEYS", fast.shared._key(b"challenges"))
        while b"another" not in posted:
            posted = await fast.shared._execute(b"HKEYS", fast.shared._key(b"challenges"))
        assert not posting.done()
        slow.board.hears.set()
        await posting
        assert CHALLENGES in slow.board.posted.values()

    play(tmp_path, redis, monkeypatch, act)


def test_another_node_orders_when_the_ordering_one_has_died(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_issuing, "LEASE_S", 1.0)
    monkeypatch.setattr(shared_issuing, "LIVE_S", 1)

    async def act(cluster: Cluster) -> None:
        cluster.may_end.clear()
        one, two = cluster.add(), cluster.add()
        await until(lambda: bool(cluster.jobs))
        dead, left = (one, two) if cluster.jobs[0].file == str(one.file) else (two, one)
        dead.stop()
        cluster.may_end.set()
        await until(lambda: bool(left.content))
        assert [job.file for job in cluster.jobs] == [str(dead.file), str(left.file)]

    play(tmp_path, redis, monkeypatch, act)


def test_a_failure_delays_all_nodes(redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(cluster: Cluster) -> None:
        cluster.fails = True
        one, two = cluster.add(), cluster.add()
        await until(lambda: one.kept.info.failures == two.kept.info.failures == 1)
        assert len(cluster.jobs) == 1
        assert one.kept.info.problem == two.kept.info.problem == "it refuses"
        assert min(node.kept.info.next_attempt_date or 0 for node in (one, two)) > time.time() + 50

    play(tmp_path, redis, monkeypatch, act)


def test_nodes_with_another_secret_share_nothing_and_forged_values_are_not_used(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(cluster: Cluster) -> None:
        one = cluster.add()
        await until(lambda: bool(one.content))
        stranger = cluster.add(secret=SECRET[::-1])
        await until(lambda: bool(stranger.content))
        assert stranger.content != one.content
        assert len(cluster.jobs) == 2
        key = one.shared._key(b"certificate", one.kept._shared_name)
        known = await stored(one)
        theirs = await stored(stranger)
        for forged in (b"", known[:-1] + bytes([known[-1] ^ 1]), theirs):
            read: object = "another value"
            while read == "another value":  # the node may write its own again in between
                await one.shared._execute(b"SET", key, forged)
                found = await one.shared.read(one.kept._shared_name)
                read = found if await one.shared._execute(b"GET", key) == forged else read
            assert read is None
        # A sealed value in the place of another certificate's is none either.
        await one.shared._execute(b"SET", one.shared._key(b"certificate", "other"), known)
        assert await one.shared.read("other") is None

    play(tmp_path, redis, monkeypatch, act)


def test_without_redis_a_node_orders_what_is_missing_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_issuing, "ALONE_S", 0.0)
    with RedisServer(tmp_path) as server:
        server.stop()

        async def act(cluster: Cluster) -> None:
            node = cluster.add()
            await until(lambda: bool(node.content))
            monkeypatch.setattr(shared_issuing, "ALONE_S", ALONE_S)
            server.start()
            await until(lambda: node.shared.is_there)
            await stored(node)
            # The others get it once Redis is back.
            late = cluster.add()
            await until(lambda: late.content == node.content)
            assert len(cluster.jobs) == 1

        play(tmp_path, server, monkeypatch, act)


def test_a_renewal_waits_for_redis_and_the_certificate_stays_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fastgw")
    with RedisServer(tmp_path) as server:

        async def act(cluster: Cluster) -> None:
            before = cluster.add()
            await until(lambda: bool(before.content))
            file, state = before.file, state_file(str(before.file))
            await until(lambda: read_state(state).ask_date > time.time() + 60)  # nothing is written now
            await stored(before)
            before.stop()
            content = before.content
            due = msgspec.structs.replace(read_state(state), renew_date=1.0, retry_date=0.0)
            write(state, msgspec.json.encode(due))
            server.stop()
            node = cluster.add(file.parent.parent)
            await until(lambda: node.kept.info.ordered_by == "waits_for_redis")
            await until(lambda: "certificates in use stay" in caplog.text)
            assert (len(cluster.jobs), node.content, node.kept.info.problem) == (1, content, "")
            server.start()
            await until(lambda: node.content != content)
            assert len(cluster.jobs) == 2
            await until(lambda: "they are ordered by one node of all" in caplog.text)

        play(tmp_path, server, monkeypatch, act)


@pytest.mark.parametrize(
    ("held", "waited", "alone"),
    [
        (None, ALONE_S - 1, False),
        (None, ALONE_S, True),
        (Held("1", 0.0, 600.0), ALONE_S, False),  # two thirds are left
        (Held("1", 0.0, 229.0), ALONE_S, True),
        (Held("1", 0.0, 229.0), ALONE_S - 1, False),
    ],
)
def test_only_missing_and_nearly_expired_certificates_are_ordered_alone(
    held: Held | None, waited: float, alone: bool
) -> None:
    assert may_order_alone(held, waited, 200.0) is alone
