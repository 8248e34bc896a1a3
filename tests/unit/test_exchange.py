"""The states of an exchange: the table is complete, and what it does not allow is named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.errors import Fault
from fastgw.exchange import NEXT, Event, IllegalTransition, State, problem

STEPS = [(state, event) for state in State for event in Event]


def test_every_state_has_its_row_and_every_row_its_states() -> None:
    assert set(NEXT) == set(State)
    for row in NEXT.values():
        assert set(row) <= set(Event)
        assert set(row.values()) <= set(State)
    assert {event for row in NEXT.values() for event in row} == set(Event), "an event that nothing answers to"


@pytest.mark.parametrize(("state", "event"), STEPS)
def test_what_is_not_in_the_table_is_illegal(state: State, event: Event) -> None:
    """It is a defect of ours, told by the names of event, state and what would be legal."""
    if event in NEXT[state]:
        return
    with pytest.raises(IllegalTransition) as caught:
        NEXT[state][event]
    text = str(caught.value)
    assert text.startswith(f"{event.name} while {state.name}; legal: ")
    for legal in NEXT[state]:
        assert legal.name in text
    assert text.endswith("legal: nothing") is (not NEXT[state])


def test_every_state_is_reached_and_leads_to_the_end() -> None:
    reached, todo = {State.CHOOSING}, [State.CHOOSING]
    while todo:
        for state in NEXT[todo.pop()].values():
            if state not in reached:
                reached.add(state)
                todo.append(state)
    assert reached == set(State)
    ending = {State.ENDED}
    for _ in State:
        ending |= {state for state in State if ending & set(NEXT[state].values())}
    assert ending == set(State)


def test_nothing_leaves_the_end_and_nothing_is_tried_again_once_an_answer_has_begun() -> None:
    """A request is never replayed after a response byte: in the table there is no way back."""
    assert NEXT[State.ENDED] == {}
    after, todo = set(), [State.ANSWERING]
    while todo:
        for state in NEXT[todo.pop()].values():
            after.add(state)
            todo.append(state)
    assert after == {State.ENDED}
    assert all(Event.ENDED in NEXT[state] for state in State if state is not State.ENDED), "a client can always leave"


@settings(deadline=None)
@given(st.lists(st.sampled_from(Event)))
def test_an_answer_begins_at_most_once(events: list[Event]) -> None:
    state, begun = State.CHOOSING, 0
    for event in events:
        try:
            state = NEXT[state][event]
        except IllegalTransition:
            continue
        begun += event is Event.ANSWER_BEGUN
    assert begun <= 1


def test_a_refusal_that_says_when_to_come_again_says_it_once() -> None:
    """RFC 9110 section 10.2.3: `Retry-After` is one value; where a filter gives it, ours is not added."""
    given = problem(Fault.AUTH_UNAVAILABLE, fields=[(b"retry-after", b"30")])
    assert [value for name, value in given.fields if name.lower() == b"retry-after"] == [b"30"]
    assert (b"Retry-After", b"1") in problem(Fault.AUTH_UNAVAILABLE).fields
