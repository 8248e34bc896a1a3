"""A client that leaves takes its upstream request with it, wherever its bytes are held up.

How long it takes is noted in the test's report (`left_after_s`); the design says 0.1 s, a busy machine may need longer.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import select
import signal
import socket
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import fronting
from tests.e2e.programs import Nginx, Printing, Uvicorn, program
from tests.support.client import Client
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin, OriginConnection
from tests.support.peer import DEADLINE, Peer
from tests.support.tcp_table import tcp_rows

Leave = Callable[[Peer], None]
WAYS: dict[str, Leave] = {"FIN": Peer.close, "RST": Peer.reset}


@pytest.fixture
def between(tmp_path: Path) -> Iterator[tuple[Gateway, Origin]]:
    """On IPv6: the system's table of its connections is short, and `leaves_unread` reads it often."""
    with Origin() as origin:
        listeners = {"main": {"address": "[::1]:0"}}
        with Gateway({**fronting(workers=1, main=origin.url), "listeners": listeners}, tmp_path) as gateway:
            yield gateway, origin


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def leave(request: pytest.FixtureRequest) -> Leave:
    return request.param  # type: ignore[no-any-return]


def fill(peer: Peer) -> int:
    """Send until the gateway takes no more."""
    peer.sock.setblocking(False)
    sent = 0
    while select.select([], [peer.sock], [], 0.3)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += peer.sock.send(b"x" * 65_536)
    return sent


def send_until_paused(client: Client, gateway: Gateway) -> int:
    """Send until the gateway reads no more, but no byte beyond what its kernel takes.

    A FIN behind bytes that have no room there stays where the client is, and nobody could see it.
    """
    sent = 0
    while not leaves_unread(gateway, client):
        client.send(b"x" * 32_768)
        sent += 32_768
    wait_until(lambda: not unacknowledged(client.sock), "the gateway's kernel to take it")
    return sent


def unacknowledged(sock: socket.socket) -> int:
    queued = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
    return queued[0]


def leaves_unread(gateway: Gateway, client: Client) -> bool:
    """Whether bytes of the client have lain in the gateway's kernel for a while."""
    port = client.sock.getsockname()[1]
    until = time.monotonic() + 0.1
    while time.monotonic() < until:
        (row,) = (row for row in connections_of(gateway) if row[2].endswith(f":{port:04X}") and row[9] != "0")
        if row[4].endswith(":00000000"):
            return False
    return True


def connections_of(gateway: Gateway, listener: str = "main") -> list[list[str]]:
    """The rows of the system's table (proc(5)) for clients of this listener, as columns."""
    port = f":{gateway.port(listener):04X}"
    rows = tcp_rows("tcp6" if gateway.address(listener).startswith("[") else "tcp")
    return [row for row in rows if row[1].endswith(port) and row[3] == "01"]


def hangs_up(connection: OriginConnection, record_property: Callable[[str, object], None]) -> None:
    """Wait until the gateway has closed this connection, without a byte being read or sent; note how long it took."""
    since = time.monotonic()
    hangup = select.poll()
    hangup.register(connection.sock, select.POLLRDHUP)
    assert hangup.poll(DEADLINE * 1000), "the gateway still has the connection"
    record_property("left_after_s", round(time.monotonic() - since, 4))


def waiting(gateway: Gateway, origin: Origin) -> tuple[Client, OriginConnection]:
    """A client whose request the service has read and not answered."""
    client = gateway.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection = origin.accept()
    connection.read_request()
    return client, connection


@pytest.mark.landing
def test_while_it_waits_for_an_answer(
    between: tuple[Gateway, Origin], leave: Leave, record_property: Callable[[str, object], None]
) -> None:
    """Nothing moves, and the service still learns of it."""
    gateway, origin = between
    client, connection = waiting(gateway, origin)
    leave(client)
    hangs_up(connection, record_property)
    assert gateway.wait_for_record(path="/")["status"] == 499


def test_while_it_sends_pipelined_requests(
    between: tuple[Gateway, Origin], leave: Leave, record_property: Callable[[str, object], None]
) -> None:
    """It has sent more than the gateway reads ahead, so reading is paused; its leaving is seen all the same."""
    gateway, origin = between
    client, connection = waiting(gateway, origin)
    send_until_paused(client, gateway)
    leave(client)
    hangs_up(connection, record_property)


def test_amid_an_upload_that_is_read(
    between: tuple[Gateway, Origin], leave: Leave, record_property: Callable[[str, object], None]
) -> None:
    """The request ends short, so the service can tell that it is not whole."""
    gateway, origin = between
    client = gateway.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    connection = origin.accept()
    connection.read_until(b"hello")
    leave(client)
    hangs_up(connection, record_property)
    assert b"0\r\n\r\n" not in connection.read_to_end()


def test_amid_an_upload_that_nobody_reads(
    between: tuple[Gateway, Origin], leave: Leave, record_property: Callable[[str, object], None]
) -> None:
    """Reading the client is paused and the service's window is shut: the gateway gives up, and less than all was sent.

    The service cannot be told before it reads on; that the gateway has let go is seen in its log.
    """
    gateway, origin = between
    client = gateway.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
    connection = origin.accept()
    connection.read_request_head()
    sent = send_until_paused(client, gateway)
    since = time.monotonic()
    leave(client)
    assert gateway.wait_for_record(path="/")["status"] == 499
    record_property("left_after_s", round(time.monotonic() - since, 4))
    connection.sock.settimeout(DEADLINE)
    received = len(connection.unread)
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.sock.recv(1 << 20):
            received += len(chunk)
    assert received <= sent


def test_amid_a_download_that_it_does_not_read(
    between: tuple[Gateway, Origin], record_property: Callable[[str, object], None]
) -> None:
    """Reading the service is paused; when the client has gone its connection closes."""
    gateway, origin = between
    client, connection = waiting(gateway, origin)
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    fill(connection)
    client.reset()
    hangs_up(connection, record_property)
    assert gateway.wait_for_record(path="/", fault="client_left")["status"] == 200


@pytest.mark.landing
def test_curl_is_killed_amid_a_download(nginx: Nginx, front: Gateway, tmp_path: Path) -> None:
    """nginx has more to send; the gateway holds no connection of either for it."""
    (nginx.www / "endless.bin").touch()
    with (nginx.www / "endless.bin").open("r+b") as file:
        file.truncate(1 << 34)  # sparse
    with Printing(
        [
            program("curl"),
            "-sS",
            "-o",
            "/dev/null",
            "--limit-rate",
            "1M",
            f"{front.url('nginx')}/endless.bin?{tmp_path}",
        ]
    ) as curl:
        wait_until(lambda: any(row[4] > "00000000" for row in connections_of(front, "nginx")), "the download to begin")
        curl.process.send_signal(signal.SIGKILL)
    front.wait_for_record(path="/endless.bin", fault="client_left")


@pytest.mark.landing
def test_a_service_on_uvicorn_is_told(tmp_path: Path) -> None:
    """ASGI's `http.disconnect` comes while the service still works on the answer."""
    told: list[str] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            told.append(message["type"])
        told.append("http.disconnect")

    with Uvicorn(slow) as uvicorn, Gateway(fronting(workers=1, main=uvicorn.url), tmp_path) as gateway:
        with Client(gateway.address()) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
            wait_until(lambda: told == ["http.request"], "the request")
        wait_until(lambda: told == ["http.request", "http.disconnect"], "the service to be told")


def test_many_leave_at_once(between: tuple[Gateway, Origin]) -> None:
    """200 clients leave while they wait: 200 requests are cancelled, and the gateway goes on serving."""
    gateway, origin = between

    clients = [gateway.connect() for _ in range(200)]
    for client in clients:
        client.send(b"GET /left HTTP/1.1\r\nHost: a\r\n\r\n")
    connections = [origin.accept() for _ in clients]
    for connection in connections:
        connection.read_request()
    for client in clients:
        client.close()
    for connection in connections:
        connection.assert_ended()
    wait_until(lambda: [each["status"] for each in gateway.records].count(499) == 200, "200 records")
    with gateway.connect() as client:
        client.send(b"GET /stays HTTP/1.1\r\nHost: a\r\n\r\n")
        origin.accept().answer()
        assert client.read_response().body == b"ok"
