"""Retry budget of an upstream (`retries.budget`): which share of its requests in flight may be retries or hedges.

Without it a struggling upstream would be asked twice for everything. Each worker keeps to the share of what is in
flight with it, so that the node keeps to it as well. `SPARE_RETRIES` are allowed besides, to the whole node.
"""

from typing import Final, final

from fastgw.upstream.connections.pool import LocalLimit, PoolLimit

SPARE_RETRIES: Final = 3
"""Retries in flight that the node may have besides the budget: that is a share, and a share of little is nothing."""

_UNCOUNTED: Final = memoryview(bytearray(8)).cast("Q")
"""A count that nobody reads."""


@final
class RetryBudget:
    """Retry budget of one upstream in one worker. `in_use`: requests that are being retried or hedged."""

    __slots__ = ("_counts", "_denied_at", "_share", "_spare", "_spared", "in_use")

    def __init__(self, share: float) -> None:
        self._share = share
        self._spare: PoolLimit | None = None  # nobody counts for the node: made when it is needed
        self._spared = 0  # of those in use, how many have one of `_spare`
        self._counts = _UNCOUNTED
        self._denied_at = 0
        self.in_use = 0

    def __repr__(self) -> str:
        return f"<RetryBudget of {self._share:.0%}, {self.in_use} in use>"

    def count_in(self, spare: PoolLimit, counts: memoryview, denied_at: int) -> None:
        """Share with the node. `spare`: its limit of `SPARE_RETRIES`. `denied_at`: in `counts`, the word that counts
        retries which were denied.
        """
        self._spare, self._counts, self._denied_at = spare, counts, denied_at

    def try_take(self, active: int) -> bool:
        """Take a place for a request that is retried, to be given back at its end. `active`: requests in flight."""
        if self.in_use - self._spared + 1 > self._share * active:
            self._spare = self._spare or LocalLimit(SPARE_RETRIES)
            if not self._spare.try_take():
                self._counts[self._denied_at] += 1
                return False
            self._spared += 1
        self.in_use += 1
        return True

    def give_back(self) -> None:
        self.in_use -= 1
        if self._spared and self._spare is not None:
            self._spared -= 1
            self._spare.give_back()
