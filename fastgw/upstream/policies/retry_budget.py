"""Retry budget of an upstream (`retries.budget`): the share of its requests in flight that may be retries or hedges.

Without it an overloaded upstream would get every request twice. Each worker limits retries to the share of its own
requests in flight, so the limit holds for the node as well. In addition, `SPARE_RETRIES` are allowed for the whole
node.
"""

from typing import Final, final

from fastgw.config.base.value_types import count_within
from fastgw.upstream.connections.pool_limit import LocalLimit, PoolLimit

SPARE_RETRIES: Final = 3
"""Retries in flight that the node may have in addition to the budget, because the budget of a few requests is less than
one.
"""

_UNCOUNTED: Final = memoryview(bytearray(8)).cast("Q")
"""A counter that is not read."""


@final
class RetryBudget:
    """Retry budget of one upstream in one worker. `in_use`: requests that are being retried or hedged."""

    __slots__ = ("_counts", "_denied_at", "_share", "_spare", "_spared", "in_use")

    def __init__(self, share: float) -> None:
        self._share = share
        self._spare: PoolLimit | None = None  # without a counter of the node: created on demand
        self._spared = 0  # number of retries in use that are counted in `_spare`
        self._counts = _UNCOUNTED
        self._denied_at = 0
        self.in_use = 0

    def __repr__(self) -> str:
        return f"<RetryBudget of {self._share:.0%}, {self.in_use} in use>"

    def count_in(self, spare: PoolLimit, counts: memoryview, denied_at: int) -> None:
        """Share the budget with the node. `spare`: its limit of `SPARE_RETRIES`. `denied_at`: position in `counts` of
        the counter of denied retries.
        """
        self._spare, self._counts, self._denied_at = spare, counts, denied_at

    def try_take(self, active: int) -> bool:
        """Take one retry of the budget, which is returned at the end of the request. `active`: requests in flight."""
        if self.in_use - self._spared + 1 > count_within(self._share, active):
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
