"""Upstreams that are configured away while they are in use, with real connections: all ends, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from fastgw.config.settings.gateway import Config
from fastgw.downstream import Server
from fastgw.downstream.http1.connection import Http1ClientConnection
from fastgw.errors import Fault
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange
from fastgw.filters.api import Services
from fastgw.gateway.compiler import building, compile
from fastgw.gateway.tables import dismantling
from fastgw.routing.table import at_once
from fastgw.shm.memory import SharedMemory
from fastgw.shm.node_limits import own_counts
from fastgw.shm.rate_limit_table import own_table
from fastgw.shm.slot_assignment import first
from fastgw.sync.feeds import Feeds
from fastgw.upstream.client.http_client import Fetcher
from fastgw.upstream.connections.http1_connection import UpstreamConnection
from fastgw.upstream.connections.pool import Pool
from fastgw.upstream.connections.pool_limit import LocalLimit
from fastgw.upstream.forwarding.attempt import Attempt
from fastgw.upstream.forwarding.forwarding import Forwarding
from fastgw.upstream.health.circuit_breaker import BreakerPhase
from fastgw.upstream.upstream import Upstream
from tests.support.attempts import record
from tests.support.certificates import Certificates, server_tls
from tests.support.collector import no_collector
from tests.support.generations import load_document, plan_after
from tests.support.memory import SERVICE, Observer
from tests.support.on_loop import on_loop, until

GET = b"GET /%b HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ASKING = b"GET /old HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Taken(asyncio.Protocol):
    """A connection that the service took, or a client's."""

    def __init__(self, taken: list[Taken] | None = None) -> None:
        self.taken = taken
        self.received = b""
        self.closed = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.taken is not None:
            self.taken.append(self)

    def data_received(self, chunk: bytes) -> None:
        self.received += chunk

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True

    def sends(self, message: bytes) -> None:
        self.transport.write(message)


class Node:
    """A worker's data plane, a service and a configuration that sends `/old` there."""

    def __init__(self, authority: Certificates | None = None) -> None:
        self.taken: list[Taken] = []
        self.tls = None if authority is None else server_tls(authority.issue("localhost"))
        self.ca = None if authority is None else authority.ca

    def configured(self, *paths: str, **upstream: Any) -> Config:
        routes = [{"name": path, "paths": [f"/{path}"], "upstream": path} for path in paths]
        service: dict[str, Any] = {"resolve": {"interval": "1s"}}
        service["targets"] = [{"url": f"http{'s' if self.ca else ''}://localhost:{self.port}"}]
        if self.ca:
            service["tls"] = {"ca": self.ca}
        upstreams = {path: {**service, **upstream} for path in paths}
        more = {"routes": routes, "upstreams": upstreams, "access_logs": [], "timeouts": {"request_headers": "300s"}}
        return load_document({**SERVICE, **more})

    async def begin(self, **upstream: Any) -> None:
        loop = asyncio.get_running_loop()
        self.service = await loop.create_server(lambda: Taken(self.taken), "127.0.0.1", 0, ssl=self.tls)
        self.port = self.service.sockets[0].getsockname()[1]
        self.config = self.configured("old", **upstream)
        self.gateway = compile(self.config, 1)
        self.worker_loop = WorkerLoop(loop)
        self.worker_loop.start()
        feeds = Feeds({}, lambda key: None)
        self.services = Services(self.worker_loop, Fetcher(self.worker_loop), feeds, own_table(), own_counts())
        self.shared = SharedMemory(self.gateway.layout, 1)
        self.gateway.start(self.services, self.shared.columns[0])
        self.server = Server(self.worker_loop, self.gateway, Observer(), LocalLimit(100), None)  # type: ignore[arg-type]

    async def end(self) -> None:
        self.server.stop()
        self.gateway.stop()
        self.worker_loop.close()
        for taken in self.taken:
            taken.transport.abort()
        self.service.close()
        await self.service.wait_closed()

    async def client(self) -> Taken:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        loop = asyncio.get_running_loop()
        protocol = self.server.accepted(self.gateway.listeners[0], ("127.0.0.1", 1), 80)
        SocketTransport(self.worker_loop, theirs.detach()).begin(protocol)
        _, client = await loop.connect_accepted_socket(Taken, ours)
        return client

    def adopt(self, configuration: Config) -> None:
        """All that a worker does, with none of its pauses."""
        old = self.gateway
        self.gateway = at_once(building(plan_after(self.config, configuration), 1, old))
        self.gateway.slot_table = old.slot_table.following(self.gateway.names, generation=2, oldest=1)
        self.gateway.start(self.services, self.shared.columns[0])
        self.server.adopt(self.gateway, self.server.connection_limit, None)
        old.retire(self.gateway)
        at_once(dismantling(old, self.gateway))
        self.config = configuration


@asynccontextmanager
async def serving(authority: Certificates | None = None, **upstream: Any) -> AsyncIterator[Node]:
    """`authority`: the service speaks TLS with a certificate of this one."""
    node = Node(authority)
    await node.begin(**upstream)
    try:
        yield node
    finally:
        await node.end()


def held(*kinds: type) -> list[str]:
    """What there is of these kinds, whoever holds it; of upstreams where none are named."""
    kinds = kinds or (Upstream, Pool)
    return sorted(type(each).__name__ for each in gc.get_objects() if type(each) in kinds)


ONE = ["Pool", "Upstream"]


@on_loop
async def test_requests_in_flight_on_replaced_upstreams_are_counted_until_they_end():
    """By the upstream of their name, over several reloads: whoever scales by them sees no drop at a reload."""
    with no_collector():
        async with serving() as node:
            first, second = [await node.client() for _ in range(2)]
            first.sends(GET % b"old")
            await until(lambda: len(node.taken) == 1)
            for count, times in enumerate(({"tunnel_idle": "7s"}, {"tunnel_idle": "8s"}, {"tunnel_idle": "9s"})):
                node.adopt(node.configured("old", timeouts=times))
                upstream = node.gateway.upstreams["old"]
                assert (upstream.active, upstream.in_flight) == (0, min(count, 1) + 1)
                if not count:
                    second.sends(GET % b"old")
                    await until(lambda: len(node.taken) == 2)
                    assert (upstream.active, upstream.in_flight) == (1, 2)
            for taken, client in zip(node.taken, (first, second), strict=True):
                taken.sends(OK)
                await until(lambda client=client: client.received.endswith(b"ok"))
            await until(lambda: upstream.in_flight == 0)
            node.adopt(node.configured("old"))
            assert node.gateway.upstreams["old"].replaced == ()


@pytest.mark.parametrize(
    "upstream",
    [
        {},
        {"timeouts": {"response_headers": "300s"}},
        {"timeouts": {"total": "300s"}},
        {"health_checks": {"active": {}, "passive": {}}, "circuit_breaker": {}},
    ],
)
@on_loop
async def test_its_last_exchange_takes_the_pool_with_it(upstream):
    """Although the client keeps its connection, and the wheel has not come round to the upstream's deadlines."""
    with no_collector():
        async with serving(**upstream) as node:
            before = held()
            client = await node.client()
            for count in (1, 2):
                client.sends(GET % b"old")
                await until(lambda: bool(node.taken))
                await until(lambda count=count: node.taken[0].received.count(b"GET /old") == count)
                if count == 1:
                    node.taken[0].sends(OK)
                    await until(lambda: client.received.endswith(b"ok"))
            node.adopt(node.configured("new", **upstream))
            assert held() == sorted(before + ONE)
            node.taken[0].sends(OK)
            await until(lambda: client.received.count(b"200 OK") == 2)
            await until(lambda: node.taken[0].closed)
            await until(lambda: held() == before)
            client.sends(GET % b"new")
            await until(lambda: len(node.taken) == 2)
            assert not client.closed
            client.transport.abort()
        await until(lambda: client.closed)


@pytest.mark.parametrize(
    "upstream",
    [
        {},
        {"timeouts": {"total": "300s"}},
        {"retries": {"conditions": ["per_try_timeout"], "max": 1, "per_try_timeout": "300s"}},
    ],
)
@pytest.mark.parametrize("answer", [OK, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), b""])
@on_loop
async def test_what_is_over_is_not_held_until_its_deadline(upstream, answer):
    """Which may be minutes away: of thousands a second each would wait for its own."""
    kinds = (Http1ClientConnection, Exchange, Forwarding, Attempt, UpstreamConnection)
    with no_collector():
        before = held(*kinds)
        async with serving(**upstream) as node:
            client = await node.client()
            client.sends(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % b"old")
            await until(lambda: bool(node.taken) and b"GET /old" in node.taken[0].received)
            if answer:
                node.taken[0].sends(answer)
            else:
                client.transport.abort()
            await until(lambda: client.closed)
            kept = ["UpstreamConnection"] if answer is OK else []
            await until(lambda: held(*kinds) == sorted(before + kept))


@pytest.mark.parametrize("tls", [False, True])
@on_loop
async def test_idle_connections_close_and_the_pool_is_gone_at_once(tmp_path: Path, tls: bool):
    with no_collector():
        async with serving(Certificates(tmp_path) if tls else None) as node:
            client = await node.client()
            client.sends(GET % b"old")
            await until(lambda: bool(node.taken) and b"GET /old" in node.taken[0].received)
            node.taken[0].sends(OK)
            await until(lambda: client.received.endswith(b"ok"))
            assert node.gateway.upstreams["old"].pool.idle_count == 1
            before = held()
            node.adopt(node.configured("new"))
            await until(lambda: node.taken[0].closed)
            await until(lambda: held() == before)
            assert node.shared.total(0) == 0
            client.transport.abort()


@on_loop
async def test_a_tunnel_goes_on_and_its_end_takes_the_pool_with_it():
    with no_collector():
        async with serving() as node:
            before = held()
            client = await node.client()
            client.sends(ASKING)
            await until(lambda: bool(node.taken) and b"GET /old" in node.taken[0].received)
            node.taken[0].sends(SWITCHED)
            await until(lambda: client.received.startswith(b"HTTP/1.1 101"))
            node.adopt(node.configured("new"))
            node.taken[0].sends(b"down")
            client.sends(b"up")
            await until(lambda: client.received.endswith(b"down") and node.taken[0].received.endswith(b"up"))
            assert held() == sorted(before + ONE)
            client.transport.abort()
            await until(lambda: node.taken[0].closed)
            await until(lambda: held() == before)


@on_loop
async def test_two_generations_of_one_upstream_share_its_limit():
    """What the old one has lent counts against what the new one may open."""
    async with serving(pool={"max_connections": 2}) as node:
        clients = [await node.client() for _ in range(3)]
        clients[0].sends(GET % b"old")
        await until(lambda: len(node.taken) == 1)
        node.adopt(node.configured("old", pool={"max_connections": 2, "idle_timeout": "9s"}))
        for client in clients[1:]:
            client.sends(GET % b"old")
        await until(lambda: len(node.taken) == 2)
        pool = node.gateway.upstreams["old"].pool
        await until(lambda: len(pool._placeless) == 1)
        await until(lambda: b"GET /old" in node.taken[0].received)
        node.taken[0].sends(OK)
        await until(lambda: len(node.taken) == 3)
        assert node.taken[0].closed
        for client in clients:
            client.transport.abort()


@pytest.mark.parametrize("phase", [BreakerPhase.OPEN, BreakerPhase.HALF_OPEN])
@on_loop
async def test_an_open_breaker_stays_so_under_other_settings(phase: BreakerPhase) -> None:
    """What the one before is still told of does not count any more; it is gone with its last exchange."""
    with no_collector():
        async with serving(circuit_breaker={"min_requests": 1, "open": "300s"}) as node:
            upstream = node.gateway.upstreams["old"]
            upstream.health.attempt_given_up(record(upstream.targets[0], 0.1), Fault.CONNECT_REFUSED, "")
            breaker = upstream.health.breaker
            assert (breaker.phase, upstream.unavailable()) == (BreakerPhase.OPEN, Fault.CIRCUIT_OPEN)
            assert 299 < upstream.wait() <= 300
            if phase is BreakerPhase.HALF_OPEN:
                breaker.refresh_state(monotonic() + 301)
            assert breaker.phase is phase
            before = held()
            node.adopt(node.configured("old", circuit_breaker={"min_requests": 2, "open": "301s"}))
            assert node.gateway.upstreams["old"].unavailable() is Fault.CIRCUIT_OPEN
            assert not upstream.attempt_listeners
            assert upstream.balancer.pick(None) is upstream.targets[0]
            del upstream, breaker
            await until(lambda: held() == before)


@on_loop
async def test_an_upstream_that_stays_keeps_its_connections():
    async with serving() as node:
        client = await node.client()
        client.sends(GET % b"old")
        await until(lambda: bool(node.taken) and b"GET /old" in node.taken[0].received)
        node.taken[0].sends(OK)
        await until(lambda: client.received.endswith(b"ok"))
        pool = node.gateway.upstreams["old"].pool
        node.adopt(node.configured("old", "new"))
        assert node.gateway.upstreams["old"].pool is pool
        client.sends(GET % b"old")
        await until(lambda: node.taken[0].received.count(b"GET /old") == 2)
        assert len(node.taken) == 1
        client.transport.abort()


@on_loop
async def test_upstreams_are_opened_once_however_often_they_are_started():
    async with serving() as node:
        pool = node.gateway.upstreams["old"].pool
        assert sum(1 for _ in node.gateway.starting(node.services, node.shared.columns[0])) >= 1
        assert node.gateway.upstreams["old"].pool is pool
        assert node.gateway.slot_table == first(node.gateway.names)
