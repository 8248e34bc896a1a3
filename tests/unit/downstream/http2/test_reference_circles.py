"""A connection over HTTP/2 that has ended goes at once, with its streams and what its client did not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastgw.downstream.http2.connection import SPARE_STREAMS
from tests.support.collector import garbage
from tests.support.http2 import frames
from tests.support.memory import Plane, Wire
from tests.unit.downstream.http2.test_tunnels import HTTP2, begins, data_on, ends_of

COUNT = SPARE_STREAMS + 8
"""Streams at once: more than are kept for reuse."""
TRUSTING = {"listeners": {"main": {**HTTP2["listeners"]["main"], "trusted_proxies": ["127.0.0.1"]}}}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30_000


class Visit:
    """A client with a plane of its own, and the upstream's ends of connections that have served it."""

    def __init__(self, *settings: tuple[int, int], config: Any = HTTP2) -> None:
        self.plane = Plane(config)
        self.client = begins(self.plane, *settings)
        self.upstreams: list[Wire] = []
        self.asked: list[int] = []

    def asks(self, count: int, *fields: tuple[bytes, bytes]) -> None:
        """Send requests, some of which there are idle connections for."""
        after = self.asked[-1] if self.asked else -1
        for stream in range(after + 2, after + 2 + 2 * count, 2):
            head = frames.block(*frames.pseudo(b"GET", b"/", b"a.test"), *fields)
            self.client.sends(frames.headers(head, stream))
            self.asked.append(stream)
        self.upstreams += [self.plane.connects() for _ in tuple(self.plane.pool.waiting)]

    def is_answered(self, response: bytes) -> None:
        for upstream in self.upstreams:
            upstream.sends(response)


def one_by_one() -> Visit:
    visit = Visit()
    for _ in range(3):
        visit.asks(1)
        visit.is_answered(OK)
    assert ends_of(visit.client) == visit.asked
    return visit


def at_once() -> Visit:
    visit = Visit()
    for _ in range(2):
        visit.asks(COUNT)
        visit.is_answered(OK)
    assert len(visit.upstreams) == COUNT
    assert sorted(ends_of(visit.client)) == visit.asked
    return visit


def in_flight() -> Visit:
    visit = at_once()
    visit.asks(COUNT)
    return visit


def reset() -> Visit:
    visit = in_flight()
    visit.client.sends(b"".join(map(frames.reset, visit.asked[-COUNT:])))
    return visit


def unread() -> Visit:
    """Responses wait for the windows of their streams."""
    visit = Visit((frames.Setting.INITIAL_WINDOW_SIZE, 0))
    for _ in range(2):
        visit.asks(COUNT)
        visit.is_answered(LONG)
    assert data_on(visit.client, 1) == b""
    return visit


def stalled() -> Visit:
    """The client's socket accepts nothing any more."""
    visit = Visit()
    visit.client.room = len(visit.client.received)
    for _ in range(2):
        visit.asks(COUNT)
        visit.is_answered(OK)
    assert not ends_of(visit.client)
    return visit


@pytest.mark.parametrize("leaves", [Wire.ends, Wire.resets], ids=["FIN", "RST"])
@pytest.mark.parametrize("use", [one_by_one, at_once, in_flight, reset, unread, stalled])
def test_a_connection_that_has_ended_leaves_nothing(use: Callable[[], Visit], leaves: Callable[[Wire], None]) -> None:
    with garbage() as found:
        visit = use()
        leaves(visit.client)
        assert visit.client.lost
        assert not visit.plane.server.connections
        visit.client.protocol = None  # a transport of uvloop gives it up
    assert found == []
    visit.plane.assert_quiet()  # it is held until here: a gateway as a whole may be full of circles


def test_responses_after_the_last_write_leave_nothing() -> None:
    """The connection is closing: its client has not sent the rest of a head in time, and its socket accepts nothing."""
    with garbage() as found:
        visit = Visit()
        visit.asks(2)
        visit.client.room = len(visit.client.received)
        visit.client.sends(frames.headers(frames.block(*frames.pseudo(b"GET", b"/", b"a.test")), 5, whole=False))
        visit.plane.passes(30)
        assert visit.client.is_closing()
        visit.is_answered(OK)
        visit.client.resets()
        visit.client.protocol = None
    assert found == []
    assert [each.status for each in visit.plane.records] == [200, 200]


def test_streams_of_a_peer_that_was_reassessed_leave_nothing() -> None:
    """They are not reused after a reload that has changed the trusted proxies."""
    with garbage() as found:
        visit = at_once()
        visit.plane.adopts(TRUSTING)
        visit.asks(1)
        visit.is_answered(OK)
    assert found == []
    assert visit.client.reading


@pytest.mark.parametrize(
    ("first", "then", "sent"), [(TRUSTING, HTTP2, b"127.0.0.1"), (HTTP2, TRUSTING, b"192.0.2.1, 127.0.0.1")]
)
def test_a_stream_that_was_in_flight_is_reused_with_the_reassessed_peer(first: Any, then: Any, sent: bytes) -> None:
    visit = Visit(config=first)
    visit.asks(2)
    visit.is_answered(OK)
    visit.asks(2)
    visit.plane.adopts(then)
    visit.asks(1)
    visit.is_answered(OK)
    before = [len(each.received) for each in visit.upstreams]
    visit.asks(3, (b"x-forwarded-for", b"192.0.2.1"))
    requests = [bytes(each.received)[length:] for each, length in zip(visit.upstreams, before, strict=True)]
    assert [value_of(request, b"x-forwarded-for") for request in requests] == [sent] * 3


def value_of(request: bytes, name: bytes) -> bytes:
    lines = [line.partition(b": ") for line in request.split(b"\r\n")]
    (value,) = (value for key, _, value in lines if key.lower() == name)
    return value
