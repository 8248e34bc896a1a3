"""Export of spans from a worker to a collector: batches over HTTP or gRPC, retried with backoff.

Rule 1: nothing waits for the collector: it is called by a task of its own, names are resolved and batches compressed
in threads. Rule 2: one batch is in flight at a time; what comes meanwhile waits in a bounded queue, and is dropped and
counted when that is full. Rule 3: a batch is retried as OTLP specifies, until `GIVE_UP_S`, then it is counted as
failed. Rule 4: a worker that ends exports what is queued first, within the time that it is given.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final, final

from fastgw import VERSION
from fastgw.config.settings.telemetry import OtlpExport
from fastgw.gateway.tables import Gateway
from fastgw.http.grpc.protobuf import rejected_items
from fastgw.observe.access_log.secret_names import SecretNames
from fastgw.observe.observer import Observer
from fastgw.observe.tracing.otlp import OtlpEnvelope
from fastgw.observe.tracing.otlp_encoder import OtlpEncoder
from fastgw.observe.tracing.queue import SpanQueue
from fastgw.observe.tracing.spans import SpanBuilder, TraceSpan
from fastgw.observe.tracing.tracer import Tracer
from fastgw.observe.tracing.zipkin import ZipkinFormat
from fastgw.operator_events import OperatorEvent, OutageReports, log_event
from fastgw.runtime.process.lasting_tasks import keep_running, pause
from fastgw.upstream.client.collector_client import BatchRefused, CollectorClient, CollectorHeaders, RetryPause
from fastgw.upstream.client.http_client import Fetcher
from fastgw.upstream.forwarding.forward_action import sent_target_of

INTERVAL_S: Final = 1.0
"""Maximum seconds that a span waits for others of its batch."""
GIVE_UP_S: Final = 120.0
"""Seconds after which a batch that the collector does not accept is given up."""


@final
class TraceExport:
    """Tracer of a worker for one configuration of traces, and the task that exports its spans."""

    def __init__(self, gateway: Gateway, headers: CollectorHeaders, fetcher: Fetcher, observer: Observer) -> None:
        settings = gateway.config.telemetry.traces
        assert settings is not None
        self.settings, self.headers, self.workers = settings, headers, gateway.workers
        self._observer = observer
        self._export = settings.export
        resource = {
            "service.name": settings.service,
            "service.version": VERSION,
            "host.name": socket.gethostname(),
            "telemetry.sdk.name": "fastgw",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": VERSION,
        }
        self._envelope: OtlpEnvelope | ZipkinFormat
        encode: Callable[[TraceSpan], bytes]
        if settings.otlp is not None:
            encode, self._envelope = OtlpEncoder().encode, OtlpEnvelope(resource, "fastgw", VERSION)
        else:
            self._envelope = ZipkinFormat(settings.service)
            encode = self._envelope.encode
        is_call = settings.otlp is not None and settings.otlp.protocol == "grpc"
        content_type = self._envelope.content_type
        self._client = CollectorClient(fetcher, self._export, headers, content_type, is_call=is_call)
        self._pressed = asyncio.Event()
        self._stopping = asyncio.Event()
        self.queue = SpanQueue(self._pressed.set, lambda count: observer.count_spans(dropped=count))
        mask = SecretNames(settings.redact).mask
        builder = SpanBuilder(encode, mask, gateway.routes_by_name, gateway.upstreams, sent_target_of)
        self.tracer = Tracer(settings, gateway.workers, builder, self.queue.add, observer.note_exemplar)
        self._builder = builder
        self._in_flight = 0  # spans of the batch that is being sent
        self._outage = OutageReports()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<TraceExport to {self._export.endpoint.origin}: {len(self.queue)} queued>"

    def goes_on(self, gateway: Gateway, headers: CollectorHeaders) -> bool:
        """Whether it can be used for another generation."""
        ours = (self.settings, self.headers, self.workers)
        return ours == (gateway.config.telemetry.traces, headers, gateway.workers)

    def use(self, gateway: Gateway) -> None:
        """Use the routes and upstreams of another generation."""
        self._builder.use_generation(gateway.routes_by_name, gateway.upstreams)

    def start(self) -> None:
        """Start exporting."""
        self._task = asyncio.get_running_loop().create_task(
            keep_running("trace export", self._run, stopping=self._stopping)
        )

    async def stop(self, seconds: float) -> None:
        """Export what is queued, for at most this many seconds; the rest is dropped and counted."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping.set()
        self._pressed.set()
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        left = self._in_flight + len(self.queue)
        if left:
            self._in_flight = 0
            self._observer.count_spans(dropped=left)

    async def _run(self) -> None:
        while True:
            if not self._stopping.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL_S):
                        await self._pressed.wait()
                self._pressed.clear()
            while batch := self.queue.pop_batch():
                self._in_flight = len(batch)
                try:
                    await self._deliver(batch)
                except Exception:
                    self._count(failed=self._in_flight)  # 0: it is counted
                    raise
                await asyncio.sleep(0)
            if self._stopping.is_set():
                return

    async def _deliver(self, batch: list[bytes]) -> None:
        """Send a batch until it is accepted, or given up."""
        body = await self._client.prepare(self._envelope.seal(batch))
        until, backoff = monotonic() + GIVE_UP_S, RetryPause()
        while True:
            try:
                response = await self._client.send(body)
            except BatchRefused as refused:
                self._note_failure(str(refused), refused.wait is None)
                if refused.wait is None or monotonic() >= until:
                    self._count(failed=len(batch))
                    return
                await pause(backoff.after(refused.wait), self._stopping)
            else:
                is_otlp = isinstance(self._export, OtlpExport)
                rejected = min(rejected_items(response), len(batch)) if is_otlp else 0
                self._count(len(batch) - rejected, rejected)
                self._note_success(rejected)
                return

    def _count(self, exported: int = 0, failed: int = 0) -> None:
        """Count the spans of the batch that is being sent, which is not any more."""
        self._in_flight = 0
        self._observer.count_spans(exported=exported, failed=failed)

    def _note_failure(self, reason: str, is_final: bool, cause: str = "") -> None:
        """Log a failure, if it is the first one or has another cause. `cause`: the part of the text that tells the
        cause, if another part varies.
        """
        if self._outage.is_due(cause or reason, monotonic()):
            event = OperatorEvent.TRACES_REJECTED if is_final else OperatorEvent.TRACES_FAILED
            log_event(event, "spans cannot be exported: %s", reason)

    def _note_success(self, rejected: int) -> None:
        if rejected:
            self._note_failure(f"{self._export.endpoint.origin}: {rejected} spans were rejected", True, "rejected")
        elif self._outage.has_ended():
            log_event(OperatorEvent.TRACES_BACK, "spans are exported again")


@final
class TraceExports:
    """Exports of a worker: that of the generation in use, and earlier ones that still have spans."""

    def __init__(self, fetcher: Fetcher, observer: Observer) -> None:
        self._fetcher, self._observer = fetcher, observer
        self._current: TraceExport | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def adopt(self, gateway: Gateway) -> None:
        """Change to the traces of another generation, between two requests. Queued spans are exported as before."""
        current, headers = self._current, gateway.trace_headers
        if current is not None:
            if current.goes_on(gateway, headers):
                current.use(gateway)
                return
            ending = asyncio.get_running_loop().create_task(current.stop(GIVE_UP_S))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._current = None
        if gateway.config.telemetry.traces is not None:
            self._current = TraceExport(gateway, headers, self._fetcher, self._observer)
            self._current.start()

    @property
    def tracer(self) -> Tracer | None:
        """Tracer of the generation in use; None: requests are not traced."""
        return None if self._current is None else self._current.tracer

    async def stop(self, seconds: float) -> None:
        """Export what is queued, for at most this many seconds."""
        current, self._current = self._current, None
        if current is not None:
            await current.stop(seconds)
        for ending in tuple(self._ending):
            ending.cancel()
        if self._ending:
            await asyncio.wait(self._ending, timeout=1.0)
