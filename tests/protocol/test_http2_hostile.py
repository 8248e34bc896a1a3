"""Hostile HTTP/2: each case has its answer, the gateway goes on, nothing is left of it, and no upstream sees of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.client import Client
from tests.support.gateway import Gateway, wait_until
from tests.support.http2.case import Case, unique
from tests.support.http2.client import Http2Client
from tests.support.http2.connection_cases import CONNECTION_CASES
from tests.support.http2.control_cases import CONTROL_CASES
from tests.support.http2.flood_cases import FLOOD_CASES
from tests.support.http2.frames import get
from tests.support.http2.head_cases import HEAD_CASES
from tests.support.origin import Origin, Request

CASES = unique(CONNECTION_CASES + HEAD_CASES + CONTROL_CASES + FLOOD_CASES)
CONNECTIONS = 256
PROOF = b"/is-served"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin.serve()
        origin.errors.clear()  # bodies that were broken off


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Gateway]:
    config = {
        "workers": 1,
        "status": {"address": "127.0.0.1:0"},
        "listeners": {
            "main": {"address": "127.0.0.1:0", "protocols": ["http2"]},
            "both": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]},
        },
        "limits": {"header_bytes": "8KiB", "connections": CONNECTIONS, "connections_per_ip": CONNECTIONS},
        "routes": [{"name": "all", "upstream": origin.url, "upgrade": []}],
    }
    with Gateway(config, tmp_path_factory.mktemp("hostile")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Gateway]:
    """A gateway that speaks HTTP/2 to its upstream, which is another gateway, before the origin."""
    listeners = {"main": {"address": "127.0.0.1:0", "protocols": ["http2"]}}
    behind = {
        "workers": 1,
        "listeners": listeners,
        "routes": [{"name": "all", "upstream": origin.url, "upgrade": []}],
    }
    with Gateway(behind, tmp_path_factory.mktemp("behind")) as last:
        target = f"http://{last.address()}"
        config = {
            "workers": 1,
            "listeners": listeners,
            "limits": {"header_bytes": "8KiB"},
            "upstreams": {"last": {"protocol": "http2", "targets": [target]}},
            "routes": [{"name": "all", "upstream": "last", "upgrade": []}],
        }
        with Gateway(config, tmp_path_factory.mktemp("first")) as first:
            yield first


def hostile(origin: Origin) -> list[Request]:
    """The requests that the cases have led to."""
    return [request for request in list(origin.requests) if request.request_target != PROOF]


def assert_serves(gateway: Gateway) -> None:
    with Http2Client(gateway.address()) as client:
        client.begin_plainly().send(get(path=PROOF))
        assert client.wait_for(1).status == 200


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(gateway: Gateway, origin: Origin, case: Case) -> None:
    _play(gateway, origin, case)


def _play(gateway: Gateway, origin: Origin, case: Case) -> None:
    before = len(hostile(origin))
    with Http2Client(gateway.address()) as client:
        case.run(client)
        if case.goes_on and not case.right.served and not client.goaways and not client.over:
            _assert_goes_on(client)
    assert_serves(gateway)
    reached = hostile(origin)[before:]
    if case.seen is not None:
        (request,) = reached
        request_line, body, lines = case.seen
        assert request.head.start_line == request_line + b" HTTP/1.1"
        assert request.body == body
        for name, value in lines.items():
            assert request.get(name) == value


@pytest.mark.parametrize("case", HEAD_CASES, ids=[case.name for case in HEAD_CASES])
def test_a_head_over_http2_on_both_sides(chained: Gateway, origin: Origin, case: Case) -> None:
    """It has the same answer, and the origin behind both sees the same of it."""
    _play(chained, origin, case)


def _assert_goes_on(client: Http2Client) -> None:
    """An error of one stream is not one of the connection: another stream is served, its fields are decoded."""
    stream = max([*client.answers, 1]) + 200
    client.send(get(stream=stream + 1 - stream % 2, path=PROOF))
    assert client.wait_for(stream + 1 - stream % 2).status == 200


def test_nothing_is_left(gateway: Gateway, origin: Origin) -> None:
    """No connection, no exchange; and all places in the limit of connections can be taken again."""
    wait_until(lambda: gateway.sum_of("fastgw_connections") == 0, "no connection")
    assert b"evil" not in origin.received.lower()
    wait_until(lambda: gateway.sum_of("fastgw_pool_in_use_connections") == 0, "no exchange")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(gateway.address("both"))) for _ in range(CONNECTIONS)]
        for client in clients:
            assert client.exchange(b"GET /is-served HTTP/1.1\r\nHost: a.test\r\n\r\n").status == 200
        assert gateway.sum_of("fastgw_connections") == CONNECTIONS
