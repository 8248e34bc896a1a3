"""Tracer of a worker: continues or begins the trace of each request, decides about sampling, and collects spans.

Rule 1: a trace costs nothing while tracing is not configured, and no span is made of a request before it has ended.
Rule 2: the decision is made once, when the request is received; only failed and slow requests are kept in addition.
Rule 3: finished spans are encoded at once and queued in bounded memory; those that do not fit are dropped and counted.
"""

from collections.abc import Callable
from typing import final

from fastgw.config.settings.telemetry import Traces
from fastgw.http.messages import RequestHead
from fastgw.observe.access_log.finished_exchange import FinishedExchange
from fastgw.observe.tracing.spans import SpanBuilder
from fastgw.observe.tracing.trace import EndedAttempt, EndedWait

NoteExemplar = Callable[[str, bytes, float, float], None]
"""Function that records a request as an exemplar: its route, trace, seconds, and date."""

@final
class Trace:
    """Trace of one request: its ids, the sampling decision, and what is recorded until its end. Ids are hexadecimal
    digits. A tracer makes it.

    A request that is not sampled has one span id: upstreams get it as their parent, and the server span has it if it
    is kept nevertheless, because the request failed or was slow.
    """

    recorded_offset: float | None
    """Epoch seconds of the monotonic clock's zero, once the request has ended and its spans are queued."""
    @property
    def trace_id(self) -> bytes: ...
    @property
    def span_id(self) -> bytes: ...
    @property
    def parent_id(self) -> bytes:
        """Id of the span that it was received with; b"": it begins here."""

    @property
    def state(self) -> bytes:
        """`tracestate` to forward."""

    @property
    def is_sampled(self) -> bool: ...
    @property
    def flags(self) -> int: ...
    @property
    def attempts(self) -> list[EndedAttempt]: ...
    @property
    def waits(self) -> list[EndedWait]: ...
    @property
    def response_line(self) -> bytes:
        """Header line that tells the client the trace; b"": none."""

    def new_span_id(self) -> bytes:
        """Return the id of an attempt's span; b"" if it gets none."""

    def rewrite(self, drop: frozenset[bytes], added: bytes, span_id: bytes = b"") -> tuple[frozenset[bytes], bytes]:
        """Return the changes to a request's headers with those of the trace. `span_id`: of the attempt; b"": of the
        trace.
        """

    def add_attempt(self, attempt: EndedAttempt) -> None:
        """Keep an attempt until the request ends. If it ends after that, such as the copy for a mirror, its span is
        queued at once.
        """

    def is_kept(self, status: int, duration_s: float) -> bool:
        """Whether the spans of the request are exported, which has ended."""

    def record(self, ended: FinishedExchange, now: float, date: float) -> None:
        """Make the spans and queue them. `now`: monotonic seconds; `date`: epoch seconds."""

@final
class Tracer:
    """Tracer with one set of settings. `add`: queues the encoded spans of a request; `note`: records the request as an
    exemplar; None: nothing does.
    """

    def __init__(
        self,
        settings: Traces,
        workers: int,
        builder: SpanBuilder,
        add: Callable[[list[bytes]], None],
        note: NoteExemplar | None = None,
    ) -> None: ...
    def new_span_id(self) -> bytes:
        """Return a random id, which is no secret."""

    def begin_trace(self, head: RequestHead) -> Trace:
        """Continue the trace of a received request, or begin one."""
