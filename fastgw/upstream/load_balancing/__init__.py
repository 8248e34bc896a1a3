"""Load balancing: picks the target of an upstream that takes the next attempt.

Rule: a balancer only knows targets that may be picked. Whatever changes about them (one fails, one is drained, one
comes back, weights grow) makes another balancer (`Upstream.settle`), so that a request pays nothing for it.
"""

from collections.abc import Container, Mapping
from typing import NamedTuple, Protocol, final

from fastgw.consumers.index import Consumer
from fastgw.http.messages import RequestHead
from fastgw.upstream.targets.target import Target


class BalancingRequest(Protocol):
    """Request as balancers see it: an exchange, or a request on the fast path."""

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
    @property
    def is_fast(self) -> bool:
        """Whether nobody can look at the answer. For such a one `None` means: ask again with an exchange."""


class Member(NamedTuple):
    """A target among those of its upstream."""

    target: Target
    weight: float
    """Share of the requests, relative to the others; 0: none."""
    priority: int = 0
    """The group that it is of. The lowest comes first."""


class Balancer(Protocol):
    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        """The target of the next attempt, one that is not in `tried` as long as there is one; None: there is none."""


@final
class NoTarget:
    """No target may be picked."""

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        return None
