"""Attempts at targets, as those see them who want to know how they go: one record each, by which all of them are told.

Health, load tracking, breakers, counters and the exchange's own record of its retries are told here and nowhere else,
by the fast path as by the full one. Rule: an attempt is begun once, and then is ended or given up once. Between the two
it may be connected, and then the head of its response may come.
"""

from enum import IntEnum
from typing import TYPE_CHECKING, Protocol, final

from fastgw.errors import Fault
from fastgw.observe.finished_exchange import FinishedExchange
from fastgw.upstream.targets.target import Target

if TYPE_CHECKING:
    from typing import Self


class AttemptKind(IntEnum):
    """Reason why an attempt is made."""

    FIRST = 0
    RETRY = 1
    HEDGE = 2  # beside others that are under way


class AttemptListener(Protocol):
    """Listener to the attempts at the targets of an upstream, in a worker.

    What is called here runs for each request: it must not raise, nor wait. The record is whole as far as it has come.
    """

    def attempt_begun(self, attempt: "AttemptRecord") -> None:
        """A target was picked."""

    def attempt_connected(self, attempt: "AttemptRecord") -> None:
        """A stream was lent; the request is sent next."""

    def attempt_answered(self, attempt: "AttemptRecord") -> None:
        """The head of a final response came, or the one that changes protocols."""

    def attempt_ended(self, attempt: "AttemptRecord") -> None:
        """All of the response came, or the tunnel was closed."""

    def attempt_given_up(self, attempt: "AttemptRecord", fault: Fault | None, why: str) -> None:
        """The attempt came to nothing, or its response broke off.

        `fault`: not only the target's own, see `Fault.side`. None: nobody waits for it any more (the client left,
        another attempt was faster, the response was `refused`), or a connection that was idle had just been closed,
        which says nothing of the target. `why`: for logs; may be empty.
        """


class AttemptedExchange(FinishedExchange, Protocol):
    """Exchange that keeps for the log at which target it was last, and how often more than one attempt was made."""

    target: str
    retries: int


class ListenedUpstream(Protocol):
    """Upstream, as far as its attempts are told of."""

    @property
    def name(self) -> str: ...
    @property
    def attempt_listener(self) -> AttemptListener | None:
        """Listener to every attempt; None: there is none, and no request pays for one."""

    @property
    def failure_listener(self) -> AttemptListener:
        """Listener to what is rare: retries and hedges that begin, and attempts that failed or were refused."""


@final
class AttemptRecord:
    """One attempt. Times are monotonic seconds, 0.0 where it has not come so far."""

    __slots__ = (
        "_upstream",
        "begun_at",
        "connected_at",
        "ended_at",
        "exchange",
        "head_at",
        "kind",
        "number",
        "refused",
        "reused",
        "status",
        "target",
    )

    def __init__(
        self,
        exchange: AttemptedExchange,
        upstream: ListenedUpstream,
        target: Target,
        kind: AttemptKind,
        number: int,
        begun_at: float,
    ) -> None:
        self._upstream = upstream
        self.exchange = exchange
        """The exchange, or the request on the fast path, which may become one."""
        self.target = target
        self.kind = kind
        self.number = number
        """Number of the attempt at this upstream for the exchange, from 1."""
        self.begun_at = begun_at
        self.connected_at = self.head_at = self.ended_at = 0.0
        self.reused = False
        """Whether its connection had carried a request before."""
        self.status = 0
        """Status of the response; 0 until its head has come."""
        self.refused = False
        """The response was dropped for another attempt."""

    def __repr__(self) -> str:
        return f"<AttemptRecord {self.number} ({self.kind.name}) at {self.target.label}, status={self.status}>"

    @property
    def upstream(self) -> str:
        return self._upstream.name

    def begin(self) -> "Self":
        upstream = self._upstream
        if self.kind is not AttemptKind.FIRST:
            self.exchange.retries += 1
            upstream.failure_listener.attempt_begun(self)
        if upstream.attempt_listener is not None:
            upstream.attempt_listener.attempt_begun(self)
        return self

    def connect(self, reused: bool, now: float) -> None:
        self.reused, self.connected_at = reused, now
        listener = self._upstream.attempt_listener
        if listener is not None:
            listener.attempt_connected(self)

    def answer(self, status: int, now: float) -> None:
        self.status, self.head_at = status, now
        listener = self._upstream.attempt_listener
        if listener is not None:
            listener.attempt_answered(self)

    def end(self, now: float) -> None:
        self.ended_at = now
        listener = self._upstream.attempt_listener
        if listener is not None:
            listener.attempt_ended(self)

    def give_up(self, fault: Fault | None, why: str, now: float) -> None:
        self.ended_at = now
        upstream = self._upstream
        if fault is not None or self.refused:
            upstream.failure_listener.attempt_given_up(self, fault, why)
        if upstream.attempt_listener is not None:
            upstream.attempt_listener.attempt_given_up(self, fault, why)


@final
class ListenerPair:
    """Tells two, in this order. Of three, one is such a pair."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: AttemptListener, second: AttemptListener) -> None:
        self._first, self._second = first, second

    def __repr__(self) -> str:
        return f"<ListenerPair {self._first!r} {self._second!r}>"

    def attempt_begun(self, attempt: AttemptRecord) -> None:
        self._first.attempt_begun(attempt)
        self._second.attempt_begun(attempt)

    def attempt_connected(self, attempt: AttemptRecord) -> None:
        self._first.attempt_connected(attempt)
        self._second.attempt_connected(attempt)

    def attempt_answered(self, attempt: AttemptRecord) -> None:
        self._first.attempt_answered(attempt)
        self._second.attempt_answered(attempt)

    def attempt_ended(self, attempt: AttemptRecord) -> None:
        self._first.attempt_ended(attempt)
        self._second.attempt_ended(attempt)

    def attempt_given_up(self, attempt: AttemptRecord, fault: Fault | None, why: str) -> None:
        self._first.attempt_given_up(attempt, fault, why)
        self._second.attempt_given_up(attempt, fault, why)


def with_listener(listener: AttemptListener | None, other: AttemptListener) -> AttemptListener:
    """Return a listener that tells `other` as well."""
    return other if listener is None else ListenerPair(listener, other)
