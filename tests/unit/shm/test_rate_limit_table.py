"""The limiter cells: what each algorithm admits, judged by a simple oracle; where keys are; what a table refuses."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.shm import rate_limit_table
from fastgw.shm.rate_limit_table import Cells, Limit
from tests.support.cells import ALGORITHMS, SECOND, at, limit_of, made

START = 5000 * SECOND
TICK, FINE = 1 << 24, 1 << 12  # ns to which instants in the cells are rounded up


@pytest.fixture
def table() -> Iterator[Cells]:
    with made() as table:
        yield table


@pytest.fixture
def small() -> Iterator[Cells]:
    """All keys are in the same 16 places."""
    with made(16) as table:
        yield table


def admitted(limit: Limit, key: bytes, now: int, tries: int) -> int:
    return sum(limit.spend(key, 1, now) == 0 for _ in range(tries))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("most", [1, 3, 1000])
def test_exactly_the_limit_is_admitted_at_once(table: Cells, algorithm: str, most: int) -> None:
    limit = limit_of(table, algorithm, most, 1.0)
    assert admitted(limit, b"a", START, 2 * most + 1) == most
    assert admitted(limit, b"b", START, 2 * most + 1) == most


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=60)
@given(st.data())
def test_after_the_wait_that_was_told_and_not_before_it_is_admitted(algorithm: str, data: st.DataObject) -> None:
    with made() as table:
        most = data.draw(st.integers(1, 50))
        limit = limit_of(table, algorithm, most, data.draw(st.floats(0.2, 100)))
        now = START + data.draw(st.integers(0, 1000 * SECOND))
        for _ in range(data.draw(st.integers(1, 20))):
            cost = data.draw(st.integers(1, most))
            wait = limit.spend(b"key", cost, now)
            if wait:
                ns = round(wait * 1e9)
                assert limit.spend(b"key", cost, now + ns - 1) > 0
                now += ns
                assert limit.spend(b"key", cost, now) == 0
            now += data.draw(st.integers(0, SECOND))


class TokenBucket:
    """The oracle: permits in units of a step, filled up as time passes."""

    def __init__(self, limit: int, window: float, burst: int) -> None:
        self._step = -(-round(window * 1e9) // limit)
        self._depth = self._level = burst * self._step
        self._at = 0

    def admits(self, cost: int, now: int) -> bool:
        self._level = min(self._depth, self._level + now - self._at)
        self._at = now
        if cost * self._step > self._level:
            return False
        self._level -= cost * self._step
        return True


class FixedWindow:
    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._window = limit, round(window * 1e9)
        self._spent: dict[int, int] = {}

    def admits(self, cost: int, now: int) -> bool:
        number = now // self._window
        if self._spent.get(number, 0) + cost > self._limit:
            return False
        self._spent[number] = self._spent.get(number, 0) + cost
        return True


class SlidingWindow:
    """A log of all that was admitted; the permits of a part leave together, one window after the last of them."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._window = limit, round(window * 1e9)
        self._part = -(-self._window // 7 // TICK) * TICK
        self._log: dict[int, tuple[int, int]] = {}

    def admits(self, cost: int, now: int) -> bool:
        counts = [count for leaves, count in self._log.values() if leaves > now]
        if sum(counts) + cost > self._limit:
            return False
        part = (now + self._window - 1) // self._part
        self._log[part] = -(-(now + self._window) // FINE) * FINE, self._log.get(part, (0, 0))[1] + cost
        return True


ORACLES = {
    "token_bucket": lambda limit, window: TokenBucket(limit, window, limit),
    "fixed_window": FixedWindow,
    "sliding_window": SlidingWindow,
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(
    most=st.integers(1, 20),
    window=st.floats(0.2, 20),
    steps=st.lists(
        st.tuples(st.integers(1, 20), st.one_of(st.just(0), st.integers(0, SECOND), st.integers(0, 30 * SECOND)))
    ),
)
def test_the_same_is_admitted_as_by_the_oracle(
    algorithm: str, most: int, window: float, steps: list[tuple[int, int]]
) -> None:
    oracle = ORACLES[algorithm](most, window)
    with made() as table:
        limit = limit_of(table, algorithm, most, window)
        now = START
        for cost, passed in steps:
            now += passed
            cost = min(cost, most)
            assert (limit.spend(b"key", cost, now) == 0) == oracle.admits(cost, now)


@given(
    most=st.integers(1, 10),
    window=st.floats(0.2, 5),
    steps=st.lists(st.integers(0, 2 * SECOND), max_size=60),
)
def test_no_window_wherever_it_begins_holds_more_than_a_sliding_limit(
    most: int, window: float, steps: list[int]
) -> None:
    """Nobody waits longer than one window, and what was spent is back after a part, a seventh, more."""
    with made() as table:
        limit = table.sliding_window(most, window)
        length, now, taken = round(window * 1e9), START, []
        for passed in steps:
            now += passed
            wait = limit.spend(b"key", 1, now)
            if wait == 0:
                taken.append(now)
                assert sum(each > now - length for each in taken) <= most
            else:
                assert round(wait * 1e9) < length + FINE
                assert sum(each > now - length * 8 // 7 - TICK - FINE for each in taken) >= most


@pytest.mark.parametrize("cost", [1, 1 << 10, 1 << 14, 1 << 18, (1 << 22) - 1])
def test_a_part_that_is_full_leaves_one_window_later_however_much_was_spent_in_it(table: Cells, cost: int) -> None:
    """To within what its count leaves to its instant; never earlier."""
    limit = table.sliding_window(cost, 60.0)
    now, fine = START + 1, min(TICK, 1 << 12 + 4 * max(0, (cost.bit_length() - 7) // 4))
    assert limit.spend(b"a", cost, now) == 0
    assert limit.remaining(b"a", now + 60 * SECOND - 1)[0] == 0
    assert limit.remaining(b"a", now + 60 * SECOND + fine)[0] == cost
    assert limit.spend(b"a", cost, now + 60 * SECOND + fine) == 0


def test_a_bucket_of_another_depth(table: Cells) -> None:
    limit = table.token_bucket(10, 1.0, 3)
    assert admitted(limit, b"a", START, 10) == 3
    assert admitted(limit, b"a", START + SECOND // 10, 10) == 1
    assert admitted(limit, b"a", START + SECOND, 10) == 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_limit_that_is_changed_keeps_what_was_spent(table: Cells, algorithm: str) -> None:
    assert admitted(limit_of(table, algorithm, 10, 10.0), b"a", START, 6) == 6
    changed = table.token_bucket(10, 10.0, 8) if algorithm == "token_bucket" else limit_of(table, algorithm, 8, 10.0)
    assert admitted(changed, b"a", START, 10) == 2


@pytest.mark.parametrize(("limit", "left"), [(5, 7), (10, 4), (20, 0)])
def test_a_bucket_keeps_its_time_when_the_limit_is_changed(table: Cells, limit: int, left: int) -> None:
    """So what was spent counts in proportion: at half the limit it is half, at twice the limit twice as much."""
    assert admitted(table.token_bucket(10, 10.0, 10), b"a", START, 6) == 6
    assert table.token_bucket(limit, 10.0, 10).spend(b"a", 1, START) == (0.0 if left else 1.5)
    assert admitted(table.token_bucket(limit, 10.0, 10), b"a", START, 20) == max(left - 1, 0)


def test_windows_of_another_length_or_kind_have_nothing_in_common(table: Cells) -> None:
    for window in (1.0, 2.0):
        assert admitted(table.fixed_window(3, window), b"a", START, 10) == 3
        assert admitted(table.sliding_window(3, window), b"a", START, 10) == 3
    assert admitted(table.token_bucket(3, 1.0, 3), b"a", START, 10) == 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_clock_that_lags_behind_gets_nothing_more(small: Cells, algorithm: str) -> None:
    """`now` was read before others went on: a key whose cell was evicted since does not begin its window anew."""
    limit = limit_of(small, algorithm, 3, 1.0)
    assert admitted(limit, b"late", START, 10) == 3
    later = START + 10 * SECOND
    for number in range(12):  # expired cells and empty ones are taken alike
        assert admitted(limit, b"%d" % number, later, 1) == 1
    assert admitted(limit, b"late", START, 10) + admitted(limit, b"late", later, 10) <= 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_full_table_forgets_no_live_cell(small: Cells, algorithm: str) -> None:
    """16 keys have cells of their own; those that come later share, and keep sharing for as long as it counts."""
    limit = limit_of(small, algorithm, 3, 10.0)
    keys = [b"key %d" % number for number in range(200)]
    first = {key: admitted(limit, key, START, 2) for key in keys}
    assert small.overflowed >= 184 * 2 > 0
    assert small.refused == 0
    for key in keys:
        first[key] += admitted(limit, key, START, 5)
    assert [first[key] for key in keys[:16]] == [3] * 16
    assert max(first.values()) == 3
    assert sum(first[key] for key in keys[16:]) == 16 * 3  # what 16 shared cells hold
    at_end = START + 30 * SECOND
    before = small.overflowed
    assert [admitted(limit, key, at_end, 5) for key in keys[-16:]] == [3] * 16
    assert small.overflowed == before


def test_wherever_a_key_lies_in_the_table_the_parts_of_its_window_are_its_own() -> None:
    """They lie beside the cells, and meet neither those, nor each other, nor what the table says of itself."""
    keys = [b"key %d" % number for number in range(500)]
    with made() as alone, made() as table:
        one, many = alone.sliding_window(10, 8.0), table.sliding_window(10, 8.0)
        for second in range(14):
            now = START + second * SECOND
            one.spend(b"a", 1, now)
            for key in keys:
                many.spend(key, 1, now)
            assert {many.remaining(key, now) for key in keys} == {one.remaining(b"a", now)}
        assert table.overflowed == table.refused == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_that_shares_a_cell_gets_one_of_its_own_only_when_nothing_counts_any_more(
    small: Cells, algorithm: str
) -> None:
    short, long = (limit_of(small, algorithm, 3, window) for window in (1.0, 100.0))
    if algorithm == "token_bucket":
        long = small.token_bucket(3, 100.0, 3)
    for number in range(16):
        short.spend(b"%d" % number, 1, START)
    assert admitted(long, b"key", START, 10) == 3  # shared
    later = START + 5 * SECOND  # all 16 cells are free
    assert admitted(long, b"key", later, 10) == 0
    assert admitted(long, b"another key %d" % 1, later, 1) in (0, 1)
    assert admitted(long, b"key", START + 300 * SECOND, 10) == 3


def test_when_the_overflow_is_full_as_well_it_refuses_and_counts(small: Cells) -> None:
    """Each window has 16 shared cells of its own, in 1,024."""
    windows = [small.fixed_window(1, 10.0 + each / 8) for each in range(200)]
    for number in range(16):
        windows[0].spend(b"own %d" % number, 1, START)
    for window in windows:
        for number in range(100):
            window.spend(b"%d" % number, 1, START)
    assert small.refused > 0
    wait = max(window.spend(b"nobody", 1, START) for window in windows)
    assert 0 < wait <= 35
    assert windows[0].spend(b"nobody", 1, START + 100 * SECOND) == 0


def test_who_is_refused_is_told_when_the_first_of_those_cells_is_free(small: Cells) -> None:
    windows = [small.fixed_window(1, 10.0 + each / 8) for each in range(200)]
    for number in range(16):
        small.fixed_window(1, 1000.0).spend(b"own %d" % number, 1, START)
    told: list[tuple[Limit, bytes, float]] = []
    for window in windows:
        for number in range(100):
            refused, key = small.refused, b"%d" % number
            wait = window.spend(key, 1, START)
            if small.refused > refused:
                told.append((window, key, wait))
    window, key, wait = min(told, key=lambda each: each[2])
    free_at, refused = START + round(wait * SECOND), small.refused
    assert window.spend(key, 1, free_at - 1000) > 0
    assert small.refused == refused + 1
    assert window.renewed_at == free_at
    assert window.spend(key, 1, free_at) == 0
    assert small.refused == refused + 1


def test_a_large_table_is_filled_by_half_before_anything_is_shared() -> None:
    """Each key may be in 16 places, and goes where there is more room."""
    with made(4096) as table:
        limit = table.token_bucket(1, 1000.0, 1)
        for number in range(4096 // 2):
            assert limit.spend(b"%d" % number, 1, START) == 0
        assert table.overflowed == 0


@pytest.mark.parametrize("length", range(20))
def test_keys_that_differ_in_any_byte_are_different(table: Cells, length: int) -> None:
    limit = table.fixed_window(1, 1.0)
    key = bytes(length)
    others = [key[:each] + b"x" + key[each + 1 :] for each in range(length)]
    for each in [key, key + b"\0", *others]:
        assert admitted(limit, each, START, 2) == 1


def test_what_was_made_is_found_by_who_comes_later() -> None:
    fd = os.memfd_create("cells")
    try:
        assert admitted(at(fd, 64).fixed_window(5, 1.0), b"a", START, 3) == 3
        assert admitted(at(fd, 64).fixed_window(5, 1.0), b"a", START, 10) == 2
    finally:
        os.close(fd)


def test_each_table_has_a_secret_of_its_own() -> None:
    """So nobody outside can choose keys that share a cell."""
    with made() as one, made() as other:
        assert one._words[2:4].tobytes() != other._words[2:4].tobytes()


@pytest.mark.parametrize("count", [-16, 0, 1, 8, 17, 100])
def test_a_table_has_a_power_of_two_of_cells(count: int) -> None:
    with pytest.raises(ValueError, match="cells"):
        rate_limit_table.size(count)


def test_memory_of_another_size_is_refused() -> None:
    for size in (0, 4096, rate_limit_table.size(64) - 8, rate_limit_table.size(64) + 8, rate_limit_table.size(64) + 80):
        with pytest.raises(ValueError):  # noqa: PT011  either there are no such cells, or no such bytes
            Cells(memoryview(bytearray(size)), -1, 0)


@pytest.mark.parametrize("cost", [0, 4])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_cost_that_no_wait_is_enough_for_is_an_error(table: Cells, algorithm: str, cost: int) -> None:
    with pytest.raises(ValueError, match="cost"):
        limit_of(table, algorithm, 3, 1.0).spend(b"a", cost, START)


@pytest.mark.parametrize("window", [0.0, -1.0, 1e10])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_window_has_a_length_that_can_be_counted(table: Cells, algorithm: str, window: float) -> None:
    with pytest.raises(ValueError, match="window"):
        limit_of(table, algorithm, 3, window)


def test_what_does_not_fit_into_a_cell_is_refused(table: Cells) -> None:
    for wrong in (
        lambda: table.fixed_window(rate_limit_table.COUNT_MAX + 1, 1.0),
        lambda: table.sliding_window(rate_limit_table.SLIDING_MAX + 1, 1.0),
        lambda: table.sliding_window(1, rate_limit_table.WINDOW_MIN - 0.01),
        lambda: table.fixed_window(0, 1.0),
        lambda: table.token_bucket(1, 1.0, 0),
        lambda: table.token_bucket(1, 1e6, 10**6),
    ):
        with pytest.raises(ValueError, match=r"window|admits|fill"):
            wrong()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_longest_and_the_largest_do_fit(table: Cells, algorithm: str) -> None:
    year = 365 * 86400.0
    assert 0 < admitted(limit_of(table, algorithm, 1, year), b"a", START, 2) == 1
    largest = rate_limit_table.SLIDING_MAX if algorithm == "sliding_window" else rate_limit_table.COUNT_MAX
    most = limit_of(table, algorithm, largest, rate_limit_table.WINDOW_MIN)
    assert most.spend(b"a", largest, START) == 0
    assert most.spend(b"a", 1, START) > 0


def test_no_clock_is_read() -> None:
    """So a jump of the system clock changes nothing: the time is an argument, monotonic by contract."""
    reference = ast.parse(Path(rate_limit_table.__file__).read_text())
    imported = {
        name
        for node in ast.walk(reference)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not imported & {"time", "datetime", "asyncio", "uvloop"}
    for name in ("_rate_limit_table.h", "_rate_limit_table.pyx"):
        text = Path(rate_limit_table.__file__).with_name(name).read_text()
        included = {line.split()[1] for line in text.splitlines() if line.startswith("#include")}
        assert included <= {"<stddef.h>", "<stdint.h>", "<string.h>"}
        assert "clock_gettime" not in text


def test_what_is_in_use_is_told_and_takes_no_memory():
    """Cells that count; not those that have expired, nor those of an overflow that nobody needs."""
    with made(4096) as table:
        bucket = table.token_bucket(10, 10.0, 10)
        now = 10**12
        for number in range(50):
            bucket.spend(b"%d" % number, 1, now + number)
        assert table.occupied(now) == (50, 0)
        assert table.count == 4096
        assert table.occupied(now + 10**9) == (49, 0)  # the first is full again
        assert table.occupied(now + 2 * 10**9) == (0, 0)
        for number in range(20_000):
            bucket.spend(b"of many %d" % number, 1, now + 10**10)
        own, shared = table.occupied(now + 10**10)
        assert 3000 < own <= 4096
        assert 0 < shared <= 1024
        fd, _ = table._file
        before = os.fstat(fd).st_blocks
        table.occupied(now)
        assert os.fstat(fd).st_blocks == before


def test_a_cell_is_free_at_the_very_instant_at_which_it_is_as_good_as_new(small: Cells) -> None:
    """And not a nanosecond before: the key after so many has a cell of its own then, and shares one until then."""
    for late in (1, 0):
        limit = small.token_bucket(1, 1.0, 1)
        begun = START + 10 * SECOND * (1 - late)
        for number in range(16):
            assert limit.spend(b"%d %d" % (late, number), 1, begun) == 0
        before = small.overflowed
        assert limit.spend(b"another %d" % late, 1, begun + SECOND - late) == 0
        assert small.overflowed - before == late
        assert limit.spend(b"another %d" % late, 1, begun + SECOND - late) > 0
        shared = small.overflowed
        assert limit.spend(b"another %d" % late, 1, begun + 2 * SECOND - late) == 0  # nor does it share any longer
        assert small.overflowed == shared


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_more_is_given_back_than_may_be_spent_at_once(table: Cells, algorithm: str) -> None:
    """Also of a key that is in debt."""
    limit = limit_of(table, algorithm, 3, 10.0)
    limit.charge(b"a", 6, START)
    limit.refund(b"a", 5, START, lambda: START)
    assert limit.remaining(b"a", START)[0] == 0
    limit.refund(b"a", 2, START, lambda: START)
    assert limit.remaining(b"a", START)[0] == 2
