"""Sockets that epoll refuses to watch, as when a user has as many as the kernel allows: the connection ends, is logged,
and everything that it had taken is given back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.settings.gateway import Config
from fastgw.downstream import Server
from fastgw.errors import Fault
from fastgw.eventloop.socket_accept import AcceptedSocket, accept
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.filters.api import Services
from fastgw.gateway.compiler import compile
from fastgw.shm.memory import SharedMemory
from fastgw.shm.node_limits import own_counts
from fastgw.shm.rate_limit_table import own_table
from fastgw.sync.feeds import Feeds
from fastgw.upstream.client.http_client import Fetcher
from tests.support.certificates import Certificates
from tests.support.generations import load_with_files
from tests.support.memory import SERVICE, Counter, Observer
from tests.support.on_loop import on_loop
from tests.support.secured import client_hello


class LastPick:
    """Balancer after whose choice no more sockets can be watched."""

    def __init__(self, node: Node, balancer: Any) -> None:
        self._node, self._balancer = node, balancer

    def pick(self, *asked: Any) -> Any:
        self._node.worker_loop.sockets.close()
        return self._balancer.pick(*asked)


class Node:
    """A worker's data plane with a listener of TCP. `server`, `limit`, `observer`: its parts."""

    def __init__(self, settings: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        loaded = load_with_files({**SERVICE, "routes": [], "access_logs": [], **settings})
        self.config: Config = loaded.config
        self.gateway = compile(self.config, 1, loaded.captured)
        self.worker_loop = WorkerLoop(loop)
        self.worker_loop.start()
        services = Services(
            self.worker_loop, Fetcher(self.worker_loop), Feeds({}, lambda key: None), own_table(), own_counts()
        )
        self.shared = SharedMemory(self.gateway.layout, 1)
        self.gateway.start(services, self.shared.columns[0])
        self.observer, self.limit = Observer(), Counter(100)
        self.server = Server(self.worker_loop, self.gateway, self.observer, self.limit, None)  # type: ignore[arg-type]
        self.listener = self.gateway.listeners[0]

    def refuse_sockets_from(self, refused: str) -> None:
        """Let epoll refuse any socket from the client's on, or from the target's: its set is closed."""
        (upstream,) = self.gateway.upstreams.values()
        if refused == "client":
            self.worker_loop.sockets.close()
        else:
            upstream.balancer = LastPick(self, upstream.balancer)

    def assert_nothing_is_taken(self) -> None:
        (record,) = self.observer.records
        assert record.fault == Fault.CONNECTIONS_EXHAUSTED.label
        assert self.limit.taken == 0
        assert not self.server.connections
        assert not self.server.handshakes
        (upstream,) = self.gateway.upstreams.values()
        assert upstream.active == 0
        assert [target.places for target in upstream.targets] == [0]


@asynccontextmanager
async def serving(refused: str, **listener: Any) -> AsyncIterator[Node]:
    with socket.create_server(("127.0.0.1", 0)) as target:
        url = f"tcp://127.0.0.1:{target.getsockname()[1]}"
        settings = {
            "listeners": {"main": {"address": "127.0.0.1:0", "protocol": "tcp", "upstream": "a", **listener}},
            "upstreams": {"a": {"targets": [url]}},
        }
        node = Node(settings)
        node.refuse_sockets_from(refused)
        try:
            yield node
        finally:
            node.server.stop()
            node.gateway.stop()
            node.worker_loop.close()


async def ended(client: socket.socket) -> None:
    """Wait until the gateway has closed its side."""
    try:
        while await asyncio.get_running_loop().sock_recv(client, 1):
            pass
    except ConnectionResetError:
        pass


def pair() -> tuple[socket.socket, AcceptedSocket]:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        client = socket.create_connection(listening.getsockname())
        accepted = accept(listening.fileno())
    assert accepted is not None
    client.setblocking(False)
    return client, accepted


@pytest.mark.parametrize("refused", ["client", "target"])
@on_loop
async def test_a_connection_whose_sockets_cannot_be_watched_ends_and_gives_everything_back(refused: str) -> None:
    async with serving(refused) as node:
        client, accepted = pair()
        with client:
            node.server.serve_tcp(node.listener, accepted, ("127.0.0.1", 1), None)
            await ended(client)
            node.assert_nothing_is_taken()


def test_so_does_one_that_is_passed_through_beside_tls_that_ends_here(tmp_path: Path) -> None:
    certificate, key = Certificates(tmp_path).issue("b.test")
    mixed = {
        "upstream": None,
        "tls": {"certificates": [{"certificate": certificate, "key": key}]},
        "routes": [{"sni": ["a.test"], "upstream": "a", "passthrough": True}, {"sni": ["b.test"], "upstream": "a"}],
    }

    @on_loop
    async def run() -> None:
        async with serving("target", **mixed) as node:
            loop = asyncio.get_running_loop()
            client, accepted = pair()
            with client:
                node.server.secured(accepted.as_number(), node.listener, ("127.0.0.1", 1), 443).begin_tls()
                assert node.limit.taken == 1
                await loop.sock_sendall(client, client_hello())
                await ended(client)
                node.assert_nothing_is_taken()

    run()
