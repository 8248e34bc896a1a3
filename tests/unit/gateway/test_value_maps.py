"""maps: tables of the gateway whose results stand wherever a variable may be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.config import ConfigError
from fastgw.explain import explain
from fastgw.filters import TYPES
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane
from tests.support.table import for_each

MAPS = {
    "plan": {"source": "{header.X-Plan}", "values": {"gold": "first class/a&b", "~^silver": "second"}, "default": "3"},
    "none": {"source": "{header.X-Plan}", "values": {"gold": "x"}},
    "code": {"source": "{response_header.X-Code}", "values": {"E1": "quota", "~^E": "error"}, "default": "none"},
}
USERS = "http://127.0.0.1:9001"


def exchanged(route: dict[str, Any], *lines: str, answer: str = "", path: str = "/x/7", **more: Any) -> tuple[str, str]:
    """What the upstream gets, and what the client gets. `lines`: of the request; `answer`: those of the response."""
    named = {"name": "r", "paths": ["/x/{id}"], **route}
    plane = Plane({"maps": MAPS, "upstreams": {"users": {"targets": [USERS]}}, "routes": [named], **more})
    client = plane.client()
    client.sends("\r\n".join([f"GET {path}?q=1 HTTP/1.1", "Host: a.test", *lines, "", ""]).encode())
    if not plane.pool.waiting:
        return "", client.received.decode()
    upstream = plane.connects()
    upstream.sends(f"HTTP/1.1 200 OK\r\n{answer}Content-Length: 2\r\n\r\nok".encode())
    return upstream.received.decode(), client.received.decode()


@pytest.mark.parametrize(
    ("plan", "target"),
    [
        ("gold", "/v/first%20class/a&b/x/7?q=1"),
        ("silver-2", "/v/second/x/7?q=1"),
        ("iron", "/v/3/x/7?q=1"),
    ],
)
def test_a_rewritten_path_keeps_the_slashes_of_a_result(plan: str, target: str) -> None:
    """A result is written in the configuration, so it may have several segments."""
    sent, _ = exchanged({"upstream": "users", "rewrite": "/v/{map.plan}/{path}"}, f"X-Plan: {plan}")
    assert sent.startswith(f"GET {target} HTTP/1.1\r\n")


def test_a_path_behind_a_result_keeps_its_first_slash() -> None:
    sent, _ = exchanged({"upstream": "users", "rewrite": "/{map.plan}{path}"}, "X-Plan: silver")
    assert sent.startswith("GET /second/x/7?q=1 HTTP/1.1\r\n")


def test_a_path_without_a_result_is_not_sent() -> None:
    sent, got = exchanged({"upstream": "users", "rewrite": "/v/{map.none}"}, "X-Plan: iron")
    assert not sent
    assert got.startswith("HTTP/1.1 400 ")


def test_a_redirect() -> None:
    _, got = exchanged({"redirect": {"to": "https://b.test/{map.plan}?plan={map.plan}"}}, "X-Plan: gold")
    assert "\r\nLocation: https://b.test/first%20class/a&b?plan=first%20class/a%26b\r\n" in got


def test_a_response_of_the_gateway() -> None:
    respond = {
        "body": '{"plan": "{map.plan}"}',
        "headers": {"Content-Type": "application/json", "X-A": "{map.plan}", "X-B": "{map.none}"},
    }
    _, got = exchanged({"respond": respond}, "X-Plan: silver")
    assert got.endswith('\r\n\r\n{"plan": "second"}')
    assert "\r\nX-A: second\r\n" in got
    assert "X-B" not in got


def test_queries_and_headers() -> None:
    filters = {
        "query_parameters": {"set": {"plan": "{map.plan}", "none": "{map.none}"}},
        "headers": {"request": {"set": {"X-A": "<{map.plan}>"}}, "response": {"set": {"X-B": "{map.plan}"}}},
    }
    sent, got = exchanged({"upstream": "users", "filters": filters}, "X-Plan: silver")
    assert sent.startswith("GET /x/7?q=1&plan=second HTTP/1.1\r\n")
    assert "\r\nX-A: <second>\r\n" in sent
    assert "\r\nX-B: second\r\n" in got


@pytest.mark.parametrize(("code", "expected"), [("E1", "quota"), ("E2", "error"), ("", "none")])
def test_headers_of_a_response_depend_on_those_of_the_upstream(code: str, expected: str) -> None:
    """Values are computed before anything is removed or replaced."""
    edits = {
        "remove": ["X-Code"],
        "set": {"X-Reason": "{map.code}", "X-Seen": "{response_header.x-code}"},
        "add": {"X-Twice": "{response_header.X-Seen}"},
    }
    answer = f"X-Code: {code}\r\nX-Seen: theirs\r\n" if code else "X-Seen: theirs\r\n"
    _, got = exchanged({"upstream": "users", "filters": {"headers": {"response": edits}}}, answer=answer)
    assert f"\r\nX-Reason: {expected}\r\n" in got
    assert "X-Code" not in got
    assert "\r\nX-Twice: theirs\r\n" in got
    assert (f"\r\nX-Seen: {code}\r\n" in got) if code else ("X-Seen" not in got)


def test_a_header_that_is_repeated_with_different_values_is_missing() -> None:
    edits = {"set": {"X-Reason": "{map.code}"}}
    answer = "X-Code: E1\r\nX-Code: E2\r\n"
    _, got = exchanged({"upstream": "users", "filters": {"headers": {"response": edits}}}, answer=answer)
    assert "\r\nX-Reason: none\r\n" in got


DAV = {
    "source": "{header.Destination}",
    "values": {
        "~^https?://[^/]+(?P<p>/.*)$": "http://dav.internal{p}",
        "~^(?P<a>[a-z]+)-(?P<b>[a-z ]*)(?P<c>!)?$": "{b}{c}<{ }{a}>",
        "~^=(?P<all>.*)$": "{all}",
        "none": "{ }",
    },
    "default": "default",
}


@for_each(
    "sent, result",
    [
        ("https://a.test:8443/dav/a%20b%2Fc?d", "http://dav.internal/dav/a%20b%2Fc?d"),
        ("one-two", "two<{ }one>"),
        ("one-!", "!<{ }one>"),
        ("none", "{ }"),
        ("= alice", "default"),  # recipients would strip it
        ("=", None),
        ("elsewhere", "default"),
    ],
)
def test_a_result_has_what_the_groups_of_its_expression_have_matched(sent: str, result: str | None) -> None:
    """WebDAV behind TLS (RFC 4918 section 10.3): the upstream knows the path of a `Destination`, not its origin."""
    filters = {"headers": {"request": {"set": {"Destination": "{map.dav}"}}}}
    got, _ = exchanged({"upstream": "users", "filters": filters}, f"Destination: {sent}", maps={"dav": DAV})
    lines = [line for line in got.split("\r\n") if line.startswith("Destination:")]
    assert lines == ([] if result is None else [f"Destination: {result}"])


CAPTURES = {
    "path": {"source": "{path}", "values": {r"~^/x(?P<rest>/.*)$": "{rest}"}},
    "id": {"source": "{id}", "values": {"~^(?P<all>.*)$": "{all}"}},
    "sent": {"source": "{header.X-Sent}", "values": {"~^(?P<all>.*)$": "{all}"}},
    "mixed": {"source": "{header.X-Sent}:{path}", "values": {"~^(?P<all>.*)$": "a b/{all}"}},
}
QUERY = {"query_parameters": {"set": {"q": "{map.id}"}}}


@for_each(
    "place, header, expected",
    [
        ({"upstream": "users", "rewrite": "/new{map.path}"}, "", "GET /new/a%20b%2Fc?q=1 "),
        ({"upstream": "users", "rewrite": "/new/{map.id}"}, "", "GET /new/a%20b%2Fc?q=1 "),
        ({"upstream": "users", "rewrite": "/new/{map.sent}"}, "a/b c%20", "GET /new/a%2Fb%20c%2520?q=1 "),
        ({"upstream": "users", "rewrite": "/new/{map.mixed}"}, "a/b", "GET /new/a%20b/a%2Fb:/x/a%20b%2Fc?q=1 "),
        ({"upstream": "users", "rewrite": "/new/{map.sent}"}, "..", "400"),
        ({"redirect": {"to": "/new{map.path}"}}, "", "\r\nLocation: /new/a%20b%2Fc?q=1\r\n"),
        ({"redirect": {"to": "/new?to={map.mixed}"}}, "a&b", "\r\nLocation: /new?to=a%20b/a%26b:/x/a%20b%2Fc\r\n"),
        ({"respond": {"body": "{map.path}"}}, "", "\r\n\r\n/a%20b%2Fc"),
        ({"upstream": "users", "filters": {"headers": {"request": {"set": {"X-A": "{map.path}"}}}}}, "", "/a%20b%2Fc"),
        ({"upstream": "users", "filters": QUERY}, "", "q=a%20b%2Fc "),
    ],
)
def test_what_a_map_captures_is_encoded_once_by_where_it_comes_from(
    place: dict[str, Any], header: str, expected: str
) -> None:
    """A path arrives as it was received, and a value of a client stays within its segment."""
    lines = (f"X-Sent: {header}",) if header else ()
    sent, got = exchanged(place, *lines, maps=CAPTURES, path="/x/a%20b%2Fc")
    assert expected in (sent or got), (sent, got)


def test_a_capture_of_a_client_has_no_dot_segments() -> None:
    for sent in ("=a/../../b", "=%2e%2e/b"):
        got, _ = exchanged({"upstream": "users", "rewrite": "/v/{map.dav}"}, f"Destination: {sent}", maps={"dav": DAV})
        assert got == ""  # servers that decode `%2F` would climb


def test_a_map_of_the_filter_precedes_that_of_the_gateway() -> None:
    own = {"plan": {"source": "{method}", "values": {"GET": "own"}}}
    filters = {"headers": {"maps": own, "request": {"set": {"X-A": "{map.plan}"}}}}
    sent, _ = exchanged({"upstream": "users", "filters": filters}, "X-Plan: gold")
    assert "\r\nX-A: own\r\n" in sent


def test_a_part_of_a_composition() -> None:
    part = {"name": "p", "upstream": "users", "path": "/p/{map.plan}", "headers": {"X-A": "{map.plan}"}}
    sent, _ = exchanged({"compose": {"parts": [part]}}, "X-Plan: silver")
    assert sent.startswith("GET /p/second HTTP/1.1\r\n")
    assert "\r\nX-A: second\r\n" in sent


def test_a_transformed_body() -> None:
    rules = {"json": {"set": {"reason": "{map.code}", "plan": "{map.plan}"}}}
    plane = Plane({"maps": MAPS, "filters": {"transform": {"response": rules}}})
    client = plane.client()
    client.sends(b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-Plan: gold\r\n\r\n")
    plane.connects().sends(
        b"HTTP/1.1 200 OK\r\nX-Code: E1\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n" + b'{"a": 1}'
    )
    assert json.loads(client.received.partition(b"\r\n\r\n")[2]) == {
        "a": 1,
        "reason": "quota",
        "plan": "first class/a&b",
    }


def test_explain_shows_the_result() -> None:
    plane = Plane({"maps": MAPS, "filters": {"headers": {"request": {"set": {"X-A": "{map.plan}"}}}}})
    assert "X-A: first class/a&b" in explain(plane.gateway, "GET", "http://a.test/", ["X-Plan: gold"]).sends


def test_a_reload_replaces_a_map_and_keeps_the_filters() -> None:
    """Filters keep their state: only routes are compiled again, and only if a map has changed."""
    settings = {"maps": MAPS, "filters": {"headers": {"request": {"set": {"X-A": "{map.plan}"}}}}}
    plane = Plane(settings)
    before = plane.gateway.routes[0]
    plane.adopts({**settings, "maps": {**MAPS}})
    assert plane.gateway.routes[0] is before
    plane.adopts({**settings, "maps": {**MAPS, "plan": {"source": "{method}", "values": {"GET": "new"}}}})
    after = plane.gateway.routes[0]
    assert after is not before
    assert [rule and rule[0].route.links for rule in after.rules] == [
        rule and rule[0].route.links for rule in before.rules
    ]
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert b"\r\nX-A: new\r\n" in plane.connects().received


NOT_YET = r"\{map\.code\} looks up a value of the response, which is not known yet"


def result_of(key: str, result: str) -> dict[str, Any]:
    return {"t": {"source": "{path}", "values": {"other": "{", key: result}}}


@for_each(
    ("settings", "wrong"),
    [
        ({"maps": {"a": {"source": "{map.b}", "values": {"x": "y"}}}}, "another map"),
        (
            {"maps": {"a": {"source": "{nothing}", "values": {"x": "y"}}}},
            r"maps\.a\.source: unknown variable \{nothing\}",
        ),
        ({"maps": {"a": {"source": "{path}", "values": {"~(": "y"}}}}, "RE2"),
        ({"maps": {"a": {"source": "{path}", "values": {}}}}, r"maps\.a\.values"),
        ({"maps": result_of("~^(?P<a>x)$", "{b}")}, r'maps\.t\.values\["~.*"\]: \{b\} is no group .* expected \{a\}'),
        ({"maps": result_of("~^x$", "{client_ip}")}, r'values\["~\^x\$"\]: \{client_ip\} is no group'),
        ({"maps": result_of("~^(x)$", "{1}")}, r"\{1\} is no group"),
        ({"maps": result_of("x", "{a}")}, r"maps\.t\.values\.x: \{a\} is no group"),
        (
            {"filters": {"headers": {"maps": result_of("~x", "{a}"), "response": {"set": {"A": "{map.t}"}}}}},
            r'headers\.maps\.t\.values\["~x"\]: \{a\} is no group',
        ),
        ({"route": {"rewrite": "/{map.plon}", "upstream": "users"}}, 'rewrite: unknown map "plon"; .*plan'),
        ({"route": {"redirect": {"to": "/{map.plon}"}}}, 'redirect.to: unknown map "plon"'),
        ({"route": {"respond": {"body": "{map.plon}"}}}, 'respond.body: unknown map "plon"'),
        ({"route": {"respond": {"headers": {"X-A": "{map.code}"}}}}, rf"respond\.headers\.X-A: {NOT_YET}"),
        ({"route": {"rewrite": "/{map.code}", "upstream": "users"}}, NOT_YET),
        ({"route": {"rewrite": "/{response_header.X-A}", "upstream": "users"}}, "is a value of the response"),
        (
            {"route": {"compose": {"parts": [{"name": "p", "upstream": "users", "path": "/{map.x}"}]}}},
            'unknown map "x"',
        ),
        ({"route": {"compose": {"parts": [{"name": "p", "upstream": "users", "path": "/{map.code}"}]}}}, NOT_YET),
        ({"filters": {"query_parameters": {"set": {"a": "{map.x}"}}}}, 'unknown map "x"'),
        ({"filters": {"query_parameters": {"set": {"a": "{map.code}"}}}}, NOT_YET),
        ({"filters": {"headers": {"request": {"set": {"X-A": "{map.code}"}}}}}, NOT_YET),
        ({"filters": {"transform": {"request": {"template": {"a": "{map.code}"}}}}}, NOT_YET),
        ({"filters": {"transform": {"response": {"template": {"a": "{map.x}"}}}}}, 'unknown map "x"'),
    ],
)
def test_maps_that_cannot_be_meant(settings: dict[str, Any], wrong: str) -> None:
    document = {**SERVICE, "maps": settings.get("maps", MAPS), "filters": settings.get("filters", {})}
    if "route" in settings:
        document["routes"] = [{"name": "r", "paths": ["/r"], **settings["route"]}]
    with pytest.raises(ConfigError, match=wrong):
        load_document(document, TYPES)


def test_each_file_may_have_maps_and_an_unused_one_is_noted(tmp_path: Path) -> None:
    (tmp_path / "team.json").write_text(json.dumps({"maps": {"unused": {"source": "{path}", "values": {"/": "x"}}}}))
    used = {
        "filters": {"headers": {"request": {"set": {"X-A": "{map.plan}"}}, "response": {"set": {"B": "{map.code}"}}}}
    }
    maps = {name: MAPS[name] for name in ("plan", "code")}
    main = {**SERVICE, "include": ["team.json"], "maps": maps, **used}
    (tmp_path / "gateway.json").write_text(json.dumps(main))
    loaded = config.load(str(tmp_path / "gateway.json"), TYPES)
    assert sorted(loaded.config.maps) == ["code", "plan", "unused"]
    assert [note.path for note in loaded.notes if "unused" in str(note)] == ["maps.unused"]
