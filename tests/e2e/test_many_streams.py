"""Thousands of streams of HTTP/2 while everything under them changes: nothing is lost that could be saved."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from pathlib import Path

from tests.e2e.programs import Nginx
from tests.e2e.test_upgrade import LONG, upgradable
from tests.support.gateway import wait_until
from tests.support.http2.client import Http2Client
from tests.support.http2.frames import Code, get
from tests.support.http2_peer import PREFACE, Http2Peer
from tests.support.peer import Unexpected

BOTH = {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}
STREAMS, CLIENTS, AT_ONCE = 10_000, 4, 50


class Asking(threading.Thread):
    """A client that asks 50 streams at a time. Those that were not processed, by GOAWAY or a reset that says so, are
    asked again on the next connection: that is what the protocol promises.
    """

    def __init__(self, address: str, goes_on: threading.Event) -> None:
        super().__init__(daemon=True)
        self._address, self._goes_on = address, goes_on
        self.answered = self.saved = self.broken = self.connections = 0
        self.lost: list[str] = []

    def run(self) -> None:
        while self._goes_on.is_set() or self.answered < STREAMS // CLIENTS:
            try:
                with Http2Client(self._address, deadline=LONG) as client:
                    self.connections += 1
                    self._use(client.begin())
            except OSError as error:
                self.lost.append(f"no connection: {error}")

    def _use(self, client: Http2Client) -> None:
        number = 1
        while self._goes_on.is_set() or self.answered < STREAMS // CLIENTS:
            streams = range(number, number + 2 * AT_ONCE, 2)
            number = streams[-1] + 2
            with contextlib.suppress(OSError):  # what is broken is seen below
                client.send(b"".join(get(stream=each) for each in streams))
            for each in streams:
                with contextlib.suppress(OSError, Unexpected):
                    client.wait_for_end(each)
            for each in streams:
                self._count(client, each)
            client.answers.clear()
            if client.goaways or client.ended:
                return

    def _count(self, client: Http2Client, stream: int) -> None:
        answer = client.answer(stream)
        if answer.ended:
            self.answered += 1
            if answer.status != 200:
                self.lost.append(f"status {answer.status}")
        elif answer.reset == Code.REFUSED_STREAM or (client.goaways and stream > client.goaways[-1][0]):
            self.saved += 1
        elif client.goaways or answer.reset is not None:
            self.lost.append(f"stream {stream}: {client.goaways} {answer.reset}")
        else:
            self.broken += 1  # with its connection, of which nothing was said


def test_10_000_streams_over_a_reload_an_upgrade_and_the_death_of_a_worker(tmp_path: Path) -> None:
    """Only streams of the killed worker's connections may break, and they are at most those in flight."""
    with Nginx(tmp_path / "origin", "location / { return 200 'fine'; }") as origin:
        routes = [{"name": "all", "upstream": origin.url}]
        (tmp_path / "gateway").mkdir()
        with upgradable(tmp_path / "gateway", listeners={"main": BOTH}, routes=routes) as gateway:
            goes_on = threading.Event()
            goes_on.set()
            clients = [Asking(gateway.address(), goes_on) for _ in range(CLIENTS)]
            for client in clients:
                client.start()

            def more_are_answered() -> None:
                before = sum(client.answered for client in clients)
                wait_until(lambda: sum(client.answered for client in clients) > before + 500, "more answers", LONG)

            more_are_answered()
            gateway.change(routes=[{**routes[0], "name": "same"}])
            gateway.reload()
            more_are_answered()
            gateway.upgrade()
            more_are_answered()
            assert sum(client.broken for client in clients) == 0
            before = gateway.serving()
            killed = min(before)
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: len(gateway.serving()) == 2 and killed not in gateway.serving(), "another worker", LONG)
            more_are_answered()
            goes_on.clear()
            for client in clients:
                client.join(4 * LONG)
            assert [client.lost for client in clients] == [[]] * CLIENTS
            assert sum(client.answered for client in clients) >= STREAMS
            assert sum(client.broken for client in clients) <= CLIENTS * AT_ONCE


class Holding:
    """An upstream that takes streams over HTTP/2, and answers none before it is told to."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.held: list[tuple[Http2Peer, int]] = []

    def __enter__(self) -> Holding:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                threading.Thread(target=self._read, args=(Http2Peer(sock, 4 * LONG),), daemon=True).start()

    def _read(self, peer: Http2Peer) -> None:
        with contextlib.closing(peer), contextlib.suppress(OSError, Unexpected):
            peer.read_exactly(len(PREFACE))
            peer.set({})
            while True:
                self.held.append((peer, peer.read_message().stream))

    def answer(self) -> None:
        held, self.held = self.held, []
        for peer, stream in held:
            peer.headers(stream, ((b":status", b"200"), (b"content-length", b"2")))
            peer.data(stream, b"ok", end=True)


def test_an_upgrade_with_1000_streams_to_an_upstream(tmp_path: Path) -> None:
    with Holding() as upstream, contextlib.ExitStack() as stack:
        upstreams = {"held": {"targets": [upstream.url], "protocol": "http2"}}
        routes = [{"name": "all", "upstream": "held"}]
        with upgradable(tmp_path, listeners={"main": BOTH}, upstreams=upstreams, routes=routes) as gateway:
            clients = [stack.enter_context(Http2Client(gateway.address(), deadline=LONG)) for _ in range(10)]
            numbers = range(1, 201, 2)
            for client in clients:
                client.begin().send(b"".join(get(stream=number) for number in numbers))
            wait_until(lambda: len(upstream.held) == 1000, "1000 streams", LONG)
            gateway.upgrade()
            with Http2Client(gateway.address(), deadline=LONG) as new:
                new.begin().send(get())
                wait_until(lambda: len(upstream.held) == 1001, "one more by a new worker", LONG)
                upstream.answer()
                assert new.wait_for(1).body == b"ok"
            for client in clients:
                assert {client.wait_for(number).body for number in numbers} == {b"ok"}
