"""A connection whose target has ended its direction: its place is free, and it waits less long for bytes."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fastgw.downstream.tcp.connection import HALF_CLOSED_S
from fastgw.errors import Fault
from fastgw.eventloop import socket_accept
from fastgw.eventloop.body_reads import READ_BYTES
from tests.support.on_loop import on_loop, until
from tests.unit.downstream.tcp.test_refused_watching import Node, ended


def node_before(target: socket.socket) -> Node:
    """Return a worker with a TCP listener whose upstream is this socket."""
    settings = {
        "listeners": {"main": {"address": "127.0.0.1:0", "protocol": "tcp", "upstream": "a"}},
        "upstreams": {"a": {"targets": [f"tcp://127.0.0.1:{target.getsockname()[1]}"]}},
    }
    return Node(settings)


def accept(node: Node, listening: socket.socket) -> None:
    accepted = socket_accept.accept(listening.fileno())
    assert accepted is not None
    node.server.serve_tcp(node.listener, accepted, (accepted.ip, accepted.port), None)


@pytest.mark.parametrize("count", [1, 4 * READ_BYTES])
@on_loop
async def test_a_target_that_has_ended_holds_no_place_and_its_client_has_a_minute(count: int) -> None:
    """Bytes of the client begin the minute again. The default of `tunnel_idle` is an hour."""
    loop = asyncio.get_running_loop()
    with (
        socket.create_server(("127.0.0.1", 0)) as target,
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as client,
    ):
        client.setblocking(False)
        target.setblocking(False)
        node = node_before(target)
        wheel = node.worker_loop.wheel
        (upstream,) = node.gateway.upstreams.values()
        (to,) = upstream.targets

        def assert_waits_a_minute() -> None:
            (connection,) = node.server.connections
            assert wheel.now < connection.deadline <= wheel.now + HALF_CLOSED_S
            assert wheel.now < connection.filed_at <= wheel.now + HALF_CLOSED_S

        try:
            accept(node, listening)
            service, _ = await loop.sock_accept(target)
            with service:
                service.setblocking(False)
                await until(lambda: to.places == 1)
                service.shutdown(socket.SHUT_WR)
                await until(lambda: to.places == 0)
                assert_waits_a_minute()
                assert await loop.sock_recv(client, 1) == b""
                await loop.sock_sendall(client, bytes(count))
                got = 0
                while got < count:
                    got += len(await loop.sock_recv(service, count))
                assert_waits_a_minute()
                (connection,) = node.server.connections
                connection.expire(wheel.now + HALF_CLOSED_S)
                await ended(service)
            (record,) = node.observer.records
            assert (record.fault, record.request_bytes) == (Fault.TUNNEL_IDLE.label, count)
            assert (node.limit.taken, upstream.active, to.places) == (0, 0, 0)
        finally:
            node.server.stop()
            node.gateway.stop()
            node.worker_loop.close()


@on_loop
async def test_a_client_that_still_receives_is_not_idle() -> None:
    """The kernel holds what the client reads slowly; its answer comes after it."""
    loop = asyncio.get_running_loop()
    count = 16 * 1024
    with (
        socket.create_server(("127.0.0.1", 0)) as target,
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listening.getsockname())
        client.setblocking(False)
        target.setblocking(False)
        node = node_before(target)
        wheel = node.worker_loop.wheel
        (upstream,) = node.gateway.upstreams.values()
        (to,) = upstream.targets
        try:
            accept(node, listening)
            service, _ = await loop.sock_accept(target)
            with service:
                service.setblocking(False)
                await until(lambda: to.places == 1)
                await loop.sock_sendall(service, bytes(count))
                service.shutdown(socket.SHUT_WR)
                await until(lambda: to.places == 0)
                (connection,) = node.server.connections
                connection.expire(wheel.now)  # it is looked at for the first time
                got = len(await loop.sock_recv(client, 8192))
                await until(lambda: connection in node.server.connections)
                connection.expire(wheel.now)
                assert connection in node.server.connections
                while got < count:
                    got += len(await loop.sock_recv(client, 65536))
                await loop.sock_sendall(client, b"ok")
                assert await loop.sock_recv(service, 2) == b"ok"
                connection.expire(wheel.now)
                await ended(service)
            (record,) = node.observer.records
            assert record.fault == Fault.TUNNEL_IDLE.label
        finally:
            node.server.stop()
            node.gateway.stop()
            node.worker_loop.close()
