"""The origin of a request: scheme, host, port, prefix and client agree in every header that services get."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw.net.proxy_protocol import LOCAL_V2, TerminatedTls, header_v2
from tests.support.aws import ACCESS_KEY, SECRET_KEY
from tests.support.client import Client
from tests.support.gateway import OFF, Gateway
from tests.support.http2.translation import TranslatedClient
from tests.support.origin import Origin, Request
from tests.support.table import for_each

PROXIES = ["127.0.0.0/8", "10.0.0.0/8"]
LISTENERS: dict[str, dict[str, Any]] = {
    "untrusted": {},
    "trusted": {"trusted_proxies": PROXIES},
    "ended": {"scheme": "https"},
    "http-balancer": {"proxy_protocol": "required", "trusted_proxies": PROXIES, "proxy_protocol_senders": []},
    "tcp-balancer": {
        "proxy_protocol": "required",
        "trusted_proxies": PROXIES,
        "proxy_protocol_senders": ["127.0.0.0/8"],
    },
}
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
FOUND = {**SEEN, "For": "203.0.113.9", "client": "203.0.113.9"}
OVER_TLS = {**FOUND, "Proto": "https", "Port": "443"}


def v1(ip: str) -> bytes:
    return f"PROXY TCP4 {ip} 198.51.100.2 4711 8080\r\n".encode()


def v2(tls: TerminatedTls | None = None) -> bytes:
    return header_v2(("203.0.113.9", 4711), ("198.51.100.2", 8080), tls=tls)


SECURE = v2(TerminatedTls("TLSv1.3", "TLS_AES_256_GCM_SHA384"))
INSECURE = v2()[:14] + b"\0\x14" + v2()[16:] + b"\x20\0\5\0\0\0\0\0"
CASES: list[tuple[str, str, dict[str, str]] | tuple[str, str, dict[str, str], bytes]] = [
    ("untrusted", "", SEEN),
    ("untrusted", REPORTED + "|Host: evil.test|Port: 666", SEEN),
    ("trusted", "", SEEN),
    ("trusted", REPORTED, BELIEVED),
    ("trusted", REPORTED + "|Port: 8443", {**BELIEVED, "Port": "8443"}),
    ("trusted", REPORTED + "|Host: b.test|Port: 443", {**BELIEVED, "Host": "b.test"}),
    ("trusted", REPORTED + "|Host: b.test:8443|Port: 443", {**BELIEVED, "Host": "b.test:8443", "Port": "8443"}),
    ("ended", REPORTED.replace("https", "http"), {**SEEN, "Proto": "https", "Port": "443"}),
    *(("http-balancer", "", FOUND, header) for header in (v1("203.0.113.9"), v2(), INSECURE)),
    ("http-balancer", "", OVER_TLS, SECURE),
    # its word is taken, and the client's address in its PROXY header before all others
    *(
        ("http-balancer", "Proto: https|For: 6.6.6.6|Prefix: /shop", {**OVER_TLS, "Prefix": "/shop"}, header)
        for header in (v1("203.0.113.9"), v2(), INSECURE, SECURE)
    ),
    ("http-balancer", "Proto: http", FOUND, SECURE),
    ("http-balancer", REPORTED, {**BELIEVED, "For": "203.0.113.9, 10.1.1.1, 10.2.2.2"}, v1("10.2.2.2")),
    ("http-balancer", REPORTED, BELIEVED, b"PROXY UNKNOWN\r\n"),
    # what is behind this one's PROXY header is the client's, who may be a proxy
    *(("tcp-balancer", REPORTED, FOUND, header) for header in (v1("203.0.113.9"), v2(), INSECURE)),
    ("tcp-balancer", REPORTED.replace("https", "http"), OVER_TLS, SECURE),
    ("tcp-balancer", REPORTED, {**BELIEVED, "For": "203.0.113.9, 10.1.1.1, 10.2.2.2"}, v1("10.2.2.2")),
    *(("tcp-balancer", REPORTED, SEEN, header) for header in (b"PROXY UNKNOWN\r\n", LOCAL_V2)),
]
"""Listener, what is reported to it in `X-Forwarded-*`, what services get, and the PROXY header if there is one."""


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


@pytest.fixture(params=["http1", "http2"])
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
    for listener, reported, expected, *headers_before in CASES:
        with connected(gateway, listener, version, b"".join(headers_before)) as client:
            for name, path in OUTPUTS.items():
                headers = headers_of(sent_for(origin, client, f"/{name}/x", reported, path))
                assert said(headers) == expected, (listener, reported, headers_before, name)
                forwarded = headers.get("forwarded")
                assert (forwarded is not None) is (name == "told"), (listener, reported, headers_before, name)
                if forwarded is not None:
                    *others, last = (f"for={ip}" for ip in expected["For"].split(", "))
                    last += f';host="{expected["Host"]}";proto={expected["Proto"]}'
                    assert forwarded.split(", ") == [*others, last]


def connected(gateway: Gateway, listener: str, version: str, preface: bytes = b"") -> Client:
    if version == "http2":
        return TranslatedClient(gateway.address(listener), preface=preface)
    client = gateway.connect(listener)
    client.send(preface)
    return client


@for_each("reported", ["", "Prefix: /shop", "Prefix: /shop|Proto: https"])
def test_the_prefix_that_is_removed_is_told(origin: Origin, gateway: Gateway, version: str, reported: str) -> None:
    """Traefik and Spring Cloud Gateway send it, and Spring, Werkzeug and ASP.NET Core put it before their links."""
    for listener in ("trusted", "untrusted"):
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
