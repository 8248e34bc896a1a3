"""Error pages: which page answers which fault and client, and what is never replaced."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.client import Client, Response
from tests.support.gateway import Gateway
from tests.support.http2.translation import TranslatedClient
from tests.support.origin import OK, Origin

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
JSON = '{"code": {status}, "message": "{detail}", "id": "{request_id}"}'


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as made:
        made.answer(OK.replace(b"200 OK", b"500 Internal Server Error"))
        yield made.serve()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "pages").mkdir()
    (folder / "pages" / "404.html").write_text("<style>b{color: red}</style><b>{status} {title}</b> {detail}")
    down = "http://127.0.0.1:1"
    settings = {
        "workers": 1,
        "listeners": {
            "main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]},
            "api": {"address": "127.0.0.1:0", "error_pages": {"4xx": {"json": JSON}}},
        },
        "error_pages": {
            "404": {"file": "pages/404.html"},
            "5xx": {"html": "<h1>{status} {fault}</h1>"},
            "4xx": {"html": "<h1>class</h1>"},
        },
        "filters": {"request_id": {}},
        "routes": [
            {"name": "limited", "paths": ["/limited"], "respond": {}, "filters": {"basic_auth": {"realm": "r"}}},
            {"name": "down", "paths": ["/down", "/pkg.Service/Call"], "upstream": down},
            {"name": "nearer", "paths": ["/nearer"], "upstream": down,
             "error_pages": {"5xx": {"html": "<b>nearer</b>", "json": '{"nearer": true}'}}},
            {"name": "own", "paths": ["/own"], "respond": {"status": 404, "body": "mine"}},
            {"name": "upstream", "paths": ["/upstream"], "upstream": origin.url},
            {"name": "get", "paths": ["/get"], "methods": ["GET"], "respond": {}},
        ],
    }  # fmt: skip
    with Gateway(settings, folder) as running:
        yield running


Ask = Callable[..., Response]


@pytest.fixture(params=["http1", "http2"])
def ask(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Ask]:
    clients: list[Client] = []

    def exchange(path: str, *lines: str, method: str = "GET", listener: str = "main") -> Response:
        is_http2 = request.param == "http2" and listener == "main"
        client = TranslatedClient(gateway.address(listener)) if is_http2 else gateway.connect(listener)
        clients.append(client)
        text = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a.test", *lines, "", ""])
        return client.exchange(text.encode("latin-1"), method.encode())

    yield exchange
    for client in clients:
        client.close()


def test_browsers_get_html_and_others_the_problem(ask: Ask) -> None:
    page = ask("/none", BROWSER)
    assert (page.status, page.get(b"content-type")) == (404, b"text/html; charset=utf-8")
    assert page.body == b"<style>b{color: red}</style><b>404 Route not found</b> No route matches this request."
    assert page.get(b"vary") == b"Accept"
    assert page.get(b"proxy-status") == b"fastgw; error=destination_not_found"
    for lines in ([], ["Accept: */*"], ["Accept: application/json, text/html;q=0.5"], ["Accept: text/html;q=0"]):
        problem = ask("/none", *lines)
        assert (problem.status, problem.get(b"content-type")) == (404, b"application/problem+json")
        assert problem.get(b"vary") == b"Accept"
        assert json.loads(problem.body)["type"] == "urn:fastgw:fault:route_not_found"


def test_the_nearest_level_wins_and_a_status_before_its_class(ask: Ask) -> None:
    assert ask("/get", BROWSER, "Content-Length: 0", method="POST").body == b"<h1>class</h1>"
    assert ask("/down", BROWSER).body == b"<h1>502 connect_refused</h1>"
    assert ask("/nearer", BROWSER).body == b"<b>nearer</b>"
    assert json.loads(ask("/nearer").body) == {"nearer": True}
    assert ask("/none", BROWSER, listener="api").get(b"content-type") == b"application/json"


def test_headers_of_the_fault_stay(ask: Ask) -> None:
    refused = ask("/limited", BROWSER)
    assert (refused.status, refused.body) == (401, b"<h1>class</h1>")
    assert (refused.get(b"www-authenticate") or b"").startswith(b"Basic")
    assert ask("/get", BROWSER, "Content-Length: 0", method="POST").get(b"allow") == b"GET, HEAD"


def test_a_head_gets_the_length_of_the_page(ask: Ask) -> None:
    page = ask("/none", BROWSER)
    head = ask("/none", BROWSER, method="HEAD")
    assert (head.status, head.body) == (404, b"")
    assert head.get(b"content-length") == b"%d" % len(page.body)


def test_values_of_the_client_are_escaped(ask: Ask) -> None:
    response = ask("/none", 'X-Request-Id: a"b', listener="api")
    document = json.loads(response.body)
    assert document["code"] == 404
    assert set(document) == {"code", "message", "id"}


def test_what_is_no_fault_of_the_gateway_is_not_replaced(ask: Ask) -> None:
    assert ask("/own", BROWSER).body == b"mine"
    response = ask("/upstream", BROWSER)
    assert response.status == 500
    assert b"<h1>" not in response.body


def test_an_upgrade_and_a_call_of_grpc_get_no_page(ask: Ask, gateway: Gateway) -> None:
    with gateway.connect() as client:
        lines = f"GET /down HTTP/1.1\r\nHost: a.test\r\n{BROWSER}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        lines += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        assert client.exchange(lines.encode()).get(b"content-type") == b"application/problem+json"
    lines = ("Content-Type: application/grpc", "TE: trailers", "Content-Length: 0", BROWSER)
    assert b"<h1>" not in ask("/pkg.Service/Call", *lines, method="POST").body


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("POST", "/down", ["Content-Type: application/grpc-web+proto"]),
        ("POST", "/none", ["Content-Type: application/grpc-web-text"]),
        ("POST", "/down", ["Content-Type: application/connect+json"]),
        ("POST", "/down", ["Content-Type: application/json", "Connect-Protocol-Version: 1"]),
        ("GET", "/down?connect=v1&encoding=json&message=%7B%7D", []),
    ],
    ids=["grpc-web", "grpc-web-text", "connect stream", "connect unary", "connect get"],
)
def test_a_call_of_grpc_web_or_connect_gets_no_page(ask: Ask, method: str, path: str, fields: list[str]) -> None:
    """Also where the route has neither filter: the client is a library, which knows the status."""
    length = ["Content-Length: 0"] if method == "POST" else []
    response = ask(path, *fields, *length, BROWSER, method=method)
    assert response.get(b"content-type") == b"application/problem+json"
    assert json.loads(response.body)["status"] == response.status
    plain = ask(path.partition("?")[0], *length, BROWSER, method=method)
    assert plain.get(b"content-type") == b"text/html; charset=utf-8"


def test_without_pages_of_their_own_browsers_get_a_plain_one(tmp_path: Path, origin: Origin) -> None:
    """Whatever the version and the way of the fault. What caches may store by itself says what it depends on."""
    schema = {"type": "object", "required": ["a"]}
    routes = [
        {"name": "down", "paths": ["/down"], "upstream": "http://127.0.0.1:1"},
        {"name": "body", "paths": ["/body"], "upstream": origin.url,
         "filters": {"validate": {"body": {"inline": schema}}}},
        {"name": "get", "paths": ["/get"], "methods": ["GET"], "respond": {}},
        {"name": "own", "paths": ["/own"], "respond": {"status": 404, "body": "mine"}},
    ]  # fmt: skip
    listener = {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}
    settings = {"workers": 1, "listeners": {"main": listener}, "filters": {"request_id": {}}, "routes": routes}
    post = "POST %s HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\nContent-Length: 2\r\n%s\r\n{}"
    rows = [
        ("GET %s HTTP/1.1\r\nHost: a.test\r\n%s\r\n", "/none", 404, "Route not found", True),
        ("GET %s HTTP/1.1\r\nHost: a.test\r\n%s\r\n", "/down", 502, "Connect refused", False),
        (post, "/get", 405, "Method not allowed", True),
        (post, "/body", 400, "Validation failed", False),
    ]
    with Gateway(settings, tmp_path) as gateway:
        for client in (gateway.connect(), TranslatedClient(gateway.address())):
            with client:
                for request, path, status, title, is_stored in rows:
                    message = (request % (path, f"{BROWSER}\r\n")).encode()
                    page = client.exchange(message, message.split()[0])
                    assert (page.status, page.get(b"content-type")) == (status, b"text/html; charset=utf-8")
                    assert f"<h1>{status} {title}</h1>".encode() in page.body
                    assert b"<code>%b</code>" % (page.get(b"x-request-id") or b"?") in page.body
                    assert b"//" not in page.body  # no other resource
                    policy = b"default-src 'none'; style-src 'unsafe-inline'"
                    assert (page.get(b"vary"), page.get(b"content-security-policy")) == (b"Accept", policy)
                    for accept in ("", "Accept: application/json, text/html;q=0.5\r\n", "Accept: text/plain, */*\r\n"):
                        message = (request % (path, accept)).encode()
                        problem = client.exchange(message, message.split()[0])
                        kind, vary = problem.get(b"content-type"), problem.get(b"vary")
                        assert (problem.status, kind) == (status, b"application/problem+json")
                        assert vary == (b"Accept" if is_stored else None)
                        assert problem.get(b"content-security-policy") is None
                        assert json.loads(problem.body)["title"] == title
                own = client.exchange(f"GET /own HTTP/1.1\r\nHost: a.test\r\n{BROWSER}\r\n\r\n".encode(), b"GET")
                assert (own.body, own.get(b"vary")) == (b"mine", None)


def test_what_is_no_http_gets_the_page_of_the_listener(gateway: Gateway) -> None:
    with gateway.connect("api") as client:
        response = client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (response.status, json.loads(response.body)["code"]) == (400, 400)
