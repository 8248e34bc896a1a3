"""Tracer: begins the trace of each request, decides about sampling, and collects spans.

Rule 1: a trace costs nothing while tracing is not configured, and no span is made of a request before it has ended.
Rule 2: the decision is made once, when the request is received; only failed and slow requests are kept in addition.
Rule 3: finished spans are encoded at once and queued in bounded memory; those that do not fit are dropped and counted.
"""

from binascii import hexlify
from collections.abc import Callable
from math import inf
from random import getrandbits
from time import monotonic
from typing import TYPE_CHECKING, Final

import cython

from fastgw.config.settings.telemetry import Traces
from fastgw.http.messages import RequestHead
from fastgw.observe.access_log.finished_exchange import FinishedExchange, first_byte_at
from fastgw.observe.tracing.context import B3_MULTI, NAMES, RANDOM, READERS, SAMPLED, WRITERS, Parent
from fastgw.observe.tracing.trace import ERRORS, MOST_ATTEMPTS, EndedAttempt, EndedWait
from fastgw.observe.tracing.trace_rate import TraceRate

if TYPE_CHECKING:
    from fastgw.observe.tracing.spans import SpanBuilder

NoteExemplar = Callable[[str, bytes, float, float], None]
"""Function that records a request as an exemplar: its route, trace, seconds, and date."""
_TRACE_DIGITS: Final = 32
_SPAN_BYTES: Final = 8
_DECIDING_DIGITS: Final = 14
"""Last digits of a trace id, which decide about sampling."""
_NO_PARENT: Final = Parent(b"", b"", None)


def _random_digits(size: cython.int) -> bytes:
    """Return hexadecimal digits of random bytes: ids have to differ, and are no secrets."""
    return hexlify(getrandbits(8 * size).to_bytes(size, "big"))


@cython.freelist(64)
@cython.cclass
class Trace:
    """Trace of one request: its ids, the sampling decision, and what is recorded until its end. Ids are hexadecimal
    digits. A tracer makes it.

    A request that is not sampled has one span id: upstreams get it as their parent, and the server span has it if it
    is kept nevertheless, because the request failed or was slow. `parent_id`: of the span that it was received with;
    b"": it begins here. `state`: `tracestate` to forward. `recorded_offset`: epoch seconds of the monotonic clock's
    zero, once the request has ended and its spans are queued.
    """

    def __init__(self, tracer: "Tracer", trace_id: bytes, span_id: bytes, parent: Parent, is_sampled: bool) -> None:
        self._tracer = tracer
        self.trace_id, self.span_id, self.parent_id, self.state = trace_id, span_id, parent.span_id, parent.state
        self.is_sampled = is_sampled
        self.flags: int = (SAMPLED if is_sampled else 0) | (RANDOM if parent.is_random or not parent.trace_id else 0)
        self.attempts: list[EndedAttempt] = []
        self.waits: list[EndedWait] = []
        self.recorded_offset: float | None = None

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id.decode()} sampled={bool(self.is_sampled)}>"

    @property
    def response_line(self) -> bytes:
        """Header line that tells the client the trace; b"": none."""
        if not self._tracer.server_timing:
            return b""
        return b'Server-Timing: trace;desc="00-%b-%b-%02x"\r\n' % (self.trace_id, self.span_id, self.flags)

    def new_span_id(self) -> bytes:
        """Return the id of an attempt's span; b"" if it gets none."""
        return _random_digits(_SPAN_BYTES) if self.is_sampled else b""

    def rewrite(self, drop: frozenset[bytes], added: bytes, span_id: bytes = b"") -> tuple[frozenset[bytes], bytes]:
        """Return the changes to a request's headers with those of the trace. `span_id`: of the attempt; b"": of the
        trace.
        """
        tracer, parent_id = self._tracer, span_id or self.span_id
        for write in tracer.writers:
            added += write(self.trace_id, parent_id, self.flags, self.state)
        if drop is not tracer.before:
            tracer.joined, tracer.before = drop | tracer.names, drop
        return tracer.joined, added

    def add_attempt(self, attempt: EndedAttempt) -> None:
        """Keep an attempt until the request ends. If it ends after that, such as the copy for a mirror, its span is
        queued at once.
        """
        if len(self.attempts) >= MOST_ATTEMPTS:
            return
        self.attempts.append(attempt)
        if self.recorded_offset is not None:
            tracer = self._tracer
            tracer.add([tracer.builder.attempt_span(attempt, self, self.recorded_offset, tracer)])

    def is_kept(self, status: int, duration_s: float) -> bool:
        """Whether the spans of the request are exported, which has ended."""
        tracer = self._tracer
        return self.is_sampled or (tracer.keeps_errors and status >= ERRORS) or duration_s > tracer.slower_than

    def record(self, ended: FinishedExchange, now: float, date: float) -> None:
        """Make the spans and queue them. `now`: monotonic seconds; `date`: epoch seconds."""
        tracer = self._tracer
        if tracer.note is not None:
            route = "" if ended.route is None else ended.route.name
            tracer.note(route, self.trace_id, now - first_byte_at(ended), date)
        self.recorded_offset = date - now
        tracer.add(tracer.builder.spans_of(ended, self, now, date, tracer))


@cython.cclass
class Tracer:
    """Tracer with one set of settings. `add`: queues the encoded spans of a request; `note`: records the request as an
    exemplar; None: nothing does.
    """

    def __init__(
        self,
        settings: Traces,
        workers: int,
        builder: "SpanBuilder",
        add: Callable[[list[bytes]], None],
        note: NoteExemplar | None = None,
    ) -> None:
        sampling = settings.sampling
        self._settings, self.builder, self.add, self.note = settings, builder, add, note
        self.keeps_errors, self.server_timing = sampling.errors, settings.server_timing
        self.slower_than = inf if sampling.slower_than is None else sampling.slower_than
        self._follows_parent = sampling.parent
        above = round(sampling.ratio * 16**_DECIDING_DIGITS)
        self._threshold = b"g" if above == 16**_DECIDING_DIGITS else b"%0*x" % (_DECIDING_DIGITS, above)
        self._rate = None if sampling.rate is None else TraceRate(sampling.rate / workers)
        self._readers = tuple([READERS[each] for each in settings.propagation])
        written = [B3_MULTI if each == "b3" and settings.b3 == "multi" else each for each in settings.propagation]
        self.writers = tuple([WRITERS[each] for each in written])
        self.names = self.joined = frozenset().union(*[NAMES[each] for each in settings.propagation])
        self.before: frozenset[bytes] = frozenset()

    def __repr__(self) -> str:
        return f"<Tracer {self._settings!r}>"

    def new_span_id(self) -> bytes:
        """Return a random id."""
        return _random_digits(_SPAN_BYTES)

    def begin_trace(self, head: RequestHead) -> Trace:
        """Continue the trace of a received request, or begin one."""
        parent: Parent = _NO_PARENT
        for read in self._readers:
            found: Parent | None = read(head)
            if found is not None:
                parent = found
                break
        ids = _random_digits(_TRACE_DIGITS // 2 + _SPAN_BYTES)
        trace_id = parent.trace_id or ids[:_TRACE_DIGITS]
        decision = parent.is_sampled if self._follows_parent else None
        is_sampled = self._samples(trace_id) if decision is None else decision
        return Trace(self, trace_id, ids[_TRACE_DIGITS:], parent, is_sampled)

    def _samples(self, trace_id: bytes) -> bool:
        """Decide by the last bits of the trace id, so that gateways with the same ratio decide alike."""
        if trace_id[_TRACE_DIGITS - _DECIDING_DIGITS :] >= self._threshold:
            return False
        return self._rate is None or self._rate.try_take(monotonic())
