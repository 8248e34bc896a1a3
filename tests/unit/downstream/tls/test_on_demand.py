"""On-demand certificates of a worker: which handshakes wait, and what bounds them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fastgw.acme.storage import write
from fastgw.config.settings.acme import Acme, OnDemand
from fastgw.config.settings.gateway import ServerCertificate, ServerTls
from fastgw.config.sources.virtual_files import issued_in
from fastgw.downstream.tls import on_demand
from fastgw.downstream.tls.contexts import ServerContexts, server_contexts
from fastgw.downstream.tls.on_demand import (
    ASKS_AT_ONCE,
    ASKS_PER_S,
    MOST_CONTEXTS,
    MOST_WAITING,
    NameDecision,
    OnDemandCertificates,
)
from fastgw.routing.table import at_once
from fastgw.sync.feeds import Feed
from fastgw.sync.on_demand import FEED, OnDemandNames, written
from tests.support.certificates import Certificates

DEADLINE_S = 30.0


class Handshake:
    """A handshake that waits."""

    def __init__(self) -> None:
        self.answers: list[NameDecision] = []

    def proceed(self, answer: NameDecision) -> None:
        self.answers.append(answer)


class World:
    """The certificates of a worker, and a listener with a certificate for `main.test`."""

    def __init__(self, folder: Path, wait: float = 30.0) -> None:
        self.authority = Certificates(folder)
        certificate, key = self.authority.issue("main.test")
        pair = ServerCertificate(certificate=certificate, key=key)
        self.contexts: ServerContexts = at_once(
            server_contexts("main", ServerTls(certificates=(pair,), on_demand=True))
        )
        rule = OnDemand(allow=("*.shops.test",), wait=wait)
        directory: Any = "https://a.test/d"
        self.acme = Acme(directory=directory, agree=True, storage=str(folder), on_demand=rule)
        self.asked: list[str] = []
        self.feed = Feed(FEED, b"", lambda key, seen: None)
        self.certificates = OnDemandCertificates(asyncio.get_running_loop(), self.feed, self.asked.append)
        self.certificates.use_configuration(self.acme)

    def store(self, name: str) -> None:
        certificate, key = self.authority.issue(name)
        assert self.acme.on_demand is not None
        file, _ = issued_in(self.acme.on_demand.certificate(name, self.acme.storage).file)
        write(Path(file), Path(certificate).read_bytes() + Path(key).read_bytes())

    def find(self, name: str) -> tuple[NameDecision, Handshake]:
        shake = Handshake()
        return self.certificates.find(self.contexts, name, shake), shake

    def publish(self, kept: dict[str, str] | None = None, refused: dict[str, float] | None = None) -> None:
        self.feed.deliver(written(OnDemandNames(kept or {}, refused or {})))


def play(act: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await act()

    asyncio.run(within())


def test_a_handshake_waits_until_the_certificate_is_stored(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path)
        answer, shake = world.find("a.shops.test")
        assert (answer, world.asked) == (NameDecision.WAIT, ["a.shops.test"])
        world.store("a.shops.test")
        world.publish({"a.shops.test": "1"})
        while not shake.answers:
            await asyncio.sleep(0.01)
        assert shake.answers == [NameDecision.PRESENT]
        assert world.find("a.shops.test")[0] is NameDecision.PRESENT
        # A renewed one is read again.
        world.publish({"a.shops.test": "2"})
        assert world.find("a.shops.test")[0] is NameDecision.WAIT
        world.certificates.stop()

    play(act)


def test_other_names_cost_nothing(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path)
        answers = {world.find(f"n{number}.other.test")[0] for number in range(10_000)}
        assert (answers, world.asked) == ({NameDecision.FIRST}, [])
        assert world.contexts.on_demand == {}
        world.certificates.stop()

    play(act)


def test_a_flood_of_allowed_names_asks_control_at_a_bounded_rate_and_few_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(on_demand, "monotonic", lambda: now[0])

    async def act() -> None:
        world = World(tmp_path)
        world.store("kept.shops.test")
        world.publish({"kept.shops.test": "1"})
        answers = [world.find(f"n{number}.shops.test")[0] for number in range(5000)]
        assert answers.count(NameDecision.WAIT) == len(world.asked) == ASKS_AT_ONCE
        assert answers[-1] is NameDecision.REFUSE
        now[0] += 1.0
        later = [world.find(f"m{number}.shops.test")[0] for number in range(5000)]
        assert later.count(NameDecision.WAIT) == len(world.asked) - ASKS_AT_ONCE == ASKS_PER_S
        # Many clients of one name are bounded too.
        same = [world.find("n0.shops.test")[0] for _ in range(MOST_WAITING + 1)]
        assert same[-1] is NameDecision.REFUSE
        # A name with a certificate does not depend on it.
        answer, shake = world.find("kept.shops.test")
        assert answer is NameDecision.WAIT
        while not shake.answers:
            await asyncio.sleep(0.01)
        assert shake.answers == [NameDecision.PRESENT]
        world.certificates.stop()

    play(act)


def test_a_refused_name_is_refused_at_once_and_those_that_wait_for_it_too(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path)
        _, shake = world.find("a.shops.test")
        world.publish(refused={"a.shops.test": asyncio.get_running_loop().time() + 3600})
        assert shake.answers == [NameDecision.REFUSE]
        assert world.find("a.shops.test")[0] is NameDecision.REFUSE
        assert world.asked == ["a.shops.test"]
        world.certificates.stop()

    play(act)


def test_the_wait_is_bounded_and_a_client_that_left_is_forgotten(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path, wait=0.01)
        _, left = world.find("a.shops.test")
        world.certificates.leave("a.shops.test", left)
        _, shake = world.find("a.shops.test")
        while not shake.answers:
            await asyncio.sleep(0.01)
        assert (shake.answers, left.answers) == ([NameDecision.REFUSE], [])
        assert repr(world.certificates) == "<OnDemandCertificates 0 kept, 0 waiting>"
        world.certificates.stop()

    play(act)


def test_without_a_wait_a_new_name_is_refused_while_it_is_ordered(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path, wait=0)
        assert world.find("a.shops.test")[0] is NameDecision.REFUSE
        assert world.asked == ["a.shops.test"]
        world.certificates.stop()

    play(act)


def test_contexts_are_bounded(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path)
        first = world.contexts.first
        world.contexts.make_context = lambda content: first
        names = [f"n{number}.shops.test" for number in range(MOST_CONTEXTS + 1)]
        world.store(names[0])
        content = dict.fromkeys(names, "1")
        world.publish(content)
        for name in names:
            world.certificates._was_read(world.contexts, name, "1", _read())
        assert len(world.contexts.on_demand) == MOST_CONTEXTS
        assert names[0] not in world.contexts.on_demand
        world.certificates.stop()

    def _read() -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        future.set_result(b"")
        return future

    play(act)


def test_a_certificate_that_cannot_be_read_refuses_its_clients_only(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path)
        world.publish({"a.shops.test": "1"})
        answer, shake = world.find("a.shops.test")
        assert answer is NameDecision.WAIT
        while not shake.answers:
            await asyncio.sleep(0.01)
        assert shake.answers == [NameDecision.REFUSE]
        world.certificates.stop()

    play(act)
