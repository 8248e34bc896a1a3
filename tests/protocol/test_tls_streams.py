"""What goes through a TLS connection: long bodies, tunnels, and the ends of both, each direction by itself."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.certificates import Certificates, client_tls
from tests.support.client import Client
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import OK, Origin, OriginConnection
from tests.support.secured import InMemory, in_memory

ASKING = (
    b"GET /socket HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
LONG = bytes(range(256)) * 20_000  # 5 MB
GET = b"GET /%s HTTP/1.1\r\nHost: a.test\r\n\r\n"


class Place(NamedTuple):
    gateway: Gateway
    origin: Origin
    tls: ssl.SSLContext

    def client(self) -> Client:
        return in_memory(self.gateway.address(), self.tls)


@pytest.fixture(scope="module", params=["1.2", "1.3"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("streams")
    authority = Certificates(directory)
    certificate, key = authority.issue("a.test")
    listener = {"address": "127.0.0.1:0", "tls": {"certificates": [{"certificate": certificate, "key": key}]}}
    tls = client_tls(authority)
    if request.param == "1.2":
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
    with Origin() as origin:
        upstream = {"targets": [{"url": origin.url}], "pool": {"max_idle": 0}}
        config = {
            "workers": 1,
            "listeners": {"main": listener},
            "limits": {"body_bytes": "8MB"},
            "upstreams": {"u": upstream},
            "routes": [{"name": "all", "upstream": "u"}],
        }
        with Gateway(config, directory) as gateway:
            yield Place(gateway, origin, tls)


@pytest.fixture
def tunnel(place: Place) -> Iterator[tuple[Client, OriginConnection]]:
    with place.client() as client:
        client.send(ASKING)
        with place.origin.accept() as origin:
            origin.read_request()
            origin.send(SWITCHED)
            assert client.read_response().status == 101
            yield client, origin


def test_bodies_go_both_ways_whole(place: Place) -> None:
    with place.client() as client:
        client.send(b"POST /both HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % len(LONG))
        with place.origin.accept() as origin:
            client.send(LONG)
            assert origin.read_request().body == LONG
            origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LONG))
            origin.send_gently(LONG[:1_000_000])
            head = client.read_response_head()
            assert head.status == 200
            assert client.read_exactly(1_000_000) == LONG[:1_000_000]
            origin.send(LONG[1_000_000:])
            assert client.read_exactly(len(LONG) - 1_000_000) == LONG[1_000_000:]


def test_a_client_that_does_not_read_holds_the_upstream_back(place: Place) -> None:
    """What a direction holds is bounded with TLS as without."""
    with place.client() as client:
        client.send(GET % b"slow")
        with place.origin.accept() as origin:
            origin.read_request()
            origin.send(b"HTTP/1.1 200 OK\r\n\r\n")
            sent = origin.send_until_held_back(b"x")
            origin.shutdown_write()
            response = client.read_response()
            assert (response.status, len(response.body), response.body.strip(b"x")) == (200, sent, b"")


def test_an_upstream_that_does_not_read_holds_the_client_back(place: Place) -> None:
    with place.client() as client:
        client.send(b"POST /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 7000000\r\n\r\n")
        with place.origin.accept() as origin:
            client.sock.settimeout(0.3)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 7_000_000:
                    client.sock.sendall(b"y" * 50_000)
                    sent += 50_000
            origin.read_request_head()
            assert origin.read_exactly(sent - 50_000).strip(b"y") == b""


def test_requests_sent_ahead_are_answered_in_order(place: Place) -> None:
    with place.client() as client:
        client.send(b"".join(GET % b"%d" % number for number in range(40)))
        for number in range(40):
            with place.origin.accept() as origin:
                assert origin.answer(OK).request_target == b"/%d" % number
            assert client.read_response().body == b"ok"


def test_a_client_that_pipelines_without_end_is_held_back_and_its_leaving_is_seen(place: Place) -> None:
    """Also once some of its requests were answered: 64 KiB are read ahead, and within TLS no more than a read."""
    with place.client() as client:
        client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.sock.sendall(GET % b"more" * 1_000_000)
        for _ in range(5):
            with place.origin.accept() as origin:
                assert origin.answer(OK).request_target == b"/more"
        with place.origin.accept() as origin:
            origin.read_request()
            client.reset()
            origin.assert_ended()


def test_the_end_of_a_body_without_a_length_is_an_end(place: Place) -> None:
    """`close_notify`: a client can tell it from a connection that was cut."""
    with place.client() as client:
        client.send(GET.replace(b"1.1", b"1.0") % b"end")
        with place.origin.accept() as origin:
            origin.read_request()
            origin.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            origin.shutdown_write()
            client.read_response_head()
            assert client.read_to_end() == b"all of it"


def test_a_body_that_broke_off_is_a_cut(place: Place) -> None:
    with place.client() as client:
        client.send(GET.replace(b"1.1", b"1.0") % b"cut")
        with place.origin.accept() as origin:
            origin.read_request()
            origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nparts\r\n")
            client.read_response_head()
            assert client.read_exactly(5) == b"parts"
            origin.reset()
            client.read_to_end()
            assert client.was_reset


def test_an_early_answer_comes_whole_while_the_client_goes_on_sending(place: Place) -> None:
    """Promise 9. The answer ends within TLS, and what is still sent is read and dropped."""
    with place.client() as client:
        client.send(b"POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: 15000000\r\n\r\n")
        client.send(LONG)
        response = client.read_response()
        assert (response.status, response.get(b"Connection")) == (413, b"close")
        client.assert_ended()  # our direction is still open
        client.send(LONG)
        client.shutdown_write()


# --- tunnels ---


def test_a_tunnel_carries_any_bytes(tunnel: tuple[Client, OriginConnection]) -> None:
    client, origin = tunnel
    for size in (1, 16_384, 16_385, 300_000):
        client.send(LONG[:size])
        assert origin.read_exactly(size) == LONG[:size]
        origin.send(LONG[:size])
        assert client.read_exactly(size) == LONG[:size]


def test_a_client_may_end_its_direction_first(tunnel: tuple[Client, OriginConnection]) -> None:
    client, origin = tunnel
    client.send(b"last words")
    client.shutdown_write()
    assert origin.read_to_end() == b"last words"
    origin.send(LONG[:100_000])
    assert client.read_exactly(100_000) == LONG[:100_000]
    origin.shutdown_write()
    client.assert_ended()


def test_a_service_may_end_its_direction_first(tunnel: tuple[Client, OriginConnection]) -> None:
    client, origin = tunnel
    origin.send(b"last words")
    origin.shutdown_write()
    assert client.read_to_end() == b"last words"
    client.send(LONG[:100_000])
    assert origin.read_exactly(100_000) == LONG[:100_000]
    client.shutdown_write()
    origin.assert_ended()


def test_bytes_sent_before_the_tunnel_is_there_go_through_it(place: Place) -> None:
    with place.client() as client:
        client.send(ASKING + b"early")
        with place.origin.accept() as origin:
            origin.read_until(b"\r\n\r\n")
            origin.send(SWITCHED + b"too")
            assert client.read_response().status == 101
            assert client.read_exactly(3) == b"too"
            assert origin.read_exactly(5) == b"early"


# --- clients that leave ---


@pytest.mark.parametrize("how", ["within TLS", "without a word", "reset"])
def test_a_client_that_leaves_takes_its_request_with_it(place: Place, how: str) -> None:
    with place.client() as client:
        client.send(GET % how.replace(" ", "-").encode())
        with place.origin.accept() as origin:
            origin.read_request()
            assert isinstance(client.sock, InMemory)
            if how == "within TLS":
                client.shutdown_write()
            elif how == "without a word":
                client.close()
            else:
                client.reset()
            origin.read_to_end()
    record = place.gateway.wait_for_record(path=f"/{how.replace(' ', '-')}")
    assert (record["status"], record["fault"]) == (499, "client_left")


# --- crowds ---


def test_handshakes_count_as_connections_from_their_beginning(tmp_path: Path) -> None:
    """Who begins thousands of them and ends none takes no place that somebody else needs."""
    authority = Certificates(tmp_path)
    certificate, key = authority.issue("a.test")
    tls = {"certificates": [{"certificate": certificate, "key": key}], "handshake_timeout": "2s"}
    config = {
        "workers": 1,
        "limits": {"connections": 2},
        "status": {"address": "127.0.0.1:0"},
        "listeners": {"main": {"address": "127.0.0.1:0", "tls": tls}},
        "routes": [{"name": "all", "respond": {"body": "ok"}}],
    }
    with Gateway(config, tmp_path) as gateway, contextlib.ExitStack() as held:
        silent = [held.enter_context(gateway.connect()) for _ in range(2)]
        wait_until(lambda: gateway.sum_of("fastgw_connections") == 2, "both to be counted")
        with in_memory(gateway.address(), client_tls(authority)) as served:
            assert served.exchange(GET % b"").body == b"ok"
            silent[0].assert_ended()
            assert gateway.sum_of("fastgw_connections") == 2
            silent[1].assert_ended()
            assert served.exchange(GET % b"").body == b"ok", "those that are served go on"
