"""Who wants to know how attempts at an upstream go: its health, its breaker, balancers that go by what happens."""

from typing import Protocol

from fastgw.errors import Fault
from fastgw.upstream.target import Target


class AttemptWatch(Protocol):
    """Told in a worker of each attempt: `began`, then `answered` or `failed` or neither (the client left), `ended`.

    An upstream without one pays nothing. What is called here runs for each request: it must not raise, nor wait.
    """

    def began(self, target: Target) -> None:
        """A target was picked."""

    def answered(self, target: Target, status: int, seconds: float) -> None:
        """The head of a final response came, so long after `began`."""

    def failed(self, target: Target, fault: Fault, seconds: float) -> None:
        """It has failed, also after the head of a response. Not only the target's faults: see `Fault.side`."""

    def ended(self, target: Target) -> None:
        """It is over, whatever came of it; once for each `began`."""
