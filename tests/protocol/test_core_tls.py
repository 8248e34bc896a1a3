"""Bodies and tunnels over `https` targets: the brake and the end work as they do without TLS."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from tests.support.certificates import Certificates, server_tls
from tests.support.gateway import Gateway
from tests.support.origin import Origin, OriginConnection

NAME = "inside.test"
HOST = b"Host: a.test\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
ASKING = b"GET /socket HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Origin]]:
    folder = tmp_path_factory.mktemp("core-tls")
    authority = Certificates(folder)
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin(tls=server_tls(authority.issue(NAME))))
        upstream = {"targets": [{"url": origin.url}], "tls": {"ca": authority.ca, "server_name": NAME}}
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"u": upstream},
            "routes": [{"name": "all", "upstream": "u"}],
        }
        yield stack.enter_context(Gateway(config, folder)), origin


@contextlib.contextmanager
def accepted(origin: Origin) -> Iterator[list[OriginConnection]]:
    """Accept in a thread: the gateway's handshake needs our side of it."""
    found: list[OriginConnection] = []
    thread = threading.Thread(target=lambda: found.append(origin.accept()))
    thread.start()
    yield found
    thread.join()


def test_an_upload_in_pieces_arrives(world: tuple[Gateway, Origin]) -> None:
    """RFC 9112 section 7: more than one read, more than one write."""
    gateway, origin = world
    body = bytes(range(256)) * 8192
    with gateway.connect() as client:
        with accepted(origin) as found:
            client.send(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body))
        upstream = found[0]
        sending = threading.Thread(target=client.send_gently, args=(body,))
        sending.start()
        assert upstream.read_request().body == body
        sending.join()
        upstream.send(OK)
        assert client.read_response().body == b"ok"


def test_a_small_upload_in_pieces_arrives(world: tuple[Gateway, Origin]) -> None:
    gateway, origin = world
    with gateway.connect() as client:
        with accepted(origin) as found:
            client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        upstream = found[0]
        upstream.read_request_head()
        for _ in range(5):
            client.send(b"3\r\nabc\r\n")
            assert upstream.read_chunk() == b"abc"
        client.send(b"0\r\n\r\n")
        assert upstream.read_chunk() == b""
        assert upstream.read_trailers() == []
        upstream.send(OK)
        assert client.read_response().body == b"ok"


def test_a_tunnel_carries_bytes_both_ways_and_ends_well(world: tuple[Gateway, Origin]) -> None:
    """A target that ends a tunnel properly (close_notify) has not broken it."""
    gateway, origin = world
    with gateway.connect() as client:
        with accepted(origin) as found:
            client.send(ASKING)
        upstream = found[0]
        upstream.answer(SWITCHED)
        assert client.read_response().status == 101
        for number in range(5):
            client.send(b"to the target %d" % number)
            assert upstream.read_exactly(15) == b"to the target %d" % number
            upstream.send(b"to the client %d" % number)
            assert client.read_exactly(15) == b"to the client %d" % number
        upstream.send(b"goodbye")
        with contextlib.suppress(OSError):
            upstream.sock.unwrap()  # type: ignore[attr-defined]
        assert client.read_to_end() == b"goodbye"
    assert gateway.wait_for_record(path="/socket", status=101)["fault"] is None
    assert "no effect" not in gateway.stderr.text()
