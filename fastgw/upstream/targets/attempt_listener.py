"""Attempt listeners: interfaces for everything that follows attempts at targets; each attempt has one record, which all
get.

Health, load tracking, breakers, counters and the exchange's own record of its retries use these calls only, whatever
the attempt is for. Rule: an attempt begins once, and then ends or is abandoned once. In between the head of its
response may be received.
"""

from enum import IntEnum
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, final

from msgspec import Struct

from fastgw.errors import Fault
from fastgw.http.grpc.calls import is_grpc
from fastgw.observe.access_log.finished_exchange import FinishedExchange, target_of
from fastgw.observe.tracing.trace import MOST_ATTEMPTS, MOST_TIMELINE, EndedAttempt
from fastgw.upstream.targets.target import Target

if TYPE_CHECKING:
    from typing import Self

    from fastgw.upstream.upstream import Upstream


class AttemptKind(IntEnum):
    """Reason why an attempt is made."""

    FIRST = 0
    RETRY = 1
    HEDGE = 2  # in parallel to others in flight


FIRST, RETRY, HEDGE = AttemptKind
KINDS: Final = tuple(kind.name.lower() for kind in AttemptKind)
LONGEST_LINE: Final = 4096
"""Maximum bytes of a request line that a span shows."""


class AttemptListener:
    """Listener to the attempts at the targets of an upstream, in a worker: base of those that follow some steps.

    The methods run for each request: they must not raise or wait. The record is complete up to the current step.
    """

    __slots__ = ()

    def attempt_begun(self, attempt: "AttemptRecord") -> None:
        """Handle the selection of a target."""

    def attempt_answered(self, attempt: "AttemptRecord") -> None:
        """Handle the head of a final response, or of a 101."""

    def attempt_ended(self, attempt: "AttemptRecord") -> None:
        """Handle the end of the response, or of the tunnel."""

    def attempt_given_up(self, attempt: "AttemptRecord", fault: Fault | None, why: str) -> None:
        """Handle a failed attempt, or an aborted response.

        `fault`: may also be caused by others than the target, see `Fault.side`. None: the attempt is no longer needed
        (the client disconnected, another attempt was faster, the response was `refused`), or an idle connection had
        just been closed, which is not a failure of the target. `why`: for logs; may be empty.
        """


@final
class AttemptRecord(Struct, eq=False):
    """Record of one attempt. Times are monotonic seconds; 0.0 for steps that it has not reached."""

    exchange: FinishedExchange
    """The exchange, or a sub-request that may become one."""
    _upstream: "Upstream"
    target: Target
    kind: AttemptKind
    number: int
    """Number of the attempt at this upstream for the exchange, from 1."""
    begun_at: float
    connected_at: float = 0.0
    head_at: float = 0.0
    ended_at: float = 0.0
    queue_left_at: float = 0.0
    sent_at: float = 0.0
    """End of a request that the client had not completed when the attempt began."""
    established: tuple[float, float] = (0.0, 0.0)
    """When TCP and TLS of a new connection were established, if it is traced."""
    reused: bool = False
    """Whether its connection had carried a request before."""
    status: int = 0
    """Status of the response; 0 until its head has come."""
    refused: bool = False
    """The response was dropped for another attempt."""
    span_id: bytes = b""
    """Id of its span, which the target gets as its parent; b"": it has none, or not yet."""
    request_line: bytes = b""
    """First line of the request that was sent, if it is traced."""

    def __repr__(self) -> str:
        return f"<AttemptRecord {self.number} ({self.kind.name}) at {self.target.label}, status={self.status}>"

    @property
    def upstream(self) -> str:
        return self._upstream.name

    def report_begun(self) -> "Self":
        upstream, trace = self._upstream, self.exchange.trace
        if trace is not None and len(trace.attempts) < MOST_ATTEMPTS:
            self.span_id = trace.new_span_id()
        if self.kind is not AttemptKind.FIRST:
            self.exchange.retries += 1
            for listener in upstream.failure_listeners:
                listener.attempt_begun(self)
        for listener in upstream.attempt_listeners:
            listener.attempt_begun(self)
        return self

    def connect(self, reused: bool, now: float) -> None:
        self.reused, self.connected_at = reused, now

    def answer(self, status: int, now: float) -> None:
        self.status, self.head_at = status, now
        for listener in self._upstream.attempt_listeners:
            listener.attempt_answered(self)

    def end(self, now: float) -> None:
        self.ended_at = now
        if self.exchange.trace is not None or not self.reused or self.number > 1 or self.queue_left_at:
            self._add_to_timeline(None)
        for listener in self._upstream.attempt_listeners:
            listener.attempt_ended(self)

    def give_up(self, fault: Fault | None, why: str, now: float) -> None:
        self.ended_at = now
        if self.exchange.trace is not None or fault is not None or self.refused:
            self._add_to_timeline(fault)
        upstream = self._upstream
        if fault is not None or self.refused:
            for listener in upstream.failure_listeners:
                listener.attempt_given_up(self, fault, why)
        for listener in upstream.attempt_listeners:
            listener.attempt_given_up(self, fault, why)

    def trace_request(self, request: bytes) -> None:
        """Record the request that is sent, for the span."""
        if self.span_id:
            self.request_line = request[: min(request.index(b"\r\n"), LONGEST_LINE)]

    def _add_to_timeline(self, fault: Fault | None) -> None:
        """Keep it for the trace of the request, or for its story. Ordinary attempts of requests without a trace are not
        kept: the story of such a request knows all of it.
        """
        exchange: Any = self.exchange
        target, trace = self.target, exchange.trace
        if trace is None and not hasattr(exchange, "timeline"):
            return  # not HTTP
        head = exchange.head
        # The connection may have been opened for another request, before this one.
        tcp_at, tls_at = (at if at >= self.begun_at else 0.0 for at in self.established)
        ended = EndedAttempt(
            self.span_id,
            self.upstream,
            target.label,
            b"http" if target.tls is None else b"https",
            KINDS[self.kind],
            self.number,
            self.reused,
            self.status,
            "" if fault is None else fault.label,
            self.begun_at,
            self.connected_at,
            self.head_at,
            self.ended_at or monotonic(),
            self.request_line or b"%b %b" % (head.method, target_of(head)),
            tcp_at,
            tls_at,
            exchange.grpc_status,
            self.queue_left_at,
            is_grpc(head),
            not self.request_line and not head.made,
        )
        if trace is not None:
            trace.add_attempt(ended)
        elif len(exchange.timeline) < MOST_TIMELINE:
            exchange.timeline = (*exchange.timeline, ended)
