"""Responses that are nonsense, cut short or too long: the client can tell, and the connection is never used again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.faults import assert_fault
from tests.support.lanes import PLAIN, VERSIONS, Kind, Lane, Lanes, running
from tests.support.peer import Unexpected

OK = b"HTTP/1.1 200 OK\r\n"

NONSENSE = {
    # RFC 9112 section 4
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "HTTP/2 in the status line": b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "version 2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "version 0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "version 1.10": b"HTTP/1.10 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
    "status 600": b"HTTP/1.1 600 What\r\nContent-Length: 2\r\n\r\nok",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    "a signed status": b"HTTP/1.1 +20 OK\r\nContent-Length: 2\r\n\r\nok",
    "two spaces": b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
    "NUL in the reason": b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok",
    "CR in the reason": b"HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok",
    "LF behind the status line": b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
    "an empty line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    # section 5
    "a space before the colon": OK + b"Content-Length : 2\r\n\r\nok",
    "no colon": OK + b"X-A\r\nContent-Length: 2\r\n\r\nok",
    "no name": OK + b": a\r\nContent-Length: 2\r\n\r\nok",
    "a name that is no token": OK + b"X(A): b\r\nContent-Length: 2\r\n\r\nok",
    "white space before the first field": OK + b" X-A: b\r\nContent-Length: 2\r\n\r\nok",
    "a folded line": OK + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
    "NUL in a value": OK + b"X-A: b\x00c\r\nContent-Length: 2\r\n\r\nok",
    "CR in a value": OK + b"X-A: b\rc\r\nContent-Length: 2\r\n\r\nok",
    "LF as a line's end": OK + b"X-A: b\nContent-Length: 2\r\n\r\nok",
    "a control in a value": OK + b"X-A: b\x01c\r\nContent-Length: 2\r\n\r\nok",
    # section 6
    "length and chunked": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "length repeated alike": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "length repeated unlike": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "a positive length": OK + b"Content-Length: +2\r\n\r\nok",
    "a negative length": OK + b"Content-Length: -2\r\n\r\nok",
    "a length that is no number": OK + b"Content-Length: two\r\n\r\nok",
    "an empty length": OK + b"Content-Length: \r\n\r\nok",
    "a length of 2^64 and 2": OK + b"Content-Length: 18446744073709551618\r\n\r\nok",
    "xchunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "gzip": OK + b"Transfer-Encoding: gzip\r\n\r\nok",
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "gzip and chunked in two lines": OK
    + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked, identity": OK + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "an empty coding": OK + b"Transfer-Encoding: \r\n\r\nok",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    # RFC 9110 section 7.8: a protocol that nobody asked for
    "an unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nok",
    "a bare 101": b"HTTP/1.1 101 Switching Protocols\r\n\r\nok",
    "a huge head": OK + b"X-A: bcdefghijklmnop\r\n" * 20_000 + b"Content-Length: 2\r\n\r\nok",
}


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    kinds = {**PLAIN, "old": Kind()}
    yield from running(Lanes(tmp_path_factory.mktemp("lanes"), kinds, version=request.param))


@pytest.mark.parametrize("slowly", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("response", [pytest.param(response, id=name) for name, response in NONSENSE.items()])
def test_nonsense_is_a_502(lane: Lane, response: bytes, slowly: bool) -> None:
    """RFC 9110 section 15.6.3: a response without one clear meaning is a 502; its connection is closed, ours is not."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    for part in (
        [response[at : at + 1] for at in range(len(response))] if slowly and len(response) < 200 else [response]
    ):
        upstream.send_gently(part)
    assert_fault(
        client.read_response(), "upstream_malformed", *(["upgrade_unexpected"] if b" 101 " in response else [])
    )
    upstream.assert_ended()
    client.send(lane.get(b"/next"))
    assert lane.accept().answer().request_target == b"/next"
    assert client.read_response().body == b"ok"


BAD_CHUNKS = {
    # RFC 9112 section 7.1
    "no size": b"\r\nlo\r\n0\r\n\r\n",
    "not hex": b"g\r\nlo\r\n0\r\n\r\n",
    "a negative size": b"-2\r\nlo\r\n0\r\n\r\n",
    "a space before the size": b" 2\r\nlo\r\n0\r\n\r\n",
    "a size above 2^64": b"10000000000000002\r\nlo\r\n0\r\n\r\n",
    "two hundred zeros": b"0" * 200 + b"2\r\nlo\r\n0\r\n\r\n",
    "LF behind the size": b"2\nlo\r\n0\r\n\r\n",
    "LF in an extension": b"2;a\nbc\r\nlo\r\n0\r\n\r\n",
    "a byte behind the data": b"2\r\nlox\r\n0\r\n\r\n",
    "LF behind the data": b"2\r\nlo\n0\r\n\r\n",
    "a folded trailer": b"2\r\nlo\r\n0\r\nX-A: b\r\n c\r\n\r\n",
    "a trailer that frames": b"2\r\nlo\r\n0\r\nContent-Length: 3\r\n\r\n",
    "NUL in a trailer": b"2\r\nlo\r\n0\r\nX-A: b\x00\r\n\r\n",
    "the end of the stream": b"2\r\nlo\r\n",
    "the end of the stream in a size": b"2",
    "the end of the stream in the last chunk": b"2\r\nlo\r\n0\r\n",
}


@pytest.mark.parametrize("rest", [pytest.param(rest, id=name) for name, rest in BAD_CHUNKS.items()])
def test_a_chunked_body_gone_wrong_looks_cut_short(lane: Lane, rest: bytes) -> None:
    """RFC 9112 section 8: the client sees chunks without their end and a closed connection, never a clean end."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")
    response = client.read_response_head()
    assert response.get(b"Transfer-Encoding") == b"chunked"
    assert client.read_chunk() == b"hel"
    upstream.send_gently(rest)
    upstream.shutdown_write()
    ending = client.read_to_end()
    assert b"0\r\n\r\n" not in ending
    assert not ending.endswith(b"0\r\n")
    upstream.assert_ended()


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10\r\n\r\nhel", b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"]
)
def test_an_upstream_that_stops_amid_the_body_is_seen(lane: Lane, framing: bytes, end: str) -> None:
    """RFC 9112 section 8: a short body under a longer Content-Length, or chunks without an end; then the end."""
    client = lane.client()
    client.send(lane.get(b"/cut-" + end.encode()))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + framing)
    response = client.read_response_head()
    assert response.status == 200
    getattr(upstream, end)()
    with pytest.raises(Unexpected, match="the stream ended before"):
        client.read_body(response.head, until_close=True)
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path=f"/cut-{end}")
    assert (record["status"], record["fault"]) == (200, "upstream_incomplete")


@pytest.mark.http1
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_reset_in_a_body_that_ends_with_the_connection_is_no_end(lane: Lane, version: bytes) -> None:
    """RFC 9112 section 8: a reset is not the closing that ends such a body; only a FIN is."""
    client = lane.client()
    client.send(lane.fill(b"GET / HTTP/" + version + b"\r\nHost: $HOST\r\n\r\n"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"\r\nhello")
    client.read_until(b"hello")
    upstream.reset()
    assert b"0\r\n\r\n" not in client.read_to_end()
    assert version == b"1.1" or client.was_reset  # without chunks only a reset can tell


SURPLUS = {
    "a length": (b"GET", OK + b"Content-Length: 2\r\n\r\nok"),
    "chunks": (b"GET", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "204": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": (b"GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "HEAD": (b"HEAD", OK + b"Content-Length: 2\r\n\r\n"),
}


@pytest.mark.parametrize(("method", "response"), [pytest.param(*case, id=name) for name, case in SURPLUS.items()])
def test_bytes_behind_a_response_belong_to_nobody(lane: Lane, method: bytes, response: bytes) -> None:
    """RFC 9112 section 6.3: what follows a response's end, a body after HEAD, 204 or 304 too, ends the connection."""
    client = lane.client()
    client.send(lane.get(method=method))
    upstream = lane.accept()
    upstream.answer(response + OK + b"Content-Length: 6\r\n\r\nforged")
    assert client.read_response(method).status in (200, 204, 304)
    upstream.assert_ended()
    client.send(lane.get(b"/next"))
    assert lane.accept().answer().request_target == b"/next"
    assert client.read_response().body == b"ok"


def test_bytes_on_an_idle_connection_end_it(lane: Lane) -> None:
    """RFC 9112 section 9.2: a response that no request asked for is not the answer to the next one."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.answer()
    assert client.read_response().body == b"ok"
    upstream.send(OK + b"Content-Length: 6\r\n\r\nforged")
    upstream.assert_ended()
    client.send(lane.get(b"/next"))
    assert lane.accept().answer().request_target == b"/next"
    assert client.read_response().body == b"ok"


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\nContent-"], ids=["no byte", "half a head"])
def test_an_upstream_that_leaves_before_its_head_is_a_502(lane: Lane, part: bytes, end: str) -> None:
    """RFC 9110 section 15.6.3: a request read on a fresh connection may have been acted on; it is not sent again."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(part)
    getattr(upstream, end)()
    assert_fault(client.read_response(), "connection_lost", "upstream_incomplete")
    lane.origin.assert_no_further_connection()
