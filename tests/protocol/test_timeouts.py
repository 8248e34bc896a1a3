"""Every wait has a limit, and each limit its own answer. All are set short; none of these tests waits for long."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from time import sleep

import pytest

from tests.support.client import Client
from tests.support.faults import assert_fault, assert_refused
from tests.support.lanes import Kind, Lane, Lanes, running
from tests.support.origin import OK
from tests.support.peer import Unexpected

LIMIT = 0.6  # seconds
SHORT = f"{LIMIT * 1000:.0f}ms"
OVER = 2 * LIMIT  # slept where the test is that nothing happens although this time passes
KINDS = {
    "plain": Kind(),
    "head": Kind(upstream={"timeouts": {"response_headers": SHORT}}),
    "route": Kind(route={"timeout": SHORT}),
    "idle": Kind(upstream={"timeouts": {"idle": SHORT}}),
    "total": Kind(upstream={"timeouts": {"total": SHORT}}),
    "head-of-route": Kind(route={"timeouts": {"response_headers": SHORT}}),
    "idle-of-route": Kind(route={"timeouts": {"idle": SHORT}}),
    "total-of-route": Kind(upstream={"timeouts": {"total": "1h"}}, route={"timeouts": {"total": SHORT}}),
    "tunnel-of-route": Kind(route={"timeouts": {"tunnel_idle": SHORT}}),
    "tunnel": Kind(upstream={"timeouts": {"tunnel_idle": SHORT}}),
    "pool": Kind(upstream={"pool": {"max_connections": 1, "pending_timeout": SHORT}}),
    "full": Kind(upstream={"pool": {"max_connections": 1, "max_pending": 1}}),
    "none-pending": Kind(upstream={"pool": {"max_connections": 1, "max_pending": 0}}),
}
SETTINGS = {
    "timeouts": {"request_headers": SHORT, "request_body_idle": SHORT, "keepalive": SHORT, "response_idle": "1s"}
}


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(Lanes(tmp_path_factory.mktemp("timeouts"), KINDS, count=6, settings=SETTINGS))


@pytest.fixture
def lane(lanes: Lanes, request: pytest.FixtureRequest) -> Iterator[Lane]:
    """A lane of the kind that the test asks for with `of_kind`."""
    lane = lanes.take(getattr(request, "param", "plain"))
    yield lane
    lane.end()


def of_kind(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lane", names, indirect=True)


# --- the client ---


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a.test\r\nX-A: "])
def test_a_head_that_does_not_come_is_a_408(lane: Lane, part: bytes) -> None:
    """RFC 9110 section 15.5.9: a head that is begun and not ended in time is answered, and the connection closed."""
    client = lane.client()
    client.send(part)
    assert_refused(client, "request_timeout")


def test_a_trickling_head_is_a_408(lane: Lane) -> None:
    """The time for a head is a total: a byte now and then does not prolong it."""
    client = lane.client()
    client.send(b"GET / HTTP/1.1\r\nX-A: ")
    client.sock.settimeout(0.05)
    with contextlib.suppress(OSError):
        for _ in range(200):  # as long as nothing comes back
            client.sock.send(b"a")
            with contextlib.suppress(TimeoutError):
                if client.sock.recv(1, socket.MSG_PEEK):
                    break
    assert_fault(client.read_response(), "request_timeout")


def test_a_connection_without_a_request_is_closed(lane: Lane) -> None:
    """RFC 9112 section 9.5: a new connection on which nothing comes is closed; an answer to nothing is not needed."""
    rest = lane.client().read_to_end()
    assert rest in (b"",) or rest.startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed_without_an_answer(lane: Lane) -> None:
    """RFC 9112 section 9.5: after a response the next request may just not come: no 408 that it would be taken for."""
    client = lane.client()
    client.send(lane.get())
    lane.accept().answer()
    assert client.read_response().body == b"ok"
    client.assert_ended()


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_does_not_come_is_a_408(lane: Lane, chunked: bool) -> None:
    """RFC 9110 section 15.5.9: an upload that stalls is answered, and its request cut short at the upstream."""
    client = lane.client()
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: 10\r\n"
    client.send(lane.get(method=b"POST", fields=framing) + (b"5\r\nhello\r\n" if chunked else b"hello"))
    upstream = lane.accept()
    upstream.read_request_head()
    assert_refused(client, "request_timeout")
    assert b"0\r\n\r\n" not in upstream.read_to_end()


# --- the upstream ---


@of_kind("head", "route", "head-of-route")
def test_a_response_head_that_does_not_come_is_a_504(lane: Lane) -> None:
    """RFC 9110 section 15.6.5: by the upstream's `response_headers` and by the route's `timeout`; it is cancelled."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    assert_fault(client.read_response(), "upstream_timeout")
    upstream.assert_ended()


@of_kind("head")
def test_half_a_response_head_is_a_504(lane: Lane) -> None:
    """RFC 9110 section 15.6.5: the wait is for the whole head."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-")
    assert_fault(client.read_response(), "upstream_timeout")
    upstream.assert_ended()


@of_kind("idle", "idle-of-route")
def test_a_response_that_stalls_is_cut(lane: Lane) -> None:
    """RFC 9112 section 8: once begun no other answer is possible; the client sees it cut short."""
    client = lane.client()
    client.send(lane.get(b"/stalled"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    with pytest.raises(Unexpected, match="the stream ended"):
        client.read_response()
    upstream.assert_ended()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/stalled")
    assert (record["status"], record["fault"]) == (200, "upstream_stalled")


@of_kind("idle")
def test_a_stream_lives_as_long_as_bytes_move(lane: Lane) -> None:
    """All times are idle unless named total: a stream of many short pauses outlives the limit."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n")
    client.read_response_head()
    for _ in range(15):
        sleep(LIMIT / 6)
        upstream.send(b"x")
        assert client.read_exactly(1) == b"x"


@of_kind("total", "total-of-route")
def test_a_total_cuts_what_moves_as_well(lane: Lane) -> None:
    """`timeouts.total`: for the whole exchange, however busy."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    upstream.sock.settimeout(0.05)
    with contextlib.suppress(OSError):
        for _ in range(200):
            upstream.sock.send(b"x")
            with contextlib.suppress(TimeoutError):
                if not upstream.sock.recv(1):
                    break
    client.read_response_head()
    assert len(client.read_to_end()) < 200
    record = lane.gateway.wait_for_record(host=lane.host.decode(), fault="upstream_stalled")
    assert record["fault_detail"].startswith("timeouts.total: ")


@of_kind("total")
def test_a_total_before_the_response_is_a_504(lane: Lane) -> None:
    """`timeouts.total` with no response begun is answered like any other time that the upstream let pass."""
    client = lane.client()
    client.send(lane.get())
    lane.accept().read_request()
    assert_fault(client.read_response(), "upstream_timeout")


@of_kind("tunnel", "tunnel-of-route")
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_an_idle_tunnel_is_closed(lane: Lane, side: str) -> None:
    """`timeouts.tunnel_idle`: no byte either way closes both sides."""
    client = lane.client()
    client.send(lane.get(fields=b"Connection: upgrade\r\nUpgrade: websocket\r\n"))
    upstream = lane.accept()
    upstream.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert client.read_response().status == 101
    (client if side == "client" else upstream).assert_ended()


@of_kind("route")
def test_all_attempts_share_one_time(lane: Lane) -> None:
    """Promise 3: the route's `timeout` is a total, retries included."""
    client = lane.client()
    client.send(lane.get())
    first = lane.accept()
    first.answer()
    client.read_response()
    client.send(lane.get(b"/again"))
    first.read_request()
    first.close()
    second = lane.accept()
    second.read_request()
    assert_fault(client.read_response(), "upstream_timeout")
    second.assert_ended()


# --- who is waited for ---


def test_the_time_for_a_head_does_not_run_while_the_gateway_is_busy(lane: Lane) -> None:
    """A pipelined head that is half there does not end the request before it; its own time begins afterwards."""
    client = lane.client()
    client.send(lane.get(b"/1") + lane.get(b"/2")[:-2])
    upstream = lane.accept()
    assert upstream.read_request().request_target == b"/1"
    sleep(OVER)
    upstream.send(OK)
    assert client.read_response().body == b"ok"
    client.send(b"\r\n")
    assert upstream.answer().request_target == b"/2"
    assert client.read_response().body == b"ok"


def test_half_a_head_on_a_kept_connection_is_a_408(lane: Lane) -> None:
    """RFC 9110 section 15.5.9: once a byte of the next request is there it is no longer an idle connection."""
    client = lane.client()
    client.send(lane.get())
    lane.accept().answer()
    assert client.read_response().body == b"ok"
    client.send(b"GET / HT")
    assert_refused(client, "request_timeout")


def test_a_client_that_is_held_back_is_not_late(lane: Lane) -> None:
    """`request_body_idle` is for clients that do not send, not for those that wait for the upstream to read."""
    client = lane.client()
    body = b"x" * 16 * 1024 * 1024
    client.send(lane.get(method=b"POST", fields=b"Content-Length: %d\r\n" % len(body)))
    sending = threading.Thread(target=client.send_gently, args=(body,))
    sending.start()
    upstream = lane.accept()
    head = upstream.read_request_head().head
    sleep(OVER)
    assert upstream.read_body(head, until_close=False).body == body
    sending.join()
    upstream.send(OK)
    assert client.read_response().body == b"ok"


def test_a_client_that_waits_for_100_is_not_late(lane: Lane) -> None:
    """RFC 9110 section 10.1.1: while the upstream thinks about the 100 the client has nothing to send."""
    client = lane.client()
    client.send(lane.get(method=b"POST", fields=b"Content-Length: 5\r\nExpect: 100-continue\r\n"))
    upstream = lane.accept()
    upstream.read_request_head()
    sleep(OVER)
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_response().status == 100
    client.send(b"hello")
    assert upstream.read_exactly(5) == b"hello"
    upstream.send(OK)
    assert client.read_response().body == b"ok"


@of_kind("idle")
def test_an_upstream_that_is_held_back_has_not_stalled(lane: Lane) -> None:
    """`idle` is for upstreams that do not send, not for those that wait for the client to read."""
    client = lane.client()
    body = b"x" * 16 * 1024 * 1024
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    sending = threading.Thread(
        target=upstream.send_gently, args=(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body,)
    )
    sending.start()
    head = client.read_head()
    sleep(OVER)
    assert client.read_body(head, until_close=True).body == body
    sending.join()


@of_kind("head")
def test_the_time_for_a_response_head_begins_behind_the_request(lane: Lane) -> None:
    """`response_headers` counts once the request is sent: an upload may take longer."""
    client = lane.client()
    client.send(lane.get(method=b"POST", fields=b"Content-Length: 10\r\n"))
    upstream = lane.accept()
    upstream.read_request_head()
    for _ in range(10):
        sleep(LIMIT / 6)
        client.send(b"x")
        assert upstream.read_exactly(1) == b"x"
    upstream.send(OK)
    assert client.read_response().body == b"ok"


@of_kind("tunnel")
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_a_tunnel_lives_as_long_as_bytes_move_one_way(lane: Lane, side: str) -> None:
    """`tunnel_idle`: any byte either way."""
    client = lane.client()
    client.send(lane.get(fields=b"Connection: upgrade\r\nUpgrade: websocket\r\n"))
    upstream = lane.accept()
    upstream.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert client.read_response().status == 101
    sender, receiver = (client, upstream) if side == "client" else (upstream, client)
    for _ in range(10):
        sleep(LIMIT / 6)
        sender.send(b"x")
        assert receiver.read_exactly(1) == b"x"


def test_a_client_that_does_not_read_is_cut(lane: Lane) -> None:
    """`response_idle`: a client that takes nothing for so long is left, and the upstream with it."""
    client = lane.client()
    client.send(lane.get(b"/unread"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send_gently(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000_000)
    upstream.assert_ended()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/unread")
    assert record["status"] == 200
    assert record["fault"]


# --- the pool ---


@of_kind("pool")
def test_a_wait_for_a_connection_has_an_end(lane: Lane) -> None:
    """Promise 17: queued no longer than `pending_timeout`, then 503 with Retry-After; the upstream never saw it."""
    holding, waiting = lane.client(), lane.client()
    holding.send(lane.get(b"/upgrade", b"Connection: upgrade\r\nUpgrade: websocket\r\n"))
    upstream = lane.accept()
    upstream.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert holding.read_response().status == 101
    assert_fault(waiting.exchange(lane.get(b"/waiting")), "pool_timeout")
    assert b"/waiting" not in lane.origin.received
    lane.origin.assert_no_further_connection()


@of_kind("none-pending")
def test_a_full_pool_sheds_at_once(lane: Lane) -> None:
    """Promise 13: more than `max_pending` waiting requests are answered 503 with Retry-After, the others served."""
    busy, shed = lane.client(), lane.client()
    busy.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    assert_fault(shed.exchange(lane.get()), "pool_full")
    upstream.send(OK)
    assert busy.read_response().body == b"ok"


@of_kind("full")
def test_pending_requests_are_bounded(lane: Lane) -> None:
    """Promise 12: with one connection and one waiting place the third is shed and the second served."""
    busy, shed, waiting = lane.client(), lane.client(), lane.client()
    busy.send(lane.get(b"/busy"))
    upstream = lane.accept()
    upstream.read_request()
    both = {waiting: b"/waiting", shed: b"/shed"}
    for client, target in both.items():
        client.send(lane.get(target))
    statuses = []
    # whichever of the two came second is answered at once; only then the busy one ends
    first = select_readable(shed, waiting)
    statuses.append(first.read_response().status)
    other = waiting if first is shed else shed
    upstream.send(OK)
    assert busy.read_response().body == b"ok"
    assert upstream.answer().request_target == both[other]
    assert other.read_response().status == 200
    assert statuses == [503]


def select_readable(*clients: Client) -> Client:
    """The first of these on which something comes."""
    ready = wait([client.sock for client in clients], clients[0].deadline)
    return next(client for client in clients if client.sock in ready)
