"""Services that are reached in other ways than by an address and in plain text."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import fronting
from tests.e2e.programs import Nginx
from tests.support.certificates import Certificates, server_tls
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.peer import DEADLINE

NAME = "inside.test"  # what nginx's certificate is for


class SecureNginx(Nginx):
    """It answers with what TLS told it: the name asked for, whether a client certificate was valid, and whose it is."""

    def __init__(self, directory: Path, authority: Certificates) -> None:
        certificate, key = authority.issue(NAME)
        super().__init__(
            directory,
            f"""
            ssl_certificate {certificate};
            ssl_certificate_key {key};
            ssl_client_certificate {authority.ca};
            ssl_verify_client optional;
            location / {{ return 200 "$ssl_server_name $ssl_client_verify $ssl_client_s_dn"; }}
            """,
        )
        self.url = f"https://{self.address}"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Hosts `NAME.test`, each with TLS settings of its own, before one nginx."""
    directory = tmp_path_factory.mktemp("secure")
    (directory / "stranger").mkdir()
    authority, stranger = Certificates(directory), Certificates(directory / "stranger")
    certificate, key = authority.issue("alice.test")
    trusting = {"ca": authority.ca, "server_name": NAME}
    settings = {
        "trusting": trusting,
        "shown": {**trusting, "certificate": certificate, "key": key},
        "careless": {"verify": False, "server_name": NAME},
        "wrong-ca": {"ca": stranger.ca, "server_name": NAME},
        "no-ca": {"server_name": NAME},
        "wrong-name": {"ca": authority.ca, "server_name": "outside.test"},
        "no-name": {"ca": authority.ca},
    }
    with SecureNginx(directory / "nginx", authority) as nginx:
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {name: {"targets": [{"url": nginx.url}], "tls": tls} for name, tls in settings.items()},
            "routes": [{"name": name, "hosts": [f"{name}.test"], "upstream": name} for name in settings],
        }
        with Gateway(config, directory) as gateway:
            yield gateway


def ask(gateway: Gateway, host: str) -> httpx.Response:
    return httpx.get(gateway.url(), headers={"Host": f"{host}.test"}, trust_env=False)


@pytest.mark.landing
@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("trusting", f"{NAME} NONE "),
        ("shown", f"{NAME} SUCCESS CN=issued"),
        ("careless", f"{NAME} NONE "),
    ],
)
def test_nginx_sees_the_name_and_the_certificate(secure: Gateway, host: str, told: str) -> None:
    """SNI is `server_name`; the client certificate is shown by that upstream alone."""
    for _ in range(3):  # one of them on a new connection, the others on that same one
        assert ask(secure, host).text == told


@pytest.mark.landing
@pytest.mark.parametrize("host", ["wrong-ca", "no-ca", "wrong-name", "no-name"])
def test_an_nginx_that_cannot_prove_who_it_is(secure: Gateway, host: str) -> None:
    """A clear 502 to the client, and the reason in the gateway's own words on stderr."""
    with secure.connect() as client:
        assert_fault(client.exchange(f"GET / HTTP/1.1\r\nHost: {host}.test\r\n\r\n".encode()), "tls_failed")
    assert secure.wait_for_record(host=f"{host}.test")["fault"] == "tls_failed"
    secure.stderr.wait_for(lambda line: b"tls_failed" in line and b"certificate" in line)


@pytest.mark.landing
def test_a_client_certificate_that_is_demanded(tmp_path: Path) -> None:
    """Without one the handshake fails after the gateway's part of it (TLS 1.3): still a clear 502."""
    authority = Certificates(tmp_path)
    with Origin(tls=server_tls(authority.issue("127.0.0.1"), clients=authority.ca)) as origin:
        upstreams = {"strict": {"targets": [{"url": origin.serve().url}], "tls": {"ca": authority.ca}}}
        with Gateway({**fronting(main="strict"), "upstreams": upstreams}, tmp_path) as gateway:
            with gateway.connect() as client:
                response = client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert_fault(response, "tls_failed", "connection_lost")


def test_large_bodies_through_tls(tmp_path: Path) -> None:
    """30 MB each way between a plain client and an https service, byte by byte the same."""
    authority = Certificates(tmp_path)
    certificate, key = authority.issue(NAME)
    body = bytes(range(256)) * 40_000 * 3
    server = f"""
        ssl_certificate {certificate}; ssl_certificate_key {key};
        root {tmp_path}/nginx/www; location /put/ {{ dav_methods PUT; create_full_put_path on; }}
    """
    tls = {"ca": authority.ca, "server_name": NAME}
    with contextlib.ExitStack() as stack:
        nginx = stack.enter_context(Nginx(tmp_path / "nginx", server))
        upstreams = {"secure": {"targets": [{"url": f"https://{nginx.address}"}], "tls": tls}}
        gateway = stack.enter_context(Gateway({**fronting(main="secure"), "upstreams": upstreams}, tmp_path))
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=2 * DEADLINE))
        assert client.put(f"{gateway.url()}/put/large", content=body).status_code == 201
        assert client.get(f"{gateway.url()}/put/large").content == body


@pytest.mark.landing
@pytest.mark.parametrize("base", ["", ":/base"])
def test_a_unix_socket(tmp_path: Path, base: str) -> None:
    """`unix:/path` and `unix:/path:/base`: nginx on a socket of the file system."""
    address = f"unix:{tmp_path}/nginx.sock"
    telling = 'location / { return 200 "$request_uri $http_host"; }'
    with Nginx(tmp_path / "nginx", telling, address), Gateway(fronting(main=address + base), tmp_path) as gateway:
        path, _, host = httpx.get(f"{gateway.url()}/x?y", trust_env=False).text.partition(" ")
    assert path == base.removeprefix(":") + "/x?y"
    assert host


@pytest.mark.parametrize("address", sorted({found[4][0] for found in socket.getaddrinfo("localhost", 80)}))
def test_a_name_with_addresses_of_which_one_answers(tmp_path: Path, address: str) -> None:
    """`localhost` may be ::1 and 127.0.0.1: where only one of them listens, that one is found."""
    with Origin((address, 0)) as origin:
        url = f"http://localhost:{origin.serve().port}"
        with Gateway(fronting(main=url), tmp_path) as gateway:
            answers = [httpx.get(gateway.url(), trust_env=False) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 6
        assert len(origin.requests) == 6


@pytest.mark.landing
@pytest.mark.parametrize(
    ("url", "faults"),
    [
        ("http://nobody.invalid:80", ["dns_failed"]),
        ("http://127.0.0.1:{closed}", ["connect_refused"]),
        ("https://127.0.0.1:{closed}", ["connect_refused"]),
        ("unix:{directory}/nobody.sock", ["connect_refused", "upstream_unreachable"]),
    ],
)
def test_a_service_that_is_not_there(tmp_path: Path, url: str, faults: list[str]) -> None:
    """A clear 502 at once, to every request, and a gateway that goes on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = url.format(closed=closed.getsockname()[1], directory=tmp_path)
        with Gateway(fronting(main=url), tmp_path) as gateway, gateway.connect() as client:
            for _ in range(3):
                assert_fault(client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), *faults)
