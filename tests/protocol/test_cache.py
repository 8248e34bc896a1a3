"""The filter `cache` over two workers that share a store."""

from __future__ import annotations

import gzip
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.gateway import Gateway, wait_until
from tests.support.http2.translation import TranslatedClient
from tests.support.origin import Origin, OriginConnection, close, reset
from tests.support.peer import Unexpected
from tests.support.pieces_of_turns import PiecesOfTurns
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


@pytest.mark.parametrize("end", [close, reset])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
@pytest.mark.parametrize("directives", [b"stale-if-error=600", b"stale-if-error=600, stale-while-revalidate=600"])
def test_a_response_that_is_broken_off_does_not_replace_the_stored_one(
    gateway: Gateway, origin: Origin, directives: bytes, framing: bytes, end: Callable[[OriginConnection], None]
) -> None:
    """The stale response still takes the place of errors, after a fetch in the background as after one for a client."""
    fields = b'HTTP/1.1 200 OK\r\nCache-Control: max-age=0, %b\r\nETag: "a"\r\n' % directives
    origin.answer(fields + b"Content-Length: 5\r\n\r\nfirst", times=1)
    origin.answer(fields + framing, end, times=1)
    origin.answer(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\ndown")
    origin.serve()

    def body() -> bytes:
        with ExitStack() as stack, suppress(Unexpected, OSError):
            (client,) = asks(gateway, stack, 1)
            return client.read_response().body
        return b""

    assert body() == b"first"
    assert body() in (b"", b"first")
    wait_until(lambda: len(origin.requests) >= 2, "the second fetch")
    wait_until(lambda: body() == b"first" and len(origin.requests) >= 3, "the stored response")
    assert [body() for _ in range(10)] == [b"first"] * 10


def test_no_client_that_reads_along_is_cut_off_as_the_store_fills_up(origin: Origin, tmp_path: Path) -> None:
    """Each response states its length and has begun when the store is full."""
    config = {
        "workers": 2,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "caches": {"main": {"memory": "1MiB"}},
        "routes": [{"name": "r", "upstream": origin.url, "filters": {"cache": {"lock_timeout": "60s"}}}],
    }
    body = BODY * 10
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: %d\r\n\r\n" % len(body)
    with Gateway(config, tmp_path) as gateway, ExitStack() as stack:
        begun: list[tuple[list[Client], OriginConnection]] = []
        statuses: list[list[bytes]] = []
        for number in range(20):  # of 14 segments
            clients = asks(gateway, stack, 1, b"/%d" % number)
            upstream = origin.accept()
            upstream.read_request()
            upstream.send(head + body[:1000])
            statuses.append([status(clients[0])])
            if statuses[-1][0].endswith(b"stored"):
                readers = asks(gateway, stack, 4, b"/%d" % number)
                statuses[-1] += [status(client) for client in readers]
                clients += readers
            begun.append((clients, upstream))
        for clients, upstream in begun:
            upstream.send(body[1000:])
            assert [client.read_exactly(len(body)) == body for client in clients] == [True] * len(clients)
        assert sum(b"collapsed" in each for found in statuses for each in found) >= 4
        assert statuses[-1] == [b"fastgw; fwd=uri-miss; detail=store-full"]
        origin.assert_no_further_connection()


def test_a_response_that_is_not_stored_frees_all_that_wait(gateway: Gateway, origin: Origin) -> None:
    origin.answer(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nok")
    origin.serve()
    with ExitStack() as stack:
        clients = asks(gateway, stack, 30)
        assert [client.read_response().body for client in clients] == [b"ok"] * 30
    assert len(origin.requests) == 30


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


REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n%b\r\n"
TEXT = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"


def compressing(origin: Origin, folder: Path, turns: PiecesOfTurns) -> Gateway:
    """Return a gateway that notes the pieces that it compresses."""
    config = {
        "workers": 1,
        "extensions": ["pieces_of_turns"],
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "caches": {"main": {"memory": "256MiB", "max_object": "32MiB"}},
        "upstreams": {"u": {"targets": [{"url": origin.url}]}},
        "routes": [
            {
                "name": "r",
                "upstream": "u",
                "filters": {"cache": {}, "compress": {}, "pieces_of_turns": turns.settings},
            }
        ],
    }
    return Gateway(config, folder, environment=turns.environment)


def test_filters_get_one_piece_of_what_a_client_has_missed_in_a_turn_of_the_event_loop(
    origin: Origin, tmp_path: Path
) -> None:
    """Other connections are served between two pieces: to compress one may take milliseconds, and what compresses well
    does not fill the socket of the client for a long time.
    """
    turns = PiecesOfTurns(tmp_path)
    body = random.Random(1).randbytes(12_000_000) + b"all alike\n" * 500_000  # the first part fills all sockets
    with compressing(origin, tmp_path, turns) as gateway, gateway.connect(deadline=60) as slow:
        slow.send(REQUEST % b"Accept-Encoding: gzip\r\n")
        upstream = origin.accept()
        upstream.read_request()
        upstream.send(TEXT % len(body) + body)
        with gateway.connect(deadline=60) as other:
            assert other.exchange(REQUEST % b"").body == body  # all of it has arrived
        turns.clear()
        assert gzip.decompress(slow.read_response().body) == body
        noted = turns.read()
    assert sum(map(sum, noted)) > 5_000_000
    assert all(len(lengths) == 1 and lengths[0] <= 65_536 for lengths in noted)


def test_filters_get_one_piece_of_a_stored_body_in_a_turn_of_the_event_loop(origin: Origin, tmp_path: Path) -> None:
    turns = PiecesOfTurns(tmp_path)
    body = b"all alike\n" * 200_000
    with compressing(origin, tmp_path, turns) as gateway, gateway.connect(deadline=60) as client:
        client.send(REQUEST % b"")
        upstream = origin.accept()
        upstream.read_request()
        upstream.send(TEXT % len(body) + body)
        assert client.read_response().body == body
        turns.clear()
        hit = client.exchange(REQUEST % b"Accept-Encoding: gzip\r\n")
        assert (hit.get(b"cache-status") or b"").startswith(b"fastgw; hit")
        assert gzip.decompress(hit.body) == body
        noted = turns.read()
    assert sum(map(sum, noted)) == len(body)
    assert all(len(lengths) == 1 and lengths[0] <= 65_536 for lengths in noted)
