"""The states of an exchange and the events that change them. A state changes by an `Event` only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence
from enum import IntEnum
from typing import Any, Final

import cython


class ExchangeState(IntEnum):
    CHOOSING = 1  # parsed; the request steps run, a route is found, then a target is selected
    FORWARDING = 2  # on an upstream connection; no final response head yet
    HOLDING = 3  # the response head is held until its body is complete: another response is still possible
    ANSWERING = 4  # the response has begun: no other answer is possible
    ENDED = 5


# PERF: module-level names; through the class each access costs 68 ns (CPython 3.11).
CHOOSING, FORWARDING, HOLDING, ANSWERING, ENDED = ExchangeState


class IllegalTransition(Exception):
    """A defect of fastgw, never of a peer. Answered with `Fault.INTERNAL`; the text is logged."""


class Event:
    """An event of a state machine: the states in which it may happen, each with the one that follows.

    `events`: all events of its state machine, to which this one is added. Raises `IllegalTransition` for any other
    state. PERF: 65 instructions for a transition; 145 with a look-up by the state (CPython 3.11, callgrind).
    """

    def __init__(self, name: str, following: Mapping[Any, Any], events: MutableSequence[Event]) -> None:
        self.name = name
        self._following = dict(following)
        self._after = tuple([following.get(number) for number in range(max(following) + 1)])
        self._events = events
        events.append(self)

    def __getitem__(self, state: Any) -> Any:
        number: cython.int = state
        following = self._after[number] if number < len(self._after) else None
        if following is None:
            legal = ", ".join([event.name for event in self._events if state in event]) or "nothing"
            raise IllegalTransition(f"{self.name} while {state.name}; legal: {legal}")
        return following

    def __contains__(self, state: object) -> bool:
        return state in self._following

    def __len__(self) -> int:
        return len(self._following)

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Yield the states in which it may happen, each with the one that follows."""
        return self._following.items()


EVENTS: Final[list[Event]] = []
CONNECTION_LENT: Final = Event("CONNECTION_LENT", {CHOOSING: FORWARDING}, EVENTS)
ATTEMPT_FAILED: Final = Event(
    "ATTEMPT_FAILED",
    {
        CHOOSING: CHOOSING,  # no connection was available: select another target
        FORWARDING: CHOOSING,
    },  # not while ANSWERING: no retry after the response has begun
    EVENTS,
)
ANSWER_HELD: Final = Event("ANSWER_HELD", {CHOOSING: HOLDING, FORWARDING: HOLDING}, EVENTS)
ANSWER_BEGUN: Final = Event("ANSWER_BEGUN", {CHOOSING: ANSWERING, FORWARDING: ANSWERING, HOLDING: ANSWERING}, EVENTS)
ANSWER_ENDED: Final = Event(
    "ANSWER_ENDED",
    {
        CHOOSING: ENDED,  # the client has disconnected
        FORWARDING: ENDED,
        HOLDING: ENDED,
        ANSWERING: ENDED,
    },
    EVENTS,
)
