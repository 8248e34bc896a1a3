"""Datagrams that wait for the address of their target: bounded over all sessions, as clients can forge addresses."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, closing

import pytest

from fastgw.downstream.udp import sessions
from fastgw.eventloop.socket_poller import SocketPoller
from fastgw.upstream.targets import dns
from fastgw.upstream.targets.dns import TargetAddress
from tests.support.memory import Plane
from tests.support.on_loop import on_loop, until
from tests.support.udp import UdpTarget

IDLE_S = 60
SETTINGS = {
    "listeners": {"main": {"address": "127.0.0.1:0", "protocol": "udp", "upstream": "u"}},
    "upstreams": {"u": {"targets": ["udp://service.test:53"], "timeouts": {"tunnel_idle": f"{IDLE_S}s"}}},
    "routes": [],
}


@on_loop
async def test_datagrams_that_wait_for_a_name_have_a_bound_over_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = asyncio.Event()

    async def look_up(host: str, port: int) -> list[TargetAddress]:
        await resolved.wait()
        return [TargetAddress(socket.AF_INET, ("127.0.0.1", target.port))]

    monkeypatch.setattr(dns, "look_up", look_up)
    monkeypatch.setattr(sessions, "MOST_WAITING_BYTES", 10_000)
    plane = Plane(SETTINGS)
    with ExitStack() as opened:
        target = opened.enter_context(closing(UdpTarget()))
        listening = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)
        plane.worker_loop.sockets = opened.enter_context(closing(SocketPoller(asyncio.get_running_loop())))
        clients = [opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]

        def send_all() -> None:
            for number in range(9):
                clients[number % 3].sendto(bytes([number]) * 2000, listening.getsockname())
                plane.server.udp.receive(plane.listener, listening, 64, 100)

        def received() -> list[int]:
            numbers = []
            while target.has_one(0.1):
                numbers.append(target.socket.recvfrom(9000)[0][0])
            return sorted(numbers)

        send_all()
        resolved.set()
        await until(target.has_one)
        assert received() == [0, 1, 2, 3, 4]
        send_all()
        assert received() == [*range(9)]
        for session in [*plane.server.udp.sessions.values()]:
            session.end()
    plane.assert_quiet()


@on_loop
async def test_a_session_whose_datagrams_reach_no_target_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(host: str, port: int) -> list[TargetAddress]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(dns, "look_up", look_up)
    plane = Plane(SETTINGS)
    with ExitStack() as opened:
        listening, client = (opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        listening.bind(("127.0.0.1", 0))
        client.sendto(b"x", listening.getsockname())
        plane.server.udp.receive(plane.listener, listening, 1, 100)
        plane.passes(IDLE_S + 1)
    (record,) = plane.records
    assert (record.fault, record.status, record.response_bytes) == ("upstream_timeout", 504, 0)
    plane.assert_quiet()
