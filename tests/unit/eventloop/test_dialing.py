"""Connecting without a task: the end of a connect is told once, and nothing that a peer has sent by then is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastgw.eventloop.dialing import DialedTransport, dial
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.targets.dns import TargetAddress
from tests.support.on_loop import on_loop, turns, until
from tests.unit.eventloop.test_socket_transport import Calls


class Dialer:
    def __init__(self, worker_loop: WorkerLoop, address: TargetAddress) -> None:
        self.told: list[int] = []
        self.calls = Calls(stays=True)
        self.transport = DialedTransport(worker_loop, dial(address), self)

    def dialed(self, transport: SocketTransport, error: int) -> None:
        assert transport is self.transport
        self.told.append(error)
        if not error:
            transport.begin(self.calls)


@asynccontextmanager
async def looping() -> AsyncIterator[WorkerLoop]:
    worker_loop = WorkerLoop(asyncio.get_running_loop())
    try:
        yield worker_loop
    finally:
        worker_loop.close()


def address_of(server: socket.socket) -> TargetAddress:
    name: Any = server.getsockname()
    return TargetAddress(server.family, name)


@on_loop
async def test_what_is_sent_and_ended_before_the_connect_is_seen_arrives() -> None:
    """One event tells of all three, and there is no other one."""
    async with looping() as worker_loop:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.create_server((host, 0), family=family) as server:
                dialer = Dialer(worker_loop, address_of(server))
                service, _ = server.accept()
                with service:
                    service.sendall(b"all")
                    service.shutdown(socket.SHUT_WR)
                    dialer.calls.buffer = dialer.calls.buffer[:1000]
                    await until(lambda dialer=dialer: dialer.calls.told == ["end"])
                    assert (dialer.told, dialer.calls.received) == ([0], b"all")
                    dialer.transport.write(b"mine")
                    assert service.recv(10) == b"mine"
                    dialer.transport.abort()
                    await turns(2)


@on_loop
async def test_a_refusal_is_told_once() -> None:
    async with looping() as worker_loop:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = address_of(server)
        dialer = Dialer(worker_loop, address)
        await until(lambda: bool(dialer.told))
        dialer.transport.close()
        await turns(3)
        assert dialer.told == [errno.ECONNREFUSED]
        assert dialer.calls.told == []


@on_loop
async def test_of_a_connect_that_is_given_up_nothing_is_told() -> None:
    async with looping() as worker_loop:
        with socket.create_server(("127.0.0.1", 0)) as server:
            dialer = Dialer(worker_loop, address_of(server))
            service, _ = server.accept()
            dialer.transport.close()
            await turns(3)
            with service:
                assert service.recv(1) == b""
            assert dialer.told == dialer.calls.told == []


def test_what_cannot_be_begun_raises_and_leaves_no_socket() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="unreachable"):
        dial(TargetAddress(socket.AF_INET, ("255.255.255.255", 1)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")  # of a socket that is left to the collector
        with pytest.raises(socket.gaierror):
            dial(TargetAddress(socket.AF_INET6, ("fe80::1%none", 1)))
    assert told == []
    assert len(os.listdir("/proc/self/fd")) == before
