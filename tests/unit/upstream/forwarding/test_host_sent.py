"""Which Host each attempt sends."""

from __future__ import annotations

from typing import Any

from fastgw.config.base.value_types import parse_url
from fastgw.upstream.targets.target import Target
from tests.support.memory import Plane, Wire
from tests.support.table import for_each


def plane(*urls: str, **route: Any) -> Plane:
    return Plane(
        {
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"u": {"targets": list(urls), "protocol": "http1"}},
            "routes": [{"name": "all", "upstream": "u", **route}],
        }
    )


def hosts(upstream: Wire) -> list[bytes]:
    lines = upstream.received.split(b"\r\n")
    return [line.removeprefix(b"Host: ") for line in lines if line.startswith(b"Host:")]


@for_each(
    "url, server_name, sent",
    [
        ("http://a.example:8080", None, None),
        ("http://10.0.0.5", None, None),
        ("unix:/run/a.sock", None, None),
        ("https://a.example", None, b"a.example"),
        ("https://a.example:8443", None, b"a.example:8443"),
        ("https://a.example", "b.example", None),
        ("https://10.0.0.5", None, None),
        ("https://[::1]:8443", None, None),
        ("https://10.0.0.5", "b.example", None),
    ],
)
def test_the_default_is_the_clients_but_for_a_name_behind_tls(url: str, server_name: str | None, sent: bytes) -> None:
    target = Target(parse_url(url), "auto", server_name=server_name)
    assert target.host_header == sent
    assert target.host_for("preserve") is None
    assert target.host_for("target") == target.authority
    assert target.host_for("b.example:1") == b"b.example:1"


def test_each_attempt_has_the_host_of_its_target() -> None:
    """A retry of a request that was to go to a target by name goes to one by address, and the reverse."""
    made = plane("https://a.example", "https://10.0.0.5")
    found = set()
    for _ in range(2):
        client = made.client()
        client.sends(b"GET /x HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        made.cannot_connect()
        made.passes(1)
        target = made.pool.waiting[0][1]
        upstream = made.connects()
        assert hosts(upstream) == [target.host_header or b"shop.example"]
        found |= {*hosts(upstream)}
        upstream.sends(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        assert client.received.endswith(b"ok")
    assert found == {b"a.example", b"shop.example"}


@for_each(
    "route",
    [
        {},
        {"host_header": "preserve"},
        {"filters": {"headers": {"request": {"set": {"X-A": "{path}"}}}}},
        {"filters": {"cache": {}}},
        {"upstream": None, "compose": {"parts": [{"name": "a", "upstream": "u", "path": "/a"}]}},
    ],
)
def test_a_request_without_host_has_that_of_the_target(route: dict[str, Any]) -> None:
    """HTTP/1.0 allows it (RFC 9112 section 3.2); by a new connection, and by one that is idle."""
    made = plane("http://10.0.0.5:9000", **route)
    client, upstream = made.client(), None
    for _ in range(2):
        client.sends(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        upstream = made.connects() if upstream is None else upstream
        upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    assert upstream is not None
    assert hosts(upstream) == [b"10.0.0.5:9000", b"10.0.0.5:9000"]
    assert client.received.count(b" 200 OK\r\n") == 2
