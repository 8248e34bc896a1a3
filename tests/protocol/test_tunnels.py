"""`Upgrade`: WebSocket by default, other protocols where the route lists them, and two-way tunnels of any bytes."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.lanes import Kind, Lane, Lanes, running
from tests.support.origin import Origin, OriginConnection

KINDS = {
    "plain": Kind(),
    "listed": Kind(route={"upgrade": ["websocket", "echo"]}),
    "none": Kind(route={"upgrade": []}),
}
ASKING = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(Lanes(tmp_path_factory.mktemp("tunnels"), KINDS))


@pytest.fixture
def tunnel(lane: Lane) -> tuple[Client, OriginConnection]:
    """Both ends of a connection that has changed to WebSocket."""
    client = lane.client()
    client.send(lane.get(b"/socket", ASKING))
    upstream = lane.accept()
    upstream.answer(SWITCHED)
    assert client.read_response().status == 101
    return client, upstream


def test_the_handshake_passes(lane: Lane) -> None:
    """RFC 6455 section 4, RFC 9110 section 7.8: the upgrade is asked of the upstream and its 101 given back."""
    client = lane.client()
    client.send(lane.get(fields=ASKING))
    upstream = lane.accept()
    request = upstream.answer(SWITCHED)
    assert request.get(b"Connection").lower() == b"upgrade"
    assert request.get(b"Upgrade") == b"websocket"
    assert request.get(b"Sec-WebSocket-Key") == b"dGhlIHNhbXBsZSBub25jZQ=="
    response = client.read_response()
    assert response.head.start_line == b"HTTP/1.1 101 Switching Protocols"
    assert response.get(b"Connection").lower() == b"upgrade"
    assert response.get(b"Upgrade") == b"websocket"
    assert response.get(b"Sec-WebSocket-Accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_tunnel_carries_any_bytes_both_ways(tunnel: tuple[Client, OriginConnection]) -> None:
    """RFC 9110 section 7.8: after 101 the bytes are no longer HTTP and pass as they are, as they come."""
    client, upstream = tunnel
    every_byte = bytes(range(256)) + b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    for number in range(3):
        client.send(every_byte + b"%d" % number)
        assert upstream.read_exactly(len(every_byte) + 1) == every_byte + b"%d" % number
        upstream.send(b"%d" % number + every_byte)
        assert client.read_exactly(len(every_byte) + 1) == b"%d" % number + every_byte


def test_bytes_that_come_with_the_101_are_kept(lane: Lane) -> None:
    """RFC 6455 section 4.1: a server may send its first frame in the segment of its handshake."""
    client = lane.client()
    client.send(lane.get(b"/with-the-101", ASKING))
    upstream = lane.accept()
    upstream.answer(SWITCHED + b"\x81\x05hello")
    assert client.read_response().status == 101
    assert client.read_exactly(7) == b"\x81\x05hello"
    client.close()
    upstream.assert_ended()
    upstream.close()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/with-the-101")
    assert (record["request_bytes"], record["response_bytes"]) == (0, 7)


def test_bytes_right_behind_the_request_are_kept(lane: Lane) -> None:
    """RFC 9110 section 7.8: what an eager client sends before the 101 is the tunnel's, and only after the 101."""
    client = lane.client()
    client.send(lane.get(fields=ASKING) + b"\x81\x85early")
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(SWITCHED)
    assert client.read_response().status == 101
    assert upstream.read_exactly(7) == b"\x81\x85early"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_behind_what_it_sent_ahead_is_noticed(lane: Lane, how: str) -> None:
    """Its FIN comes behind all that, and is met although no more of it is read than the bound allows."""
    client = lane.client()
    client.send(lane.get(f"/left-{how}".encode(), ASKING))
    upstream = lane.accept()
    upstream.read_request()
    client.send(b"x" * 300_000)
    getattr(client, how)()
    upstream.assert_ended()
    assert lane.gateway.wait_for_record(path=f"/left-{how}")["fault"] == "client_left"


def test_much_that_was_sent_ahead_goes_through_the_tunnel(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.get(fields=ASKING) + b"x" * 300_000)
    upstream = lane.accept()
    upstream.read_until(b"\r\n\r\n")
    assert not wait([upstream.sock], 0.2)  # by then the pause has become a long one
    upstream.send(SWITCHED)
    assert client.read_response().status == 101
    assert upstream.read_exactly(300_000) == b"x" * 300_000
    client.send(b"more")
    assert upstream.read_exactly(4) == b"more"


def test_an_upgrade_may_stand_behind_other_requests(lane: Lane) -> None:
    """RFC 9112 section 9.3.2: a pipelined upgrade becomes a tunnel in its turn, and its early bytes are kept."""
    client = lane.client()
    client.send(lane.get(b"/first") + lane.get(b"/socket", ASKING) + b"early")
    upstream = lane.accept()
    assert upstream.answer().request_target == b"/first"
    assert client.read_response().body == b"ok"
    assert upstream.answer(SWITCHED + b"hello").request_target == b"/socket"
    assert client.read_response().status == 101
    assert client.read_exactly(5) == b"hello"
    assert upstream.read_exactly(5) == b"early"


@pytest.mark.parametrize("framing", [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_an_upgrade_with_a_body_keeps_its_body(lane: Lane, framing: bytes) -> None:
    """RFC 9110 section 7.8: where a tunnel would begin amid a body nobody could tell; body and request are served."""
    body = b"abc" if b"Length" in framing else b"3\r\nabc\r\n0\r\n\r\n"
    client = lane.client()
    client.send(lane.get(fields=ASKING + framing, method=b"POST") + body)
    assert lane.accept().answer().body == b"abc"
    assert client.read_response().body == b"ok"


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_a_tunnel_holds_its_sender_back(tunnel: tuple[Client, OriginConnection], side: str) -> None:
    """Promise 20: a tunnel too takes no more than buffers reach from one side while the other does not read."""
    client, upstream = tunnel
    sender, receiver = (client, upstream) if side == "client" else (upstream, client)
    sent = sender.send_until_held_back()
    assert receiver.read_exactly(sent) == b"x" * sent


def test_a_refused_upgrade_is_an_ordinary_response(lane: Lane) -> None:
    """RFC 9110 section 7.8: a server may ignore the upgrade; both connections then go on in HTTP."""
    client = lane.client()
    client.send(lane.get(fields=ASKING))
    upstream = lane.accept()
    upstream.answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    assert client.read_response().body == b"no"
    client.send(lane.get(b"/next"))
    assert upstream.answer().request_target == b"/next"
    assert client.read_response().body == b"ok"


@pytest.mark.parametrize("side", ["client", "upstream"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_end_of_one_side_ends_the_other(tunnel: tuple[Client, OriginConnection], side: str, how: str) -> None:
    """RFC 9110 section 7.8: a tunnel ends when either connection ends."""
    client, upstream = tunnel
    leaving, staying = (client, upstream) if side == "client" else (upstream, client)
    getattr(leaving, how)()
    staying.assert_ended()


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_what_was_sent_before_the_end_arrives(tunnel: tuple[Client, OriginConnection], side: str) -> None:
    """RFC 9110 section 9.3.6: data sent before one side closed is delivered before the other is closed."""
    client, upstream = tunnel
    leaving, staying = (client, upstream) if side == "client" else (upstream, client)
    leaving.send(b"x" * 300_000)
    leaving.close()
    assert staying.read_to_end() == b"x" * 300_000


@pytest.mark.parametrize("protocol", [b"h2c", b"echo", b"TLS/1.0"])
def test_a_protocol_that_is_not_listed_is_not_asked_for(lane: Lane, protocol: bytes) -> None:
    """RFC 9110 section 7.8: Upgrade is for one hop; what the route does not list is stripped and the request served."""
    got, response = lane.forward(
        lane.get(
            fields=b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\nHTTP2-Settings: AAMAAABk\r\n"
        )
    )
    assert b"Upgrade" not in got
    assert b"HTTP2-Settings" not in got
    assert b"upgrade" not in b",".join(got.get_all(b"Connection")).lower()
    assert response.status == 200


def test_only_what_is_listed_remains_of_several_protocols(lane: Lane) -> None:
    """RFC 9110 section 7.8: of a list of protocols those that the route does not allow are taken out."""
    got, _ = lane.forward(lane.get(fields=b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n"))
    assert got.get(b"Upgrade") == b"websocket"


def test_a_route_may_list_other_protocols(lanes: Lanes) -> None:
    """RFC 9110 section 7.8: what the route lists becomes a tunnel as WebSocket does."""
    lane = lanes.take("listed")
    client = lane.client()
    client.send(lane.get(fields=b"Connection: Upgrade\r\nUpgrade: echo\r\n"))
    upstream = lane.accept()
    assert upstream.read_request().get(b"Upgrade") == b"echo"
    upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
    assert client.read_response().get(b"Upgrade") == b"echo"
    assert client.read_exactly(5) == b"hello"
    client.send(b"world")
    assert upstream.read_exactly(5) == b"world"
    lane.end()


def test_a_listed_protocol_may_have_a_version(tmp_path: Path) -> None:
    """RFC 9110 section 7.8: protocol = protocol-name ["/" protocol-version]."""
    with Origin() as origin:
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "routes": [{"name": "all", "upstream": origin.url, "upgrade": ["echo/1"]}],
        }
        with Gateway(config, tmp_path) as gateway, gateway.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n")
            upstream = origin.accept()
            assert upstream.read_request().get(b"Upgrade") == b"echo/1"
            upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\nhello")
            assert client.read_response().status == 101
            assert client.read_exactly(5) == b"hello"
            upstream.close()


def test_a_route_may_list_none(lanes: Lanes) -> None:
    """RFC 9110 section 7.8: without any protocol listed WebSocket is stripped too."""
    lane = lanes.take("none")
    got, _ = lane.forward(lane.get(fields=ASKING))
    assert b"Upgrade" not in got
    lane.end()


@pytest.mark.parametrize("answered", [b"Upgrade: echo\r\n", b""])
def test_a_101_for_another_protocol_is_a_502(lane: Lane, answered: bytes) -> None:
    """RFC 9110 section 15.2.2: the protocol switched to must be one that was asked for."""
    client = lane.client()
    client.send(lane.get(fields=ASKING))
    upstream = lane.accept()
    upstream.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + answered + b"\r\n")
    assert_fault(client.read_response(), "upgrade_unexpected", "upstream_malformed")
    upstream.assert_ended()


def test_an_upgrade_without_connection_is_not_asked_for(lane: Lane) -> None:
    """RFC 9110 section 7.8: Upgrade counts only when Connection names it; a 101 to it would be unasked."""
    got, _ = lane.forward(lane.get(fields=b"Upgrade: websocket\r\n"))
    assert b"Upgrade" not in got


def test_an_upgrade_in_http_1_0_is_ignored(lane: Lane) -> None:
    """RFC 9110 section 7.8: a server must ignore an Upgrade field in an HTTP/1.0 request."""
    got, _ = lane.forward(b"GET / HTTP/1.0\r\nHost: $HOST\r\n" + ASKING + b"\r\n")
    assert b"Upgrade" not in got


def test_a_tunnel_is_logged_once_when_it_ends(lane: Lane, tunnel: tuple[Client, OriginConnection]) -> None:
    """The record of a tunnel has its 101 and the bytes of both ways."""
    client, upstream = tunnel
    client.send(b"12345")
    upstream.read_exactly(5)
    upstream.send(b"123")
    client.read_exactly(3)
    client.close()
    upstream.assert_ended()
    upstream.close()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/socket", status=101)
    assert (record["request_bytes"], record["response_bytes"]) == (5, 3)
