"""Request bodies that are held for filters: a client's share of the memory, and times for what comes slowly."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.faults import assert_refused
from tests.support.gateway import Gateway, wait_until
from tests.support.http2_peer import Http2Client
from tests.support.peer import DEADLINE, Peer
from tests.support.table import for_each

MIB = 1024**2
HELD = {"validate": {"body": {"inline": {"type": "array"}, "max_bytes": "8MiB"}}}
CRUMBS = 40
"""Maximum number of bytes that a slow client sends, one in each `PAUSE`: in all much more than any timeout."""
PAUSE = 0.25


def config(service: socket.socket, **more: Any) -> dict[str, Any]:
    return {
        "status": {"address": "127.0.0.1:0"},
        "listeners": {
            "main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"], "trusted_proxies": ["127.0.0.1"]}
        },
        "upstreams": {"service": {"targets": [f"http://127.0.0.1:{service.getsockname()[1]}"]}},
        "routes": [
            {"name": "held", "paths": ["/held"], "filters": HELD, "respond": {"body": "ok"}},
            {"name": "streamed", "upstream": "service"},
        ],
        **more,
    }


@pytest.fixture(scope="module")
def service() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE)
        yield listening


def head(path: bytes, framing: bytes, client: bytes = b"192.0.2.1") -> bytes:
    fields = b"Host: a.test\r\nContent-Type: application/json\r\nX-Forwarded-For: %b\r\n" % client
    return b"POST %b HTTP/1.1\r\n%b%b\r\n\r\n" % (path, fields, framing)


def sized(size: int, client: bytes) -> bytes:
    return head(b"/held", b"Content-Length: %d" % size, client)


def test_a_client_has_a_quarter_of_the_memory_for_held_bodies(service: socket.socket, tmp_path: Path) -> None:
    """Its own requests are refused beyond it, those of others are served."""
    with Gateway(config(service, workers=2), tmp_path) as gateway, contextlib.ExitStack() as opened:

        def held(mib: int, at_least: int, client: bytes) -> Client:
            """Send a body of so many MiB but for its end; wait until the node holds so many in total."""
            made: Client = opened.enter_context(gateway.connect())
            made.send(sized(mib * MIB, client) + b'["' + b"x" * (mib * MIB - 4))
            wait_until(lambda: gateway.sum_of("fastgw_kept_body_bytes") >= at_least * MIB - 100_000, "the body is held")
            return made

        bodies = [held(5, 5 * (1 + number), b"192.0.2.1") for number in range(3)]
        refused = opened.enter_context(gateway.connect())
        with contextlib.suppress(OSError):  # it may be closed before all was sent
            refused.send(sized(5 * MIB, b"192.0.2.1") + b'["' + b"x" * (5 * MIB - 10))
        problem = json.loads(assert_refused(refused, "overloaded").body)
        assert "your other requests" in problem["detail"]
        assert "share" in gateway.wait_for_record(fault="overloaded")["fault_detail"]
        other = held(8, 23, b"192.0.2.2")
        for client in (*bodies, other):
            client.send(b'"]')
            assert client.read_response().status == 200
        wait_until(lambda: gateway.sum_of("fastgw_kept_body_bytes") == 0, "nothing is held")


@pytest.fixture(scope="module")
def impatient(service: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    timeouts = {"request_body_idle": "1s", "request_headers": "1s", "request_body_rate": "1KiB"}
    with Gateway(config(service, workers=1, timeouts=timeouts), tmp_path_factory.mktemp("slow")) as made:
        yield made


def crumbs(client: Client | Http2Client, send: Callable[[], None]) -> int:
    """Send bytes slowly until the gateway answers; return their number."""
    for sent in range(CRUMBS):
        if select.select([client.sock], [], [], PAUSE)[0]:
            return sent
        send()
    return CRUMBS


def test_a_streamed_body_may_come_byte_by_byte(impatient: Gateway, service: socket.socket) -> None:
    """Chunk by chunk its time begins again: the lines before them are not held against it."""
    with impatient.connect() as client:
        client.send(head(b"/streamed", b"Transfer-Encoding: chunked"))
        with Peer(service.accept()[0]) as upstream:
            received = upstream.read_head()
            for _ in range(8):
                assert not select.select([client.sock], [], [], PAUSE)[0]
                client.send(b"1\r\nx\r\n")
            client.send(b"0\r\n\r\n")
            assert upstream.read_body(received, until_close=False).body == b"x" * 8
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert client.read_response().status == 200


@for_each(
    "path, begun",
    [
        (b"/held", b""),
        (b"/held", b'6\r\n["xxxx\r\n'),
        (b"/held", b"1;a="),
        (b"/streamed", b"1;a="),
        (b"/streamed", b"1\r\nx\r\n0\r\nA: "),
    ],
)
def test_what_comes_byte_by_byte_ends_in_a_total_time(impatient: Gateway, path: bytes, begun: bytes) -> None:
    """A held body, the line before a chunk and trailers: no byte renews their time, as none renews that of a head."""
    with impatient.connect() as client:
        crumb = b"1\r\nx\r\n" if path == b"/held" and not begun.endswith(b"=") else b"x"
        client.send(head(path, b"Transfer-Encoding: chunked") + begun)
        assert crumbs(client, lambda: client.send(crumb)) < CRUMBS
        assert_refused(client, "request_timeout")


def test_a_held_body_over_http2_ends_in_a_total_time(impatient: Gateway) -> None:
    with Http2Client(impatient.address()) as client:
        said = {b":method": b"POST", b":scheme": b"http", b":path": b"/held", b":authority": b"a.test"}
        client.headers(1, [*said.items(), (b"content-type", b"application/json")])
        client.wait_until_read()
        assert crumbs(client, lambda: client.data(1, b"x")) < CRUMBS
        assert client.read_message(1).status == 408
