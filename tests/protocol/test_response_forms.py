"""Responses that are well: each reaches the client with the same meaning, whatever framing it came with."""

from __future__ import annotations

import pytest

from tests.support.lanes import Lane

OK = b"HTTP/1.1 200 OK\r\n"

# name -> (response, its body, whether the upstream connection can serve again)
FORMS = {
    # RFC 9112 section 6.3
    "a length": (OK + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
    "length zero": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello", True),
    "no chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", True),
    "chunk extensions": (OK + b"transfer-encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello", True),
    "a body and close": (OK + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello", b"hello", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "HTTP/1.0 kept alive": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
        b"hello",
        True,
    ),
    "no reason": (b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    "a strange status": (b"HTTP/1.1 299 Fine\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    "an error with a body": (b"HTTP/1.1 500 Oh\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    "205": (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", b"", True),
}


@pytest.mark.parametrize("slowly", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    ("response", "body", "reusable"), [pytest.param(*form, id=name) for name, form in FORMS.items()]
)
def test_a_response_arrives(old_lane: Lane, response: bytes, body: bytes, reusable: bool, slowly: bool) -> None:
    """RFC 9112 section 6.3: the body is what the upstream's framing says, and decides whether its connection lives."""
    client = old_lane.client()
    client.send(old_lane.get())
    upstream = old_lane.accept()
    upstream.read_request()
    for part in [response[at : at + 1] for at in range(len(response))] if slowly else [response]:
        upstream.send(part)
    got = client.read_response()
    assert got.head.start_line.split(b" ", 1)[1] == response.split(b"\r\n")[0].split(b" ", 1)[1]
    assert got.body == body
    client.send(old_lane.get(b"/next"))
    if not reusable:
        upstream.assert_ended()
        upstream = old_lane.accept()
    assert upstream.answer().request_target == b"/next"
    assert client.read_response().body == b"ok"


@pytest.mark.parametrize("name", ["a length", "chunks"])
def test_a_response_may_be_cut_anywhere(old_lane: Lane, name: str) -> None:
    """RFC 9112 section 2.2: where a segment of a response ends says nothing."""
    response, body, _ = FORMS[name]
    client = old_lane.client()
    upstream = None
    for cut in range(1, len(response)):
        client.send(old_lane.get())
        upstream = upstream or old_lane.accept()
        upstream.read_request()
        upstream.send(response[:cut])
        upstream.send(response[cut:])
        assert client.read_response().body == body


@pytest.mark.parametrize("head", [OK + b"\r\n", b"HTTP/1.0 200 OK\r\n\r\n", OK + b"Connection: close\r\n\r\n"])
def test_a_body_that_ends_with_the_connection(old_lane: Lane, head: bytes) -> None:
    """RFC 9112 section 6.3: such a body goes to an HTTP/1.1 client in chunks, and its connection serves on."""
    client = old_lane.client()
    client.send(old_lane.get())
    upstream = old_lane.accept()
    upstream.read_request()
    upstream.send(head + b"hello")
    upstream.close()
    response = client.read_response()
    assert response.body == b"hello"
    assert response.get(b"Transfer-Encoding") == b"chunked"
    client.send(old_lane.get())
    old_lane.accept().answer()
    assert client.read_response().body == b"ok"


@pytest.mark.parametrize(
    "response",
    [OK + b"\r\nhello", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"],
    ids=["until close", "chunks"],
)
def test_an_http_1_0_client_never_gets_chunks(lane: Lane, response: bytes) -> None:
    """RFC 9112 section 6.1: a body of unknown length ends with the connection, also where keep-alive was asked for."""
    client = lane.client()
    client.send(lane.fill(b"GET / HTTP/1.0\r\nHost: $HOST\r\nConnection: keep-alive\r\n\r\n"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(response)
    upstream.shutdown_write()
    got = client.read_response()
    assert got.body == b"hello"
    assert b"Transfer-Encoding" not in got
    assert got.get(b"Connection") == b"close"


def test_trailers_of_a_response_arrive(lane: Lane) -> None:
    """RFC 9110 section 6.5: trailers stay behind the body, in order."""
    _, response = lane.forward(
        lane.get(fields=b"TE: trailers\r\n"),
        OK + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n",
    )
    assert response.body == b"abc"
    assert response.trailers == [(b"X-Sum", b"1"), (b"x-sum", b"2")]
    assert response.get(b"Trailer") == b"X-Sum"


@pytest.mark.parametrize("fields", [b"Content-Length: 1234\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_a_response_to_head_ends_with_its_head(lane: Lane, fields: bytes) -> None:
    """RFC 9112 section 6.3: whatever its framing fields say, no body follows, and both connections serve on."""
    client = lane.client()
    client.send(lane.get(method=b"HEAD"))
    upstream = lane.accept()
    upstream.answer(OK + fields + b"\r\n")
    response = client.read_response(b"HEAD")
    assert response.status == 200
    if b"Length" in fields:
        assert response.get(b"Content-Length") == b"1234"  # what GET would have given: RFC 9110 section 8.6
    client.send(lane.get(b"/next"))
    assert upstream.answer().request_target == b"/next"
    assert client.read_response().body == b"ok"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_statuses_without_a_body(lane: Lane, status: bytes) -> None:
    """RFC 9112 section 6.3: 204 and 304 end with their head, and both connections serve on."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.answer(b"HTTP/1.1 " + status + b'\r\nETag: "a"\r\n\r\n')
    response = client.read_response()
    assert response.head.start_line == b"HTTP/1.1 " + status
    assert b"Transfer-Encoding" not in response
    assert response.get(b"ETag") == b'"a"'
    client.send(lane.get(b"/next"))
    assert upstream.answer().request_target == b"/next"
    assert client.read_response().body == b"ok"


def test_the_length_of_what_was_not_modified_is_kept(lane: Lane) -> None:
    """RFC 9110 section 8.6: a 304 may tell the length that a 200 would have had."""
    _, response = lane.forward(lane.get(), b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n")
    assert response.get(b"Content-Length") == b"1234"


@pytest.mark.parametrize("fields", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_204_never_announces_a_body(lane: Lane, fields: bytes) -> None:
    """RFC 9110 section 8.6, RFC 9112 section 6.1: no framing fields in a 204; what follows it is not a body."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.answer(b"HTTP/1.1 204 No Content\r\n" + fields + b"\r\n")
    response = client.read_response()
    assert response.status in (204, 502)
    if response.status == 204:
        assert b"Content-Length" not in response
        assert b"Transfer-Encoding" not in response


def test_the_body_of_a_large_response(lane: Lane) -> None:
    """RFC 9112 section 6.2: 3 MB arrive byte for byte while the upstream is still sending."""
    body = bytes(range(256)) * 12_000
    lane.origin.answer(OK + b"Content-Length: %d\r\n\r\n" % len(body), body)
    lane.origin.serve()
    client = lane.client()
    assert client.exchange(lane.get()).body == body


def test_the_body_of_a_large_request(lane: Lane) -> None:
    """RFC 9112 section 6.2: 3 MB arrive byte for byte, with a length and in chunks."""
    body = bytes(range(256)) * 12_000
    lane.origin.serve()
    client = lane.client()
    assert client.exchange(lane.post(body)).status == 200
    chunks = b"".join(b"%x\r\n" % len(part) + part + b"\r\n" for part in (body[:1_000_000], body[1_000_000:]))
    client.send(lane.get(method=b"PUT", fields=b"Transfer-Encoding: chunked\r\n") + chunks + b"0\r\n\r\n")
    assert client.read_response().status == 200
    assert [request.body == body for request in lane.origin.requests] == [True, True]
