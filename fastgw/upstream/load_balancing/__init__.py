"""Load balancing: selects the target of an upstream for the next attempt.

Rule: a balancer only has eligible targets. Every change (a target fails, is drained or returns, weights grow) creates a
new balancer (`Upstream.settle`), so it costs nothing per request.
"""

from collections.abc import Container, Mapping
from typing import NamedTuple, Protocol, final

from fastgw.consumers.index import Consumer
from fastgw.http.messages import RequestHead
from fastgw.upstream.targets.target import Target


class BalancingRequest(Protocol):
    """Interface of a request for balancers: an exchange, for example."""

    @property
    def head(self) -> RequestHead: ...
    @property
    def path(self) -> bytes: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def params(self) -> Mapping[str, bytes]: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def consumer(self) -> Consumer | None: ...
    def current_values(self, name: bytes) -> list[bytes]:
        """Return all values of a request header, by its lower-case name, with the changes of filters."""


class Member(NamedTuple):
    """A target as a member of its upstream."""

    target: Target
    weight: float
    """Share of the requests, relative to the other targets; 0: none."""
    priority: int = 0
    """Priority group. The lowest is used first."""


class Balancer(Protocol):
    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        """Select the target of the next attempt, if possible one that is not in `tried`; None: there is none."""


@final
class NoTarget:
    """Balancer without eligible targets."""

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        return None
