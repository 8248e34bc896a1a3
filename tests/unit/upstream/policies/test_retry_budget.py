"""Retry budget: the share of the requests in flight that may be retried at a time."""

from __future__ import annotations

import pytest

from fastgw.upstream.policies.retry import SPARE_RETRIES, RetryBudget


@pytest.mark.parametrize(("share", "active", "most"), [(0.29, 100, 29), (0.57, 100, 57), (0.2, 9, 1), (0.0, 50, 0)])
def test_the_share_of_the_requests_in_flight_is_exact(share: float, active: int, most: int) -> None:
    budget = RetryBudget(share)
    taken = 0
    while budget.try_take(active):
        taken += 1
    assert taken == most + SPARE_RETRIES
