"""The open loop: when requests were due is found from h2load's log, and what it prints is read rightly."""

import random

import pytest

from bench.load.h2load import EDGE, Row, faults, latencies, row_of
from bench.samples import percentiles

CONNECTIONS = 20
PERIOD = 0.0125
PERIOD_US = 12_500
REPETITIONS = 160  # 2 s
ANSWER_US = 300
EPOCH_US = 1_795_172_061_050_187


def due(repetition: int, connection: int) -> int:
    return EPOCH_US + repetition * PERIOD_US + connection * 611


def log(*, stalled_from: int | None = None, stalled_us: int = 200_000, late_us: int = 0) -> list[Row]:
    """As h2load writes it: one request at a time on a connection; what is due meanwhile waits and is not written down.

    Nothing is answered in `stalled_us` microseconds from `stalled_from` on. Timers fire up to `late_us` late.
    """
    chance = random.Random(7)
    rows = []
    for connection in range(CONNECTIONS):
        free = 0
        for repetition in range(REPETITIONS):
            sent = max(due(repetition, connection) + chance.randint(0, late_us), free)
            begun = sent
            if stalled_from is not None and EPOCH_US + stalled_from <= sent < EPOCH_US + stalled_from + stalled_us:
                begun = EPOCH_US + stalled_from + stalled_us
            free = begun + ANSWER_US
            rows.append(Row(sent, 200, free - sent))
    return sorted(rows, key=lambda row: row.sent_us + row.duration_us)


def test_a_punctual_schedule_has_the_latency_of_its_answers():
    assert set(latencies(log(), CONNECTIONS, PERIOD)) == {ANSWER_US}


def test_the_edges_are_left_out():
    assert len(latencies(log(), CONNECTIONS, PERIOD)) == CONNECTIONS * (REPETITIONS - 2 * EDGE)


def test_a_stall_shows_in_the_latency_of_all_that_was_due_meanwhile():
    """200 ms of 2 s: a tenth of the requests waits. From sending, only one per connection does: too few for the p99."""
    rows = log(stalled_from=1_000_000)
    late = percentiles(latencies(rows, CONNECTIONS, PERIOD))
    assert late["p99_us"] > 175_000
    assert late["p90_us"] > 5_000
    assert percentiles([row.duration_us for row in rows])["p99_us"] == ANSWER_US


def test_a_contestant_that_falls_behind_is_later_and_later():
    rows = [Row(row.sent_us + (row.sent_us - EPOCH_US) // 10, 200, ANSWER_US) for row in log()]
    late = latencies(rows, CONNECTIONS, PERIOD)
    assert late[-1] - late[0] == pytest.approx((REPETITIONS - 2 * EDGE) * PERIOD_US / 10, rel=0.02)


def test_timers_that_fire_late_make_latencies_longer_by_no_more_than_that():
    late = latencies(log(late_us=1_000), CONNECTIONS, PERIOD)
    assert min(late) >= ANSWER_US
    assert max(late) <= ANSWER_US + 2 * 1_000


def test_a_row_may_have_further_columns():
    assert row_of("1795172061050187\t200\t4195") == Row(1795172061050187, 200, 4195)
    assert row_of("1795172061050187\t-1\t4195\tmore") == Row(1795172061050187, -1, 4195)


PRINTED = """\
finished in 1.97s, 2027.59 req/s, 79.20KB/s
requests: 4000 total, 4000 started, {done} done, {succeeded} succeeded, 0 failed, {errored} errored, 0 timeout
status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 156.25KB (160000) total, 58.59KB (60000) headers (space savings 0.00%), 7.81KB ({data}) data
"""


def printed(done: int = 4000, succeeded: int = 4000, errored: int = 0, data: int = 8000) -> str:
    return PRINTED.format(done=done, succeeded=succeeded, errored=errored, data=data)


GOOD = [Row(EPOCH_US, 200, 1)] * 4000


def test_a_run_without_a_fault_has_none():
    assert not any(faults(printed(), GOOD, 4000, 2).values())


@pytest.mark.parametrize(
    ("told", "rows", "fault", "count"),
    [
        (printed(data=7999), GOOD, "wrong length of bodies, in bytes", 1),
        (printed(), [*GOOD[1:], Row(EPOCH_US, 502, 1)], "wrong status", 1),
        (printed(done=3990, succeeded=3990), GOOD[:3990], "lost", 10),
        (printed(succeeded=3998), GOOD, "not succeeded", 2),
        (printed(errored=3), GOOD, "errored", 3),
        ("finished in a way unknown to us", GOOD, "h2load printed no counts", 1),
    ],
)
def test_one_fault_is_seen(told, rows, fault, count):
    assert faults(told, rows, 4000, 2)[fault] == count
