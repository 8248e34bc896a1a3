"""Span of a fetch on behalf of a request, such as the question of `forward_auth`: the service gets its context, and the
request's trace shows it like an attempt at an upstream.
"""

from collections.abc import Iterable
from time import monotonic
from typing import Final, NamedTuple, final

from fastgw.config.base.value_types import Url
from fastgw.http.fields import Fields
from fastgw.observe.tracing.trace import EndedAttempt
from fastgw.observe.tracing.tracer import Trace
from fastgw.upstream.targets.target import label_of

_NOTHING: Final = frozenset[bytes]()


class FetchTimes(NamedTuple):
    """Steps of a fetch. Times are monotonic seconds; 0.0 for steps that it has not reached."""

    sent_at: float
    head_at: float
    reused: bool
    established: tuple[float, float]
    """When TCP and TLS of its connection were established."""


NOT_SENT: Final = FetchTimes(0.0, 0.0, False, (0.0, 0.0))


@final
class FetchSpan:
    """Span of one fetch; `add_to_trace` is called once, at its end."""

    __slots__ = ("_begun_at", "_span_id", "_trace")

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._span_id = trace.new_span_id()
        self._begun_at = monotonic()

    def with_context(self, fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return header fields with the trace context in place of those that a client has sent."""
        dropped, added = self._trace.rewrite(_NOTHING, b"", self._span_id)
        kept = [line for line in fields if line[0].lower() not in dropped]
        return kept + list(Fields.parse(added, 0))

    def add_to_trace(self, origin: Url, request: bytes, times: FetchTimes, status: int, fault: str) -> None:
        """Add it to the trace. `status`: 0 for no response."""
        if not self._span_id:
            return
        tcp_at, tls_at = (at if at >= self._begun_at else 0.0 for at in times.established)
        ended = EndedAttempt(
            *(self._span_id, "", label_of(origin), origin.scheme.encode(), "first", 1, times.reused, status, fault),
            *(self._begun_at, times.sent_at, times.head_at, monotonic(), request[: request.index(b"\r\n")]),
            *(tcp_at, tls_at),
        )
        self._trace.add_attempt(ended)
