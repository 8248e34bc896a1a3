"""One change of generation over all workers: who is told what, who is waited for, and when it is over."""

import os
from collections.abc import Iterator
from math import inf

import pytest

from fastgw.config.base.value_types import parse_address
from fastgw.runtime.ipc.channel import Abort, Commit, Prepare, Sockets
from fastgw.runtime.reload.two_phase_commit import PREPARE_S, TwoPhaseCommit
from fastgw.runtime.sockets.listening_sockets import open_endpoints
from tests.support.node import Crew, sealed_document


class Change(Crew):
    """A change to generation 2 with a new listener, the workers in it, and what was said."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.log: list[str] = []
        self.sealed = sealed_document(2, ["more"])
        (self.endpoint,) = open_endpoints(parse_address("127.0.0.1:0"), 2)
        self.two_phase_commit = TwoPhaseCommit(
            self.sealed,
            "signal",
            {"more": [7]},
            {7: self.endpoint},
            caches={},
            now=1000.0,
            commit=lambda: self.log.append("commit"),
            ended=lambda why: self.log.append(why or "done"),
        )

    def close(self) -> None:
        super().close()
        self.endpoint.close()
        os.close(self.sealed.descriptor)


@pytest.fixture
def change() -> Iterator[Change]:
    change = Change(3)
    yield change
    change.close()


@pytest.fixture
def begun(change: Change) -> Change:
    """Everybody was told to prepare."""
    change.two_phase_commit.start_prepare(change.children)
    for child in change.children:
        assert change.told(child) == [Sockets, Prepare]
    return change


def test_who_does_not_prepare_in_time_ends_the_change(begun):
    begun.two_phase_commit.prepared(begun.children[0])
    begun.two_phase_commit.is_late()
    assert begun.log == ["not all workers were prepared in time"]


def test_who_does_not_commit_in_time_is_replaced(begun):
    one = begun.children[0]
    for child in begun.children:
        begun.two_phase_commit.prepared(child)
    begun.two_phase_commit.was_committed(one)
    begun.two_phase_commit.is_late()
    assert begun.log == ["commit", "done"]
    assert [child.outdated for child in begun.children] == [False, True, True]
    assert begun.two_phase_commit.replaced == 2
    assert begun.two_phase_commit.due_at == inf


def test_all_prepare_and_then_all_commit(begun):
    assert begun.two_phase_commit.due_at == 1000.0 + PREPARE_S
    one, two, three = begun.children
    begun.two_phase_commit.prepared(two)
    begun.two_phase_commit.prepared(one)
    assert (begun.log, begun.two_phase_commit.is_committing) == ([], False)
    begun.two_phase_commit.prepared(three)
    assert (begun.log, begun.two_phase_commit.is_committing) == (["commit"], True)
    for child in begun.children:
        assert begun.told(child) == [Commit]
        begun.two_phase_commit.was_committed(child)
    assert (begun.log, len(begun.two_phase_commit.committed)) == (["commit", "done"], 3)


def test_a_refusal_is_told_to_everybody_and_the_number_can_be_used_again(begun):
    one, _, _ = begun.children
    begun.two_phase_commit.prepared(one)
    begun.two_phase_commit.abort("no")
    assert begun.log == ["no"]
    for child in begun.children:
        assert begun.told(child) == [Abort]
        assert child.asked == 0


def test_one_that_was_counted_out_is_told_of_a_refusal_too(begun):
    """When it goes on it finds an order to prepare, and then that nobody wants that any more."""
    one, _, _ = begun.children
    begun.two_phase_commit.child_gone(one)
    begun.two_phase_commit.abort("no")
    assert begun.told(one) == [Abort]


def test_a_worker_that_dies_while_it_prepares_is_not_waited_for(begun):
    one, two, three = begun.children
    begun.two_phase_commit.prepared(one)
    begun.two_phase_commit.child_gone(two)
    begun.two_phase_commit.prepared(three)
    begun.two_phase_commit.was_committed(one)
    begun.two_phase_commit.was_committed(three)
    assert (begun.log, len(begun.two_phase_commit.committed)) == (["commit", "done"], 2)


def test_nor_is_one_that_dies_between_prepared_and_commit(begun):
    one, two, three = begun.children
    begun.two_phase_commit.prepared(one)
    begun.two_phase_commit.child_gone(one)
    begun.two_phase_commit.prepared(two)
    begun.two_phase_commit.prepared(three)
    assert begun.log == ["commit"]
    begun.two_phase_commit.was_committed(two)
    begun.two_phase_commit.was_committed(three)
    assert begun.log == ["commit", "done"]


def test_nor_one_that_dies_before_it_has_committed(begun):
    one, *others = begun.children
    for child in begun.children:
        begun.two_phase_commit.prepared(child)
    for child in others:
        begun.two_phase_commit.was_committed(child)
    assert begun.log == ["commit"]
    begun.two_phase_commit.child_gone(one)
    assert (begun.log, len(begun.two_phase_commit.committed)) == (["commit", "done"], 2)


def test_one_that_was_prepared_and_silent_is_told_to_commit_all_the_same(begun):
    one, two, three = begun.children
    begun.two_phase_commit.prepared(one)
    begun.two_phase_commit.child_gone(one)
    begun.two_phase_commit.prepared(two)
    begun.two_phase_commit.prepared(three)
    assert begun.told(one) == [Commit]


def test_one_that_beats_again_is_waited_for_again_and_told_nothing_twice(begun):
    one, two, three = begun.children
    begun.two_phase_commit.child_gone(one)
    begun.two_phase_commit.join(one)
    assert begun.told(one) == []
    begun.two_phase_commit.prepared(two)
    begun.two_phase_commit.prepared(three)
    assert begun.log == []
    begun.two_phase_commit.prepared(one)
    assert begun.log == ["commit"]


def test_a_worker_that_is_born_meanwhile_joins(begun):
    born = begun.born()
    begun.two_phase_commit.join(born)
    assert begun.told(born) == [Sockets, Prepare]
    for child in begun.children:
        begun.two_phase_commit.prepared(child)
    assert begun.log == []
    begun.two_phase_commit.prepared(born)
    assert begun.log == ["commit"]


def test_where_nobody_serves_it_is_in_force_at_once(change):
    change.two_phase_commit.start_prepare([])
    assert change.log == ["commit", "done"]


def test_where_all_are_silent_nothing_changes_until_one_has_prepared(change):
    one, *others = change.children
    change.two_phase_commit.start_prepare([], silent=True)
    for child in others:
        change.two_phase_commit.child_gone(child)
    assert change.log == []
    change.two_phase_commit.join(one)
    assert change.told(one) == [Sockets, Prepare]
    change.two_phase_commit.prepared(one)
    assert change.log == ["commit"]


def test_where_no_worker_answers_in_time_nothing_changes(change):
    change.two_phase_commit.start_prepare([], silent=True)
    change.two_phase_commit.is_late()
    assert change.log == ["no worker answers"]
    assert change.two_phase_commit.passing


def test_what_kills_all_workers_that_prepare_it_is_not_in_force(begun):
    for child in begun.children:
        begun.two_phase_commit.child_gone(child)
    assert begun.log == []
    born = begun.born()
    begun.two_phase_commit.join(born)
    begun.two_phase_commit.prepared(born)
    assert begun.log == ["commit"]


def test_one_that_is_prepared_and_alone_and_silent_for_a_while_commits_when_it_is_back(begun):
    one, *others = begun.children
    begun.two_phase_commit.prepared(one)
    begun.two_phase_commit.child_gone(one)
    for child in others:
        begun.two_phase_commit.child_gone(child)
    assert begun.log == []
    begun.two_phase_commit.join(one)
    assert begun.log == ["commit"]
