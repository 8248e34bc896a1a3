"""Requests sent ahead of their answers: in order, 64 KiB at most, and none waits that could be served."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from fastgw.downstream.http1.connection import REQUESTS_PER_TURN
from fastgw.filters.api import Exchange, Phase, Reply
from tests.support.memory import Plane, Wire, probe

HOST = b"Host: a.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
OWN = b"GET /own HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MOST = 65_536
ROUTES = {"routes": [{"name": "own", "paths": ["/own"], "respond": {"body": "own"}}, {"name": "all", "upstream": "u"}]}
HERE = {"routes": [{"name": "here", "respond": {"body": "here"}}]}


def test_a_client_that_sends_far_ahead_shares_the_loop_with_others() -> None:
    """1,200 requests in one read would hold up everybody for as long as they take."""

    async def live() -> None:
        plane = Plane(HERE)
        greedy, quiet = plane.client(), plane.client()
        greedy.sends(GET * 40)
        assert greedy.received.count(b"HTTP/1.1 200") == REQUESTS_PER_TURN
        quiet.sends(GET)
        assert quiet.received.endswith(b"here")
        for _ in range(6):
            await asyncio.sleep(0)
            plane.settle()
        assert greedy.received.count(b"HTTP/1.1 200") == 40
        greedy.sends(GET)
        assert greedy.received.count(b"HTTP/1.1 200") == 41

    asyncio.run(live())


def get(number: int, size: int = 0) -> bytes:
    """A request that can be told from others, of so many bytes if not of fewer."""
    head = b"GET /%d HTTP/1.1\r\n" % number + HOST
    return head + (b"X-A: " + b"a" * (size - len(head) - 9) + b"\r\n" if size else b"") + b"\r\n"


def paths(wire: Wire) -> list[bytes]:
    """Of the requests that an upstream has got, in their order."""
    return [line.split(b" ")[1] for line in wire.received.split(b"\r\n") if line.endswith(b" HTTP/1.1")]


def held(client: Wire) -> int:
    return len(client.protocol._ahead)


@pytest.mark.parametrize("size", [40, 700, 30_000])
def test_no_more_is_read_ahead_however_many_are_answered(size: int) -> None:
    """Nor does an answer let more in while enough is there; all are forwarded once, in order."""
    plane = Plane()
    client = plane.client()
    count = 200_000 // size
    client.sends(b"".join(get(number, size) for number in range(count)))
    upstream = plane.connects()
    most = 0
    for _ in range(count):
        most = max(most, held(client))
        upstream.sends(OK)
    assert MOST // 4 < most <= MOST
    assert paths(upstream) == [b"/%d" % number for number in range(count)]
    assert client.received.count(b"HTTP/1.1 200 OK\r\n") == count
    assert (held(client), client.reading) == (0, True)
    plane.assert_quiet()


def test_requests_in_small_segments_are_bounded_as_well() -> None:
    plane = Plane()
    client = plane.client()
    for number in range(3_000):
        client.sends(get(number))
    upstream = plane.connects()
    assert not client.reading
    assert held(client) <= MOST
    for _ in range(3_000):
        upstream.sends(OK)
    assert paths(upstream) == [b"/%d" % number for number in range(3_000)]
    plane.assert_quiet()


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """What is answered here at once waits for the client to take it; and one answer only waits in our hands."""
    plane = Plane(ROUTES)
    client = plane.client()
    client.takes(room=1_000)
    client.sends(OWN * 3_000)
    assert not client.reading
    assert held(client) <= MOST
    assert client.get_write_buffer_size() < 300
    answered = len(plane.records)
    assert answered < 10
    client.takes(room=10**9)
    assert client.received.count(b"HTTP/1.1 200 OK\r\n") == len(plane.records) == 3_000
    plane.assert_quiet()


def test_of_requests_that_a_filter_lets_wait_no_more_is_read() -> None:
    async def live() -> None:
        waiting: list[asyncio.Future[Reply | None]] = []

        def wait(exchange: Exchange) -> Awaitable[Reply | None]:
            waiting.append(asyncio.get_running_loop().create_future())
            return waiting[-1]

        plane = Plane(probes=[probe("waits", Phase.AUTHENTICATE, request=wait)])
        client = plane.client()
        client.sends(b"".join(get(number) for number in range(5_000)))
        upstream: Wire | None = None
        for number in range(50):
            assert len(waiting) == number + 1
            assert held(client) <= MOST
            waiting[number].set_result(None)
            for _ in range(3):
                await asyncio.sleep(0)
            upstream = upstream or plane.connects()
            upstream.sends(OK)
        assert upstream is not None
        assert paths(upstream) == [b"/%d" % number for number in range(50)]
        client.resets()
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(live())


def test_a_head_longer_than_a_read_is_read_on_whatever_stands_before_and_behind_it() -> None:
    """Of a head that is not complete more is read, although so much is held already; what is behind it is bounded."""
    plane = Plane({"limits": {"header_bytes": "60KiB"}})
    client = plane.client()
    client.sends(b"".join([*map(get, range(900)), get(900, 50_000), *map(get, range(901, 4_000))]))
    upstream = plane.connects()
    for _ in range(4_000):
        assert held(client) <= 60 * 1024 + MOST // 2
        upstream.sends(OK)
    assert paths(upstream) == [b"/%d" % number for number in range(4_000)]
    plane.assert_quiet()


def test_a_head_that_gets_too_long_behind_other_requests_is_refused() -> None:
    plane = Plane()
    client = plane.client()
    client.sends(b"".join(map(get, range(900))) + b"GET / HTTP/1.1\r\nX-A: " + b"a" * 100_000)
    upstream = plane.connects()
    for _ in range(900):
        assert held(client) <= MOST
        upstream.sends(OK)
    assert client.received.count(b"HTTP/1.1 200 OK\r\n") == 900
    assert b"HTTP/1.1 431 " in client.received
    assert (client.ended, client.reading, held(client)) == (True, True, 0)
    client.ends()
    plane.assert_quiet()


def sized(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(body: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part)
    return b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def unchunked(sent: bytes) -> bytes:
    payload = b""
    while sent != b"0\r\n\r\n":
        size, _, rest = sent.partition(b"\r\n")
        end = int(size, 16)
        assert rest[end : end + 2] == b"\r\n"
        payload, sent = payload + rest[:end], rest[end + 2 :]
    return payload


LARGE = pytest.mark.extended


@pytest.mark.parametrize("post", [sized, in_chunks])
@pytest.mark.parametrize("size", [1, 300, 8_190, 20_000, *(pytest.param(n, marks=LARGE) for n in (70_000, 200_000))])
@pytest.mark.parametrize("before", [0, 700])
def test_bodies_and_requests_are_told_apart_however_far_ahead_they_come(post: Any, size: int, before: int) -> None:
    """Before a body, in the middle of it or behind it reading may have been paused: it goes on for the body's sake."""
    plane = Plane()
    client = plane.client()
    body = bytes(65 + at % 26 for at in range(size))
    behind = 3_000
    client.sends(GET * before + post(body) + GET * behind)
    upstream = plane.connects()
    for _ in range(before + 1 + behind):
        assert held(client) <= MOST
        upstream.sends(OK)
    assert client.received.count(b"HTTP/1.1 200 OK\r\n") == before + 1 + behind
    assert (upstream.received.count(b"GET / HTTP/1.1\r\n"), upstream.received.count(b"POST / ")) == (before + behind, 1)
    sent = upstream.received.partition(b"POST / ")[2].partition(b"\r\n\r\n")[2].partition(b"GET / ")[0]
    assert (sent if post is sized else unchunked(sent)) == body
    assert client.reading
    plane.assert_quiet()


def test_posts_without_end_are_bounded() -> None:
    plane = Plane()
    client = plane.client()
    client.sends((sized(b"x" * 10) + in_chunks(b"abcdefghijkl")) * 2_000)
    upstream = plane.connects()
    for _ in range(4_000):
        assert held(client) <= MOST
        upstream.sends(OK)
    assert client.received.count(b"HTTP/1.1 200 OK\r\n") == 4_000
    plane.assert_quiet()


def test_a_body_that_ends_while_nobody_takes_it_lets_nothing_more_in() -> None:
    """Its relay was braked: that is over once somebody takes it, but enough was sent ahead behind it."""
    plane = Plane()
    client = plane.client()
    client.sends(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n" + b"x" * 50)
    assert not client.reading
    plane.connects()
    client.sends(b"x" * 50 + GET * 10_000)
    assert not client.reading
    assert held(client) <= MOST


@pytest.mark.parametrize("fault", [b"1x\r\n", b"ffffffff\r\n"])
def test_a_body_that_is_refused_behind_other_requests_ends_the_connection(fault: bytes) -> None:
    """What the client still sends is read and dropped, although reading was paused."""
    plane = Plane({"limits": {"body_bytes": 1_000}})
    client = plane.client()
    bad = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + fault
    client.sends(GET * 700 + bad + b"x" * 200_000)
    upstream = plane.connects()
    for _ in range(700):
        upstream.sends(OK)
    assert client.received.count(b"HTTP/1.1 200 OK\r\n") == 700
    assert client.received.count(b"HTTP/1.1 4") == 1
    assert (client.ended, client.reading, held(client)) == (True, True, 0)
    client.ends()
    plane.assert_quiet()


def assert_leaving_is_seen(plane: Plane, client: Wire) -> None:
    assert not client.reading
    assert plane.worker_loop.hangups.watched == {client}
    client.protocol.peer_left()
    plane.settle()
    client.takes()
    assert client.lost
    assert not plane.limit.taken
    plane.assert_quiet()


@pytest.mark.parametrize("state", ["asking", "held back"])
def test_a_client_that_leaves_while_it_is_not_read_from_is_noticed(state: str) -> None:
    """By the watch for hang-ups, also when reading was paused before this request already."""
    plane = Plane()
    client = plane.client()
    client.sends(GET * 5_000)
    upstream = plane.connects()
    for _ in range(3):
        upstream.sends(OK)
    if state == "held back":
        client.takes(room=0)
        upstream.sends(OK)
    assert_leaving_is_seen(plane, client)


def test_a_client_that_left_between_two_turns_is_noticed_in_the_next() -> None:
    """The watch tells once: told of while nothing is under way, it has to be set anew."""

    async def live() -> None:
        plane = Plane(ROUTES)
        client = plane.client()
        client.sends(OWN * 20 + GET * 5_000)
        plane.worker_loop.hangups.watched.clear()
        client.protocol.peer_left()
        for _ in range(6):
            await asyncio.sleep(0)
            plane.settle()
        assert client.received.count(b"own") == 20
        plane.connects()
        assert_leaving_is_seen(plane, client)

    asyncio.run(live())


def test_what_was_sent_ahead_of_a_tunnel_goes_through_it() -> None:
    plane = Plane()
    client = plane.client()
    upgrade = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    raw = bytes(at % 251 for at in range(300_000))
    client.sends(GET * 500 + upgrade + raw)
    upstream = plane.connects()
    for _ in range(500):
        upstream.sends(OK)
    assert held(client) <= MOST
    assert not client.reading
    upstream.sends(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert upstream.received.endswith(raw)
    assert client.reading
    assert held(client) == 0


def test_the_last_answer_of_a_drain_comes_whole_and_the_rest_is_dropped() -> None:
    plane = Plane()
    client = plane.client()
    client.sends(GET * 5_000)
    upstream = plane.connects()
    upstream.sends(OK)
    plane.server.begin_drain()
    upstream.sends(OK)
    plane.settle()
    assert client.received.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert client.received.count(b"Connection: close\r\n") == 1
    assert (client.ended, client.reading, held(client)) == (True, True, 0)
    client.ends()
    plane.assert_quiet()


def test_a_body_that_does_not_go_on_is_timed_also_behind_what_filled_the_read_ahead() -> None:
    plane = Plane({"timeouts": {"request_body_idle": "5s"}})
    client = plane.client()
    begun = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + b"x" * 1_000
    client.sends(GET * 700 + begun)
    upstream = plane.connects()
    for _ in range(700):
        upstream.sends(OK)
    plane.passes(6)
    assert b"HTTP/1.1 408 " in client.received
