"""A real nginx behind the gateway, which merges slashes and decodes `%2F`: no spelling leads past a path's route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.programs import Nginx
from tests.support.client import Client, Response
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.table import for_each

LOCATIONS = (
    'location /admin { return 200 "admin"; } location /users { return 200 "users"; } location / { return 200 "o"; }'
)
KEY = "for-admins-0123456789"


def configuration(url: str) -> dict[str, Any]:
    guarded = {"upstream": url, "filters": {"key_auth": {}}}
    routes = [
        {"name": "admin", "paths": ["/admin/*"], **guarded},
        {"name": "user", "paths": ["/users/{id}"], **guarded},
        {"name": "scopes", "paths": ["/npm/*"], "upstream": url},
        {"name": "open", "paths": ["/*"], "upstream": url},
        {"name": "raw", "hosts": ["raw.test"], "paths": ["/*"], "upstream": url, "path": {"forward": "raw"}},
        {"name": "guarded raw", "hosts": ["raw.test"], "paths": ["/admin/*"], **guarded, "path": {"forward": "raw"}},
    ]
    return {
        "workers": 1,
        "listeners": {
            "main": {"address": "127.0.0.1:0"},
            "lax": {"address": "127.0.0.1:0", "ambiguous_paths": "allow"},
        },
        "consumers": [{"name": "operator", "key_auth": [{"key": KEY}]}],
        "routes": routes,
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("paths")
    with Nginx(directory, LOCATIONS) as nginx, Gateway(configuration(nginx.url), directory) as gateway:
        yield gateway


def ask(gateway: Gateway, target: str, host: str = "a.test", fields: str = "", listener: str = "main") -> Response:
    client: Client
    with gateway.connect(listener) as client:
        return client.exchange(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode(), b"GET")


BYPASSES = {
    "//admin": "admin",
    "/admin%2fsecret": "admin",
    "/public/..//admin": "admin",
    "//users/7": "users",
    "/users//7": "users",
    "/users%2F7": "users",
    "/%2Fadmin": "admin",
    "///admin//secret": "admin",
}


@pytest.mark.parametrize(("target", "reached"), BYPASSES.items())
@pytest.mark.parametrize("fields", ["", "Connection: close\r\n"])
def test_a_path_that_nginx_reads_as_that_of_a_guarded_route_is_refused(
    gateway: Gateway, target: str, reached: str, fields: str
) -> None:
    """RFC 3986 section 6.2.2: empty segments and `%2F` are data, but not for every server."""
    assert_fault(ask(gateway, target, fields=fields), "ambiguous_path")
    assert ask(gateway, target, listener="lax").body.decode() == reached  # nginx does read it so


@pytest.mark.landing
@for_each("target", ["/admin%5Cx", "/admin%252Fx", "/%2561dmin", "/admin%0A", "/adm%09in"])
def test_a_name_that_other_servers_read_as_that_of_a_guarded_route_passes_where_it_is_sent_raw(
    gateway: Gateway, target: str
) -> None:
    assert_fault(ask(gateway, target), "ambiguous_path")
    for host, listener in (("raw.test", "main"), ("a.test", "lax")):
        assert ask(gateway, target, host, listener=listener).status == 200


@pytest.mark.landing
@pytest.mark.parametrize("target", ["//admin", "/admin%2fsecret", "/public/..//admin", "/x//../admin", "/%2f/admin"])
def test_neither_gets_a_raw_path_past_it(gateway: Gateway, target: str) -> None:
    response = ask(gateway, target, "raw.test")
    assert response.status == 400, response
    assert_fault(response, "ambiguous_path", "bad_request")


@pytest.mark.parametrize("target", ["/admin/secret", "/admin//secret", "/admin/a%2Fb"])
def test_whoever_has_the_key_may_spell_what_is_below_as_they_like(gateway: Gateway, target: str) -> None:
    assert ask(gateway, target).status == 401
    assert ask(gateway, target, fields=f"X-API-Key: {KEY}\r\n").body == b"admin"


@pytest.mark.landing
@pytest.mark.parametrize("target", ["/npm/@scope%2Fname", "/files//a", "/files/a%2fb//c/", "/a;v=1/b", "/npm//a%2F"])
@for_each("name", ["", "/feature%252Fx", "/v1%252E2", "/CORP%5Cuser", "/a%0Ab", "/a%09b%7F"])
def test_what_all_readings_leave_at_its_route_passes(gateway: Gateway, target: str, name: str) -> None:
    assert ask(gateway, target + name).body == b"o"
    assert ask(gateway, target + name, "raw.test").body == b"o"
