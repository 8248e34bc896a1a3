"""A defect of the gateway in one stream of HTTP/2 ends that stream alone, on either side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.filters.api import Phase, Reply
from fastgw.http.http2.session import Session
from tests.support.broken_body import break_body
from tests.support.http2 import frames
from tests.support.http2.frames import Code, Type
from tests.support.http2.upstream_connection import World
from tests.support.memory import Plane, probe
from tests.unit.downstream.http2.test_tunnels import HTTP2, asks, begins, data_on, plane_of, resets, told
from tests.unit.downstream.test_drain import turns
from tests.unit.upstream.connections.test_http2_liveness import HEAD

if Session is not None:
    pass

UPLOAD = frames.block(*frames.pseudo(b"POST", b"/", b"a.test"))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def raises(*_: Any) -> None:
    raise RuntimeError("a defect")


async def answered(plane: Plane) -> None:
    plane.connects().sends(OK)
    await turns()


def test_a_stream_without_a_response_is_answered_500(monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        plane = plane_of()
        client = begins(plane)
        client.sends(frames.headers(UPLOAD, 1, False))
        with monkeypatch.context() as patched:
            patched.setattr("fastgw.exchange.body_relay.append_piece", raises)
            client.sends(frames.data(b"body", 1, end=False))
        await turns()
        assert data_on(client, 1).startswith(b'{"type":"urn:fastgw:fault:internal"')
        asks(client, 3)
        await answered(plane)
        assert data_on(client, 3) == b"ok"
        assert not client.lost

    asyncio.run(live())


def test_a_request_that_could_not_begin_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        plane = plane_of()
        client = begins(plane)
        with monkeypatch.context() as patched:
            patched.setattr("fastgw.downstream.http2.connection.read_http2_request", raises)
            asks(client, 1)
        await turns()
        assert resets(client) == {1: Code.INTERNAL_ERROR}
        asks(client, 3)
        await answered(plane)
        assert data_on(client, 3) == b"ok"

    asyncio.run(live())


def test_the_choice_of_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other streams continue."""

    async def live() -> None:
        targets = [{"url": "http://127.0.0.1:9"}, {"url": "http://127.0.0.1:10"}]
        plane = Plane({**HTTP2, "upstreams": {"u": {"targets": targets}}})
        client = begins(plane)
        with monkeypatch.context() as patched:
            patched.setattr(type(plane.gateway.upstreams["u"].balancer), "pick", raises)
            asks(client, 1)
            await turns()
        assert data_on(client, 1).startswith(b'{"type":"urn:fastgw:fault:internal"')
        assert [(record.status, record.fault) for record in plane.records] == [(500, "internal")]
        asks(client, 3)
        await answered(plane)
        assert data_on(client, 3) == b"ok"
        assert not client.lost

    asyncio.run(live())


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
@pytest.mark.parametrize("fails", ["action", "target"])
def test_a_request_whose_filter_has_waited(monkeypatch: pytest.MonkeyPatch, fails: str, again: bool) -> None:
    """It is answered 500; if that has the same defect, it is reset. Other streams continue."""

    async def live() -> None:
        permitted: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        waits = probe("waits", Phase.AUTHENTICATE, request=lambda exchange: permitted)
        targets = [{"url": "http://127.0.0.1:9"}, {"url": "http://127.0.0.1:10"}]
        plane = Plane({**HTTP2, "upstreams": {"u": {"targets": targets}}}, probes=[waits])
        client = begins(plane)
        asks(client, 1)
        with monkeypatch.context() as patched:
            if fails == "action":
                patched.setattr("fastgw.pipeline.request_pipeline.run_request", raises)
                patched.setattr("fastgw.pipeline.request_pipeline._run_action", raises)
            else:
                patched.setattr(type(plane.gateway.upstreams["u"].balancer), "pick", raises)
            if again:
                patched.setattr("fastgw.exchange.exchange.problem", raises)
            permitted.set_result(None)
            await turns()
        if again:
            assert resets(client) == {1: Code.INTERNAL_ERROR}
        else:
            assert data_on(client, 1).startswith(b'{"type":"urn:fastgw:fault:internal"')
        assert [record.fault for record in plane.records] == ["internal"]
        assert not client.lost

    asyncio.run(live())


@pytest.mark.parametrize("call", ["on_interim", "on_head", "on_data"])
def test_a_response_of_an_upstream_stream_fails_alone(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    async def live() -> None:
        with World() as world:
            world.receive(frames.settings() + frames.SETTINGS_ACK)
            other = world.connection.open_stream()
            other.send_request(world.listener, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"GET")  # type: ignore[arg-type]
            assert await world.pings() == 0  # both requests are sent
            with monkeypatch.context() as patched:
                patched.setattr(world.listener, call, raises, raising=False)
                world.receive(frames.headers(frames.block((b":status", b"103")), end=False) + HEAD)
                await turns()  # the head is told then, as the response lasts
                world.receive(frames.data(b"ok", 1))
            assert world.listener.faults == [Fault.INTERNAL]
            assert not world.aborted
            world.receive(frames.headers(frames.block((b":status", b"200")), 3) + frames.data(b"", 3))
            assert world.listener.faults == [Fault.INTERNAL]  # no further one

    asyncio.run(live())


def test_frames_of_the_other_streams_in_the_same_read_are_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        plane = plane_of()
        client = begins(plane)
        client.sends(frames.headers(UPLOAD, 1, False) + frames.headers(UPLOAD, 3, False))
        plane.connects()
        upstream = plane.connects()
        (connection,) = plane.server.connections
        break_body(connection._streams[1].exchange)
        client.sends(frames.data(b"one", 1) + frames.data(b"other", 3))
        await turns()
        assert b"other" in upstream.received
        upstream.sends(OK)
        await turns()
        assert data_on(client, 3) == b"ok"
        assert [kind for kind, _, _ in told(client)].count(Type.GOAWAY) == 0

    asyncio.run(live())
