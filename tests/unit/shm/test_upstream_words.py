"""What the node thinks of its targets, and how busy it keeps them."""

import pytest

from fastgw.shm.health_words import BreakerState, Ejection, HealthVerdict
from fastgw.shm.memory import Layout, SharedMemory
from fastgw.shm.slot_assignment import MAX_TARGETS, SlotNames, first
from fastgw.shm.upstream_words import TargetWords


def node(columns: int = 2) -> tuple[SharedMemory, TargetWords]:
    layout = Layout()
    words = TargetWords(layout)
    return SharedMemory.create(layout, columns), words


def test_the_gravest_verdict_that_still_holds_is_the_nodes() -> None:
    """Whoever has given it. When nobody renews them, a target is unknown again, and usable."""
    shared, words = node()
    worker, control, health = shared.columns[0], shared.supervisor, words.health
    assert words.verdict(shared, 3, now=1000.0) is HealthVerdict.UNKNOWN
    health.set_verdict(control, 3, HealthVerdict.HEALTHY, until=1010.0)
    health.eject(worker, 3, Ejection(1005.0, 1))
    assert words.verdict(shared, 3, now=1004.9) is HealthVerdict.EJECTED
    assert words.verdict(shared, 3, now=1005.0) is HealthVerdict.HEALTHY
    assert words.verdict(shared, 3, now=1010.0) is HealthVerdict.UNKNOWN
    assert words.verdict(shared, 4, now=1000.0) is HealthVerdict.UNKNOWN


def test_targets_that_lie_far_apart_are_looked_at_one_by_one() -> None:
    shared, words = node()
    far = [2, 40_000, 3]
    words.health.set_verdict(shared.supervisor, 40_000, HealthVerdict.UNHEALTHY, until=1010.0)
    words.health.eject(shared.columns[1], 3, Ejection(1005.0, 1))
    found = [verdict for verdict, _ in words.health.read_verdicts(shared.columns[0], far, 1000.0)]
    assert found == [HealthVerdict.UNKNOWN, HealthVerdict.UNHEALTHY, HealthVerdict.EJECTED]


def test_no_targets_have_no_verdicts() -> None:
    shared, words = node()
    assert words.health.read_verdicts(shared.columns[0], [], 1000.0) == []


@pytest.mark.parametrize("until", [1000.0, 1000.25, 86_400.5])
def test_a_breaker_is_read_as_it_was_set(until: float) -> None:
    shared, words = node()
    state = BreakerState(7, until, is_open=True)
    words.health.set_breaker(shared.columns[0], 3, state)
    assert words.health.breaker(shared.views, 3) == state


def test_the_name_in_the_last_slot_overlaps_nothing() -> None:
    shared, words = node()
    column = shared.supervisor  # whose verdicts count
    words.health.enter(column, 2 * MAX_TARGETS - 1, "last")
    slots = range(2 * MAX_TARGETS)
    assert set(words.health.read_verdicts(column, slots, 1000.0)) == {(HealthVerdict.UNKNOWN, 0.0)}


def test_how_busy_an_upstream_is_is_summed_over_targets_and_workers() -> None:
    shared, words = node()
    slot_table = first(SlotNames(upstreams={"users": ["a:1", "b:1"], "files": ["c:1"], "idle": []}))
    for column in shared.columns:
        for number, name in enumerate(slot_table.targets):
            words.write_gauges(column, slot_table.targets[name], number, 10, 100)
    assert words.busy(shared, slot_table) == {"users": [2, 40, 400], "files": [4, 20, 200]}


def test_a_place_is_held_while_anything_counts_on_it() -> None:
    shared, words = node()
    for word in (words.connections, words.pending):
        limit = shared.columns[1].limit(word + 5, 1)
        assert limit.try_take()
        assert words.is_held(shared, 5)
        limit.give_back()
        assert not words.is_held(shared, 5)
