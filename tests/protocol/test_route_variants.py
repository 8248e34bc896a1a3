"""Variants of a route, prefixes that are replaced, `Host` of a route, and redirects by parts of the URL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import Client, Response
from tests.support.gateway import Gateway
from tests.support.origin import Origin


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin.serve()


def routes(url: str) -> list[dict[str, Any]]:
    sent = {"upstream": url}
    return [
        {"name": "replaced", "paths": ["/old/*"], "strip_prefix": "/old", "add_prefix": "/new", **sent},
        {"name": "added", "paths": ["/plain/*"], "add_prefix": "/base/", **sent},
        {"name": "slash", "paths": ["/cut/*"], "strip_prefix": "/cut", "add_prefix": "/", **sent},
        {"name": "ended", "paths": ["/end/*"], "strip_prefix": "/end", "add_prefix": "/to/", **sent},
        {"name": "host", "paths": ["/host"], "host_header": "one.example.org", **sent},
        {"name": "target's host", "paths": ["/target"], "host_header": "target", **sent},
        {
            "name": "parts",
            "paths": ["/parts/*"],
            "variants": [
                {**sent, "weight": 0},
                {**sent, "strip_prefix": "/parts", "add_prefix": "/x", "host_header": "b.example", "use": ["marked"]},
            ],
            "split": {"by": "request"},
        },
        {"name": "broken", "paths": ["/broken"], "variants": [{"respond": {"status": 500}}]},
        {
            "name": "moved",
            "paths": ["/moved/*"],
            "variants": [{"redirect": {"status": 302, "strip_prefix": "/moved", "add_prefix": "/here"}}],
        },
        {
            "name": "by header",
            "paths": ["/chosen"],
            "variants": [{"respond": {"body": "a"}}, {"upstream": "named", "weight": 0}],
            "split": {"canaries": [{"upstream": "named", "headers": {"x-canary": "1"}}]},
        },
        {"name": "scheme", "paths": ["/scheme/*"], "redirect": {"status": 301, "scheme": "https"}},
        {"name": "port", "paths": ["/port"], "redirect": {"status": 302, "port": 8083}},
        {"name": "default port", "paths": ["/default"], "redirect": {"status": 302, "scheme": "http", "port": 80}},
        {"name": "name", "paths": ["/name"], "redirect": {"status": 303, "host": "example.org"}},
        {"name": "whole", "paths": ["/whole/*"], "redirect": {"host": "example.org", "path": "/all", "status": 307}},
    ]


@pytest.fixture(scope="module")
def gateway(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "filter_sets": {"marked": {"mark": {"type": "headers", "request": {"set": {"X-Variant": "b"}}}}},
        "upstreams": {"named": {"targets": [origin.url]}},
        "routes": routes(origin.url),
    }
    with Gateway(config, tmp_path_factory.mktemp("variants")) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with gateway.connect() as client:
        yield client


def ask(client: Client, target: str, host: str = "a.test", fields: str = "") -> Response:
    return client.exchange(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())


def seen(origin: Origin, client: Client, target: str, fields: str = "") -> tuple[bytes, bytes | None, bytes | None]:
    """Return the target, `Host` and `X-Variant` that the upstream gets."""
    assert ask(client, target, fields=fields).status == 200
    request = origin.requests[-1]
    hosts, marks = request.head.get_all(b"host"), request.head.get_all(b"x-variant")
    return request.request_target, hosts[0], marks[0] if marks else None


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/old", b"/new"),
        ("/old/", b"/new/"),
        ("/old/x?a=1", b"/new/x?a=1"),
        ("/plain/x", b"/base/plain/x"),
        ("/cut", b"/"),
        ("/cut/x", b"/x"),
        ("/end", b"/to/"),
        ("/end/x", b"/to/x"),
    ],
)
def test_a_prefix_is_replaced(origin: Origin, client: Client, target: str, sent: bytes) -> None:
    """As `ReplacePrefixMatch` of the Gateway API: by whole segments, without a doubled slash."""
    assert seen(origin, client, target)[0] == sent


def test_a_route_names_the_host_that_is_sent(origin: Origin, client: Client) -> None:
    assert seen(origin, client, "/host")[1] == b"one.example.org"
    assert seen(origin, client, "/target")[1] == origin.authority.encode()
    assert seen(origin, client, "/old/x")[1] == b"a.test"


def test_a_variant_has_its_own_path_host_and_filters(origin: Origin, client: Client) -> None:
    assert seen(origin, client, "/parts/1") == (b"/x/1", b"b.example", b"b")


def test_a_variant_may_be_a_response_or_a_redirect(client: Client) -> None:
    assert ask(client, "/broken").status == 500
    moved = ask(client, "/moved/1?q=2")
    assert (moved.status, moved.head.get_all(b"location")) == (302, [b"http://a.test/here/1?q=2"])


def test_a_canary_selects_a_variant_without_weight(origin: Origin, client: Client) -> None:
    assert ask(client, "/chosen").body == b"a"
    assert ask(client, "/chosen", fields="X-Canary: 1\r\n").body == b"ok"


@pytest.mark.parametrize(
    ("target", "host", "status", "location"),
    [
        ("/scheme/a?b=c", "a.test:8080", 301, b"https://a.test/scheme/a?b=c"),
        ("/port", "a.test", 302, b"http://a.test:8083/port"),
        ("/port", "[::1]:99", 302, b"http://[::1]:8083/port"),
        ("/default", "a.test:8080", 302, b"http://a.test/default"),
        ("/name", "a.test:8080", 303, b"http://example.org:8080/name"),
        ("/whole/x", "a.test:80", 307, b"http://example.org/all"),
        ("/scheme//evil.example/", "a.test", 301, b"https://a.test/scheme//evil.example/"),
    ],
)
def test_redirects_by_parts(client: Client, target: str, host: str, status: int, location: bytes) -> None:
    """Parts that are left out are those of the request; default ports are not written."""
    answer = ask(client, target, host)
    assert (answer.status, answer.head.get_all(b"location")) == (status, [location])
