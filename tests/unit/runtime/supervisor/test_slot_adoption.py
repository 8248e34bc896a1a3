"""Who is told to accept for which slot."""

from collections.abc import Iterator

import pytest

from fastgw.runtime.ipc.channel import Adopt, Channel, Release
from fastgw.runtime.node.child_slots import Child, Slot
from fastgw.runtime.supervisor.slot_adoption import SlotAdoption


class Node:
    """Slots with workers, and what these were told."""

    def __init__(self, workers: int) -> None:
        self.adoption = SlotAdoption()
        self.slots = [Slot(f"worker {index + 1}", index) for index in range(workers)]
        self.ends: dict[Child, Channel] = {}
        for slot in self.slots:
            slot.child = self.born(slot)

    def born(self, slot: Slot) -> Child:
        ours, theirs = Channel.pair()
        child = Child(4711, ours, slot.name, slot.index, began_at=0.0)
        child.generation, child.ready = 1, True
        self.ends[child] = theirs
        return child

    def settle(self) -> dict[str, list[tuple[str, int]]]:
        """What each was told by it."""
        self.adoption.settle(self.slots)
        told: dict[str, list[tuple[str, int]]] = {}
        for child, end in self.ends.items():
            while message := end.receive():
                assert isinstance(message, Adopt | Release)
                told.setdefault(child.name, []).append((type(message).__name__, message.slot))
        return told

    def close(self) -> None:
        for child, end in self.ends.items():
            child.channel.close()
            end.close()


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node(3)
    yield node
    node.close()


def test_everybody_accepts_for_itself_and_is_told_once(node):
    assert node.settle() == {
        "worker 1": [("Adopt", 0)],
        "worker 2": [("Adopt", 1)],
        "worker 3": [("Adopt", 2)],
    }
    assert node.settle() == {}


def test_a_neighbour_accepts_for_a_worker_that_is_silent_until_it_is_back(node):
    node.settle()
    silent = node.slots[0].child
    silent.silent = True
    assert node.settle() == {"worker 2": [("Adopt", 0)], "worker 1": [("Release", 0)]}
    assert node.settle() == {}
    silent.silent = False
    assert node.settle() == {"worker 1": [("Adopt", 0)], "worker 2": [("Release", 0)]}


def test_when_the_neighbour_dies_too_the_next_one_takes_both(node):
    node.settle()
    for slot in node.slots[:2]:
        dead, slot.child = slot.child, None
        node.adoption.forget(dead)
    assert node.settle() == {"worker 3": [("Adopt", 0), ("Adopt", 1)]}


def test_a_retired_slot_is_accepted_for_by_a_neighbour(node):
    node.settle()
    node.slots[2].child, node.slots[2].retired = None, True
    assert node.settle() == {"worker 3": [("Release", 2)], "worker 1": [("Adopt", 2)]}


def test_while_nobody_is_able_nothing_is_changed(node):
    node.settle()
    for slot in node.slots:
        slot.child.silent = True
    assert node.settle() == {}
    node.slots[1].child.silent = False
    assert node.settle() == {
        "worker 2": [("Adopt", 0), ("Adopt", 2)],
        "worker 1": [("Release", 0)],
        "worker 3": [("Release", 2)],
    }


def test_a_successor_accepts_before_its_predecessor_stops(node):
    node.settle()
    before, after = node.slots[0].child, node.born(node.slots[0])
    node.slots[0].child = after
    node.adoption.settle(node.slots)
    assert node.ends[after].receive() == Adopt(generation=1, slot=0)
    assert node.ends[before].receive() == Release(generation=1, slot=0)
