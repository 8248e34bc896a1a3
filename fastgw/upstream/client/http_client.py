"""HTTP client of the gateway itself: for key sets, tokens and authorization services. Everything is limited in size and
time.

It uses the same parts as clients' requests: pooled connections, verified TLS, the same parsers for responses. Rule
1: a fetch that fails, times out or is cancelled leaves no connection in use.
Rule 2: a redirect is a response like any other, and is not followed.

Sub-requests (`subrequest.py`) are different: they go to an upstream of the configuration on behalf of one exchange. A
key set or a token endpoint is a URL in the settings of a filter, with TLS settings of its own; it is fetched for the
whole node, usually in the control process, which has no upstreams, listeners or exchanges, and also for a configuration
that is not active yet.
"""

import asyncio
import ssl
from collections.abc import Iterable
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple, Self, final

from fastgw.config.base.value_types import Endpoint, Url, parse_endpoint
from fastgw.config.settings import gateway as settings
from fastgw.config.settings.upstreams import Violations
from fastgw.errors import Fault, Retry
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Trailers
from fastgw.http.field_names import HOP_BY_HOP
from fastgw.http.fields import Fields
from fastgw.http.http1.tolerance import STRICT, ResponseRules
from fastgw.http.messages import ResponseHead
from fastgw.observe.tracing.trace import EndedAttempt
from fastgw.observe.tracing.tracer import Trace
from fastgw.upstream.connections.http1_connection import connection_maker
from fastgw.upstream.connections.pool import Pool
from fastgw.upstream.connections.stream import NOT_ESTABLISHED, ResponseListener, UpstreamStream
from fastgw.upstream.forwarding.attempt import JUST_USED_S
from fastgw.upstream.forwarding.forwarded_request import TE_TRAILERS
from fastgw.upstream.policies.retry import IDEMPOTENT
from fastgw.upstream.targets.target import MOST_STREAMS, Target, label_of
from fastgw.upstream.targets.tls import ClientTls, Identity, client_tls, read_tls

MOST: Final = 1024 * 1024
"""Default maximum of bytes of a response body."""
TIMEOUT: Final = 5.0
"""Default timeout for the whole fetch, in seconds."""
FORGOTTEN_S: Final = 600.0
"""Seconds after which an unused origin is dropped, with its connections."""

_TLS: Final = settings.UpstreamTls()
_POOL: Final = settings.Pool(max_connections=256, max_idle=32, idle_timeout=30.0, max_pending=1_000_000)
# Every fetch has a time limit of its own; these apply to a connect that is no longer waited for.
_TIMEOUTS: Final = settings.UpstreamTimeouts(connect=10.0, response_headers=3600.0, idle=3600.0)
_OURS: Final = frozenset((b"host", b"content-length", *ResponseHead.DROPPED))
_WITH_BODY: Final = frozenset((b"POST", b"PUT", b"PATCH"))


class Fetched(NamedTuple):
    """A whole response with any status."""

    status: int
    fields: Fields
    """End-to-end header fields."""
    body: bytes
    trailers: Trailers = ()

    @classmethod
    def of(cls, head: ResponseHead, body: bytes, trailers: Trailers) -> Self:
        fields = Fields(line for line in head.fields() if line[0].lower() not in HOP_BY_HOP)
        return cls(head.status, fields, body, trailers)


class FetchFailed(Exception):
    """The request got no response. `reason` is for the log: it names the origin, never path, query or headers."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason


@final
class Fetcher:
    """HTTP client of a worker or of the control process; `worker_loop` must be running. `stop` ends all of its
    requests.
    """

    __slots__ = ("_contexts", "_origins", "_read", "_stopped", "_worker_loop")

    def __init__(self, worker_loop: WorkerLoop) -> None:
        self._worker_loop = worker_loop
        self._origins: dict[tuple[Url, str | None, Identity | None, bool, Violations], _Origin] = {}
        self._contexts: dict[Identity, asyncio.Task[ssl.SSLContext]] = {}
        self._read: dict[settings.UpstreamTls, ClientTls] = {_TLS: read_tls(_TLS)}
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Fetcher {', '.join(origin.target.label for origin in self._origins.values()) or 'unused'}>"

    async def fetch(
        self,
        url: Endpoint | Url | str,
        *,
        method: bytes = b"GET",
        fields: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        tls: settings.UpstreamTls | ClientTls = _TLS,
        timeout: float = TIMEOUT,
        most: int = MOST,
        repeatable: bool | None = None,
        http2: bool = False,
        trace: Trace | None = None,
        tolerate: Violations = (),
    ) -> Fetched:
        """Send a request and return the whole response. Raises `FetchFailed`.

        `timeout`: seconds for everything from the name lookup to the last byte. `most`: maximum bytes of the response
        body; a longer one fails. `tls`: the files of settings are read once; callers that follow changes read them
        (`read_tls`).
        `repeatable`: whether the request may be sent again if a reused connection breaks without a response; None: its
        method decides. `http2`: over HTTP/2, without TLS by prior knowledge. `trace`: of the request on whose behalf it
        is sent: its context replaces that of `fields`, and it gets a span. `tolerate`: violations that the response
        may have, as of an upstream. Raises `ValueError` for invalid header fields, and for those that the client writes
        itself.
        """
        endpoint = _endpoint(url)
        span = None if trace is None else FetchSpan(trace)
        if span is not None:
            fields = span.with_context(fields)
        request = _request(endpoint, method, fields, body, TE_TRAILERS if http2 else b"")
        if self._stopped:
            raise FetchFailed(Fault.GATEWAY_STOPPED, f"{endpoint.origin}: {Fault.GATEWAY_STOPPED.label}")
        repeats = method in IDEMPOTENT if repeatable is None else repeatable
        asked = _ClientRequest(request, method, most, repeats, span)
        answer: Fetched | Failure | None = None
        try:
            async with asyncio.timeout(timeout):
                answer = await asked.answer(await self._origin(endpoint.origin, tls, http2, tolerate))
        except TimeoutError:
            answer = asked.late, f"timed out after {timeout:g} s"
        except OSError as error:  # invalid certificate or key
            answer = Fault.TLS_FAILED, str(error)
        finally:
            if span is not None:
                span.add_to_trace(endpoint.origin, request, *_outcome(answer))
        if isinstance(answer, Fetched):
            return answer
        fault, why = answer
        raise FetchFailed(fault, f"{endpoint.origin}: {fault.label}{f': {why}' if why else ''}")

    def stop(self) -> None:
        """Close idle connections, and fail waiting requests. Requests in flight end with their own time limit, or are
        cancelled.
        """
        self._stopped = True
        for making in self._contexts.values():
            making.cancel()
        for origin in self._origins.values():
            origin.pool.stop()
        self._contexts.clear()
        self._origins.clear()

    async def _origin(
        self, url: Url, tls: settings.UpstreamTls | ClientTls, http2: bool, tolerate: Violations
    ) -> "_Origin":
        if isinstance(tls, settings.UpstreamTls):
            tls = self._read.get(tls) or await self._reading(tls)
        if http2:
            tls = tls._replace(identity=tls.identity._replace(protocols=("h2",)))
        identity = tls.identity if url.tls else None
        key = url, tls.settings.fixed_server_name if url.tls else None, identity, http2, tolerate
        origin = self._origins.get(key)
        if origin is None:
            context = None if identity is None else await self._context(tls, identity)
            origin = self._origins.get(key)  # another request may have created it in between
            if origin is None:
                self._forget_old()
                streams = MOST_STREAMS if http2 else 1
                name = tls.settings.fixed_server_name
                target = Target(
                    url,
                    tls=context,
                    server_name=name,
                    timeouts=_TIMEOUTS,
                    streams=streams,
                    response_rules=ResponseRules(tolerate) if tolerate else STRICT,
                )
                origin = self._origins[key] = _Origin(self._worker_loop, target, identity, http2)
        origin.asked_at = monotonic()
        return origin

    async def _reading(self, tls: settings.UpstreamTls) -> ClientTls:
        loop = asyncio.get_running_loop()
        read = self._read[tls] = await loop.run_in_executor(None, read_tls, tls)
        return read

    async def _context(self, tls: ClientTls, identity: Identity) -> ssl.SSLContext:
        making = self._contexts.get(identity)
        if making is None or (making.done() and (making.cancelled() or making.exception() is not None)):
            making = self._contexts[identity] = asyncio.create_task(made_context(tls))
        return await asyncio.shield(making)

    def _forget_old(self) -> None:
        """Drop the origins that are no longer used because their settings have changed."""
        before = monotonic() - FORGOTTEN_S
        for key, origin in list(self._origins.items()):
            if origin.asked_at < before and not origin.asking:
                origin.pool.stop()
                del self._origins[key]
        used = {origin.identity for origin in self._origins.values()}
        for identity in [each for each, making in self._contexts.items() if making.done() and each not in used]:
            del self._contexts[identity]


_NOWHERE: Final = settings.Target(url=Url(scheme="http", host="localhost", port=80))
Failure = tuple[Fault, str]
"""Fault of a failed request, with the reason for the log."""


@final
class _Origin:
    """Origin of the gateway's own requests, and the connections to it. `asking`: requests in flight."""

    __slots__ = ("asked_at", "asking", "identity", "pool", "target")

    def __init__(self, worker_loop: WorkerLoop, target: Target, identity: Identity | None, http2: bool) -> None:
        configured = settings.Upstream(
            targets=(_NOWHERE,), timeouts=_TIMEOUTS, pool=_POOL, protocol="http2" if http2 else "http1"
        )
        self.target = target
        self.identity = identity
        self.pool: Pool = Pool(
            (target,), configured, connection_maker(worker_loop, configured), clock=worker_loop.wheel
        )
        self.asking = 0
        self.asked_at = 0.0


@final
class _ClientRequest(ResponseListener):
    """One request in flight: borrower of a stream, and listener to its response."""

    def __init__(self, request: bytes, method: bytes, most: int, repeatable: bool, span: "FetchSpan | None") -> None:
        self._request = request
        self._method = method
        self._most = most
        self._repeatable = repeatable
        self._span = span
        self._origin: _Origin | None = None
        self._stream: UpstreamStream | None = None
        self._head: ResponseHead | None = None
        self._body = bytearray()
        self.late = Fault.CONNECT_TIMEOUT  # fault of the current step, if the timeout expires
        self._done: asyncio.Future[Fetched | Failure]

    async def answer(self, origin: _Origin) -> Fetched | Failure:
        # The future never gets an exception: its traceback would be a reference cycle with this object.
        self._done = asyncio.get_running_loop().create_future()
        self._origin = origin
        origin.asking += 1
        try:
            self._borrow_stream(fresh=False)
            return await self._done
        finally:
            origin.asking -= 1
            stream, self._stream = self._stream, None
            if stream is None:
                if origin.pool.is_queued(self):
                    self.late = Fault.POOL_TIMEOUT
                origin.pool.withdraw(self)
            else:
                stream.cancel()

    def _borrow_stream(self, fresh: bool) -> None:
        assert self._origin is not None
        most_idle = inf if self._repeatable else JUST_USED_S
        lent = self._origin.pool.lend(self._origin.target, self, fresh, most_idle)
        if isinstance(lent, Fault):
            self.failed(lent)
        elif lent is not None:
            self.lent(lent)

    def _finish(self, answer: Fetched | Failure) -> None:
        if not self._done.done():
            self._done.set_result(answer)

    # calls of the pool

    def queue_left(self) -> None: ...

    def lent(self, stream: UpstreamStream) -> None:
        self._stream = stream
        self.late = Fault.UPSTREAM_TIMEOUT
        if self._span is not None:
            self._span.note_sent(stream)
        stream.begin_special(self, self._request, self._method, whole=True)

    def failed(self, fault: Fault, why: str = "") -> None:
        self._finish((fault, why))

    # calls of the stream

    def on_interim(self, head: ResponseHead) -> None: ...

    def on_head(self, head: ResponseHead, payload: bytes | None, ended: bool) -> None:
        self._head = head
        self.late = Fault.UPSTREAM_STALLED
        if self._span is not None:
            self._span.head_at = monotonic()
        if head.has_body and (head.body_length or 0) > self._most:
            self._too_long()
            return
        self.on_data((head.payload or b"") if payload is None else payload)
        if ended and not self._done.done():
            self.on_end(())

    def on_data(self, payload: bytes) -> None:
        self._body += payload
        if len(self._body) > self._most:
            self._too_long()

    def on_end(self, trailers: Trailers) -> None:
        stream, head = self._stream, self._head
        assert stream is not None
        assert head is not None
        self._stream = None
        stream.release()
        self._finish(Fetched.of(head, bytes(self._body), trailers))

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        stream, self._stream = self._stream, None
        if silent and stream is not None and stream.reused and fault.retry is Retry.IF_REUSED and self._repeatable:
            self._borrow_stream(fresh=True)
        else:
            self._finish((fault, why))

    def _too_long(self) -> None:
        """Fail on a body that is too long: the rest is not read, and the connection is closed."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()
        self._finish((Fault.UPSTREAM_MALFORMED, f"the response is longer than {self._most} bytes"))


async def made_context(tls: ClientTls) -> ssl.SSLContext:
    """Create the context, in steps between which the loop continues."""
    steps = client_tls(tls.settings, tls.material, tls.identity.protocols)
    while True:
        try:
            next(steps)
        except StopIteration as made:
            context: Any = made.value
            assert isinstance(context, ssl.SSLContext)
            return context
        await asyncio.sleep(0)


def _outcome(answer: Fetched | Failure | None) -> tuple[int, str]:
    """Return status and fault of a fetch for its span; None: it was cancelled, which is no fault."""
    if answer is None:
        return 0, ""
    return (answer.status, "") if isinstance(answer, Fetched) else (0, answer[0].label)


def _endpoint(url: Endpoint | Url | str) -> Endpoint:
    if isinstance(url, Endpoint):
        return url
    return parse_endpoint(str(url))


def _request(
    endpoint: Endpoint, method: bytes, fields: Iterable[tuple[bytes, bytes]], body: bytes, hop_by_hop: bytes
) -> bytes:
    lines = Fields(fields)
    for name, _ in lines:
        if name.lower() in _OURS:
            raise ValueError(f"{name!r} is set by the gateway")
    if b"user-agent" not in lines:
        lines.add(b"User-Agent", b"fastgw")
    if body or method in _WITH_BODY:
        lines.add(b"Content-Length", b"%d" % len(body))
    line = method, endpoint.target.encode(), endpoint.origin.authority.encode()
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n" % line + lines.render() + hop_by_hop + b"\r\n" + body


_NOTHING: Final = frozenset[bytes]()


@final
class FetchSpan:
    """Span of one fetch on behalf of a request, such as the question of `forward_auth`: the service gets its context,
    and the request's trace shows it like an attempt at an upstream.

    `add_to_trace` is called once, at its end. `head_at`: time of the response head, in monotonic seconds; 0.0: there is
    none.
    """

    __slots__ = ("_begun_at", "_established", "_reused", "_sent_at", "_span_id", "_trace", "head_at")

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._span_id = trace.new_span_id()
        self._begun_at = monotonic()
        self._sent_at = self.head_at = 0.0
        self._reused, self._established = False, NOT_ESTABLISHED

    def note_sent(self, stream: UpstreamStream) -> None:
        self._sent_at, self._reused, self._established = monotonic(), stream.reused, stream.established

    def with_context(self, fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return header fields with the trace context in place of those that a client has sent."""
        dropped, added = self._trace.rewrite(_NOTHING, b"", self._span_id)
        kept = [line for line in fields if line[0].lower() not in dropped]
        return kept + list(Fields.parse(added, 0))

    def add_to_trace(self, origin: Url, request: bytes, status: int, fault: str) -> None:
        """Add it to the trace. `status`: 0 for no response."""
        if not self._span_id:
            return
        tcp_at, tls_at = (at if at >= self._begun_at else 0.0 for at in self._established)
        ended = EndedAttempt(
            *(self._span_id, "", label_of(origin), origin.scheme.encode(), "first", 1, self._reused, status, fault),
            *(self._begun_at, self._sent_at, self.head_at, monotonic(), request[: request.index(b"\r\n")]),
            *(tcp_at, tls_at),
        )
        self._trace.add_attempt(ended)
