"""The limiter cells: what is given back, charged, left and waited for, in both twins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.shm.rate_limit_table import COUNT_MAX, Cells
from tests.support.cells import ALGORITHMS, SECOND, limit_of, made

START = 5000 * SECOND
HERE = staticmethod(lambda: START)
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture
def table() -> Iterator[Cells]:
    with made() as table:
        yield table


def at(now: int):
    return lambda: now


@each_algorithm
def test_what_is_given_back_at_once_was_never_spent(table: Cells, algorithm: str) -> None:
    limit = limit_of(table, algorithm, 5, 10.0)
    for _ in range(20):
        assert limit.spend(b"a", 3, START) == 0
        limit.refund(b"a", 3, START, at(START))
    assert limit.remaining(b"a", START)[0] == 5
    assert sum(limit.spend(b"a", 1, START) == 0 for _ in range(10)) == 5


@each_algorithm
def test_of_what_others_spent_nothing_is_given_back(table: Cells, algorithm: str) -> None:
    limit = limit_of(table, algorithm, 5, 10.0)
    for _ in range(4):
        limit.spend(b"a", 1, START)
    limit.refund(b"a", 1, START, at(START))
    assert limit.remaining(b"a", START)[0] == 2
    limit.refund(b"nobody", 1, START, at(START))
    assert limit.remaining(b"nobody", START) == (5, 0.0)


@each_algorithm
def test_nothing_is_given_back_twice_however_late(table: Cells, algorithm: str) -> None:
    """A bucket has got it back by itself; a window has gone on."""
    limit = limit_of(table, algorithm, 2, 2.0)
    limit.spend(b"a", 1, START)
    later = START + 30 * SECOND
    assert [limit.spend(b"a", 1, later) for _ in range(2)] == [0, 0]
    limit.refund(b"a", 1, START, at(later))
    assert limit.spend(b"a", 1, later) > 0


def test_a_bucket_that_others_would_have_left_full_gets_only_what_is_missing(table: Cells) -> None:
    """One permit a second. The first is spent and given back 0.9 s later, after another was spent."""
    limit = table.token_bucket(1, 1.0, 2)
    limit.spend(b"a", 1, START)
    limit.spend(b"a", 1, START + 9 * SECOND // 10)
    limit.refund(b"a", 1, START, at(START + 9 * SECOND // 10))
    assert limit.remaining(b"a", START + 9 * SECOND // 10) == (1, pytest.approx(1.0))


class Bucket:
    """The oracle of a bucket without what was given back: the permits that stay, in the order of time."""

    def __init__(self, step: int, depth: int) -> None:
        self.step, self.depth = step, depth
        self.kept: list[int] = []

    def holds(self) -> bool:
        full_at = 0
        for now in self.kept:
            full_at = max(full_at, now) + self.step
            if full_at > now + self.depth * self.step:
                return False
        return True


@given(
    most=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, SECOND), st.integers(0, 9)), max_size=40),
)
def test_what_stays_spent_never_exceeds_the_bucket_whatever_is_given_back(
    most: int, steps: list[tuple[int, int, int]]
) -> None:
    with made() as table:
        limit = table.token_bucket(most, 1.0, most)
        oracle, open_, now = Bucket(-(-SECOND // most), most), [], START
        for deed, passed, which in steps:
            now += passed // 3
            if deed and limit.spend(b"a", 1, now) == 0:
                open_.append(now)
            elif open_:
                spent_at = open_.pop(which % len(open_))
                limit.refund(b"a", 1, spent_at, at(now))
        oracle.kept = open_
        assert oracle.holds()


@each_algorithm
def test_a_charge_is_never_refused_and_leads_into_debt_up_to_a_bound(table: Cells, algorithm: str) -> None:
    limit = limit_of(table, algorithm, 10, 10.0)
    limit.charge(b"a", 4, START)
    assert limit.remaining(b"a", START)[0] == 6
    limit.charge(b"a", 8, START)
    assert limit.remaining(b"a", START)[0] == 0
    once = limit.spend(b"a", 1, START)
    limit.charge(b"a", 10**15, START)
    bound = limit.spend(b"a", 1, START)
    limit.charge(b"a", 10**15, START)
    assert once > 0
    assert limit.spend(b"a", 1, START) == bound < 25
    assert limit.spend(b"a", 10, START + 40 * SECOND) == 0


def test_a_charge_fits_into_the_count_of_a_window(table: Cells) -> None:
    limit = table.fixed_window(COUNT_MAX, 10.0)
    limit.charge(b"a", 2 * COUNT_MAX, START)
    assert limit.remaining(b"a", START)[0] == 0
    with pytest.raises(ValueError, match="one permit or more"):
        limit.charge(b"a", 0, START)


@each_algorithm
def test_what_is_left_is_told_without_spending_it(table: Cells, algorithm: str) -> None:
    limit = limit_of(table, algorithm, 5, 10.0)
    assert limit.remaining(b"a", START) == (5, 0.0)
    for spent in range(1, 6):
        limit.spend(b"a", 1, START)
        permits, seconds = limit.remaining(b"a", START)
        assert permits == 5 - spent
        assert 0 < seconds <= 12
        assert limit.remaining(b"a", START) == (permits, seconds)
    limit.spend(b"a", 1, START)
    assert limit.remaining(b"a", START)[0] == 0
    assert limit.remaining(b"a", START + 15 * SECOND) == (5, 0.0)


@each_algorithm
@given(data=st.data())
def test_as_much_is_left_as_can_be_spent_at_once(algorithm: str, data: st.DataObject) -> None:
    with made() as table:
        most = data.draw(st.integers(1, 20))
        limit = limit_of(table, algorithm, most, data.draw(st.floats(0.2, 20)))
        now = START
        for _ in range(data.draw(st.integers(0, 12))):
            limit.spend(b"a", data.draw(st.integers(1, most)), now)
            now += data.draw(st.integers(0, 5 * SECOND))
        permits, seconds = limit.remaining(b"a", now)
        assert limit.remaining(b"a", now + round(seconds * 1e9))[0] == most
        assert permits == 0 or limit.spend(b"a", permits, now) == 0
        assert limit.spend(b"a", 1, now) > 0


def test_a_key_that_shares_a_cell_gives_back_there(table: Cells) -> None:
    with made(16) as small:
        limit = small.token_bucket(3, 100.0, 3)
        for number in range(16):
            limit.spend(b"%d" % number, 1, START)
        for _ in range(10):
            assert limit.spend(b"key", 3, START) == 0
            limit.refund(b"key", 3, START, at(START))
        assert limit.remaining(b"key", START)[0] == 3


def test_names_tell_limits_apart(table: Cells) -> None:
    one, same, other = (table.token_bucket(2, 10.0, 2, name) for name in (b"one", b"one", b"other"))
    assert one.spend(b"a", 2, START) == 0
    assert same.spend(b"a", 1, START) > 0
    assert other.spend(b"a", 2, START) == 0
    assert table.token_bucket(2, 10.0, 2).spend(b"a", 2, START) == 0


def test_in_a_queue_each_has_its_turn_and_the_places_are_counted(table: Cells) -> None:
    """Two a second: one at once, then one each half of a second, three of them waiting."""
    limit = table.leaky_bucket(2, 1.0, 3)
    turns = []
    for _ in range(4):
        assert limit.spend(b"a", 1, START) == 0
        turns.append(limit.renewed_at - SECOND // 2 - START)
    assert turns == [0, SECOND // 2, SECOND, 3 * SECOND // 2]
    assert limit.spend(b"a", 1, START) == 0.5
    assert limit.spend(b"a", 1, START + SECOND // 2) == 0


@pytest.mark.parametrize("limit", [7, 60, 1000])
def test_a_bucket_is_filled_evenly_over_a_minute(table: Cells, limit: int) -> None:
    """A client that asks every 10 ms gets what it is due at each instant: never more, never one permit less."""
    bucket = table.token_bucket(limit, 60.0, 5)
    step = -(-60 * SECOND // limit)
    got = sum(bucket.spend(b"a", 1, START) == 0 for _ in range(10))
    assert got == 5
    for tick in range(1, 6001):
        now = START + tick * SECOND // 100
        while bucket.spend(b"a", 1, now) == 0:
            got += 1
        assert got == 5 + (now - START) // step
    assert got == 5 + (60 * SECOND) // step


@each_algorithm
def test_each_minute_admits_its_limit(table: Cells, algorithm: str) -> None:
    """For an hour, with a client that always asks for more."""
    limit = limit_of(table, algorithm, 30, 60.0)
    got = [0] * 60
    for second in range(3600):
        now = START // (60 * SECOND) * 60 * SECOND + second * SECOND
        while limit.spend(b"a", 1, now) == 0:
            got[second // 60] += 1
    if algorithm == "fixed_window":
        assert got == [30] * 60
    elif algorithm == "token_bucket":
        assert got[0] == 30 + 29
        assert got[1:] == [30] * 59
    else:
        assert all(each <= 30 for each in got)
        assert sum(got) >= 60 * 30 * 7 // 8
