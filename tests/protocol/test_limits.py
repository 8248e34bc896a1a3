"""Sizes and numbers: each limit has its own answer, at the limit and one above."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastgw.http.http1.trailers import TRAILERS_TOO_LARGE
from tests.support.client import Client
from tests.support.faults import assert_fault, assert_refused
from tests.support.gateway import Gateway
from tests.support.lanes import VERSIONS, Kind, Lane, Lanes, running

SETTINGS = {"limits": {"header_bytes": "2KiB", "header_count": 20, "body_bytes": 1000}}
KINDS = {"plain": Kind(), "small": Kind(route={"filters": {"size": {"body": "10B"}}})}


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(
        Lanes(tmp_path_factory.mktemp("limits"), KINDS, count=12, settings=SETTINGS, version=request.param)
    )


def padded(lane: Lane, size: int, field: bytes = b"X-A: ") -> bytes:
    """A request whose head is `size` bytes long."""
    head = lane.get(fields=field + b"\r\n")
    return lane.get(fields=field + b"a" * (size - len(head)) + b"\r\n")


@pytest.mark.http1
def test_a_head_of_the_greatest_size_passes(lane: Lane) -> None:
    """`limits.header_bytes` counts the start line and all fields with their line ends."""
    request = padded(lane, 2048)
    assert len(request) == 2048
    _, response = lane.forward(request)
    assert response.status == 200


@pytest.mark.http1
@pytest.mark.parametrize("size", [2049, 3000, 200_000])
def test_a_larger_head_is_a_431(lane: Lane, size: int) -> None:
    """RFC 6585 section 5: the answer can be read although the rest of the head is on its way."""
    client = lane.client()
    client.send_gently(padded(lane, size))
    assert_refused(client, "head_too_large")
    lane.origin.assert_untouched()


@pytest.mark.http1
def test_a_head_without_an_end_is_a_431(lane: Lane) -> None:
    """RFC 6585 section 5: no more is held than the limit, whether or not an end comes."""
    client = lane.client()
    client.send_gently(lane.get()[:-2] + b"X-A: " + b"a" * 100_000)
    assert_refused(client, "head_too_large")


@pytest.mark.http1
@pytest.mark.parametrize("end", [b" HTTP/1.1\r\nHost: $HOST\r\n\r\n", b""], ids=["ended", "without an end"])
def test_a_target_above_the_limit_is_a_414(lane: Lane, end: bytes) -> None:
    """RFC 9110 section 15.5.15: said of the target where the target alone is too long."""
    client = lane.client()
    client.send_gently(b"GET /" + b"a" * 10_000 + lane.fill(end))
    assert_refused(client, "target_too_long")


def test_the_greatest_number_of_fields_passes(lane: Lane) -> None:
    """`limits.header_count` counts field lines, Host included."""
    _, response = lane.forward(lane.get(fields=b"A: b\r\n" * 19))
    assert response.status == 200


@pytest.mark.http1
def test_one_field_more_is_a_431(lane: Lane) -> None:
    """RFC 6585 section 5: too many fields."""
    client = lane.client()
    client.send(lane.get(fields=b"A: b\r\n" * 20))
    assert_refused(client, "head_too_large")
    lane.origin.assert_untouched()


def with_trailers(lane: Lane, lines: bytes) -> bytes:
    return lane.get(method=b"POST", fields=b"Transfer-Encoding: chunked\r\n") + b"3\r\nabc\r\n0\r\n" + lines + b"\r\n"


@pytest.mark.parametrize("lines", [b"x-a: b\r\n" * 20, b"x-a: " + b"b" * 2000 + b"\r\n"], ids=["many", "long"])
def test_trailers_of_the_greatest_size_pass(lane: Lane, lines: bytes) -> None:
    """`limits.header_count` and `limits.header_bytes` count trailers by themselves."""
    request, response = lane.forward(with_trailers(lane, lines))
    assert (response.status, len(request.trailers)) == (200, lines.count(b"\n"))


@pytest.mark.parametrize("lines", [b"x-a: b\r\n" * 21, b"x-a: " + b"b" * 2048 + b"\r\n"], ids=["many", "long"])
def test_larger_trailers_are_a_431(lane: Lane, lines: bytes) -> None:
    """RFC 6585 section 5: one status for both versions, and it says that it is about trailers."""
    client = lane.client()
    client.send(with_trailers(lane, lines))
    response = client.read_response(b"POST")
    assert_fault(response, "head_too_large")
    assert json.loads(response.body)["detail"] == TRAILERS_TOO_LARGE


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_of_the_greatest_size_passes(lane: Lane, chunked: bool) -> None:
    """`limits.body_bytes` counts what the body carries, not its framing."""
    body = b"x" * 1000
    client = lane.client()
    client.send(in_chunks(lane, body) if chunked else lane.post(body))
    assert lane.accept().answer().body == body
    assert client.read_response().status == 200


def in_chunks(lane: Lane, body: bytes, each: int = 10) -> bytes:
    parts = [body[at : at + each] for at in range(0, len(body), each)]
    framed = b"".join(b"%x\r\n" % len(part) + part + b"\r\n" for part in parts)
    return lane.get(method=b"POST", fields=b"Transfer-Encoding: chunked\r\n") + framed + b"0\r\n\r\n"


@pytest.mark.http1
def test_a_greater_length_is_a_413_at_once(lane: Lane) -> None:
    """RFC 9110 section 15.5.14: what is announced too long is refused before a byte of it is read."""
    client = lane.client()
    client.send(lane.get(method=b"POST", fields=b"Content-Length: 1001\r\n"))
    assert_refused(client, "body_too_large")
    lane.origin.assert_untouched()


@pytest.mark.http1
def test_a_greater_length_is_a_413_also_where_the_body_came_with_the_head(lane: Lane) -> None:
    """RFC 9110 section 15.5.14: it makes no difference in how many pieces it comes."""
    client = lane.client()
    client.send(lane.post(b"x" * 1001))
    assert_refused(client, "body_too_large")
    lane.origin.assert_untouched()


def test_a_greater_length_is_a_413_for_a_client_that_waits(lane: Lane) -> None:
    """RFC 9110 section 10.1.1: instead of 100 comes the refusal."""
    client = lane.client()
    client.send(lane.get(method=b"POST", fields=b"Content-Length: 1001\r\nExpect: 100-continue\r\n"))
    assert_fault(client.read_response(), "body_too_large")


@pytest.mark.http1
def test_chunks_that_grow_too_large_are_a_413(lane: Lane) -> None:
    """RFC 9110 section 15.5.14: a body of unknown length is refused where it crosses the limit; its upstream is cut."""
    client = lane.client()
    client.send_gently(in_chunks(lane, b"x" * 1001))
    assert_refused(client, "body_too_large")
    upstream = lane.origin.accept_if_any()
    if upstream is not None:
        upstream.shutdown_write()  # a connection that the request never reached may lie in the pool: this ends it
        assert b"\r\n0\r\n" not in upstream.read_to_end()


def test_a_route_may_take_less(lanes: Lanes) -> None:
    """The `size` filter on a route: its own limit under the gateway's."""
    lane = lanes.take("small")
    client = lane.client()
    client.send(lane.post(b"x" * 10))
    lane.accept().answer()
    assert client.read_response().status == 200
    client.send(lane.post(b"x" * 11))
    assert_fault(client.read_response(), "body_too_large")
    lane.end()
    assert b"x" * 11 not in lane.origin.received


# --- connections ---


@pytest.fixture
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Client]]:
    """Makes clients that have sent a request, to a gateway with the `limits` and `workers` of the parameter."""
    config = {
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "routes": [{"name": "here", "respond": {"body": "here"}}],
        **request.param,
    }
    with Gateway(config, tmp_path) as gateway, contextlib.ExitStack() as stack:

        def client() -> Client:
            made: Client = stack.enter_context(gateway.connect())
            made.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            return made

        yield client


@pytest.mark.parametrize("limited", [{"workers": 1, "limits": {"connections_per_ip": 2}}], indirect=True)
def test_one_connection_too_many_is_told_so(limited: Callable[[], Client]) -> None:
    """RFC 6585 section 4: a clear answer at once; room when another ends."""
    holding = [limited(), limited()]
    assert [client.read_response().status for client in holding] == [200, 200]
    assert_refused(limited(), "too_many_connections")
    holding[0].send(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
    holding[0].read_response()
    holding[0].assert_ended()
    assert limited().read_response().body == b"here"


@pytest.mark.parametrize("limited", [{"workers": 3, "limits": {"connections_per_ip": 6}}], indirect=True)
def test_limits_mean_the_node(limited: Callable[[], Client]) -> None:
    """Design section 5: three workers together hold to the number, wherever connections land."""
    clients = [limited() for _ in range(12)]
    assert sorted(client.read_response().status for client in clients) == [200] * 6 + [429] * 6
