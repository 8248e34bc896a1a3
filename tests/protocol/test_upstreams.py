"""How targets are found and reached: names, several addresses, connections that do not come, and their limits."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.lanes import VERSIONS, Kind, Lanes, running
from tests.support.origin import OK, Origin

KINDS = {"three": Kind(upstream={"pool": {"max_connections": 3}})}


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(Lanes(tmp_path_factory.mktemp("limits"), KINDS, count=2, version=request.param))


@pytest.fixture(scope="module")
def deaf() -> Iterator[str]:
    """The URL of a target that lets no connection come about: its queue is full and nobody accepts."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin.serve()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, origin: Origin, deaf: str) -> Iterator[Gateway]:
    timeouts = {"connect": "400ms"}
    upstreams = {
        "deaf": {"targets": [{"url": deaf}], "timeouts": timeouts, "retries": {"max": 0}},
        "deaf-or-well": {"targets": [{"url": deaf}, {"url": origin.url}], "timeouts": timeouts},
        "named": {"targets": [{"url": f"http://localhost:{origin.port}"}]},
        "unknown": {"targets": [{"url": "http://no-such-name.invalid:80"}]},
    }
    config = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "upstreams": upstreams,
        "routes": [
            *({"name": name, "hosts": [f"{name}.test"], "upstream": name} for name in upstreams),
            {"name": "url", "hosts": ["url.test"], "upstream": origin.url},
        ],
    }
    with Gateway(config, tmp_path_factory.mktemp("upstreams")) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("host", "fault"),
    [("deaf", "connect_timeout"), ("unknown", "dns_failed")],
)
def test_a_target_that_cannot_be_reached(gateway: Gateway, host: str, fault: str) -> None:
    """RFC 9209 section 2.3: each reason has its own fault, and the client's connection serves on."""
    with gateway.connect() as client:
        assert_fault(client.exchange(f"GET / HTTP/1.1\r\nHost: {host}.test\r\n\r\n".encode()), fault)
        assert client.exchange(b"GET / HTTP/1.1\r\nHost: url.test\r\n\r\n").body == b"ok"


@pytest.mark.parametrize("host", ["named", "url", "deaf-or-well"])
def test_a_target_that_can(gateway: Gateway, host: str) -> None:
    """RFC 8305: a name of which one address refuses, a bare URL, and a target next to one that is deaf."""
    with gateway.connect() as client:
        for _ in range(2):
            request = f"POST / HTTP/1.1\r\nHost: {host}.test\r\nContent-Length: 2\r\n\r\nhi"
            assert client.exchange(request.encode()).body == b"ok"


def test_the_connection_limit_of_an_upstream_holds_in_parallel(lanes: Lanes) -> None:
    """Promise 12: ten clients at once, three connections: never a fourth, and all are served in turn."""
    lane = lanes.take("three")
    clients = [lane.client() for _ in range(10)]
    for client in clients:
        client.send(lane.get())
    connections = [lane.accept() for _ in range(3)]
    for _ in range(7):
        connections[0].answer(OK)
    lane.origin.assert_no_further_connection()
    for connection in connections:
        connection.answer(OK)
    assert [client.read_response().status for client in clients] == [200] * 10
    lane.origin.assert_no_further_connection()
    lane.end()


def test_a_retry_counts_against_the_limit(lanes: Lanes) -> None:
    """Promise 12: a connection that is lost gives its place back before another is opened."""
    lane = lanes.take("three")
    clients = [lane.client() for _ in range(3)]
    for client in clients:
        client.send(lane.get(b"/first"))
    connections = [lane.accept() for _ in range(3)]
    for connection in connections:
        connection.read_request()
    for connection in connections:
        connection.send(OK)
    for client in clients:
        client.read_response()
        client.send(lane.get(b"/second"))
    for connection in connections:
        connection.read_request()
    lane.origin.assert_no_further_connection()
    connections[0].close()
    again = lane.accept()
    again.answer(OK)
    for connection in connections[1:]:
        connection.send(OK)
    assert [client.read_response().status for client in clients] == [200] * 3
    lane.origin.assert_no_further_connection()
    lane.end()
