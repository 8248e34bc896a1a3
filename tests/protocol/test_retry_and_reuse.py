"""When a request is sent again, when a connection is used again, and when neither may be."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.eventloop.body_reads import BODY_READ_BYTES, READ_BYTES
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.lanes import VERSIONS, Kind, Lane, Lanes, running
from tests.support.origin import OK, Origin, OriginConnection

KINDS = {
    "plain": Kind(),
    "never": Kind(upstream={"retries": {"max": 0}}),
    "route-never": Kind(route={"retries": {"max": 0}}),
    "route-any-method": Kind(upstream={"retries": {"max": 1}}, route={"retries": {"non_idempotent": True}}),
    "any-method": Kind(upstream={"retries": {"non_idempotent": True}}),
    "few-uses": Kind(upstream={"pool": {"max_uses": 3}}),
    "short-idle": Kind(upstream={"pool": {"idle_timeout": "200ms"}}),
    "no-idle": Kind(upstream={"pool": {"max_idle": 0}}),
    "lost": Kind(upstream={"retries": {"max": 2, "conditions": ["reset", "409"], "backoff": {"base": 0}}}),
    "one": Kind(upstream={"pool": {"max_connections": 1}}),
}


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(Lanes(tmp_path_factory.mktemp("reuse"), KINDS, version=request.param))


@pytest.fixture
def kept(lane: Lane) -> OriginConnection:
    """An upstream connection that has served one request and lies idle in the pool."""
    return warm(lane)


def warm(lane: Lane) -> OriginConnection:
    client = lane.client()
    client.send(lane.get(b"/first"))
    upstream = lane.accept()
    upstream.answer()
    assert client.read_response().body == b"ok"
    return upstream


IDEMPOTENT = [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"]


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("method", IDEMPOTENT)
def test_an_idempotent_request_on_a_stale_connection_is_sent_again(
    lane: Lane, kept: OriginConnection, method: bytes, end: str
) -> None:
    """RFC 9110 section 9.2.2, promise 1: a reused connection that closes before any byte: tried again, once."""
    client = lane.client()
    client.send(lane.get(b"/again", method=method))
    assert kept.read_request().request_target == b"/again"
    getattr(kept, end)()
    second = lane.accept()
    assert second.answer().request_target == b"/again"
    assert client.read_response(method).status == 200
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/again", method=method.decode())
    assert record["retries"] == 1


def test_it_is_sent_again_only_once(lane: Lane, kept: OriginConnection) -> None:
    """Promise 3: one retry, two attempts in all; when the second fails as well it is a 502."""
    client = lane.client()
    client.send(lane.get())
    kept.read_request()
    kept.close()
    second = lane.accept()
    second.read_request()
    second.close()
    assert_fault(client.read_response(), "connection_lost")
    lane.origin.assert_no_further_connection()


def test_a_body_that_is_still_held_is_sent_again(lane: Lane, kept: OriginConnection) -> None:
    """RFC 9110 section 9.2.2: an idempotent request is repeated with its whole body."""
    client = lane.client()
    client.send(lane.get(b"/put", b"Content-Length: 5\r\n", b"PUT") + b"hello")
    assert kept.read_request().body == b"hello"
    kept.close()
    assert lane.accept().answer().body == b"hello"
    assert client.read_response().status == 200


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
def test_a_post_is_seen_by_one_upstream_only(lane: Lane, kept: OriginConnection, method: bytes) -> None:
    """RFC 9110 section 9.2.2, promise 1: what is not idempotent is never sent again; the client gets a 502."""
    client = lane.client()
    client.send(lane.get(b"/once", b"Content-Length: 5\r\n", method) + b"hello")
    upstream = lane.origin.accept_next()
    assert upstream.read_request().request_target == b"/once"
    upstream.close()
    assert_fault(client.read_response(), "connection_lost")
    lane.origin.assert_no_further_connection()
    assert lane.origin.received.count(b"/once") == 1


@pytest.mark.parametrize("kind", ["any-method", "route-any-method"])
def test_a_post_is_sent_again_where_that_is_asked_for(lanes: Lanes, kind: str) -> None:
    """`non_idempotent: true`, of the upstream or the route: then a POST lost on a reused connection is sent again."""
    lane = lanes.take(kind)
    kept = warm(lane)
    client = lane.client()
    client.send(lane.post(b"hello"))
    upstream = lane.origin.accept_next()
    assert upstream.read_request().body == b"hello"
    if upstream is kept:
        upstream.close()
        upstream = lane.accept()
        assert upstream.read_request().body == b"hello"
    upstream.send(OK)
    assert client.read_response().status == 200
    lane.end()


def test_a_request_read_on_a_fresh_connection_is_not_sent_again(lane: Lane) -> None:
    """Promise 1: the upstream may have acted on it, GET or not."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.reset()
    assert_fault(client.read_response(), "connection_lost")
    lane.origin.assert_no_further_connection()


def test_a_request_that_is_lost_on_a_fresh_connection_is_sent_again_where_that_is_asked_for(lanes: Lanes) -> None:
    lane = lanes.take("lost")
    client = lane.client()
    client.send(lane.get(b"/lost"))
    for _ in range(2):
        upstream = lane.accept()
        upstream.read_request()
        upstream.close()
    lane.accept().answer()
    assert client.read_response().status == 200
    assert lane.gateway.wait_for_record(host=lane.host.decode(), path="/lost")["retries"] == 2
    lane.end()


def test_a_post_that_is_lost_is_not_sent_again(lanes: Lanes) -> None:
    lane = lanes.take("lost")
    client = lane.client()
    client.send(lane.get(b"/lost-post", method=b"POST"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.close()
    assert_fault(client.read_response(), "connection_lost")
    lane.end()


def test_any_status_may_be_retried(lanes: Lanes) -> None:
    lane = lanes.take("lost")
    client = lane.client()
    client.send(lane.get(b"/conflict"))
    lane.accept().answer(b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    lane.accept().answer()
    assert client.read_response().status == 200
    lane.end()


def test_a_request_is_not_sent_again_after_a_byte_of_response(lane: Lane, kept: OriginConnection) -> None:
    """The contract's "Retry and reuse": one byte shows that the upstream had the request."""
    client = lane.client()
    client.send(lane.get())
    kept.read_request()
    kept.send(b"H")
    kept.close()
    assert_fault(client.read_response(), "connection_lost", "upstream_incomplete", "upstream_malformed")
    lane.origin.assert_no_further_connection()


@pytest.mark.parametrize("kind", ["never", "route-never"])
def test_retries_may_be_off(lanes: Lanes, kind: str) -> None:
    """`retries.max: 0`, of the upstream or of the route: no further attempt follows the first."""
    lane = lanes.take(kind)
    warm(lane)
    client = lane.client()
    client.send(lane.get())
    upstream = lane.origin.accept_next()
    upstream.read_request()
    upstream.close()
    assert_fault(client.read_response(), "connection_lost")
    lane.origin.assert_no_further_connection()
    lane.end()


def test_a_body_that_is_no_longer_held_is_not_sent_again(lane: Lane, kept: OriginConnection) -> None:
    """Promise 2: above 64 KiB a body is not kept; its request is never repeated, whatever its method."""
    client = lane.client()
    body = b"x" * 300_000
    client.send(lane.get(b"/large", b"Content-Length: 300000\r\n", b"PUT"))
    sending = threading.Thread(target=client.send_gently, args=(body,))
    sending.start()
    upstream = lane.origin.accept_next()
    assert upstream.read_request().body == body
    upstream.close()
    sending.join()
    assert_fault(client.read_response(), "connection_lost")
    lane.origin.assert_no_further_connection()
    assert lane.origin.received.count(b"/large") == 1


def test_a_connection_that_closed_while_idle_is_not_used(lane: Lane, kept: OriginConnection) -> None:
    """Promise 6: an idle connection that becomes readable is closed; a POST after that is not lost on it."""
    kept.shutdown_write()
    kept.assert_ended()
    client = lane.client()
    client.send(lane.post(b"hello"))
    assert lane.accept().answer().body == b"hello"
    assert client.read_response().status == 200


@pytest.mark.parametrize("count", [1, 5])
def test_one_connection_serves_many_requests(lane: Lane, count: int) -> None:
    """RFC 9112 section 9.3: requests one after another, of several clients too, share an upstream connection."""
    upstream = None
    for _ in range(count):
        client = lane.client()
        for _ in range(3):
            client.send(lane.get())
            upstream = upstream or lane.accept()
            upstream.answer()
            assert client.read_response().body == b"ok"
    lane.origin.assert_no_further_connection()


def test_a_connection_serves_no_more_than_it_may(lanes: Lanes) -> None:
    """Promise 6: `pool.max_uses: 3`: the third request is the last on its connection."""
    lane = lanes.take("few-uses")
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.answer()
    client.read_response()
    for _ in range(2):
        client.send(lane.get())
        upstream.answer()
        client.read_response()
    upstream.assert_ended()
    client.send(lane.get())
    lane.accept().answer()
    assert client.read_response().body == b"ok"
    lane.end()


def test_a_connection_is_closed_after_its_idle_time(lanes: Lanes) -> None:
    """Promise 6: `pool.idle_timeout`: the gateway closes first."""
    lane = lanes.take("short-idle")
    warm(lane).assert_ended()
    lane.end()


def test_no_connection_is_kept_where_none_may(lanes: Lanes) -> None:
    """`pool.max_idle: 0`: each connection is closed behind its response."""
    lane = lanes.take("no-idle")
    warm(lane).assert_ended()
    lane.end()


def test_requests_wait_for_a_connection_in_turn(lanes: Lanes) -> None:
    """Promise 12: with one connection allowed two clients are served one after the other on it."""
    lane = lanes.take("one")
    first, second = lane.client(), lane.client()
    first.send(lane.get(b"/1"))
    upstream = lane.accept()
    assert upstream.read_request().request_target == b"/1"
    second.send(lane.get(b"/2"))
    upstream.send(OK)
    assert first.read_response().body == b"ok"
    assert upstream.answer().request_target == b"/2"
    assert second.read_response().body == b"ok"
    lane.origin.assert_no_further_connection()
    lane.end()


def test_a_client_that_leaves_while_it_waits_for_a_connection(lanes: Lanes) -> None:
    """Promise 10: a queued request whose client left is never sent, and is logged as 499."""
    lane = lanes.take("one")
    first, second, third = lane.client(), lane.client(), lane.client()
    first.send(lane.get(b"/1"))
    upstream = lane.accept()
    upstream.read_request()
    second.send(lane.get(b"/queued-and-left"))
    second.close()
    assert lane.gateway.wait_for_record(host=lane.host.decode(), path="/queued-and-left")["status"] == 499
    third.send(lane.get(b"/3"))
    upstream.send(OK)
    assert first.read_response().body == b"ok"
    assert upstream.answer().request_target == b"/3"
    assert third.read_response().body == b"ok"
    lane.end()


# --- several targets ---


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Origin, Origin]]:
    """Two targets, the first with weight 3; and an upstream whose first target refuses connections."""
    with contextlib.ExitStack() as stack:
        heavy, light, gone = (stack.enter_context(Origin()) for _ in range(3))
        dead = gone.url
        gone.refuse_connections()
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {
                "weighted": {"targets": [{"url": heavy.url, "weight": 3}, {"url": light.url}]},
                "half": {"targets": [{"url": dead}, {"url": light.url}]},
                "dead": {"targets": [{"url": dead}]},
            },
            "routes": [
                {"name": name, "hosts": [f"{name}.test"], "upstream": name} for name in ("weighted", "half", "dead")
            ],
        }
        directory: Path = tmp_path_factory.mktemp("targets")
        yield stack.enter_context(Gateway(config, directory)), heavy.serve(), light.serve()


def test_targets_are_used_by_weight(trio: tuple[Gateway, Origin, Origin]) -> None:
    """`round_robin` with weights 3 and 1: of 40 requests 30 and 10."""
    gateway, heavy, light = trio
    before = len(heavy.requests), len(light.requests)
    with gateway.connect() as client:
        for _ in range(40):
            assert client.exchange(b"GET / HTTP/1.1\r\nHost: weighted.test\r\n\r\n").status == 200
    assert (len(heavy.requests) - before[0], len(light.requests) - before[1]) == (30, 10)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_failed_connect_is_tried_at_another_target(trio: tuple[Gateway, Origin, Origin], method: bytes) -> None:
    """The contract's "Retry and reuse": no upstream has seen the request, so even a POST goes to the next target."""
    gateway, _, _ = trio
    with gateway.connect() as client:
        for _ in range(2):
            assert (
                client.exchange(method + b" /half HTTP/1.1\r\nHost: half.test\r\nContent-Length: 2\r\n\r\nhi").status
                == 200
            )


def test_a_target_that_refuses_connections_is_a_502(trio: tuple[Gateway, Origin, Origin]) -> None:
    """RFC 9209 section 2.3.6: said with `connection_refused`, and the client's connection serves on."""
    gateway, _, _ = trio
    with gateway.connect() as client:
        for _ in range(2):
            assert_fault(client.exchange(b"GET / HTTP/1.1\r\nHost: dead.test\r\n\r\n"), "connect_refused")


FILLED = [READ_BYTES, 2 * READ_BYTES, READ_BYTES + BODY_READ_BYTES]
"""Bytes of an answer, its head among them, that end where a read of the gateway's is full."""


def filling(size: int, chunked: bool) -> bytes:
    if not chunked:
        head = OK + b"Content-Length: %d\r\n\r\n"
        length = size - len(head % (size - 100))
        return head % length + bytes(length)
    head, last = OK + b"Transfer-Encoding: chunked\r\n\r\n", b"\r\n0\r\n\r\n"
    room = size - len(head) - len(last)
    length = room - len(b"%x\r\n" % (room - 10))
    return head + b"%x\r\n" % length + bytes(length) + last


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("size", FILLED)
def test_bytes_behind_an_answer_that_fills_a_read_reach_nobody(lanes: Lanes, size: int, chunked: bool) -> None:
    """RFC 9112 section 6.3, promise 5: neither the client's next request nor one that waits for this connection."""
    lane = lanes.take("one")
    client, waiting = lane.client(), lane.client()
    client.send(lane.get(b"/first") + lane.get(b"/next"))
    upstream = lane.accept()
    upstream.read_request()
    waiting.send(lane.get(b"/waiting"))
    answer = filling(size, chunked)
    assert len(answer) == size
    upstream.send(answer + OK + b"Content-Length: 6\r\n\r\nforged")
    assert client.read_response().status == 200
    upstream.assert_ended()
    fresh = lane.accept()
    assert {fresh.answer().request_target, fresh.answer().request_target} == {b"/next", b"/waiting"}
    assert client.read_response().body == waiting.read_response().body == b"ok"
    lane.end()
