"""half_close: clients that end their direction of a connection before they have their response."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.certificates import Certificates, client_tls
from tests.support.gateway import Gateway
from tests.support.http2_peer import Http2Client, Http2Message
from tests.support.origin import Origin
from tests.support.peer import DEADLINE
from tests.support.secured import InMemory

GET = b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%b"
UPLOAD = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a.test")]
MANY = 40  # more than are served in one turn of the loop

# name -> (what the client sends before its FIN, statuses that it gets)
ROWS = {
    "no filters": (GET % b"/", [b"200"]),
    "filters": (GET % b"/filtered", [b"200"]),
    "a fault": (GET % b"/down", [b"502"]),
    "a body": (POST % (b"/", 2, b"hi"), [b"200"]),
    "a large body": (POST % (b"/", 1 << 20, b"x" * (1 << 20)), [b"200"]),
    "pipelined": (GET % b"/" + GET % b"/own" + GET % b"/filtered" + GET % b"/own", [b"200"] * 4),
    "at once": (GET % b"/own" * MANY, [b"200"] * MANY),
    "an incomplete request behind": (GET % b"/" + b"GET /own HTTP/1.1\r\nHost", [b"200"]),
    "an incomplete body behind": (GET % b"/" + POST % (b"/silent", 2, b"h"), [b"200"]),
    "an incomplete body": (POST % (b"/silent", 2, b"h"), []),
    "an incomplete head": (b"GET / HTTP/1.1\r\nHost", []),
}


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as made:
        yield made.serve()


# what ends the client's direction. A missing close_notify is an end too: requests declare their length.
ENDS: dict[str, Callable[[InMemory, socket.socket], None]] = {
    "close_notify and FIN": lambda client, _: client.shutdown(socket.SHUT_WR),
    "close_notify": lambda client, _: client.notify_end(),
    "FIN": lambda _, plain: plain.shutdown(socket.SHUT_WR),
}


def test_what_was_received_whole_is_answered_where_the_listener_says_so(origin: Origin, tmp_path: Path) -> None:
    """RFC 9112 section 9.6 and RFC 8446 section 6.1: the end of a direction says that no further request comes. The
    last response ends the connection. By default the request in flight is cancelled, as the client may have gone.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check(tmp_path, origin.url, f"http://127.0.0.1:{silent.getsockname()[1]}")


def check(folder: Path, upstream: str, silent: str) -> None:
    authority = Certificates(folder)
    certificate, key = authority.issue("a.test")
    tls = {"certificates": [{"certificate": certificate, "key": key}]}
    plain = {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}
    set_value = {"response": {"set": {"X-A": "{uuid}"}}}
    settings = {
        "workers": 1,
        "listeners": {
            "serve": {**plain, "half_close": "serve"},
            "serve_tls": {**plain, "half_close": "serve", "tls": tls},
            "cancel": plain,
            "cancel_tls": {**plain, "tls": tls},
        },
        "routes": [
            {"name": "own", "paths": ["/own"], "respond": {}},
            {"name": "silent", "paths": ["/silent"], "upstream": silent},
            {"name": "down", "paths": ["/down"], "upstream": "http://127.0.0.1:1"},
            {"name": "filtered", "paths": ["/filtered"], "upstream": upstream, "filters": {"headers": set_value}},
            {"name": "all", "upstream": upstream},
        ],
    }
    with Gateway(settings, folder) as gateway:
        ways = {"plain": ("", plainly(gateway))} | {
            name: ("_tls", over_tls(gateway, client_tls(authority), end)) for name, end in ENDS.items()
        }
        for way, (suffix, send) in ways.items():
            for name, (sent, served) in ROWS.items():
                assert statuses(send("serve" + suffix, sent)) == served, (way, name)
            assert statuses(send("cancel" + suffix, GET % b"/silent")) == [], way
            for name in ("at once", "an incomplete body", "an incomplete head"):
                sent, served = ROWS[name]
                assert statuses(send("cancel" + suffix, sent)) == served, (way, name)
        for listener in ("serve", "cancel"):
            assert streams_answered(gateway.address(listener)) == [200, 200], listener


Send = Callable[[str, bytes], bytes]
"""Sends bytes to a listener, ends the client's direction, and returns what is received."""


def plainly(gateway: Gateway) -> Send:
    def send(listener: str, sent: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port(listener)), DEADLINE) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            return received_by(client)

    return send


def over_tls(gateway: Gateway, tls: ssl.SSLContext, end: Callable[[InMemory, socket.socket], None]) -> Send:
    def send(listener: str, sent: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port(listener)), DEADLINE) as plain:
            client = InMemory(plain, tls)
            client.sendall(sent)
            end(client, plain)
            return received_by(client)

    return send


def received_by(client: socket.socket | InMemory) -> bytes:
    """Read to the end, or to a reset: a cancelled request ends so."""
    received = b""
    with suppress(ConnectionError):
        while chunk := client.recv(65_536):
            received += chunk
    return received


def statuses(received: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d+) ", received)


def streams_answered(address: str) -> list[int]:
    """Return the statuses of two streams that the client ends (END_STREAM), the second one behind its GOAWAY."""
    with Http2Client(address) as client:
        client.takes = False  # the gateway closes behind the last response
        first = client.ask()
        second = client.next
        client.messages[second] = Http2Message(second)
        client.headers(second, UPLOAD)
        client.goaway(0)
        client.data(second, b"hi", end=True)
        return [client.read_message(stream).status for stream in (first, second)]
