"""When a slot whose child died is filled again."""

import pytest

from fastgw.runtime.ipc.channel import Channel, Stop
from fastgw.runtime.node.child_slots import SETTLED, Child, Slot, restart_delay


def test_the_first_replacement_comes_at_once_and_the_next_ones_ever_later():
    assert [restart_delay(deaths) for deaths in range(1, 9)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert restart_delay(1000) == 5.0


@pytest.mark.parametrize(("lived", "deaths"), [(0.0, 4), (SETTLED - 0.1, 4), (SETTLED, 1)])
def test_a_child_that_settled_counts_anew(lived, deaths):
    slot = Slot("worker 1", 0)
    slot.deaths = 3
    slot.failed(lived, now=1000.0)
    assert slot.deaths == deaths
    assert slot.due_at == 1000.0 + restart_delay(deaths)


def test_a_child_that_takes_no_more_messages_is_lost_and_may_not_accept():
    ours, theirs = Channel.pair()
    child = Child(4711, ours, "worker 1", 0, began_at=1000.0)
    child.ready = True
    assert child.able
    theirs.close()
    child.send(Stop(generation=1))
    assert child.lost
    assert not child.able
    ours.close()
