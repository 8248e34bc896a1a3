"""concurrency over the workers of a node: exactly so many at a time, also when a worker is killed under them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin, OriginConnection

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
LIMIT = 7


class Crowd:
    """Clients of a gateway whose upstream answers when it is told to."""

    def __init__(self, gateway: Gateway, origin: Origin) -> None:
        self._gateway, self._origin = gateway, origin
        self.clients: list[Client] = []
        self.held: list[OriginConnection] = []

    def send(self) -> Client:
        self.clients.append(self._gateway.connect())
        self.clients[-1].send(GET)
        return self.clients[-1]

    def ask(self) -> bool:
        """Whether one more request is let in; refused it is answered 503."""
        client = self.send()
        listening = self._origin._listening
        ready = wait([client.sock, listening], client.deadline)
        if listening in ready:
            self.accept()
            return True
        response = client.read_response()
        assert (response.status, response.get(b"retry-after")) == (503, b"1")
        return False

    def accept(self) -> None:
        self.held.append(self._origin.accept())
        self.held[-1].read_request_head()

    def fill(self) -> None:
        """Until the upstream has as many as may be under way. Not one request more is let in."""
        wait_until(
            lambda: len(self.held) == LIMIT or (self.ask() and len(self.held) == LIMIT), "all places to be taken"
        )
        assert not any(self.ask() for _ in range(20))

    def close(self) -> None:
        for peer in (*self.clients, *self.held):
            peer.close()


@contextlib.contextmanager
def crowd(tmp_path: Path, **concurrency: object) -> Iterator[tuple[Crowd, Gateway]]:
    with Origin() as origin:
        filters = {"concurrency": {"limit": LIMIT, **concurrency}}
        settings = {
            "workers": 3,
            "status": {"address": "127.0.0.1:0"},
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"u": {"targets": [{"url": origin.url}], "filters": filters}},
            "routes": [{"name": "all", "upstream": "u"}],
        }
        with Gateway(settings, tmp_path) as gateway, contextlib.closing(Crowd(gateway, origin)) as met:
            yield met, gateway


@pytest.mark.landing
def test_exactly_so_many_are_let_in_over_all_workers(tmp_path):
    """Many at once; then one by one, for those that race for the last place may all miss it."""
    with crowd(tmp_path) as (met, gateway):
        clients = [met.send() for _ in range(60)]
        waiting = {client.sock for client in clients}
        while len(waiting) > LIMIT:
            ready = wait([*waiting], clients[0].deadline)
            assert ready, "nobody is refused any more, and too many are let in"
            waiting -= {*ready}
        for _ in waiting:
            met.accept()
        if len(met.held) < LIMIT:
            met.fill()
        assert not any(met.ask() for _ in range(20))
        with Client(gateway.ready["status"]) as client:
            told = client.exchange(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").body
        assert b'fastgw_concurrency_limit{filter="concurrency"} 7.0' in told
        assert b'fastgw_concurrency_in_flight_requests{filter="concurrency"} 7.0' in told
        met.held.pop().send(OK)
        met.fill()


def test_clients_that_leave_make_room(tmp_path):
    with crowd(tmp_path) as (met, _):
        met.fill()
        for client in met.clients:
            client.close()
        met.held.clear()
        met.fill()


@pytest.mark.landing
def test_what_a_killed_worker_had_under_way_is_free_and_nothing_else(tmp_path):
    with crowd(tmp_path) as (met, gateway):
        met.fill()
        os.kill(gateway.worker_pids[0], signal.SIGKILL)
        gateway.stderr.wait_for(lambda line: b"killed by SIGKILL" in line)
        ended = wait([each.sock for each in met.held], 0)
        met.held = [each for each in met.held if each.sock not in ended]
        met.fill()


@pytest.mark.landing
def test_a_reload_goes_on_counting(tmp_path):
    with crowd(tmp_path) as (met, gateway):
        met.fill()
        file = tmp_path / "gateway.json"
        file.write_text(file.read_text().replace(f'"limit": {LIMIT}', f'"limit": {LIMIT}, "retry_after": "1s"'))
        gateway.signal(signal.SIGHUP)
        gateway.stderr.wait_for(lambda line: b"generation 2" in line)
        assert not any(met.ask() for _ in range(10))
        met.held.pop().send(OK)
        met.fill()
