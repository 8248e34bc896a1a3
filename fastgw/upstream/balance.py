"""Which target of an upstream takes the next attempt."""

from collections.abc import Container, Sequence
from typing import final

from fastgw.upstream.target import Target


@final
class RoundRobin:
    """In turn, by weight, the turns of a heavy target spread out between those of the others.

    Over as many picks as the weights add up to, each target is picked exactly as often as its weight. Each worker
    counts for itself, so this holds for every worker and hence for the node.
    """

    __slots__ = ("_credits", "_targets")

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = tuple(targets)
        self._credits = [0] * len(self._targets)

    def pick(self, tried: Container[Target] | None = None) -> Target:
        """The next target; one that is not in `tried`, as long as there is one."""
        targets = self._targets
        if len(targets) == 1:
            return targets[0]
        turn: Sequence[int] = range(len(targets))
        if tried:
            turn = [index for index in turn if targets[index] not in tried] or turn
        # Everyone earns its weight; the richest is picked and pays for all.
        credit = self._credits
        best, total = turn[0], 0
        for index in turn:
            weight = targets[index].weight
            credit[index] += weight
            total += weight
            if credit[index] > credit[best]:
                best = index
        credit[best] -= total
        return targets[best]
