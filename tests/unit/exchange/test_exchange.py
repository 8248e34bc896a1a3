"""The states of an exchange: the table is complete, and what it does not allow is named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.errors import Fault
from fastgw.exchange import EVENTS, Event, ExchangeState, IllegalTransition, problem
from fastgw.exchange.states import ANSWER_BEGUN, ANSWER_ENDED
from tests.support.table import for_each

STEPS = [
    pytest.param(state, event, id=f"{event.name} while {state.name}") for state in ExchangeState for event in EVENTS
]


def following(state: ExchangeState) -> set[ExchangeState]:
    return {event[state] for event in EVENTS if state in event}


@for_each(("state", "event"), STEPS)
def test_an_event_leads_to_a_state_or_is_illegal(state: ExchangeState, event: Event) -> None:
    """It is a defect of ours, told by the names of event, state and what would be legal."""
    if state in event:
        assert event[state] in ExchangeState
        return
    with pytest.raises(IllegalTransition) as caught:
        event[state]
    text = str(caught.value)
    assert text.startswith(f"{event.name} while {state.name}; legal: ")
    legal = [each for each in EVENTS if state in each]
    for each in legal:
        assert each.name in text
    assert text.endswith("legal: nothing") is (not legal)


def test_every_state_is_reached_and_leads_to_the_end() -> None:
    reached, todo = {ExchangeState.CHOOSING}, [ExchangeState.CHOOSING]
    while todo:
        for state in following(todo.pop()):
            if state not in reached:
                reached.add(state)
                todo.append(state)
    assert reached == set(ExchangeState)
    assert all(EVENTS), "an event that never happens"
    ending = {ExchangeState.ENDED}
    for _ in ExchangeState:
        ending |= {state for state in ExchangeState if ending & following(state)}
    assert ending == set(ExchangeState)


def test_nothing_leaves_the_end_and_nothing_is_tried_again_once_an_answer_has_begun() -> None:
    """A request is never replayed after a response byte: no event leads back."""
    assert following(ExchangeState.ENDED) == set()
    after, todo = set(), [ExchangeState.ANSWERING]
    while todo:
        for state in following(todo.pop()):
            after.add(state)
            todo.append(state)
    assert after == {ExchangeState.ENDED}
    assert all(
        ANSWER_ENDED[state] is ExchangeState.ENDED for state in ExchangeState if state is not ExchangeState.ENDED
    ), "a client can always leave"


@settings(deadline=None)
@given(st.lists(st.sampled_from(EVENTS)))
def test_an_answer_begins_at_most_once(events: list[Event]) -> None:
    state, begun = ExchangeState.CHOOSING, 0
    for event in events:
        try:
            state = event[state]
        except IllegalTransition:
            continue
        begun += event is ANSWER_BEGUN
    assert begun <= 1


def test_a_refusal_that_says_when_to_come_again_says_it_once() -> None:
    """RFC 9110 section 10.2.3: `Retry-After` is one value; where a filter gives it, ours is not added."""
    given = problem(Fault.AUTH_UNAVAILABLE, fields=[(b"retry-after", b"30")])
    assert [value for name, value in given.fields if name.lower() == b"retry-after"] == [b"30"]
    assert (b"Retry-After", b"1") in problem(Fault.AUTH_UNAVAILABLE).fields
