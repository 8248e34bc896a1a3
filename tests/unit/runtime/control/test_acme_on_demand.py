"""On-demand certificates in the control process: which names are ordered, kept and forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from fastgw.acme.messages import Failed, Issued, Job, Renewal
from fastgw.acme.storage import read_state, state_file, write
from fastgw.config.settings.acme import Acme, OnDemand
from fastgw.config.settings.secrets import Secret
from fastgw.errors import Fault
from fastgw.runtime.control.acme import kept_certificate, shared_issuing
from fastgw.runtime.control.acme.kept_certificate import IssuingParts
from fastgw.runtime.control.acme.on_demand import MOST_PENDING, OnDemandIssuing, OrderBudget, stored_names
from fastgw.runtime.control.acme.shared_issuing import SharedIssuing
from fastgw.sync.on_demand import MOST_REFUSED, OrderRefusal, read
from fastgw.upstream.client.http_client import FetchFailed
from tests.support.certificates import Certificates
from tests.support.redis_server import RedisServer

DEADLINE_S = 30.0


class Asked:
    """The service at `ask`. `answers`: by name; None: it is unreachable."""

    def __init__(self) -> None:
        self.answers: dict[str, int | None] = {}
        self.urls: list[str] = []

    async def fetch(self, url: str, **_: Any) -> Any:
        self.urls.append(url)
        status = self.answers.get(url.rpartition("=")[2], 200)
        if status is None:
            raise FetchFailed(Fault.CONNECT_REFUSED, "it is unreachable")
        return SimpleNamespace(status=status)


class World:
    """The control process with an issuer. `fails`: whether orders fail; `held`: whether they last."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, redis: RedisServer | None = None, **rule: Any
    ) -> None:
        """`redis`: through which it shares certificates."""
        self.folder, self.authority, self.redis = folder, Certificates(folder), redis
        self.fails, self.held = False, asyncio.Event()
        self.held.set()
        self.days = 90.0
        self.jobs: list[Job] = []
        self.words = [0] * len(OrderRefusal)
        self.asked = Asked()
        monkeypatch.setattr(kept_certificate, "run_job", self._run_job)
        self.rule = {"allow": ("*.shops.test",), "refused_for": 3600.0, **rule}
        self.begin()

    def begin(self) -> None:
        directory: Any = "https://a.test/d"
        storage = str(self.folder / "store")
        secret = None if self.redis is None else Secret(text="a secret that all of the nodes have")
        rule = OnDemand(**self.rule)
        self.acme = Acme(directory=directory, agree=True, storage=storage, on_demand=rule, shared_secret=secret)
        shared = SimpleNamespace(supervisor=SimpleNamespace(words=self.words))
        node: Any = SimpleNamespace(shared=shared, words=SimpleNamespace(acme_refusals=0))
        board: Any = SimpleNamespace(remove=lambda file: None)
        self.shared = SharedIssuing(board)
        parts = IssuingParts(board, self.shared, self._nothing, lambda succeeded: None)
        self.issuing = OnDemandIssuing(node, cast(Any, None), cast(Any, self.asked), parts)
        self.issuing._feed = cast(Any, SimpleNamespace(publish=lambda: None))
        accepted: Any = SimpleNamespace(settings=SimpleNamespace(acme=self.acme), captured={})
        self.shared.use_configuration(accepted, None if self.redis is None else (self.redis.url, "nodes"))
        self.issuing.use_configuration(accepted)

    async def _nothing(self) -> None: ...

    async def _run_job(self, job: Job, answer: Any) -> Issued | Failed | Renewal:
        if job.asks:
            return Renewal(0.0, time.time() + 3600)
        self.jobs.append(job)
        await self.held.wait()
        if self.fails:
            return Failed("it refuses")
        certificate, key = self.authority.issue(job.domains[0], days=self.days)
        write(Path(job.file), Path(certificate).read_bytes() + Path(key).read_bytes())
        return Issued("https://a.test/d")

    @property
    def kept(self) -> set[str]:
        return {*read(self.issuing._value()).kept}

    @property
    def refused(self) -> set[str]:
        return {*read(self.issuing._value()).refused}

    @property
    def numbers(self) -> dict[str, int]:
        info = self.issuing.info
        assert info is not None
        return {reason: count for reason, count in info.refused.items() if count}


async def until(fact: Callable[[], bool]) -> None:
    while not fact():
        await asyncio.sleep(0.01)


def play(act: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await act()

    asyncio.run(within())


def test_orders_are_bounded_within_an_hour() -> None:
    budget = OrderBudget(2)
    assert [budget.take_one(now) for now in (0.0, 10.0, 20.0, 3600.5, 3601.0)] == [True, True, False, True, False]
    budget = OrderBudget(2)
    budget.count_before([5.0, 6.0, 7.0])
    assert not budget.take_one(8.0)


def test_a_name_is_ordered_once_and_kept_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        world = World(tmp_path, monkeypatch)
        for _ in range(3):
            world.issuing.requested("a.shops.test")
        world.issuing.requested("a.other.test")
        await until(lambda: world.kept == {"a.shops.test"})
        assert [job.domains for job in world.jobs] == [["a.shops.test"]]
        await until(lambda: read_state(state_file(world.jobs[0].file)).name == "a.shops.test")
        world.issuing.stop()
        world.begin()
        await until(lambda: world.kept == {"a.shops.test"})
        assert len(world.jobs) == 1
        world.issuing.stop()

    play(act)


def test_a_failed_order_is_remembered_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        world = World(tmp_path, monkeypatch)
        world.fails = True
        world.issuing.requested("a.shops.test")
        await until(lambda: world.refused == {"a.shops.test"})
        await until(lambda: not [*world.issuing.infos()])
        world.issuing.requested("a.shops.test")
        assert (len(world.jobs), world.numbers) == (1, {"order_failed": 1})
        assert world.issuing.why_not_ordered("A.shops.test.").startswith("as its order has failed (3")
        assert world.issuing.why_not_ordered("b.shops.test") == ""
        folder = Path(world.jobs[0].file).parent
        assert [each.name for each in folder.iterdir()] == []
        world.issuing.stop()

    play(act)


def test_what_clients_ask_for_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        world = World(tmp_path, monkeypatch, orders_per_hour=10_000)
        world.held.clear()
        await until(lambda: world.issuing._starting is None)
        for number in range(3 * MOST_REFUSED):
            world.issuing.requested(f"n{number}.shops.test")
        assert world.issuing.info is not None
        assert world.issuing.info.pending == MOST_PENDING
        assert len(world.refused) == MOST_REFUSED
        assert world.issuing.why_not_ordered("z.shops.test") == "as too many names are asked for at the same time"
        await until(lambda: len(world.jobs) == 4)  # `orders_at_once`
        world.issuing.stop()

    play(act)


def test_names_and_orders_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        world = World(tmp_path, monkeypatch, names=2, orders_per_hour=3)
        for name in ("a", "b", "c"):
            world.issuing.requested(f"{name}.shops.test")
        await until(lambda: len(world.kept) == 2)
        assert world.numbers == {"names": 1}
        assert world.issuing.why_not_ordered("z.shops.test") == "as `acme.on_demand.names` is reached"
        assert world.issuing.why_not_ordered("a.shops.test") == ""
        world.issuing.stop()
        world.rule = {**world.rule, "names": 10}
        world.begin()
        await until(lambda: len(world.kept) == 2)
        for name in ("d", "e"):
            world.issuing.requested(f"{name}.shops.test")
        await until(lambda: len(world.kept) == 3 and world.numbers == {"names": 1, "rate": 1})
        assert world.issuing.why_not_ordered("z.shops.test") == "as `acme.on_demand.orders_per_hour` is reached"
        world.issuing.stop()

    play(act)


def test_ask_decides_and_its_refusals_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        world = World(tmp_path, monkeypatch, allow=(), ask="http://127.0.0.1:9/may?key=1")
        world.asked.answers = {"no.test.example": 404, "away.test.example": None, "broken.test.example": 500}
        for name in ("yes", "no", "away", "broken"):
            world.issuing.requested(f"{name}.test.example")
        await until(lambda: world.kept == {"yes.test.example"} and len(world.refused) == 3)
        assert world.numbers == {"not_allowed": 1, "ask_failed": 2}
        assert "http://127.0.0.1:9/may?key=1&domain=yes.test.example" in world.asked.urls
        world.issuing.requested("no.test.example")
        assert len(world.asked.urls) == 4
        world.issuing.stop()

    play(act)


def test_orders_of_all_nodes_are_bounded_together_and_a_shared_name_costs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis is away the bound is that of the node, and names with a certificate stay."""
    monkeypatch.setattr(shared_issuing, "ALONE_S", 0.0)

    async def act() -> None:
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        one, two = (World(folder, monkeypatch, redis, orders_per_hour=2) for folder in folders)
        monkeypatch.setattr(kept_certificate, "run_job", one._run_job)  # it has the jobs of both
        await until(lambda: one.shared.is_there and two.shared.is_there)
        one.issuing.requested("a.shops.test")
        await until(lambda: one.kept == {"a.shops.test"})
        two.issuing.requested("b.shops.test")
        await until(lambda: two.kept == {"b.shops.test"})
        for world in (one, two):
            world.issuing.requested("c.shops.test")
        await until(lambda: one.numbers == two.numbers == {"rate": 1})
        two.issuing.requested("a.shops.test")
        await until(lambda: two.kept == {"a.shops.test", "b.shops.test"})
        assert [job.domains for job in one.jobs] == [["a.shops.test"], ["b.shops.test"]]
        redis.stop()
        await until(lambda: not two.shared.is_there)
        for name in ("d", "e"):
            two.issuing.requested(f"{name}.shops.test")
        await until(lambda: len(two.kept) == 3 and two.numbers == {"rate": 2})
        assert len(one.jobs) == 3
        for world in (one, two):
            world.issuing.stop()
            world.shared.stop()

    with RedisServer(tmp_path) as redis:
        play(act)


@pytest.mark.parametrize(("unused", "allowed", "stays"), [(False, 200, True), (True, 200, False), (False, 403, False)])
def test_a_name_is_renewed_while_it_is_used_and_allowed_else_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused: bool, allowed: int, stays: bool
) -> None:
    async def act() -> None:
        world = World(tmp_path, monkeypatch, ask="http://127.0.0.1:9/may", unused_for=3600.0)
        world.issuing.requested("a.shops.test")
        await until(lambda: world.kept == {"a.shops.test"})
        file = Path(world.jobs[0].file)
        await until(lambda: read_state(state_file(str(file))).ask_date > time.time() + 60)  # nothing is written now
        world.issuing.stop()
        world.asked.answers = {"a.shops.test": allowed}
        state = read_state(state_file(str(file)))
        used_date = time.time() - 7200 if unused else time.time()
        due = msgspec.structs.replace(state, renew_date=1.0, retry_date=0.0, used_date=used_date)
        write(state_file(str(file)), msgspec.json.encode(due))
        world.begin()
        if stays:
            await until(lambda: len(world.jobs) == 2)
        else:
            await until(lambda: world.issuing._starting is None and not [*world.issuing.infos()])
            assert (len(world.jobs), file.exists()) == (1, False)
        world.issuing.stop()

    play(act)


def test_names_that_are_no_longer_allowed_are_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        world = World(tmp_path, monkeypatch)
        world.issuing.requested("a.shops.test")
        await until(lambda: world.kept == {"a.shops.test"})
        await until(lambda: bool(stored_names(world.acme, world.acme.on_demand, time.time())[0]))  # type: ignore[arg-type]  # it is set
        world.issuing.stop()
        world.rule = {**world.rule, "allow": ("*.other.test",)}
        world.begin()
        await until(lambda: world.issuing._starting is None)
        assert world.kept == set()
        world.issuing.stop()

    play(act)


def test_orders_that_are_interrupted_count_and_leave_nothing_after_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed again and again orders no more than one that is not."""

    async def act() -> None:
        world = World(tmp_path, monkeypatch, orders_per_hour=2, orders_at_once=2)
        world.held.clear()
        for name in ("a.shops.test", "b.shops.test"):
            world.issuing.requested(name)
        await until(lambda: len(world.jobs) == 2)
        files = [state_file(job.file) for job in world.jobs]
        world.issuing.stop()
        world.begin()
        await until(lambda: world.issuing._starting is None)
        world.issuing.requested("c.shops.test")
        await until(lambda: bool(world.numbers))
        assert world.numbers == {"rate": 1}
        world.issuing.stop()
        for file in files:
            state = read_state(file)
            write(file, msgspec.json.encode(msgspec.structs.replace(state, order_date=state.order_date - 3700.0)))
        world.begin()
        await until(lambda: world.issuing._starting is None)
        assert [file for file in files if file.exists()] == []
        world.issuing.requested("c.shops.test")
        await until(lambda: len(world.jobs) == 3)
        world.issuing.stop()

    play(act)
