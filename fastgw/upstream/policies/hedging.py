"""When a second target is asked beside one that is slow: after a time that is set, or one that is learnt."""

from bisect import bisect_left
from math import inf
from typing import Final, final

from fastgw.config.settings import gateway as config

BOUNDS_S: Final = tuple(0.001 * 2 ** (step / 4) for step in range(65))
"""Upper bounds of the buckets, 1 ms to 65 s: what is read off them is at most a fifth too long."""
ENOUGH: Final = 100
"""Answers that it takes to speak of the slowest 5 %."""
KEPT: Final = 2000
"""When so many are counted, all counts are halved: what was counts ever less."""
EVERY: Final = 20
"""Answers between two looks."""
SHARE: Final = 0.05
SOONEST_S: Final = 0.005
"""No sooner than that: what takes so little is not worth a second request."""


@final
class HeadTimes:
    """How long an upstream takes until the head of an answer, seen by this worker. `slow`: 95 % are faster (seconds).

    `slow` is `inf` until enough was seen.
    """

    __slots__ = ("_counts", "_seen", "slow")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._seen = 0
        self.slow = inf

    def add(self, seconds: float) -> None:
        """An attempt took so long, or was given up after that time."""
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._seen += 1
        if self._seen % EVERY == 0:
            self._look()

    def _look(self) -> None:
        total = sum(self._counts)
        if total >= KEPT:
            self._counts = [count // 2 for count in self._counts]
            total = sum(self._counts)
        if total < ENOUGH:
            return
        above = 0
        for place in range(len(BOUNDS_S), -1, -1):
            above += self._counts[place]
            if above > SHARE * total:
                self.slow = max(BOUNDS_S[place], SOONEST_S) if place < len(BOUNDS_S) else inf
                return


@final
class Hedging:
    """`hedge` of an upstream, in one worker. `max`: hedges of one request."""

    __slots__ = ("_after", "max", "times")

    def __init__(self, settings: config.Hedge) -> None:
        self._after = None if settings.after == "p95" else float(settings.after)
        self.max = settings.max
        self.times = HeadTimes()

    def after(self) -> float:
        """Seconds without an answer after which another target is asked; inf: never, as nothing is known yet."""
        return self.times.slow if self._after is None else self._after
