"""A defect of the gateway in one request over HTTP/1 ends that request with a 500, and its connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from fastgw.exchange.action import Action
from fastgw.filters.api import Phase, Reply
from fastgw.operator_events import OperatorEvent
from fastgw.routing.table import Router
from tests.support.broken_body import break_body
from tests.support.memory import Plane, Wire, probe
from tests.unit.downstream.test_drain import turns
from tests.unit.filters.policies.cache.world import World

HOST = b"Host: a.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
UPLOAD = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 8\r\n\r\nbody"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OWN = {"routes": [{"name": "own", "respond": {"body": "own {path}"}}]}
TWO = {"upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9"}, {"url": "http://127.0.0.1:10"}]}}}
PASSES = probe("passes", Phase.AUTHENTICATE, request=lambda exchange: None)
EARLY = probe("early", Phase.ADMIT, request=lambda exchange: None)


def raises(*_: Any, **__: Any) -> None:
    raise RuntimeError("a defect")


class BrokenRouter(Router[Any]):
    find = staticmethod(raises)  # type: ignore[assignment]
    trees = None  # type: ignore[assignment]

    def __init__(self) -> None: ...


class BrokenAction(Action):
    begin = staticmethod(raises)


def assert_answered_500(plane: Plane, client: Wire, caplog: pytest.LogCaptureFixture) -> None:
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"\r\nConnection: close" in head
    assert body.startswith(b'{"type":"urn:fastgw:fault:internal"')
    assert body.count(b"HTTP/1.1") == 0
    assert client.ended
    assert not client.aborted
    assert [(record.status, record.fault) for record in plane.records] == [(500, "internal")]
    defects = [each for each in caplog.records if getattr(each, "event", None) is OperatorEvent.DEFECT]
    assert [str(each.exc_info[1]) for each in defects if each.exc_info] == ["a defect"]
    assert defects[0].levelno == logging.ERROR
    client.ends()
    plane.assert_quiet()


@pytest.mark.parametrize("request_", [GET, UPLOAD, GET + GET], ids=["get", "upload", "pipelined"])
@pytest.mark.parametrize("probes", [(), (PASSES,), (EARLY,)], ids=["fast", "filter", "early_filter"])
def test_the_choice_of_a_route(
    request_: bytes, probes: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plane = Plane(probes=probes)
    client = plane.client()
    monkeypatch.setattr(plane.listener, "router", BrokenRouter())
    client.sends(request_)
    assert_answered_500(plane, client, caplog)


@pytest.mark.parametrize("request_", [GET, UPLOAD + b"more"], ids=["get", "upload"])
def test_the_action_of_a_route(
    request_: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plane = Plane(OWN)
    client = plane.client()
    client.sends(GET)
    (route,) = plane.gateway.routes
    monkeypatch.setattr(route.rules[0][0].route, "action", BrokenAction())
    del plane.records[:]
    client.received = b""
    client.sends(request_)
    assert_answered_500(plane, client, caplog)


@pytest.mark.parametrize("probes", [(), (PASSES,)], ids=["fast", "filter"])
def test_the_choice_of_a_target(
    probes: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plane = Plane(TWO, probes=probes)
    client = plane.client()
    monkeypatch.setattr(type(plane.gateway.upstreams["u"].balancer), "pick", raises)
    client.sends(GET)
    assert_answered_500(plane, client, caplog)


def test_the_body_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    plane = Plane()
    client = plane.client()
    client.sends(UPLOAD)
    plane.connects()
    break_body(client.protocol.exchange)
    client.sends(b"more")
    assert_answered_500(plane, client, caplog)


def test_a_body_that_comes_with_its_head(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    plane = Plane()
    client = plane.client()
    monkeypatch.setattr("fastgw.exchange.body_relay.append_piece", raises)
    client.sends(UPLOAD)
    assert_answered_500(plane, client, caplog)


def test_a_response_that_has_begun_is_cut() -> None:
    plane = Plane()
    client = plane.client()
    client.sends(UPLOAD)
    plane.connects().sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    received = client.received
    assert received.endswith(b"half")
    break_body(client.protocol.exchange)
    client.sends(b"more")
    assert client.received == received
    assert client.aborted
    assert [record.fault for record in plane.records] == ["internal"]
    plane.assert_quiet()


def test_no_second_response_follows_one_whose_record_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = Plane(OWN)
    client = plane.client()
    monkeypatch.setattr(plane.server, "finish", raises)
    client.sends(GET)
    assert client.received.startswith(b"HTTP/1.1 200 ")
    assert client.received.count(b"HTTP/1.1 ") == 1
    assert client.aborted


def test_an_error_response_with_the_same_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is cut, and the log has both."""
    plane = Plane()
    client = plane.client()
    monkeypatch.setattr(plane.listener, "router", BrokenRouter())
    monkeypatch.setattr("fastgw.exchange.exchange.problem", raises)
    client.sends(GET)
    assert client.received == b""
    assert client.aborted
    assert [record.fault for record in plane.records] == ["internal"]
    plane.assert_quiet()


def test_other_connections_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = Plane()
    client, other = plane.client(), plane.client()
    with monkeypatch.context() as patched:
        patched.setattr(plane.listener, "router", BrokenRouter())
        client.sends(GET)
    other.sends(GET)
    plane.connects().sends(OK)
    assert other.received.endswith(b"ok")


async def after_waiting(settings: dict[str, Any], patches: Callable[[Plane], None]) -> tuple[Plane, Wire]:
    """Return the client of a request whose filter has waited, and which has continued with these patches."""
    permitted: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
    plane = Plane(settings, probes=[probe("waits", Phase.AUTHENTICATE, request=lambda exchange: permitted)])
    client = plane.client()
    client.sends(GET)
    assert client.received == b""
    patches(plane)
    permitted.set_result(None)
    await turns()
    return plane, client


def test_the_action_of_a_route_after_a_filter_has_waited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def patch(plane: Plane) -> None:
        monkeypatch.setattr(plane.gateway.routes[0].rules[0][0].route, "action", BrokenAction())

    async def live() -> None:
        plane, client = await after_waiting(OWN, patch)
        assert_answered_500(plane, client, caplog)

    asyncio.run(live())


def test_an_error_response_with_the_same_defect_after_a_filter_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is cut: nothing waits for a deadline that it no longer has."""

    def patch(plane: Plane) -> None:
        monkeypatch.setattr(plane.gateway.routes[0].rules[0][0].route, "action", BrokenAction())
        monkeypatch.setattr("fastgw.exchange.exchange.problem", raises)

    async def live() -> None:
        plane, client = await after_waiting(OWN, patch)
        assert client.received == b""
        assert client.aborted
        assert [record.fault for record in plane.records] == ["internal"]
        plane.assert_quiet()

    asyncio.run(live())


def test_no_second_response_follows_one_whose_record_fails_after_a_filter_has_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def live() -> None:
        _, client = await after_waiting(OWN, lambda plane: monkeypatch.setattr(plane.server, "finish", raises))
        assert client.received.startswith(b"HTTP/1.1 200 ")
        assert client.received.count(b"HTTP/1.1 ") == 1
        assert client.aborted

    asyncio.run(live())


def test_the_choice_of_a_target_for_a_response_that_will_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind another filter."""
    world = World(upstreams=TWO["upstreams"], route={"filters": {"headers": {"request": {"set": {"X-A": "b"}}}}})
    monkeypatch.setattr(type(world.plane.gateway.upstreams["u"].balancer), "pick", raises)
    client = world.client()
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert not client.aborted
    assert [(record.status, record.fault) for record in world.plane.records] == [(500, "internal")]


class BrokenTracer:
    begin_trace = staticmethod(raises)


def test_the_trace_of_a_response_from_memory(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of the response was sent, so the request is answered like any other with a defect."""
    plane = Plane({"routes": [{"name": "own", "respond": {"body": "own"}}]})
    client = plane.client()
    with monkeypatch.context() as patched:
        patched.setattr(plane.server, "tracer", BrokenTracer())
        client.sends(GET)
    assert_answered_500(plane, client, caplog)
