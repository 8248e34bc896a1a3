"""Lines for StatsD servers: numbers of durations, their sum, and datagrams."""

from __future__ import annotations

import pytest

from fastgw.runtime.control.statsd import MOST_TIMERS, Durations, Push, Tags, datagrams, timer_values

BOUNDS = (0.01, 0.1, 1.0)


@pytest.mark.parametrize(
    ("counts", "total_s"),
    [
        ((1, 0, 0, 0), 0.002),
        ((10, 5, 1, 0), 0.9),
        ((1000, 500, 20, 0), 60.0),
        ((0, 0, 0, 3), 27.0),
        ((1000, 0, 0, 2), 15.0),
    ],
)
def test_numbers_and_sum_come_out(counts: tuple[int, ...], total_s: float) -> None:
    values = list(timer_values(Durations(BOUNDS, counts, int(total_s * 1e6))))
    assert len(values) <= MOST_TIMERS + len(counts)
    number = total_ms = 0.0
    for value in values:
        millis, _, rate = value.partition("|ms")
        count = 1 / float(rate.removeprefix("|@") or 1)
        number += count
        total_ms += count * float(millis)
    assert number == pytest.approx(sum(counts), rel=1e-4)
    assert total_ms == pytest.approx(total_s * 1000, rel=1e-3)


def test_few_durations_are_sent_one_by_one() -> None:
    assert list(timer_values(Durations(BOUNDS, (2, 0, 0, 0), 8000))) == ["4|ms", "4|ms"]


def test_datagrams_have_whole_lines_and_the_series_that_end_in_them() -> None:
    waiting = [Push(Tags(name, "GET", "200"), False, [name.encode() * 4] * 3) for name in "abc"]
    found = list(datagrams(waiting, 14))
    assert [datagram for datagram, _ in found] == [b"aaaa\naaaa", b"aaaa\nbbbb", b"bbbb\nbbbb", b"cccc\ncccc", b"cccc"]
    assert [[push.tags.route for push in ended] for _, ended in found] == [[], ["a"], ["b"], [], ["c"]]
