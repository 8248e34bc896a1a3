"""Sandbox: the data plane of a configuration in this process, without its listeners and without its surroundings.

Requests enter behind the connections, as the protocols hand them over, so that their address, scheme and version are
those of the recording. Rule 1: nothing outside is contacted, except for upstreams that are asked to be live: no Redis,
no identity provider, no collector, no log, no control process. Rule 2: limits and caches begin empty; limits count in
the time of the recording. Rule 3: a filter that authenticates takes the recorded client; only a sandbox has this way.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final, final

from msgspec.structs import replace

from fastgw.cache.shared.shared_store import own_store
from fastgw.capture.observed_tables import observe_tables
from fastgw.config import Loaded
from fastgw.config.settings import gateway as config
from fastgw.config.settings.telemetry import Telemetry
from fastgw.consumers.index import Consumer
from fastgw.downstream import Listener
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import (
    Exchange,
    Outcome,
    Reply,
    Response,
    Route,
    Trailers,
    problem,
)
from fastgw.exchange.body_relay import whole_body
from fastgw.exchange.exchange_counts import NO_COUNTS
from fastgw.exchange.filter_steps import abandon
from fastgw.exchange.ready_answer import ReadyAnswer
from fastgw.exchange.route import Division
from fastgw.exchange.states import ENDED
from fastgw.filters.api import Hooks, Phase, Services, secret_names
from fastgw.filters.api.credential_locations import NOWHERE
from fastgw.forwarded_headers import Peer, client_address
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import Gateway
from fastgw.http.http1.parser import parse_request, read_http2_request
from fastgw.http.http1.reserved_fields import OWN_FIELDS
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead, ResponseHead
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.pipeline.request_pipeline import RequestStream, begin_request, cancel_waiting
from fastgw.recording.record_observer import RecordObserver
from fastgw.recording.records import MASK, RecordedBody, RecordedRequest
from fastgw.recording.redaction import RecordRedaction
from fastgw.recording.tap import RecordedTrace
from fastgw.replay.recorded_upstream import RecordedCookies, RecordedPool, RecordedState
from fastgw.shm.node_limits import own_counts
from fastgw.shm.rate_limit_table import own_table
from fastgw.sync.feeds import Feeds
from fastgw.upstream.client.http_client import FetchFailed
from fastgw.upstream.connections.pool_limit import LocalLimit
from fastgw.upstream.load_balancing.sticky_sessions import Cookies

REQUEST_S: Final = 30.0
"""Maximum seconds for a request in the sandbox."""
MOST_BODY: Final = 1024 * 1024
MOST_FIELDS: Final = 10_000
_ONLY_CONFIGURED: Final = frozenset(("key_auth", "hmac", "certificate_auth"))
"""Filters that authenticate only consumers of the configuration."""
_CREDENTIALS: Final = frozenset(
    (b"authorization", b"x-csrf-token", b"x-amz-content-sha256", b"x-amz-date", b"x-amz-security-token")
)
"""Headers that `credentials` writes, apart from those of its settings."""
_FRAMING: Final = frozenset((b"content-length", b"expect"))


class NotComparable(Exception):
    """A request cannot be replayed as it was. The text is the reason, for people."""


class ReplayPeer(Peer):
    """Peer of a recorded request. `state`: what is left of its recording."""

    __slots__ = ("state",)

    state: RecordedState


@final
class Sandbox:
    """Data plane of one configuration. `live`: whether its upstreams are contacted."""

    def __init__(self, loaded: Loaded, redaction: RecordRedaction, live: bool) -> None:
        """Raises `CompileError`."""
        self._redaction = redaction
        self._live = live
        self._gateway: Gateway = compile(_isolated(loaded.config), 1, loaded.captured, adapt=self._adapt)
        self._loop = asyncio.get_running_loop()
        self._worker_loop = WorkerLoop(self._loop)
        self._clock = _RecordedClock()
        stores = {name: own_store(self._loop) for name in ("main", *loaded.config.caches)}
        cells: Any = _RecordedCells(own_table(), self._clock)
        fetcher: Any = _NoFetcher()
        gateway = self._gateway
        self._services = Services(
            self._worker_loop,
            fetcher,
            Feeds({}, lambda key, seen: None),
            cells,
            own_counts(),
            os.urandom(32),
            upstreams=gateway.upstreams.get,
            caches=stores.get,
        )
        for upstream in gateway.upstreams.values():
            if live:
                most = upstream.settings.pool
                limits = LocalLimit(most.most_connections()), LocalLimit(most.max_pending)
                upstream.start(self._worker_loop, 1, *limits, None, self._services.run_key)
            else:
                pool: Any = RecordedPool(upstream.name, self._loop)
                upstream.worker_loop, upstream.pool = self._worker_loop, pool
            sticky = upstream.settings.load_balancing.sticky
            if sticky is not None:
                inner = upstream.cookies or Cookies(sticky, upstream.name, self._services.run_key)
                cookies: Any = RecordedCookies(inner, sticky.cookie)
                upstream.cookies = cookies
                upstream.settle()
        observer = RecordObserver(self._sample)
        self._own_hooks = observer.link.hooks
        self._listeners: dict[str, Listener] = {}
        for listener in gateway.listeners:
            listener.use_table(gateway.tables[listener.name])
            if listener.tcp is None and not listener.is_udp:
                tables: Any = listener
                observe_tables(tables, tables, [observer], _recorded_part)
                self._listeners[listener.name] = listener
        self._started = False
        self._finished: asyncio.Future[RecordedRequest] | None = None

    def __repr__(self) -> str:
        return f"<Sandbox of {len(self._gateway.routes)} routes>"

    def start(self) -> None:
        self._worker_loop.start()
        self._started = True
        for link in self._gateway.live:
            if link.hooks.start is not None:
                link.started = True
                link.hooks.start(self._services)

    async def stop(self) -> None:
        self._gateway.stop()
        if self._started:
            self._worker_loop.close()
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def route_names(self) -> frozenset[str]:
        return frozenset(self._gateway.routes_by_name)

    async def replay(self, recorded: RecordedRequest) -> RecordedRequest | None:
        """Send a recorded request. None: it was not answered in time, or its listener is no more. Raises
        `NotComparable`.
        """
        listener = self._listeners.get(recorded.listener) or next(iter(self._listeners.values()), None)
        if listener is None:
            return None
        try:
            head, body = _head_of(recorded)
        except Malformed as malformed:
            raise NotComparable("its head cannot be read") from malformed
        address, sender = (recorded.peer_ip, recorded.peer_port), recorded.sender
        now = listener.peer(address, recorded.server_port, uses_tls=False, sender=sender)
        peer = ReplayPeer(
            *(*address, recorded.server_port, now.trusted, recorded.scheme), sender=sender, is_client=now.is_client
        )
        peer.state = RecordedState(recorded)
        (OWN_FIELDS if peer.trusted else listener.reserved).take_out_of(head)
        self._clock.set_date(recorded.date - recorded.seconds)
        self._finished = finished = self._loop.create_future()
        stream = _ReplayStream(self._loop)
        exchange = stream.exchange = Exchange(head, stream, listener, peer, listener.early)
        if peer.trusted:
            exchange.client_ip = client_address(head, peer, listener.trusts)
        if body or recorded.request_trailers or head.body_length is None:
            exchange.request_body = relay = whole_body(body, head.body_length)
            relay.trailers = recorded.request_trailers
        begin_request(stream, exchange, listener.router)
        try:
            async with asyncio.timeout(REQUEST_S):
                record: RecordedRequest | None = await finished
        except TimeoutError:
            exchange.cancel(Fault.CLIENT_LEFT)
            stream.complete()
            record = None
        self._check_bodies(exchange, recorded)
        return record

    def _check_bodies(self, exchange: Exchange, recorded: RecordedRequest) -> None:
        """Raise `NotComparable` if something has read a body that the recording does not have as it was."""
        hooks, route = (
            [link.hooks for link in exchange.chain.links if link.hooks is not self._own_hooks],
            exchange.route,
        )
        if self._live or any(each.request_body or each.translate for each in hooks):
            _check_whole("request", recorded.request_body)
        is_forwarded = route is None or getattr(route.action, "upstream", None) is not None
        is_read = not is_forwarded or any(each.response_body or each.translate for each in hooks)
        if is_read and not self._live:
            for call in recorded.calls:
                if call.is_over:
                    _check_whole("response", call.response_body)

    def _sample(self, exchange: Exchange) -> None:
        RecordedTrace(exchange, MOST_BODY, self._redaction, self._take_record, lambda: None)

    def _take_record(self, record: RecordedRequest) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(record)

    # filters

    def _adapt(self, use: config.FilterUse, hooks: Hooks) -> Hooks:
        """Return the hooks of a filter in the sandbox."""
        if use.settings.phase is Phase.AUTHENTICATE:
            return _recorded_authentication(use, hooks, lambda: self._gateway)
        if use.type == "credentials":
            return _recorded_credentials(use)
        return hooks


def _check_whole(side: str, body: RecordedBody) -> None:
    if body.is_cut:
        raise NotComparable(f"its {side} body was cut")
    if MASK in body.content:
        raise NotComparable(f"its {side} body has masked values")


def _recorded_authentication(use: config.FilterUse, own: Hooks, gateway_of: Callable[[], Gateway]) -> Hooks:
    """Return hooks that authenticate the client of the recording, without its credentials."""
    locations, names = NOWHERE, {*use.settings.written_fields()}
    for each in _methods_of(use):
        is_oidc = each.type == "oidc"  # it always hides its session, and may send the token in its place
        if is_oidc or getattr(each.settings, "hide_credentials", False):
            locations |= each.settings.credential_places()
        names.update(secret_names(each.settings) if is_oidc else ())
    written = frozenset(name.lower().encode() for name in names)
    needs_configured = use.type in _ONLY_CONFIGURED

    def authenticate(exchange: Exchange) -> Outcome:
        peer = exchange.peer
        if not isinstance(peer, ReplayPeer):
            return None
        recorded = peer.state.recorded
        identity = recorded.identity
        if not identity.is_authenticated:
            return _refuse(exchange, own, recorded)
        consumer = None
        if identity.consumer:
            known = gateway_of().stock.roster.index.by_name(identity.consumer)
            consumer = None if known is None else Consumer(known.name, frozenset(known.groups))
            if consumer is None and needs_configured:
                return exchange.refuse(Fault.CREDENTIALS_INVALID, why="the consumer of the recording is not configured")
            consumer = consumer or Consumer(identity.consumer, frozenset(identity.groups))
        exchange.consumer = consumer
        exchange.is_authenticated = True
        if identity.claims:
            exchange.claims = json.loads(identity.claims)  # with all digits of integers
        if locations:
            locations.hide(exchange)
        if written:
            _send_recorded(exchange, written)
        return None

    response = None if own.response is None else _set_recorded_cookies
    return Hooks(request=authenticate, response=response, preflight=own.preflight, explain=own.explain)


def _methods_of(use: config.FilterUse) -> Iterator[config.FilterUse]:
    """Yield a filter that authenticates, and those that it tries (`auth`, `all_of`)."""
    yield use
    for each in (*getattr(use.settings, "any_of", ()), *getattr(use.settings, "methods", ())):
        yield from _methods_of(each)


def _recorded_credentials(use: config.FilterUse) -> Hooks:
    """Return hooks that send the masked credentials that the recorded gateway has sent, in place of new ones."""
    written = _CREDENTIALS | {name.lower().encode() for name in secret_names(use.settings)}
    if getattr(use.settings, "csrf", None) is not None:
        written |= {b"cookie"}
    return Hooks(request=lambda exchange: _send_recorded(exchange, written))


def _send_recorded(exchange: Exchange, names: frozenset[bytes]) -> None:
    """Send the headers with these names that the recorded gateway has sent to an upstream, and no others."""
    peer = exchange.peer
    if isinstance(peer, ReplayPeer):
        exchange.request_dropped |= names
        exchange.request_added += peer.state.sent_lines(names)


def _set_recorded_cookies(exchange: Exchange) -> None:
    """Set the cookies that the recorded gateway has set, such as those of a session."""
    peer = exchange.peer
    if isinstance(peer, ReplayPeer) and (lines := peer.state.own_cookies()):
        exchange.add_response_fields(lines)


def _refuse(exchange: Exchange, own: Hooks, recorded: RecordedRequest) -> Outcome:
    """Let the filter itself decide about a client that was not authenticated, unless it would ask others."""
    outcome: Outcome = None
    if own.request is not None:
        try:
            outcome = own.request.step(exchange)
        except Exception:  # the edge of a filter, which was not started here
            outcome = problem(Fault.CREDENTIALS_INVALID)
    if outcome is None or isinstance(outcome, Reply):
        return outcome
    assert isawaitable(outcome)
    abandon(outcome)
    if recorded.calls or (recorded.status < 400 and recorded.status):
        return None  # it has let the client pass without naming it
    return problem(Fault.CREDENTIALS_INVALID)


def _recorded_part(exchange: Exchange, division: Division) -> Route:
    """Choose the part of a traffic split that the recorded request has taken."""
    peer = exchange.peer
    if isinstance(peer, ReplayPeer):
        taken = {call.upstream for call in peer.state.recorded.calls}
        for part in division.parts:
            upstream = getattr(part.action, "upstream", None)
            if upstream is not None and upstream.name in taken:
                return part
    return division.part_for(exchange)


def _isolated(settings: config.Config) -> config.Config:
    """Return the configuration without everything outside the data plane."""
    listeners = {name: replace(each, tls=None) for name, each in settings.listeners.items()}
    return replace(
        settings,
        listeners=listeners,
        state=None,
        status=None,
        admin=None,
        audit=None,
        analytics=None,
        access_logs=(),
        telemetry=Telemetry(),
        caches={},
    )


def _head_of(recorded: RecordedRequest) -> tuple[RequestHead, bytes]:
    """Return the head of a recorded request, and its body."""
    body = recorded.request_body.content
    first, *lines = recorded.request.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in _FRAMING]
    is_chunked = any(line.lower().startswith(b"transfer-encoding:") for line in kept)
    had_length = any(line.lower().startswith(b"content-length:") for line in lines)
    if body and not is_chunked and recorded.version == 20 and not had_length:
        kept.append(b"Transfer-Encoding: chunked")
    elif not is_chunked and (body or had_length):
        kept.append(b"Content-Length: %d" % len(body))
    raw = b"\r\n".join((first, *kept, b"", b""))
    if recorded.version == 20:
        with suppress(Malformed):
            return read_http2_request(raw, MOST_FIELDS, body), body
    return parse_request(raw, MOST_FIELDS), body


@final
class _ReplayStream(RequestStream):
    """Client side of a replayed request: it takes the response, which the tap records."""

    counts = NO_COUNTS

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self.exchange: Exchange | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def complete(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if self.waiting is not None:
            cancel_waiting(self)
        if exchange.state is not ENDED:
            exchange.finish()

    def send_ready(self, exchange: Exchange, answer: ReadyAnswer) -> None:
        raise NotImplementedError  # all steps of an observed route run

    def fail_after_defect(self, exchange: Exchange) -> None:
        log_event(OperatorEvent.DEFECT, "a defect in a replayed request", error=True)
        exchange.fail(Fault.INTERNAL)

    def send_interim(self, head: ResponseHead | None) -> None: ...

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        if self.exchange is not None and response.head is None:
            self.exchange.response_bytes = len(payload)
        if ended:
            self.complete()

    def feed(self, payload: bytes) -> None: ...

    def end(self, trailers: Trailers) -> None:
        self.complete()

    def abort(self, fault: Fault) -> None:
        self.complete()

    def tunnel(self, early: bytes, timeout: float) -> None:
        if self.exchange is not None:
            self.exchange.break_off()
        self.complete()

    def pause_tunnel(self) -> None: ...
    def resume_tunnel(self) -> None: ...

    def filter_timeout(self) -> float:
        return REQUEST_S


@final
class _NoFetcher:
    """Fetcher of a sandbox: it makes no connection."""

    async def fetch(self, url: Any, **asked: Any) -> Any:
        raise FetchFailed(Fault.CONNECT_REFUSED, "a sandbox makes no connections")

    def stop(self) -> None: ...


@final
class _RecordedClock:
    """Difference between the time of the recording and this process's clock, in ns."""

    def __init__(self) -> None:
        self.shift_ns = 0
        self._began: tuple[float, float] | None = None
        self._loop = asyncio.get_running_loop()

    def set_date(self, date: float) -> None:
        """Begin a request that was received at this time, in epoch seconds."""
        now = self._loop.time()
        if self._began is None:
            self._began = date, now
        began_date, began = self._began
        self.shift_ns = round(((date - began_date) - (now - began)) * 1e9)


@final
class _RecordedCells:
    """Table of rate limits that counts in the time of the recording."""

    def __init__(self, inner: Any, clock: _RecordedClock) -> None:
        self._inner, self._clock = inner, clock

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._inner, name)
        if not callable(made):
            return made
        return lambda *given, **named: _RecordedLimit(made(*given, **named), self._clock)


@final
class _RecordedLimit:
    def __init__(self, inner: Any, clock: _RecordedClock) -> None:
        self._inner, self._clock = inner, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def spend(self, key: bytes, cost: int, now: int) -> float:
        return float(self._inner.spend(key, cost, now + self._clock.shift_ns))

    @property
    def renewed_at(self) -> int:
        return int(self._inner.renewed_at) - self._clock.shift_ns

    def charge(self, key: bytes, cost: int, now: int) -> None:
        self._inner.charge(key, cost, now + self._clock.shift_ns)

    def refund(self, key: bytes, cost: int, spent_at: int, clock: Callable[[], int]) -> None:
        shift = self._clock.shift_ns
        self._inner.refund(key, cost, spent_at + shift, lambda: clock() + shift)

    def remaining(self, key: bytes, now: int) -> tuple[int, float]:
        left: tuple[int, float] = self._inner.remaining(key, now + self._clock.shift_ns)
        return left
