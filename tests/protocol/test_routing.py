"""Which route a request finds: every rule of the contract's "Match order", by answers that name the route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import Client, Response
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway


def named(name: str, **conditions: Any) -> dict[str, Any]:
    return {"name": name, "respond": {"status": 200, "body": name}, **conditions}


ROUTES = [
    # hosts: exact > longest wildcard > any
    named("any host", paths=["/host"]),
    named("wildcard", hosts=["*.example.org"], paths=["/host"]),
    named("long wildcard", hosts=["*.eu.example.org"], paths=["/host"]),
    named("exact host", hosts=["api.example.org"], paths=["/host"]),
    named("v6", hosts=["[::1]"], paths=["/host"]),
    # paths: exact > parameters > longest prefix > regular expressions in file order
    named("regex 1", paths=["~^/p/[a-z]+$"]),
    named("regex 2", paths=["~^/p/.*"]),
    named("prefix", paths=["/p/files/*"]),
    named("long prefix", paths=["/p/files/deep/*"]),
    named("parameter", paths=["/p/files/{id}"]),
    named("parameters", paths=["/p/{a}/x/{b}"]),
    named("exact", paths=["/p/files/one"]),
    named("rest", paths=["/p/rest/{rest:path}"]),
    # methods
    named("reads", paths=["/m"], methods=["GET"]),
    named("writes", paths=["/m"], methods=["POST", "PUT"]),
    # header and query conditions: most first, then file order
    named("plain", paths=["/c"]),
    named("header", paths=["/c"], headers={"x-version": "2"}),
    named("header and query", paths=["/c"], headers={"x-version": "2"}, query={"debug": "1"}),
    named("query", paths=["/q"], query={"debug": "1"}),
    named("first", paths=["/order"]),
    named("second", paths=["/order"]),
    # trailing slashes
    named("either", paths=["/slash/{id}", "/slash"], trailing_slash="same"),
    {"name": "hop", "paths": ["/hop/{id}/"], "trailing_slash": "same", "redirect": {"status": 302, "to": "/new/{id}"}},
    named("one", paths=["/strict/{id}"]),
    # listeners
    named("inside only", paths=["/inside"], listeners=["inside"]),
    # answers of the gateway's own
    {
        "name": "teapot",
        "paths": ["/respond"],
        "respond": {"status": 418, "body": '{"a": "ü"}', "headers": {"Content-Type": "application/json", "X-A": "b"}},
    },
    {"name": "empty", "paths": ["/empty"], "respond": {"status": 204}},
    {"name": "moved", "paths": ["/moved"], "redirect": {"status": 308, "to": "https://new.example/place"}},
    {"name": "moved too", "paths": ["/old/{id}"], "redirect": {"status": 302, "to": "/new/{id}"}},
    {"name": "moved away", "paths": ["/away/{rest:path}"], "redirect": {"to": "https://new.example/{rest}"}},
]
CONFIG = {
    "workers": 1,
    "listeners": {"main": {"address": "127.0.0.1:0"}, "inside": {"address": "127.0.0.1:0"}},
    "routes": ROUTES,
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(CONFIG, tmp_path_factory.mktemp("routing")) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with gateway.connect() as client:
        yield client


def ask(client: Client, target: str, host: str = "a.test", method: str = "GET", fields: str = "") -> Response:
    request = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"
    return client.exchange(request.encode(), method.encode())


@pytest.mark.parametrize(
    ("host", "route"),
    [
        ("other.test", "any host"),
        ("www.example.org", "wildcard"),
        ("a.b.example.org", "wildcard"),
        ("www.eu.example.org", "long wildcard"),
        ("api.example.org", "exact host"),
        ("API.Example.ORG", "exact host"),
        ("api.example.org:8080", "exact host"),
        ("api.example.org.", "exact host"),
        ("example.org", "any host"),
        ("eu.example.org", "wildcard"),
        ("notexample.org", "any host"),
        ("[::1]:8080", "v6"),
    ],
)
def test_hosts(client: Client, host: str, route: str) -> None:
    """An exact host beats the longest wildcard, which beats any; case and port do not count."""
    assert ask(client, "/host", host).body == route.encode()


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/p/files/one", "exact"),
        ("/p/files/two", "parameter"),
        ("/p/files/two/three", "prefix"),
        ("/p/files/deep/a", "long prefix"),
        ("/p/files/deep/a/b", "long prefix"),
        ("/p/files", "prefix"),
        ("/p/files/", "prefix"),
        ("/p/filesx", "regex 1"),
        ("/p/files2", "regex 2"),
        ("/p/a/x/b", "parameters"),
        ("/p/a/x/b/c", "regex 2"),
        ("/p/rest/a", "rest"),
        ("/p/rest/a/b/c", "rest"),
        ("/p/files/on%65", "exact"),
        ("/p/x/../files/one", "exact"),
    ],
)
def test_paths(client: Client, path: str, route: str) -> None:
    """Exact, then parameters, then the longest prefix by element, then regular expressions in file order."""
    assert ask(client, path).body == route.encode()


@pytest.mark.parametrize(("method", "route"), [("GET", "reads"), ("POST", "writes"), ("PUT", "writes")])
def test_methods(client: Client, method: str, route: str) -> None:
    """A route's methods are a condition; another route may have the others."""
    assert ask(client, "/m", method=method, fields="Content-Length: 0\r\n").body == route.encode()


def test_get_answers_head(client: Client) -> None:
    """RFC 9110 section 9.3.2: HEAD is GET without a body; the length that GET would have had is told."""
    response = ask(client, "/m", method="HEAD")
    assert response.status == 200
    assert response.get(b"Content-Length") == b"5"


def test_another_method_is_405_with_allow(client: Client) -> None:
    """RFC 9110 section 15.5.6: Allow lists what the routes for this path take."""
    response = ask(client, "/m", method="DELETE")
    assert_fault(response, "method_not_allowed")
    allowed = {each.strip() for each in response.get(b"Allow").split(b",")}
    assert {b"GET", b"POST", b"PUT"} <= allowed <= {b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS"}


@pytest.mark.parametrize(
    ("target", "fields", "route"),
    [
        ("/c", "", "plain"),
        ("/c", "X-Version: 1\r\n", "plain"),
        ("/c", "X-VERSION: 2\r\n", "header"),
        ("/c?debug=1", "X-Version: 2\r\n", "header and query"),
        ("/c?a=b&debug=1", "X-Version: 2\r\n", "header and query"),
        ("/c?debug=12", "X-Version: 2\r\n", "header"),
        ("/c?debug=1", "", "plain"),
        ("/q?debug=%31", "", "query"),
        ("/q?debug=0&debug=1", "", "query"),
        ("/q?debug=1&debug=0", "", "query"),
        ("/q?debug=0&%64eb%75g=1", "", "query"),
        ("/c", "X-Version: 1\r\nX-Version: 2\r\n", "header"),
        ("/c", "X-Version: 2\r\nX-Version: 1\r\n", "header"),
        ("/c", "X-Version: 2\r\nX-Version: 2\r\n", "header"),
        ("/c", "X-Version: 1, 2\r\n", "header"),
        ("/c", "X-Version: 1\r\nx-version: 3,2\r\n", "header"),
        ("/c?debug=0&debug=1", "X-Version: 1\r\nX-Version: 2\r\n", "header and query"),
        ("/order", "", "first"),
    ],
)
def test_conditions(client: Client, target: str, fields: str, route: str) -> None:
    """The most header and query conditions win, then file order; one holds if any value of that name satisfies it."""
    assert ask(client, target, fields=fields).body == route.encode()


@pytest.mark.parametrize("path", ["/slash", "/slash/", "/slash/7", "/slash/7/"])
def test_a_trailing_slash_may_be_the_same(client: Client, path: str) -> None:
    """`trailing_slash: same`: for services that make no difference (Express, IIS)."""
    assert ask(client, path).body == b"either"
    assert_fault(ask(client, "/strict/7/"), "route_not_found")
    for same in ("/hop/7", "/hop/7/"):
        assert ask(client, same).get(b"Location") == b"/new/7"


def test_an_unmet_condition_is_404(client: Client) -> None:
    """RFC 9110 section 15.5.5: no route whose conditions hold; the connection serves on."""
    assert_fault(ask(client, "/q"), "route_not_found")
    assert_fault(ask(client, "/nowhere"), "route_not_found")
    assert ask(client, "/host").status == 200


def test_routes_are_bound_to_listeners(gateway: Gateway, client: Client) -> None:
    """A route that names listeners is not there on the others."""
    assert_fault(ask(client, "/inside"), "route_not_found")
    with gateway.connect("inside") as inside:
        assert ask(inside, "/inside").body == b"inside only"
        assert ask(inside, "/host").body == b"any host"


def test_respond(client: Client) -> None:
    """`respond`: status, body in UTF-8 and further fields; a type unless one is named."""
    response = ask(client, "/respond")
    assert response.status == 418
    assert json.loads(response.body) == {"a": "ü"}
    assert response.get(b"Content-Type") == b"application/json"
    assert response.get(b"X-A") == b"b"
    assert b"Date" in response
    assert ask(client, "/host").get(b"Content-Type") == b"text/plain; charset=utf-8"


def test_respond_without_a_body(client: Client) -> None:
    """RFC 9112 section 6.3: a 204 ends with its head, also when the gateway makes it."""
    response = ask(client, "/empty")
    assert response.status == 204
    assert b"Content-Length" not in response
    assert ask(client, "/host").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_respond_reads_the_body_past(client: Client, method: str) -> None:
    """RFC 9112 section 9.3: a body that nobody wants is still not the next request."""
    client.send(
        f"{method} /respond HTTP/1.1\r\nHost: a.test\r\nContent-Length: 24\r\n\r\n".encode()
        + b"GET /x HTTP/1.1\r\nHost: y"
    )
    assert client.read_response().status == 418
    client.send(b"POST /respond HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert client.read_response().status == 418


@pytest.mark.parametrize(
    ("path", "status", "location"),
    [
        ("/moved", 308, b"https://new.example/place"),
        ("/old/7", 302, b"/new/7"),
        ("/old/a%2Fb", 302, b"/new/a%2Fb"),
        ("/away/a/b", 308, b"https://new.example/a/b"),
    ],
)
def test_redirect(client: Client, path: str, status: int, location: bytes) -> None:
    """RFC 9110 section 10.2.2: Location with the route's parameters filled in."""
    response = ask(client, path)
    assert (response.status, response.get(b"Location")) == (status, location)


@pytest.mark.parametrize("path", ["/away//evil.example", "/away/%0d%0aSet-Cookie:a=b", "/old/%0d%0aX:y"])
def test_a_redirect_stays_where_it_leads(client: Client, path: str) -> None:
    """RFC 9110 section 17.11: no parameter adds a line to the head or takes the redirect to another host."""
    response = ask(client, path)
    assert b"Set-Cookie" not in response
    assert b"X" not in response
    location = response.get(b"Location")
    assert location is None or location.startswith((b"https://new.example/", b"/new/"))
