"""Whole requests through the data plane, in memory: all of a worker's work except sockets and the kernel.

A configuration is compiled, and server, pools and observer are created as in `runtime/worker/worker.py`; only the
transports are replaced. Output of a connection is collected in a list, input is put into its read buffer.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import uvloop

from bench.micro.heads import ANSWERS, CONTENT_LENGTH, POSTS, REQUESTS
from bench.micro.timing import Room
from fastgw import config
from fastgw.downstream import Server
from fastgw.eventloop.socket_transport import SocketTransport, StreamProtocol
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.filters import TYPES
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Outcome, Phase, Services
from fastgw.filters.policies.credentials.messages import FetchedRecord
from fastgw.gateway.compiler import compile as compile_tables
from fastgw.gateway.compiler import uses
from fastgw.gateway.tables import Gateway
from fastgw.http.http1.serializer import LAST_CHUNK, chunk
from fastgw.observe.observer import Observer
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.shm.memory import SharedMemory
from fastgw.shm.node_limits import own_counts
from fastgw.shm.rate_limit_table import own_table
from fastgw.sync.feeds import Feeds
from fastgw.upstream.client.http_client import Fetcher
from fastgw.upstream.connections import pool
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target

Messages = Sequence[tuple[bytes, bytes]]
"""Requests with their upstream responses."""

TOKEN_LINE = b"Authorization: Bearer %b\r\n" % (b"x" * 800)
TOKEN_S = 24 * 3600.0  # longer than any run
BODIES = [answer.partition(b"\r\n\r\n")[2] for answer in ANSWERS]


class Noop(Filter, name="noop", phase=Phase.TRANSFORM):
    """Filter that lets every request pass."""

    def build(self, env: Env) -> Hooks:
        def request(exchange: Exchange) -> Outcome:
            return None

        return Hooks(request=request)


class Transport(SocketTransport):
    """Transport whose peer accepts everything."""

    def __init__(self, protocol: StreamProtocol) -> None:
        self.written: Any = []
        self.write = self.written.append  # type: ignore[method-assign,assignment]  # no call of ours is timed
        self._closing = False
        self.begin(protocol)

    def receive(self, message: bytes) -> None:
        protocol: Any = self.protocol
        protocol.buffer[: len(message)] = message
        protocol.buffer_updated(len(message))

    def write_parts(self, head: bytes, body: bytes) -> None:
        self.written += head, body

    def get_write_buffer_size(self) -> int:
        return 0

    def has_unread(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def reset_on_close(self) -> None: ...

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing and self.protocol is not None:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


class Plane:
    """A worker's data plane with one client connection, and the upstream connection for its requests. `cut`: path
    prefix to strip.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any], cut: bytes = b"") -> None:
        file = folder / "gateway.json"
        file.write_text(json.dumps(configuration))
        loaded = config.load(str(file), {**TYPES, Noop.type_name: Noop}).config
        gateway = compile_tables(loaded, 1)
        self._cut = cut
        sources = {each.key: each for use in uses(loaded) for each in use.settings.feeds()}
        self._shows_token = bool(sources)
        self._feeds = Feeds({}, partial(self._say, sources))
        self._loop = uvloop.new_event_loop()
        self._gateway: Gateway | None = None
        self.turn(lambda: self._start(gateway))

    def _start(self, gateway: Gateway) -> None:
        words = ShmLayout(gateway)
        column = SharedMemory.create(gateway.layout, 1).columns[0]
        self._ground = WorkerLoop(self._loop)
        self._observer = Observer(logs=gateway.config.access_logs, column=words.counted(column), series=gateway.series)
        limits = words.connection_limit(column, gateway.limits), words.address_limit(column, gateway.limits)
        self._server = Server(self._ground, gateway, self._observer, *limits)
        self._gateway = gateway
        self._observer.start()
        self._ground.start()
        gateway.start(self.services(self._ground), column)
        self.client = self._accepted()

    def services(self, worker_loop: WorkerLoop) -> Services:
        counted = self._observer.count_cache_miss
        return Services(
            worker_loop, Fetcher(worker_loop), self._feeds, own_table(), own_counts(), count_cache_miss=counted
        )

    def _accepted(self) -> Transport:
        """Return a client connection."""
        assert self._gateway is not None
        return Transport(self._server.accepted(self._gateway.listeners[0], ("192.0.2.1", 40_000), 443))

    def _say(self, sources: Mapping[str, Any], key: str, known: bytes) -> None:
        """Return control's response to a request for a token, valid for a long time."""
        getter = sources[key].getter(lambda path: Path(path).read_bytes())
        until = time.time() + TOKEN_S
        said = FetchedRecord(material=getter.material, value=TOKEN_LINE, good_until_date=until, renew_from_date=until)
        self._loop.call_soon(self._feeds.deliver, key, said.packed())

    def turn(self, calls: Callable[[], None]) -> None:
        """Make `calls` inside the event loop, and run the callbacks of its next turn at once."""

        async def made() -> None:
            if self._gateway is not None:
                self._use_now(self._gateway)
            calls()
            await asyncio.sleep(0)

        self._loop.run_until_complete(made())

    def _use_now(self, gateway: Gateway) -> None:
        """Mark the connection as just used: valgrind is slow, and no POST is sent on a connection that seems idle for
        long.
        """
        for upstream in gateway.upstreams.values():
            for target in upstream.targets:
                for connection in target.idle:
                    connection.idle_since = self._ground.wheel.now

    def connect(self, request: bytes, response: bytes) -> None:
        """Run the first exchange, which opens the upstream connection."""

        async def opened(
            target: Target, protocol: StreamProtocol, *timeouts: float | None
        ) -> tuple[StreamProtocol, TargetAddress]:
            self.upstream = Transport(protocol)
            return protocol, (await target.addresses())[0]

        with patch.object(pool, "connect", opened):
            self.turn(lambda: self.client.receive(request))
            for _ in range(10):  # turns needed to open it: a task, its end, the borrower's turn
                self.turn(lambda: None)
        assert self.upstream.written, "the first request was not forwarded"
        self.turn(lambda: self.upstream.receive(response))
        self.client.written.clear()
        self.upstream.written.clear()

    def exchange(self, message: tuple[bytes, bytes]) -> None:
        request, response = message
        self.client.receive(request)
        self.upstream.receive(response)
        self.client.written.clear()
        self.upstream.written.clear()

    def exchange_alone(self, message: tuple[bytes, bytes]) -> None:
        """Run an exchange on a new connection."""
        self.client = self._accepted()
        self.exchange(message)

    def prove(self, messages: Messages) -> None:
        """Run each exchange once; all must be forwarded completely, with the body of the upstream's response."""

        def see() -> None:
            for (request, response), body in zip(messages, BODIES, strict=True):
                self.client.receive(request)
                forwarded = b"".join(self.upstream.written)
                self.upstream.receive(response)
                answer = b"".join(self.client.written)
                line = request[: request.index(b"\r\n")].replace(b" " + self._cut + b"/", b" /", 1)
                assert forwarded.startswith(line + b"\r\n"), (request, forwarded)
                assert not self._shows_token or TOKEN_LINE in forwarded, (request, forwarded)
                assert forwarded.endswith(request.partition(b"\r\n\r\n")[2]), (request, forwarded)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), (request, answer)
                assert body in answer, (response, answer)
                self.client.written.clear()
                self.upstream.written.clear()

        self.turn(see)

    def close(self) -> None:
        def stop() -> None:
            self._server.stop()
            assert self._gateway is not None
            self._gateway.stop()
            self._ground.close()

        self.turn(stop)
        self._observer.stop(60.0)
        self._loop.close()


def configuration(access_logs: Sequence[str] = (), filters: int = 0, routes: int = 100) -> dict[str, Any]:
    """Return the configuration of the benchmark `plain`: routes by prefix to one upstream, with this many no-op
    filters.
    """
    return {
        "version": 1,
        "listeners": {"public": {"address": "127.0.0.1:0"}},
        "filters": {f"noop{number}": {"type": "noop"} for number in range(filters)},
        "access_logs": [{"sink": sink, "format": "json"} for sink in access_logs],
        "upstreams": {"origin": {"targets": [{"url": "http://127.0.0.1:9"}], "host_header": "preserve"}},
        "routes": [
            {"name": f"svc{number}", "paths": [f"/svc{number}/*"], "upstream": "origin"} for number in range(routes)
        ],
    }


def rooms() -> Iterator[Room]:
    gets = list(zip(REQUESTS, ANSWERS, strict=True))
    posts = list(zip(POSTS, ANSWERS, strict=True))
    chunked = [(request, _in_chunks(answer)) for request, answer in gets]
    yield from _room("a GET", gets)
    yield from _room("a GET, JSON access log", gets, log=True)
    yield from _room("a GET, 1 filter", gets, filters=1)
    yield from _room("a GET, 9 filters", gets, filters=9)
    yield from _room("a POST of 1 KB", posts)
    yield from _room("a POST of 1 KB, 8 filters", posts, filters=8)
    yield from _room("a GET answered in chunks", chunked)
    yield from _room("a GET behind a load balancer", [(_told(request), answer) for request, answer in gets], proxy=True)
    yield from _room_alone("a GET on a connection of its own", gets)


def _room(name: str, messages: Messages, log: bool = False, filters: int = 0, proxy: bool = False) -> Iterator[Room]:
    with TemporaryDirectory() as folder:
        configured = configuration([f"{folder}/access.log"] if log else [], filters)
        if proxy:
            configured["listeners"]["public"]["trusted_proxies"] = ["192.0.2.0/24"]
        yield from room(name, messages, Path(folder), configured)


def _told(request: bytes) -> bytes:
    """Return the request as received from a proxy that terminates TLS."""
    fields = b"X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n\r\n"
    return request.replace(b"\r\n\r\n", b"\r\n" + fields, 1)


def _room_alone(name: str, messages: Messages) -> Iterator[Room]:
    """Return a microbenchmark with a client connection per request, as the request asks for."""
    last = [(request.replace(b"keep-alive", b"close"), answer) for request, answer in messages]
    with TemporaryDirectory() as folder, closing(Plane(Path(folder), configuration())) as plane:
        plane.connect(*messages[0])
        plane.prove(messages)
        yield Room(name, plane.exchange_alone, last, plane.turn)
        assert plane.client.is_closing()
        plane.turn(lambda: plane.exchange_alone(last[0]))
        assert plane.client.is_closing()


def room(
    name: str, messages: Messages, folder: Path, configured: Mapping[str, Any], cut: bytes = b""
) -> Iterator[Room]:
    """Return a microbenchmark. `cut`: as in `Plane`."""
    with closing(Plane(folder, configured, cut)) as plane:
        plane.connect(*messages[0])
        plane.prove(messages)
        yield Room(name, plane.exchange, messages, plane.turn)
        plane.prove(messages)  # the timed exchanges did not fail


def _in_chunks(answer: bytes) -> bytes:
    head, end, body = answer.partition(b"\r\n\r\n")
    return CONTENT_LENGTH.sub(b"Transfer-Encoding: chunked", head) + end + chunk(body) + LAST_CHUNK
