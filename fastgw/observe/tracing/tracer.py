"""Tracer of a worker: continues or begins the trace of each request, decides about sampling, and collects spans.

Rule 1: a trace costs nothing while tracing is not configured, and no span is made of a request before it has ended.
Rule 2: the decision is made once, when the request is received; only failed and slow requests are kept in addition.
Rule 3: finished spans are encoded at once and queued in bounded memory; those that do not fit are dropped and counted.
"""

import os
import random
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final, Protocol, final

from fastgw.observe.finished_exchange import FinishedExchange, first_byte_at
from fastgw.observe.tracing.context import NAMES, READERS, ContextHeaders
from fastgw.observe.tracing.spans import SpanBuilder
from fastgw.observe.tracing.trace import MOST_ATTEMPTS, EndedAttempt, Trace

_TAIL_BITS: Final = 56
_TAIL: Final = _TAIL_BITS // 4


class SamplingSettings(Protocol):
    @property
    def parent(self) -> bool: ...
    @property
    def ratio(self) -> float: ...
    @property
    def rate(self) -> float | None: ...
    @property
    def errors(self) -> bool: ...
    @property
    def slower_than(self) -> float | None: ...


class TraceSettings(Protocol):
    """Settings of traces, as the tracer uses them."""

    @property
    def sampling(self) -> SamplingSettings: ...
    @property
    def propagation(self) -> Sequence[str]: ...
    @property
    def b3(self) -> str: ...
    @property
    def server_timing(self) -> bool: ...


@final
class RandomIds:
    """Random trace and span ids: unpredictable seed, not for secrets. A forked process seeds its own."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))  # ids of traces are not secret
        os.register_at_fork(after_in_child=self._seed)

    def _seed(self) -> None:
        self._random.seed(os.urandom(32))

    def new_trace_id(self) -> bytes:
        return b"%032x" % (self._random.getrandbits(128) or 1)

    def new_span_id(self) -> bytes:
        return b"%016x" % (self._random.getrandbits(64) or 1)


_IDS: Final = RandomIds()


@final
class TraceRate:
    """Token bucket for sampled traces: `rate` per second, and at most one second's worth at once."""

    __slots__ = ("_at", "_most", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = self._tokens = max(rate, 1.0)
        self._at = 0.0

    def try_take(self, now: float) -> bool:
        if self._at:
            self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


NoteExemplar = Callable[[str, bytes, float, float], None]
"""Function that records a request as an exemplar: its route, trace, seconds, and date."""


def _note_nothing(route: str, trace_id: bytes, seconds: float, date: float) -> None: ...


class RequestTracer(Protocol):
    """A tracer, as connections use it."""

    def begin_trace(self, head: ContextHeaders, /) -> Any:
        """Continue the trace of a received request, or begin one. Returns a `Trace`."""


@final
class Tracer:
    """Tracer with one set of settings. `add`: queues the encoded spans of a request; `note`: records the request as an
    exemplar."""

    def __init__(
        self,
        settings: TraceSettings,
        workers: int,
        builder: SpanBuilder,
        add: Callable[[list[bytes]], None],
        note: NoteExemplar = _note_nothing,
    ) -> None:
        self.settings = settings
        self.ids = _IDS
        sampling = settings.sampling
        self._readers = tuple(READERS[name] for name in settings.propagation)
        self.threshold = round(sampling.ratio * (1 << _TAIL_BITS))
        self._follows_parent = sampling.parent
        self.rate = None if sampling.rate is None else TraceRate(sampling.rate / workers)
        self.keeps_errors = sampling.errors
        self.slower_than = float("inf") if sampling.slower_than is None else sampling.slower_than
        self.names = frozenset[bytes]().union(*(NAMES[name] for name in settings.propagation))
        self._joined = frozenset[bytes](), self.names
        self._writers = tuple(
            _tracecontext_lines if name == "tracecontext" else _b3_line if settings.b3 == "single" else _b3_lines
            for name in settings.propagation
        )
        self._builder = builder
        self._add, self._note = add, note

    def __repr__(self) -> str:
        return f"<Tracer {self.settings!r}>"

    def begin_trace(self, head: ContextHeaders) -> Trace:
        """Continue the trace of a received request, or begin one."""
        parent = None
        for read in self._readers:
            parent = read(head)
            if parent is not None:
                break
        ids = self.ids
        span_id = ids.new_span_id()
        if parent is None or not parent.trace_id:
            trace_id = ids.new_trace_id()
            decision = None if parent is None else parent.is_sampled
            return Trace(self, trace_id, span_id, b"", self._is_sampled(trace_id, decision), True, b"")
        sampled = self._is_sampled(parent.trace_id, parent.is_sampled)
        return Trace(self, parent.trace_id, span_id, parent.span_id, sampled, parent.is_random, parent.state)

    def _is_sampled(self, trace_id: bytes, decision: bool | None) -> bool:
        """Decide by the last bits of the trace id, so that gateways with the same ratio decide alike. `decision`: of
        the sender.
        """
        if decision is not None and self._follows_parent:
            return decision
        if int(trace_id[-_TAIL:], 16) >= self.threshold:
            return False
        return self.rate is None or self.take_rate()

    def take_rate(self) -> bool:
        """Count a trace that the ratio has selected. False: the rate is exhausted."""
        return self.rate is None or self.rate.try_take(monotonic())

    def response_line_of(self, trace: Trace) -> bytes:
        """Return the header line that tells the client the trace."""
        return b'Server-Timing: trace;desc="00-%b-%b-%02x"\r\n' % (trace.trace_id, trace.span_id, trace.flags)

    def joined(self, drop: frozenset[bytes]) -> frozenset[bytes]:
        """Return the union with the names of the trace's headers; the previous object if it is equal."""
        before, joined = self._joined
        if before is not drop:
            joined = drop | self.names
            self._joined = drop, joined
        return joined

    def lines(self, trace: Trace, span_id: bytes) -> bytes:
        """Return the header lines for an upstream. `span_id`: its parent."""
        return b"".join(write(trace, span_id) for write in self._writers)

    def record(self, ended: FinishedExchange, trace: Trace, now: float, date: float) -> None:
        """Encode and queue the spans of a request that has ended. `now`: monotonic seconds; `date`: epoch seconds."""
        self._note("" if ended.route is None else ended.route.name, trace.trace_id, now - first_byte_at(ended), date)
        trace.recorded_offset = date - now
        self._add(self._builder.spans_of(ended, trace, now, date, self.ids))

    def add_attempt(self, trace: Trace, attempt: EndedAttempt) -> None:
        """Keep an attempt of a trace until the request ends. If it ends after that, such as the copy for a mirror, its
        span is queued at once.
        """
        if len(trace.attempts) >= MOST_ATTEMPTS:
            return
        trace.attempts.append(attempt)
        if trace.recorded_offset is not None:
            self._add([self._builder.attempt_span(attempt, trace, trace.recorded_offset, self.ids)])


def fast_tracer(tracer: Tracer) -> RequestTracer:
    """Return the compiled module in front of a tracer."""
    from fastgw.observe.tracing import _tracer

    return _tracer.Tracer(tracer)


def _tracecontext_lines(trace: Trace, span_id: bytes) -> bytes:
    line = b"traceparent: 00-%b-%b-%02x\r\n" % (trace.trace_id, span_id, trace.flags)
    return line + b"tracestate: %b\r\n" % trace.state if trace.state else line


def _b3_line(trace: Trace, span_id: bytes) -> bytes:
    return b"b3: %b-%b-%d\r\n" % (trace.trace_id, span_id, trace.is_sampled)


def _b3_lines(trace: Trace, span_id: bytes) -> bytes:
    return b"X-B3-TraceId: %b\r\nX-B3-SpanId: %b\r\nX-B3-Sampled: %d\r\n" % (
        trace.trace_id,
        span_id,
        trace.is_sampled,
    )
