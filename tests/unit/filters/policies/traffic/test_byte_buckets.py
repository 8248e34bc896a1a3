"""Buckets of bytes: never more than rate and burst allow, in portions, and shared by equal keys."""

from __future__ import annotations

import pytest

from fastgw.config.base.value_types import parse_byte_rate, write_byte_rate
from fastgw.filters.policies.traffic import Bandwidth, byte_buckets
from fastgw.filters.policies.traffic.byte_buckets import NodeByteLimit, OwnBucket, combined, terms_of
from fastgw.shm.rate_limit_table import own_table


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(byte_buckets, "monotonic", lambda: self.now)
        monkeypatch.setattr(byte_buckets, "monotonic_ns", lambda: round(self.now * 1e9))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("rate", [10, 65_536, 3_000_000, 10**10])
def test_it_gives_what_rate_and_burst_allow(clock: Clock, shared: bool, rate: int) -> None:
    terms = terms_of(rate, None)
    bucket = NodeByteLimit(own_table(), b"n", terms).bucket(b"k") if shared else OwnBucket(terms)
    begun, taken, turns = clock.now, 0, 0
    while clock.now - begun < 2:
        taken += bucket.take_bytes(rate)
        wait = bucket.seconds_until(rate)
        assert wait > 0
        clock.now += max(wait, 0.001)
        turns += 1
    allowed = terms.burst + (clock.now - begun) * rate
    assert allowed * 0.9 - terms.portion - 1 <= taken <= allowed * 1.001 + 1
    assert turns <= 60


def test_equal_keys_share(clock: Clock) -> None:
    limit = NodeByteLimit(own_table(), b"n", terms_of(1000, 1000))
    one, other, third = limit.bucket(b"a"), limit.bucket(b"a"), limit.bucket(b"b")
    assert one.take_bytes(700) + other.take_bytes(700) <= 1000
    assert third.take_bytes(1000) == 1000


def test_a_rest_smaller_than_a_portion_is_given(clock: Clock) -> None:
    bucket = OwnBucket(terms_of(1000, 100))
    assert bucket.take_bytes(100) == 100
    assert bucket.take_bytes(50) == 0
    clock.now += 0.051
    assert bucket.take_bytes(50) == 50


@pytest.mark.parametrize("slow_first", [False, True])
def test_two_wait_for_the_one_that_limits_and_no_longer(clock: Clock, slow_first: bool) -> None:
    """The slower one gives 100 bytes, a portion, after 0.1 s; the other one has enough."""
    pair = [OwnBucket(terms_of(1000, 100)), OwnBucket(terms_of(8000, 10_000))]
    bucket = combined(*(pair if slow_first else pair[::-1]))
    assert bucket.take_bytes(1000) == 100
    for _ in range(3):
        wait = bucket.seconds_until(1000)
        assert wait == pytest.approx(bucket.portion / 1000)
        clock.now += wait - 0.001
        assert bucket.take_bytes(1000) == 0
        clock.now += 0.002
        assert bucket.take_bytes(1000) > 0


@pytest.mark.parametrize("slow_first", [False, True])
def test_of_two_each_limits_and_none_is_charged_for_more(clock: Clock, slow_first: bool) -> None:
    """Two bodies of one key, each with a bandwidth of its own: 3,000 bytes a second together, 2,000 each."""
    limit = NodeByteLimit(own_table(), b"n", terms_of(3000, 750))
    pairs = [(OwnBucket(terms_of(2000, 500)), limit.bucket(b"k")) for _ in range(2)]
    buckets = [combined(*(pair if slow_first else pair[::-1])) for pair in pairs]
    begun, taken = clock.now, [0, 0]
    while clock.now - begun < 5:
        for index, bucket in enumerate(buckets):
            taken[index] += bucket.take_bytes(100_000)
        clock.now += 0.05
    passed = clock.now - begun
    assert sum(taken) <= 750 + 3000 * passed + 1
    assert max(taken) <= 500 + 2000 * passed + 1
    assert sum(taken) >= 0.8 * 3000 * passed
    one = buckets[0]
    alone = 0
    begun = clock.now
    while clock.now - begun < 5:
        alone += one.take_bytes(100_000)
        clock.now += 0.05
    assert 0.8 * 2000 * (clock.now - begun) <= alone <= 500 + 2000 * (clock.now - begun) + 1


@pytest.mark.parametrize("text", ["1MiB/s", "500B/s", "1GB/s"])
def test_a_rate_is_written_as_it_was_read(text: str) -> None:
    assert write_byte_rate(parse_byte_rate(text)) == text


@pytest.mark.parametrize("text", ["1MiB", "1MiB/m", "0B/s", "2048GiB/s", "1/s", "1MiB/s "])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"per second|is not"):
        parse_byte_rate(text)


def test_a_filter_without_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="expected `rate` or `request_rate`"):
        Bandwidth()
