"""What `explain` says would happen is what does: random configurations and requests, explained and then sent.

A running gateway is the judge: route, target, status, fault, fields, and every line of the head that the origin gets.
"""

from __future__ import annotations

import copy
import html
import json
import random
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.explain import Explanation, explain, request_bytes
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.observe.access_log.secret_names import SecretNames
from tests.support.client import Client, Response
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.peer import DEADLINE, Line, Peer

CONFIGURATIONS, REQUESTS = 8, 60
RANDOM_ID = re.compile(r"\b[0-9a-f]{32}\b")
CONNECTION_FIELDS = {b"date", b"content-length", b"connection"}  # written when the answer goes out

HOSTS = ["api.example.com", "*.example.com", "*.eu.example.com", "other.example"]
PATHS = ["/", "/users/{id}", "/users/me", "/users/*", "/apps/{app}/{rest:path}", "/files/*", "~^/v[0-9]+/", "/a%2Fb"]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PURGE"]
LISTENERS = ["main", "inner"]
PEERS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]  # all of them this machine

URL_HOSTS = [
    "api.example.com",
    "API.example.com:8080",
    "a.eu.example.com",
    "b.example.com",
    "other.example",
    "nobody.test",
]
URL_PATHS = [
    *["", "/", "/users/7", "/users/me", "/users/a%20b", "/users/%C3%A9", "/users/7/", "/users", "/%75sers/7"],
    *["/apps/x/y/z", "/apps/x/", "/files", "/files/a/../b", "/files/./c", "/filesx", "/v1/x", "/v1", "/a%2Fb", "/a/b"],
    *["/files/%2e%2e/users/7", "/..", "/a/%2e%2e/%2e%2e", "/files/%00", "/files/%zz", "/files/a;b=c", "//users//7"],
]
URL_QUERIES = ["", "", "?debug=1", "?debug=2&x", "?", "?a=%2F&debug=1"]
FIELDS = [
    *["X-Version: 2", "X-Version: 1", "Accept: */*", "Accept: text/html, x", "X-Twice: 1", "X-Twice: 2", "x-old: 1"],
    *[
        "X-Request-Id: mine",
        "X-Request-Id: has space",
        "Connection: close",
        "Connection: X-Hop, keep-alive",
        "X-Hop: 1",
    ],
    *[
        "X-Forwarded-For: 192.0.2.7, 127.0.0.2",
        "X-Forwarded-For: 127.0.0.3",
        "X-Forwarded-Proto: https",
        "X-Real-IP: ::1",
    ],
    *["X-Forwarded-Host: front.example", "X-Forwarded-Port: 443", 'Forwarded: for="[2001:db8::1]";proto=https'],
    *[
        "Authorization: Bearer secret",
        "Cookie: a=1",
        "Via: 1.0 front",
        "Max-Forwards: 3",
        "Max-Forwards: x",
        "TE: trailers",
    ],
    *[
        "Proxy-Authorization: x",
        "Keep-Alive: 5",
        "Proxy-Connection: x",
        "Accept-Encoding: gzip",
        "X-Empty:",
        "X-Tight:1",
        "Authorization:tight",
        "Range: bytes=0-",
    ],
]
BODIES = ["Content-Length: 0", "Content-Length: 5", "Content-Length: 2000", "Transfer-Encoding: chunked"]
REFUSED = ["Content-Length: +5", "Transfer-Encoding: gzip", "Host: a, b", "X Y: 1", "X-A : 1", "Expect: something"]


def some(choose: random.Random, values: list[Any], most: int) -> list[Any]:
    return choose.sample(values, choose.randint(0, most))


def any_filters(choose: random.Random, holder: str) -> dict[str, Any]:
    """Filters for a route, or for a set. A filter that runs before routing has a name of its own in each."""
    edits = {
        "remove": some(choose, ["X-Old", "Accept", "X-Twice", "Cookie"], 2),
        "set": dict.fromkeys(some(choose, ["X-Version", "X-Set"], 1), "set"),
        "add": dict.fromkeys(some(choose, ["X-Added", "X-Twice"], 2), "added"),
    }
    kinds = {
        "size": {"body": choose.choice(["1KiB", "1MiB"])},
        "edit": {"type": "headers", "request": edits},
        "stamp": {"type": "headers", "response": {"set": {"X-Stamp": "1"}, "remove": ["Content-Type"]}},
        f"{holder}_trace": {"type": "request_id", "header": "X-Trace", "trust_client": choose.random() < 0.5},
    }
    return {name: kinds[name] for name in some(choose, sorted(kinds), 3)}


def any_route(choose: random.Random, number: int) -> dict[str, Any]:
    paths = some(choose, PATHS, 2)
    route: dict[str, Any] = {
        "name": f"route-{number}",
        "hosts": some(choose, HOSTS, 2),
        "paths": paths,
        "methods": choose.choice([[], [], some(choose, METHODS, 3)]),
        "listeners": some(choose, LISTENERS, 1),
        "headers": {"X-Version": "2"} if choose.random() < 0.15 else {},
        "query": {"debug": "1"} if choose.random() < 0.15 else {},
        "use": some(choose, ["bundle"], 1),
        "filters": any_filters(choose, "route") if choose.random() < 0.5 else {},
    }
    action = choose.random()
    if action < 0.1:
        route["respond"] = {"status": choose.choice([200, 204, 404]), "body": choose.choice(["", "ok"])}
    elif action < 0.2:
        route["redirect"] = {"to": "/new"}
    else:
        route["upstream"] = choose.choice(["plain", "based", "named", "unix"])
        route["forwarded"] = choose.choice([None, "append", "set", "strip", "pass"])
        prefixes = [
            each for each in ("/users", "/files", "/apps") if not paths or any(p.startswith(each) for p in paths)
        ]
        if paths == ["/users/{id}"]:
            route["rewrite"] = "/internal/{id}"
        else:
            forward = choose.choice(["normal", "raw"])
            route["path"] = {"forward": forward, "encoded_slash": choose.choice(["keep", "reject"])}
            if prefixes and forward == "normal":
                route["strip_prefix"] = choose.choice(prefixes)
    return {key: value for key, value in route.items() if value not in ([], {}, None)}


def any_configuration(choose: random.Random, origin: Origin, unix: Origin) -> dict[str, Any]:
    trusted = {"trusted_proxies": ["127.0.0.2/31"]}
    return {
        "version": 1,
        "workers": 1,
        "access_logs": [{"sink": "stdout", "format": "json"}],
        "listeners": {"main": {"address": "127.0.0.1:0"}, "inner": {"address": "127.0.0.1:0", **trusted}},
        "limits": {"header_count": 20, "header_bytes": "1KiB", "body_bytes": "1500B"},
        "upstreams": {
            "plain": {"targets": [{"url": origin.url}]},
            "based": {"targets": [{"url": f"{origin.url}/base"}], "host_header": "preserve"},
            "named": {"targets": [{"url": origin.url}], "host_header": "named.example"},
            "unix": {"targets": [{"url": f"{unix.url}:/sock"}]},
        },
        "filters": {"request_id": {"trust_client": choose.random() < 0.5}}
        if choose.random() < 0.7
        else {"request_id": None},
        "filter_sets": {"bundle": any_filters(choose, "bundle")},
        "routes": [any_route(choose, number) for number in range(choose.randint(3, 25))],
    }


def any_request(choose: random.Random) -> tuple[str, str, list[str]]:
    """Method, URL and fields: mostly good ones, some that are refused."""
    method = choose.choice([*METHODS, "GET", "GET", "GET", "TRACE"])
    url = f"http://{choose.choice(URL_HOSTS)}{choose.choice(URL_PATHS)}{choose.choice(URL_QUERIES)}"
    fields = some(choose, FIELDS, 6)
    if choose.random() < 0.3:
        fields.append(choose.choice(BODIES))
    elif choose.random() < 0.1:
        fields.append(choose.choice(REFUSED))
    elif choose.random() < 0.05:
        fields += [f"X-Many: {number}" for number in range(20)]
    elif choose.random() < 0.05:
        fields.append(f"X-Long: {'x' * 1500}")
    elif choose.random() < 0.05:
        url += "x" * 1500
    elif choose.random() < 0.1:
        fields += ["Connection: Upgrade", "Upgrade: websocket"]
    choose.shuffle(fields)
    return method, url, fields


def body_of(fields: list[str]) -> bytes:
    if "Transfer-Encoding: chunked" in fields:
        return b"2\r\nab\r\n0\r\n\r\n"
    return next((b"x" * int(line.rpartition(" ")[2]) for line in fields if line in BODIES), b"")


def as_shown(lines: list[Line]) -> list[str]:
    """Field lines that were sent, the way `explain` shows them."""
    shown = [(name, b"***" if SecretNames().has_header(name.lower()) else value) for name, value in lines]
    return [without_ids(f"{name.decode()}: {value.decode('latin-1')}") for name, value in shown]


def without_ids(line: str) -> str:
    return RANDOM_ID.sub("<random>", line).rstrip()  # an empty value


class Sent(Client):
    """A client whose address is one of PEERS."""

    def __init__(self, peer: str, port: int) -> None:
        Peer.__init__(self, socket.create_connection(("127.0.0.1", port), DEADLINE, (peer, 0)))


@pytest.mark.parametrize("seed", range(CONFIGURATIONS))
def test_explain_says_what_a_gateway_does(seed, tmp_path):
    choose = random.Random(seed)
    with Origin() as origin, Origin(str(tmp_path / "origin.sock")) as unix:
        origins = [origin.serve(), unix.serve()]
        document = any_configuration(choose, origin, unix)
        with Gateway(document, tmp_path) as gateway:
            explained = as_bound(document, gateway, tmp_path)
            for number in range(REQUESTS):
                method, url, fields = any_request(choose)
                fields.append(f"User-Agent: {number}")
                listener, peer = choose.choice(LISTENERS), choose.choice(PEERS)
                told = explain(explained, method, url, fields, peer, listener)
                before = [len(each.requests) for each in origins]
                with Sent(peer, gateway.port(listener)) as client:
                    client.send_gently(request_bytes(method, url, fields) + body_of(fields))
                    response = client.read_response(method.encode())
                arrived = [
                    request for each, had in zip(origins, before, strict=True) for request in each.requests[had:]
                ]
                about = f"seed {seed}: {listener} {peer} {method} {url} {fields}\n{told}\n{response}"
                heads = [[request.head.start_line.decode(), *as_shown(request.head.lines)] for request in arrived]
                assert heads == ([[*map(without_ids, told.sends)]] if told.sends else []), about
                if not told.sends:
                    assert_answered(told, response, about)
                if told.client:  # else the head could not be read, and the log has nothing of it
                    assert_recorded(told, gateway.wait_for_record(user_agent=str(number)), about)


def as_bound(document: dict[str, Any], gateway: Gateway, directory: Path) -> Any:
    """The same configuration, compiled here, with the ports that the gateway has."""
    bound = copy.deepcopy(document)
    for name in LISTENERS:
        bound["listeners"][name]["address"] = gateway.address(name)
    file = directory / "bound.json"
    file.write_text(json.dumps(bound))
    return compile(config.load(str(file), TYPES).config, 1)


def assert_answered(told: Explanation, response: Response, about: str) -> None:
    """The gateway's own answer: its status, what it names as the fault, and its fields."""
    assert response.status == told.status, about
    problem = response.get(b"Proxy-Status") is not None and response.body
    if response.get(b"Content-Type") == b"text/html; charset=utf-8":  # for a browser
        assert f"<h1>{told.status} ".encode() in response.body, about
        assert html.escape(told.detail).encode() in response.body, about
    elif problem:
        body = json.loads(response.body)
        assert body["type"] == f"urn:fastgw:fault:{told.fault}", about
        assert told.detail in ("", body["detail"]), about
    lines = [line for line in response.head.lines if line[0].lower() not in CONNECTION_FIELDS]
    assert as_shown(lines) == [*map(without_ids, told.fields)], about


def assert_recorded(told: Explanation, record: dict[str, Any], about: str) -> None:
    """The access log's word on the same request."""
    assert (record["client"], record["listener"]) == (told.client, told.listener), about
    assert (record["route"] or "", record["fault"] or "") == (told.route, told.fault), about
    assert (record["upstream"] or "", record["target"] or "") == (told.upstream, told.target.removeprefix("http://")), (
        about
    )
