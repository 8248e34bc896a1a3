"""A limit that is found out: what it does when an upstream slows, fails, recovers, or is not asked."""

from __future__ import annotations

import pytest

from fastgw.filters.limiting.adaptive_concurrency import BASELINE_S, SAMPLES, AdaptiveLimit


class Upstream:
    """Takes `seconds` for each answer, all at once: in turns as long as that."""

    def __init__(self, least: float = 4, most: float = 100, tolerance: float = 1.5) -> None:
        self.bounds = (least, most)
        self.limit = AdaptiveLimit(lambda: self.bounds, tolerance)
        self.now = 100.0

    def turn(self, seconds: float, wanted: int = 10**6, failed: bool = False, left: bool = False) -> int:
        """As many as are let in, of so many; they are over after so long. How many that were."""
        taken = 0
        while taken < wanted and self.limit.try_take():
            taken += 1
        began, self.now = self.now, self.now + seconds
        for _ in range(taken):
            if left:
                self.limit.client_left(self.now, began, seconds)
            else:
                self.limit.record_response(self.now, began, seconds, failed)
        assert self.limit.in_flight == 0
        return taken

    def turns(self, count: int, seconds: float, **more: int) -> int:
        return [self.turn(seconds, **more) for _ in range(count)][-1]


def test_it_grows_while_nothing_slows_up_to_its_most():
    upstream = Upstream()
    assert upstream.turn(0.05) == 4
    assert upstream.turns(100, 0.05) == 100


def test_it_shrinks_when_answers_take_longer_and_grows_again():
    upstream = Upstream()
    full = upstream.turns(100, 0.05)
    slow = upstream.turns(20, 0.2)
    assert slow < full / 3
    assert upstream.turns(100, 0.05) == full


def test_what_was_let_in_before_it_changed_does_not_count_twice():
    upstream = Upstream(least=40)
    upstream.turns(10, 0.05)
    for _ in range(40):
        assert upstream.limit.try_take()
    began = upstream.now
    upstream.now += 1.0
    for number in range(40):  # the first of these end a window, which sets the limit
        upstream.limit.record_response(upstream.now, began, 1.0)
        if number == SAMPLES:
            at_once = upstream.limit.limit
    assert upstream.limit.limit == at_once


def test_one_that_is_not_asked_for_much_stays():
    upstream = Upstream()
    upstream.turns(100, 0.05)
    upstream.turns(50, 0.05, wanted=5)
    assert upstream.limit.limit == 100


def test_refusals_shrink_it_though_they_are_fast():
    upstream = Upstream()
    upstream.turns(100, 0.05)
    upstream.turns(60, 0.03, failed=True)
    assert upstream.limit.limit < 20
    assert upstream.limit.baseline_s == pytest.approx(0.05)
    assert upstream.turns(100, 0.05) == 100


def test_clients_that_leave_count_when_they_waited_long():
    upstream = Upstream()
    upstream.turns(100, 0.05)
    upstream.turns(30, 0.01, left=True)
    assert upstream.limit.limit == 100
    upstream.turns(30, 1.0, left=True)
    assert upstream.limit.limit < 20


def test_an_upstream_that_is_slower_for_good_is_measured_anew():
    """Always fully asked, so it takes a probe: the limit is halved for a moment."""
    upstream = Upstream()
    upstream.turns(100, 0.05)
    upstream.turns(int(2 * BASELINE_S / 0.2), 0.2)
    assert upstream.limit.baseline_s == pytest.approx(0.2)
    assert upstream.turns(100, 0.2) == 100


@pytest.mark.parametrize(
    ("limit", "share", "admitted"),
    [
        (100, 0.07, 7),
        (100, 0.29, 29),
        (100, 0.57, 57),
        (100, 0.28, 28),
        (10, 0.25, 3),
        (2.5, 0.5, 2),
        (10.5, 1.0, 11),
        (1, 0.1, 1),
    ],
)
def test_a_share_of_the_limit_is_exact(limit, share, admitted):
    """100 * 0.07 is more than 7. One between two numbers is rounded up, or a small limit would not grow."""
    upstream = Upstream(least=limit)
    assert [upstream.limit.try_take(share) for _ in range(admitted + 1)] == [True] * admitted + [False]


def test_never_more_than_a_share_nor_less_than_one():
    upstream = Upstream(least=10)
    taken = 0
    while upstream.limit.try_take(0.5):
        taken += 1
    assert taken == 5
    one = Upstream(least=1)
    assert one.limit.try_take(0.1)
    assert not one.limit.try_take(0.1)


def test_bounds_that_change_hold_from_the_next_window_on():
    upstream = Upstream()
    upstream.turns(100, 0.05)
    upstream.bounds = (2, 50)
    upstream.turns(4, 0.05)
    assert upstream.limit.limit == 50
