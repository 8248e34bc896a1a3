"""Trace of one request in the gateway: its ids, the sampling decision, and what is recorded until its end."""

from typing import TYPE_CHECKING, Final, NamedTuple, final

from fastgw.observe.finished_exchange import FinishedExchange
from fastgw.observe.tracing.context import RANDOM, SAMPLED

if TYPE_CHECKING:
    from fastgw.observe.tracing.tracer import Tracer

ERRORS: Final = 500
"""Responses from this status on are errors."""


class EndedAttempt(NamedTuple):
    """One attempt at a target that has ended. Times are monotonic seconds; 0.0 for steps that it has not reached."""

    span_id: bytes
    upstream: str
    """Name of the upstream; "": a service that a filter has asked by a URL of its own."""
    target: str
    """`host:port`, or `unix:` and the path of a socket."""
    scheme: bytes
    kind: str
    """`first`, `retry` or `hedge`."""
    number: int
    reused: bool
    status: int
    """Status of the response; 0: there was none."""
    fault: str
    begun_at: float
    connected_at: float
    """When a stream of a connection was lent."""
    head_at: float
    ended_at: float
    request_line: bytes
    """First line of the request that was sent; with `is_as_received`, its method and target."""
    tcp_at: float = 0.0
    """When the TCP connection was established, if this attempt has waited for it."""
    tls_at: float = 0.0
    """When the TLS handshake was completed."""
    grpc_status: str = ""
    queue_left_at: float = 0.0
    """When it left the queue for a place in the upstream's `pool`, if it was in it."""
    is_call: bool = False
    """Whether it is a gRPC call."""
    is_as_received: bool = False
    """Whether it is a client's request of which nothing was sent, or not recorded."""


class EndedWait(NamedTuple):
    """A filter that the request has waited for. Times are monotonic seconds."""

    name: str
    begun_at: float
    ended_at: float


MOST_ATTEMPTS: Final = 256
"""Maximum number of attempts with a span: a connection may cause requests for as long as it lives. Further ones belong
to the trace too: their targets get the server span as parent.
"""
MOST_TIMELINE: Final = 32
"""Maximum number of attempts and waits that an exchange without a trace keeps."""


@final
class Trace:
    """Trace of one request. Ids are hexadecimal digits.

    A request that is not sampled has one span id: upstreams get it as their parent, and the server span has it if it
    is kept nevertheless, because the request failed or was slow.
    """

    __slots__ = (
        *("attempts", "flags", "is_sampled", "parent_id", "recorded_offset", "span_id", "state", "trace_id", "tracer"),
        "waits",
    )

    def __init__(
        self,
        tracer: "Tracer",
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes,
        is_sampled: bool,
        is_random: bool,
        state: bytes,
    ) -> None:
        self.tracer = tracer
        self.trace_id, self.span_id, self.parent_id, self.state = trace_id, span_id, parent_id, state
        self.is_sampled = is_sampled
        self.flags = (SAMPLED if is_sampled else 0) | (RANDOM if is_random else 0)
        self.attempts: list[EndedAttempt] = []
        self.waits: list[EndedWait] = []
        self.recorded_offset: float | None = None
        """Epoch seconds of the monotonic clock's zero, once the request has ended and its spans are queued."""

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id.decode()} sampled={self.is_sampled}>"

    def new_span_id(self) -> bytes:
        """Return the id of an attempt's span; b"" if it gets none."""
        return self.tracer.ids.new_span_id() if self.is_sampled else b""

    def rewrite(self, drop: frozenset[bytes], added: bytes, span_id: bytes = b"") -> tuple[frozenset[bytes], bytes]:
        """Return the changes to a request's headers with those of the trace. `span_id`: of the attempt; b"": of the
        trace.
        """
        tracer = self.tracer
        return tracer.joined(drop), added + tracer.lines(self, span_id or self.span_id)

    def add_attempt(self, attempt: EndedAttempt) -> None:
        """Keep an attempt that has ended; see `Tracer.add_attempt`."""
        self.tracer.add_attempt(self, attempt)

    def is_kept(self, status: int, duration_s: float) -> bool:
        """Whether the spans of the request are exported, which has ended."""
        tracer = self.tracer
        return self.is_sampled or (tracer.keeps_errors and status >= ERRORS) or duration_s > tracer.slower_than

    def record(self, ended: FinishedExchange, now: float, date: float) -> None:
        """Make the spans and queue them. `now`: monotonic seconds; `date`: epoch seconds."""
        self.tracer.record(ended, self, now, date)

    @property
    def response_line(self) -> bytes:
        """Header line for the client; b"": none."""
        if not self.tracer.settings.server_timing:
            return b""
        return self.tracer.response_line_of(self)
