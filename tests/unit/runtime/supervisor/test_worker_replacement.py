"""One worker follows another, one at a time, and none stops accepting before somebody else does."""

from collections.abc import Iterator
from math import inf

import pytest

from fastgw.runtime.ipc.channel import Drain
from fastgw.runtime.node.child_slots import Child, Slot
from fastgw.runtime.process.signals import Signals
from fastgw.runtime.supervisor.children import Children
from fastgw.runtime.supervisor.worker_replacement import Succession
from tests.support.node import Crew, close_node, node_state_of


class Node(Crew):
    """Slots whose workers run the program before this one; `log`: births, and when it was asked who accepts."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.node_state = node_state_of(workers=workers)
        self._signals = Signals(())
        self.slots = Children(self.node_state, {}, self._signals, lambda: None)
        for slot, child in zip(self.slots.workers, self.children, strict=True):
            slot.child = child
            child.outdated = True
        self.log: list[str] = []
        self.succession = Succession(self.node_state, self.slots, self._fork, lambda: self.log.append("settle"))

    def _fork(self, slot: Slot) -> Child:
        self.log.append(f"fork {slot.name}")
        child = self.born()
        child.ready = False
        return child

    def becomes_ready(self, slot: Slot) -> None:
        assert slot.successor is not None
        slot.successor.ready = True
        self.succession.is_ready(slot)

    def close(self) -> None:
        super().close()
        self._signals.close()
        close_node(self.node_state)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node(2)
    yield node
    node.close()


def test_the_next_is_born_when_the_one_before_has_its_place(node):
    one, two = node.slots.workers
    first, _ = node.children
    node.succession.start_next_change(now=1000.0)
    node.succession.start_next_change(now=1000.0)
    assert node.log == ["fork worker 1"]
    assert node.told(first) == []
    node.becomes_ready(one)
    assert node.log == ["fork worker 1", "settle"]
    (order,) = node.messages(first)
    assert isinstance(order, Drain)
    assert order.handed_over
    assert (first.leaving, node.slots.leaving) == (True, [first])
    node.succession.start_next_change(now=1000.0)
    assert node.log[-1] == "fork worker 2"
    node.becomes_ready(two)
    node.succession.start_next_change(now=1000.0)
    assert not node.succession.goes_well
    assert node.succession.due_at == inf
    assert node.succession.is_over


def test_it_is_not_over_while_somebody_is_old_or_not_ready(node):
    for child in node.children:
        assert not node.succession.is_over
        child.outdated = False
    assert node.succession.is_over
    node.slots.workers[0].child = None
    assert not node.succession.is_over


def test_a_successor_that_dies_is_tried_again_later_and_nobody_leaves(node):
    one, _ = node.slots.workers
    first, _ = node.children
    node.succession.start_next_change(now=1000.0)
    one.successor = None
    for _ in range(2):
        one.failed(0.0, now=1000.0)
    assert node.succession.due_at == one.due_at > 1000.0
    node.succession.start_next_change(now=1000.0)
    assert node.log == ["fork worker 1"]
    node.succession.start_next_change(now=one.due_at)
    assert node.log == ["fork worker 1", "fork worker 1"]
    assert node.told(first) == []


def test_while_a_slot_waits_for_its_worker_nobody_else_is_replaced(node):
    node.slots.workers[1].child = None
    node.succession.start_next_change(now=1000.0)
    assert node.log == []
    assert node.succession.goes_well


def test_who_has_retired_leaves_when_a_neighbour_accepts_for_it(node):
    for child in node.children:
        child.outdated = False
    _, two = node.slots.workers
    _, second = node.children
    two.retired = True
    node.succession.start_next_change(now=1000.0)
    assert two.child is None
    assert node.log == ["settle"]
    assert node.told(second) == [Drain]
    node.succession.start_next_change(now=1000.0)
    assert (node.log, node.told(second)) == (["settle"], [])
