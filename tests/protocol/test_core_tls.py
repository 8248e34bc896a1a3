"""Bodies and tunnels over `https` targets: the brake and the end work as they do without TLS."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.certificates import Certificates, server_tls
from tests.support.client import Client
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
        upstream.sock.settimeout(0)
        with contextlib.suppress(OSError):  # the gateway's comes when the client has ended its direction
            upstream.sock.unwrap()  # type: ignore[attr-defined]
        assert client.read_to_end() == b"goodbye"
    assert gateway.wait_for_record(path="/socket", status=101)["fault"] is None
    assert "no effect" not in gateway.stderr.text()


# --- how an answer ends ---

LONG = bytes(range(256)) * 480  # 120 kB: several reads of ours, and one of those that uvloop deciphers
VERY_LONG = LONG * 50
FRAMED = {
    "by its length": lambda body: b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
    "in chunks": lambda body: b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
    "by the end": lambda body: b"\r\n%b" % body,
}


def end_within_tls(upstream: OriginConnection) -> None:
    """`close_notify` and FIN, one after the other, as servers send them: they do not wait for ours."""
    upstream.sock.settimeout(0)
    with contextlib.suppress(OSError):  # ours has not come, or the gateway has closed: it knew where the answer ends
        upstream.sock.unwrap()  # type: ignore[attr-defined]
    upstream.shutdown_write()


@contextlib.contextmanager
def answered(
    world: tuple[Gateway, Origin], path: bytes, answer: bytes, end: Callable[[OriginConnection], None]
) -> Iterator[Client]:
    """A client whose request was answered, by a target that then ended the connection."""
    gateway, origin = world
    with gateway.connect() as client:
        with accepted(origin) as found:
            client.send(b"GET %b HTTP/1.1\r\n" % path + HOST + b"\r\n")
        with found[0] as upstream:
            upstream.read_request()

            def play() -> None:
                upstream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + answer)
                end(upstream)

            sending = threading.Thread(target=play)
            sending.start()
            yield client
            sending.join()


@pytest.mark.parametrize("framed", FRAMED)
def test_an_answer_whose_connection_ends_with_it_comes_whole(world: tuple[Gateway, Origin], framed: str) -> None:
    """RFC 9112 section 9.8: what was sent before `close_notify` counts, however fast the connection ends behind it."""
    for _ in range(10):
        with answered(world, b"/", FRAMED[framed](LONG), end_within_tls) as client:
            assert client.read_response().body == LONG


@pytest.mark.parametrize("framed", FRAMED)
def test_a_slow_client_gets_the_end_of_an_answer_whose_connection_has_ended(
    world: tuple[Gateway, Origin], framed: str
) -> None:
    """What waits because the client takes no more is not lost with the connection that it came on."""
    with answered(world, b"/", FRAMED[framed](VERY_LONG), end_within_tls) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)
        assert client.read_response().body == VERY_LONG


def test_an_answer_without_a_length_that_ends_outside_of_tls_is_cut_off(world: tuple[Gateway, Origin]) -> None:
    """RFC 9112 section 9.8: without `close_notify` nobody knows that it is whole. What has come is passed on."""
    path = b"/cut"
    with answered(world, path, FRAMED["by the end"](LONG), OriginConnection.shutdown_write) as client:
        response = client.read_response_head()
        assert response.get(b"Transfer-Encoding") == b"chunked"
        received = client.read_to_end()
    assert not received.endswith(b"0\r\n\r\n")
    record = world[0].wait_for_record(path=path.decode())
    assert (record["fault"], record["response_bytes"]) == ("upstream_incomplete", len(LONG))


def test_the_last_words_of_a_tunnel_come_whole(world: tuple[Gateway, Origin]) -> None:
    gateway, origin = world
    for _ in range(10):
        with gateway.connect() as client:
            with accepted(origin) as found:
                client.send(ASKING)
            with found[0] as upstream:
                upstream.answer(SWITCHED)
                assert client.read_response().status == 101
                upstream.send(LONG)
                end_within_tls(upstream)
                assert client.read_to_end() == LONG


def test_an_early_answer_counts_although_the_target_reads_no_further(world: tuple[Gateway, Origin]) -> None:
    """RFC 9112 section 9.5: the target answers and hangs up while the request is on its way, which resets our side."""
    gateway, origin = world
    for _ in range(20):
        with gateway.connect() as client:
            with accepted(origin) as found:
                client.send(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(VERY_LONG))
            sending = threading.Thread(target=client.send_gently, args=(VERY_LONG,))
            sending.start()
            with found[0] as upstream:
                upstream.read_request_head()
                upstream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
                end_within_tls(upstream)
            sending.join()
            response = client.read_response()
            assert (response.status, response.body) == (401, b"no")
