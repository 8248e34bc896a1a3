"""Request bodies that are kept for a second try: what all of them may have is the node's, over two workers."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.exchange.body_relay import MAX_KEPT
from fastgw.shm.held_body_budget import MOST_BYTES
from tests.e2e.slow import Held
from tests.e2e.test_processes import samples
from tests.support.client import Client
from tests.support.gateway import STOP_DEADLINE, Gateway, wait_until

BODY = 16 * 1024**2
FIT = MOST_BYTES // (BODY - MAX_KEPT)
"""So many of them are kept on the node."""
SENT = 3 * FIT
"""Of two workers one gets half of them at least, which is more than there is room for."""


class Second(Held):
    """Reads each request to its end. The first for a path is answered 503 once `go_on` is set, the others 200."""

    def __init__(self) -> None:
        self.read: Counter[bytes] = Counter()
        super().__init__()

    def _serve(self, taken: socket.socket) -> None:
        with taken, contextlib.suppress(OSError), taken.makefile("rb") as file:
            while line := file.readline():
                path = line.split()[1]
                while field := file.readline().strip():
                    if field.lower().startswith(b"content-length:"):
                        left = int(field.split(b":")[1])
                while left:
                    left -= len(file.read(min(left, 1 << 20)))
                self.read[path] += 1
                status = b"200 OK" if self.read[path] > 1 else b"503 Service Unavailable"
                if self.read[path] == 1:
                    self.go_on.wait(STOP_DEADLINE)
                taken.sendall(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)


@pytest.fixture
def service() -> Iterator[Second]:
    with Second() as service:
        yield service


def kept(gateway: Gateway) -> float:
    return samples(gateway.ready["status"])["fastgw_kept_body_bytes"]


@pytest.mark.landing
def test_what_is_kept_is_bounded_over_all_workers(tmp_path: Path, service: Second) -> None:
    config = {
        "workers": 2,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "status": {"address": "127.0.0.1:0"},
        "upstreams": {
            "u": {
                "targets": [f"http://{service.address}"],
                "retries": {"conditions": ["503"], "budget": "100%", "body_bytes": BODY},
                "health_checks": {"passive": None},
            }
        },
        "routes": [{"name": "r", "upstream": "u"}],
    }
    with Gateway(config, tmp_path) as gateway, contextlib.ExitStack() as stack:
        clients: list[Client] = []
        for number in range(SENT):  # one after the other: those that come first are kept whole
            client = stack.enter_context(gateway.connect(source=f"127.0.0.{2 + number}"))
            clients.append(client)
            client.send(b"PUT /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (number, BODY))
            client.send(bytes(BODY))
            wait_until(lambda path=b"/%d" % number: service.read[path] == 1, "the whole body", STOP_DEADLINE)
            assert kept(gateway) == min(number + 1, FIT) * (BODY - MAX_KEPT) <= MOST_BYTES
        service.go_on.set()
        statuses = [client.read_response(b"PUT").status for client in clients]
        assert statuses == [200] * FIT + [503] * (SENT - FIT)
        wait_until(lambda: kept(gateway) == 0, "all to be given back")
