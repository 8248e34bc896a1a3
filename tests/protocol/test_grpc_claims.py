"""`Content-Type: application/grpc` is the client's word: a call is what goes to an upstream with `protocol: grpc`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.gateway import Gateway
from tests.support.http2_peer import DATA, HEADERS, INTERNAL_ERROR, Fields, Http2Client, Http2Origin
from tests.support.origin import Origin
from tests.support.table import for_each

CALL: Fields = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
BEFORE_CALL: Fields = ((b"content-type", b"application/json"), *CALL)
ATTACK = b'{"a": "<script>alert(1)</script>"}'
LONG = b"x" * 200
ANSWER: Fields = ((b":status", b"200"), CALL[0], (b"grpc-status", b"0"))
MESSAGE = b"\0\0\0\0\x22" + ATTACK
TRUNCATED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"


class World(NamedTuple):
    gateway: Gateway
    plain: Origin
    calls: Http2Origin


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    waf = {"filters": {"waf": {"body_bytes": "128B", "long_body": "refuse"}}}
    routes = {
        "plain": {"upstream": "plain", **waf},
        "http2": {"upstream": "http2", **waf},
        "split": {"upstream": {"plain": 1, "gone": 1}, **waf},
        "calls": {"upstream": "calls", **waf},
        "fallback": {"upstream": "calls", "fallback": {"upstream": "plain"}, **waf},
        "closed": {"respond": {"status": 403}},
        "fault": {"upstream": "plain", "filters": {"fault": {"abort": {"grpc_status": "unavailable"}}}},
        "broken": {"upstream": "plain"},
        "shadow": {"upstream": "plain", "filters": {"waf": {"shadow": True}}},
        "shadow-calls": {"upstream": "calls", "filters": {"waf": {"shadow": True}}},
    }
    with Http2Origin() as calls:
        plain = Origin()
        upstreams = {
            "plain": {"targets": [plain.url]},
            "gone": {"targets": [plain.url], "protocol": "http1"},
            "http2": {"targets": [calls.url], "protocol": "http2"},
            "calls": {"targets": [calls.url], "protocol": "grpc"},
        }
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
            "upstreams": upstreams,
            "routes": [{"name": name, "paths": [f"/{name}"], **route} for name, route in routes.items()],
        }
        with Gateway(config, tmp_path_factory.mktemp("claims")) as gateway:
            yield World(gateway, plain, calls)
        plain.stop()


@pytest.fixture
def client(world: World) -> Iterator[Http2Client]:
    with Http2Client(world.gateway.address()) as client:
        yield client


@for_each(
    "path, fields, body, status",
    [
        *(
            (path, fields, body, status)
            for path in (b"/plain", b"/http2", b"/split", b"/fallback")
            for body, status in ((ATTACK, 403), (LONG, 413))
            for fields in (CALL, BEFORE_CALL, (*CALL, (b"content-length", b"%d" % len(body))))
        ),
        (b"/closed", CALL, b"", 403),
        (b"/fault", CALL, b"", 500),
    ],
)
def test_who_says_grpc_to_another_upstream_is_treated_like_anybody_else(
    world: World, client: Http2Client, path: bytes, fields: Fields, body: bytes, status: int
) -> None:
    refused = client.exchange(fields, body, method=b"POST", path=path)
    assert (refused.status, refused.get(b"grpc-status")) == (status, None)
    assert world.plain.accept_if_any() is None
    assert world.calls.none_waits()


def test_a_truncated_response_does_not_end_well_because_its_client_says_grpc(world: World, client: Http2Client) -> None:
    """A cache before the gateway would store the half for everybody."""
    stream = client.ask(CALL, path=b"/broken")
    upstream = world.plain.accept()
    upstream.read_request()
    upstream.send(TRUNCATED)
    upstream.close()
    message = client.read_message(stream)
    assert (message.body, message.ended, message.reset) == (b"half", False, INTERNAL_ERROR)


def test_shadow_mode_sees_what_the_filter_would_see(world: World, client: Http2Client) -> None:
    stream = client.ask(CALL, ATTACK, method=b"POST", path=b"/shadow")
    upstream = world.plain.accept()
    upstream.answer()
    assert client.read_message(stream).status == 200
    assert world.gateway.wait_for_record(path="/shadow")["shadow"].startswith("waf: refuse 403 waf_blocked")
    upstream.close()
    stream = client.ask(CALL, MESSAGE, method=b"POST", path=b"/shadow-calls")
    peer = world.calls.accept()
    peer.headers(peer.read_message().stream, ANSWER, end=True)
    assert client.read_message(stream).status == 200
    assert not world.gateway.wait_for_record(path="/shadow-calls").get("shadow")
    world.calls.close_connections()


def test_a_call_to_a_server_of_grpc_is_not_held_up(world: World, client: Http2Client) -> None:
    """Its client may wait for the first response before it sends more."""
    head = (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/calls"), (b":authority", b"a.test")
    client.headers(1, (*head, *CALL))
    client.data(1, MESSAGE)
    client.next = 3
    peer = world.calls.accept()
    assert peer.read_until_frame(DATA).payload == MESSAGE
    peer.headers(1, ANSWER, end=True)
    client.read_until_frame(HEADERS, 1)
    for number, body in ((3, MESSAGE), (5, LONG)):  # on one connection
        client.ask(CALL, body, method=b"POST", path=b"/calls")
        assert peer.read_message(number).body == body
        peer.headers(number, ANSWER, end=True)
        assert client.read_message(number).get(b"grpc-status") == b"0"
