"""Look-alikes of headers that the gateway sets: no upstream gets the client's, however the request goes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.table import for_each

AWS = {"region": "eu-central-1", "service": "lambda", "access_key_id": "a", "secret_access_key": "b"}
SETS = {"headers": {"request": {"set": {"X-Consumer": "of-{method}"}}}}
HANDSHAKE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
FORGED = (
    b"X_Consumer: forged\r\nX.Consumer: forged\r\nx-consumer: forged\r\n"
    b"X_Connection_Id: forged\r\nX.Event.Type: forged\r\nX_Route_Key: forged\r\n"
)


def configuration(origin: Origin) -> dict[str, Any]:
    def route(name: str, filters: dict[str, Any] | None = None, **action: Any) -> dict[str, Any]:
        return {"name": name, "paths": [f"/{name}"], "filters": SETS | (filters or {}), **action}

    names = ["x_consumer", "x.consumer", "x-consumer"]
    part = {"name": "p", "upstream": "u", "path": "/composed", "headers_to_pass": names}
    return {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "upstreams": {
            "u": {"targets": [origin.url]},
            "other": {"targets": [origin.url]},
            "aws": {"targets": [origin.url], "filters": {"credentials": {"aws_sigv4": AWS}}},
        },
        "routes": [
            route("forward", upstream="u"),
            route("mirror", {"mirror": {"upstream": "other"}}, upstream="u"),
            route("compose", compose={"parts": [part]}),
            route("lambda", **{"lambda": {"upstream": "aws", "function": "f"}}),
            route("events", websocket_api={"upstream": "u", "routes": {"$connect": {"path": "/connect"}}}),
        ],
    }


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin().serve() as origin:
        yield origin


@pytest.fixture(scope="module")
def gateway(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(configuration(origin), tmp_path_factory.mktemp("look_alikes")) as gateway:
        yield gateway


@for_each(
    ("name", "fields", "count", "forged"),
    [
        *(("forward", b"", 1, 3), ("mirror", b"", 2, 3), ("lambda", b"", 1, 3), ("compose", b"", 1, 0)),
        ("events", HANDSHAKE, 1, 0),
    ],
)
def test_no_upstream_gets_the_look_alikes_of_a_header_that_is_set(
    origin: Origin, gateway: Gateway, name: str, fields: bytes, count: int, forged: int
) -> None:
    """`forged`: those of the names of events, which are ordinary headers elsewhere."""
    origin.requests.clear()
    with Client(gateway.address()) as client:
        client.send(b"GET /%b HTTP/1.1\r\nHost: a\r\n%b%b\r\n" % (name.encode(), fields, FORGED))
        client.read_response_head()
    for request in origin.wait_for_requests(count):
        text = b"\n".join(b"%b: %b" % line for line in request.head.lines).lower() + request.body.lower()
        assert b"of-get" in text
        assert text.count(b"forged") == forged
        assert b"x_consumer" not in text
        assert b"x.consumer" not in text
