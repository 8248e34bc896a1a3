"""Span of a fetch on behalf of a request, such as the question of `forward_auth`: the service gets its context, and the
request's trace shows it like an attempt at an upstream.
"""

from collections.abc import Iterable
from time import monotonic
from typing import Final, final

from fastgw.config.base.value_types import Url
from fastgw.http.fields import Fields
from fastgw.observe.tracing.trace import EndedAttempt
from fastgw.observe.tracing.tracer import Trace
from fastgw.upstream.connections.stream import NOT_ESTABLISHED, UpstreamStream
from fastgw.upstream.targets.target import label_of

_NOTHING: Final = frozenset[bytes]()


@final
class FetchSpan:
    """Span of one fetch; `add_to_trace` is called once, at its end. `head_at`: time of the response head, in monotonic
    seconds; 0.0: there is none.
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
