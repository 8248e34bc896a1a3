"""Capture session of a worker: collects the selected exchanges with their bodies, and hands them over encoded.

Rule: the session only reads; an exchange is the same with it and without it.
"""

import random
from collections.abc import Callable
from time import monotonic, time
from typing import final

import msgspec

from fastgw.capture.body_collector import BodyCollector, CollectedExchange
from fastgw.capture.captured_exchange import CapturedExchange, CaptureOrder, encode, matches_status
from fastgw.capture.observed_tables import observer_link
from fastgw.exchange import Exchange
from fastgw.exchange.body_stages import StageFactory
from fastgw.exchange.hooks import Hooks, Outcome
from fastgw.exchange.route import Route
from fastgw.observe.access_log.finished_exchange import CLIENT_LEFT, first_byte_at, upstream_s_of
from fastgw.routing.entry import Routable


@final
class CaptureSession:
    """One capture in a worker. `send`: takes each encoded exchange, never waits."""

    def __init__(self, order: CaptureOrder, send: Callable[[bytes], None]) -> None:
        self.order = order
        self._send = send
        self._collector = BodyCollector(order.body_bytes)
        self._routes = frozenset(order.routes)
        self._methods, self._consumers = frozenset(order.methods), frozenset(order.consumers)
        self._tokens, self._filled_at = max(order.rate, 1.0), monotonic()
        self.dropped = 0
        """Number of exchanges above the rate."""
        self.early_link = None
        collector = self._collector
        self.link = observer_link(
            "capture",
            Hooks(
                request=self._begin_capture,
                request_body=StageFactory(collector.request_body, reads_only=True) if order.body_bytes else None,
                response_body=StageFactory(collector.response_body, reads_only=True) if order.body_bytes else None,
                reply=collector.keep_reply if order.body_bytes else None,
                finish=self._finish,
            ),
        )

    def __repr__(self) -> str:
        return f"<CaptureSession {self.order!r}: {self._collector!r}>"

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
            self._collector.begin_exchange(exchange)
        return None

    def _finish(self, exchange: Exchange) -> None:
        captured = self._collector.end_exchange(exchange)
        if captured is None:
            return
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


def captured_exchange(exchange: Exchange, captured: CollectedExchange, status: int, consumer: str) -> CapturedExchange:
    """Return the record of an exchange that has ended."""
    head, response, body = exchange.head, exchange.response, exchange.request_body
    request, answered, trace = captured.request, captured.response, exchange.trace
    request_bytes = exchange.request_bytes if body is None else body.bytes
    return CapturedExchange(
        date=time(),
        duration_s=monotonic() - first_byte_at(exchange),
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
        upstream_s=upstream_s_of(exchange),
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
