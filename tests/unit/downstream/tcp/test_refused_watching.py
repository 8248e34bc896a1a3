"""Sockets that epoll refuses to watch, as when a user has as many as the kernel allows: the connection ends, is logged,
and everything that it had taken is given back."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.settings.gateway import Config
from fastgw.downstream import Server
from fastgw.downstream.tcp import _connection as compiled
from fastgw.errors import Fault
from fastgw.eventloop import socket_accept
from fastgw.eventloop.socket_poller import SocketPoller
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
from tests.support.on_loop import on_loop, until
from tests.support.secured import client_hello


class FullPoller:
    """Poller that watches some sockets and no more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, room: int) -> None:
        self._poller, self._room = SocketPoller(loop), room

    def watch(self, fd: int, listener: Any) -> None:
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= 1
        self._poller.watch(fd, listener)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


class Node:
    """A worker's data plane with a listener of TCP. `server`, `limit`, `observer`: its parts."""

    def __init__(self, settings: dict[str, Any], room: int) -> None:
        loop = asyncio.get_running_loop()
        loaded = load_with_files({**SERVICE, "routes": [], "access_logs": [], **settings})
        self.config: Config = loaded.config
        self.gateway = compile(self.config, 1, loaded.captured)
        self.worker_loop = WorkerLoop(loop)
        self.worker_loop.start()
        self.poller: Any = FullPoller(loop, room)
        self.worker_loop._sockets = self.poller
        services = Services(
            self.worker_loop, Fetcher(self.worker_loop), Feeds({}, lambda key: None), own_table(), own_counts()
        )
        self.shared = SharedMemory(self.gateway.layout, 1)
        self.gateway.start(services, self.shared.columns[0])
        self.observer, self.limit = Observer(), Counter(100)
        self.server = Server(self.worker_loop, self.gateway, self.observer, self.limit, None)  # type: ignore[arg-type]
        self.listener = self.gateway.listeners[0]

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
async def serving(room: int = 0, **listener: Any) -> AsyncIterator[Node]:
    with socket.create_server(("127.0.0.1", 0)) as target:
        url = f"tcp://127.0.0.1:{target.getsockname()[1]}"
        settings = {
            "listeners": {"main": {"address": "127.0.0.1:0", "protocol": "tcp", "upstream": "a", **listener}},
            "upstreams": {"a": {"targets": [url]}},
        }
        node = Node(settings, room)
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


def pair() -> tuple[socket.socket, socket.socket]:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    client.setblocking(False)
    accepted.setblocking(False)
    return client, accepted


@pytest.mark.parametrize("room", [0, 1], ids=["client", "target"])
@on_loop
async def test_a_connection_whose_sockets_cannot_be_watched_ends_and_gives_everything_back(room: int) -> None:
    async with serving(room) as node:
        client, accepted = pair()
        with client:
            node.server.serve_tcp(node.listener, accepted, ("127.0.0.1", 1), None)
            await ended(client)
            node.assert_nothing_is_taken()


@pytest.mark.parametrize("room", [0, 1], ids=["client", "target"])
def test_so_does_one_that_is_passed_through_beside_tls_that_ends_here(room: int, tmp_path: Path) -> None:
    certificate, key = Certificates(tmp_path).issue("b.test")
    mixed = {
        "upstream": None,
        "tls": {"certificates": [{"certificate": certificate, "key": key}]},
        "routes": [{"sni": ["a.test"], "upstream": "a", "passthrough": True}, {"sni": ["b.test"], "upstream": "a"}],
    }

    @on_loop
    async def run() -> None:
        async with serving(room, **mixed) as node:
            loop = asyncio.get_running_loop()
            client, accepted = pair()
            with client:
                secured = node.server.secured(node.listener, ("127.0.0.1", 1), 443)
                await loop.connect_accepted_socket(lambda: secured, accepted)
                assert node.limit.taken == 1
                await loop.sock_sendall(client, client_hello())
                await ended(client)
                node.assert_nothing_is_taken()
                await until(lambda: accepted.fileno() == -1)

    run()


@on_loop
async def test_so_does_one_that_begins_in_compiled_code() -> None:
    async with serving() as node:
        full = SocketPoller(asyncio.get_running_loop())
        full.close()  # epoll refuses any socket
        node.poller.close()
        node.worker_loop._sockets = full
        with (
            socket.create_server(("127.0.0.1", 0)) as listening,
            socket.create_connection(listening.getsockname()) as client,
        ):
            client.setblocking(False)
            held = socket_accept.accept(listening.fileno())
            assert held is not None
            compiled.serve(node.server, node.listener, held)
            await ended(client)
            node.assert_nothing_is_taken()
