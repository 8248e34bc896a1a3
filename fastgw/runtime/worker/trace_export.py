"""Export of spans from a worker to a collector: batches over HTTP or gRPC, retried with backoff.

Rule 1: nothing waits for the collector: it is called by a task of its own, names are resolved and batches compressed
in threads. Rule 2: one batch is in flight at a time; what comes meanwhile waits in a bounded queue, and is dropped and
counted when that is full. Rule 3: a batch is retried as OTLP specifies, until `GIVE_UP_S`, then it is counted as
failed. Rule 4: a worker that ends exports what is queued first, within the time that it is given.
"""

import asyncio
import gzip
import random
import socket
from contextlib import suppress
from time import monotonic
from typing import Final, final

from fastgw import VERSION
from fastgw.config.settings.telemetry import OtlpExport
from fastgw.gateway.tables import Gateway
from fastgw.http.grpc.frames import PREFIX, frame
from fastgw.http.grpc.status import STATUS, GrpcStatus, parse_status
from fastgw.observe import Observer
from fastgw.observe.access_log.formats import SecretNames
from fastgw.observe.tracing.otlp import OtlpEnvelope, otlp_encoder, rejected_spans
from fastgw.observe.tracing.queue import SpanQueue
from fastgw.observe.tracing.spans import Encoder, SpanBuilder
from fastgw.observe.tracing.tracer import RequestTracer, Tracer, fast_tracer
from fastgw.observe.tracing.zipkin import ZipkinEncoder, ZipkinEnvelope
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.client.http_client import Fetched, Fetcher, FetchFailed
from fastgw.upstream.policies.retry import wait_in

INTERVAL_S: Final = 1.0
"""Maximum seconds that a span waits for others of its batch."""
FIRST_BACKOFF_S: Final = 0.5
MOST_BACKOFF_S: Final = 30.0
GIVE_UP_S: Final = 120.0
"""Seconds after which a batch that the collector does not accept is given up."""
MOST_ASKED_S: Final = 60.0
"""Maximum seconds in `Retry-After` that are respected."""
_RETRIED: Final = frozenset((429, 502, 503, 504))
_RETRIED_CALLS: Final = frozenset(
    (
        GrpcStatus.CANCELLED,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.ABORTED,
        GrpcStatus.OUT_OF_RANGE,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    )
)
"""Failures that are retried, according to the OTLP specification."""

CollectorHeaders = tuple[tuple[bytes, bytes], ...]


class BatchRefused(Exception):
    """A batch was not accepted. The text is for the log. `wait`: seconds until a retry; None: it is not retried."""

    def __init__(self, reason: str, wait: float | None) -> None:
        super().__init__(reason)
        self.wait = wait


@final
class TraceExport:
    """Tracer of a worker for one configuration of traces, and the task that exports its spans."""

    def __init__(self, gateway: Gateway, headers: CollectorHeaders, fetcher: Fetcher, observer: Observer) -> None:
        settings = gateway.config.telemetry.traces
        assert settings is not None
        self.settings, self.headers, self.workers = settings, headers, gateway.workers
        self._fetcher, self._observer = fetcher, observer
        self._export = settings.export
        self._is_call = isinstance(self._export, OtlpExport) and self._export.protocol == "grpc"
        resource = {
            "service.name": settings.service,
            "service.version": VERSION,
            "host.name": socket.gethostname(),
            "telemetry.sdk.name": "fastgw",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": VERSION,
        }
        self._envelope: OtlpEnvelope | ZipkinEnvelope
        encoder: Encoder
        if settings.otlp is not None:
            encoder, self._envelope = otlp_encoder(), OtlpEnvelope(resource, "fastgw", VERSION)
        else:
            encoder, self._envelope = ZipkinEncoder(settings.service), ZipkinEnvelope()
        self._pressed = asyncio.Event()
        self._stopping = asyncio.Event()
        self.queue = SpanQueue(self._pressed.set, lambda count: observer.count_spans(dropped=count))
        builder = SpanBuilder(encoder, SecretNames(settings.redact).mask, gateway.routes_by_name)
        self.tracer = fast_tracer(Tracer(settings, gateway.workers, builder, self.queue.add))
        self._builder = builder
        self._in_flight = 0  # spans of the batch that is being sent
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<TraceExport to {self._export.endpoint.origin}: {len(self.queue)} queued>"

    def goes_on(self, gateway: Gateway, headers: CollectorHeaders) -> bool:
        """Whether it can be used for another generation."""
        ours = (self.settings, self.headers, self.workers)
        return ours == (gateway.config.telemetry.traces, headers, gateway.workers)

    def use(self, gateway: Gateway) -> None:
        """Use the routes of another generation."""
        self._builder.use_templates(gateway.routes_by_name)

    def start(self) -> None:
        """Start exporting."""
        self._task = asyncio.get_running_loop().create_task(self._run())

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
                await self._deliver(batch)
                self._in_flight = 0
                await asyncio.sleep(0)
            if self._stopping.is_set():
                return

    async def _deliver(self, batch: list[bytes]) -> None:
        """Send a batch until it is accepted, or given up."""
        body = await self._body(batch)
        until, backoff = monotonic() + GIVE_UP_S, FIRST_BACKOFF_S
        while True:
            try:
                rejected = min(await self._send(body), len(batch))
            except BatchRefused as refused:
                self._note_failure(str(refused), refused.wait is None)
                if refused.wait is None or monotonic() >= until:
                    self._observer.count_spans(failed=len(batch))
                    return
                wait = max(refused.wait, backoff * random.uniform(0.5, 1.0))  # jitter
                backoff = min(2 * backoff, MOST_BACKOFF_S)
                await self._pause(wait)
            else:
                self._observer.count_spans(exported=len(batch) - rejected, failed=rejected)
                self._note_success(rejected)
                return

    async def _pause(self, seconds: float) -> None:
        """Wait; once the worker ends, only briefly, because there is little time."""
        if self._stopping.is_set():
            await asyncio.sleep(min(seconds, 0.1))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _body(self, batch: list[bytes]) -> bytes:
        sealed = self._envelope.seal(batch)
        if self._export.compression == "gzip":
            loop = asyncio.get_running_loop()
            sealed = await loop.run_in_executor(None, gzip.compress, sealed, 1)
        return frame(sealed, int(self._export.compression == "gzip")) if self._is_call else sealed

    async def _send(self, body: bytes) -> int:
        """Send a batch once. Returns the spans that the collector has rejected. Raises `BatchRefused`."""
        export, is_gzip = self._export, self._export.compression == "gzip"
        fields: list[tuple[bytes, bytes]] = [*self.headers]
        if self._is_call:
            fields.append((b"Content-Type", b"application/grpc"))
            fields += ((b"Grpc-Encoding", b"gzip"),) if is_gzip else ()
        else:
            fields.append((b"Content-Type", self._envelope.content_type))
            fields += ((b"Content-Encoding", b"gzip"),) if is_gzip else ()
        try:
            answer = await self._fetcher.fetch(
                export.endpoint,
                method=b"POST",
                fields=fields,
                body=body,
                tls=export.tls,
                timeout=export.timeout,
                repeatable=True,
                http2=self._is_call,
            )
        except FetchFailed as failed:
            raise BatchRefused(failed.reason, 0.0) from None
        wait = min(wait_in(answer.fields.get(b"Retry-After")), MOST_ASKED_S)
        if self._is_call and answer.status == 200:
            return _outcome_of_call(answer, wait)
        if not 200 <= answer.status < 300:
            raise BatchRefused(
                f"{export.endpoint.origin}: status {answer.status}", wait if answer.status in _RETRIED else None
            )
        return rejected_spans(answer.body) if isinstance(export, OtlpExport) else 0

    def _note_failure(self, reason: str, is_final: bool) -> None:
        """Log the first failure after a success."""
        if self._is_failing:
            return
        self._is_failing = True
        event = OperatorEvent.TRACES_REJECTED if is_final else OperatorEvent.TRACES_FAILED
        log_event(event, "spans cannot be exported: %s", reason)

    def _note_success(self, rejected: int) -> None:
        if rejected:
            self._note_failure(f"{self._export.endpoint.origin}: {rejected} spans were rejected", True)
        elif self._is_failing:
            self._is_failing = False
            log_event(OperatorEvent.TRACES_BACK, "spans are exported again")


def _outcome_of_call(answer: Fetched, wait: float) -> int:
    """Return the rejected spans of a gRPC call. Raises `BatchRefused`."""
    sent = next((value for name, value in answer.trailers if name.lower() == STATUS), answer.fields.get(STATUS))
    status = parse_status(sent)
    if status is not GrpcStatus.OK:
        raise BatchRefused(f"gRPC status {status.name}", wait if status in _RETRIED_CALLS else None)
    return rejected_spans(answer.body[PREFIX:])


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
    def tracer(self) -> RequestTracer | None:
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
