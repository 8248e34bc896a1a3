"""Long bodies that the gateway has made wait for slow readers within the node's memory for held bodies."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.exchange.body_relay import MAX_KEPT
from fastgw.filters.api import BodyHook, Bounded, Phase, Reply
from tests.support.http2 import frames
from tests.support.http2.frames import Flag, Type
from tests.support.memory import Plane, Wire, probe
from tests.unit.downstream.http2.test_tunnels import HTTP2, asks, begins, data_on

LONG = b"0123456789abcdef" * 16 * 1024
GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"

REPLIES = probe("replies", Phase.ADMIT, request=lambda exchange: Reply(200, LONG))
MADE = probe(
    "made", Phase.TRANSFORM, response_body=BodyHook(lambda exchange, body: LONG, needs=Bounded(100), changes=True)
)


def in_use(plane: Plane) -> int:
    return plane.worker_loop.held_body_budget.in_use


def assert_over(plane: Plane, fault: Fault | None = None) -> None:
    assert in_use(plane) == 0
    assert [record.fault for record in plane.records] == ["" if fault is None else fault.label]
    plane.assert_quiet()


def answered(plane: Plane, client: Wire, way: str, request: bytes = GET) -> None:
    """Have the request answered with a long body."""
    client.sends(request)
    if way == "reply":
        return
    upstream = plane.connects()
    if way == "stage":
        upstream.sends(OK + b"abcd")
    else:
        upstream.sends(OK + b"ab")
        upstream.sends(b"cd")


def plane_for(way: str, **settings: Any) -> Plane:
    return Plane(settings, probes=(REPLIES if way == "reply" else MADE,))


WAYS = ["reply", "stage", "stage of a body in pieces"]


@pytest.mark.parametrize("way", WAYS)
def test_a_long_body_is_sent_as_the_client_reads(way: str) -> None:
    plane = plane_for(way)
    client = plane.client()
    client.room = 0
    answered(plane, client, way)
    assert in_use(plane) == len(LONG) - MAX_KEPT
    while in_use(plane):
        assert client.get_write_buffer_size() < MAX_KEPT + 1024
        client.takes(0)
    client.takes()
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(LONG) in head.lower() + b"\r\n"
    assert body == LONG
    assert plane.records[0].response_bytes == len(LONG)
    assert_over(plane)


@pytest.mark.parametrize("way", WAYS)
def test_the_connection_serves_the_next_request(way: str) -> None:
    plane = plane_for(way)
    client = plane.client()
    client.room = 0
    client.sends(GET + GET if way == "reply" else GET)
    if way != "reply":
        plane.connects().sends(OK + b"abcd")
    client.takes()
    assert client.received.count(LONG) == (2 if way == "reply" else 1)
    assert in_use(plane) == 0
    assert not client.lost


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("left", ["leaves", "stalls"])
def test_the_memory_is_given_back_when_the_client_leaves(way: str, left: str) -> None:
    plane = plane_for(way, timeouts={"response_idle": "5s"})
    client = plane.client()
    client.room = 0
    answered(plane, client, way)
    assert in_use(plane)
    if left == "leaves":
        client.resets()
    else:
        plane.passes(6)
    assert client.lost
    assert_over(plane, Fault.CLIENT_LEFT if left == "leaves" else Fault.CLIENT_STALLED)


@pytest.mark.parametrize("way", WAYS)
def test_without_memory_the_response_is_a_fault(way: str) -> None:
    plane = plane_for(way)
    plane.worker_loop.held_body_budget.limit = len(LONG) - MAX_KEPT - 1
    client = plane.client()
    answered(plane, client, way)
    assert client.received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"urn:fastgw:fault:overloaded" in client.received
    assert_over(plane, Fault.OVERLOADED)


@pytest.mark.parametrize("length", [len(LONG), MAX_KEPT])
def test_trailers_follow_a_long_body(length: int) -> None:
    made = probe(
        "made",
        Phase.TRANSFORM,
        response_body=BodyHook(lambda exchange, body: LONG[:length], needs=Bounded(100), changes=True),
    )
    plane = Plane(probes=(made,))
    client = plane.client()
    client.room = 0
    client.sends(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: TE\r\nTE: trailers\r\n\r\n")
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    plane.connects().sends(head + b"1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n")
    assert in_use(plane) == max(0, length - MAX_KEPT)
    while in_use(plane):
        assert client.get_write_buffer_size() < MAX_KEPT + 1024
        client.takes(0)
    client.takes()
    head, _, chunks = client.received.partition(b"\r\n\r\n")
    assert b"content-length" not in head.lower()
    body = b""
    while not chunks.startswith(b"0\r\n"):
        size, _, rest = chunks.partition(b"\r\n")
        body, chunks = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    assert body == LONG[:length]
    assert chunks == b"0\r\nX-Sum: 7\r\n\r\n"
    assert_over(plane)


def test_a_response_without_its_body_takes_no_memory() -> None:
    plane = plane_for("reply")
    plane.worker_loop.held_body_budget.limit = 0
    client = plane.client()
    client.sends(GET.replace(b"GET", b"HEAD"))
    assert client.received.endswith(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(LONG) in client.received
    assert_over(plane)


def test_a_client_that_reads_gets_it_over_several_turns() -> None:
    """1 MiB in one iteration of the event loop, so that other connections are served in between."""
    plane = Plane(probes=(probe("longer", Phase.ADMIT, request=lambda exchange: Reply(200, LONG * 5)),))
    client = plane.client()
    at_once: list[int] = []
    settle, plane.settle = plane.settle, lambda: at_once.append(len(client.received))  # type: ignore[method-assign]
    client.sends(GET)
    plane.settle = settle  # type: ignore[method-assign]
    plane.settle()
    assert 1024 * 1024 <= at_once[0] < len(LONG * 5)
    assert client.received.endswith(b"\r\n\r\n" + LONG * 5)
    assert_over(plane)


@pytest.mark.parametrize("left", ["reads", "resets the stream", "leaves", "stalls"])
def test_a_stream_of_http2(left: str) -> None:
    plane = plane_for("reply", timeouts={"response_idle": "5s"}, **HTTP2)
    client = begins(plane, (frames.Setting.INITIAL_WINDOW_SIZE, 10))
    asks(client, 1)
    assert in_use(plane) == len(LONG) - MAX_KEPT
    assert data_on(client, 1) == LONG[:10]
    if left == "reads":
        client.sends(frames.window_update(len(LONG), 0) + frames.window_update(len(LONG), 1))
        assert data_on(client, 1) == LONG
    elif left == "resets the stream":
        client.sends(frames.reset(1))
    elif left == "leaves":
        client.resets()
    else:
        plane.passes(6)
    assert in_use(plane) == 0
    faults = {"reads": "", "stalls": "client_stalled"}
    assert [record.fault for record in plane.records] == [faults.get(left, "client_left")]


@pytest.mark.parametrize("length", [65536, 65537, 98304, 131071, 131072, 131073, 16 * 65536, 17 * 65536, len(LONG) * 5])
def test_the_last_data_frame_of_a_stream_ends_it(length: int) -> None:
    """RFC 9113 section 8.1: a client that has `Content-Length` bytes may close, so the end does not come later."""
    body = (LONG * 5)[:length]
    plane = Plane(HTTP2, probes=(probe("sends", Phase.ADMIT, request=lambda exchange: Reply(200, body)),))
    client = begins(plane, (frames.Setting.INITIAL_WINDOW_SIZE, 1 << 24))
    client.sends(frames.window_update(1 << 24, 0))
    asks(client, 1)
    assert data_on(client, 1) == body
    data = [(flags & Flag.END_STREAM, size) for kind, flags, size in frames_of(client) if kind == Type.DATA]
    assert [size for _, size in data if not size] == []
    assert [ended for ended, _ in data] == [0] * (len(data) - 1) + [Flag.END_STREAM]
    client.resets()
    assert_over(plane)


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
def test_a_response_is_over_once_all_of_it_was_given_to_the_connection(protocol: str) -> None:
    """As with a response that is relayed: the client may leave, or stall, with the last piece unread."""
    body = LONG[: 2 * MAX_KEPT]
    plane = Plane(
        HTTP2 if protocol == "HTTP/2" else {},
        probes=(probe("sends", Phase.ADMIT, request=lambda exchange: Reply(200, body)),),
    )
    if protocol == "HTTP/2":
        client = begins(plane, (frames.Setting.INITIAL_WINDOW_SIZE, 10))
        asks(client, 1)
    else:
        client = plane.client()
        client.room = MAX_KEPT + 1024
        client.sends(GET)
        assert client.received.count(b"0123456789abcdef") < len(body) // 16
    assert plane.records[0].response_bytes == len(body)
    client.resets()
    assert_over(plane)


def test_a_client_that_stalls_with_the_end_of_a_response_unread_is_timed_out() -> None:
    """Although the response has ended for the gateway: what the stream holds is freed."""
    body = LONG[: 3 * MAX_KEPT]
    plane = Plane(
        {**HTTP2, "timeouts": {"response_idle": "5s"}},
        probes=(probe("sends", Phase.ADMIT, request=lambda exchange: Reply(200, body)),),
    )
    client = begins(plane, (frames.Setting.INITIAL_WINDOW_SIZE, 10))
    client.sends(frames.window_update(1 << 24, 0))
    asks(client, 1)
    plane.passes(1)
    client.sends(frames.window_update(110_000, 1))
    assert len(plane.records) == 1
    plane.passes(4)
    assert [kind for kind, *_ in frames_of(client) if kind == Type.RST_STREAM] == []
    plane.passes(8)
    assert [kind for kind, *_ in frames_of(client) if kind == Type.RST_STREAM] == [Type.RST_STREAM]


def frames_of(client: Wire) -> list[tuple[int, int, int]]:
    """Type, flags and payload length of each frame that the client has got."""
    made, at, sent = [], 0, client.received
    while at < len(sent):
        length = int.from_bytes(sent[at : at + 3], "big")
        made.append((sent[at + 3], sent[at + 4], length))
        at += 9 + length
    return made
