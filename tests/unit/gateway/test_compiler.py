"""What a configuration becomes: paths to send, shared upstreams, own answers, trust."""

from pathlib import Path
from typing import Any

import pytest

from fastgw.config import ConfigError
from fastgw.config.base.value_types import parse_network
from fastgw.config.settings.gateway import AccessLog, Config, FilterUse
from fastgw.downstream.trusted_proxies import trust
from fastgw.filters.api import Filter, Phase
from fastgw.filters.policies.auth import Auth
from fastgw.filters.policies.key_auth import KeyAuth
from fastgw.gateway.compiler import rest_of
from fastgw.gateway.tables import CompileError
from tests.support.certificates import Certificates
from tests.support.memory import Plane
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"


def sent(target: str, route: dict[str, object], url: str = "http://127.0.0.1:9") -> str:
    """The request target that the upstream gets."""
    plane = Plane(
        {"upstreams": {"u": {"targets": [{"url": url}]}}, "routes": [{"name": "r", "upstream": "u", **route}]}
    )
    plane.client().sends(b"GET " + target.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    return plane.connects().received.split(b" ")[1].decode()


@for_each(
    ("target", "route", "url", "expected"),
    [
        ("/a?b=1", {}, "http://h:1", "/a?b=1"),
        ("/a?", {}, "http://h:1", "/a?"),
        ("/a", {}, "http://h:1/base", "/base/a"),
        ("/a/../b", {}, "http://h:1", "/b"),
        ("/%61", {}, "http://h:1", "/a"),
        ("/a%2Fb", {}, "http://h:1", "/a%2Fb"),
        ("/%61", {"path": {"forward": "raw"}}, "http://h:1", "/%61"),
        ("/api/x?q", {"strip_prefix": "/api"}, "http://h:1", "/x?q"),
        ("/api", {"strip_prefix": "/api"}, "http://h:1", "/"),
        ("/api/", {"strip_prefix": "/api"}, "http://h:1/v2", "/v2/"),
        ("/apix", {"strip_prefix": "/api"}, "http://h:1", "/apix"),
        ("/api%2Fx", {"strip_prefix": "/api"}, "http://h:1", "/api%2Fx"),
        ("/other", {"strip_prefix": "/api"}, "http://h:1", "/other"),
        ("/users/7?x", {"paths": ["/users/{id}"], "rewrite": "/people/{id}"}, "http://h:1/v1", "/v1/people/7?x"),
        ("/f/a/b", {"paths": ["/f/{rest:path}"], "rewrite": "/g/{rest}"}, "http://h:1", "/g/a/b"),
    ],
)
def test_the_path_that_is_sent(target: str, route: dict[str, object], url: str, expected: str) -> None:
    assert sent(target, route, url) == expected


class Holding(Filter, name="holding", phase=Phase.TRANSFORM):
    """A filter of one's own that has another within it, which no annotation tells."""

    inner: tuple[tuple[str, Any], ...]


def test_logs_mask_what_filters_within_others_take_for_a_secret() -> None:
    key = KeyAuth(key_names=("x-key", "api"))
    within = FilterUse(name="key_auth", type="key_auth", settings=key)
    for settings in (key, Auth(any_of=(within,)), Holding(inner=(("first", key),))):
        use = FilterUse(name="it", type="it", settings=settings)
        held = Config(version=1, listeners={}, filters={"it": use}, access_logs=(AccessLog(sink="stdout"),))
        assert rest_of(held).access_logs[0].redact == ("api", "x-key")


def test_routes_to_one_url_share_its_upstream() -> None:
    """And so its connections; a route to another has its own."""
    plane = Plane(
        {
            "routes": [
                {"name": "a", "paths": ["/a"], "upstream": "http://127.0.0.1:1"},
                {"name": "b", "paths": ["/b"], "upstream": "http://127.0.0.1:1"},
                {"name": "c", "paths": ["/c"], "upstream": "http://127.0.0.1:2"},
            ]
        }
    )
    assert sorted(plane.gateway.upstreams) == ["http://127.0.0.1:1", "http://127.0.0.1:2", "u"]


def test_listeners_have_their_own_routes_and_filters() -> None:
    plane = Plane(
        {
            "listeners": {
                "outer": {"address": "127.0.0.1:0", "filters": {"request_id": {}}},
                "inner": {"address": "127.0.0.1:0"},
            },
            "routes": [
                {"name": "both", "upstream": "u"},
                {"name": "only", "paths": ["/x"], "listeners": ["inner"], "upstream": "u"},
            ],
        }
    )
    outer, inner = plane.gateway.listeners
    assert [link.use.name for link in outer.early.links] == ["request_id"]
    assert inner.early.links == ()
    found = []
    for plane.listener in (outer, inner):
        client = plane.client()
        client.sends(b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n")
        found.append(client.protocol.exchange.route.name)
    assert found == ["both", "only"]


@for_each(
    ("route", "head", "body"),
    [
        ({"respond": {}}, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", b""),
        ({"respond": {"status": 204}}, b"HTTP/1.1 204 No Content\r\nDate", b""),
        (
            {"respond": {"body": "h\u00e9", "headers": {"X-A": "1"}}},
            b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n",
            "h\u00e9".encode(),
        ),
        (
            {"respond": {"body": "{}", "headers": {"content-type": "application/json"}}},
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 2\r\n",
            b"{}",
        ),
        (
            {"paths": ["/old/{id}"], "redirect": {"to": "/new/{id}"}},
            b"HTTP/1.1 308 Permanent Redirect\r\nLocation: /new/7\r\nContent-Length: 0\r\n",
            b"",
        ),
    ],
)
@for_each("method", [b"GET", b"HEAD"])
def test_own_answers(route: dict[str, object], head: bytes, body: bytes, method: bytes) -> None:
    plane = Plane({"routes": [{"name": "own", **route}]})
    client = plane.client()
    client.sends(method + b" /old/7 HTTP/1.1\r\n" + HOST + b"\r\n")
    assert client.received.startswith(head)
    assert client.received.partition(b"\r\n\r\n")[2] == (b"" if method == b"HEAD" else body)
    plane.assert_quiet()


def test_a_key_of_another_certificate_is_told_with_its_place(tmp_path: Path) -> None:
    authority = Certificates(tmp_path)
    certificate, _ = authority.issue("one.test")
    _, key = authority.issue("two.test")
    tls = {"certificate": str(certificate), "key": str(key)}
    with pytest.raises((CompileError, ConfigError), match=r"upstreams\.u\.tls"):
        Plane({"upstreams": {"u": {"targets": [{"url": "https://h"}], "tls": tls}}})


@pytest.mark.parametrize(
    ("ip", "trusted"),
    [("10.1.2.3", True), ("11.0.0.1", False), ("fd00::1", True), ("2001:db8::1", False), ("unix:", False), ("", False)],
)
def test_whom_a_listener_trusts(ip: str, trusted: bool) -> None:
    trusts = trust([parse_network("10.0.0.0/8"), parse_network("fd00::/8")])
    assert trusts(ip) is trusts(ip) is trusted
    assert trust([])(ip) is False
