"""Requests that have no meaning, or two: each is refused, the connection closed, and no upstream sees a byte."""

from __future__ import annotations

import pytest

from tests.support.client import EVERY_WAY, Send, byte_by_byte, whole
from tests.support.faults import assert_fault, assert_refused
from tests.support.lanes import Lane
from tests.support.unclear_requests import BAD, CASES, CHUNKS, METHOD, posted


@pytest.mark.parametrize("send", EVERY_WAY)
@pytest.mark.parametrize(("request_bytes", "faults"), CASES)
def test_an_unclear_head_is_refused(lane: Lane, request_bytes: bytes, faults: tuple[str, ...], send: Send) -> None:
    """RFC 9112 section 2.2: what two parsers could read differently is answered once, and reaches no upstream."""
    client = lane.client()
    send(client, lane.fill(request_bytes))
    assert_refused(client, *faults)
    lane.origin.assert_untouched()


@pytest.mark.parametrize(
    "request_line",
    [b"CONNECT $HOST:443 HTTP/1.1", b"TRACE / HTTP/1.1"],
)
@pytest.mark.parametrize("send", [whole, byte_by_byte])
def test_connect_and_trace_are_not_allowed(lane: Lane, request_line: bytes, send: Send) -> None:
    """RFC 9110 sections 9.3.6 and 9.3.8: a tunnel to anywhere and an echo of credentials are refused with 405."""
    client = lane.client()
    send(client, lane.fill(request_line + b"\r\nHost: $HOST:443\r\n\r\n"))
    assert_fault(client.read_response(), METHOD)
    lane.origin.assert_untouched()


def test_a_refusal_of_head_has_no_body(lane: Lane) -> None:
    """RFC 9110 section 9.3.2: even an answer of the gateway's own to HEAD ends with its head."""
    client = lane.client()
    client.send(b"HEAD / HTTP/1.1\r\nHost: unknown.test\r\nConnection: close\r\n\r\n")
    response = client.read_response(b"HEAD")
    assert response.status == 404
    assert response.get(b"Content-Type") == b"application/problem+json"
    client.assert_ended()


def test_what_follows_a_refused_request_is_not_read(lane: Lane) -> None:
    """RFC 9112 section 11.2: a request behind one without a clear end might be its body; it is not answered."""
    client = lane.client()
    client.send(lane.get())
    lane.accept().answer()
    assert client.read_response().status == 200
    client.send(lane.fill(posted(b"Content-Length: 3", b"Content-Length: 4")) + b"abc" + lane.get(b"/smuggled"))
    assert_refused(client, BAD)
    assert b"smuggled" not in lane.origin.received


# --- chunked bodies: the head is well, so the upstream may have it; it never gets an end of the body ---


@pytest.mark.parametrize("send", [whole, byte_by_byte])
@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in CHUNKS.items() if len(body) < 1_000])
def test_a_malformed_chunked_body_is_refused(lane: Lane, body: bytes, send: Send) -> None:
    """RFC 9112 section 7.1: a body whose end could be read in two ways is refused, and the upstream's is cut short."""
    client = lane.client()
    send(client, lane.fill(posted(b"Transfer-Encoding: chunked")) + body + lane.get(b"/smuggled"))
    assert_refused(client, BAD, "head_too_large")
    upstream = lane.origin.accept_if_any()
    if upstream is not None:
        upstream.shutdown_write()  # a connection that the request never reached may lie in the pool: this ends it
        received = upstream.read_to_end()
        assert b"\r\n0\r\n" not in received
        assert b"smuggled" not in received


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in CHUNKS.items() if len(body) >= 1_000])
def test_what_stands_around_chunks_is_bounded(lane: Lane, body: bytes) -> None:
    """RFC 9112 section 7.1.1: extensions and trailers cost the sender nothing, so they have a limit."""
    client = lane.client()
    whole(client, lane.fill(posted(b"Transfer-Encoding: chunked")) + body)
    assert_refused(client, BAD, "head_too_large", "body_too_large")
    upstream = lane.origin.accept_if_any()
    if upstream is not None:
        upstream.shutdown_write()
        assert b"\r\n0\r\n" not in upstream.read_to_end()
