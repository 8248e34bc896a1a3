"""1xx responses and `Expect: 100-continue`."""

from __future__ import annotations

import pytest

from tests.support.client import Client
from tests.support.lanes import Lane
from tests.support.origin import OriginConnection

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>; rel=preload\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_early_hints_pass(lane: Lane) -> None:
    """RFC 8297 section 2, RFC 9110 section 15.2: each 1xx reaches the client as it comes, before the response."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    for _ in range(2):
        upstream.send(HINTS)
        hints = client.read_response()
        assert hints.status == 103
        assert hints.get_all(b"Link") == [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_response().body == b"ok"


def test_interim_and_final_response_in_one_segment(lane: Lane) -> None:
    """RFC 9110 section 15.2: however they arrive, they are told apart, and the connection serves on."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.answer(HINTS + b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert [client.read_response().status for _ in range(3)] == [103, 102, 200]
    client.send(lane.get())
    upstream.answer()
    assert client.read_response().body == b"ok"


def test_an_http_1_0_client_never_gets_a_1xx(lane: Lane) -> None:
    """RFC 9110 section 15.2: a server must not send a 1xx to an HTTP/1.0 client."""
    client = lane.client()
    client.send(lane.fill(b"POST / HTTP/1.0\r\nHost: $HOST\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi"))
    upstream = lane.accept()
    request = upstream.read_request_head()
    assert upstream.read_body(request.head, until_close=False).body == b"hi"
    upstream.send(CONTINUE + HINTS + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_response().status == 200


def expecting(lane: Lane, value: bytes = b"100-continue") -> tuple[Client, OriginConnection]:
    """A client that has sent the head of a POST and waits, and the upstream that has read it."""
    client = lane.client()
    client.send(lane.get(fields=b"Content-Length: 5\r\nExpect: " + value + b"\r\n", method=b"POST"))
    upstream = lane.accept()
    assert upstream.read_request_head().get(b"Expect") == value
    return client, upstream


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
def test_an_expectation_is_the_upstreams_to_answer(lane: Lane, value: bytes) -> None:
    """RFC 9110 section 10.1.1: passed on whatever its case; its 100 comes back once, then the body goes."""
    client, upstream = expecting(lane, value)
    upstream.send(CONTINUE)
    assert client.read_response().status == 100
    client.send(b"hello")
    assert upstream.read_exactly(5) == b"hello"
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_response().status == 200


def test_a_body_that_does_not_wait_is_taken(lane: Lane) -> None:
    """RFC 9110 section 10.1.1: a client need not wait for the 100, and the upstream need not send one."""
    client, upstream = expecting(lane)
    client.send(b"hello")
    assert upstream.read_exactly(5) == b"hello"
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_response().status == 200


def test_a_refused_expectation_reaches_the_client_before_it_sends(lane: Lane) -> None:
    """RFC 9110 section 10.1.1: a final status instead of 100 ends the matter; no body is waited for."""
    client, upstream = expecting(lane)
    upstream.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
    assert client.read_response().status == 413
    client.assert_ended()  # whether the body comes all the same is not known
    upstream.assert_ended()  # its request was not sent whole: it cannot serve another


def test_for_an_http_1_0_upstream_the_gateway_answers(old_lane: Lane) -> None:
    """RFC 9110 section 10.1.1: an upstream known to speak HTTP/1.0 would never say 100; the gateway does, once."""
    client = old_lane.client()
    client.send(old_lane.get())
    old_lane.accept().answer(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_response().body == b"ok"
    client.send(old_lane.get(fields=b"Content-Length: 5\r\nExpect: 100-continue\r\n", method=b"POST"))
    assert client.read_response().status == 100
    client.send(b"hello")
    upstream = old_lane.accept()
    assert upstream.answer(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").body == b"hello"
    assert client.read_response().status == 200


@pytest.mark.parametrize("status", [b"100 Continue", b"199 Hm"])
def test_an_interim_response_has_no_body(lane: Lane, status: bytes) -> None:
    """RFC 9112 section 6.3: any 1xx ends with its head, whatever its fields say."""
    client = lane.client()
    client.send(lane.get(fields=b"Expect: 100-continue\r\nContent-Length: 0\r\n", method=b"POST"))
    lane.accept().answer(b"HTTP/1.1 " + status + b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    interim = client.read_response()
    assert interim.head.start_line == b"HTTP/1.1 " + status
    assert b"Content-Length" not in interim
    assert client.read_response().body == b"ok"


def test_a_body_that_nobody_asked_for_is_no_second_request(lane: Lane) -> None:
    """RFC 9110 section 10.1.1: a service that answers an expectation at once may take what follows for a request.

    It must not be the next client's: that connection is not used again.
    """
    client = lane.client()
    inner = lane.get(b"/inner")
    client.send(lane.get(b"/outer", b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(inner), b"POST") + inner)
    upstream = lane.accept()
    assert upstream.read_request().body == inner
    upstream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    assert client.read_response().status == 401
    upstream.assert_ended()
    client.send(lane.get(b"/next"))
    assert lane.accept().answer().request_target == b"/next"
    assert client.read_response().status == 200
