"""What happens around a request, when processes end and begin while it is under way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import Caller, LoadCounts, Lost, call
from tests.e2e.conftest import fronting
from tests.e2e.programs import Nginx
from tests.support.gateway import Gateway
from tests.support.peer import DEADLINE
from tests.support.tcp_table import tcp_rows

CALLERS = 24
PAUSE = 0.02  # seconds from an answer to the next request: without, clients would take the processors from what happens
ANSWERING = "location / { return 200 'fine'; }"


async def enough(counters: LoadCounts, count: int) -> None:
    """Return when so many more requests have been answered, however."""
    wanted = counters.statuses.total() + count
    async with asyncio.timeout(4 * DEADLINE):
        while counters.statuses.total() < wanted:
            await asyncio.sleep(0.005)


def under_load(
    address: str, events: Callable[[LoadCounts], Awaitable[None]], method: str = "GET", undeterred: bool = False
) -> LoadCounts:
    """What became of the requests of CALLERS clients that ask again and again while `events` happen.

    `undeterred`: whose connection breaks opens another.
    """
    counters = LoadCounts()

    async def both() -> None:
        going_on = True
        body = b"x" if method == "POST" else b""

        async def one() -> None:
            await call(address, lambda: going_on, counters, method, body, pause=PAUSE)
            while undeterred and going_on:
                await call(address, lambda: going_on, counters, method, body, pause=PAUSE)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(one())
            await events(counters)
            going_on = False

    asyncio.run(both())
    return counters


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Nginx]:
    """It answers every request, POST too."""
    with Nginx(tmp_path / "origin", ANSWERING) as origin:
        yield origin


@pytest.mark.landing
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_drain_loses_no_request(origin: Nginx, tmp_path: Path, method: str) -> None:
    """TERM under load: what has been sent is answered, kept-alive clients are told to go, and then all is closed."""
    with Gateway(fronting(main=origin.url), tmp_path) as gateway:

        async def events(counters: LoadCounts) -> None:
            await enough(counters, 500)
            gateway.signal(signal.SIGTERM)
            await asyncio.to_thread(gateway.wait)

        counters = under_load(gateway.address(), events, method)
        assert not counters.lost
        assert set(counters.statuses) == {200}


@pytest.mark.landing
def test_a_worker_that_is_killed_breaks_only_its_own_connections(origin: Nginx, tmp_path: Path) -> None:
    """kill -9 amid load: clients of the other worker notice nothing, and whoever comes anew is served."""

    async def all_of_it(gateway: Gateway) -> None:
        victim, survivor = gateway.worker_pids[:2]
        callers = [Caller(gateway.address()) for _ in range(CALLERS)]
        for caller in callers:
            await caller.open()
            await caller.ask()
        ports, others = client_ports(victim), client_ports(survivor)
        of_victim = {caller for caller in callers if caller.port in ports}
        assert of_victim | {caller for caller in callers if caller.port in others} == set(callers)
        broken, answered = set(), 0

        async def ask(caller: Caller) -> None:
            nonlocal answered
            try:
                for _ in range(100):
                    await caller.ask()
                    answered += 1
                    if answered == 500:
                        os.kill(victim, signal.SIGKILL)
            except Lost:
                broken.add(caller)

        newcomers = LoadCounts()
        killed = asyncio.create_task(asyncio.to_thread(gateway.stderr.wait_for, lambda line: b"SIGKILL" in line))
        async with asyncio.TaskGroup() as tasks:
            for caller in callers:
                tasks.create_task(ask(caller))
            await killed
            for _ in range(CALLERS):
                tasks.create_task(call(gateway.address(), lambda: newcomers.statuses.total() < 1000, newcomers))
        assert broken == of_victim
        assert (newcomers.lost, set(newcomers.statuses)) == ([], {200})
        for caller in callers:
            caller.close()

    with Gateway(fronting(main=origin.url), tmp_path) as gateway:
        asyncio.run(all_of_it(gateway))


def client_ports(pid: int) -> set[int]:
    """The ports of those whom this process has a connection with."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            sockets.add(os.readlink(descriptor))
    rows = tcp_rows()
    return {int(row[2].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in sockets}


@pytest.mark.landing
def test_workers_killed_one_after_the_other(origin: Nginx, tmp_path: Path) -> None:
    """Each worker dies once under load: a client loses at most the request that was under way, and goes on."""
    with Gateway(fronting(main=origin.url), tmp_path) as gateway:

        async def events(counters: LoadCounts) -> None:
            for pid in gateway.worker_pids[:2]:
                await enough(counters, 300)
                os.kill(pid, signal.SIGKILL)
                deaths = b"(pid %d) ended: killed by SIGKILL" % pid
                await asyncio.to_thread(gateway.stderr.wait_for, lambda line, deaths=deaths: deaths in line)
            await enough(counters, 300)

        counters = under_load(gateway.address(), events, undeterred=True)
        assert len(counters.lost) <= 2 * CALLERS
        assert set(counters.statuses) == {200}


class Service:
    """It answers, and who is in its queue when it ends, too: nginx resets those, and a GET that was lost on a new
    connection is not sent again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.address = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        config = {
            "workers": 1,
            "listeners": {"main": {"address": self.address}},
            "access_logs": [],
            "routes": [{"name": "main", "respond": {"body": "fine"}}],
        }
        self._gateway = Gateway(config, self._folder)
        self.address = self._gateway.address()

    def quit(self) -> None:
        self._gateway.stop()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Service, Service]]:
    one, two = Service(tmp_path / "one"), Service(tmp_path / "two")
    yield one, two
    one.quit()
    two.quit()


@pytest.mark.landing
def test_a_service_is_restarted_target_by_target(pair: tuple[Service, Service], tmp_path: Path) -> None:
    """It ends gracefully and comes back, one target after the other: not one request fails."""
    targets = [{"url": f"http://{each.address}"} for each in pair]
    upstreams = {"pair": {"targets": targets, "retries": {"max": 2, "budget": "100%"}}}
    with Gateway({**fronting(main="pair"), "upstreams": upstreams}, tmp_path) as gateway:

        async def events(counters: LoadCounts) -> None:
            for each in pair:
                await enough(counters, 300)
                await asyncio.to_thread(each.quit)
                await enough(counters, 300)
                await asyncio.to_thread(each.start)
            await enough(counters, 300)

        counters = under_load(gateway.address(), events)
        assert (counters.lost, dict(counters.faults), set(counters.statuses)) == ([], {}, {200})


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_service_that_dies_and_comes_back(origin: Nginx, tmp_path: Path, method: str) -> None:
    """Its only target is killed: clear 502s on connections that go on, until it is back; then all is well at once."""
    with Gateway(fronting(main=origin.url), tmp_path) as gateway:
        after = LoadCounts()

        async def events(counters: LoadCounts) -> None:
            await enough(counters, 300)
            await asyncio.to_thread(origin.kill)
            await enough(counters, 300)
            await asyncio.to_thread(origin.start)
            await enough(counters, 4 * CALLERS)  # those that were under way
            earlier = counters.statuses.copy()
            await enough(counters, 300)
            after.statuses = counters.statuses - earlier

        counters = under_load(gateway.address(), events, method)
        assert not counters.lost
        assert set(counters.statuses) == {200, 502}
        assert set(counters.faults) <= {"connect_refused", "connection_lost"}, gateway.stderr.text()
        assert counters.faults["connect_refused"] > 0
        assert set(after.statuses) == {200}
