"""Requests that are well: what of them reaches the upstream, and how the connection lives on."""

from __future__ import annotations

import pytest

from tests.support.client import Send, byte_by_byte, whole
from tests.support.faults import assert_fault
from tests.support.lanes import Lane

BODIES = {
    "no body": (b"GET / HTTP/1.1\r\nHost: $HOST\r\n\r\n", b""),
    "an empty body": (b"POST / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 0\r\n\r\n", b""),
    "a length": (b"POST / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "a length with zeros": (b"POST / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 0005\r\n\r\nhello", b"hello"),
    "a length in tabs": (b"POST / HTTP/1.1\r\nHost: $HOST\r\nContent-Length:\t5\t \r\n\r\nhello", b"hello"),
    "a body with GET": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "a body with DELETE": (b"DELETE / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "chunks": (
        b"POST / HTTP/1.1\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"hello",
    ),
    "a length, and much behind it": (
        b"PUT / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000,
        b"x" * 60_000,
    ),
    "a length, in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: $HOST\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    "a length, and more is asked of the proxy": (
        b"OPTIONS / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 5\r\nMax-Forwards: 3\r\nTE: trailers\r\n\r\nhello",
        b"hello",
    ),
    "what looks like the end of a head": (
        b"POST / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 8\r\n\r\n\r\n\r\n\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
    ),
    "an empty line before": (b"\r\nPOST / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "an empty port": (b"POST / HTTP/1.1\r\nHost: $HOST:\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "another method": (b"BAN / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "another method with chunks": (
        b"X-Y / HTTP/1.1\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    "another expectation": (
        b"POST / HTTP/1.1\r\nHost: $HOST\r\nExpect: y 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    "no chunk": (b"POST / HTTP/1.1\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    "chunked in capitals": (
        b"POST / HTTP/1.1\r\nHost: $HOST\r\ntransfer-encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    "chunk extensions": (
        b'POST / HTTP/1.1\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b;c="d e"\r\nhello\r\n0;z\r\n\r\n',
        b"hello",
    ),
    "a size with zeros": (
        b"POST / HTTP/1.1\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n000\r\n\r\n",
        b"hello",
    ),
    "a size in both cases": (
        b"POST / HTTP/1.1\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"A\r\nfive+five.\r\na\r\nfive+five.\r\n0\r\n\r\n",
        b"five+five." * 2,
    ),
}


@pytest.mark.parametrize("send", [whole, byte_by_byte])
@pytest.mark.parametrize(("request_bytes", "body"), [pytest.param(*case, id=name) for name, case in BODIES.items()])
def test_a_body_arrives_framed_anew_and_the_connection_serves_on(
    lane: Lane, request_bytes: bytes, body: bytes, send: Send
) -> None:
    """RFC 9112 section 6: the upstream gets the same body under a clear framing, and both connections are reused."""
    client = lane.client()
    send(client, lane.fill(request_bytes))
    upstream = lane.accept()
    assert upstream.answer().body == body
    assert client.read_response().body == b"ok"
    client.send(lane.get(b"/next"))
    assert upstream.answer().request_target == b"/next"
    assert client.read_response().body == b"ok"


@pytest.mark.parametrize("name", ["chunks", "chunk extensions", "a length"])
def test_a_message_may_be_cut_anywhere(lane: Lane, name: str) -> None:
    """RFC 9112 section 2.2: where a segment ends says nothing; every cut in two gives the same request."""
    request_bytes, body = BODIES[name]
    request = lane.fill(request_bytes)
    client = lane.client()
    upstream = None
    for cut in range(1, len(request)):
        client.send(request[:cut])
        client.send(request[cut:])
        upstream = upstream or lane.accept()
        assert upstream.answer().body == body
        assert client.read_response().body == b"ok"


def test_chunk_extensions_end_here(lane: Lane) -> None:
    """RFC 9112 section 7.1.1: a chunk extension belongs to one connection and is not passed on."""
    got, _ = lane.forward(BODIES["chunk extensions"][0])
    assert b";" not in got.raw_body


def test_trailers_of_a_request_arrive(lane: Lane) -> None:
    """RFC 9110 section 6.5: trailers stay behind the body, in order, with their `Trailer` field."""
    got, _ = lane.forward(
        b"POST / HTTP/1.1\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Sig\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-sig: 2\r\nX-Sum: 3\r\n\r\n"
    )
    assert got.body == b"abc"
    assert got.trailers == [(b"X-Sum", b"1"), (b"x-sig", b"2"), (b"X-Sum", b"3")]
    assert got.get(b"Trailer") == b"X-Sum, X-Sig"


def test_pipelined_requests_are_answered_in_order(lane: Lane) -> None:
    """RFC 9112 section 9.3.2: requests sent without waiting get their responses in the order they were sent."""
    client = lane.client()
    targets = [b"/%d" % number for number in range(5)]
    client.send(b"".join(map(lane.get, targets)))
    upstream = lane.accept()
    for target in targets:
        request = upstream.read_request()
        assert request.request_target == target
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + target)
    for target in targets:
        assert client.read_response().body == target


def test_pipelined_bodies_are_told_from_requests(lane: Lane) -> None:
    """RFC 9112 section 9.3.2: what looks like a request inside a body is body; the next one begins where it ends."""
    client = lane.client()
    inner = lane.get(b"/inner")
    client.send(lane.post(inner) + lane.get(b"/second") + lane.post(inner, request_target=b"/third"))
    upstream = lane.accept()
    assert upstream.answer().body == inner
    assert upstream.answer().request_target == b"/second"
    third = upstream.answer()
    assert (third.request_target, third.body) == (b"/third", inner)
    assert [client.read_response().status for _ in range(3)] == [200] * 3


def test_what_stands_pipelined_behind_close_is_not_read(lane: Lane) -> None:
    """RFC 9112 section 9.6: after the answer to a request with `close` nothing further is answered."""
    client = lane.client()
    client.send(lane.get(fields=b"Connection: close\r\n") + lane.get(b"/late"))
    lane.accept().answer()
    assert client.read_response().get(b"Connection") == b"close"
    client.assert_ended()
    assert b"/late" not in lane.origin.received


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Close\r\n", False),
        (b"1.1", b"Connection: x, close\r\n", False),
        (b"1.1", b"Connection: x\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_persistence(lane: Lane, version: bytes, connection: bytes, stays: bool) -> None:
    """RFC 9112 section 9.3: HTTP/1.1 stays unless told to close, HTTP/1.0 closes unless told to stay."""
    client = lane.client()
    client.send(lane.fill(b"GET / HTTP/" + version + b"\r\nHost: $HOST\r\n" + connection + b"\r\n"))
    upstream = lane.accept()
    assert b"close" not in upstream.answer().get_all(b"Connection")  # the upstream's connection is another matter
    response = client.read_response()
    if stays:
        assert response.get(b"Connection") == (b"keep-alive" if version == b"1.0" else None)
        client.send(lane.get())
        upstream.answer()
        assert client.read_response().status == 200
    else:
        assert response.get(b"Connection") == b"close"
        client.assert_ended()


def test_http_1_0_without_host_meets_the_routes_for_any_host(lane: Lane) -> None:
    """RFC 9112 section 3.2: only HTTP/1.1 must send Host; here no route takes any host, so it is a 404, not a 400."""
    client = lane.client()
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.read_response().status == 404
    client.assert_ended()


def test_http_1_0_goes_on_as_1_1(lane: Lane) -> None:
    """RFC 9110 section 2.5: each hop speaks its own version; the upstream sees the gateway's."""
    got, response = lane.forward(b"GET /a HTTP/1.0\r\nHost: $HOST\r\n\r\n")
    assert got.head.start_line == b"GET /a HTTP/1.1"
    assert response.head.start_line == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    ("absolute", "target"),
    [
        (b"http://$HOST/a?b", b"/a?b"),
        (b"http://$HOST", b"/"),
        (b"http://$HOST?b", b"/?b"),
        (b"HTTP://$HOST/a", b"/a"),
        (b"https://$HOST/a", b"/a"),
    ],
)
def test_absolute_form_is_understood(lane: Lane, absolute: bytes, target: bytes) -> None:
    """RFC 9112 section 3.2.2: a server accepts absolute-form; what goes on is origin-form."""
    got, response = lane.forward(b"GET " + absolute + b" HTTP/1.1\r\nHost: $HOST\r\n\r\n")
    assert got.request_target == target
    assert response.status == 200


def test_the_case_of_a_host_does_not_count(lane: Lane) -> None:
    """RFC 3986 section 3.2.2: a host is the same in any case, with a port or without, in both places it is named."""
    upper = lane.host.upper()
    for request in [
        b"GET / HTTP/1.1\r\nHost: " + upper + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: $HOST:8080\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: $HOST.\r\n\r\n",
        b"GET http://" + upper + b"/ HTTP/1.1\r\nHost: $HOST\r\n\r\n",
    ]:
        client = lane.client()
        client.send(lane.fill(request))
        upstream = lane.accept()
        upstream.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert client.read_response().status == 200


def test_options_asterisk_goes_on_as_it_is(lane: Lane) -> None:
    """RFC 9112 section 3.2.4: `OPTIONS *` asks about the server as a whole, and the last proxy asks it so."""
    got, response = lane.forward(b"OPTIONS * HTTP/1.1\r\nHost: $HOST\r\n\r\n")
    assert got.head.start_line == b"OPTIONS * HTTP/1.1"
    assert response.status == 200


def test_max_forwards_ends_here_at_zero(lane: Lane) -> None:
    """RFC 9110 section 7.6.2: OPTIONS with Max-Forwards 0 is answered here; with more it goes on with one less."""
    client = lane.client()
    client.send(lane.get(fields=b"Max-Forwards: 0\r\nConnection: close\r\n", method=b"OPTIONS"))
    client.read_response()
    client.assert_ended()
    lane.origin.assert_untouched()
    got, _ = lane.forward(b"OPTIONS / HTTP/1.1\r\nHost: $HOST\r\nMax-Forwards: 5\r\n\r\n")
    assert got.get(b"Max-Forwards") == b"4"


@pytest.mark.parametrize(
    "method",
    [*(b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"REPORT", b"QUERY"), b"BAN", b"X_Y-1"],
)
def test_methods_pass(lane: Lane, method: bytes) -> None:
    """RFC 9110 section 9.1: methods are case-sensitive and pass as they are, also those of extensions."""
    got, response = lane.forward(method + b" / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 0\r\n\r\n")
    assert got.method == method
    assert response.status == 200


@pytest.mark.parametrize("send", [whole, byte_by_byte])
def test_empty_lines_are_ignored_before_each_request(lane: Lane, send: Send) -> None:
    """RFC 9112 section 2.2: old clients end bodies with one. A line feed alone is none."""
    client = lane.client()
    body = b"POST / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 1\r\n\r\na\r\n"
    send(client, lane.fill(b"\r\n\r\n" + body))
    upstream = lane.accept()
    for last in (False, True):
        assert upstream.answer().body == b"a"
        assert client.read_response().status == 200
        if not last:
            send(client, lane.fill(body))
    other = lane.client()
    send(other, b"\n" + lane.get())
    assert_fault(other.read_response(), "bad_request")


def test_an_expectation_that_is_ignored_is_not_sent(lane: Lane) -> None:
    """A service that reads it in another way would answer 100, or wait for nothing."""
    for value in (b"200-ok", b"100-continue, b", b"y 100-continue", b""):
        got, response = lane.forward(b"GET / HTTP/1.1\r\nHost: $HOST\r\nExpect: " + value + b"\r\n\r\n")
        assert b"Expect" not in got.head, value
        assert response.status == 200


def test_a_query_passes_byte_by_byte(lane: Lane) -> None:
    """RFC 3986 section 3.4: the query has no form that a proxy could know better; an empty one is not none."""
    for target in [b"/?", b"/?a=b&&c=%2f%zz", b"/?a?b/c:d@e", b"/?%41=~'()!*[]{}|"]:
        client = lane.client()
        client.send(lane.get(target))
        upstream = lane.accept()
        assert upstream.answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").request_target == target
        assert client.read_response().status == 204


def test_values_may_hold_high_bytes_and_tabs(lane: Lane) -> None:
    """RFC 9110 section 5.5: obs-text and inner white space in values are opaque and pass unchanged."""
    got, _ = lane.forward(b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: caf\xc3\xa9 \xff\tb  c\r\nX-Empty:\r\n\r\n")
    assert got.get(b"X-A") == b"caf\xc3\xa9 \xff\tb  c"
    assert got.get(b"X-Empty") == b""


def test_a_client_that_ends_its_side_has_left(lane: Lane) -> None:
    """RFC 9112 section 9.6: a FIN while the response is awaited means that the client left, as nginx reads it."""
    client = lane.client()
    client.send(lane.get(b"/left-by-fin"))
    upstream = lane.accept()
    upstream.read_request()
    client.shutdown_write()
    upstream.assert_ended()
    assert lane.gateway.wait_for_record(path="/left-by-fin")["status"] == 499


def test_a_service_known_to_speak_http_1_0_is_sent_no_chunks(old_lane: Lane) -> None:
    """RFC 9112 section 6.1: it could not read them. The client is told to send a length (RFC 9110 section 15.5.12)."""
    client = old_lane.client()
    client.send(old_lane.get())
    old_lane.accept().answer(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_response().status == 200
    client.send(old_lane.get(fields=b"Transfer-Encoding: chunked\r\n", method=b"POST") + b"5\r\nhello\r\n0\r\n\r\n")
    assert_fault(client.read_response(), "length_required")
    assert b"hello" not in old_lane.origin.received
    client.send(old_lane.post(b"hello"))
    assert old_lane.origin.accept_next().answer().body == b"hello"
    assert client.read_response().status == 200
