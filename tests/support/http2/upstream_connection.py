"""A connection of HTTP/2 to a target, with one request in flight, on a socket pair and with a clock of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

from fastgw.errors import Fault
from fastgw.eventloop.body_reads import BodyReads
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.exchange import Trailers
from fastgw.http.http2.session import Session
from fastgw.http.messages import ResponseHead
from fastgw.upstream.connections.pooled_connection import Lender, PooledConnection
from fastgw.upstream.connections.stream import ResponseListener
from fastgw.upstream.targets.target import build_targets
from tests.support.http2 import frames
from tests.support.http2.frames import Flag, Type
from tests.support.lending import upstream
from tests.support.on_loop import turns

if Session is not None:
    from fastgw.upstream.connections.http2_connection import Http2UpstreamConnection

BEGUN = 1000.0


class StandingWheel(Wheel):
    """A clock that stands still, and the deadline of the connection."""

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self.due: float | None = None

    def watch(self, timed: Any, deadline: float) -> None:
        timed.deadline = deadline
        if isinstance(timed, Http2UpstreamConnection):
            self.due = deadline

    def drop(self, timed: Any) -> None: ...


class Listener(ResponseListener):
    """Listener to the response. It keeps the calls of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    @property
    def faults(self) -> list[Fault]:
        return [each for call in self.calls for each in call if isinstance(each, Fault)]

    def on_interim(self, head: ResponseHead) -> None:
        self.calls.append(("on_interim", head))

    def on_head(self, head: ResponseHead, payload: bytes | None, ended: bool) -> None:
        self.calls.append(("on_head", head, payload, ended))

    def on_data(self, payload: bytes) -> None:
        self.calls.append(("on_data", payload))

    def on_end(self, trailers: Trailers) -> None:
        self.calls.append(("on_end", trailers))

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        self.calls.append(("on_failure", fault, silent, why))


class Keeper(Lender):
    """The pool of the connection, which does nothing with it."""

    def give_back(self, connection: PooledConnection) -> None: ...
    def discard(self, connection: PooledConnection) -> None: ...
    def forget(self, connection: PooledConnection) -> None: ...


class _Transport(SocketTransport):
    """Takes all, on the socket itself where the connection sends on it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.plain_fd = world.ours.fileno()

    def write(self, data: bytes | memoryview) -> None:
        self._world.ours.send(data)

    def abort(self) -> None:
        self._world.aborted = True

    def close(self) -> None:
        self._world.aborted = True

    def is_closing(self) -> bool:
        return self._world.aborted

    def pause_reading(self) -> None:
        self._world.reading = False

    def resume_reading(self) -> None:
        self._world.reading = True


class World:
    """A connection with one request in flight. The clock moves to the connection's deadlines, and by `passes`."""

    def __init__(self) -> None:
        self.wheel = StandingWheel(BEGUN)
        self.ours, self.target = socket.socketpair()
        self.target.setblocking(False)
        loop = asyncio.get_running_loop()
        worker_loop: Any = SimpleNamespace(
            wheel=self.wheel,
            loop=loop,
            reads=BodyReads(loop.call_soon),
            crowded=set(),
            holders=set(),
        )
        self._buffer = worker_loop.reads.read_buffer
        (target,) = build_targets(upstream("http://127.0.0.1:1"))
        self.connection = Http2UpstreamConnection(worker_loop, Keeper(), target)
        self.aborted, self.reading = False, True
        _Transport(self).begin(self.connection)
        self.listener = Listener()
        self.stream = self.connection.open_stream()
        self.stream.send_request(self.listener, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"GET")  # type: ignore[arg-type]

    def receive(self, sent: bytes) -> None:
        self._buffer[: len(sent)] = sent
        self.connection.buffer_updated(len(sent))

    async def pings(self) -> int:
        """How many were sent since the last look."""
        await turns()
        received = b""
        while True:
            try:
                received += self.target.recv(65_536)
            except BlockingIOError:
                break
        return sum(kind == Type.PING and not flags & Flag.ACK for kind, flags in kinds(received))

    def expire(self) -> float:
        """Let the time of the connection's deadline come. Returns the seconds until then."""
        assert self.wheel.due is not None
        passed = self.wheel.due - self.wheel.now
        self.wheel.now, self.wheel.due = self.wheel.due, None
        self.connection.expire(self.wheel.now)
        return passed

    def passes(self, seconds: float, stream: Any) -> None:
        """Let time pass, and the deadline of a stream come."""
        self.wheel.now += seconds
        if stream.deadline <= self.wheel.now:
            stream.deadline = inf
            stream.expire(self.wheel.now)

    async def waits(self, seconds: float) -> None:
        """Let time pass, and the deadlines of the connection come."""
        until = self.wheel.now + seconds
        while self.wheel.due is not None and self.wheel.due <= until:
            self.expire()
            await turns()
        self.wheel.now = until

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.target.close()


def kinds(received: bytes) -> Iterator[tuple[int, int]]:
    """Type and flags of each frame."""
    at = received.find(b"\x00", 0) if not received.startswith(frames.PREFACE) else len(frames.PREFACE)
    while 0 <= at < len(received):
        yield received[at + 3], received[at + 4]
        at += 9 + int.from_bytes(received[at : at + 3])
