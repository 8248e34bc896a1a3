"""Pings and authentications of the filter `websocket`, by the clock of the test."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.eventloop.timer_wheel import TICK
from fastgw.filters.policies.websocket.guard import Limits, WebsocketGuard
from fastgw.http.websocket.frames import PONG, control_frame
from tests.support.memory import MemoryLoop

UNLIMITED = Limits(None, inf, inf, inf, inf, inf, 5.0, 0.0)


class Client:
    """Client side, and the other side, of which only the frames for the client matter."""

    def __init__(self) -> None:
        self.counts = SimpleNamespace(count_websocket=lambda *_: None)
        self.received: list[bytes] = []
        self.is_read = True

    def feed(self, payload: bytes) -> None:
        self.received.append(payload)

    def end(self, trailers: Any) -> None: ...
    def abort(self, fault: Any) -> None: ...

    def pause_tunnel(self) -> None:
        self.is_read = False

    def resume_tunnel(self) -> None:
        self.is_read = True

    def opcodes(self) -> list[int]:
        return [each[0] & 15 for each in self.received]


class Played:
    """A guard with these limits, which lets its client go on."""

    def __init__(self, **limits: float) -> None:
        self.loop: Any = MemoryLoop()
        self.authenticated_at: list[float] = []
        self.client = Client()
        other = SimpleNamespace(feed_raw=lambda _: None, pause=lambda: None, resume=lambda: None, end_raw=lambda: None)
        exchange: Any = SimpleNamespace(client=self.client, service=other, response_sink=None, fault=None, why="")
        log: Any = None
        self.guard = WebsocketGuard(
            "websocket", UNLIMITED._replace(**limits), self.loop, self.authenticate, (None, None), log
        )
        self.guard.start(exchange, b"")
        self.guard.established()

    async def authenticate(self, exchange: Any) -> None:
        self.authenticated_at.append(self.loop.wheel.now)

    def ticks(self, until: float) -> None:
        """Let time pass, tick by tick, with the turns of the loop."""
        while self.loop.wheel.now < until:
            self.loop.wheel.advance(self.loop.wheel.now + TICK)
            self.loop.turns.settle()

    def passes(self, seconds: float) -> None:
        self.loop.wheel.advance(self.loop.wheel.now + seconds)

    def answer(self) -> None:
        self.guard.feed_raw(control_frame(PONG, self.client.received[-1][2:], masked=True))


@pytest.fixture
def played() -> Played:
    return Played(ping=10.0)


def test_a_client_that_does_not_answer_is_closed(played: Played) -> None:
    played.passes(10.1)
    assert played.client.opcodes() == [9]
    played.passes(10.1)
    assert played.client.opcodes() == [9, 8]


def test_an_answer_that_is_not_read_is_not_missed(played: Played) -> None:
    """The other side accepts no more, so the client is not read from. It has the whole time again afterwards."""
    played.passes(10.1)
    played.guard.pause_client()
    assert not played.client.is_read
    for _ in range(3):
        played.passes(10.1)
    played.guard.resume_client()
    assert played.client.is_read
    played.passes(9.0)
    assert played.client.opcodes() == [9]
    played.answer()
    played.passes(1.2)
    assert played.client.opcodes() == [9, 9]
    played.passes(10.1)
    assert played.client.opcodes() == [9, 9, 8]


def test_the_client_is_authenticated_again_once_an_interval() -> None:
    """Counted from the beginning, and then from the end of each authentication."""
    played = Played(reauthenticate=10.0)
    played.ticks(1035.0)
    assert played.authenticated_at == pytest.approx([1010.0, 1020.0, 1030.0], abs=3 * 2 * TICK)
