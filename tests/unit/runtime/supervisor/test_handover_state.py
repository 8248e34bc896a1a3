"""What one program leaves to the next is what the next one finds: nothing but numbers, names and the files' bytes."""

import os
from collections.abc import Iterator

import pytest

from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.process.signals import Signals
from fastgw.runtime.supervisor.children import Children
from fastgw.runtime.supervisor.handover_state import PREFLIGHT, TAKE_OVER, HandoverState, IncompatibleHandover
from fastgw.runtime.supervisor.slot_adoption import SlotAdoption
from tests.support.node import FILE, Crew, close_node, node_state_of


class Node(Crew):
    """A supervisor with two workers, and one that is leaving."""

    def __init__(self) -> None:
        super().__init__(3)
        self.node_state: NodeState = node_state_of(["main", "more"])
        self._signals = Signals(())
        self.slots = Children(self.node_state, {}, self._signals, lambda: None)
        for slot, child in zip(self.slots.workers, self.children[:2], strict=True):
            slot.child = child
        self.slots.leaving.append(self.children[2])
        self.adoption = SlotAdoption()
        self.adoption.settle(self.slots.workers)

    def handover(self) -> HandoverState:
        return HandoverState.of(self.node_state, self.slots, self.adoption, False, [])

    def close(self) -> None:
        super().close()
        self._signals.close()
        close_node(self.node_state)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def left(handover: HandoverState, name: str, monkeypatch: pytest.MonkeyPatch) -> HandoverState:
    """As it is found under this name."""
    monkeypatch.setenv(name, str(handover.write()))
    found = HandoverState.read(name)
    assert found is not None
    assert name not in os.environ
    return found


@pytest.mark.parametrize("name", [TAKE_OVER, PREFLIGHT])
def test_what_is_left_is_what_is_found(node, name, monkeypatch):
    handover = node.handover()
    assert left(handover, name, monkeypatch) == handover


def test_there_is_what_a_configuration_is_read_from_again(node):
    handover = node.handover()
    assert [source.name for source in handover.sources] == [FILE]
    assert (handover.generation, handover.slot_table) == (1, node.node_state.sealed.accepted.slot_table)


def test_sockets_are_the_same_at_the_same_numbers(node):
    handover = node.handover()
    for number, opened in handover.endpoints.items():
        endpoint = node.node_state.endpoints[number]
        assert opened.sockets == [each.fileno() for each in endpoint.sockets]
        assert opened.address == str(endpoint.address)
        assert set(opened.sockets) <= set(handover.descriptors)
    assert handover.listeners == node.node_state.listeners
    assert handover.endpoint_number == 2


def test_children_go_on_in_their_places_and_are_to_be_replaced(node):
    handover = node.handover()
    assert [(each.slot, each.accepts_for) for each in handover.children] == [(0, [0]), (1, [1]), (None, [])]
    living = handover.children[0]
    living.channel = os.dup(living.channel)  # in the next program nobody else has it
    child = living.child()
    before = node.children[0]
    assert (child.pid, child.column, child.generation, child.ready) == (before.pid, before.column, 1, True)
    assert (child.outdated, before.outdated) == (True, False)
    child.channel.close()


def test_in_the_next_program_nothing_is_handed_on_by_accident(node, monkeypatch):
    handover = node.handover()
    for descriptor in handover.descriptors:
        os.set_inheritable(descriptor, True)
    left(handover, TAKE_OVER, monkeypatch)
    assert not any(map(os.get_inheritable, handover.descriptors))


def test_without_a_predecessor_there_is_none(monkeypatch):
    monkeypatch.delenv(TAKE_OVER, raising=False)
    assert HandoverState.read(TAKE_OVER) is None


@pytest.mark.parametrize("text", ["", "three", "1000000", "-1"])
def test_nonsense_in_the_environment_is_told(monkeypatch, text):
    monkeypatch.setenv(TAKE_OVER, text)
    with pytest.raises(IncompatibleHandover, match="the state handed over by the other version cannot be read"):
        HandoverState.read(TAKE_OVER)


def test_workers_that_speak_otherwise_need_a_restart(node, monkeypatch):
    handover = node.handover()
    handover.protocol = 99
    with pytest.raises(IncompatibleHandover, match="speak version 99 of the messages between processes"):
        left(handover, TAKE_OVER, monkeypatch)
