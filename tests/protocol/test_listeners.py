"""Where clients come in: IPv4, IPv6, unix sockets, and the PROXY protocol."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import Client, Send, byte_by_byte, whole
from tests.support.gateway import Gateway
from tests.support.origin import OK, Origin

REQUEST = b"GET /%s HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        yield origin.serve()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("listeners")
    proxied = {"address": "127.0.0.1:0", "proxy_protocol": "required", "trusted_proxies": ["127.0.0.0/8"]}
    config = {
        "workers": 2,
        "listeners": {
            "v4": {"address": "127.0.0.1:0"},
            "v6": {"address": "[::1]:0"},
            "any6": {"address": "[::]:0"},
            "unix": {"address": f"unix:{directory}/in.sock"},
            "proxied": proxied,
            "distrusting": {**proxied, "trusted_proxies": ["10.0.0.0/8"]},
        },
        "routes": [{"name": "all", "upstream": origin.url, "forwarded_header": True}],
    }
    with Gateway(config, directory) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("listener", "client_ip", "forwarded_for"),
    [("v4", "127.0.0.1", b"127.0.0.1"), ("v6", "::1", b"::1"), ("unix", None, None)],
)
def test_each_family_is_served(
    gateway: Gateway, origin: Origin, listener: str, client_ip: str | None, forwarded_for: bytes | None
) -> None:
    """The client's address is told as its family writes it; a unix socket has none."""
    before = len(origin.requests)
    with gateway.connect(listener) as client:
        assert client.exchange(REQUEST % listener.encode()).body == b"ok"
    assert origin.wait_for_requests(before + 1)[-1].get(b"X-Forwarded-For") == forwarded_for
    record = gateway.wait_for_record(listener=listener, path=f"/{listener}")
    if client_ip:
        assert record["client"] == client_ip


def test_forwarded_writes_ipv6_in_brackets_and_quotes(gateway: Gateway, origin: Origin) -> None:
    """RFC 7239 section 6.1: an IPv6 address has brackets, and so the value needs quotes."""
    before = len(origin.requests)
    with gateway.connect("v6") as client:
        client.exchange(REQUEST % b"quoted")
    assert b'for="[::1]"' in origin.wait_for_requests(before + 1)[-1].get(b"Forwarded")


def test_an_ipv6_listener_takes_ipv6_only(gateway: Gateway) -> None:
    """RFC 3493 section 5.3: V6ONLY: `[::]` does not take what is sent to an IPv4 address."""
    port = gateway.port("any6")
    with contextlib.suppress(ConnectionRefusedError), Client(f"127.0.0.1:{port}") as other:
        other.send_gently(REQUEST % b"mapped")  # whoever else has this port, it is not our listener
    with Client(f"[::1]:{port}") as client:
        assert client.exchange(REQUEST % b"own").body == b"ok"
    gateway.wait_for_record(listener="any6", path="/own")
    assert not [record for record in gateway.records if record["path"] == "/mapped"]


def test_a_unix_socket_is_gone_after_a_stop(tmp_path: Path, origin: Origin) -> None:
    """A stop removes what a start has made; and a socket file that a killed gateway left is no obstacle."""
    path = tmp_path / "gone.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    config = {
        "workers": 1,
        "listeners": {"main": {"address": f"unix:{path}"}},
        "routes": [{"name": "all", "upstream": origin.url}],
    }
    with Gateway(config, tmp_path) as gateway:
        assert gateway.address() == f"unix:{path}"
        with gateway.connect() as client:
            assert client.exchange(REQUEST % b"").body == b"ok"
    assert not path.exists()


# --- PROXY protocol ---

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(command: int, family: int, addresses: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(addresses)) + addresses


V4 = socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 56_324, 443)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + struct.pack("!HH", 56_324, 443)

HEADERS = {
    # the PROXY protocol's specification, sections 2.1 and 2.2
    "v1 TCP4": (b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n", "203.0.113.7"),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n", "2001:db8::7"),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v1 UNKNOWN and more": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1"),
    "v2 IPv4": (v2(1, 0x11, V4), "203.0.113.7"),
    "v2 IPv6": (v2(1, 0x21, V6), "2001:db8::7"),
    "v2 LOCAL": (v2(0, 0x00, b""), "127.0.0.1"),
    "v2 with further values": (v2(1, 0x11, V4 + b"\x04\x00\x02ab"), "203.0.113.7"),
}


@pytest.mark.parametrize("send", [whole, byte_by_byte])
@pytest.mark.parametrize("name", list(HEADERS))
def test_a_proxy_header_names_the_client(gateway: Gateway, origin: Origin, name: str, send: Send) -> None:
    """The PROXY protocol, sections 2.1 and 2.2: its source is the client in log and fields; the request follows it."""
    header, client_ip = HEADERS[name]
    path = f"{name.replace(' ', '-')}-{send.__name__}"
    before = len(origin.requests)
    with gateway.connect("proxied") as client:
        send(client, header + REQUEST % path.encode())
        assert client.read_response().body == b"ok"
        client.send(REQUEST % b"second")  # there is one header per connection, not per request
        assert client.read_response().body == b"ok"
    assert gateway.wait_for_record(listener="proxied", path=f"/{path}")["client"] == client_ip
    requests = origin.wait_for_requests(before + 2)[before:]
    assert all(client_ip.encode() in (request.get(b"X-Real-IP") or b"") for request in requests)


MALFORMED = {
    "no header": REQUEST % b"bare",
    "a lower-case word": b"proxy TCP4 203.0.113.7 192.0.2.1 56324 443\r\n",
    "too few words": b"PROXY TCP4 203.0.113.7\r\n",
    "an address of the other family": b"PROXY TCP4 2001:db8::7 2001:db8::1 56324 443\r\n",
    "no address": b"PROXY TCP4 a b 56324 443\r\n",
    "a port out of range": b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n",
    "LF only": b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\n",
    "too long": b"PROXY UNKNOWN " + b"a" * 200 + b"\r\n",
    "v2 of version 3": SIGNATURE + b"\x31\x11\x00\x0c" + V4,
    "v2 too short for its family": v2(1, 0x11, V4[:8]),
    "v2 of an unknown command": v2(2, 0x11, V4),
    "v2 with a value that goes too far": v2(1, 0x11, V4 + b"\x02\x00\x0aa.test"),
    "v2 with bytes behind its values": v2(1, 0x11, V4 + b"\x02\x00\x06a.test\x04\x00"),
    "v2 with a wrong checksum": v2(1, 0x11, V4 + b"\x03\x00\x04\x00\x00\x00\x00"),
}


@pytest.mark.parametrize("header", [pytest.param(header, id=name) for name, header in MALFORMED.items()])
def test_a_connection_without_a_proper_proxy_header_is_closed(gateway: Gateway, origin: Origin, header: bytes) -> None:
    """The PROXY protocol, section 2: where it is required nothing else may begin a connection."""
    before = len(origin.requests)
    with gateway.connect("proxied") as client:
        client.send_gently(header + REQUEST % b"after")
        assert b"200 OK" not in client.read_to_end()
    assert len(origin.requests) == before


@pytest.mark.parametrize("name", list(HEADERS))
def test_a_second_proxy_header_is_no_request(gateway: Gateway, origin: Origin, name: str) -> None:
    """Whoever could add one behind a proxy's own would choose the client's address."""
    header, _ = HEADERS[name]
    before = len(origin.requests)
    with gateway.connect("proxied") as client:
        client.send_gently(header + header + REQUEST % b"twice")
        assert client.read_to_end().startswith(b"HTTP/1.1 400 ")
    assert len(origin.requests) == before


@pytest.mark.parametrize("name", list(HEADERS))
def test_a_connection_may_end_with_its_proxy_header(gateway: Gateway, name: str) -> None:
    """So do the health checks of a load balancer; an incomplete header ends it as well."""
    header, _ = HEADERS[name]
    for sent in (header, header[:-1]):
        with gateway.connect("proxied") as client:
            client.send(sent)
            client.shutdown_write()
            assert client.read_to_end() == b""


def test_a_proxy_header_is_believed_from_trusted_peers_only(gateway: Gateway, origin: Origin) -> None:
    """The PROXY protocol, section 5: from anybody else it could claim any address; the connection is closed."""
    before = len(origin.requests)
    with gateway.connect("distrusting") as client:
        client.send_gently(HEADERS["v1 TCP4"][0] + REQUEST % b"distrusted")
        assert b"200 OK" not in client.read_to_end()
    assert len(origin.requests) == before


def test_a_proxy_header_where_it_is_off_is_no_request(gateway: Gateway) -> None:
    """RFC 9112 section 3: `PROXY TCP4 …` is not a request line."""
    with gateway.connect("v4") as client:
        client.send(HEADERS["v1 TCP4"][0] + REQUEST % b"off")
        assert client.read_to_end().startswith(b"HTTP/1.1 400 ")


# --- targets of other families ---


@pytest.mark.parametrize("family", ["v6", "unix"])
def test_targets_of_other_families(tmp_path: Path, family: str) -> None:
    """`http://[::1]:port` and `unix:/path.sock` are targets like any other."""
    address: tuple[str, int] | str = ("::1", 0) if family == "v6" else str(tmp_path / "origin.sock")
    with Origin(address) as origin:
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"other": {"targets": [{"url": origin.url}]}},
            "routes": [{"name": "all", "upstream": "other"}],
        }
        with Gateway(config, tmp_path) as gateway, gateway.connect() as client:
            client.send(REQUEST % b"a")
            upstream = origin.accept()
            assert upstream.answer(OK).get(b"Host") == b"a.test"
            assert client.read_response().body == b"ok"
            client.send(REQUEST % b"b")
            upstream.answer(OK)
            assert client.read_response().body == b"ok"


def test_two_clients_of_one_gateway(gateway: Gateway) -> None:
    """Connections are served side by side, whichever worker has them."""
    clients = [gateway.connect("v4") for _ in range(8)]
    for client in clients:
        client.send(REQUEST % b"many")
    assert [client.read_response().status for client in reversed(clients)] == [200] * 8
    for client in clients:
        assert isinstance(client, Client)
        client.close()


def test_a_port_alone_is_every_address_of_the_machine(tmp_path: Path, origin: Origin) -> None:
    """`:port`: IPv4 and IPv6, each client with its own address. Where control listens too, by one socket for both."""
    config = {
        "workers": 2,
        "listeners": {"main": {"address": ":0"}},
        "status": {"address": ":0"},
        "routes": [{"name": "all", "respond": {"body": "ok"}}],
    }
    with Gateway(config, tmp_path) as gateway:
        port, status = (
            address.rpartition(":")[2] for address in (*gateway.ready["listeners"]["main"][:1], gateway.ready["status"])
        )
        assert gateway.ready["listeners"]["main"] == [f"0.0.0.0:{port}", f"[::]:{port}"]
        for host in ("127.0.0.1", "[::1]"):
            with Client(f"{host}:{port}") as client:
                assert client.exchange(REQUEST % b"a").body == b"ok"
            assert gateway.wait_for_record(client=host.strip("[]"))
            with Client(f"{host}:{status}") as client:
                assert client.exchange(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200
