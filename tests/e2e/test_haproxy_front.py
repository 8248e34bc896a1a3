"""HAProxy before the gateway, as the guide has it: what services get of a client that forges headers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.programs import Printing, program, run
from tests.support.certificates import Certificates
from tests.support.gateway import OFF, Gateway, wait_until
from tests.support.origin import Origin, Request
from tests.support.own_ports import own_port
from tests.support.table import for_each

FORGED = [
    *("-H", "X-Forwarded-For: 6.6.6.6", "-H", "X-Forwarded-Host: evil.test", "-H", "X-Forwarded-Prefix: /evil"),
    *("-H", "Forwarded: for=6.6.6.6;proto=http", "-H", "X-Original-URL: /admin"),
]
REPLACED = """\
    http-request del-header X-Forwarded- -m beg
    http-request del-header Forwarded
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
"""
FRONTS = {
    "http": ("http", REPLACED, "send-proxy-v2"),
    "tcp-v1": ("tcp", "", "send-proxy"),
    "tcp-v2": ("tcp", "", "send-proxy-v2"),
    "tcp-v2-ssl": ("tcp", "", "send-proxy-v2-ssl"),
}
"""Mode of each front, further lines of it, and options of its server."""
HTTP = {"proxy_protocol": "required", "trusted_proxies": ["127.0.0.0/8"], "proxy_protocol_senders": []}
TCP = {"proxy_protocol": "required", "proxy_protocol_senders": ["127.0.0.0/8"]}


class World:
    """HAProxy with each front twice, with TLS and without, before the listener that the guide has for it."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.origin = stack.enter_context(Origin()).serve()
        certificate, key = Certificates(directory).issue("shop.test")
        pair = directory / "pair.pem"
        pair.write_text(Path(certificate).read_text() + Path(key).read_text())
        listeners = {name: {"address": "127.0.0.1:0", **(HTTP if name == "http" else TCP)} for name in FRONTS}
        routes = [{"name": "all", "upstream": self.origin.url}]
        config = {**OFF, "workers": 1, "listeners": listeners, "routes": routes}
        gateway = stack.enter_context(Gateway(config, directory))
        self.ports: dict[tuple[str, str], int] = {}
        text = "defaults\n    timeout connect 10s\n    timeout client 10s\n    timeout server 10s\n"
        for name, (mode, lines, sends) in FRONTS.items():
            for scheme, tls in (("http", ""), ("https", f" ssl crt {pair}")):
                port = self.ports[name, scheme] = own_port()
                text += f"listen {name}-{scheme}\n    mode {mode}\n    bind 127.0.0.1:{port}{tls}\n{lines}"
                text += f"    server one {gateway.address(name)} {sends}\n"
        file = directory / "haproxy.cfg"
        file.write_text(text)
        run("haproxy", "-c", "-f", file)
        stack.enter_context(Printing([program("haproxy"), "-db", "-f", file]))
        wait_until(lambda: all(map(self._listens, self.ports.values())), "HAProxy to listen")

    def _listens(self, port: int) -> bool:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    def ask(self, front: str, scheme: str) -> Request:
        before, port = len(self.origin.requests), self.ports[front, scheme]
        at = ["--resolve", f"shop.test:{port}:127.0.0.1", "-H", "Host: shop.test"]
        run("curl", "-s", "-k", "-f", *at, *FORGED, f"{scheme}://shop.test:{port}/x")
        return self.origin.wait_for_requests(before + 1)[-1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("haproxy"), stack)


@for_each("client", ["http", "https"])
@for_each("front", [*FRONTS])
def test_services_get_the_clients_address_and_scheme_and_nothing_forged(world: World, front: str, client: str) -> None:
    request = world.ask(front, client)
    told = client if front in ("http", "tcp-v2-ssl") else "http"  # the others cannot say it
    assert request.get(b"X-Forwarded-Proto") == told.encode()
    assert request.get(b"X-Forwarded-Port") == (b"443" if told == "https" else b"80")
    assert request.get(b"X-Forwarded-Host") == b"shop.test"
    assert (request.get(b"X-Forwarded-For"), request.get(b"X-Real-IP")) == (b"127.0.0.1", b"127.0.0.1")
    assert not {b"X-Forwarded-Prefix", b"Forwarded"} & {name for name, _ in request.head.lines}
    assert (b"X-Original-URL" in request) is (front == "http")  # it has not removed it, and its word is taken
