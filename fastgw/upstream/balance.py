"""Which target of an upstream takes the next attempt."""

from collections.abc import Container, Sequence
from itertools import cycle
from math import gcd
from typing import final

from fastgw.upstream.target import Target


@final
class RoundRobin:
    """In turn, by weight, the turns of a heavy target spread out between those of the others.

    Over as many picks as the weights add up to, each target is picked exactly as often as its weight. Each worker
    counts for itself, so this holds for every worker and hence for the node.
    """

    __slots__ = ("_targets", "_turns")

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = tuple(targets)
        self._turns = cycle(_turns(self._targets))

    def pick(self, tried: Container[Target] | None = None) -> Target:
        """The next target; one that is not in `tried`, as long as there is one."""
        target = next(self._turns)
        if tried and target in tried and any(other not in tried for other in self._targets):
            while target in tried:
                target = next(self._turns)
        return target


def _turns(targets: Sequence[Target]) -> list[Target]:
    """A whole round: each target spreads its turns evenly over it, beginning a little later than the one before."""
    common = gcd(*(target.weight for target in targets))
    turns = []
    for index, target in enumerate(targets):
        weight = target.weight // common
        begin = (index + 1) / (len(targets) + 1)
        turns += [((begin + turn) / weight, index) for turn in range(weight)]
    return [targets[index] for _, index in sorted(turns)]
