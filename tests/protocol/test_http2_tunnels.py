"""Extended CONNECT (RFC 8441): WebSocket over HTTP/2 from clients, HTTP/1.1 to the upstream."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from tests.support.client import Client
from tests.support.http2 import frames
from tests.support.http2.client import Http2Client
from tests.support.lanes import Kind, Lane, Lanes, running
from tests.support.origin import OriginConnection

SHOWN = {"X-Token-Seen": "{header.X-Fastgw-Debug}", "X-Origin-Seen": "{header.Origin}"}
KINDS = {
    "plain": Kind(),
    "listed": Kind(route={"upgrade": ["websocket", "echo"]}),
    "none": Kind(route={"upgrade": []}),
    "guarded": Kind(route={"filters": {"websocket": {}}}),
    "showing": Kind(route={"filters": {"headers": {"request": {"set": SHOWN}}}}),
}
VERSION = (b"sec-websocket-version", b"13")


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    listeners: dict[str, Any] = {
        "main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]},
        "trusting": {
            "address": "127.0.0.1:0",
            "protocols": ["http1", "http2"],
            "trusted_proxies": ["127.0.0.0/8"],
        },
        "small": {"address": "127.0.0.1:0", "protocols": ["http2"], "http2": {"stream_window": 65_536}},
    }
    settings = {"listeners": listeners, "limits": {"connections": 500}}
    lanes = Lanes(tmp_path_factory.mktemp("http2-tunnels"), KINDS, count=16, settings=settings)
    yield from running(lanes)


@pytest.fixture
def lane(lanes: Lanes, request: pytest.FixtureRequest) -> Iterator[Lane]:
    """A lane of the kind that the test asks for with `of_kind`."""
    lane = lanes.take(getattr(request, "param", "plain"))
    yield lane
    lane.end()


def of_kind(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lane", names, indirect=True)


@pytest.fixture
def client(lane: Lane) -> Iterator[Http2Client]:
    with Http2Client(lane.gateway.address("main")) as client:
        client.begin_plainly()
        yield client


def connect(
    lane: Lane, *fields: tuple[bytes, bytes], path: bytes = b"/socket", protocol: bytes = b"websocket", stream: int = 1
) -> bytes:
    pseudo = [*frames.pseudo(b"CONNECT", path, lane.host), (b":protocol", protocol)]
    return frames.headers(frames.block(*pseudo, *(fields or (VERSION,))), stream, False)


def accept_for(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def switched(key: bytes, more: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: " + accept_for(key) + b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n" + more
    )


def switch(upstream: OriginConnection, more: bytes = b"") -> Any:
    request = upstream.read_request()
    key = request.get(b"sec-websocket-key")
    assert key is not None
    upstream.send(switched(key, more))
    return request


def body(client: Http2Client, length: int, stream: int = 1) -> bytes:
    """The first so many bytes of a tunnel, which are then forgotten."""
    answer = client.answer(stream)
    client.wait(lambda: answer.length >= length, f"{length} bytes")
    held = answer.body
    answer.parts, answer.length = [held[length:]], len(held) - length
    return held[:length]


@pytest.fixture
def tunnel(lane: Lane, client: Http2Client) -> tuple[Http2Client, OriginConnection]:
    client.send(connect(lane))
    upstream = lane.accept()
    switch(upstream)
    client.wait(lambda: client.answer(1).heads, "an answer")
    assert client.answer(1).status == 200
    return client, upstream


def test_settings_offer_it(client: Http2Client) -> None:
    """RFC 8441 section 3: SETTINGS_ENABLE_CONNECT_PROTOCOL is 1."""
    client.synchronize()
    assert client.settings[8] == 1


@of_kind("showing")
@pytest.mark.parametrize("listener", ["main", "trusting"])
def test_a_debug_token_reaches_no_filter_and_no_upstream(lane: Lane, listener: str) -> None:
    """As with other requests: it is for the gateway alone, whether or not the client is a trusted proxy."""
    with Http2Client(lane.gateway.address(listener)) as client:
        client.begin_plainly()
        client.send(connect(lane, VERSION, (b"x-fastgw-debug", b"of-no-key"), (b"origin", b"http://a.test")))
        request = switch(lane.accept())
    assert request.get(b"X-Origin-Seen") == b"http://a.test"
    assert b"X-Token-Seen" not in request
    assert b"X-Fastgw-Debug" not in request


def test_the_handshake_is_translated(lane: Lane, client: Http2Client) -> None:
    """RFC 8441 section 5: CONNECT becomes GET with a key of the gateway's own, and 101 becomes 200."""
    client.send(
        connect(
            lane,
            VERSION,
            (b"sec-websocket-protocol", b"chat, other"),
            (b"origin", b"http://a.test"),
            (b"cookie", b"a=b"),
        )
    )
    upstream = lane.accept()
    request = switch(upstream)
    assert request.head.start_line == b"GET /socket HTTP/1.1"
    assert request.get(b"host") is not None
    assert request.get(b"connection").lower() == b"upgrade"
    assert request.get(b"upgrade") == b"websocket"
    assert re.fullmatch(rb"[A-Za-z0-9+/]{22}==", request.get(b"sec-websocket-key"))
    assert request.get(b"sec-websocket-version") == b"13"
    assert request.get(b"sec-websocket-protocol") == b"chat, other"
    assert request.get(b"origin") == b"http://a.test"
    assert request.get(b"cookie") == b"a=b"
    assert b"transfer-encoding" not in request
    assert b"content-length" not in request
    client.wait(lambda: client.answer(1).heads, "an answer")
    answer = client.answer(1)
    assert answer.statuses == [200]
    assert answer.get(b"sec-websocket-protocol") == b"chat"
    assert not {b"connection", b"upgrade", b"sec-websocket-accept"} & set(dict(answer.head))
    assert not answer.ended


def test_two_handshakes_have_two_keys(lane: Lane, client: Http2Client) -> None:
    keys = set()
    for stream in (1, 3):
        client.send(connect(lane, stream=stream))
        keys.add(switch(lane.accept()).get(b"sec-websocket-key"))
    assert len(keys) == 2


def test_a_key_of_the_client_is_not_used(lane: Lane, client: Http2Client) -> None:
    """RFC 8441 section 5.1: Sec-WebSocket-Key is not processed."""
    client.send(connect(lane, VERSION, (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")))
    assert switch(lane.accept()).get(b"sec-websocket-key") != b"dGhlIHNhbXBsZSBub25jZQ=="


def test_bytes_go_both_ways(tunnel: tuple[Http2Client, OriginConnection]) -> None:
    client, upstream = tunnel
    every_byte = bytes(range(256)) + b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    for number in range(3):
        client.send(frames.data(every_byte + b"%d" % number, end=False))
        assert upstream.read_exactly(len(every_byte) + 1) == every_byte + b"%d" % number
        upstream.send(b"%d" % number + every_byte)
        assert body(client, len(every_byte) + 1) == b"%d" % number + every_byte


def test_bytes_that_come_with_the_101_are_kept(lane: Lane, client: Http2Client) -> None:
    client.send(connect(lane))
    switch(lane.accept(), b"\x81\x05hello")
    assert body(client, 7) == b"\x81\x05hello"


def test_bytes_that_come_before_the_200_are_kept(lane: Lane, client: Http2Client) -> None:
    client.send(connect(lane) + frames.data(b"early", end=False) + frames.data(b" bird", end=False))
    upstream = lane.accept()
    request = upstream.read_head()
    upstream.send(switched(request.get(b"sec-websocket-key") or b""))
    assert upstream.read_exactly(10) == b"early bird"


def test_both_directions_carry_much(tunnel: tuple[Http2Client, OriginConnection]) -> None:
    """Windows are given back as the upstream takes bytes, and kept to as the client does."""
    client, upstream = tunnel
    client.send(frames.window_update(1 << 24) + frames.window_update(1 << 24, 1))
    piece = bytes(range(256)) * 32
    for _ in range(64):
        client.send_piece(1, piece)
        assert upstream.read_exactly(len(piece)) == piece
        upstream.send(piece)
        assert body(client, len(piece)) == piece


def test_a_client_that_does_not_read_holds_its_upstream_back(tunnel: tuple[Http2Client, OriginConnection]) -> None:
    client, upstream = tunnel
    sent = upstream.send_until_held_back()
    client.send(frames.window_update(1 << 30) + frames.window_update(1 << 30, 1))
    answer = client.answer(1)
    client.wait(lambda: answer.length == sent, "all that was sent")
    assert answer.body == b"x" * sent


def test_an_upstream_that_does_not_read_holds_its_client_back(tunnel: tuple[Http2Client, OriginConnection]) -> None:
    """What is not taken is not given back to the window: a client can send a window more than sockets hold."""
    client, upstream = tunnel
    sent = waited = 0
    while waited < 3:
        window = client.window(1)
        if window > 0:
            client.send_data(1, b"x" * min(window, 16_384))
            sent += min(window, 16_384)
        client.synchronize(b"%8d" % (sent + waited))
        waited = 0 if window > 0 else waited + 1
        assert sent < 64 << 20
    assert upstream.read_exactly(sent) == b"x" * sent
    client.wait(lambda: client.window(1) >= 32_768, "the window")


def test_a_stalled_tunnel_does_not_stall_others(lane: Lane, tunnel: tuple[Http2Client, OriginConnection]) -> None:
    client, upstream = tunnel
    client.send(frames.window_update(1 << 24))
    upstream.send_until_held_back()
    client.send(connect(lane, stream=3))
    switch(lane.accept(), b"alive")
    assert body(client, 5, 3) == b"alive"


def test_end_stream_of_the_client_is_a_fin(tunnel: tuple[Http2Client, OriginConnection]) -> None:
    """RFC 8441 section 5: END_STREAM is the end of one direction; the other may go on."""
    client, upstream = tunnel
    client.send(frames.data(b"last words"))
    assert upstream.read_to_end() == b"last words"
    upstream.send(b"still here")
    assert body(client, 10) == b"still here"
    upstream.close()
    client.wait(lambda: client.answer(1).over, "the end")
    assert client.answer(1).ended
    assert client.answer(1).reset is None


def test_a_fin_of_the_upstream_is_end_stream(tunnel: tuple[Http2Client, OriginConnection]) -> None:
    client, upstream = tunnel
    upstream.send(b"last words")
    upstream.sock.shutdown(socket.SHUT_WR)
    client.wait(lambda: client.answer(1).ended, "END_STREAM")
    assert client.answer(1).body == b"last words"
    client.send(frames.data(b"still here"))
    assert upstream.read_to_end() == b"still here"
    client.synchronize()
    assert client.answer(1).reset is None


def test_a_reset_of_the_client_ends_the_upstream_connection(tunnel: tuple[Http2Client, OriginConnection]) -> None:
    client, upstream = tunnel
    client.send(frames.reset())
    upstream.assert_ended()
    client.synchronize()  # the connection goes on


def test_a_reset_of_the_upstream_is_cancel(tunnel: tuple[Http2Client, OriginConnection]) -> None:
    """RFC 8441 section 5: a RST of TCP is RST_STREAM with CANCEL."""
    client, upstream = tunnel
    upstream.reset()
    client.wait_for_end(1)
    assert client.answer(1).reset == frames.Code.CANCEL
    client.synchronize()


def test_a_refusal_is_an_ordinary_answer(lane: Lane, client: Http2Client) -> None:
    client.send(connect(lane))
    lane.accept().answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    answer = client.wait_for(1)
    assert (answer.status, answer.body) == (403, b"no")


@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content"])
def test_a_success_without_a_switch_is_no_tunnel(lane: Lane, client: Http2Client, status: bytes) -> None:
    """RFC 8441 section 4: a 2xx would tell the client that its WebSocket is open."""
    client.send(connect(lane))
    length = b"" if status.startswith(b"204") else b"Content-Length: 2\r\n"
    lane.accept().answer(b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n" + (b"no" if length else b""))
    assert client.wait_for(1).status == 502
    assert lane.gateway.wait_for_record(host=lane.host.decode(), status=502)["fault"] == "upgrade_failed"


@pytest.mark.parametrize(
    "wrong",
    [
        b"Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        b"Upgrade: websocket\r\n",
        b"Upgrade: websocket\r\nSec-WebSocket-Accept: $OK\r\nSec-WebSocket-Accept: $OK\r\n",
    ],
)
def test_a_wrong_accept_is_502(lane: Lane, client: Http2Client, wrong: bytes) -> None:
    """RFC 6455 section 4.1: the gateway is the client of this handshake, so it checks the answer."""
    client.send(connect(lane))
    upstream = lane.accept()
    key = upstream.read_request().get(b"sec-websocket-key") or b""
    upstream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
        + wrong.replace(b"$OK", accept_for(key))
        + b"\r\n"
    )
    assert client.wait_for(1).status == 502
    upstream.assert_ended()


@pytest.mark.parametrize("protocol", [b"echo", b"connect-udp", b"h2c"])
def test_another_protocol_is_501(lane: Lane, client: Http2Client, protocol: bytes) -> None:
    client.send(connect(lane, protocol=protocol))
    assert client.wait_for(1).status == 501


@of_kind("none")
def test_a_route_without_upgrades_answers_501(lane: Lane, client: Http2Client) -> None:
    client.send(connect(lane))
    assert client.wait_for(1).status == 501
    client.send(frames.get(stream=3, path=b"/unrouted"))
    assert client.wait_for(3).status == 404


@of_kind("listed")
def test_a_listed_protocol_is_asked_for(lane: Lane, client: Http2Client) -> None:
    client.send(connect(lane, protocol=b"echo"))
    upstream = lane.accept()
    request = upstream.read_request()
    assert request.get(b"upgrade") == b"echo"
    assert b"sec-websocket-key" not in request
    upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    client.send(frames.data(b"abc", end=False))
    assert upstream.read_exactly(3) == b"abc"
    assert client.answer(1).reset is None


def test_plain_connect_is_still_refused(lane: Lane, client: Http2Client) -> None:
    client.send(frames.headers(frames.block((b":method", b"CONNECT"), (b":authority", lane.host)), 1, True))
    assert client.wait_for(1).status >= 400


@pytest.mark.parametrize(
    "pseudo",
    [
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a.test")],
        [(b":method", b"CONNECT"), (b":scheme", b"http"), (b":authority", b"a.test")],
        [(b":method", b"CONNECT"), (b":path", b"/"), (b":authority", b"a.test")],
    ],
)
def test_protocol_needs_connect_scheme_and_path(client: Http2Client, pseudo: list[tuple[bytes, bytes]]) -> None:
    """RFC 8441 section 4: anything else is malformed."""
    client.send(frames.headers(frames.block(*pseudo, (b":protocol", b"websocket")), 1, False))
    client.wait_for_end(1)
    answer = client.answer(1)
    assert answer.reset is not None or answer.status == 400


def test_a_tunnel_with_a_length_is_refused(lane: Lane, client: Http2Client) -> None:
    client.send(connect(lane, VERSION, (b"content-length", b"3")))
    client.wait_for_end(1)
    answer = client.answer(1)
    assert answer.reset is not None or answer.status == 400


@pytest.mark.parametrize("name", [b"connection", b"upgrade", b"transfer-encoding"])
def test_connection_headers_are_malformed_beside_protocol(lane: Lane, client: Http2Client, name: bytes) -> None:
    client.send(connect(lane, VERSION, (name, b"websocket")))
    client.wait_for_end(1)
    answer = client.answer(1)
    assert answer.reset is not None or answer.status == 400


@pytest.mark.parametrize("protocol", [b"web socket", b"websocket\r\nx: y", b"web\x00socket", b""])
def test_a_protocol_that_is_no_token_never_gets_through(lane: Lane, client: Http2Client, protocol: bytes) -> None:
    client.send(connect(lane, protocol=protocol))
    client.wait_for_end(1)
    answer = client.answer(1)
    assert answer.over
    assert answer.reset is not None or answer.status >= 400
    assert not lane.origin.requests


def test_the_log_has_connect_and_200(lane: Lane, client: Http2Client) -> None:
    client.send(connect(lane, path=b"/logged"))
    upstream = lane.accept()
    switch(upstream)
    client.send(frames.data(b"abc", end=False))
    assert upstream.read_exactly(3) == b"abc"
    upstream.send(b"defgh")
    assert body(client, 5) == b"defgh"
    upstream.close()
    client.wait(lambda: client.answer(1).ended, "the end")
    client.send(frames.data(b""))
    record = lane.gateway.wait_for_record(path="/logged")
    assert record["method"] == "CONNECT"
    assert (record["protocol"], record["status"], record["fault"]) == ("websocket", 200, None)
    assert (record["request_bytes"], record["response_bytes"]) == (3, 5)


CLOSE = b"\x88\x02\x03\xe8"


@of_kind("guarded")
@pytest.mark.parametrize("closes", [True, False], ids=["both closed", "lost"])
def test_a_reset_after_the_end_of_a_websocket_is_no_fault(lane: Lane, client: Http2Client, closes: bool) -> None:
    """Clients reset a stream of which they have got the end, where one of HTTP/1.1 would send its FIN."""
    client.send(connect(lane, path=b"/closed"))
    upstream = lane.accept()
    switch(upstream)
    if closes:
        client.send(frames.data(b"\x88\x82\0\0\0\0\x03\xe8", end=False))
        assert upstream.read_exactly(8).startswith(b"\x88\x82")
        upstream.send(CLOSE)
    upstream.sock.shutdown(socket.SHUT_WR)
    client.wait(lambda: client.answer(1).ended, "END_STREAM")
    client.send(frames.reset())
    record = lane.gateway.wait_for_record(path="/closed", host=lane.host.decode())
    assert record["fault"] is None
    told = record["websocket"]
    assert (told["closed_by"], told["close_code"]) == (("client", 1000) if closes else ("upstream", 1011))


def test_requests_and_tunnels_share_a_connection(lane: Lane, tunnel: tuple[Http2Client, OriginConnection]) -> None:
    client, upstream = tunnel
    head = frames.block(*frames.pseudo(authority=lane.host))
    client.send(frames.headers(head, 3, True) + frames.data(b"between", end=False))
    assert upstream.read_exactly(7) == b"between"
    lane.accept().answer()
    assert client.wait_for(3).status == 200


def test_h2_takes_the_answer(lane: Lane) -> None:
    """A second opinion: python-hyper's h2 opens a tunnel, and speaks through it."""
    with Client(lane.gateway.address("main")) as peer:
        judge = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        judge.initiate_connection()
        peer.send(judge.data_to_send())
        fields = [
            *((b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http")),
            *((b":path", b"/chat"), (b":authority", lane.host), VERSION),
        ]
        judge.send_headers(1, fields)
        judge.send_data(1, b"ahead")
        peer.send(judge.data_to_send())
        upstream = lane.accept()
        request = upstream.read_head()
        upstream.send(switched(request.get(b"sec-websocket-key") or b"", b"hello"))
        assert upstream.read_exactly(5) == b"ahead"
        got: list[Any] = []
        while not any(isinstance(event, h2.events.DataReceived) for event in got):
            got += judge.receive_data(peer.sock.recv(65536))
        heads = [event for event in got if isinstance(event, h2.events.ResponseReceived)]
        assert dict(heads[0].headers)[b":status"] == b"200"
        assert [event.data for event in got if isinstance(event, h2.events.DataReceived)] == [b"hello"]
        judge.end_stream(1)
        peer.send(judge.data_to_send())
        upstream.assert_ended()


def test_an_unknown_host_is_404(client: Http2Client, lane: Lane) -> None:
    pseudo = [*frames.pseudo(b"CONNECT", b"/", b"nobody.test"), (b":protocol", b"websocket")]
    client.send(frames.headers(frames.block(*pseudo, VERSION), 1, False))
    assert client.wait_for(1).status == 404
