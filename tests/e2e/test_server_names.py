"""`tls.server_name: host_header`: an nginx that takes no request for another host than the connection's (421)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.programs import Nginx
from tests.support.certificates import Certificates
from tests.support.client import Response
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway, wait_until
from tests.support.own_ports import own_port
from tests.support.table import for_each

ADDRESS = "127.0.0.1"
PROTOCOLS = ("http1", "http2", "auto")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("names")
    authority, port = Certificates(directory), own_port()
    certificate, key = authority.issue("*.inside.test", "127.0.0.1", "::1")
    server = f"""
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {certificate}; ssl_certificate_key {key};
        set $name $ssl_server_name;
        if ($host ~ "^[0-9.]+$") {{ set $name $host$ssl_server_name; }}
        if ($host ~ "^\\[") {{ set $name $host$ssl_server_name; }}
        if ($name != $host) {{ return 421; }}
        location / {{ return 200 "$ssl_server_name $connection"; }}
    """

    def upstream(**more: Any) -> dict[str, Any]:
        tls = {"ca": authority.ca, "server_name": "host_header"}
        settings = {"targets": [f"https://127.0.0.1:{port}"], "tls": tls, "host_header": "preserve", **more}
        return {"health_checks": {"passive": {"failures": 1}}, **settings}

    upstreams = {protocol: upstream(protocol=protocol) for protocol in PROTOCOLS}
    for name in ("checked", "wrong"):
        active = {"path": "/", "host": f"{name}.inside.test", "interval": "1s", "expected_body": "checked.inside.test"}
        upstreams[name] = upstream(health_checks={"active": active}, load_balancing={"panic_threshold": "0%"})
    routes = [
        *({"name": f"{name}", "paths": [f"/{name}/*"], "upstream": name} for name in upstreams),
        {"name": "fixed", "paths": ["/fixed"], "upstream": "http1", "host_header": "fixed.inside.test:8443"},
        {"name": "target", "paths": ["/target"], "upstream": "http1", "host_header": "target"},
    ]
    configuration = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "upstreams": upstreams,
        "routes": routes,
    }
    with Nginx(directory, server), Gateway(configuration, directory) as gateway:
        yield gateway


def ask(gateway: Gateway, path: str, host: str) -> Response:
    with gateway.connect() as client:
        return client.exchange(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


@pytest.mark.landing
@for_each("protocol", PROTOCOLS)
def test_the_server_name_is_the_host_and_a_connection_is_for_one_name(gateway: Gateway, protocol: str) -> None:
    connections: dict[str, str] = {}
    for host in (
        "a.inside.test",
        "b.inside.test",
        "A.inside.test:8443",
        "b.inside.test",
        "a.inside.test.",
        ADDRESS,
    ):
        response = ask(gateway, f"/{protocol}/x", host)
        assert response.status == 200, (host, response.body)
        name, connection = response.body.decode().split(" ")
        assert name == ("" if host == ADDRESS else host.lower().removesuffix(":8443").removesuffix(".")), host
        assert connections.setdefault(name, connection) == connection, host
    assert len(set(connections.values())) == 3


@pytest.mark.landing
@for_each("protocol", PROTOCOLS)
@for_each("host", ["outside.test", "deep.a.inside.test", f"{'a' * 64}.inside.test", "127.0.0.2"])
def test_a_host_that_the_target_has_no_certificate_for_is_the_clients_fault(
    gateway: Gateway, protocol: str, host: str
) -> None:
    """The certificate is verified for the host of the request; a client cannot make the target count as broken."""
    for _ in range(3):
        assert_fault(ask(gateway, f"/{protocol}/x", host), "misdirected")
    assert ask(gateway, f"/{protocol}/x", "a.inside.test").status == 200


@for_each(("path", "name"), [("/fixed", "fixed.inside.test"), ("/target", "")])
def test_it_is_the_host_that_is_sent(gateway: Gateway, path: str, name: str) -> None:
    response = ask(gateway, path, "a.inside.test")
    assert (response.status, response.body.decode().split(" ")[0]) == (200, name)


def test_health_checks_ask_for_the_host_of_theirs(gateway: Gateway) -> None:
    """The target answers with the name; where another one is expected it is ejected."""
    wait_until(lambda: ask(gateway, "/wrong/x", "a.inside.test").status == 503, "the target is ejected")
    assert ask(gateway, "/checked/x", "a.inside.test").status == 200
