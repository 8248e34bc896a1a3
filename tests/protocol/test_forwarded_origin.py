"""The origin of a request: scheme, host, port, prefix and client agree in every header that services get."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.aws import ACCESS_KEY, SECRET_KEY
from tests.support.client import Client
from tests.support.gateway import OFF, Gateway
from tests.support.http2.translation import TranslatedClient
from tests.support.origin import Origin, Request

PROXIES = ["127.0.0.0/8", "10.0.0.0/8"]
LISTENERS: dict[str, dict[str, Any]] = {"untrusted": {}, "trusted": {"trusted_proxies": PROXIES}}
OUTPUTS = {
    "forward": "/forward/x",
    "told": "/told/x",
    "auth": "/decide",
    "mirror": "/copy/mirror/x",
    "compose": "/part",
    "lambda": "/2015-03-31/functions/orders/invocations",
}
"""Routes, and the paths of what they send."""
SIGV4 = {"region": "eu-central-1", "service": "lambda", "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
REPORTED = "Proto: https|For: 203.0.113.9, 10.1.1.1|Prefix: /shop"
SEEN = {"Proto": "http", "Host": "a.test", "Port": "80", "For": "127.0.0.1", "client": "127.0.0.1"}
BELIEVED = {
    **SEEN,
    "Proto": "https",
    "Port": "443",
    "For": "203.0.113.9, 10.1.1.1, 127.0.0.1",
    "client": "203.0.113.9",
    "Prefix": "/shop",
}
CASES: list[tuple[str, str, dict[str, str]]] = [
    ("untrusted", "", SEEN),
    ("untrusted", REPORTED + "|Host: evil.test|Port: 666", SEEN),
    ("trusted", "", SEEN),
    ("trusted", REPORTED, BELIEVED),
    ("trusted", REPORTED + "|Port: 8443", {**BELIEVED, "Port": "8443"}),
    ("trusted", REPORTED + "|Host: b.test|Port: 443", {**BELIEVED, "Host": "b.test"}),
    ("trusted", REPORTED + "|Host: b.test:8443|Port: 443", {**BELIEVED, "Host": "b.test:8443", "Port": "8443"}),
]
"""Listener, what is reported to it in `X-Forwarded-*`, and what services get."""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        event = b'{"statusCode": 200, "body": ""}'
        origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(event), event), path=b"/part")
        origin.answer(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(event), event), path=OUTPUTS["lambda"].encode()
        )
        yield origin.serve()


@pytest.fixture(scope="module")
def gateway(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    def route(name: str, **settings: Any) -> dict[str, Any]:
        return {"name": name, "paths": [f"/{name}/*"], **settings}

    common = {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}
    config = {
        **OFF,
        "workers": 1,
        "listeners": {name: {**common, **each} for name, each in LISTENERS.items()},
        "upstreams": {
            "service": {"targets": [{"url": origin.url}]},
            "copies": {"targets": [{"url": f"{origin.url}/copy"}]},
            "aws": {"targets": [{"url": origin.url}], "filters": {"credentials": {"aws_sigv4": SIGV4}}},
        },
        "routes": [
            route("forward", upstream="service"),
            route("told", upstream="service", forwarded_header=True),
            route("stripped", upstream="service", strip_prefix="/stripped"),
            route("partly", upstream="service", strip_prefix="/partly") | {"paths": ["/partly/*", "/whole"]},
            route("replaced", upstream="service", strip_prefix="/replaced", add_prefix="/v1"),
            route("auth", upstream="service", filters={"forward_auth": {"url": f"{origin.url}/decide"}}),
            route("mirror", upstream="service", filters={"mirror": {"upstream": "copies"}}),
            route("compose", compose={"parts": [{"name": "a", "upstream": "service", "path": "/part"}]}),
            route("lambda", **{"lambda": {"upstream": "aws", "function": "orders"}}),
        ],
    }
    with Gateway(config, tmp_path_factory.mktemp("origin")) as gateway:
        yield gateway


@pytest.fixture(params=["http1", pytest.param("http2", marks=pytest.mark.twin)])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sent_for(origin: Origin, client: Client, target: str, reported: str, path: str) -> Request:
    """Send a request, and return what reached the service at `path`."""
    before = len(origin.requests)
    lines = "".join(f"X-Forwarded-{line}\r\n" for line in reported.split("|") if line)
    client.send(f"GET {target} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n".encode())
    assert client.read_response().status == 200
    while True:
        for request in origin.wait_for_requests(before + 1)[before:]:
            if request.request_target == path.encode():
                return request
            before += 1


def headers_of(request: Request) -> dict[str, str]:
    """Return the headers of a request, or of the one in the event of a function, by lower-case name."""
    if request.request_target == OUTPUTS["lambda"].encode():
        return dict(json.loads(request.body)["headers"])
    return {name.decode().lower(): value.decode() for name, value in request.head.lines}


def said(headers: dict[str, str]) -> dict[str, str]:
    names = {name: f"x-forwarded-{name.lower()}" for name in ("Proto", "Host", "Port", "For", "Prefix")}
    return {name: headers[key] for name, key in {**names, "client": "x-real-ip"}.items() if key in headers}


def test_every_service_gets_the_same_origin(origin: Origin, gateway: Gateway, version: str) -> None:
    for listener, reported, expected in CASES:
        with connected(gateway, listener, version) as client:
            for name, path in OUTPUTS.items():
                headers = headers_of(sent_for(origin, client, f"/{name}/x", reported, path))
                assert said(headers) == expected, (listener, reported, name)
                forwarded = headers.get("forwarded")
                assert (forwarded is not None) is (name == "told"), (listener, reported, name)
                if forwarded is not None:
                    last = f'for=127.0.0.1;host="{expected["Host"]}";proto={expected["Proto"]}'
                    assert forwarded.split(", ") == [f"for={ip}" for ip in expected["For"].split(", ")[:-1]] + [last]


def connected(gateway: Gateway, listener: str, version: str) -> Client:
    return gateway.connect(listener) if version == "http1" else TranslatedClient(gateway.address(listener))


@pytest.mark.parametrize("reported", ["", "Prefix: /shop", "Prefix: /shop|Proto: https"])
def test_the_prefix_that_is_removed_is_told(origin: Origin, gateway: Gateway, version: str, reported: str) -> None:
    """Traefik and Spring Cloud Gateway send it, and Spring, Werkzeug and ASP.NET Core put it before their links."""
    for listener in LISTENERS:
        before = "/shop" if reported and listener == "trusted" else ""
        with connected(gateway, listener, version) as client:
            for target, path, prefix in (
                ("/stripped/x?a=b", "/x?a=b", "/stripped"),
                ("/stripped/", "/", "/stripped"),
                ("/partly/x", "/x", "/partly"),
                ("/whole", "/whole", ""),
                ("/replaced/x", "/v1/x", ""),
            ):
                headers = headers_of(sent_for(origin, client, target, reported, path))
                assert headers.get("x-forwarded-prefix", "") == before + prefix, (listener, target)


def test_scheme_of_a_redirect_is_the_one_that_services_get(tmp_path: Path) -> None:
    """A client behind a balancer that ends TLS is not sent round in circles."""
    listener = {"address": "127.0.0.1:0", "trusted_proxies": PROXIES}
    routes = [{"name": "r", "redirect": {"path": "/there"}}]
    with (
        Gateway({**OFF, "listeners": {"main": listener}, "routes": routes}, tmp_path) as gateway,
        gateway.connect() as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Proto: https\r\n\r\n")
        assert re.search(rb"\r\nlocation: https://a\.test/there\r\n", client.read_response().head.raw, re.IGNORECASE)
