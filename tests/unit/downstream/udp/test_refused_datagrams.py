"""Datagrams of a session that has no responses, when its target refuses one: another target gets those that the first
one cannot have received, and no others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import ExitStack, closing
from select import select

from fastgw.eventloop.socket_poller import SocketPoller
from tests.support.memory import Plane
from tests.support.on_loop import on_loop, until
from tests.support.udp import UdpTarget

REFUSAL_S = 1.0
"""Seconds in which the refusal of a datagram arrives."""
IDLE_S = 60


class Session:
    """A client's session with the target `first`; `second` is in the next priority group."""

    def __init__(self, opened: ExitStack) -> None:
        self.first, self.second = (opened.enter_context(closing(UdpTarget())) for _ in range(2))
        self._listening, self._client = (
            opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)
        )
        self._listening.bind(("127.0.0.1", 0))
        self._listening.setblocking(False)
        targets = [self.first.url, {"url": self.second.url, "priority": 1}]
        self.plane = Plane(
            {
                "listeners": {"main": {"address": "127.0.0.1:0", "protocol": "udp", "upstream": "u"}},
                "upstreams": {"u": {"targets": targets, "timeouts": {"tunnel_idle": f"{IDLE_S}s"}}},
                "routes": [],
            }
        )
        poller = SocketPoller(asyncio.get_running_loop())
        self.plane.worker_loop.sockets = opened.enter_context(closing(poller))
        opened.callback(self._end)

    def _end(self) -> None:
        for session in [*self.plane.server.udp.sessions.values()]:
            session.end()
        self.plane.assert_quiet()

    def send(self, payload: bytes) -> None:
        self._client.sendto(payload, self._listening.getsockname())
        self.plane.server.udp.receive(self.plane.listener, self._listening, 64, 100)

    async def send_to(self, target: UdpTarget, payloads: Iterable[bytes]) -> None:
        """Send each datagram when the target has received the one before."""
        for payload in payloads:
            self.send(payload)
            assert await received(target) == payload


async def received(target: UdpTarget) -> bytes:
    """Return the next datagram of the target, as soon as it has one."""
    await until(lambda: bool(select([target.socket], [], [], 0)[0]))
    return target.socket.recv(65_535)


def numbered(numbers: Iterable[int], size: int) -> list[bytes]:
    return [bytes([number]) * size for number in numbers]


@on_loop
async def test_what_was_sent_long_ago_was_received_and_is_not_sent_again() -> None:
    """A service that never answers, such as syslog, has the first datagrams when it goes away: each arrives once."""
    with ExitStack() as opened:
        session = Session(opened)
        await session.send_to(session.first, numbered(range(10), 303))
        session.plane.passes(2 * REFUSAL_S)
        session.first.close()
        session.send(bytes([10]) * 303)
        assert await received(session.second) == bytes([10]) * 303
        await session.send_to(session.second, numbered([11], 303))


@on_loop
async def test_old_datagrams_leave_their_place_to_later_ones() -> None:
    """Those of the last second are sent again: the refusal may be of any of them."""
    with ExitStack() as opened:
        session = Session(opened)
        await session.send_to(session.first, numbered(range(6), 303))
        session.plane.passes(2 * REFUSAL_S)
        await session.send_to(session.first, numbered(range(6, 9), 303))
        session.plane.passes(REFUSAL_S / 2)
        session.first.close()
        session.send(bytes([9]) * 303)
        assert [await received(session.second) for _ in range(4)] == numbered(range(6, 10), 303)
        await session.send_to(session.second, numbered([10], 303))


@on_loop
async def test_the_newest_datagrams_are_sent_again_if_a_second_has_many() -> None:
    """The session keeps 2 KiB of them, and at most 16."""
    for size, count, again in (303, 10, 6), (1, 20, 16), (0, 20, 16):
        with ExitStack() as opened:
            session = Session(opened)
            await session.send_to(session.first, numbered(range(count), size))
            session.first.close()
            session.send(bytes([count]) * size)
            wanted = numbered(range(count + 1 - again, count + 1), size)
            assert [await received(session.second) for _ in range(again)] == wanted
            await session.send_to(session.second, [b"next"])


@on_loop
async def test_a_datagram_that_is_too_long_to_be_kept_leaves_the_others() -> None:
    with ExitStack() as opened:
        session = Session(opened)
        await session.send_to(session.first, [b"a", b"long" * 1000])
        session.first.close()
        session.send(b"b")
        assert [await received(session.second) for _ in range(2)] == [b"a", b"b"]
        await session.send_to(session.second, [b"c"])


@on_loop
async def test_a_session_that_another_target_has_served_is_no_fault() -> None:
    with ExitStack() as opened:
        session = Session(opened)
        session.first.close()
        await session.send_to(session.second, [b"x"])
        session.plane.passes(IDLE_S + 1)
        (record,) = session.plane.records
        assert (record.fault, record.status, record.retries, record.target) == ("", 200, 1, session.second.url[6:])


@on_loop
async def test_a_session_that_all_targets_have_refused_is_a_fault() -> None:
    with ExitStack() as opened:
        session = Session(opened)
        session.first.close()
        session.second.close()
        session.send(b"x")
        await until(lambda: bool(session.plane.records))
        (record,) = session.plane.records
        assert (record.fault, record.status, record.retries) == ("connect_refused", 502, 1)
