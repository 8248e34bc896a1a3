"""What processes say of themselves in shared memory, and what others conclude from it."""

from collections.abc import Iterator

import pytest

from fastgw.runtime.node.node_state import NodeState
from tests.support.node import close_node, node_state_of


@pytest.fixture
def node_state() -> Iterator[NodeState]:
    node_state = node_state_of()
    yield node_state
    close_node(node_state)


def test_ready_is_the_supervisors_word_and_that_of_a_worker_which_goes_round(node_state):
    words, shared = node_state.words, node_state.shared
    one = shared.columns[0]
    words.serve(one, 1)
    assert (words.is_serving(shared), words.is_ready(shared)) == (False, False)
    words.set_ready(shared, True)
    assert words.is_ready(shared)
    words.set_silent(shared, 0, True)
    assert not words.is_ready(shared)
    words.set_silent(shared, 0, False)
    assert words.is_ready(shared)
    words.set_leaving(one)
    assert not words.is_ready(shared)


def test_who_comes_up_late_is_not_current(node_state):
    """A later generation may have become active since the fork; none is before the start."""
    words, shared = node_state.words, node_state.shared
    assert words.is_current(shared, 1)
    words.commit(shared, 3)
    assert [words.is_current(shared, generation) for generation in (1, 2, 3)] == [False, False, True]


def test_nobody_is_ready_before_it_is_known_what_watches_say(node_state):
    words, shared = node_state.words, node_state.shared
    words.serve(shared.columns[0], 1)
    words.set_ready(shared, True)
    words.set_awaits(shared, True)
    assert (words.is_serving(shared), words.is_ready(shared)) == (True, False)
    words.set_awaits(shared, False)
    assert words.is_ready(shared)


def test_the_states_of_a_worker(node_state):
    words, shared = node_state.words, node_state.shared
    one = shared.columns[0]
    seen = [words.state_of(shared, 0)]
    words.serve(one, 1)
    seen.append(words.state_of(shared, 0))
    words.set_silent(shared, 0, True)
    seen.append(words.state_of(shared, 0))
    words.set_silent(shared, 0, False)
    words.set_leaving(one)
    seen.append(words.state_of(shared, 0))
    assert seen == ["starting", "ready", "silent", "draining"]
    words.worker_reaped(shared, 0)
    assert words.state_of(shared, 0) == "starting"
    assert one.words[words.pid] == 0


def test_who_is_dead_is_silent_no_more(node_state):
    words, shared = node_state.words, node_state.shared
    words.set_silent(shared, 1, True)
    words.worker_reaped(shared, 1)
    words.serve(shared.columns[1], 1)
    assert words.accepting(shared) == 1


def test_the_oldest_generation_counts_who_is_leaving_and_who_is_about_to_be_born(node_state):
    words, shared = node_state.words, node_state.shared
    words.commit(shared, 4)
    assert words.oldest_generation(shared) == 4
    words.serve(shared.columns[0], 4)
    words.expect(shared, 1, 3)
    assert words.oldest_generation(shared) == 3
    words.worker_reaped(shared, 1)
    assert words.oldest_generation(shared) == 4
    words.serve(shared.columns[1], 2)
    words.set_leaving(shared.columns[1])
    assert words.oldest_generation(shared) == 2


def test_lag_is_the_worst_of_this_window_and_the_one_before(node_state):
    words, own = node_state.words, node_state.shared.columns[0]
    seen = []
    for second, late_s in [(1, 0.2), (2, 0.001), (6, 0.01), (11, 0.001), (16, -0.5), (40, 0.0)]:
        words.beaten(own, second * 10**9, late_s)
        seen.append(words.lag_s(own))
    assert seen == [0.2, 0.2, 0.2, 0.01, 0.001, 0.0]
    assert words.beat_of(node_state.shared, 0) == 40 * 10**9


def test_reloads_are_counted_and_a_failed_one_leaves_the_date_of_the_last(node_state):
    words, shared = node_state.words, node_state.shared
    own = shared.supervisor.words
    words.reloaded(shared, True, 1000.9)
    words.reloaded(shared, False, 2000.0)
    counted = own[words.reloads_ok], own[words.reloads_failed]
    assert (counted, own[words.last_reload_failed], own[words.last_reload_date]) == ((1, 1), 1, 1000)
    words.reloaded(shared, True, 3000.0)
    assert (own[words.last_reload_failed], own[words.last_reload_date]) == (0, 3000)
