"""WebSockets per consumer over the workers of a node: exactly so many, also when a worker is killed under them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from fastgw.http.websocket.handshake import accept_for
from tests.support.client import Client
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin, OriginConnection

LIMIT = 5
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
    + accept_for(KEY)
    + b"\r\n\r\n"
)


class Crowd:
    """WebSockets through a gateway, of clients with a key of their consumer."""

    def __init__(self, gateway: Gateway, origin: Origin) -> None:
        self._gateway, self._origin = gateway, origin
        self.open: list[Client] = []
        self._peers: list[Client | OriginConnection] = []

    def ask(self, consumer: str = "ann") -> bool:
        """Whether one more WebSocket of this consumer is let in; refused it is answered 429."""
        client = self._gateway.connect()
        self._peers.append(client)
        client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: key-of-%b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % (consumer.encode(), KEY)
        )
        listening = self._origin._listening
        ready = wait([client.sock, listening], client.deadline)
        if listening in ready:
            upstream = self._origin.accept()
            upstream.read_request_head()
            upstream.send(SWITCHED)
            self._peers.append(upstream)
        response = client.read_response()
        if response.status == 101:
            self.open.append(client)
            return True
        assert (response.status, b"too_many_at_once" in response.body) == (429, True)
        return False

    def fill(self) -> None:
        """Until all places are taken. Not one more is let in."""
        wait_until(lambda: len(self.open) == LIMIT or (self.ask() and len(self.open) == LIMIT), "all places taken")
        assert not any(self.ask() for _ in range(10))

    def forget_ended(self) -> int:
        """Return how many have ended."""
        ended = wait([each.sock for each in self.open], 0)
        self.open = [each for each in self.open if each.sock not in ended]
        return len(ended)

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


@contextlib.contextmanager
def crowd(tmp_path: Path) -> Iterator[tuple[Crowd, Gateway]]:
    with Origin() as origin:
        filters = {"key_auth": {}, "websocket": {"per_consumer": LIMIT}}
        config = {
            "workers": 3,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "consumers": [{"name": name, "key_auth": [{"key": f"key-of-{name}"}]} for name in ("ann", "bob")],
            "routes": [{"name": "all", "upstream": origin.url, "filters": filters}],
        }
        with Gateway(config, tmp_path) as gateway, contextlib.closing(Crowd(gateway, origin)) as met:
            yield met, gateway


@pytest.mark.landing
def test_each_consumer_has_exactly_so_many_over_all_workers(tmp_path: Path) -> None:
    with crowd(tmp_path) as (met, _):
        met.fill()
        assert met.ask("bob")
        met.open.pop()
        for client in met.open[:2]:
            client.reset()
        del met.open[:2]
        met.fill()


def test_those_of_a_killed_worker_are_counted_back_and_no_others(tmp_path: Path) -> None:
    with crowd(tmp_path) as (met, gateway):
        met.fill()
        gone = 0
        for pid in gateway.worker_pids:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: pid not in gateway.worker_pids, "the worker to be gone")  # type: ignore[misc]
            gone += met.forget_ended()
            met.fill()
        assert gone >= LIMIT
