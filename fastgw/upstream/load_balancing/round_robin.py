"""round_robin: the targets in turn."""

from collections.abc import Container, Sequence
from itertools import cycle
from math import gcd
from typing import Final, final

from fastgw.upstream.load_balancing import BalancingRequest, Member
from fastgw.upstream.targets.target import Target

FINEST: Final = 100
"""Number of turns of the heaviest target in a round if weights are not integers."""


@final
class RoundRobin:
    """Weighted round robin; the turns of a heavy target are spread between those of the others.

    In as many selections as the sum of the weights, each target is selected exactly as often as its weight. Each worker
    counts for itself, so this holds for every worker and hence for the node.
    """

    __slots__ = ("_again", "_targets", "_turns")

    def __init__(self, members: Sequence[Member]) -> None:
        self._targets = tuple(member.target for member in members)
        turns = _turns(members)
        self._turns = cycle(turns)
        # Retries have turns of their own: otherwise, of two targets the failing one would be first each time.
        self._again = cycle(turns)

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        if not tried:
            return next(self._turns)
        target = next(self._again)
        if target in tried and any(other not in tried for other in self._targets):
            while target in tried:
                target = next(self._again)
        return target


class SingleTarget:
    """Balancer of a single target."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        return self.target


def _turns(members: Sequence[Member]) -> list[Target]:
    """Return a whole round: the turns of each target are spread evenly over it, with a small offset between targets."""
    weights = _whole([member.weight for member in members])
    turns = []
    for index, weight in enumerate(weights):
        begin = (index + 1) / (len(members) + 1)
        turns += [((begin + turn) / weight, index) for turn in range(weight)]
    return [members[index].target for _, index in sorted(turns)]


def _whole(weights: Sequence[float]) -> list[int]:
    """Return the same weights as the smallest integers; approximately if some are fractions."""
    if not all(weight == int(weight) for weight in weights):
        scale = FINEST / max(weights)
        weights = [max(1, round(weight * scale)) for weight in weights]
    common = gcd(*map(int, weights))
    return [int(weight) // common for weight in weights]
