"""random, least_connections and latency: one target is selected at random by weight, or the better one of two.

The better one of two random targets is nearly as good as the best of all, costs the same for any number of targets, and
does not send all workers to the same target at once (Mitzenmacher, "The power of two choices").
"""

from bisect import bisect
from collections.abc import Container, Sequence
from itertools import accumulate
from random import random
from typing import final

from fastgw.upstream.load_balancing import BalancingRequest, Member
from fastgw.upstream.load_balancing.load_tracking import Latencies, Loads
from fastgw.upstream.targets.target import Target


class _RandomChoice:
    """Targets that are selected at random by weight."""

    __slots__ = ("_bounds", "_last", "_members", "_sum", "_targets", "_weights")

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._targets = tuple(member.target for member in members)
        self._weights = tuple(member.weight for member in members)
        self._bounds = list(accumulate(self._weights))
        self._sum = self._bounds[-1]
        self._last = len(members) - 1

    def _two(self) -> tuple[int, int]:
        """Select two different members of at least two at random, and return their positions."""
        bounds, last = self._bounds, self._last
        one = bisect(bounds, random() * self._sum, 0, last)
        weight = self._weights[one]
        # The second is selected from the rest after the first is removed.
        at = random() * (self._sum - weight)
        if at >= bounds[one] - weight:
            at += weight
        other = bisect(bounds, at, 0, last)
        if other == one:  # because of rounding errors
            other = one - 1 if one else 1
        return one, other


@final
class Random(_RandomChoice):
    """Balancer that selects one target at random by weight."""

    __slots__ = ()

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        if tried and (rest := [member for member in self._members if member.target not in tried]):
            return Random(rest).pick(asked)
        return self._targets[bisect(self._bounds, random() * self._sum, 0, self._last)]


@final
class LeastConnections(_RandomChoice):
    """Power of two choices by load: of two, the one with fewer attempts in flight on the node, by weight; if equal, the
    first one.
    """

    __slots__ = ("_loads", "_views", "_words")

    def __init__(self, members: Sequence[Member], loads: Loads) -> None:
        super().__init__(members)
        self._loads = loads
        self._views = loads.views
        self._words = tuple(loads.word(target) for target in self._targets)

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        if tried and (rest := [member for member in self._members if member.target not in tried]):
            return min(rest, key=lambda member: self._loads.of(member.target) / member.weight).target
        one, other = self._two()
        word, other_word = self._words[one], self._words[other]
        load = other_load = 0
        for view in self._views:
            load += view[word]
            other_load += view[other_word]
        weights = self._weights
        return self._targets[one if load * weights[other] <= other_load * weights[one] else other]


@final
class LatencyBalancing(_RandomChoice):
    """Power of two choices by latency: of two, the one that is likely to answer a further request sooner, by weight."""

    __slots__ = ("_cost",)

    def __init__(self, members: Sequence[Member], latencies: Latencies) -> None:
        super().__init__(members)
        self._cost = latencies.cost

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        if tried and (rest := [member for member in self._members if member.target not in tried]):
            return min(rest, key=lambda member: self._cost(member.target) / member.weight).target
        one, other = self._two()
        targets, weights = self._targets, self._weights
        first, second = targets[one], targets[other]
        return first if self._cost(first) * weights[other] <= self._cost(second) * weights[one] else second
