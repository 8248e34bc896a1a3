"""half_close: clients that end their direction of a connection before they have their response."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.peer import DEADLINE

GET = b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%b"
MANY = 40  # more than are served in one turn of the loop

# name -> (what the client sends before its FIN, statuses that it gets)
ROWS = {
    "fast path": (GET % b"/", [b"200"]),
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


@pytest.mark.parametrize("pure", ["", pytest.param("1", marks=pytest.mark.extended)], ids=["compiled", "pure"])
def test_what_was_received_whole_is_answered_where_the_listener_says_so(
    origin: Origin, tmp_path: Path, pure: str
) -> None:
    """RFC 9112 section 9.6: a FIN says that no further request comes. The last response ends the connection. By default
    the request in flight is cancelled, as the client may have gone.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check(tmp_path, pure, origin.url, f"http://127.0.0.1:{silent.getsockname()[1]}")


def check(folder: Path, pure: str, upstream: str, silent: str) -> None:
    address = "127.0.0.1:0"
    set_value = {"response": {"set": {"X-A": "{uuid}"}}}
    settings = {
        "workers": 1,
        "listeners": {"serve": {"address": address, "half_close": "serve"}, "cancel": {"address": address}},
        "routes": [
            {"name": "own", "paths": ["/own"], "respond": {}},
            {"name": "silent", "paths": ["/silent"], "upstream": silent},
            {"name": "down", "paths": ["/down"], "upstream": "http://127.0.0.1:1"},
            {"name": "filtered", "paths": ["/filtered"], "upstream": upstream, "filters": {"headers": set_value}},
            {"name": "all", "upstream": upstream},
        ],
    }
    environment = {**os.environ, "FASTGW_PURE_PYTHON": pure} if pure else None
    with Gateway(settings, folder, environment=environment) as gateway:
        for name, (sent, served) in ROWS.items():
            assert statuses(gateway.port("serve"), sent) == served, name
        assert statuses(gateway.port("cancel"), GET % b"/silent") == []
        for name in ("at once", "an incomplete body", "an incomplete head"):
            sent, served = ROWS[name]
            assert statuses(gateway.port("cancel"), sent) == served, name


def statuses(port: int, sent: bytes) -> list[bytes]:
    """Return the statuses that a client gets that sends this, ends its direction and reads to the end."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := client.recv(65_536):
            received += chunk
    return re.findall(rb"HTTP/1\.1 (\d+) ", received)
