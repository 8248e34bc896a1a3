"""Tests of filters without a network: bytes in, bytes out, through the very data plane that serves.

`run(MyFilter(…), b"GET / HTTP/1.1\\r\\n…")` sends a request through one or more filters to an upstream that answers
with `response`, and tells what the upstream got, what the client got and what was decided. `configured(MyFilter, a=…)`
makes the settings as a configuration file would, and finds what is wrong with them. docs/guides/write-a-filter.md
shows both.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from time import monotonic, time
from types import MappingProxyType
from typing import Any, Final, TypeVar

from fastgw import config
from fastgw.config.base.value_types import Address, Url
from fastgw.config.settings import gateway as configuration
from fastgw.config.settings.gateway import Config, FilterUse
from fastgw.downstream import Server
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.filters.api import Consumer, Env, Exchange, Filter, Hooks, Phase, Services
from fastgw.forwarded_headers import Peer
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import Gateway
from fastgw.http.fields import Fields
from fastgw.http.http1.parser import find_head_end, judge_request, judge_response
from fastgw.observe import Record
from fastgw.observe.finished_exchange import FinishedExchange, record_of
from fastgw.observe.metrics.families import FilterEvent
from fastgw.shm.node_limits import own_counts
from fastgw.shm.rate_limit_table import own_table
from fastgw.sync.feeds import Feeds
from fastgw.upstream.client.http_client import Fetched, FetchFailed
from fastgw.upstream.connections.http1_connection import UpstreamConnection
from fastgw.upstream.targets.target import Target

__all__ = ["OK", "ConfigError", "Consumer", "Fetched", "Ran", "configured", "run"]

ConfigError = config.ConfigError
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
"""What the upstream answers unless a test says otherwise."""
Answer = Fetched | Exception | Callable[..., Fetched]
"""Of somebody that a filter asks: an answer, what is raised instead, or a function of what `Fetcher.fetch` is given."""
GRACE_S: Final = 1.0
"""How much later than a filter is late a test is. A machine that is busy may stand still for a while."""
F = TypeVar("F", bound=Filter)


def configured(filter_type: type[F], **settings: Any) -> F:
    """The settings of a filter, read as a file has them: durations as `10s`, secrets as text, and so on.

    Raises `ConfigError`, whose text has a line for everything that is wrong.
    """
    document = {
        "version": 1,
        "listeners": {"test": {"address": "127.0.0.1:0"}},
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
    """What has become of a request."""

    def __init__(self) -> None:
        self.requests: tuple[bytes, ...] = ()
        """What the upstream got: () when the request has not reached it, and two where it was sent once more."""
        self.received = b""
        """All that the client got."""
        self.waited = False
        """Whether a filter had to wait: its request step was no plain call."""
        self.pieces: tuple[bytes, ...] = ()
        """The request's body, piece by piece, as far as the filters have let it pass."""
        self.events: tuple[tuple[str, str], ...] = ()
        """What was counted of filters: instance, and `raised`, `late`, or what one in shadow would have done."""
        self.exchange: Exchange
        """The exchange when it was over: `consumer`, `claims`, `request_id` and so on."""
        self.record: Record
        """What the access log is written from."""

    def __repr__(self) -> str:
        return f"<Ran {self.status}{f' {self.fault}' if self.fault else ''}, {'' if self.sent else 'not '}sent>"

    @property
    def sent(self) -> bytes:
        """The request as the upstream got it, the last time; b"" when it has not reached it."""
        return self.requests[-1] if self.requests else b""

    @property
    def passed(self) -> bool:
        """Whether the request has reached the upstream."""
        return bool(self.sent)

    @property
    def status(self) -> int:
        """What the client was answered."""
        return self.record.status

    @property
    def fault(self) -> str:
        """The label of the fault that the answer stands for; "" for none."""
        return self.record.fault

    @property
    def why(self) -> str:
        """What the log says of the fault beyond its label."""
        return self.record.fault_detail

    @property
    def shadowed(self) -> str:
        """What the log says that filters in shadow would have done."""
        return self.record.shadowed

    @property
    def fields(self) -> Fields:
        """Those of the answer."""
        head, _ = _final(self.received)
        return judge_response(head, b"GET").fields()

    @property
    def body(self) -> bytes:
        """That of the answer."""
        head, rest = _final(self.received)
        return judge_response(head, self.exchange.method).body().feed(rest)

    @property
    def sent_fields(self) -> Fields:
        """Those that the upstream got."""
        return judge_request(self.sent[: find_head_end(self.sent)]).fields()

    @property
    def sent_body(self) -> bytes:
        """What the upstream got of the body."""
        end = find_head_end(self.sent)
        return judge_request(self.sent[:end]).body().feed(self.sent[end:])


def _final(received: bytes) -> tuple[bytes, bytes]:
    """The head of the last answer, without the interim ones before it, and what follows."""
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
    request: bytes of one request; a sequence arrives piece by piece. It is read as from any client.
    response: what the upstream answers, in one piece or in several; None: it closes without an answer.
    again: what it answers to a request that is sent once more, after a filter has renewed what it shows.
    client_ip, scheme, certificate: of the client's connection. `certificate`: a verified `ClientCertificate`.
    consumer, claims: what an authentication before these filters has found out.
    paths: of the route, for its parameters: `["/users/{id}"]`.
    files: contents of files that settings name, by path; others are read from the disk.
    answers: of those that filters ask by `services.fetcher`, by URL; whoever is not here cannot be reached.
    feeds: what has been fetched for the node, by the key of its `FeedSource`.
    shadow: all of the filters decide, but do not act.
    timeout: seconds after which a filter is late that waits. The test fails where nothing answers for a second more.

    Raises `CompileError` when a filter cannot be built.
    """
    around = _Around(consumer, claims)
    made = _config(_named(filters), around, paths, timeout, shadow)
    plane = compile(made, 1, files)

    async def ran() -> Ran:
        return await _Plane(plane, around, answers, feeds).run(
            [request] if isinstance(request, bytes) else request,
            [None if each is None else [each] if isinstance(each, bytes) else each for each in (response, again)],
            (client_ip, scheme.encode(), certificate),
            timeout + GRACE_S,
        )

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


class _Around:
    """What is known of the client before the filters, and what they have let pass: two filters around them."""

    def __init__(self, consumer: Consumer | None, claims: Mapping[str, Any]) -> None:
        self.exchange: Exchange | None = None
        self.pieces: list[bytes] = []
        self._consumer, self._claims = consumer, claims

    def _meet(self, exchange: Exchange) -> None:
        self.exchange = exchange
        exchange.consumer, exchange.claims = self._consumer, self._claims

    def _keep(self, exchange: Exchange, payload: bytes) -> None:
        self.pieces.append(payload)

    @property
    def uses(self) -> Mapping[str, FilterUse]:
        first, last = Hooks(request=self._meet), Hooks(request_body=self._keep)

        class First(Filter, name="_first", phase=Phase.OBSERVE, order=-(10**6)):  # type: ignore[literal-required]  # order: ours
            def build(self, env: Env) -> Hooks:
                return first

        class Last(Filter, name="_last", phase=Phase.CREDENTIALS, order=10**6):  # type: ignore[literal-required]  # order: ours
            def build(self, env: Env) -> Hooks:
                return last

        return {"_first": FilterUse("_first", "_first", First()), "_last": FilterUse("_last", "_last", Last())}


def _config(
    filters: Mapping[str, Filter], around: _Around, paths: Sequence[str], timeout: float, shadow: bool
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
                timeout=timeout,
                filters=MappingProxyType({name: use for name, use in uses.items() if name not in early}),
            ),
        ),
        timeouts=configuration.Timeouts(filters=timeout),
        status=None,
        admin=None,
        access_logs=(),
    )


class _Plane:
    """A data plane whose connections are in memory, for one request."""

    def __init__(
        self, gateway: Gateway, around: _Around, answers: Mapping[str, Answer], feeds: Mapping[str, bytes]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._gateway = gateway
        self._around = around
        self._ground = WorkerLoop(loop)
        self._observer = _Observer()
        self._upstreams: list[asyncio.Future[_Wire]] = [loop.create_future(), loop.create_future()]
        fetcher: Any = _Fetcher(answers)
        known = Feeds(feeds, lambda key, seen: None)
        self._services = Services(self._ground, fetcher, known, own_table(), own_counts(), control_is_away=lambda: True)
        pool: Any = _Pool(self._ground, self._upstreams)
        for upstream in gateway.upstreams.values():
            upstream.ground, upstream.pool = self._ground, pool
        observer: Any = self._observer
        limit: Any = _Limit()
        self._server = Server(self._ground, gateway, observer, limit, None)

    async def run(
        self,
        request: Sequence[bytes],
        responses: Sequence[Sequence[bytes] | None],
        client: tuple[str, bytes, Any],
        patience: float,
    ) -> Ran:
        for link in self._gateway.live:
            if link.hooks.start is not None:
                link.hooks.start(self._services)
        self._ground.start()
        try:
            return await self._exchange(request, responses, client, patience)
        finally:
            self._server.stop()
            for link in self._gateway.live:
                if link.hooks.stop is not None:
                    link.hooks.stop()
            self._ground.close()
            await _turns()

    async def _exchange(
        self,
        request: Sequence[bytes],
        responses: Sequence[Sequence[bytes] | None],
        client: tuple[str, bytes, Any],
        patience: float,
    ) -> Ran:
        ran = Ran()
        ip, scheme, certificate = client
        protocol = self._server.accepted(self._gateway.listeners[0], (ip, 40000), 80)
        protocol.peer = Peer(ip, 40000, 443 if scheme == b"https" else 80, False, scheme, certificate)
        wire = _Wire(protocol)
        over = self._observer.over
        for piece in request:
            wire.delivers(piece)
            ran.waited = ran.waited or protocol._waiting is not None
            await _turns()
        try:
            async with asyncio.timeout(patience):
                for upstream, response in zip(self._upstreams, responses, strict=True):
                    await asyncio.wait((upstream, over), return_when=asyncio.FIRST_COMPLETED)
                    if upstream.done():
                        await _answer(upstream.result(), response, over)
                await over
        except TimeoutError as error:
            raise AssertionError(f"nothing answers within {patience:g} s: is the request whole?") from error
        await _turns()
        ran.received, ran.record = wire.received, over.result()
        ran.requests = tuple(each.result().received for each in self._upstreams if each.done())
        ran.pieces, ran.events = tuple(self._around.pieces), tuple(self._observer.events)
        if self._around.exchange is not None:  # else it could not be read
            ran.exchange = self._around.exchange
        return ran


async def _turns(count: int = 10) -> None:
    """Let happen what was put off."""
    for _ in range(count):
        await asyncio.sleep(0)


async def _answer(upstream: "_Wire", response: Sequence[bytes] | None, over: "asyncio.Future[Record]") -> None:
    for piece in response or ():
        upstream.delivers(piece)
        await _turns()
    if not over.done():  # a body that ends with the connection, or no answer at all
        upstream.ends()


class _Observer:
    def __init__(self) -> None:
        self.over: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self.events: list[tuple[str, str]] = []

    def finish(self, ended: FinishedExchange) -> None:
        if not self.over.done():
            self.over.set_result(record_of(ended, monotonic(), time()))

    def count_filter(self, instance: str, event: FilterEvent) -> None:
        self.events.append((instance, event.name.lower()))


class _Fetcher:
    """Answers from what a test has given. Whoever is not there cannot be reached."""

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


class _Pool:
    """Connects to the test, at once."""

    def __init__(self, ground: WorkerLoop, connected: "Sequence[asyncio.Future[_Wire]]") -> None:
        self._ground = ground
        self._connected = connected

    def lend(
        self, target: Target, borrower: Any, fresh: bool = False, idle_at_most: float = inf
    ) -> UpstreamConnection | Fault | None:
        self._ground.loop.call_soon(self._connect, target, borrower)
        return None

    def _connect(self, target: Target, borrower: Any) -> None:
        connected = next((each for each in self._connected if not each.done()), None)
        if connected is None:
            borrower.failed(Fault.CONNECT_REFUSED)  # there is no further answer
            return
        pool: Any = self
        connection = UpstreamConnection(self._ground, pool, target)
        wire = _Wire(connection)
        connection.uses += 1
        borrower.lent(connection)
        connected.set_result(wire)

    def idle(self, target: Target) -> None:
        return None

    def is_queued(self, borrower: Any) -> bool:
        return False

    def withdraw(self, borrower: Any) -> None: ...

    def give_back(self, connection: UpstreamConnection) -> None:
        connection.close()

    def discard(self, connection: UpstreamConnection) -> None:
        connection.close()

    forget = discard


class _Socket:
    def fileno(self) -> int:
        return 1 << 30  # no such descriptor: what is written goes through the transport

    def setsockopt(self, *option: Any) -> None: ...


class _Wire:
    """A transport in memory, and the peer behind it, who takes everything."""

    def __init__(self, protocol: Any) -> None:
        self.received = b""
        self._protocol = protocol
        self._closing = self._lost = False
        self._reading = True
        self._unread: list[bytes | None] = []
        protocol.connection_made(self)

    # the peer

    def delivers(self, chunk: bytes) -> None:
        self._unread.append(chunk)
        self._read()

    def ends(self) -> None:
        self._unread.append(None)
        self._read()

    def _read(self) -> None:
        while self._unread and self._reading and not self._closing:
            chunk = self._unread.pop(0)
            if chunk is None:
                if not self._protocol.eof_received():
                    self.close()
                return
            buffer = self._protocol.get_buffer(-1)
            piece, rest = chunk[: len(buffer)], chunk[len(buffer) :]
            if rest:
                self._unread.insert(0, rest)
            buffer[: len(piece)] = piece
            self._protocol.buffer_updated(len(piece))

    # the transport

    def write(self, chunk: bytes) -> None:
        if not self._closing:
            self.received += chunk

    def write_eof(self) -> None: ...

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(None)

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

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return _Socket() if name == "socket" else None
