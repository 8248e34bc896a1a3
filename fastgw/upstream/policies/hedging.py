"""Hedging: when a second request is sent to another target in parallel to a slow one: after a configured or learned
time.
"""

from bisect import bisect_left
from math import inf
from typing import Final, final

from fastgw.config.settings import gateway as config

BOUNDS_S: Final = tuple(0.001 * 2 ** (step / 4) for step in range(65))
"""Upper bounds of the buckets, 1 ms to 65 s: a value read from them is at most a fifth too long."""
ENOUGH: Final = 100
"""Minimum number of responses for an estimate of the slowest 5 %."""
KEPT: Final = 2000
"""Number of counted values at which all counts are halved, so older values lose weight."""
EVERY: Final = 20
"""Number of responses between two evaluations."""
SHARE: Final = 0.05
SOONEST_S: Final = 0.005
"""Minimum delay of a hedge: below it a second request is not useful."""


@final
class HeadTimes:
    """Latency of an upstream until the response head, measured in this worker. `slow`: the 95th percentile (seconds).

    `slow` is `inf` until there are enough values.
    """

    __slots__ = ("_counts", "_seen", "slow")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._seen = 0
        self.slow = inf

    def add(self, seconds: float) -> None:
        """Record the duration of an attempt, or the time after which it was cancelled."""
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._seen += 1
        if self._seen % EVERY == 0:
            self._update_delay()

    def _update_delay(self) -> None:
        total = sum(self._counts)
        if total >= KEPT:
            self._counts = [count // 2 for count in self._counts]
            total = sum(self._counts)
        if total < ENOUGH:
            return
        above = 0
        for index in range(len(BOUNDS_S), -1, -1):
            above += self._counts[index]
            if above > SHARE * total:
                self.slow = max(BOUNDS_S[index], SOONEST_S) if index < len(BOUNDS_S) else inf
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
        """Return the seconds without a response after which a hedge is sent; inf: never, because the latency is not
        known yet.
        """
        return self.times.slow if self._after is None else self._after
