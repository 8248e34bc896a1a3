"""What one program leaves to the next is what the next one finds: nothing but numbers, names and the files' bytes."""

import os
from collections.abc import Iterator

import pytest

from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.process.signals import Signals
from fastgw.runtime.supervisor.children import Children
from fastgw.runtime.supervisor.handover_state import PREFLIGHT, TAKE_OVER, HandoverState, IncompatibleHandover
from fastgw.runtime.supervisor.slot_adoption import SlotAdoption
from tests.support.node import FILE, Crew, close_node, commons_of


class Node(Crew):
    """A supervisor with two workers, and one that is leaving."""

    def __init__(self) -> None:
        super().__init__(3)
        self.commons: NodeState = commons_of(["main", "more"])
        self._signals = Signals(())
        self.slots = Children(self.commons, {}, self._signals, lambda: None)
        for slot, child in zip(self.slots.workers, self.children[:2], strict=True):
            slot.child = child
        self.slots.leaving.append(self.children[2])
        self.adoption = SlotAdoption()
        self.adoption.settle(self.slots.workers)

    def estate(self) -> HandoverState:
        return HandoverState.of(self.commons, self.slots, self.adoption, False)

    def close(self) -> None:
        super().close()
        self._signals.close()
        close_node(self.commons)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def left(estate: HandoverState, name: str, monkeypatch: pytest.MonkeyPatch) -> HandoverState:
    """As it is found under this name."""
    monkeypatch.setenv(name, str(estate.write()))
    found = HandoverState.read(name)
    assert found is not None
    assert name not in os.environ
    return found


@pytest.mark.parametrize("name", [TAKE_OVER, PREFLIGHT])
def test_what_is_left_is_what_is_found(node, name, monkeypatch):
    estate = node.estate()
    assert left(estate, name, monkeypatch) == estate


def test_there_is_what_a_configuration_is_read_from_again(node):
    estate = node.estate()
    assert [source.name for source in estate.sources] == [FILE]
    assert (estate.generation, estate.places) == (1, node.commons.sealed.accepted.places)


def test_sockets_are_the_same_at_the_same_numbers(node):
    estate = node.estate()
    for number, opened in estate.endpoints.items():
        endpoint = node.commons.endpoints[number]
        assert opened.sockets == [each.fileno() for each in endpoint.sockets]
        assert opened.address == str(endpoint.address)
        assert set(opened.sockets) <= set(estate.descriptors)
    assert estate.listeners == node.commons.listeners
    assert estate.endpoint_number == 2


def test_children_go_on_in_their_places_and_are_to_be_replaced(node):
    estate = node.estate()
    assert [(each.slot, each.accepts_for) for each in estate.children] == [(0, [0]), (1, [1]), (None, [])]
    living = estate.children[0]
    living.channel = os.dup(living.channel)  # in the next program nobody else has it
    child = living.child()
    before = node.children[0]
    assert (child.pid, child.column, child.generation, child.ready) == (before.pid, before.column, 1, True)
    assert (child.outdated, before.outdated) == (True, False)
    child.channel.close()


def test_in_the_next_program_nothing_is_handed_on_by_accident(node, monkeypatch):
    estate = node.estate()
    for descriptor in estate.descriptors:
        os.set_inheritable(descriptor, True)
    left(estate, TAKE_OVER, monkeypatch)
    assert not any(map(os.get_inheritable, estate.descriptors))


def test_without_a_predecessor_there_is_none(monkeypatch):
    monkeypatch.delenv(TAKE_OVER, raising=False)
    assert HandoverState.read(TAKE_OVER) is None


@pytest.mark.parametrize("text", ["", "three", "1000000", "-1"])
def test_nonsense_in_the_environment_is_told(monkeypatch, text):
    monkeypatch.setenv(TAKE_OVER, text)
    with pytest.raises(IncompatibleHandover, match="the state handed over by the other version cannot be read"):
        HandoverState.read(TAKE_OVER)


def test_workers_that_speak_otherwise_need_a_restart(node, monkeypatch):
    estate = node.estate()
    estate.protocol = 99
    with pytest.raises(IncompatibleHandover, match="speak version 99 of the messages between processes"):
        left(estate, TAKE_OVER, monkeypatch)
