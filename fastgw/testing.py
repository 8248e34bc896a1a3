"""Tests of filters without a network: bytes in, bytes out, through the real data plane.

`run(MyFilter(…), b"GET / HTTP/1.1\\r\\n…")` sends a request through one or more filters to an upstream that answers
with `response`, and returns what the upstream got, what the client got and what was decided. `configured(MyFilter,
a=…)` decodes settings like a configuration file, and reports errors in them. See docs/guides/write-a-filter.md for
both.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from time import monotonic, time
from types import MappingProxyType
from typing import Any, Final, TypeVar

from fastgw import config
from fastgw.cache.shared.shared_store import own_store
from fastgw.config.base.value_types import Address, Url
from fastgw.config.settings import gateway as configuration
from fastgw.config.settings.gateway import Config, FilterUse
from fastgw.downstream import Server
from fastgw.downstream.http1.connection import Http1ClientConnection
from fastgw.errors import Fault
from fastgw.eventloop.socket_transport import SocketTransport, StreamProtocol
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.filters.api import Consumer, Env, Exchange, Filter, Hooks, Phase, Services
from fastgw.forwarded_headers import Peer
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import Gateway
from fastgw.http.fields import Fields
from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import find_head_end, parse_request, parse_response
from fastgw.observe.access_log.finished_exchange import FinishedExchange, record_of
from fastgw.observe.access_log.record import Record
from fastgw.observe.metrics.families import FilterEvent
from fastgw.shm.node_limits import own_counts
from fastgw.shm.rate_limit_table import own_table
from fastgw.sync.feeds import Feeds
from fastgw.upstream.client.http_client import Fetched, FetchFailed
from fastgw.upstream.connections.http1_connection import UpstreamConnection
from fastgw.upstream.connections.pooled_connection import Lender, PooledConnection
from fastgw.upstream.targets.target import Target

__all__ = ["OK", "ConfigError", "Consumer", "Fetched", "Ran", "configured", "run"]

ConfigError = config.ConfigError
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
"""Default response of the upstream."""
Answer = Fetched | Exception | Callable[..., Fetched]
"""Response of a server that a filter calls: a response, an exception to raise, or a function with the arguments of
`Fetcher.fetch`.
"""
GRACE_S: Final = 1.0
"""Seconds that a test waits longer than a filter's timeout, because a busy machine may stall."""

F = TypeVar("F", bound=Filter)


def configured(filter_type: type[F], **settings: Any) -> F:
    """Return the settings of a filter, decoded as from a file: durations as `10s`, secrets as strings, and so on. They
    can name one upstream, `upstream`.

    Raises `ConfigError`, whose text has one line for each error.
    """
    document = {
        "version": 1,
        "listeners": {"test": {"address": "127.0.0.1:0"}},
        "upstreams": {"upstream": {"targets": [{"url": "http://upstream"}]}},  # the upstream of `run`
        "filters": {filter_type.type_name: settings},
        "status": None,
        "admin": None,
    }
    types = {filter_type.type_name: filter_type}
    loaded = config.load_text(json.dumps(document).encode(), "/test.json", types)
    use = loaded.config.filters[filter_type.type_name]
    assert use is not None
    made: F = use.settings
    return made


class Ran:
    """Result of a request."""

    def __init__(self) -> None:
        self.requests: tuple[bytes, ...] = ()
        """Requests that the upstream received: () if the request has not reached it, two if it was sent again."""
        self.received = b""
        """All bytes that the client received."""
        self.waited = False
        """Whether a filter had to wait: its request step returned an awaitable."""
        self.pieces: tuple[bytes, ...] = ()
        """The request's body as the upstream received it, in pieces."""
        self.events: tuple[tuple[str, str], ...] = ()
        """Counted events of filters: instance, and `raised`, `late`, or the decision of a filter in shadow mode."""
        self.exchange: Exchange
        """The exchange after its end: `consumer`, `claims`, `request_id` and so on."""
        self.record: Record
        """Record for the access log."""

    def __repr__(self) -> str:
        return f"<Ran {self.status}{f' {self.fault}' if self.fault else ''}, {'' if self.sent else 'not '}sent>"

    @property
    def sent(self) -> bytes:
        """Return the last request that the upstream received; b"" if none has reached it."""
        return self.requests[-1] if self.requests else b""

    @property
    def passed(self) -> bool:
        """Whether the request has reached the upstream."""
        return bool(self.sent)

    @property
    def status(self) -> int:
        """Status of the response to the client."""
        return self.record.status

    @property
    def fault(self) -> str:
        """Return the name of the response's fault; "" for none."""
        return self.record.fault

    @property
    def why(self) -> str:
        """Detail of the fault in the log."""
        return self.record.fault_detail

    @property
    def shadowed(self) -> str:
        """Decisions of filters in shadow, as in the log."""
        return self.record.shadowed

    @property
    def fields(self) -> Fields:
        """Header fields of the response."""
        head, _ = _final(self.received)
        return parse_response(head, b"GET").fields()

    @property
    def body(self) -> bytes:
        """Body of the response."""
        head, rest = _final(self.received)
        return body_reader(parse_response(head, self.exchange.method)).feed(rest)

    @property
    def sent_fields(self) -> Fields:
        """Header fields that the upstream received."""
        return parse_request(self.sent[: find_head_end(self.sent)]).fields()

    @property
    def sent_body(self) -> bytes:
        """Body that the upstream received."""
        end = find_head_end(self.sent)
        return body_reader(parse_request(self.sent[:end])).feed(self.sent[end:])


def _final(received: bytes) -> tuple[bytes, bytes]:
    """Return the head of the final response, without interim ones, and the bytes after it."""
    while True:
        end = find_head_end(received)
        head, rest = received[:end], received[end:]
        if not head.startswith(b"HTTP/1.1 1") or not rest:
            return head, rest
        received = rest


def run(
    filters: Filter | Iterable[Filter] | Mapping[str, Filter],
    request: bytes | Sequence[bytes],
    *,
    response: bytes | Sequence[bytes] | None = OK,
    again: bytes | Sequence[bytes] | None = OK,
    client_ip: str = "192.0.2.1",
    scheme: str = "http",
    certificate: Any = None,
    consumer: Consumer | None = None,
    claims: Mapping[str, Any] = MappingProxyType({}),
    paths: Sequence[str] = (),
    files: Mapping[str, bytes] = MappingProxyType({}),
    answers: Mapping[str, Answer] = MappingProxyType({}),
    feeds: Mapping[str, bytes] = MappingProxyType({}),
    shadow: bool = False,
    timeout: float = 5.0,
) -> Ran:
    """Send one request through filters, to an upstream that answers with `response`.

    filters: one, several (they run in the order of their phases), or several by instance name.
    request: bytes of one request; the parts of a sequence arrive one after the other. It is parsed like any client's.
    response: the response of the upstream, in one part or in several; None: it closes the connection without a
    response.
    again: response of the upstream to a request that is sent again, after a filter has renewed credentials. client_ip,
    scheme, certificate: of the client's connection. `certificate`: a verified `ClientCertificate`. consumer, claims:
    result of authentication before these filters.
    paths: paths of the route, for path parameters: `["/users/{id}"]`.
    files: contents of files that settings name, by path; others are read from the disk.
    answers: responses to `services.fetcher`, by URL; all other URLs are unreachable.
    feeds: values that were fetched for the node, by the key of their `FeedSource`.
    shadow: all filters decide, but do not act.
    timeout: timeout in seconds of a filter that waits. The test fails if there is no response a second later.

    Filters are built for each run. Raises `CompileError` if one cannot be built.
    """
    around = _KnownClient(consumer, claims)
    gateway = compile(_config(_named(filters), around, paths, timeout, shadow), 1, files)
    parts = [request] if isinstance(request, bytes) else request
    responses = [None if each is None else [each] if isinstance(each, bytes) else each for each in (response, again)]
    client = client_ip, scheme.encode(), certificate

    async def ran() -> Ran:
        return await _Plane(gateway, around, answers, feeds).run(parts, responses, client, timeout + GRACE_S)

    with asyncio.Runner() as runner:
        return runner.run(ran())


def _named(filters: Filter | Iterable[Filter] | Mapping[str, Filter]) -> Mapping[str, Filter]:
    if isinstance(filters, Mapping):
        return filters
    named: dict[str, Filter] = {}
    for each in (filters,) if isinstance(filters, Filter) else filters:
        names = (each.type_name, *(f"{each.type_name}_{number}" for number in range(2, 1000)))
        named[next(name for name in names if name not in named)] = each
    return named


class _KnownClient:
    """Two filters around the tested ones: the first sets the client's identity, the second records changes."""

    def __init__(self, consumer: Consumer | None, claims: Mapping[str, Any]) -> None:
        self.exchange: Exchange | None = None
        self.pieces: list[bytes] = []
        self._consumer, self._claims = consumer, claims

    def _identify_client(self, exchange: Exchange) -> None:
        self.exchange = exchange
        exchange.consumer, exchange.claims = self._consumer, self._claims

    def _collect_piece(self, exchange: Exchange, payload: bytes) -> None:
        self.pieces.append(payload)

    @property
    def uses(self) -> Mapping[str, FilterUse]:
        first, last = Hooks(request=self._identify_client), Hooks(request_body=self._collect_piece)

        class First(Filter, name="_first", phase=Phase.OBSERVE, order=-(10**6)):  # type: ignore[literal-required]  # order: ours
            def build(self, env: Env) -> Hooks:
                return first

        class Last(Filter, name="_last", phase=Phase.CREDENTIALS, order=10**6):  # type: ignore[literal-required]  # order: ours
            def build(self, env: Env) -> Hooks:
                return last

        return {"_first": FilterUse("_first", "_first", First()), "_last": FilterUse("_last", "_last", Last())}


def _config(
    filters: Mapping[str, Filter],
    around: _KnownClient,
    paths: Sequence[str],
    filter_timeout: float,
    shadow: bool,
) -> Config:
    uses = {name: FilterUse(name, each.type_name, each, shadow=shadow) for name, each in filters.items()}
    early = {name: use for name, use in uses.items() if use.settings.phase_of_listener.early}
    target = configuration.Target(url=Url("http", "upstream", 80))
    return Config(
        version=1,
        listeners={"test": configuration.Listener(address=Address("127.0.0.1", 80))},
        upstreams={"upstream": configuration.Upstream(targets=(target,))},
        filters=MappingProxyType({**early, **around.uses}),
        routes=(
            configuration.Route(
                name="test",
                paths=tuple(paths),
                upstream="upstream",
                filters=MappingProxyType({name: use for name, use in uses.items() if name not in early}),
            ),
        ),
        timeouts=configuration.Timeouts(filters=filter_timeout),
        status=None,
        admin=None,
        access_logs=(),
    )


class _Plane:
    """A data plane whose connections are in memory, for one request."""

    def __init__(
        self,
        gateway: Gateway,
        around: _KnownClient,
        answers: Mapping[str, Answer],
        feeds: Mapping[str, bytes],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._gateway = gateway
        self._around = around
        self._worker_loop = WorkerLoop(loop)
        self._observer = _Observer()
        self._upstreams: list[asyncio.Future[_Wire]] = [loop.create_future(), loop.create_future()]
        fetcher: Any = _Fetcher(answers)
        known = Feeds(feeds, lambda key, seen: None)
        self._services = Services(
            self._worker_loop,
            fetcher,
            known,
            own_table(),
            own_counts(),
            upstreams=gateway.upstreams.get,
            control_is_away=lambda: True,
            caches={"main": own_store(loop)}.get,
        )
        pool: Any = _Pool(self._worker_loop, self._upstreams)
        for upstream in gateway.upstreams.values():
            upstream.worker_loop, upstream.pool = self._worker_loop, pool
        observer: Any = self._observer
        limit: Any = _Limit()
        self._server = Server(self._worker_loop, gateway, observer, limit, None)

    async def run(
        self,
        request: Sequence[bytes],
        responses: Sequence[Sequence[bytes] | None],
        client: tuple[str, bytes, Any],
        timeout: float,
    ) -> Ran:
        for link in self._gateway.live:
            if link.hooks.start is not None:
                link.hooks.start(self._services)
        self._worker_loop.start()
        try:
            return await self._exchange(request, responses, client, timeout)
        finally:
            self._server.stop()
            for link in self._gateway.live:
                if link.hooks.stop is not None:
                    link.hooks.stop()
            self._worker_loop.close()
            await _turns()

    async def _exchange(
        self,
        request: Sequence[bytes],
        responses: Sequence[Sequence[bytes] | None],
        client: tuple[str, bytes, Any],
        timeout: float,
    ) -> Ran:
        ran = Ran()
        ip, scheme, certificate = client
        protocol = self._server.accepted(self._gateway.listeners[0], (ip, 40000), 80)
        assert isinstance(protocol, Http1ClientConnection)
        protocol.peer = Peer(ip, 40000, 443 if scheme == b"https" else 80, False, scheme, certificate)
        wire = _Wire(protocol)
        over = self._observer.over
        for piece in request:
            wire.delivers(piece)
            ran.waited = ran.waited or protocol.stream.waiting is not None
            await _turns()
        try:
            async with asyncio.timeout(timeout):
                for upstream, response in zip(self._upstreams, responses, strict=True):
                    await asyncio.wait((upstream, over), return_when=asyncio.FIRST_COMPLETED)
                    if upstream.done():
                        await _answer(upstream.result(), response, over)
                await over
        except TimeoutError as error:
            raise AssertionError(f"nothing answers within {timeout:g} s: is the request whole?") from error
        await _turns()
        ran.received, ran.record = wire.received, over.result()
        ran.requests = tuple(each.result().received for each in self._upstreams if each.done())
        ran.events = tuple(self._observer.events)
        ran.pieces = tuple(self._around.pieces)
        if self._around.exchange is not None:  # otherwise the request could not be parsed
            ran.exchange = self._around.exchange
        return ran


async def _turns(count: int = 10) -> None:
    """Run all callbacks that are scheduled."""
    for _ in range(count):
        await asyncio.sleep(0)


async def _answer(upstream: "_Wire", response: Sequence[bytes] | None, over: "asyncio.Future[Record]") -> None:
    for piece in response or ():
        upstream.delivers(piece)
        await _turns()
    if not over.done():  # a body that ends with the connection, or no response at all
        upstream.ends()


class _Observer:
    def __init__(self) -> None:
        self.over: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self.events: list[tuple[str, str]] = []

    def finish(self, ended: FinishedExchange) -> None:
        if not self.over.done():
            self.over.set_result(record_of(ended, monotonic(), time()))

    def count_subrequest(self, ended: FinishedExchange, status: int) -> None: ...
    def count_websocket(self, ended: FinishedExchange, side: int, what: int, count: int) -> None: ...
    def count_content_coding(
        self, ended: FinishedExchange, operation: int, coding: int, bytes_in: int, bytes_out: int
    ) -> None: ...

    def count_filter(self, instance: str, event: FilterEvent) -> None:
        self.events.append((instance, event.name.lower()))

    def count_refusal(self, exchange: Exchange, instance: str) -> None:
        self.events.append((instance, "refused"))

    def count_shadow_decision(self, exchange: Exchange, instance: str, decision: FilterEvent) -> None:
        self.events.append((instance, decision.name.lower()))


class _Fetcher:
    """Fetcher with the responses of a test. All other URLs are unreachable."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    async def fetch(self, url: Any, **asked: Any) -> Fetched:
        await asyncio.sleep(0)
        answer = self._answers.get(str(url))
        if answer is None:
            raise FetchFailed(Fault.CONNECT_REFUSED, f"{url}: the test has no answer for it")
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Fetched) else answer(url, **asked)


class _Limit:
    def try_take(self, ip: str = "") -> bool:
        return True

    def give_back(self, ip: str = "") -> None: ...


class _Pool(Lender):
    """Connection pool that connects to the test."""

    def __init__(self, worker_loop: WorkerLoop, connected: "Sequence[asyncio.Future[_Wire]]") -> None:
        self._worker_loop = worker_loop
        self._connected = connected

    def lend(
        self, target: Target, borrower: Any, fresh: bool = False, idle_at_most: float = inf
    ) -> UpstreamConnection | Fault | None:
        self._worker_loop.loop.call_soon(self._connect, target, borrower)
        return None

    def _connect(self, target: Target, borrower: Any) -> None:
        connected = next((each for each in self._connected if not each.done()), None)
        if connected is None:
            borrower.failed(Fault.CONNECT_REFUSED)  # there is no further response
            return
        connection = UpstreamConnection(self._worker_loop, self, target)
        wire = _Wire(connection)
        connection.uses += 1
        borrower.lent(connection)
        connected.set_result(wire)

    def may_open(self) -> bool:
        return True

    def is_queued(self, borrower: Any) -> bool:
        return False

    def withdraw(self, borrower: Any) -> None: ...

    def give_back(self, connection: PooledConnection) -> None:
        connection.close()

    def discard(self, connection: PooledConnection) -> None:
        connection.close()

    forget = discard


class _Wire(SocketTransport):
    """Transport in memory, with a peer that reads everything."""

    def __init__(self, protocol: StreamProtocol) -> None:
        self.received = b""
        self._closing = self._lost = False
        self._reading = True
        self._unread: list[bytes | None] = []
        self.begin(protocol)

    # interface of the peer

    def delivers(self, chunk: bytes) -> None:
        self._unread.append(chunk)
        self._read()

    def ends(self) -> None:
        self._unread.append(None)
        self._read()

    def _read(self) -> None:
        while self._unread and self._reading and not self._closing:
            chunk, protocol = self._unread.pop(0), self.protocol
            assert protocol is not None
            if chunk is None:
                if not protocol.eof_received():
                    self.close()
                return
            buffer = protocol.buffer
            piece, rest = chunk[: len(buffer)], chunk[len(buffer) :]
            if rest:
                self._unread.insert(0, rest)
            buffer[: len(piece)] = piece
            protocol.buffer_updated(len(piece))

    # interface of the transport

    def write(self, data: bytes | memoryview) -> None:
        if not self._closing:
            self.received += data

    def write_parts(self, head: bytes, body: bytes) -> None:
        self.write(head + body)

    def write_eof(self) -> None: ...

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._lose_connection)

    def abort(self) -> None:
        self.close()

    def reset_on_close(self) -> None: ...

    def _lose_connection(self) -> None:
        if not self._lost and self.protocol is not None:
            self._lost = True
            self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            asyncio.get_running_loop().call_soon(self._read)

    def get_write_buffer_size(self) -> int:
        return 0

    def unsent(self) -> int:
        return 0

    def has_unread(self) -> bool:
        return bool(self._unread)
