"""The states of a connection as a table: every event is legal where it happens, and what the table says does happen."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from fastgw.downstream.http1 import connection
from fastgw.downstream.http1.states import CLOSED, EVENTS, IDLE, LOST, ClientPhase
from fastgw.exchange.states import Event, IllegalTransition
from tests.unit.downstream.http1 import test_random_plays as plays

PLAYS = 400
WHOLE = 10**6
SWITCH = next(number for number, each in enumerate(plays.REQUESTS) if b"Upgrade: " in each)
SWITCHED = next(number for number, each in enumerate(plays.RESPONSES) if b" 101 " in each)
OTHERS = ("takes", "ends", "resets", "passes", "drains", "cannot")


class Seen(dict[ClientPhase, ClientPhase]):
    """An event that notes where it happened."""

    def __init__(self, event: Event) -> None:
        super().__init__(event.items())
        self.event = event
        self.states: set[ClientPhase] = set()

    def __getitem__(self, state: ClientPhase) -> ClientPhase:
        self.states.add(state)
        return self.event[state]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Seen]]:
    noting = {event.name: Seen(event) for event in EVENTS}
    for name, event in noting.items():
        monkeypatch.setattr(connection, name, event)
    return noting


def test_every_state_is_reached_and_leads_to_the_end() -> None:
    reached = {IDLE}
    for _ in ClientPhase:
        reached |= {event[state] for event in EVENTS for state in reached if state in event}
    assert reached == set(ClientPhase)
    assert {state for state, _ in LOST.items()} == set(ClientPhase) - {CLOSED}
    assert not any(CLOSED in event for event in EVENTS)


def test_what_may_not_happen_is_a_defect() -> None:
    with pytest.raises(IllegalTransition, match="LOST while CLOSED; legal: nothing"):
        LOST[CLOSED]


def step(chance: random.Random) -> tuple[str, int] | tuple[str, int, int]:
    """What a busy connection meets: mostly requests and whole answers, connections made, clients that read slowly."""
    act = chance.choice(
        ("client", "request", "request", "response", "response", "connects", "connects", "turn", *OTHERS)
    )
    if act in ("request", "response"):
        messages = plays.REQUESTS if act == "request" else plays.RESPONSES
        return act, chance.randrange(len(messages)), chance.choice(plays.CUTS)
    if act == "takes":
        return act, chance.randrange(2), chance.choice((0, 1, 100, 10**9))
    if act == "passes":
        return act, chance.choice((0, 2, 31))
    return act, chance.randrange(2)


def test_whatever_happens_is_in_the_table_and_all_of_it_happens(seen: dict[str, Seen]) -> None:
    """Random plays, the same each time, of clients and targets that do anything in any order."""
    chance = random.Random(1)
    for _ in range(PLAYS):
        play = plays.Play()
        for _ in range(40):
            act, *more = step(chance)
            play.step(act, *more)
    play = plays.Play()  # what chance hardly brings about: a client that is gone amid a tunnel
    switching = ("request", SWITCH, WHOLE), ("connects", 0), ("response", SWITCHED, WHOLE)
    for act, *more in (("client", 0), *switching, ("resets", 1)):
        play.step(act, *more)
    missing = {name: set(event) - event.states for name, event in seen.items()}
    assert {name: states for name, states in missing.items() if states} == {}
