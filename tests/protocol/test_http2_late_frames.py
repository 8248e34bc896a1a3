"""Frames on HTTP/2 streams that have ended, from clients and from upstreams: what was in transit costs nobody anything,
and a flood ends its connection alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.gateway import Gateway
from tests.support.http2_peer import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    OK,
    RST_STREAM,
    Fields,
    Http2Client,
    Http2Origin,
    Http2Peer,
    answer,
    frame,
)
from tests.support.table import for_each

ENHANCE_YOUR_CALM = 11
GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
HINTS = b"\x00\x07:status\x03103"
POST: Fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a.test"))
FLOODS = {
    "DATA": (frame(DATA, 0, 1, bytes(16_000)), 10),
    "empty DATA": (frame(DATA, 0, 1), 200_000),
    "interim responses": (frame(HEADERS, END_HEADERS, 1, HINTS), 100),
    "trailers": (frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x03x-t\x011"), 100),
    "resets": (frame(RST_STREAM, 0, 1, bytes(4)), 100),
}


class World(NamedTuple):
    gateway: Gateway
    origin: Http2Origin


@pytest.fixture(scope="module")
def gateway_and_origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Http2Origin() as origin:
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
            "limits": {"body_bytes": "1KiB"},
            "upstreams": {
                "u": {"targets": [origin.url], "protocol": "http2", "retries": {"max": 0}, "health_checks": {}}
            },
            "routes": [{"name": "r", "upstream": "u"}],
        }
        with Gateway(config, tmp_path_factory.mktemp("late")) as gateway:
            yield World(gateway, origin)


@pytest.fixture
def world(gateway_and_origin: World) -> Iterator[World]:
    """Each test has a connection to the origin of its own."""
    yield gateway_and_origin
    gateway_and_origin.origin.close_connections()


def cancelled(world: World) -> Http2Peer:
    """Return the upstream's side of a connection whose only stream, 1, was cancelled."""
    client = world.gateway.connect()
    client.send(GET)
    peer = world.origin.accept()
    peer.read_message()
    client.close()
    peer.read_until_frame(RST_STREAM, 1)
    return peer


def assert_is_ended(peer: Http2Peer, flood: tuple[bytes, int]) -> None:
    unit, count = flood
    with contextlib.suppress(OSError):  # with bytes that it has not read, its GOAWAY may be lost
        peer.send(unit * count)
        assert peer.read_until_frame(GOAWAY).code == ENHANCE_YOUR_CALM


def assert_serves(world: World) -> None:
    """A request on a further connection to the upstream."""
    with world.gateway.connect() as client:
        client.send(GET)
        answer(world.origin.accept())
        assert client.read_response().status == 200
    world.origin.close_connections()


@for_each("flood", FLOODS)
def test_a_flood_of_an_upstream_ends_its_connection_alone(world: World, flood: str) -> None:
    assert_is_ended(cancelled(world), FLOODS[flood])
    assert_serves(world)


@for_each("flood", ["DATA", "empty DATA", "resets"])
def test_a_flood_of_a_client_ends_its_connection_alone(world: World, flood: str) -> None:
    with Http2Client(world.gateway.address()) as client:
        client.headers(1, POST)
        client.rst(1, CANCEL)
        assert_is_ended(client, FLOODS[flood])
    assert_serves(world)


def test_endless_interim_responses_end_their_request_and_then_the_connection(world: World) -> None:
    """RFC 9110 section 15.2: there may be several, not any number."""
    with world.gateway.connect() as client:
        client.send(GET)
        peer = world.origin.accept()
        peer.read_message()
        peer.send(FLOODS["interim responses"][0] * 20)
        assert peer.read_until_frame(RST_STREAM).stream == 1
        assert_is_ended(peer, FLOODS["interim responses"])
        assert [client.read_response_head().status for _ in range(16)] == [103] * 16
        assert client.read_response().status == 502
    assert_serves(world)


def test_what_an_upstream_has_sent_before_it_is_told_of_cancelled_requests_costs_nobody_anything(world: World) -> None:
    with world.gateway.connect() as keeps:
        keeps.send(GET)
        peer = world.origin.accept()
        peer.read_message()
        clients = [world.gateway.connect() for _ in range(20)]
        for client in clients:
            client.send(GET)
        streams = [peer.read_message().stream for _ in clients]
        for client in clients:
            client.close()
        for _ in streams:
            peer.read_until_frame(RST_STREAM)
        for stream in streams:
            peer.headers(stream, [(b":status", b"200")])
            for length in (16_384, 16_384, 16_384, 16_383):
                peer.data(stream, bytes(length))
            peer.headers(stream, [(b"x-t", b"1")], end=True)
        peer.headers(1, OK)
        peer.data(1, b"ok", end=True)
        assert keeps.read_response().body == b"ok"


def test_an_upload_in_transit_when_it_is_refused_costs_the_connection_nothing(world: World) -> None:
    with Http2Client(world.gateway.address()) as client:
        client.wait_until_read()
        streams = range(1, 41, 2)
        for stream in streams:
            client.headers(stream, POST)
            client.data(stream, bytes(1025))
        for stream in streams:
            assert client.read_head(stream).status == 413
        for stream in streams:
            while client.messages[stream].reset is None and client.room(stream) >= 4096:
                client.data(stream, bytes(4096))
                if client.room(stream) < 4096:
                    client.data(stream, b"", end=True)
        client.next = 41
        asked = client.ask()
        answer(world.origin.accept())
        assert client.read_message(asked).status == 200
        assert client.goaways == []
