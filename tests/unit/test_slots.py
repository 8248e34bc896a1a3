"""When a slot whose child died is filled again."""

import pytest

from fastgw.runtime.channel import Channel
from fastgw.runtime.slots import SETTLED, Slot, restart_delay


def test_the_first_replacement_comes_at_once_and_the_next_ones_ever_later():
    assert [restart_delay(deaths) for deaths in range(1, 9)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert restart_delay(1000) == 5.0


@pytest.mark.parametrize(("lived", "deaths"), [(0.0, 4), (SETTLED - 0.1, 4), (SETTLED, 1)])
def test_a_child_that_settled_counts_anew(lived, deaths):
    slot = Slot("worker 1", 0, lambda channel: None)
    slot.deaths = 3
    ours, theirs = Channel.pair()
    slot.fill(4711, ours, now=1000.0)
    slot.empty(now=1000.0 + lived)
    theirs.close()
    assert slot.deaths == deaths
    assert slot.due_at == 1000.0 + lived + restart_delay(deaths)


def test_forks_that_fail_come_ever_later_too():
    slot = Slot("worker 1", 0, lambda channel: None)
    for now in (1000.0, 1000.0, 1000.1):
        slot.empty(now)
    assert slot.due_at == 1000.1 + restart_delay(3)
