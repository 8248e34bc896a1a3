"""Responses to HEAD: no body follows the head, even if what has made the response sends one."""

from __future__ import annotations

import pytest

from fastgw.exchange import Exchange
from fastgw.exchange.hooks import TranslateHook
from fastgw.exchange.reply import UNKNOWN, Reply, Response, own_response
from fastgw.filters.api import Phase
from fastgw.http.http1.parser import parse_response
from tests.support.http2 import frames
from tests.support.memory import Plane, probe
from tests.unit.downstream.http2.test_tunnels import HTTP2, begins, data_on, ends_of

BODY = b"HTTP/1.1 200 OK"
FRAMINGS = {
    "length": b"Content-Length: %d\r\n" % len(BODY),
    "chunks": b"Transfer-Encoding: chunked\r\n",
    "close": b"",
    "own": None,
    "own with a length": len(BODY),
}


def made_for_get(framing: bytes | int | None) -> Response:
    """Return the response to a GET, as a filter gets it of an upstream, or one of its own."""
    if isinstance(framing, bytes):
        return Response(200, parse_response(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n%b\r\n" % framing, b"GET"))
    response = own_response(Reply(200, b"", [(b"X-A", b"1")]))
    response.body_length = UNKNOWN if framing is None else framing
    return response


def plane_for(framing: bytes | int | None, pieces: list[bytes], version: int) -> Plane:
    def answers(exchange: Exchange, forward: object) -> bool:
        exchange.respond(made_for_get(framing), b"" if len(pieces) > 1 else pieces[0], len(pieces) == 1)
        if len(pieces) > 1:
            for piece in pieces:
                exchange.response_sink.feed(piece)
            exchange.response_sink.end(())
        return True

    taking = probe("taking", Phase.TRANSFORM, translate=TranslateHook(answers))
    settings = HTTP2 if version == 2 else {}
    own = {"name": "own", "paths": ["/own"], "respond": {"body": "own"}}
    return Plane({**settings, "routes": [{"name": "all", "upstream": "u"}, own]}, probes=[taking])


@pytest.mark.parametrize("pieces", [[BODY], [BODY[:5], BODY[5:]]], ids=["at once", "in pieces"])
@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("minor", [b"0", b"1"])
def test_over_http1_the_next_response_follows_the_head(
    minor: bytes, framing: bytes | int | None, pieces: list[bytes]
) -> None:
    plane = plane_for(framing, pieces, 1)
    client = plane.client()
    client.sends(b"HEAD / HTTP/1.%b\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n" % minor)
    head, _, rest = client.received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n")
    assert b"\r\nTransfer-Encoding" not in head
    assert rest == b""
    client.sends(b"GET /own HTTP/1.1\r\nHost: a.test\r\n\r\n")
    again, _, rest = client.received.partition(b"\r\n\r\n")[2].partition(b"\r\n\r\n")
    assert (again.split(b"\r\n")[0], rest) == (b"HTTP/1.1 200 OK", b"own")
    plane.assert_quiet()


@pytest.mark.parametrize("pieces", [[BODY], [BODY[:5], BODY[5:]]], ids=["at once", "in pieces"])
@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
def test_over_http2_the_stream_ends_without_data(framing: bytes | int | None, pieces: list[bytes]) -> None:
    plane = plane_for(framing, pieces, 2)
    client = begins(plane)
    client.sends(frames.headers(frames.block(*frames.pseudo(b"HEAD"))))
    plane.settle()
    assert (data_on(client, 1), ends_of(client)) == (b"", [1])
    client.sends(frames.get(stream=3, path=b"/own"))
    plane.settle()
    assert (data_on(client, 3), ends_of(client)) == (b"own", [1, 3])


@pytest.mark.parametrize("before", [b"HEAD", b"GET"])
def test_the_framing_of_an_earlier_response_is_not_that_of_a_tunnel(before: bytes) -> None:
    plane = Plane({"filters": {"compress": {"min_bytes": 1}}})
    client = plane.client()
    client.sends(b"%b / HTTP/1.1\r\nHost: a.test\r\n\r\n" % before)
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    if before == b"GET":
        upstream.sends(b"1\r\na\r\n")
        upstream.sends(b"0\r\n\r\n")
    plane.settle()
    client.received = b""
    client.sends(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    upstream.sends(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    upstream.sends(b"from the upstream")
    plane.settle()
    assert client.received.startswith(b"HTTP/1.1 101 ")
    assert client.received.endswith(b"\r\n\r\nfrom the upstream")
