"""Percentiles from the buckets of a histogram, the time since the start, and the stores that are shown."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.admin.node_interface import CacheStoreInfo, DiskTierInfo, RedisTierInfo
from fastgw.observe.metrics.families import BOUNDS_S
from fastgw.observe.metrics.totals import quantile
from fastgw.runtime.control import node_view
from fastgw.runtime.control.node_view import NodeView


def row(counts: dict[int, int]) -> list[int]:
    """A histogram's row: bucket -> count; behind it stands the sum, which is none."""
    return [counts.get(bucket, 0) for bucket in range(len(BOUNDS_S) + 1)] + [123_456]


def test_without_requests_there_is_none():
    assert quantile((), 0.5) is None
    assert quantile(row({}), 0.5) is None


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
def test_within_a_bucket_they_are_spread_evenly(share):
    low, high = BOUNDS_S[2], BOUNDS_S[3]
    assert quantile(row({3: 100}), share) == pytest.approx(low + (high - low) * share)


def test_the_first_bucket_begins_at_zero():
    assert quantile(row({0: 10}), 0.5) == pytest.approx(BOUNDS_S[0] / 2)


def test_it_goes_over_buckets_that_are_empty():
    counts = row({0: 90, 5: 10})
    assert quantile(counts, 0.9) == pytest.approx(BOUNDS_S[0])
    assert BOUNDS_S[4] < quantile(counts, 0.91) < BOUNDS_S[5]
    assert quantile(counts, 1.0) == pytest.approx(BOUNDS_S[5])


def test_what_is_above_all_bounds_counts_as_the_highest():
    assert quantile(row({len(BOUNDS_S): 3}), 0.5) == BOUNDS_S[-1]


def test_a_higher_share_is_never_quicker():
    counts = row({1: 7, 4: 2, 9: 30, len(BOUNDS_S): 1})
    shares = [share / 100 for share in range(1, 101)]
    seen = [quantile(counts, share) for share in shares]
    assert seen == sorted(seen)


def test_the_time_since_the_start_does_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock may be set back, and then the gateway would have started in the future."""
    view: Any = SimpleNamespace(_node_state=SimpleNamespace(begun_date=time.time(), begun_at=time.monotonic() - 60.0))
    date = time.time()
    monkeypatch.setattr(node_view, "time", SimpleNamespace(**{**vars(time), "time": lambda: date - 7200.0}))
    assert 60.0 <= NodeView._uptime_s(view) < 7200.0


@pytest.mark.parametrize("is_up", [True, False, None])
def test_a_store_with_a_slower_tier_is_shown_though_memory_has_nothing_of_it(is_up: bool | None) -> None:
    disk = DiskTierInfo("/var/cache", 1, 0, 0, 0, 0, 0, 0, 0, 0, True)
    stores = [
        CacheStoreInfo("unused", 1, 0, 0, 0),
        CacheStoreInfo("used", 1, 1, 1, 0),
        CacheStoreInfo("disk", 1, 0, 0, 0, disk),
        CacheStoreInfo("redis", 1, 0, 0, 0, None, RedisTierInfo(0, 0, 0, 0)),
    ]
    words = SimpleNamespace(is_state_up=lambda shared: is_up)
    view = NodeView.__new__(NodeView)
    view._node_state = SimpleNamespace(words=words, shared=None)  # type: ignore[assignment]
    view.contents = SimpleNamespace(stores=lambda: stores)  # type: ignore[assignment]
    shown = view._caches_in_use()
    assert [each.name for each in shown] == ["used", "disk", "redis"]
    assert shown[-1].redis == RedisTierInfo(0, 0, 0, 0, is_up)
