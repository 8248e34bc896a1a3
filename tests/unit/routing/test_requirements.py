"""Conditions of routes beyond equal values: any value counts, in time linear in its length."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config import ConfigError
from fastgw.explain import as_text, explain
from fastgw.gateway.compiler import compile
from fastgw.routing.table import Conditions, Router, at_once, rule_of
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane
from tests.support.table import for_each


def plane(*routes: dict[str, Any]) -> Plane:
    """Routes for any path that answer with their own name; the last one has no conditions."""
    named = [{"name": str(place), "respond": {"body": str(place)}, **each} for place, each in enumerate((*routes, {}))]
    return Plane({"routes": named})


def answer(plane: Plane, target: str = "/", *lines: str, address: str = "10.0.0.1") -> str:
    client = plane.client(address)
    client.sends("\r\n".join([f"GET {target} HTTP/1.1", "Host: a.test", *lines, "", ""]).encode())
    return client.received.rpartition(b"\r\n\r\n")[2].decode()


HEADER = "X-Client"


@for_each(
    ("condition", "lines", "matches"),
    [
        ({"prefix": "ios-"}, ["X-Client: ios-7"], True),
        ({"prefix": "ios-"}, ["X-Client: web, ios-7"], True),
        ({"prefix": "ios-"}, ["X-Client: web", "x-client: ios-7"], True),
        ({"prefix": "ios-"}, ["X-Client: IOS-7"], False),
        ({"prefix": "ios-"}, [], False),
        ({"regex": "^v[0-9]+$"}, ["X-Client: v12"], True),
        ({"regex": "^v[0-9]+$"}, ["X-Client: v1, v2"], True),
        ({"regex": "^v[0-9]+$"}, ["X-Client: v"], False),
        ({"regex": "7"}, ["X-Client: ios-7"], True),
        ({"present": True}, ["X-Client:"], True),
        ({"present": True}, [], False),
        ({"present": False}, [], True),
        ({"present": False}, ["X-Client:"], False),
        ({"exact": "a"}, ["X-Client: a"], True),
        ({"exact": ""}, ["X-Client:"], True),
    ],
)
def test_headers(condition: dict[str, Any], lines: list[str], matches: bool) -> None:
    assert answer(plane({"headers": {HEADER: condition}}), "/", *lines) == ("0" if matches else "1")


def test_a_comma_in_a_header_that_is_no_list_splits_nothing() -> None:
    conditions = plane({"headers": {"User-Agent": {"prefix": "bot"}}})
    assert answer(conditions, "/", "User-Agent: x, bot") == "1"
    assert answer(conditions, "/", "User-Agent: bot/1") == "0"


@pytest.mark.parametrize(
    ("condition", "query", "matches"),
    [
        ({"prefix": "a b"}, "?q=a+bc", True),
        ({"prefix": "a b"}, "?q=x&%71=a%20bc", True),
        ({"regex": "^[0-9]+$"}, "?q=12", True),
        ({"regex": "^[0-9]+$"}, "?q=12x", False),
        ({"present": True}, "?q", True),
        ({"present": True}, "?Q=1", False),
        ({"present": False}, "", True),
        ({"present": False}, "?q=", False),
    ],
)
def test_query(condition: dict[str, Any], query: str, matches: bool) -> None:
    assert answer(plane({"query": {"q": condition}}), f"/{query}") == ("0" if matches else "1")


@pytest.mark.parametrize(
    ("condition", "lines", "matches"),
    [
        ("gold", ["Cookie: a=1; tier=gold"], True),
        ("gold", ["Cookie: tier=silver", "Cookie: tier=gold"], True),
        ("gold", ["Cookie: Tier=gold"], False),
        ({"prefix": "g"}, ["Cookie: tier=gold"], True),
        ({"present": False}, ["Cookie: tiers=gold"], True),
    ],
)
def test_cookies(condition: Any, lines: list[str], matches: bool) -> None:
    assert answer(plane({"cookies": {"tier": condition}}), "/", *lines) == ("0" if matches else "1")


def test_clients_are_known_by_their_address() -> None:
    conditions = plane({"clients": ["10.0.0.0/8", "2001:db8::/32"]})
    assert [answer(conditions, address=each) for each in ("10.1.2.3", "192.0.2.1", "2001:db8::1")] == ["0", "1", "0"]


def test_more_conditions_go_first_and_a_priority_before_everything() -> None:
    more = plane({"headers": {"X-A": {"present": True}}}, {"headers": {"X-A": {"present": True}}, "clients": ["::/0"]})
    assert answer(more, "/", "X-A: 1", address="::1") == "1"
    first = plane({"paths": ["/a"]}, {"priority": 5}, {"priority": 9, "paths": ["/b/*"]}, {"priority": -1})
    assert [answer(first, path) for path in ("/a", "/b/c")] == ["1", "2"]
    last = plane({"priority": -1, "paths": ["/a"]})
    assert answer(last, "/a") == "1"


def test_a_method_is_told_of_routes_of_every_priority() -> None:
    routes = [
        {"name": "a", "paths": ["/a"], "methods": ["PUT"], "priority": 3, "respond": {}},
        {"name": "b", "paths": ["/a"], "methods": ["POST"], "respond": {}},
    ]
    client = Plane({"routes": routes}).client()
    client.sends(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b" 405 " in client.received
    assert b"\r\nAllow: PUT, POST\r\n" in client.received


def test_tables_of_priorities_are_rebuilt_only_where_they_change() -> None:
    low, high, other = (
        at_once(rule_of(Conditions(priority=priority), name)) for name, priority in (("low", 0), ("high", 1), ("x", 1))
    )
    plain: Router[str] = at_once(Router.building([low], None))
    both = at_once(Router.building([low, high], plain))
    assert both.trees[1] is plain.trees[0]
    again = at_once(Router.building([low, other], both))
    assert again.trees[1] is plain.trees[0]
    assert again.trees[0] is not both.trees[0]
    at_once(both.dismantling(again))
    back = at_once(Router.building([low], again))
    at_once(again.dismantling(back))
    assert at_once(Router.building([low], back)) is back


def explained(routes: list[dict[str, Any]], url: str, *lines: str) -> str:
    loaded = load_document({**SERVICE, "routes": routes})
    return as_text(explain(compile(loaded, 1), "GET", url, lines, routes=loaded.routes))


def test_it_is_explained() -> None:
    routes = [
        {"name": "a", "headers": {"X-A": {"prefix": "v"}}, "clients": ["10.0.0.0/8"], "respond": {}},
        {"name": "b", "paths": ["/b"], "priority": 2, "respond": {}},
        {"name": "c", "paths": ["/b"], "respond": {}},
    ]
    nearest = explained(routes[:1], "http://a/")
    assert "a: header X-A is not prefix v; client 127.0.0.1 is not in 10.0.0.0/8" in nearest
    assert "beat: c (lower priority)" in explained(routes, "http://a/b")


@pytest.mark.parametrize(
    ("condition", "wrong"),
    [
        ({}, "exactly one of"),
        ({"prefix": "a", "exact": "b"}, "exactly one of"),
        ({"regex": "(a"}, "RE2"),
        ({"regex": "(?=a)"}, "RE2"),
        ({"like": "a"}, "unknown key"),
    ],
)
def test_conditions_that_cannot_be_meant(condition: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        plane({"headers": {"X-A": condition}})


# captures


@pytest.mark.parametrize("name", ["?P<{}>", "?<{}>"], ids=["python", "perl"])
def test_named_groups_are_parameters(name: str) -> None:
    """RE2 reads both spellings; the second one is that of PCRE, as in nginx."""
    path = f"~^/v({name.format('version')}[0-9]+)/({name.format('rest')}.*)$"
    routes = [{"name": "v", "paths": [path], "upstream": "u", "rewrite": "/{rest}/{version}"}]
    client = (there := Plane({"routes": routes})).client()
    client.sends(b"GET /v12/a%2Fb/c?q HTTP/1.1\r\nHost: a\r\n\r\n")
    assert there.connects().received.startswith(b"GET /a%2Fb/c/12?q HTTP/1.1\r\n")


@pytest.mark.parametrize("name", ["?P<n>", "?<n>"], ids=["python", "perl"])
def test_headers_know_named_groups(name: str) -> None:
    routes = [
        {
            "name": "v",
            "paths": [f"~^/v({name}[0-9]+)/"],
            "upstream": "u",
            "filters": {"headers": {"request": {"set": {"X-N": "{n}"}}}},
        }
    ]
    client = (there := Plane({"routes": routes})).client()
    client.sends(b"GET /v12/ HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"\r\nX-N: 12\r\n" in there.connects().received


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        *((path, "~^/x(?P<a>.[.]?)") for path in ("/x.y", "/x%25y", "/x..y")),
        *((path, "/x{a}y") for path in ("/x.y", "/x..y")),
        ("/x%25y", "/x{a}5y"),
    ],
)
def test_no_capture_completes_a_dot_segment_or_an_escape(path: str, pattern: str) -> None:
    routes = [{"name": "v", "paths": [pattern], "upstream": "u", "rewrite": "/in/{a}/x"}]
    client = (there := Plane({"routes": routes})).client()
    client.sends(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert client.received.startswith(b"HTTP/1.1 400 ")
    assert not there.pool.waiting


def test_a_redirect_keeps_a_parameter_one_value() -> None:
    routes = [{"name": "r", "paths": ["/u/{id}"], "redirect": {"to": "/search?user={id}&admin=0"}}]
    client = Plane({"routes": routes}).client()
    client.sends(b"GET /u/a&admin=1+%26 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"\r\nLocation: /search?user=a%26admin%3D1%2B%26&admin=0\r\n" in client.received
