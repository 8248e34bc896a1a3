"""Capture session of a worker: collects the selected exchanges with their bodies, and hands them over encoded.

Rule 1: bodies are bounded, each by the order, and all that are being collected by `MOST_HELD`. Rule 2: the session only
reads; an exchange is the same with it and without it.
"""

import random
from collections.abc import Callable
from time import monotonic, time
from typing import Final, final

import msgspec

from fastgw.capture.captured_exchange import CapturedExchange, CaptureOrder, encode, matches_status
from fastgw.capture.observed_tables import observer_link
from fastgw.exchange import Exchange
from fastgw.exchange.body_stages import BodyStage, StageFactory
from fastgw.exchange.chain import Hooks, Outcome, Route
from fastgw.exchange.reply import Reply
from fastgw.observe.finished_exchange import CLIENT_LEFT
from fastgw.routing.table import Routable

MOST_HELD: Final = 16 * 1024 * 1024
"""Maximum bytes of bodies that a session holds; further ones are cut off."""


@final
class _Body(BodyStage):
    """Beginning of a body. A stage that changes nothing."""

    keeps_length = True
    changed = False

    def __init__(self, session: "CaptureSession") -> None:
        self._session = session
        self.kept = bytearray()
        self.bytes = 0
        self.is_complete = False

    def feed(self, payload: bytes) -> bytes:
        self.keep_payload(payload)
        return payload

    def keep_payload(self, payload: bytes) -> None:
        self.bytes += len(payload)
        session = self._session
        taken = min(len(payload), session.order.body_bytes - len(self.kept), MOST_HELD - session.held)
        if taken > 0:
            self.kept += payload[:taken]
            session.held += taken

    def end(self) -> bytes:
        self.is_complete = self.bytes == len(self.kept)
        return b""


@final
class _Captured:
    """Exchange that is being captured."""

    __slots__ = ("head", "request", "response")

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.request: _Body | None = None
        self.response: _Body | None = None


@final
class CaptureSession:
    """One capture in a worker. `send`: takes each encoded exchange, never waits."""

    def __init__(self, order: CaptureOrder, send: Callable[[bytes], None]) -> None:
        self.order = order
        self._send = send
        self._open: dict[Exchange, _Captured] = {}
        self.held = 0
        """Bytes of bodies that are held."""
        self._routes = frozenset(order.routes)
        self._methods, self._consumers = frozenset(order.methods), frozenset(order.consumers)
        self._tokens, self._filled_at = max(order.rate, 1.0), monotonic()
        self.dropped = 0
        """Number of exchanges above the rate."""
        self.early_link = None
        self.link = observer_link(
            "capture",
            Hooks(
                request=self._begin_capture,
                request_body=StageFactory(self._request_body, reads_only=True) if order.body_bytes else None,
                response_body=StageFactory(self._response_body, reads_only=True) if order.body_bytes else None,
                reply=self._reply if order.body_bytes else None,
                finish=self._finish,
                full_path=True,
            ),
        )

    def __repr__(self) -> str:
        return f"<CaptureSession {self.order!r}: {len(self._open)} open>"

    def wants(self, request: Routable, route: Route) -> bool:
        """Implements `ExchangeObserver.wants`."""
        return (
            (not self._routes or route.name in self._routes)
            and (not self._methods or request.method in self._methods)
            and request.path.startswith(self.order.path_prefix)
        )

    def _begin_capture(self, exchange: Exchange) -> Outcome:
        # It may run for a request that only another observer wants.
        route = exchange.route
        if route is not None and self.wants(exchange, route) and random.random() < self.order.ratio:  # no secret
            self._open[exchange] = _Captured(getattr(exchange.head, "raw", b""))
        return None

    def _request_body(self, exchange: Exchange) -> BodyStage | None:
        captured = self._open.get(exchange)
        if captured is None:
            return None
        captured.request = _Body(self)
        return captured.request

    def _response_body(self, exchange: Exchange) -> BodyStage | None:
        captured = self._open.get(exchange)
        if captured is None:
            return None
        self._forget(captured.response)  # of a response that was replaced
        captured.response = _Body(self)
        return captured.response

    def _reply(self, exchange: Exchange, reply: Reply) -> Reply:
        """Keep the body of a fault, for which body hooks do not run."""
        captured = self._open.get(exchange)
        if captured is not None and reply.fault is not None and isinstance(reply.body, bytes):
            self._forget(captured.response)
            captured.response = _Body(self)
            captured.response.feed(reply.body)
            captured.response.end()
        return reply

    def _forget(self, body: _Body | None) -> None:
        if body is not None:
            self.held -= len(body.kept)

    def _finish(self, exchange: Exchange) -> None:
        captured = self._open.pop(exchange, None)
        if captured is None:
            return
        self._forget(captured.request)
        self._forget(captured.response)
        status = CLIENT_LEFT if exchange.response is None else exchange.response.status
        consumer = "" if exchange.consumer is None else exchange.consumer.name
        if not matches_status(self.order.statuses, status) or (self._consumers and consumer not in self._consumers):
            return
        if not self._take_token():
            self.dropped += 1
            return
        self._send(_encoded(captured_exchange(exchange, captured, status, consumer)))

    def _take_token(self) -> bool:
        now, rate = monotonic(), self.order.rate
        self._tokens = min(max(rate, 1.0), self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def captured_exchange(exchange: Exchange, captured: _Captured, status: int, consumer: str) -> CapturedExchange:
    """Return the record of an exchange that has ended."""
    head, response, body = exchange.head, exchange.response, exchange.request_body
    request, answered, trace = captured.request, captured.response, exchange.trace
    request_bytes = exchange.request_bytes if body is None else body.bytes
    return CapturedExchange(
        date=time(),
        duration_s=monotonic() - exchange.begun_at,
        listener=exchange.listener.name,
        route="" if exchange.route is None else exchange.route.name,
        client_ip=exchange.client_ip,
        scheme=exchange.scheme,
        method=head.method,
        host=head.host,
        path=head.raw_path,
        query=head.query,
        version=head.version,
        request_head=captured.head,
        request_body=b"" if request is None else bytes(request.kept),
        request_bytes=request_bytes,
        request_complete=not request_bytes if request is None else request.bytes == len(request.kept) == request_bytes,
        status=status,
        response_fields=[] if response is None else response.sent_fields(),
        response_body=b"" if answered is None else bytes(answered.kept),
        response_bytes=exchange.response_bytes,
        response_complete=not exchange.response_bytes if answered is None else answered.is_complete,
        consumer=consumer,
        claims=dict(exchange.claims) or None,
        upstream=exchange.upstream,
        target=exchange.target,
        upstream_s=exchange.upstream_s,
        retries=exchange.retries,
        fault="" if exchange.fault is None else exchange.fault.label,
        why=exchange.why,
        cache_result=exchange.cache_result,
        grpc_status=exchange.grpc_status,
        shadowed=exchange.shadowed,
        request_id=exchange.request_id,
        trace_id=b"" if trace is None else trace.trace_id,
    )


def _encoded(captured: CapturedExchange) -> bytes:
    try:
        return encode(captured)
    except (TypeError, ValueError, OverflowError):  # claims of a filter that are not JSON
        return encode(msgspec.structs.replace(captured, claims=None))
