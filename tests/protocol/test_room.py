"""Full gateways: what is idle longest makes room for the next client, and an address has a share."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.certificates import Certificates
from tests.support.client import Client
from tests.support.faults import assert_refused
from tests.support.gateway import Gateway, wait_until
from tests.support.http2_peer import GOAWAY, NO_ERROR, Http2Client
from tests.support.peer import DEADLINE, Peer
from tests.support.table import for_each
from tests.support.udp import UdpTarget

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n"
UPGRADE = b"GET /held HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"


class Place(NamedTuple):
    gateway: Gateway
    service: socket.socket

    def holds(self, connections: int) -> None:
        wait_until(lambda: self.gateway.sum_of("fastgw_connections") == connections, f"{connections} connections")

    def evicted(self) -> float:
        return self.gateway.sum_of("fastgw_connections_evicted_total")

    def kept_alive(self) -> Client:
        client = self.gateway.connect()
        assert client.exchange(GET).body == b"here"
        return client

    def accept(self) -> Peer:
        """Accept a request of `HELD`, as its service."""
        peer = Peer(self.service.accept()[0])
        peer.read_head()
        return peer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("room")
    certificate, key = Certificates(folder).issue("server", "a.test")
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(DEADLINE)
        target = f"http://127.0.0.1:{service.getsockname()[1]}"
        config = {
            "workers": 1,
            "status": {"address": "127.0.0.1:0"},
            "limits": {"connections": 2},
            "listeners": {
                "main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]},
                "tls": {"address": "127.0.0.1:0", "tls": {"certificates": [{"certificate": certificate, "key": key}]}},
            },
            "upstreams": {"service": {"targets": [target]}},
            "routes": [
                {"name": "held", "paths": ["/held"], "upgrade": ["echo"], "upstream": "service"},
                {"name": "here", "respond": {"body": "here"}},
            ],
        }
        with Gateway(config, folder) as gateway:
            yield Place(gateway, service)


def silent(place: Place) -> Client:
    return place.gateway.connect()


def handshaking(place: Place) -> Client:
    return place.gateway.connect("tls")


def beginning(place: Place) -> Client:
    client = place.kept_alive()
    client.send(GET[:9])
    return client


def lingering(place: Place) -> Client:
    """A client that may send more after it was refused."""
    client = place.gateway.connect()
    client.send(b"GET / HTTP/9.9\r\n\r\n")
    assert client.read_response().status == 505
    return client


def without_streams(place: Place) -> Http2Client:
    client = Http2Client(place.gateway.address())
    assert client.exchange().status == 200
    return client


def assert_makes_room(place: Place, kind: Callable[[Place], Client | Http2Client]) -> None:
    place.holds(0)
    before = place.evicted()
    with kind(place) as oldest:
        place.holds(1)
        recent, newcomer = place.kept_alive(), place.kept_alive()
        with recent, newcomer:
            if isinstance(oldest, Http2Client):
                assert oldest.read_until_frame(GOAWAY).code == NO_ERROR
            oldest.assert_ended()
            assert place.evicted() == before + 1
            for client in (recent, newcomer):
                assert client.exchange(GET).body == b"here"


@for_each("kind", [silent, handshaking, Place.kept_alive, beginning, lingering])
def test_the_connection_that_is_idle_longest_makes_room(place: Place, kind: Callable[[Place], Client]) -> None:
    """As of nginx (`ngx_drain_connections`): whoever holds connections without a request keeps nobody else out."""
    assert_makes_room(place, kind)


def test_a_connection_without_streams_makes_room(place: Place) -> None:
    """RFC 9113 section 9.1: GOAWAY tells which streams were not processed."""
    assert_makes_room(place, without_streams)


def test_a_request_makes_a_connection_recent_and_one_in_flight_keeps_it(place: Place) -> None:
    """The order is that of the last use, and what is not idle makes no room: a request in flight, and a tunnel."""
    place.holds(0)
    with place.kept_alive() as one, place.kept_alive() as other:
        one.exchange(GET)
        with place.kept_alive() as third:
            other.assert_ended()
            one.send(HELD)
            service = place.accept()
            with place.gateway.connect() as tunnel:  # in place of the third
                tunnel.send(UPGRADE)
                third.assert_ended()
                with place.accept() as relayed:
                    relayed.send(SWITCHED)
                    assert tunnel.read_response().status == 101
                    with place.gateway.connect() as refused:
                        assert_refused(refused, "connections_exhausted")
                    service.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nheld")
                    assert one.read_response().body == b"held"
                    with place.kept_alive():
                        one.assert_ended()
                    tunnel.send(b"raw")
                    assert relayed.read_exactly(3) == b"raw"
        service.close()


def test_files_make_room_too(tmp_path: Path) -> None:
    """A process that has files for so many connections only does not stop accepting because of idle ones."""
    config = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "routes": [{"name": "here", "respond": {"body": "here"}}],
    }
    with (
        Gateway(config, tmp_path, launcher=["prlimit", "--nofile=160:160"]) as gateway,
        contextlib.ExitStack() as opened,
    ):
        clients = [opened.enter_context(gateway.connect()) for _ in range(200)]
        for client in clients[-20:]:
            assert client.exchange(GET).body == b"here"
        clients[0].assert_ended()


@pytest.mark.parametrize(
    ("settings", "limits", "status"),
    [
        ({}, {"connections": 200}, 429),
        ({}, {"connections": 200, "connections_per_ip": 200}, 200),
        ({"trusted_proxies": ["127.0.0.1"]}, {"connections": 200}, 200),
        ({"trusted_proxies": ["127.0.0.1"]}, {"connections_per_ip": 1}, 200),
    ],
)
def test_an_address_has_half_of_the_connections_unless_it_is_trusted(
    settings: dict[str, Any], limits: dict[str, int], status: int, tmp_path: Path
) -> None:
    """One client cannot hold all of them; a trusted proxy has the connections of many clients."""
    config = {
        "workers": 1,
        "limits": limits,
        "listeners": {"main": {"address": "127.0.0.1:0", **settings}},
        "routes": [{"name": "here", "respond": {"body": "here"}}],
    }
    with Gateway(config, tmp_path) as gateway, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(gateway.connect()) for _ in range(102)]
        assert [client.exchange(GET).status for client in clients[:100]] == [200] * 100
        assert clients[-1].exchange(GET).status == status


class Datagrams(contextlib.ExitStack):
    """Clients of a UDP listener, and its target."""

    def __init__(self, sessions: int, folder: Path) -> None:
        super().__init__()
        self.target = self.enter_context(contextlib.closing(UdpTarget()))
        config = {
            "workers": 1,
            "limits": {"udp_sessions": sessions},
            "listeners": {"main": {"address": "127.0.0.1:0", "protocol": "udp", "upstream": "service"}},
            "upstreams": {"service": {"targets": [self.target.url]}},
        }
        self.gateway = self.enter_context(Gateway(config, folder))

    def client(self, address: str = "127.0.0.1") -> socket.socket:
        made = self.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind((address, 0))
        made.connect(("127.0.0.1", self.gateway.port()))
        made.settimeout(DEADLINE)
        return made

    def session(self, client: socket.socket) -> Any:
        """Send a datagram and receive its answer; return the session's address, as its target knows it."""
        client.send(b"x")
        session = self.target.echo()[1]
        assert client.recv(9) == b"x"
        return session


def test_the_udp_session_that_is_idle_longest_makes_room(tmp_path: Path) -> None:
    """Sessions of clients that are known to receive their responses last: addresses may be forged."""
    with Datagrams(3, tmp_path) as place:
        known, fresh, recent, newcomer = (place.client() for _ in range(4))
        first = place.session(known)
        assert place.session(known) == first
        sessions = [place.session(client) for client in (fresh, recent, newcomer)]
        assert place.session(known) == first
        assert place.session(recent) == sessions[1]
        assert place.session(newcomer) == sessions[2]
        assert place.session(fresh) not in sessions


def test_an_address_has_half_of_the_udp_sessions(tmp_path: Path) -> None:
    """Beyond that its own session ends: that of another address stays, although it is idle longer."""
    with Datagrams(200, tmp_path) as place:
        neighbour = place.client("127.0.0.2")
        kept = place.session(neighbour)
        clients = [place.client() for _ in range(101)]
        sessions = [place.session(client) for client in clients]
        assert place.session(neighbour) == kept
        assert place.session(clients[1]) == sessions[1]
        assert place.session(clients[0]) not in sessions
