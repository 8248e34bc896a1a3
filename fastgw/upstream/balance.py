"""Which target of an upstream takes the next attempt.

Rule: a balancer only knows targets that may be picked. Whatever changes about them (one fails, one is drained, one
comes back) makes another balancer (`group.Upstream.settle`), so that a request pays nothing for it.
"""

from collections.abc import Container, Mapping, Sequence
from itertools import cycle
from math import gcd
from typing import Protocol, final

from fastgw.identity import Consumer
from fastgw.upstream.target import Target
from fastgw.wire.framing import RequestHead


class Asked(Protocol):
    """What is asked for and by whom: an exchange, or a request on its straight way."""

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


class Balancer(Protocol):
    def pick(self, asked: Asked, tried: Container[Target] = ()) -> Target | None:
        """The target of the next attempt, one that is not in `tried` as long as there is one; None: there is none."""


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

    def pick(self, asked: Asked, tried: Container[Target] = ()) -> Target | None:
        target = next(self._turns)
        if tried and target in tried and any(other not in tried for other in self._targets):
            while target in tried:
                target = next(self._turns)
        return target


@final
class Nobody:
    """No target may be picked."""

    def pick(self, asked: Asked, tried: Container[Target] = ()) -> Target | None:
        return None


def _turns(targets: Sequence[Target]) -> list[Target]:
    """A whole round: each target spreads its turns evenly over it, beginning a little later than the one before."""
    common = gcd(*(target.weight for target in targets))
    turns = []
    for index, target in enumerate(targets):
        weight = target.weight // common
        begin = (index + 1) / (len(targets) + 1)
        turns += [((begin + turn) / weight, index) for turn in range(weight)]
    return [targets[index] for _, index in sorted(turns)]
