"""The filter `cache` over two workers that share a store."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.gateway import Gateway
from tests.support.http2.translation import TranslatedClient
from tests.support.origin import Origin, OriginConnection
from tests.support.peer import Unexpected
from tests.support.tcp_table import tcp_rows

BODY = b"0123456789" * 1000
HEAD = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def gateway(origin: Origin, tmp_path: Path) -> Iterator[Gateway]:
    config = {
        "workers": 2,
        "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
        "upstreams": {"u": {"targets": [{"url": origin.url}]}},
        "routes": [{"name": "r", "upstream": "u", "filters": {"cache": {"lock_timeout": "60s"}}}],
    }
    with Gateway(config, tmp_path) as gateway:
        yield gateway


def asks(gateway: Gateway, stack: ExitStack, count: int, target: bytes = b"/") -> list[Client]:
    clients = [stack.enter_context(gateway.connect(deadline=60)) for _ in range(count)]
    for client in clients:
        client.send(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % target)
    return clients


def status(client: Client) -> bytes:
    return client.read_response_head().get(b"cache-status") or b""


def test_equal_misses_over_all_workers_are_one_request_and_the_answer_is_streamed(
    gateway: Gateway, origin: Origin
) -> None:
    with ExitStack() as stack:
        clients = asks(gateway, stack, 200)
        upstream = origin.accept()
        upstream.read_request()
        upstream.send(HEAD + BODY[:5000])
        statuses = [status(client) for client in clients]
        assert [client.read_exactly(5000) for client in clients] == [BODY[:5000]] * 200
        upstream.send(BODY[5000:])
        assert [client.read_exactly(5000) for client in clients] == [BODY[5000:]] * 200
        assert sum(b"collapsed" not in each for each in statuses) == 1
        (client,) = asks(gateway, stack, 1)
        assert status(client).startswith(b"fastgw; hit; ttl=")
        assert client.read_exactly(len(BODY)) == BODY
        origin.assert_no_further_connection()
    gateway.wait_for_record(cache="collapsed")
    gateway.wait_for_record(cache="hit")


def test_a_response_that_is_not_stored_frees_all_that_wait(gateway: Gateway, origin: Origin) -> None:
    origin.answer(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nok")
    origin.serve()
    with ExitStack() as stack:
        clients = asks(gateway, stack, 30)
        assert [client.read_response().body for client in clients] == [b"ok"] * 30
    assert len(origin.requests) == 30


@pytest.mark.twin
def test_hits_over_http2(gateway: Gateway, origin: Origin) -> None:
    origin.answer(HEAD.replace(b"\r\n", b"\r\nDate: %b\r\n" % formatdate(usegmt=True).encode(), 1) + BODY)
    origin.serve()
    with TranslatedClient(gateway.address(), 60) as client:
        for target in (b"/a", b"/a", b"/a", b"/b", b"/a"):  # the third one of `/a` is sent from memory
            response = client.exchange(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % target)
            assert response.body == BODY
        assert (response.get(b"cache-status") or b"").startswith(b"fastgw; hit; ttl=")
    gateway.wait_for_record(cache="hit", protocol="HTTP/2")
    assert len(origin.requests) == 2


def test_when_the_worker_that_fetches_is_killed_another_one_fetches(gateway: Gateway, origin: Origin) -> None:
    with ExitStack() as stack:
        clients = asks(gateway, stack, 20)
        upstream = origin.accept()
        upstream.read_request()
        os.kill(owner(gateway, upstream), signal.SIGKILL)
        upstream = origin.accept()
        upstream.read_request()
        upstream.send(HEAD + BODY)
        answered = 0
        for client in clients:
            with suppress(Unexpected, OSError):
                answered += client.read_response().body == BODY
        assert answered > 0
        origin.assert_no_further_connection()


def owner(gateway: Gateway, connection: OriginConnection) -> int:
    """Return the worker that has opened a connection."""
    ends = [f":{port:04X}" for port in (connection.sock.getpeername()[1], connection.sock.getsockname()[1])]
    rows = tcp_rows()
    (inode,) = (row[9] for row in rows if [each[-5:] for each in row[1:3]] == ends and row[9] != "0")
    for pid in gateway.worker_pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(file) == f"socket:[{inode}]":
                    return pid
    raise AssertionError("no worker has this connection")
