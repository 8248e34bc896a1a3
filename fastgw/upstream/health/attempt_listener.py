"""Attempt listener of an upstream: its health, its breaker, balancers that go by what happens."""

from typing import Protocol, final

from fastgw.errors import Fault
from fastgw.upstream.targets.target import Target


class AttemptListener(Protocol):
    """Listener in a worker to each attempt: `began`, then `answered` or `failed` or neither (the client left), `ended`.

    An upstream without one pays nothing. What is called here runs for each request: it must not raise, nor wait.
    """

    def began(self, target: Target) -> None:
        """A target was picked."""

    def answered(self, target: Target, status: int, seconds: float) -> None:
        """The head of a final response came, so long after `began`."""

    def failed(self, target: Target, fault: Fault, seconds: float) -> None:
        """Handle the failure of an attempt, also after the head of a response. Not only the target's faults: see
        `Fault.side`.
        """

    def ended(self, target: Target) -> None:
        """Handle the end of an attempt, whatever came of it; once for each `began`."""


@final
class ListenerPair:
    """Tells two, in this order. Of three, one is such a pair."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: AttemptListener, second: AttemptListener) -> None:
        self._first, self._second = first, second

    def __repr__(self) -> str:
        return f"<ListenerPair {self._first!r} {self._second!r}>"

    def began(self, target: Target) -> None:
        self._first.began(target)
        self._second.began(target)

    def answered(self, target: Target, status: int, seconds: float) -> None:
        self._first.answered(target, status, seconds)
        self._second.answered(target, status, seconds)

    def failed(self, target: Target, fault: Fault, seconds: float) -> None:
        self._first.failed(target, fault, seconds)
        self._second.failed(target, fault, seconds)

    def ended(self, target: Target) -> None:
        self._first.ended(target)
        self._second.ended(target)


def told_too(watch: AttemptListener | None, other: AttemptListener) -> AttemptListener:
    """A watch that tells `other` as well."""
    return other if watch is None else ListenerPair(watch, other)
