"""Tunnels of an HTTP/2 connection beside its other streams: each has its own time, in a drain and when nobody reads."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.exchange import Exchange
from fastgw.filters.api import Phase
from fastgw.http.websocket.handshake import accept_for
from tests.support.http2 import frames
from tests.support.http2.frames import Code, Type
from tests.support.memory import Plane, Wire, probe
from tests.unit.downstream.test_drain import turns

HTTP2 = {"listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http2"]}}}
KEY = re.compile(rb"sec-websocket-key: (\S+)", re.IGNORECASE)
ASKING = frames.block(
    *(*frames.pseudo(b"CONNECT", b"/socket", b"a.test"), (b":protocol", b"websocket")),
    (b"sec-websocket-version", b"13"),
)
ASKING_PLAINLY = (
    b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


def plane_of(**settings: Any) -> Plane:
    return Plane({**HTTP2, **settings})


def begins(plane: Plane, *entries: tuple[int, int]) -> Wire:
    client = plane.client()
    client.sends(frames.PREFACE + frames.settings(*entries))
    return client


def opens_tunnel(plane: Plane, client: Wire, stream: int = 1) -> Wire:
    client.sends(frames.headers(ASKING, stream, False))
    upstream = plane.connects()
    switches(upstream)
    return upstream


def switches(upstream: Wire) -> None:
    key = KEY.search(upstream.received)
    assert key is not None
    upstream.sends(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
        + accept_for(key[1])
        + b"\r\n\r\n"
    )


def asks(client: Wire, stream: int) -> None:
    client.sends(frames.headers(frames.block(*frames.pseudo(b"GET", b"/", b"a.test")), stream))


def told(client: Wire) -> list[tuple[int, int, bytes]]:
    """Type, stream and payload of each frame that the client has got."""
    made, at, sent = [], 0, client.received
    while at < len(sent):
        length = int.from_bytes(sent[at : at + 3], "big")
        made.append((sent[at + 3], int.from_bytes(sent[at + 5 : at + 9], "big"), sent[at + 9 : at + 9 + length]))
        at += 9 + length
    return made


def resets(client: Wire) -> dict[int, int]:
    return {stream: int.from_bytes(payload, "big") for kind, stream, payload in told(client) if kind == Type.RST_STREAM}


def data_on(client: Wire, stream: int) -> bytes:
    return b"".join(payload for kind, number, payload in told(client) if (kind, number) == (Type.DATA, stream))


def ends_of(client: Wire) -> list[int]:
    """Streams that END_STREAM has ended, which is read as the flag of the frame."""
    made, at, sent = [], 0, client.received
    while at < len(sent):
        if sent[at + 3] in (Type.DATA, Type.HEADERS) and sent[at + 4] & frames.Flag.END_STREAM:
            made.append(int.from_bytes(sent[at + 5 : at + 9], "big"))
        at += 9 + int.from_bytes(sent[at : at + 3], "big")
    return made


def test_requests_beside_a_tunnel_have_their_own_time_in_a_drain() -> None:
    """At the end of `drain.requests` what has no answer is answered 503, and what has begun is reset; tunnels go on."""

    async def live() -> None:
        plane = plane_of()
        client = begins(plane)
        tunnel = opens_tunnel(plane, client)
        asks(client, 3)
        plane.connects()
        asks(client, 5)
        plane.connects().sends(OK + b"ab")
        drain = asyncio.ensure_future(plane.server.drain(0, 60))
        await turns()
        plane.settle()
        assert data_on(client, 3).startswith(b'{"type":"urn:fastgw:fault:gateway_stopped"')
        assert resets(client) == {5: Code.INTERNAL_ERROR}
        assert [(each.fault, each.status) for each in plane.records] == [
            ("gateway_stopped", 503),
            ("gateway_stopped", 200),
        ]
        client.sends(frames.data(b"still here", 1, end=False))
        assert tunnel.received.endswith(b"still here")
        tunnel.sends(b"and here")
        await turns()
        assert data_on(client, 1) == b"and here"
        assert not client.lost
        tunnel.ends()
        client.sends(frames.data(b"", 1))
        plane.passes(2)
        await turns()
        plane.settle()
        assert client.lost
        assert (await drain).cut == 2

    asyncio.run(live())


def test_tunnels_with_less_time_than_requests_are_cut_beside_them() -> None:
    """RFC 8441 section 5: RST_STREAM with CANCEL stands for the reset of the tunnel's connection."""

    async def live() -> None:
        plane = plane_of()
        client = begins(plane)
        opens_tunnel(plane, client)
        asks(client, 3)
        upstream = plane.connects()
        drain = asyncio.ensure_future(plane.server.drain(60, 0))
        await turns()
        plane.settle()
        assert resets(client) == {1: Code.CANCEL}
        upstream.sends(OK + b"abcd")
        plane.passes(2)
        await turns()
        plane.settle()
        assert data_on(client, 3) == b"abcd"
        assert client.lost
        assert (await drain).cut == 1

    asyncio.run(live())


def test_a_tunnel_that_outlives_its_own_time_is_cut() -> None:
    async def live() -> None:
        plane = plane_of()
        client = begins(plane)
        opens_tunnel(plane, client)
        summary = await plane.server.drain(0, 0)
        plane.settle()
        assert (summary.cut, client.lost) == (1, True)
        assert [each.fault for each in plane.records] == ["gateway_stopped"]

    asyncio.run(live())


def test_a_slow_reader_of_a_tunnel_has_the_time_of_tunnels() -> None:
    """When its time is up while the connection waits for the client, it gets as much again, not that of answers."""
    upstreams = {"u": {"targets": [{"url": "http://127.0.0.1:9"}], "timeouts": {"tunnel_idle": "60s"}}}
    plane = plane_of(timeouts={"response_idle": "5s"}, upstreams=upstreams)
    client = begins(plane, (frames.Setting.INITIAL_WINDOW_SIZE, 10))
    tunnel = opens_tunnel(plane, client)
    tunnel.sends(b"x" * 1000)
    plane.passes(58)
    client.room = len(client.received)  # the client's socket is full
    client.sends(frames.ping() + frames.data(b"alive", 1, end=False))
    plane.passes(4)  # in which the stream's time is up
    client.takes()
    plane.passes(50)
    assert not resets(client)
    client.sends(frames.data(b"alive", 1, end=False))
    plane.passes(12)
    assert resets(client) == {1: Code.CANCEL}
    assert [each.fault for each in plane.records] == ["client_stalled"]


class Told:
    """A tunnel that a filter looks into."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def start(self, exchange: Exchange, early: bytes) -> bytes:
        self.events.append("start")
        return early

    def established(self) -> None:
        self.events.append("established")

    def drain(self) -> None:
        self.events.append("drain")

    def summary(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize("version", [1, 2])
def test_a_tunnel_that_begins_in_a_drain_is_told_of_it(version: int) -> None:
    """The drain began between the request and its 101: a filter that closes tunnels in a drain closes this one."""

    async def live() -> None:
        told = Told()
        looking = probe("looking", Phase.LIMIT_CONSUMER, tunnel=lambda exchange, response: told)
        plane = Plane(HTTP2 if version == 2 else {}, probes=[looking])
        if version == 2:
            client = begins(plane)
            client.sends(frames.headers(ASKING, 1, False))
        else:
            client = plane.client()
            client.sends(ASKING_PLAINLY)
        upstream = plane.connects()
        drain = asyncio.ensure_future(plane.server.drain(60, 60))
        await turns()
        plane.settle()
        switches(upstream)
        await turns()
        plane.settle()
        assert told.events == ["start", "established", "drain"]
        upstream.resets()
        client.resets()
        await drain

    asyncio.run(live())


@pytest.mark.parametrize("how", ["resets", "leaves"])
def test_a_client_that_closes_after_the_upstream_has_not_left(how: str) -> None:
    """As over HTTP/1.1, where its FIN is the second end of the tunnel: browsers reset a stream that has ended."""
    plane = plane_of()
    client = begins(plane)
    upstream = opens_tunnel(plane, client)
    upstream.sends(b"last words")
    upstream.ends()
    assert data_on(client, 1) == b"last words"
    assert ends_of(client) == [1]
    if how == "resets":
        client.sends(frames.reset())
    else:
        client.ends()
    plane.settle()
    assert [each.fault for each in plane.records] == [""]
    assert upstream.lost


@pytest.mark.parametrize("how", ["resets", "leaves"])
def test_a_client_that_leaves_before_it_has_read_the_end_has_left(how: str) -> None:
    plane = plane_of()
    client = begins(plane, (frames.Setting.INITIAL_WINDOW_SIZE, 3))
    upstream = opens_tunnel(plane, client)
    upstream.sends(b"last words")
    upstream.ends()
    assert data_on(client, 1) == b"las"
    if how == "resets":
        client.sends(frames.reset())
    else:
        client.ends()
    plane.settle()
    assert [each.fault for each in plane.records] == ["client_left"]


@pytest.mark.parametrize("changed", ["before", "meanwhile"])
def test_a_tunnel_ends_with_what_verified_its_client(changed: str) -> None:
    """It would never ask again. One that opens only then is ended as well."""

    async def live() -> None:
        plane = plane_of()
        client = begins(plane)
        protocol = client.protocol
        protocol.trust_as_of(plane.listener.trusts, b"one authority")
        client.sends(frames.headers(ASKING, 1, False))
        upstream = plane.connects()
        if changed == "before":
            switches(upstream)
            await turns()
        plane.listener.tls = SimpleNamespace(vouches=b"another")  # type: ignore[assignment]
        if changed == "before":
            protocol.end_outdated()
        else:
            switches(upstream)
        await turns()
        plane.settle()
        assert resets(client) == {1: Code.CANCEL}
        assert [each.fault for each in plane.records] == ["connection_outdated"]
        assert upstream.lost

    asyncio.run(live())


def test_after_the_expiry_of_the_clients_certificate_streams_are_refused_and_tunnels_continue() -> None:
    """Those in flight are completed; the end is announced."""

    async def live() -> None:
        plane = plane_of()
        client = begins(plane)
        upstream = opens_tunnel(plane, client)
        client.protocol.certificate_expired()
        client.sends(frames.get(stream=3))
        await turns()
        assert [(each.status, each.fault) for each in plane.records] == [(421, "connection_outdated")]
        assert frames.goaway(2**31 - 1) in client.received
        plane.passes(2)
        upstream.sends(b"\x81\x01a")
        await turns()
        assert data_on(client, 1) == b"\x81\x01a"
        client.resets()

    asyncio.run(live())
